"""Actions as one vector. Axes: ... any leading axes, A width of the vector, V variables."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from worldsim.models.layers import onehot
from worldsim.models.leaves.categorical import Digits
from worldsim.models.leaves.scale import Scale
from worldsim.models.leaves.text import TextEncoder, is_short
from worldsim.models.world_model import Samples
from worldsim.spaces import Leaf


class OneHots(nn.Module):
    """Class indices (..., V) as one-hots, side by side; of a large number of classes, those of its digits."""

    def __init__(self, leaf: Leaf):
        super().__init__()
        self.digits = Digits(leaf.nvec)
        self.counts: list[int] = self.digits.nvec.tolist()
        self.width = sum(self.counts)

    def measure(self, parts: Iterable[Tensor]) -> None:
        """Nothing: classes have no scale."""

    def forward(self, value: Tensor) -> Tensor:
        """(..., V) to (..., A) fp32."""
        digits = self.digits.split(value)
        return torch.cat([onehot(digits[..., i], count).float() for i, count in enumerate(self.counts)], -1)


class Numbers(nn.Module):
    """Numbers of any shape in deviations of the data."""

    def __init__(self, leaf: Leaf):
        super().__init__()
        self.axes = len(leaf.shape)
        self.width = int(torch.Size(leaf.shape).numel())
        self.scale = Scale(leaf, self.width)

    def measure(self, parts: Iterable[Tensor]) -> None:
        self.scale.measure(parts)

    def forward(self, value: Tensor) -> Tensor:
        """(..., *leaf.shape) to (..., A) fp32."""
        scaled: Tensor = self.scale(value.flatten(-self.axes))
        return scaled


class Words(nn.Module):
    """Long texts, encoded as those of observations are."""

    def __init__(self, leaf: Leaf, width: int):
        super().__init__()
        self.encoder = TextEncoder(leaf, width)
        self.width = self.encoder.slots * width

    def measure(self, parts: Iterable[Tensor]) -> None:
        self.encoder.measure(parts)

    def forward(self, value: Tensor) -> Tensor:
        """(..., L) to (..., A) fp32."""
        encoded: Tensor = self.encoder(value.flatten(0, -2)).float()
        return encoded.view(*value.shape[:-1], self.width)


class ActionEncoder(nn.Module):
    """Flat actions as one vector, leaf after leaf. width: of an encoded segment of a long text."""

    def __init__(self, leaves: tuple[Leaf, ...], width: int):
        super().__init__()
        self.leaves = leaves
        encoders = [_encoder(leaf, width) for leaf in leaves]
        self.width = sum(encoder.width for encoder in encoders)
        self.encoders = nn.ModuleList(encoders)

    def leaf_encoders(self) -> list[tuple[Leaf, OneHots | Numbers | Words]]:
        return list(zip(self.leaves, self.encoders, strict=True))  # type: ignore[arg-type]

    def measure(self, samples: Samples) -> None:
        """Takes the scales of numbers and the frequencies of characters."""
        for leaf, encoder in self.leaf_encoders():
            encoder.measure(samples[leaf.name])

    def forward(self, actions: Mapping[str, Tensor]) -> Tensor:
        """(..., *leaf.shape) a leaf to (..., A) fp32."""
        return torch.cat([encoder(actions[leaf.name]) for leaf, encoder in self.leaf_encoders()], -1)


def _encoder(leaf: Leaf, width: int) -> OneHots | Numbers | Words:
    if leaf.kind == "text" and not is_short(leaf):
        return Words(leaf, width)
    return OneHots(leaf) if leaf.is_discrete else Numbers(leaf)
