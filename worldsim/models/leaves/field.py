"""Fields: grids of any numbers, such as depths, heights and masks, encoded like images.

Axes: N rows, S slots, F width of a slot that is decoded, H W C height, width and channels of the grid.
"""

from collections.abc import Iterable

import torch
from torch import Generator, Tensor

from worldsim.models.config import LatentConfig
from worldsim.models.leaves.image import ImageCodec
from worldsim.models.leaves.scale import Scale
from worldsim.spaces import Leaf


class FieldCodec(ImageCodec):
    """A grid of any numbers as an image, on a scale from the least to the greatest of the data (see `Scale`)."""

    def __init__(self, leaf: Leaf, config: LatentConfig, features: int):
        super().__init__(leaf, config, features)
        self.scale = Scale(leaf, None)
        self.low: Tensor
        self.high: Tensor
        self.register_buffer("low", torch.tensor(0.0))
        self.register_buffer("high", torch.tensor(1.0))

    def measure(self, parts: Iterable[Tensor]) -> None:
        """Sets the scale and the mean image; numbers that are not finite are ignored for the scale."""
        self.scale.measure(parts)
        scaled = [self.scale(part[part.isfinite()]) for part in parts]
        ends = [torch.stack(part.aminmax()) for part in scaled if part.numel()]
        if ends:
            low, high = torch.stack(ends).unbind(1)
            self.low.copy_(low.min())
            self.high.copy_(high.max())
        super().measure(parts)

    def pixels(self, frames: Tensor) -> Tensor:
        """(N, H, W, C) in the data's units to fp32 in [0, 255]; clipped to the range of the data."""
        place: Tensor = (self.scale(frames) - self.low) / (self.high - self.low).clamp_min(1e-6)
        return 255 * place.clamp(0, 1)

    def encode(self, value: Tensor) -> Tensor:
        return super().encode(self.pixels(value))

    def decode(self, slots: Tensor) -> Tensor:
        """(N, S, F) to frames (N, H, W, C) in the data's units."""
        place = (self.mean + self.frames(self.residual(slots).float())).clamp(0, 1)
        return self.scale.inverse(self.low + place * (self.high - self.low))

    def loss(self, slots: Tensor, value: Tensor, generator: Generator | None = None) -> Tensor:
        return super().loss(slots, self.pixels(value))
