"""How far two observations are apart, leaf by leaf, and up to where a prediction counts as right.

Axes: B windows, T steps, N rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from worldsim.fidelity.measures import Bools, Floats, squared_error
from worldsim.rollouts.arrays import Arrays
from worldsim.simulator.world import World
from worldsim.spaces import Leaf, leaves
from worldsim.training.statistics import rows_of

Observed = Mapping[str, NDArray[Any]]  # leaf -> (B, T, ...)
RIGHT_SHARE = 0.9  # of the categorical variables, for a prediction to be within tolerance
SAMPLED = 1000  # rows that scales are taken from


@dataclass(frozen=True)
class Yardstick:
    """What is known of the data without looking at the moment, and what that makes of an error."""

    leaves: tuple[Leaf, ...]
    mean: dict[str, NDArray[Any]]  # mean image, mean vector, most frequent classes: the best blind guess of a leaf
    scale: dict[str, Floats]  # standard deviation of every number of a vector
    allowed: dict[str, float]  # error of an image or vector up to which it is within tolerance

    @classmethod
    def of(cls, world: World, arrays: Arrays, episodes: NDArray[np.int64], gain_db: float, seed: int) -> Self:
        """From some rows of `episodes`; mean images are those of the training data.

        An image or vector is within tolerance if its squared error is `gain_db` below what the blind guess makes.
        """
        rows = rows_of(arrays, episodes)
        rows = np.sort(np.random.default_rng(seed).choice(rows, min(SAMPLED, len(rows)), replace=False))
        images = {leaf.name: codec.mean for leaf, codec in world.model.codec.dense_codecs() if leaf.kind == "image"}
        found = leaves(world.observation_space)
        seen = {leaf.name: arrays.observation[leaf.name].take(rows, axis=0) for leaf in found}
        mean, scale, allowed = {}, {}, {}
        for leaf in found:
            values = seen[leaf.name]
            if leaf.kind == "image":
                mean[leaf.name] = (images[leaf.name].cpu().numpy() * 255).round().astype(np.uint8)
                blind = squared_error(np.broadcast_to(mean[leaf.name], values.shape)[:, None], values[:, None]).mean()
                allowed[leaf.name] = float(blind * 10 ** (-gain_db / 10))
            elif leaf.kind == "vector":
                mean[leaf.name], spread = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
                scale[leaf.name] = np.where(spread > 0, spread, 1.0)
                allowed[leaf.name] = 10 ** (-gain_db / 10)
            else:
                mean[leaf.name] = np.array([np.bincount(column).argmax() for column in values.T])
        return cls(found, mean, scale, allowed)

    def vector_error(self, leaf: str, a: NDArray[Any], b: NDArray[Any]) -> Floats:
        """Mean squared error (...) of vectors (..., n), every number in units of its standard deviation."""
        return np.asarray(np.square((a.astype(np.float64) - b) / self.scale[leaf]).mean(-1))

    def distance(self, a: Observed, b: Observed, mask: Bools) -> Floats:
        """(B,): how far a window is off on average, by its images; where it has none, by vectors, or records."""
        for kind in ("image", "vector", "categorical"):
            found = [self._error(leaf, a[leaf.name], b[leaf.name]) for leaf in self.leaves if leaf.kind == kind]
            if found:
                break
        error = np.mean(found, 0)
        return np.asarray((error * mask).sum(1) / mask.sum(1))

    def _error(self, leaf: Leaf, a: NDArray[Any], b: NDArray[Any]) -> Floats:
        if leaf.kind == "image":
            return squared_error(a, b)
        return self.vector_error(leaf.name, a, b) if leaf.kind == "vector" else np.asarray((a != b).mean(-1))

    def within(self, a: Observed, b: Observed) -> Bools:
        """(B, T): every image and vector is within its tolerance, and enough of the categorical variables are right."""
        dense = [leaf for leaf in self.leaves if leaf.kind != "categorical"]
        kept = [self._error(leaf, a[leaf.name], b[leaf.name]) <= self.allowed[leaf.name] for leaf in dense]
        same = [a[leaf.name] == b[leaf.name] for leaf in self.leaves if leaf.kind == "categorical"]
        kept += [np.concatenate(same, -1).mean(-1) >= RIGHT_SHARE] if same else []
        return np.asarray(np.logical_and.reduce(kept))
