"""How far two observations are apart, leaf by leaf, and up to where a prediction counts as right.

Every leaf has an error in a unit of its own, and one that is tolerated:

| kind        | error of one observation                                          | tolerated                        |
|-------------|-------------------------------------------------------------------|----------------------------------|
| image       | mean squared error of its values, full scale = 1                  | the mean image's, less `gain_db` |
| field       | mean squared error of its values, in variances of the whole field | `gain_db` below 1                |
| vector      | mean squared error of its numbers, each in its own variance       | `gain_db` below 1                |
| categorical | share of its variables (a text's characters) that are wrong       | a tenth; of a single one, none   |

A prediction is within tolerance if every leaf is. Axes: B windows, T steps, N rows.
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
WRONG_SHARE = 0.1  # of a categorical leaf's variables, up to which it is within tolerance
SAMPLED = 1000  # rows that scales are taken from
TINY = 1e-12  # tolerated of a leaf that never changes, so that an exact prediction of it is within tolerance


@dataclass(frozen=True)
class Yardstick:
    """What is known of the data without looking at the moment, and what that makes of an error."""

    leaves: tuple[Leaf, ...]
    mean: dict[str, NDArray[Any]]  # mean image, field or vector, most frequent classes: the best blind guess of a leaf
    scale: dict[str, Floats]  # standard deviation of every number of a vector, (n,), or of a whole field, ()
    allowed: dict[str, float]  # error of each leaf up to which it is within tolerance

    @classmethod
    def of(cls, world: World, arrays: Arrays, episodes: NDArray[np.int64], gain_db: float, seed: int) -> Self:
        """From some rows of `episodes`; mean images are those of the training data."""
        rows = rows_of(arrays, episodes)
        rows = np.sort(np.random.default_rng(seed).choice(rows, min(SAMPLED, len(rows)), replace=False))
        images = {leaf.name: codec.mean for leaf, codec in world.model.codec.dense_codecs() if leaf.kind == "image"}
        found, share = leaves(world.observation_space), 10 ** (-gain_db / 10)
        mean, scale, allowed = {}, {}, {}
        for leaf in found:
            values = arrays.observation[leaf.name].take(rows, axis=0)
            if leaf.kind == "image":
                mean[leaf.name] = (images[leaf.name].cpu().numpy() * 255).round().astype(np.uint8)
                blind = squared_error(np.broadcast_to(mean[leaf.name], values.shape)[:, None], values[:, None]).mean()
                allowed[leaf.name] = max(TINY, float(blind) * share)
            elif leaf.kind == "categorical":
                mean[leaf.name] = np.array([np.bincount(column).argmax() for column in values.T])
                allowed[leaf.name] = WRONG_SHARE
            else:
                mean[leaf.name] = values.mean(0, dtype=np.float64)
                spread = np.square(values - mean[leaf.name]).mean(0 if leaf.kind == "vector" else None)
                scale[leaf.name] = np.sqrt(np.where(spread > 0, spread, 1.0))
                allowed[leaf.name] = share
        return cls(found, mean, scale, allowed)

    def error(self, leaf: Leaf, a: NDArray[Any], b: NDArray[Any]) -> Floats:
        """(B, T) between rows (B, T, ...) of one leaf, in its own unit."""
        if leaf.kind == "image":
            return squared_error(a, b)
        apart = a != b if leaf.kind == "categorical" else np.square((a.astype(np.float64) - b) / self.scale[leaf.name])
        return np.asarray(apart.mean(tuple(range(2, apart.ndim))))

    def within_by_leaf(self, a: Observed, b: Observed) -> dict[str, Bools]:
        """(B, T) a leaf: it is within its tolerance."""
        return {
            leaf.name: self.error(leaf, a[leaf.name], b[leaf.name]) <= self.allowed[leaf.name] for leaf in self.leaves
        }

    def within(self, a: Observed, b: Observed) -> Bools:
        """(B, T): every leaf is within its tolerance."""
        return np.asarray(np.logical_and.reduce(list(self.within_by_leaf(a, b).values())))

    def distance(self, a: Observed, b: Observed, mask: Bools) -> Floats:
        """(B,) in [0, 1): how far a window is off on average, every leaf weighing the same.

        An error of e tolerances counts as e / (1 + e): nothing where it is exact, a half where it is just tolerated.
        """
        ratios = [self.error(leaf, a[leaf.name], b[leaf.name]) / self.allowed[leaf.name] for leaf in self.leaves]
        apart = np.mean([ratio / (1 + ratio) for ratio in ratios], 0)
        return np.asarray((apart * mask).sum(1) / mask.sum(1))
