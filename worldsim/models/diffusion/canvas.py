"""Observations as what noise is added to: grids and one vector, whose numbers all have about the same size.

Axes: N any number of moments, C channels, H height, W width, n numbers of the vector.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.errors import ConfigError
from worldsim.models.layers import onehot, symexp, symlog
from worldsim.spaces import Leaf

SIGMA_DATA = 0.5  # standard deviation of the numbers, roughly (EDM, table 1)
MOST_CLASSES = 4096  # of all categorical variables together, which are one-hots here


class Drawing(NamedTuple):
    """Moments on the canvas."""

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
        self.low: Tensor
        self.high: Tensor
        self.register_buffer("low", torch.tensor(0.0))
        self.register_buffer("high", torch.tensor(255.0 if leaf.kind == "image" else 1.0))
        self.mean: Tensor  # (H, W, C) of the data, in the units of `bent`
        self.register_buffer("mean", torch.zeros(leaf.shape))

    def bent(self, values: Tensor) -> Tensor:
        """Images as they are; fields in symlog, as numbers of any size are."""
        return values.float() if self.leaf.kind == "image" else symlog(values.float())

    def measure(self, parts: Iterable[Tensor]) -> None:
        """Sets scale and mean from frames (N, H, W, C) of the data, part by part."""
        total, count, ends = torch.zeros_like(self.mean, dtype=torch.float64), 0, []
        for part in map(self.bent, parts):
            finite = part[part.isfinite()]
            total, count = total + part.nan_to_num(0.0, 0.0, 0.0).sum(0, dtype=torch.float64), count + len(part)
            ends += [torch.stack(finite.aminmax())] if finite.numel() else []
        self.mean.copy_(total / max(1, count))
        if self.leaf.kind != "image" and ends:
            low, high = torch.stack(ends).unbind(1)
            self.low.copy_(low.min())
            self.high.copy_(high.max())

    def forward(self, values: Tensor) -> Tensor:
        """(N, H, W, C) to (N, C, H', W') in [-1, 1]."""
        place = (self.bent(values) - self.low) / (self.high - self.low).clamp_min(1e-6)
        return self._padded(2 * place.clamp(0, 1) - 1)

    def of_mean(self) -> Tensor:
        """The mean of the data, (C, H', W') in [-1, 1]."""
        place = (self.mean - self.low) / (self.high - self.low).clamp_min(1e-6)
        return self._padded(2 * place.unsqueeze(0) - 1)[0]

    def _padded(self, values: Tensor) -> Tensor:
        grid = values.permute(0, 3, 1, 2)
        return F.pad(grid, (0, self.size[1] - grid.shape[3], 0, self.size[0] - grid.shape[2]))

    def inverse(self, grid: Tensor) -> Tensor:
        """(N, C, H', W') to (N, H, W, C) in the leaf's own units and type."""
        height, width = self.leaf.shape[:2]
        place = (grid[:, :, :height, :width].permute(0, 2, 3, 1).float() + 1) / 2
        bent = self.low + place.clamp(0, 1) * (self.high - self.low)
        if self.leaf.kind == "image":
            return bent.round().to(torch.uint8)
        return symexp(bent).to(torch_type(self.leaf))


class VectorScale(nn.Module):
    """A vector leaf between its own units and numbers of standard deviation SIGMA_DATA."""

    def __init__(self, leaf: Leaf):
        super().__init__()
        self.leaf = leaf
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(leaf.shape))
        self.register_buffer("std", torch.ones(leaf.shape))

    def measure(self, parts: Iterable[Tensor]) -> None:
        seen = symlog(torch.cat(list(parts)).float())
        self.mean.copy_(seen.mean(0))
        self.std.copy_(seen.std(0).clamp_min(1e-3) if len(seen) > 1 else torch.ones_like(self.std))

    def forward(self, values: Tensor) -> Tensor:
        return SIGMA_DATA * (symlog(values.float()) - self.mean) / self.std

    def inverse(self, numbers: Tensor) -> Tensor:
        return symexp(numbers.float() / SIGMA_DATA * self.std + self.mean).to(torch_type(self.leaf))


class Canvas(nn.Module):
    """Flat leaves to a `Drawing` and back.

    Raises ConfigError where the categorical variables have more than MOST_CLASSES classes together.
    """

    def __init__(self, leaves: tuple[Leaf, ...], patch: int):
        super().__init__()
        self.categorical = [leaf for leaf in leaves if leaf.kind == "categorical"]
        self.classes: list[list[int]] = [leaf.nvec.tolist() for leaf in self.categorical]
        together = sum(map(sum, self.classes))
        if together > MOST_CLASSES:
            raise ConfigError(
                f"model=diffusion has a number for every class, and the categorical variables have {together} "
                f"together, more than {MOST_CLASSES}; choose model=ssm, transformer or rssm"
            )
        self.grids = [GridScale(leaf, patch) for leaf in leaves if leaf.kind in ("image", "field")]
        self.vectors = [VectorScale(leaf) for leaf in leaves if leaf.kind == "vector"]
        self.scales = nn.ModuleList([*self.grids, *self.vectors])  # the same, which the module must know of
        self.widths = [*map(sum, self.classes), *(scale.leaf.shape[0] for scale in self.vectors)]
        self.numbers = sum(self.widths)
        self.names = [scale.leaf.name for scale in self.grids]
        self.sizes = [(scale.channels, *scale.size) for scale in self.grids]
        self.count = self.numbers + sum(int(np.prod(size)) for size in self.sizes)

    def scale_of(self, name: str) -> "GridScale | VectorScale | None":
        """What is measured of a leaf; None of one that is categorical."""
        every: list[GridScale | VectorScale] = [*self.grids, *self.vectors]
        return next((scale for scale in every if scale.leaf.name == name), None)

    def forward(self, observation: Mapping[str, Tensor]) -> Drawing:
        """Flat leaves (N, ...)."""
        like = next(iter(observation.values()))
        parts = [like.new_zeros(len(like), 0, dtype=torch.float32)]
        for leaf, classes in zip(self.categorical, self.classes, strict=True):
            index = observation[leaf.name]
            parts += [onehot(index[:, i], n).float() - 0.5 for i, n in enumerate(classes)]
        parts += [scale(observation[scale.leaf.name]) for scale in self.vectors]
        return Drawing(tuple(scale(observation[scale.leaf.name]) for scale in self.grids), torch.cat(parts, -1))

    def inverse(self, drawing: Drawing) -> dict[str, Tensor]:
        """A drawing to flat leaves: of categorical variables the class with the greatest number."""
        out = {s.leaf.name: s.inverse(grid) for s, grid in zip(self.grids, drawing.grids, strict=True)}
        parts = drawing.vector.split(self.widths, -1)
        split = len(self.categorical)
        for leaf, classes, part in zip(self.categorical, self.classes, parts[:split], strict=True):
            out[leaf.name] = torch.stack([each.argmax(-1) for each in part.split(classes, -1)], -1)
        return out | {s.leaf.name: s.inverse(part) for s, part in zip(self.vectors, parts[split:], strict=True)}

    def mean(self) -> tuple[Tensor, ...]:
        """The mean of each grid in the data, (C, H, W)."""
        return tuple(scale.of_mean() for scale in self.grids)

    def noise(self, uniform: Tensor) -> Drawing:
        """Gaussian noise of unit variance from numbers (N, count) in [0, 1)."""
        normal = torch.special.ndtri(uniform.clamp(2**-25, 1 - 2**-24))
        *grids, vector = normal.split([*(int(np.prod(size)) for size in self.sizes), self.numbers], -1)
        return Drawing(tuple(g.unflatten(-1, s) for g, s in zip(grids, self.sizes, strict=True)), vector)


def torch_type(leaf: Leaf) -> torch.dtype:
    """Of the leaf's flat array."""
    return torch.from_numpy(np.zeros(0, leaf.dtype)).dtype
