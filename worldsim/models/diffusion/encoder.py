"""Everything that one or more timesteps hold, as one vector."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.models.diffusion.canvas import Canvas, Drawing

CHANNELS = 32


class GridEncoder(nn.Module):
    """A grid (N, C, H, W) as a vector (N, E): patches, and convolutions that halve their number along each side."""

    def __init__(self, channels: int, height: int, width: int, patch: int, features: int):
        super().__init__()
        widths = [CHANNELS, 2 * CHANNELS, 2 * CHANNELS]
        self.layers = nn.ModuleList([nn.Conv2d(channels, CHANNELS, patch, patch)])
        self.layers.extend(nn.Conv2d(one, two, 3, 2, 1) for one, two in zip(widths[:-1], widths[1:], strict=True))
        places = [-(-(side // patch) // 4) for side in (height, width)]
        self.out = nn.Linear(widths[-1] * places[0] * places[1], features)

    def forward(self, grid: Tensor) -> Tensor:
        x = grid
        for layer in self.layers:
            x = F.silu(layer(x))
        encoded: Tensor = self.out(x.flatten(1))
        return encoded


class FrameEncoder(nn.Module):
    """A drawing of `timesteps` timesteps, side by side as channels, to (N, E)."""

    def __init__(self, canvas: Canvas, timesteps: int, features: int, patch: int):
        super().__init__()
        self.grids = nn.ModuleList(
            [
                GridEncoder(timesteps * channels, height, width, patch, features)
                for channels, height, width in canvas.sizes
            ]
        )
        self.vector = nn.Linear(timesteps * canvas.numbers, features) if canvas.numbers else None

    def forward(self, drawing: Drawing) -> Tensor:
        parts = [encode(grid) for encode, grid in zip(self.grids, drawing.grids, strict=True)]
        if self.vector is not None:
            parts.append(self.vector(drawing.vector))
        return torch.stack(parts).sum(0)
