"""The network that takes noise off what changes, scaled as in EDM (Karras et al. 2022, arXiv:2206.00364, table 1).

What the network sees and gives has unit variance at every noise level. DIAMOND (arXiv:2405.12399) found that worlds
made this way stay themselves over long imagined rollouts with as few as one to three denoising steps.

Axes: N timesteps, C channels, H height, W width, n numbers of the vector, K timesteps of context, E width of the
condition.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.models.config import DiffusionConfig
from worldsim.models.diffusion.canvas import Canvas, Drawing
from worldsim.models.diffusion.encoder import FrameEncoder
from worldsim.models.layers import mlp

SIGMA_MIN, SIGMA_MAX, RHO = 0.5, 5.0, 7.0  # of the noise levels that are sampled through; from the least straight to 0
FIRST = 0.5  # share of the levels trained on that are the first of a sampling, where all must come from the past
GROUP = 8  # channels that are normalised together
LOUDEST = 4.0  # differences between the frames of the context are clipped at so many deviations


def noise_levels(steps: int) -> list[float]:
    """The noise levels of a sampling in so many steps, falling, with 0 at the end (EDM, eq. 5)."""
    high, low = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    shares = [index / max(1, steps - 1) for index in range(steps)]
    return [*((high + share * (low - high)) ** RHO for share in shares), 0.0]


def trained_levels(uniform: Tensor) -> Tensor:
    """Noise levels to train on, from numbers in [0, 1): the highest, or anything below it, log-uniform."""
    place = ((uniform - FIRST) / (1 - FIRST)).clamp_min(0)
    levels: Tensor = SIGMA_MAX * (SIGMA_MIN / SIGMA_MAX) ** place
    return levels


class Scaling(NamedTuple):
    """EDM's preconditioning: what input, output and the skip connection are multiplied by."""

    skip: Drawing
    out: Drawing
    input: Drawing

    @staticmethod
    def at(sigma: Tensor, deviations: Drawing, like: Drawing) -> "Scaling":
        """Noise levels (N,) on changes (N, ...) like these, which have these standard deviations."""
        level = like.each(lambda x: along(sigma, x).square())
        own = deviations.each(torch.square)
        total = level.with_each(own, torch.add)
        return Scaling(
            own.with_each(total, torch.div),
            level.with_each(own, torch.mul).with_each(total, lambda both, each: (both / each).sqrt()),
            total.each(torch.rsqrt),
        )


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


class Level(nn.Module):
    """One resolution of a U-Net and, inside, the coarser ones."""

    def __init__(self, widths: list[int], condition: int, blocks: int, finest: bool = True):
        super().__init__()
        width, *coarser = widths
        # The finest resolution costs most: blocks on the way up are enough, where all that is coarser is known.
        count = 0 if finest and coarser else blocks
        self.before = nn.ModuleList([ResBlock(width, condition) for _ in range(count)])
        self.inner = None
        if coarser:
            self.shrink = nn.Conv2d(width, coarser[0], 3, stride=2, padding=1)
            self.inner = Level(coarser, condition, blocks, finest=False)
            self.grow = nn.Conv2d(width + coarser[0], width, 1)
            self.after = nn.ModuleList([ResBlock(width, condition) for _ in range(blocks)])

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (N, C, H, W), condition (N, E)."""
        for block in self.before:
            x = block(x, condition)
        if self.inner is not None:
            coarse = F.interpolate(self.inner(self.shrink(x), condition), size=x.shape[-2:])
            x = self.grow(torch.cat([coarse, x], 1))
            for block in self.after:
                x = block(x, condition)
        return x


class GridPast(nn.Module):
    """What the frames before say of a grid: a U-Net at a resolution of patches, run once for all noise levels.

    Pixels of a patch are channels, so that most of the work is done on few places.
    """

    def __init__(self, size: tuple[int, ...], condition: int, config: DiffusionConfig):
        super().__init__()
        channels, height, width = size
        self.timesteps, patch = config.context, config.patch
        self.stem = nn.Conv2d(channels * config.context, config.channels, patch, patch)
        # What stands still is known by its place.
        self.place = nn.Parameter(torch.zeros(config.channels, height // patch, width // patch))
        widths = [config.channels * 2**level for level in range(config.levels)]
        self.net = Level(widths, condition, config.blocks)

    def forward(self, before: Tensor, deviation: Tensor, condition: Tensor) -> Tensor:
        """Grids before (N, K*C, H, W), oldest first, and condition (N, E) to features (N, F, H', W') of patches."""
        frames = before.unflatten(1, (self.timesteps, -1))
        moved = (frames[:, 1:] - frames[:, :-1]) * (0.5 / deviation).clamp_max(LOUDEST)
        inputs = torch.cat([frames[:, -1:], moved], 1).flatten(1, 2)
        features: Tensor = self.net(self.stem(inputs) + self.place, condition)
        return features


class GridDenoiser(nn.Module):
    """A noisy change of a grid, and what its past says, to the change without noise."""

    def __init__(self, channels: int, condition: int, config: DiffusionConfig):
        super().__init__()
        self.patch, width, pixels = config.patch, config.channels, channels * config.patch**2
        self.stem = nn.Conv2d(pixels, width, 1)
        self.blocks = nn.ModuleList([ResBlock(width, condition) for _ in range(config.blocks)])
        self.head = nn.Conv2d(2 * width + pixels, pixels, 1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, noisy: Tensor, known: Tensor, condition: Tensor) -> Tensor:
        """(N, C, H, W), features (N, F, H', W') and condition (N, E); to (N, C, H, W)."""
        inputs = F.pixel_unshuffle(noisy, self.patch)
        x = self.stem(inputs) + known
        for block in self.blocks:
            x = block(x, condition)
        out: Tensor = self.head(torch.cat([x, known, inputs], 1))
        return F.pixel_shuffle(out, self.patch)


class Known(NamedTuple):
    """What the past says of timesteps about to be denoised."""

    condition: Tensor  # (N, E)
    grids: tuple[Tensor, ...]  # (N, F, H', W') each
    vector: Tensor  # (N, 2E), or (N, 0) where there is no vector

    def repeated(self, times: int) -> "Known":
        """Every row so many times."""
        return Known(
            self.condition.repeat_interleave(times, 0),
            tuple(grid.repeat_interleave(times, 0) for grid in self.grids),
            self.vector.repeat_interleave(times, 0),
        )


class Denoiser(nn.Module):
    """How the timestep differs from the one before, without noise.

    The larger part of the network sees the past and the actions, once a timestep; a smaller one sees what it says, the
    noisy change and the noise level, as often as noise is taken off. Untrained, it says that nothing changes.
    """

    def __init__(self, canvas: Canvas, actions: int, config: DiffusionConfig):
        super().__init__()
        width, context = config.condition, config.context
        self.deviations = canvas.deviations
        self.actions = nn.Linear(context * actions, width)
        self.encode_past = FrameEncoder(canvas, context, width, config.patch)
        self.mix = mlp([width, width, width])
        self.past = nn.ModuleList([GridPast(size, width, config) for size in canvas.sizes])
        self.level = mlp([1, width, width], norm=False)
        self.encode = FrameEncoder(canvas, 1, width, config.patch)
        self.grids = nn.ModuleList([GridDenoiser(channels, width, config) for channels, *_ in canvas.sizes])
        self.numbers = canvas.numbers
        if canvas.numbers:
            self.vector_past = mlp([width + context * canvas.numbers, 2 * width, 2 * width])
            self.vector = mlp([3 * width + canvas.numbers, 2 * width, canvas.numbers])
            for parameter in self.vector[-1].parameters():
                nn.init.zeros_(parameter)

    def know(self, context: Drawing, actions: Tensor) -> Known:
        """What the past says. context: the K timesteps before, (N, K*C, H, W) and (N, K*n), the newest last.

        actions: (N, K*A), those that followed on them.
        """
        condition = self.actions(actions) + self.encode_past(context)
        condition = F.silu(condition + self.mix(condition))
        each = zip(self.past, context.grids, self.deviations().grids, strict=True)
        grids = tuple(past(grid, deviation, condition) for past, grid, deviation in each)
        vector = context.vector
        if self.numbers:
            vector = self.vector_past(torch.cat([condition, vector], 1))
        return Known(condition, grids, vector)

    def forward(self, noisy: Drawing, sigma: Tensor, known: Known) -> Drawing:
        """The changes (N, ...) without their noise of level `sigma` (N,)."""
        scaling = Scaling.at(sigma, self.deviations(), noisy)
        out = self.network(noisy.with_each(scaling.input, torch.mul), sigma, known)
        kept = noisy.with_each(scaling.skip, torch.mul)
        return kept.with_each(out.with_each(scaling.out, lambda x, y: x.float() * y), torch.add)

    def network(self, given: Drawing, sigma: Tensor, known: Known) -> Drawing:
        """What is trained: input and output of unit variance."""
        level = self.level((sigma.log() / 4).unsqueeze(-1))
        condition = F.silu(known.condition + level + self.encode(given))
        each = zip(self.grids, given.grids, known.grids, strict=True)
        grids = tuple(denoise(grid, features, condition) for denoise, grid, features in each)
        vector = given.vector
        if self.numbers:
            vector = self.vector(torch.cat([condition, F.silu(known.vector), vector], 1))
        return Drawing(grids, vector)

    def sample(self, noise: Drawing, context: Drawing, actions: Tensor, steps: int, order: int) -> Drawing:
        """A change from noise of unit variance: Euler steps (order 1), or Heun's (order 2; EDM, algorithm 1)."""
        levels, known = noise_levels(steps), self.know(context, actions)
        x = noise.each(lambda e: e * levels[0])
        for sigma, following in zip(levels[:-1], levels[1:], strict=True):
            slope = self._slope(x, sigma, known)
            ahead = x.with_each(slope, lambda value, d: value + (following - sigma) * d)  # noqa: B023
            if order == 2 and following > 0:
                second = self._slope(ahead, following, known)
                slope = slope.with_each(second, lambda one, two: (one + two) / 2)
                ahead = x.with_each(slope, lambda value, d: value + (following - sigma) * d)  # noqa: B023
            x = ahead
        return x

    def _slope(self, x: Drawing, sigma: float, known: Known) -> Drawing:
        levels = x.vector.new_full((len(x.vector),), sigma)
        clean = self(x, levels, known)
        return x.with_each(clean, lambda noisy, without: (noisy - without) / sigma)
