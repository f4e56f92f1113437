"""The network that takes noise off the next moment, scaled as in EDM (Karras et al. 2022, arXiv:2206.00364, table 1).

What the network sees and gives has unit variance at every noise level. DIAMOND (arXiv:2405.12399) found that worlds
made this way stay themselves over long imagined rollouts with as few as one to three denoising steps.

Axes: N moments, C channels, H height, W width, n numbers of the vector, K moments of context, E width of the condition.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.models.config import DiffusionConfig
from worldsim.models.diffusion.canvas import SIGMA_DATA, Canvas, Drawing
from worldsim.models.diffusion.encoder import FrameEncoder
from worldsim.models.layers import mlp

SIGMA_MIN, SIGMA_MAX, RHO = 2e-3, 5.0, 7.0  # of the noise levels that are sampled through, as DIAMOND has them
LOG_MEAN, LOG_STD, TRAINED_MAX = -0.4, 1.2, 20.0  # of those trained on, log-normal, also DIAMOND's
GROUP = 8  # channels that are normalised together


def noise_levels(steps: int) -> list[float]:
    """The noise levels of a sampling in so many steps, falling, with 0 at the end (EDM, eq. 5)."""
    high, low = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    shares = [index / max(1, steps - 1) for index in range(steps)]
    return [*((high + share * (low - high)) ** RHO for share in shares), 0.0]


def trained_levels(uniform: Tensor) -> Tensor:
    """Noise levels to train on, from numbers in [0, 1)."""
    normal: Tensor = torch.special.ndtri(uniform.clamp(1e-6, 1 - 1e-6))
    return (LOG_MEAN + LOG_STD * normal).exp().clamp(SIGMA_MIN, TRAINED_MAX)


class Scaling(NamedTuple):
    """EDM's preconditioning at noise levels (N,): what input, output and the skip connection are multiplied by."""

    skip: Tensor
    out: Tensor
    input: Tensor
    level: Tensor  # how the network is told the noise level

    @staticmethod
    def at(sigma: Tensor) -> "Scaling":
        total = sigma.square() + SIGMA_DATA**2
        return Scaling(SIGMA_DATA**2 / total, sigma * SIGMA_DATA * total.rsqrt(), total.rsqrt(), sigma.log() / 4)


def along(scale: Tensor, like: Tensor) -> Tensor:
    """Factors (N,) so that they multiply (N, ...)."""
    return scale.view(-1, *[1] * (like.ndim - 1))


class ResBlock(nn.Module):
    """Two convolutions around which the input goes, normalised as the condition says (adaptive group norm)."""

    def __init__(self, channels: int, condition: int):
        super().__init__()
        self.groups = channels // GROUP
        self.modulate = nn.Linear(condition, 2 * channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (N, C, H, W), condition (N, E)."""
        scale, shift = self.modulate(condition)[..., None, None].chunk(2, 1)
        hidden = F.group_norm(x, self.groups) * (1 + scale) + shift
        hidden = self.first(F.silu(hidden))
        out: Tensor = x + self.second(F.silu(F.group_norm(hidden, self.groups)))
        return out


class UNet(nn.Module):
    """A grid and its context to what the grid is without noise, at a resolution of patches.

    Pixels of a patch are channels: most of the work is done on few places, and the last layer sees all pixels again.
    """

    def __init__(self, channels: int, context: int, condition: int, config: DiffusionConfig):
        super().__init__()
        self.patch = config.patch
        seen = channels * (1 + context) * config.patch**2
        widths = [config.channels * 2**level for level in range(config.levels)]
        self.stem = nn.Conv2d(seen, widths[0], 3, padding=1)
        self.down, self.shrink, self.up, self.grow = (nn.ModuleList() for _ in range(4))
        for level, width in enumerate(widths):
            self.down.append(nn.ModuleList([ResBlock(width, condition) for _ in range(config.blocks)]))
            if level + 1 < len(widths):
                self.shrink.append(nn.Conv2d(width, widths[level + 1], 3, stride=2, padding=1))
        for level, width in list(enumerate(widths))[-2::-1]:
            self.grow.append(nn.Conv2d(widths[level + 1] + width, width, 1))
            self.up.append(nn.ModuleList([ResBlock(width, condition) for _ in range(config.blocks)]))
        self.head = nn.Conv2d(widths[0] + seen, channels * config.patch**2, 1)
        nn.init.zeros_(self.head.weight)

    def forward(self, grids: Tensor, condition: Tensor) -> Tensor:
        """The noisy grid and its context (N, (1+K)*C, H, W), condition (N, E); to (N, C, H, W)."""
        seen = F.pixel_unshuffle(grids, self.patch)
        x, kept = self.stem(seen), []
        for level, blocks in enumerate(self.down):
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, condition)
            if level < len(self.shrink):
                kept.append(x)
                x = self.shrink[level](x)
        for merge, blocks in zip(self.grow, self.up, strict=True):
            before = kept.pop()
            wide = F.interpolate(x, size=before.shape[-2:])
            x = merge(torch.cat([wide, before], 1))
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, condition)
        return F.pixel_shuffle(self.head(torch.cat([x, seen], 1)), self.patch)


class Denoiser(nn.Module):
    """The whole moment without noise: a `UNet` for each grid and an MLP for the vector, on one condition.

    The condition knows the noise level, the actions and, encoded, all that the moment and its context hold.
    """

    def __init__(self, canvas: Canvas, actions: int, config: DiffusionConfig):
        super().__init__()
        width, context = config.condition, config.context
        self.level = mlp([1, width, width], norm=False)
        self.actions = nn.Linear(context * actions, width)
        self.encode = FrameEncoder(canvas, 1 + context, width, config.patch)
        self.mix = mlp([width, width, width])
        self.unets = nn.ModuleList([UNet(channels, context, width, config) for channels, *_ in canvas.sizes])
        self.numbers = canvas.numbers
        if canvas.numbers:
            self.out = mlp([width + (1 + context) * canvas.numbers, 2 * width, 2 * width, canvas.numbers])

    def forward(self, noisy: Drawing, sigma: Tensor, context: Drawing, actions: Tensor) -> Drawing:
        """What the moments (N, ...) are without their noise of level `sigma` (N,).

        context: the K moments before, (N, K*C, H, W) and (N, K*n). actions (N, K*A), those that followed on them.
        """
        scaling = Scaling.at(sigma)
        given = noisy.each(lambda x: x * along(scaling.input, x))
        out = self.network(given, scaling.level, context, actions)
        return noisy.with_each(out, lambda x, y: x * along(scaling.skip, x) + y.float() * along(scaling.out, x))

    def network(self, given: Drawing, level: Tensor, context: Drawing, actions: Tensor) -> Drawing:
        """What is trained: input and output of unit variance."""
        everything = given.with_each(context, lambda one, other: torch.cat([one, other], 1))
        condition = self.level(level.unsqueeze(-1)) + self.actions(actions) + self.encode(everything)
        condition = F.silu(condition + self.mix(condition))
        grids = tuple(unet(grid, condition) for unet, grid in zip(self.unets, everything.grids, strict=True))
        vector = self.out(torch.cat([condition, everything.vector], 1)) if self.numbers else given.vector
        return Drawing(grids, vector)

    def sample(self, noise: Drawing, context: Drawing, actions: Tensor, steps: int, order: int) -> Drawing:
        """A moment from noise of unit variance: Euler steps (order 1), or Heun's (order 2; EDM, algorithm 1)."""
        levels = noise_levels(steps)
        x = noise.each(lambda e: e * levels[0])
        count = len(noise.vector)
        for sigma, following in zip(levels[:-1], levels[1:], strict=True):
            slope = self._slope(x, sigma, context, actions, count)
            ahead = x.with_each(slope, lambda value, d: value + (following - sigma) * d)  # noqa: B023
            if order == 2 and following > 0:
                second = self._slope(ahead, following, context, actions, count)
                slope = slope.with_each(second, lambda one, two: (one + two) / 2)
                ahead = x.with_each(slope, lambda value, d: value + (following - sigma) * d)  # noqa: B023
            x = ahead
        return x

    def _slope(self, x: Drawing, sigma: float, context: Drawing, actions: Tensor, count: int) -> Drawing:
        levels = x.vector.new_full((count,), sigma)
        clean = self(x, levels, context, actions)
        return x.with_each(clean, lambda noisy, without: (noisy - without) / sigma)
