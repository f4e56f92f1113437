"""Observations as what noise is added to: grids and one vector, whose numbers all have about the same size.

Axes: N any number of timesteps, C channels, H height, W width, n numbers of the vector.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.errors import ConfigError
from worldsim.models.layers import onehot
from worldsim.models.leaves.categorical import digits_of
from worldsim.models.leaves.scale import Scale
from worldsim.spaces import Leaf

SIGMA_DATA = 0.5  # standard deviation of the numbers, roughly (EDM, table 1)
LEAST_CHANGE = 0.01  # standard deviation of changes that are hardly there, or of numbers that never change
AROUND = 5  # pixels along the side of a square whose changes are taken to be of one size
MOST_CLASSES = 4096  # of all categorical variables together, which are one-hots here


class Drawing(NamedTuple):
    """Timesteps on the canvas."""

    grids: tuple[Tensor, ...]  # (N, C, H, W) each, in [-1, 1]; H and W are whole patches
    vector: Tensor  # (N, n): one-hots of -0.5 and 0.5 of the categorical variables, then the vectors, standardised

    def each(self, change: Callable[[Tensor], Tensor]) -> "Drawing":
        """The drawing with every tensor changed."""
        return Drawing(tuple(map(change, self.grids)), change(self.vector))

    def with_each(self, other: "Drawing", change: Callable[[Tensor, Tensor], Tensor]) -> "Drawing":
        """What `change` makes of every tensor and the other drawing's."""
        grids = tuple(change(one, two) for one, two in zip(self.grids, other.grids, strict=True))
        return Drawing(grids, change(self.vector, other.vector))

    def tensors(self) -> list[Tensor]:
        """All that holds numbers."""
        return [tensor for tensor in (*self.grids, self.vector) if tensor.numel()]


class GridScale(nn.Module):
    """A grid leaf between its own units and [-1, 1], padded to whole patches."""

    def __init__(self, leaf: Leaf, patch: int):
        super().__init__()
        self.leaf, (height, width, self.channels) = leaf, leaf.shape
        self.size = [-(-side // patch) * patch for side in (height, width)]
        self.scale = None if leaf.kind == "image" else Scale(leaf, None)  # images lie in [0, 255] already
        self.low: Tensor
        self.high: Tensor
        self.register_buffer("low", torch.tensor(0.0))
        self.register_buffer("high", torch.tensor(255.0 if leaf.kind == "image" else 1.0))
        self.mean: Tensor  # (H, W, C) of the data, scaled
        self.register_buffer("mean", torch.zeros(leaf.shape))
        self.deviation: Tensor  # (H', W') of the changes from one timestep to the next, in [-1, 1]
        self.register_buffer("deviation", torch.full(self.size, SIGMA_DATA))

    def scaled(self, values: Tensor) -> Tensor:
        return values.float() if self.scale is None else self.scale(values)

    def measure(self, parts: Iterable[Tensor]) -> None:
        """Sets scale and mean from frames (N, H, W, C) of the data, part by part."""
        if self.scale is not None:
            self.scale.measure(parts)
        total, count, ends = torch.zeros_like(self.mean, dtype=torch.float64), 0, []
        for part in map(self.scaled, parts):
            finite = part[part.isfinite()]
            total, count = total + part.nan_to_num(0.0, 0.0, 0.0).sum(0, dtype=torch.float64), count + len(part)
            ends += [torch.stack(finite.aminmax())] if finite.numel() else []
        self.mean.copy_(total / max(1, count))
        if self.scale is not None and ends:
            low, high = torch.stack(ends).unbind(1)
            self.low.copy_(low.min())
            self.high.copy_(high.max())

    def forward(self, values: Tensor) -> Tensor:
        """(N, H, W, C) to (N, C, H', W') in [-1, 1]."""
        place = (self.scaled(values) - self.low) / (self.high - self.low).clamp_min(1e-6)
        return self._padded(2 * place.clamp(0, 1) - 1)

    def _padded(self, values: Tensor) -> Tensor:
        grid = values.permute(0, 3, 1, 2)
        return F.pad(grid, (0, self.size[1] - grid.shape[3], 0, self.size[0] - grid.shape[2]))

    def inverse(self, grid: Tensor) -> Tensor:
        """(N, C, H', W') to (N, H, W, C) in the leaf's own units and type."""
        height, width = self.leaf.shape[:2]
        place = (grid[:, :, :height, :width].permute(0, 2, 3, 1).float() + 1) / 2
        scaled = self.low + place.clamp(0, 1) * (self.high - self.low)
        return scaled.round().to(torch.uint8) if self.scale is None else self.scale.inverse(scaled)


class Canvas(nn.Module):
    """Flat leaves to a `Drawing` and back.

    Raises ConfigError where the categorical variables have more than MOST_CLASSES classes together.
    """

    def __init__(self, leaves: tuple[Leaf, ...], patch: int):
        super().__init__()
        self.leaves = leaves
        self.discrete = tuple(leaf for leaf in leaves if leaf.is_discrete)
        self.digits = digits_of(self.discrete)
        self.classes: list[int] = self.digits.nvec.tolist()
        if sum(self.classes) > MOST_CLASSES:
            raise ConfigError(
                f"model=diffusion has a number for every class, and the observation's variables and characters have "
                f"{sum(self.classes)} together, more than {MOST_CLASSES}; choose model=ssm, transformer or rssm"
            )
        self.grids = [GridScale(leaf, patch) for leaf in leaves if leaf.kind in ("image", "field")]
        self.vectors = [leaf for leaf in leaves if leaf.kind == "vector"]
        self.scales = nn.ModuleList([Scale(leaf, leaf.shape[0]) for leaf in self.vectors])
        self.grid_scales = nn.ModuleList(self.grids)  # the same as grids, which the module must know of
        self.numbers = sum(self.classes) + sum(leaf.shape[0] for leaf in self.vectors)
        self.names = [scale.leaf.name for scale in self.grids]
        self.sizes = [(scale.channels, *scale.size) for scale in self.grids]
        self.deviation: Tensor  # of the changes of the vector's numbers from one timestep to the next
        self.register_buffer("deviation", torch.full((self.numbers,), SIGMA_DATA))
        self.count = self.numbers + sum(int(np.prod(size)) for size in self.sizes)

    def measure(self, samples: Mapping[str, Iterable[Tensor]]) -> None:
        """Sets the scales of all leaves."""
        for grid in self.grids:
            grid.measure(samples[grid.leaf.name])
        for leaf, scale in self._vectors():
            scale.measure(samples[leaf.name])

    def measure_changes(self, before: Mapping[str, Iterable[Tensor]], after: Mapping[str, Iterable[Tensor]]) -> None:
        """Sets the deviations of changes, from rows and those that followed on them."""
        timesteps = (zip(*(samples[leaf.name] for leaf in self.leaves), strict=True) for samples in (before, after))
        squares, count = self.deviations().each(lambda x: torch.zeros_like(x, dtype=torch.float64)), 0
        for pair in zip(*timesteps, strict=True):
            one, two = (self({leaf.name: part for leaf, part in zip(self.leaves, rows, strict=True)}) for rows in pair)
            changes = two.with_each(one, torch.sub).each(lambda x: x.double().nan_to_num(0.0, 0.0, 0.0).square())
            vector, grids = changes.vector.sum(0), tuple(grid.mean(1).sum(0) for grid in changes.grids)
            squares, count = squares.with_each(Drawing(grids, vector), torch.add), count + len(one.vector)
        if not count:
            return
        found = squares.each(lambda x: (x / count).sqrt().clamp_min(LEAST_CHANGE))
        for scale, square in zip(self.grids, squares.grids, strict=True):
            around = F.avg_pool2d(square.unsqueeze(0) / count, AROUND, 1, AROUND // 2, count_include_pad=False)
            scale.deviation.copy_(around[0].sqrt().clamp_min(LEAST_CHANGE))
        self.deviation.copy_(found.vector)
        kinds = sum(self.classes)
        if kinds:  # of all classes together: a class that is never left must not look certain
            self.deviation[:kinds] = found.vector[:kinds].square().mean().sqrt()

    def deviations(self) -> Drawing:
        """The standard deviations of changes: (H, W) of each grid, (n,) of the vector."""
        return Drawing(tuple(grid.deviation for grid in self.grids), self.deviation)

    def _vectors(self) -> list[tuple[Leaf, Scale]]:
        return list(zip(self.vectors, self.scales, strict=True))  # type: ignore[arg-type]

    def forward(self, observation: Mapping[str, Tensor]) -> Drawing:
        """Flat leaves (N, ...)."""
        like = next(iter(observation.values()))
        parts = [like.new_zeros(len(like), 0, dtype=torch.float32)]
        if self.discrete:
            index = self.digits.split(torch.cat([observation[leaf.name] for leaf in self.discrete], -1))
            parts += [onehot(index[:, i], count).float() - 0.5 for i, count in enumerate(self.classes)]
        parts += [SIGMA_DATA * scale(observation[leaf.name]) for leaf, scale in self._vectors()]
        return Drawing(tuple(grid(observation[grid.leaf.name]) for grid in self.grids), torch.cat(parts, -1))

    def inverse(self, drawing: Drawing) -> dict[str, Tensor]:
        """A drawing to flat leaves: of discrete variables the class with the greatest number."""
        out = {grid.leaf.name: grid.inverse(part) for grid, part in zip(self.grids, drawing.grids, strict=True)}
        chosen, *vectors = drawing.vector.split([sum(self.classes), *(leaf.shape[0] for leaf in self.vectors)], -1)
        if self.discrete:
            digits = torch.stack([each.argmax(-1) for each in chosen.split(self.classes, -1)], -1)
            parts = self.digits.join(digits).split([leaf.shape[0] for leaf in self.discrete], -1)
            out |= {leaf.name: part for leaf, part in zip(self.discrete, parts, strict=True)}
        each = zip(self._vectors(), vectors, strict=True)
        return out | {leaf.name: scale.inverse(part.float() / SIGMA_DATA) for (leaf, scale), part in each}

    def noise(self, uniform: Tensor) -> Drawing:
        """Gaussian noise of unit variance from numbers (N, count) in [0, 1)."""
        normal = torch.special.ndtri(uniform.clamp(2**-25, 1 - 2**-24))
        *grids, vector = normal.split([*(int(np.prod(size)) for size in self.sizes), self.numbers], -1)
        return Drawing(tuple(g.unflatten(-1, s) for g, s in zip(grids, self.sizes, strict=True)), vector)
