"""Vectors: one dense slot for all numbers of a leaf. Axes: N rows, n numbers, D and F widths of a slot."""

from collections.abc import Iterable

import torch
from torch import Generator, Tensor

from worldsim.models.config import ModelConfig
from worldsim.models.layers import mlp, symexp, symlog
from worldsim.models.leaves.base import LeafCodec, torch_type
from worldsim.spaces import Leaf


class VectorCodec(LeafCodec):
    """A vector leaf in one slot, in symlog and standardised by the data's mean and deviation."""

    def __init__(self, leaf: Leaf, config: ModelConfig, features: int):
        super().__init__()
        size, embed = leaf.shape[0], config.embed
        self.slots, self.dtype = self.slots_of(leaf, config), torch_type(leaf)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))
        self.in_proj = mlp([size, embed, embed])
        self.out_proj = mlp([features, 2 * embed, size])

    @staticmethod
    def slots_of(leaf: Leaf, config: ModelConfig) -> int:
        return 1

    def measure(self, parts: Iterable[Tensor]) -> None:
        """Sets mean and deviation of every number."""
        values = symlog(torch.cat(list(parts)).float())
        self.mean.copy_(values.mean(0))
        self.std.copy_(values.std(0).clamp_min(1e-3) if len(values) > 1 else torch.ones_like(self.std))

    def scaled(self, value: Tensor) -> Tensor:
        return (symlog(value.to(self.std.dtype)) - self.mean) / self.std

    def encode(self, value: Tensor) -> Tensor:
        """(N, n) to (N, 1, D)."""
        embeds: Tensor = self.in_proj(self.scaled(value))
        return embeds.unsqueeze(-2)

    def decode(self, slots: Tensor) -> Tensor:
        """(N, 1, F) to (N, n)."""
        return symexp(self.out_proj(slots.squeeze(-2)).float() * self.std + self.mean).to(self.dtype)

    def loss(self, slots: Tensor, value: Tensor, generator: Generator | None = None) -> Tensor:
        """Ten times the squared error of the standardised vector, as pixels that matter: (N,)."""
        predicted: Tensor = self.out_proj(slots.squeeze(-2))
        return 10 * (predicted.float() - self.scaled(value)).square().sum(-1)
