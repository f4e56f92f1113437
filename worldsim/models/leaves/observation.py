"""Observations to slots and back: one slot for every categorical variable, and the dense slots of all other leaves.

Axes: N rows, V categorical variables, S dense slots.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from worldsim.models.config import LatentConfig
from worldsim.models.leaves.base import LeafCodec
from worldsim.models.leaves.categorical import CategoricalCodec, slot_digits
from worldsim.models.leaves.field import FieldCodec
from worldsim.models.leaves.image import ImageCodec
from worldsim.models.leaves.text import TextCodec, is_short
from worldsim.models.leaves.vector import VectorCodec
from worldsim.spaces import Kind, Leaf

Observation = Mapping[str, Tensor]  # flat leaves (N, ...)

CODECS: dict[Kind, type[LeafCodec]] = {
    "image": ImageCodec,
    "field": FieldCodec,
    "vector": VectorCodec,
    "text": TextCodec,
}


class Slots(NamedTuple):
    """An observation in slots."""

    categorical: Tensor  # (N, V, width)
    dense: Tensor  # (N, S, width)


class SlotLayout(NamedTuple):
    """The slots that the leaves of an observation take, for which the dynamics are built."""

    nvec: Tensor  # (V,) int64 class counts of the categorical variables
    dense: int  # S


def slot_layout(leaves: tuple[Leaf, ...], config: LatentConfig) -> SlotLayout:
    """The layout of the leaves of an observation space."""
    categorical, dense = _split_by_slots(leaves)
    counts = [CODECS[leaf.kind].slots_of(leaf, config) for leaf in dense]
    return SlotLayout(slot_digits(categorical).nvec, sum(counts))


def _split_by_slots(leaves: tuple[Leaf, ...]) -> tuple[tuple[Leaf, ...], tuple[Leaf, ...]]:
    """(leaves whose variables are categorical slots, leaves with dense slots)."""
    categorical = tuple(
        leaf for leaf in leaves if leaf.kind == "categorical" or (leaf.kind == "text" and is_short(leaf))
    )
    return categorical, tuple(leaf for leaf in leaves if leaf not in categorical)


class ObservationCodec(nn.Module):
    """Encoder and decoder of a whole observation, leaf by leaf.

    categorical_features, dense_features: widths of the slots that `decode` and `loss` take; categorical_features=None
    for one-hots of the classes.
    """

    def __init__(
        self, leaves: tuple[Leaf, ...], config: LatentConfig, categorical_features: int | None, dense_features: int
    ):
        super().__init__()
        categorical, self.dense_leaves = _split_by_slots(leaves)
        self.categorical = CategoricalCodec(categorical, config.embed, categorical_features)
        codecs = [CODECS[leaf.kind](leaf, config, dense_features) for leaf in self.dense_leaves]
        self.dense = nn.ModuleList(codecs)
        self.embed, self.sizes = config.embed, [codec.slots for codec in codecs]

    def dense_codecs(self) -> list[tuple[Leaf, LeafCodec]]:
        return list(zip(self.dense_leaves, self.dense, strict=True))  # type: ignore[arg-type]

    def encode(self, observation: Observation) -> Slots:
        """Flat leaves (N, ...) to embedded slots."""
        indices = self.categorical.indices(observation)
        dense = [codec.encode(observation[leaf.name]) for leaf, codec in self.dense_codecs()]
        nothing = self.categorical.out_proj.weight.new_zeros(len(indices), 0, self.embed)
        return Slots(self.categorical.encode(indices), torch.cat(dense, -2) if dense else nothing)

    def decode(self, slots: Slots) -> dict[str, Tensor]:
        """Feature slots to flat leaves (N, ...)."""
        out = self.categorical.decode(slots.categorical) if self.categorical.leaves else {}
        parts = slots.dense.split(self.sizes, -2)
        each = zip(self.dense_codecs(), parts, strict=True)
        return out | {leaf.name: codec.decode(part) for (leaf, codec), part in each}

    def loss(self, slots: Slots, observation: Observation, generator: Generator | None = None) -> dict[str, Tensor]:
        """Reconstruction losses (N,) a leaf; categorical leaves together, as "categorical". See `LeafCodec.loss`."""
        out = {}
        if self.categorical.leaves:
            out["categorical"] = self.categorical.loss(slots.categorical, self.categorical.indices(observation))
        parts = slots.dense.split(self.sizes, -2)
        for (leaf, codec), part in zip(self.dense_codecs(), parts, strict=True):
            loss = codec.loss(part, observation[leaf.name], generator)
            out[leaf.name] = out[leaf.name] + loss if leaf.name in out else loss  # a leaf may be called "categorical"
        return out
