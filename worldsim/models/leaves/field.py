"""Fields: grids of any numbers, such as depths, heights and masks, encoded as images are.

Axes: N rows, S slots, F width of a slot that is decoded, H W C height, width and channels of the grid.
"""

from collections.abc import Iterable

import torch
from torch import Generator, Tensor

from worldsim.models.config import ModelConfig
from worldsim.models.layers import symexp, symlog
from worldsim.models.leaves.base import torch_type
from worldsim.models.leaves.image import ImageCodec
from worldsim.spaces import Leaf


class FieldCodec(ImageCodec):
    """A grid of any numbers as an image: in symlog, on a scale from the least to the greatest of the data."""

    def __init__(self, leaf: Leaf, config: ModelConfig, features: int):
        super().__init__(leaf, config, features)
        self.dtype = torch_type(leaf)
        self.low: Tensor
        self.high: Tensor
        self.register_buffer("low", torch.tensor(0.0))
        self.register_buffer("high", torch.tensor(1.0))

    def measure(self, parts: Iterable[Tensor]) -> None:
        """Sets the scale and the mean image; what is not finite counts for nothing in the scale."""
        finite = [part[part.isfinite()] for part in parts]
        ends = [torch.stack(part.aminmax()).float() for part in finite if part.numel()]
        if ends:
            low, high = torch.stack(ends).unbind(1)
            self.low.copy_(symlog(low.min()))
            self.high.copy_(symlog(high.max()))
        super().measure(parts)

    def pixels(self, frames: Tensor) -> Tensor:
        """(N, H, W, C) in the data's units to fp32 in [0, 255]; what the data never had is cut off."""
        place = (symlog(frames.float()) - self.low) / (self.high - self.low).clamp_min(1e-6)
        return 255 * place.clamp(0, 1)

    def encode(self, value: Tensor) -> Tensor:
        return super().encode(self.pixels(value))

    def decode(self, slots: Tensor) -> Tensor:
        """(N, S, F) to frames (N, H, W, C) in the data's units."""
        place = (self.mean + self.frames(self.residual(slots).float())).clamp(0, 1)
        return symexp(self.low + place * (self.high - self.low)).to(self.dtype)

    def loss(self, slots: Tensor, value: Tensor, generator: Generator | None = None) -> Tensor:
        return super().loss(slots, self.pixels(value))
