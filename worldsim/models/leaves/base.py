"""What every leaf codec does: `measure` its data, `encode` a leaf to dense slots, `decode` slots, and their `loss`.

Axes: N any number of rows, S slots of the leaf, D width of an encoded slot, F width of a slot that is decoded.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable

import numpy as np
import torch
from torch import Generator, Tensor, nn

from worldsim.models.config import LatentConfig
from worldsim.spaces import Leaf


class LeafCodec(nn.Module, ABC):
    """Encoder and decoder of one leaf in dense slots, whose content the dynamics predict.

    A kind of leaf is a subclass in a file of its own, and a line in `observation.CODECS`. It is made of its leaf, the
    model's configuration, and F, the width of the slots that the dynamics hand to the decoder.
    """

    slots: int  # S

    @staticmethod
    @abstractmethod
    def slots_of(leaf: Leaf, config: LatentConfig) -> int:
        """S, which the dynamics are made for before the codec is."""

    @abstractmethod
    def measure(self, parts: Iterable[Tensor]) -> None:
        """Sets the codec's statistics from rows of the data, (n, *leaf.shape) a part; iterated over more than once."""

    @abstractmethod
    def encode(self, value: Tensor) -> Tensor:
        """(N, *leaf.shape) to (N, S, D)."""

    @abstractmethod
    def decode(self, slots: Tensor) -> Tensor:
        """(N, S, F) to (N, *leaf.shape) of the leaf's type, in the data's units."""

    @abstractmethod
    def loss(self, slots: Tensor, value: Tensor, generator: Generator | None = None) -> Tensor:
        """(N,): how far what `decode` would make of (N, S, F) is from (N, *leaf.shape).

        generator: a codec may estimate a costly loss from a part of the leaf, which this draws; None: of all of it.
        """


def torch_type(leaf: Leaf) -> torch.dtype:
    """Of the leaf's flat array."""
    return torch.from_numpy(np.zeros(0, leaf.dtype)).dtype
