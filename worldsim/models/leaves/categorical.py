"""Categorical variables: one slot each, whose classes the dynamics predict directly, without a latent code.

One codec holds the variables of all categorical leaves.

Axes: N rows, V variables, D width of an encoded slot, F width of a slot that is decoded.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.models.layers import SlotLinear, onehot
from worldsim.spaces import Leaf

LARGEST = 256  # most classes of a variable; for more classes, each digit of the index is a variable
PADDING = 4  # times the sum of all classes: the most that all variables take, each as wide as the widest
SMALL = 2**15  # classes of all variables together that are never too many, however much of them is padding


class Digits(nn.Module):
    """Splits variables with many classes into digits with few, so that memory does not grow with the classes.

    A class index is written in the smallest base that needs no more digits than base `largest`: 50,000 classes are two
    digits in base 224. This is lossless, also for classes that are not in the data. nvec: (V,) class counts.
    """

    def __init__(self, nvec: np.ndarray, largest: int = LARGEST):
        super().__init__()
        digits = [_digits(int(count), largest) for count in nvec]
        variable = [v for v, each in enumerate(digits) for _ in each]
        counts = [count for each in digits for count, _ in each]
        self.nvec: Tensor  # class counts of the digits
        self.place: Tensor  # place value of each digit
        self.variable: Tensor  # index of the variable that each digit belongs to
        self.last: Tensor  # last class of each variable
        self.register_buffer("nvec", _integers(counts), persistent=False)
        self.register_buffer("place", _integers([place for each in digits for _, place in each]), persistent=False)
        self.register_buffer("variable", _integers(variable), persistent=False)
        self.register_buffer("last", torch.from_numpy(nvec) - 1, persistent=False)
        self.trivial = len(variable) == len(nvec)
        self.classes = sum(counts)
        self.padded = len(counts) * max(counts, default=0)  # classes, where all variables are as wide as the widest

    def split(self, indices: Tensor) -> Tensor:
        """Class indices (..., V) to digits."""
        return indices if self.trivial else indices[..., self.variable] // self.place % self.nvec

    def join(self, digits: Tensor) -> Tensor:
        """The inverse of `split`; digits beyond the last class become the last class."""
        if self.trivial:
            return digits
        whole = digits.new_zeros(*digits.shape[:-1], len(self.last)).index_add_(-1, self.variable, digits * self.place)
        return whole.minimum(self.last)


def _digits(classes: int, largest: int) -> list[tuple[int, int]]:
    """(number of values, place value) of each digit of a class index, the most significant first."""
    length = 1
    while largest**length < classes:
        length += 1
    base = next(base for base in range(1, largest + 1) if base**length >= classes)
    places = [base**power for power in reversed(range(length))]
    return [(-(-classes // places[0]), places[0]), *((base, place) for place in places[1:])]


def _integers(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.long)


def digits_of(leaves: tuple[Leaf, ...]) -> Digits:
    """The variables of discrete leaves, one after another."""
    return Digits(_nvec(leaves))


def slot_digits(leaves: tuple[Leaf, ...]) -> Digits:
    """The same for variables in slots, which are all as wide as the widest.

    Among thousands of variables with few classes, one with many would make each of them that wide. There its digits are
    smaller, so that memory follows the sum of the classes and not variables times the widest.
    """
    nvec, largest = _nvec(leaves), LARGEST
    while (digits := Digits(nvec, largest)).padded > max(SMALL, PADDING * digits.classes) and largest > 2:
        largest //= 2
    return digits


def _nvec(leaves: tuple[Leaf, ...]) -> np.ndarray:
    return np.concatenate([leaf.nvec for leaf in leaves] or [np.zeros(0, np.int64)])


class CategoricalCodec(nn.Module):
    """Every categorical variable of an observation in a slot of its own, every digit of one with very many classes.

    features: F; None where the slot of a variable is the one-hot of its class.
    """

    def __init__(self, leaves: tuple[Leaf, ...], embed: int, features: int | None):
        super().__init__()
        self.leaves = leaves
        self.digits = slot_digits(leaves)
        self.slots = len(self.digits.nvec)
        self.classes = int(self.digits.nvec.max()) if self.slots else 1
        self.features = features or self.classes
        one_hots = features is None  # which the dynamics take directly, without an encoder
        self.in_proj = None if one_hots else SlotLinear(self.slots, self.classes, embed, scale=self.classes**0.5)
        self.out_proj = SlotLinear(self.slots, self.features, self.classes)
        if self.features == self.classes:  # the slot is the one-hot itself: initialise with the identity
            self.out_proj.weight.data.copy_(10 * torch.eye(self.features))

    def indices(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Class indices (N, V)."""
        if not self.leaves:
            first = next(iter(observation.values()))
            return torch.zeros(first.shape[0], 0, dtype=torch.long, device=first.device)
        return self.digits.split(torch.cat([observation[leaf.name] for leaf in self.leaves], -1))

    def encode(self, indices: Tensor) -> Tensor:
        """(N, V) class indices to (N, V, D); to one-hots (N, V, classes) where these are what a slot holds."""
        kinds = onehot(indices, self.classes)
        if self.in_proj is None:
            return kinds
        embeds: Tensor = self.in_proj(kinds.to(self.in_proj.weight.dtype))
        return embeds

    def possible(self, logits: Tensor) -> Tensor:
        """Log-probabilities (N, V, classes), in which classes beyond a variable's own are masked out."""
        impossible = torch.arange(self.classes, device=logits.device) >= self.digits.nvec.unsqueeze(-1)
        return F.log_softmax(logits.float().masked_fill(impossible, -1e9), -1)

    def decode(self, slots: Tensor) -> dict[str, Tensor]:
        """(N, V, F) to flat leaves: the most probable class of every variable."""
        chosen = self.possible(self.out_proj(slots)).argmax(-1)
        parts = self.digits.join(chosen).split([leaf.shape[0] for leaf in self.leaves], -1)
        return {leaf.name: part for leaf, part in zip(self.leaves, parts, strict=True)}

    def loss(self, slots: Tensor, indices: Tensor) -> Tensor:
        """Negative log-likelihood (N,) in nats."""
        return -self.possible(self.out_proj(slots)).gather(-1, indices.unsqueeze(-1)).sum((-1, -2))
