"""Standardises numbers by mean and deviation of the data. Axes: N rows, n numbers."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from worldsim.models.layers import symexp, symlog
from worldsim.models.leaves.base import torch_type
from worldsim.spaces import Leaf


class Scale(nn.Module):
    """Standardised numbers, then symlog (DreamerV3, eq. 9), which limits outliers.

    The mean is subtracted in the leaf's own type, so that float64 leaves such as Unix time keep their precision. Where
    the data does not vary, the deviation is 1. size: how many numbers have a scale of their own; None: one for all.
    """

    def __init__(self, leaf: Leaf, size: int | None):
        super().__init__()
        self.dtype, shape = torch_type(leaf), () if size is None else (size,)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(shape, dtype=self.dtype))
        self.register_buffer("std", torch.ones(shape, dtype=self.dtype))

    def measure(self, parts: Iterable[Tensor]) -> None:
        """Sets mean and deviation from rows (N, n), part by part, in float64; non-finite numbers are ignored."""
        shape = (-1, *self.mean.shape)
        rows = torch.cat([part.reshape(shape).double() for part in parts])
        finite = rows.isfinite()
        count = finite.sum(0).clamp_min(1)
        mean = rows.where(finite, 0.0).sum(0) / count
        apart = (rows - mean).where(finite, 0.0)
        varied = rows.where(finite, -torch.inf).amax(0) > rows.where(finite, torch.inf).amin(0)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(varied, (apart.square().sum(0) / count).sqrt(), 1.0))

    def forward(self, value: Tensor) -> Tensor:
        """(N, n) in the data's units to fp32."""
        return symlog((value.to(self.mean.dtype) - self.mean) / self.std).float()

    def inverse(self, scaled: Tensor) -> Tensor:
        """fp32 to the data's units, in the leaf's type."""
        return (symexp(scaled.to(self.mean.dtype)) * self.std + self.mean).to(self.dtype)
