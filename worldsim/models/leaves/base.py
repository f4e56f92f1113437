"""The interface of leaf codecs: `measure` the data, `encode` a leaf to dense slots, `decode` slots, and their `loss`.

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

    For each kind of leaf there is a subclass in a file of its own, and an entry in `observation.CODECS`. Its arguments
    are the leaf, the model's configuration, and F, the width of the slots that the dynamics pass to the decoder.
    """

    slots: int  # S

    @staticmethod
    @abstractmethod
    def slots_of(leaf: Leaf, config: LatentConfig) -> int:
        """S, known before the codec is made, because the dynamics need it."""

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
        """Reconstruction loss (N,) of decoding slots (N, S, F) against the leaf (N, *leaf.shape).

        generator: draws a part of the leaf, from which a codec may estimate a costly loss; None: the exact loss.
        """


def torch_type(leaf: Leaf) -> torch.dtype:
    """The torch type of the leaf's flat array."""
    return torch.from_numpy(np.zeros(0, leaf.dtype)).dtype
