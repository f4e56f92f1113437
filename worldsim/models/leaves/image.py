"""Images: a frame as a grid of patches, one dense slot each.

Axes: N rows, S slots, D width of an encoded slot, F width of a slot that is decoded, H W C frame height, width and
channels, p patch size.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Generator, Tensor, nn

from worldsim.models.config import LatentConfig
from worldsim.models.layers import SlotsFirst, compute_type
from worldsim.models.leaves.base import LeafCodec
from worldsim.spaces import Leaf


class ImageCodec(LeafCodec):
    """A frame as a grid of patches, each encoded and decoded relative to the data's mean image. Pure matrix products.

    config.local: every position of the grid has weights of its own (a locally connected layer, LeCun 1989), for static
    cameras; otherwise all positions share weights. The number of operations is the same.
    """

    def __init__(self, leaf: Leaf, config: LatentConfig, features: int):
        super().__init__()
        self.height, self.width, self.channels = leaf.shape
        self.patch, self.slots, hidden = config.patch, self.slots_of(leaf, config), config.hidden
        self.rows, self.columns = _grid(leaf, config.patch)
        pixels = self.patch**2 * self.channels
        self.mean: Tensor
        self.register_buffer("mean", torch.full((self.height, self.width, self.channels), 0.5))
        layer: Any = partial(SlotsFirst, self.slots) if config.local else nn.Linear
        self.in_proj = layer(pixels, hidden, bias=False)
        self.position = nn.Parameter(torch.randn(self.slots, 1, hidden) * 0.1)
        self.out_proj = layer(hidden, config.embed)
        self.decoder_in_proj = nn.Parameter(torch.randn(self.slots, features, hidden) * features**-0.5)
        self.decoder_position = nn.Parameter(torch.randn(self.slots, 1, hidden) * 0.1)
        self.decoder = nn.Sequential(nn.SiLU(), layer(hidden, hidden), nn.SiLU(), layer(hidden, pixels))
        for parameter in self.decoder[-1].parameters():  # initially decodes to the mean image
            nn.init.zeros_(parameter)

    @staticmethod
    def slots_of(leaf: Leaf, config: LatentConfig) -> int:
        rows, columns = _grid(leaf, config.patch)
        return rows * columns

    def measure(self, parts: Iterable[Tensor]) -> None:
        """Sets the mean image."""
        sums = [(len(part), self.pixels(part).sum(0, dtype=torch.float64)) for part in parts]
        counts, totals = zip(*sums, strict=True)
        self.mean.copy_(torch.stack(totals).sum(0) / sum(counts) / 255)

    def pixels(self, frames: Tensor) -> Tensor:
        """Frames on the scale 0 to 255: unchanged for images."""
        return frames

    def patches(self, frames: Tensor) -> Tensor:
        """(N, H, W, C) to (S, N, p*p*C), padded with zeros to whole patches."""
        pad = (0, 0, 0, self.columns * self.patch - self.width, 0, self.rows * self.patch - self.height)
        padded = F.pad(frames, pad) if any(pad) else frames
        return rearrange(padded, "n (r p) (c q) k -> (r c) n (p q k)", p=self.patch, q=self.patch)

    def frames(self, patches: Tensor) -> Tensor:
        """The inverse of `patches`."""
        pattern = "(r c) n (p q k) -> n (r p) (c q) k"
        whole = rearrange(patches, pattern, r=self.rows, p=self.patch, q=self.patch, k=self.channels)
        return whole[:, : self.height, : self.width]

    def encode(self, value: Tensor) -> Tensor:
        """uint8 frames (N, H, W, C) to (N, S, D). Their difference from the mean image is encoded, in [-2, 2].

        The difference is of integers, which bf16 represents exactly, so that codes do not depend on the precision.
        """
        dtype = compute_type(value)
        difference = self.patches(value).to(dtype) - (self.mean_patches() * 255).round().to(dtype)
        x = self.in_proj(difference)
        hidden = F.silu(torch.add(self.position.to(x.dtype), x, alpha=2 / 255))
        return self.out_proj(hidden).transpose(0, 1)  # type: ignore[no-any-return]

    def residual(self, slots: Tensor) -> Tensor:
        """(N, S, F) to patches (S, N, p*p*C) of what differs from the mean image."""
        slots_first = slots.transpose(0, 1)
        patches: Tensor = self.decoder(torch.baddbmm(self.decoder_position, slots_first, self.decoder_in_proj))
        return patches

    def decode(self, slots: Tensor) -> Tensor:
        """(N, S, F) to uint8 frames (N, H, W, C)."""
        pixels = self.residual(slots).float().mul_(255).add_(self.mean_patches() * 255)
        return self.frames(
            pixels.round_().clamp_(0, 255).to(torch.uint8)
        )  # uint8 first: a quarter of the memory traffic

    def loss(self, slots: Tensor, value: Tensor, generator: Generator | None = None) -> Tensor:
        """Squared error (N,), ten times weighted where a pixel differs from the mean image by more than 5 %."""
        compared = self.residual(slots), self.patches(value), self.mean_patches()
        error: Tensor = _WeightedSquare.apply(*compared)  # type: ignore[no-untyped-call]
        return error.sum(0)

    def mean_patches(self) -> Tensor:
        """(S, 1, p*p*C) of the mean image."""
        return self.patches(self.mean.unsqueeze(0))


def _grid(leaf: Leaf, patch: int) -> tuple[int, int]:
    """Rows and columns of patches."""
    return -(-leaf.shape[0] // patch), -(-leaf.shape[1] // patch)


class _WeightedSquare(torch.autograd.Function):
    """Weighted squared error of every slot (S, N), computed in place, because memory traffic dominates."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, patches: Tensor, mean: Tensor) -> Tensor:
        weighted, losses = torch.empty_like(residual), torch.empty(residual.shape[:2], device=residual.device)
        chunk = len(patches) if patches.is_cuda else max(1, 2**18 // patches[0].numel())  # a megabyte fits the cache
        for slots in (slice(at, at + chunk) for at in range(0, len(patches), chunk)):
            target = torch.div(patches[slots], 255).sub_(mean[slots])
            weight = torch.abs(target).gt_(0.05).mul_(9.0).add_(1.0)
            error = target.neg_().add_(residual[slots])
            losses[slots] = torch.linalg.vecdot(weight.mul_(error), error)
            weighted[slots] = weight
        ctx.save_for_backward(weighted)
        return losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (weighted,) = ctx.saved_tensors
        return weighted * (2 * grad).to(weighted.dtype).unsqueeze(-1), None, None
