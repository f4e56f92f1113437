"""Vectors: one dense slot for all numbers of a leaf. Axes: N rows, n numbers, D and F widths of a slot."""

from collections.abc import Iterable

from torch import Generator, Tensor

from worldsim.models.config import LatentConfig
from worldsim.models.layers import mlp
from worldsim.models.leaves.base import LeafCodec
from worldsim.models.leaves.scale import Scale
from worldsim.spaces import Leaf


class VectorCodec(LeafCodec):
    """A vector leaf in one slot, in deviations of the data (see `Scale`)."""

    def __init__(self, leaf: Leaf, config: LatentConfig, features: int):
        super().__init__()
        size, embed = leaf.shape[0], config.embed
        self.slots, self.scale = self.slots_of(leaf, config), Scale(leaf, size)
        self.in_proj = mlp([size, embed, embed])
        self.out_proj = mlp([features, 2 * embed, size])

    @staticmethod
    def slots_of(leaf: Leaf, config: LatentConfig) -> int:
        return 1

    def measure(self, parts: Iterable[Tensor]) -> None:
        """Sets mean and deviation of every number."""
        self.scale.measure(parts)

    def encode(self, value: Tensor) -> Tensor:
        """(N, n) to (N, 1, D)."""
        embeds: Tensor = self.in_proj(self.scale(value))
        return embeds.unsqueeze(-2)

    def decode(self, slots: Tensor) -> Tensor:
        """(N, 1, F) to (N, n)."""
        predicted: Tensor = self.out_proj(slots.squeeze(-2))
        return self.scale.inverse(predicted.float())

    def loss(self, slots: Tensor, value: Tensor, generator: Generator | None = None) -> Tensor:
        """Ten times the squared error of the scaled vector, the weight of pixels that differ from the mean: (N,)."""
        error: Tensor = self.out_proj(slots.squeeze(-2)).float() - self.scale(value)
        return 10 * error.square().sum(-1)
