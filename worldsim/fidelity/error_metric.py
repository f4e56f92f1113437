"""The error between two observations, leaf by leaf, and the tolerance within which a prediction counts as right.

Every leaf has an error in a unit of its own:

| kind        | error of one observation                                          |
|-------------|-------------------------------------------------------------------|
| image       | mean squared error of its values, full scale = 1                  |
| field       | mean squared error of its values, in variances of the whole field |
| vector      | mean squared error of its numbers, each in its own variance       |
| categorical | share of its variables that are wrong                             |
| text        | 0 for the same text, 1 for any other                              |

The tolerance of a leaf is the mean error of a constant guess over the data, reduced by `gain_db` decibels; the guess is
the mean, or the most frequent class of each variable. So parts that never change (a background, padding) do not widen
the tolerance for the others. A text must be the same. A prediction is within tolerance if every leaf is.

Axes: B windows, T steps, N rows.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.fidelity.measures import squared_error
from worldsim.rollouts.arrays import EpisodeArrays
from worldsim.simulator.world import World
from worldsim.spaces import Arrays, Bools, Floats, Leaf, leaves
from worldsim.training.statistics import rows_of

SAMPLED = 1000  # rows from which means, scales and tolerances are calculated
TINY = 1e-12  # tolerance of a leaf that never changes, so that an exact prediction is within it


def is_text(leaf: Leaf) -> bool:
    """Whether a leaf is a text; its variables are characters, and class 0 is the end."""
    return isinstance(leaf.space, spaces.Text)


def until_end(codes: NDArray[Any]) -> NDArray[Any]:
    """Codes of texts (..., k), with everything after the first end (0) set to 0."""
    return np.where(np.logical_or.accumulate(codes == 0, -1), 0, codes)


@dataclass(frozen=True)
class ErrorMetric:
    """Statistics of the data, and the errors and tolerances that are scaled by them."""

    leaves: tuple[Leaf, ...]
    mean: dict[
        str, NDArray[Any]
    ]  # the constant guess: mean image, field or vector, most frequent class of each variable
    scale: dict[str, Floats]  # standard deviation of every number of a vector, (n,), or of a whole field, ()
    allowed: dict[str, float]  # error of each leaf up to which it is within tolerance

    @classmethod
    def of(cls, world: World, arrays: EpisodeArrays, episodes: NDArray[np.int64], gain_db: float, seed: int) -> Self:
        """From a sample of rows of `episodes`; mean images are those of the training data."""
        rows = rows_of(arrays, episodes)
        rows = np.sort(np.random.default_rng(seed).choice(rows, min(SAMPLED, len(rows)), replace=False))
        images = world.model.mean_images()
        found, share = leaves(world.observation_space), 10 ** (-gain_db / 10)
        metric = cls(found, {}, {}, {})
        for leaf in found:
            values = arrays.observation[leaf.name].take(rows, axis=0)
            if leaf.kind == "image":
                metric.mean[leaf.name] = (images[leaf.name].cpu().numpy() * 255).round().astype(np.uint8)
            elif leaf.is_discrete:
                metric.mean[leaf.name] = np.array([np.bincount(column).argmax() for column in values.T])
            else:
                metric.mean[leaf.name] = mean = values.mean(0, dtype=np.float64)
                spread = np.square(values - mean).mean(0 if leaf.kind == "vector" else None)
                # Without variance, errors stay in the unit of the data.
                metric.scale[leaf.name] = np.sqrt(np.where(spread > 0, spread, 1.0))
            guess = np.broadcast_to(metric.mean[leaf.name], values.shape)
            baseline = metric.error(leaf, guess[:, None], values[:, None]).mean()
            metric.allowed[leaf.name] = TINY if is_text(leaf) else max(TINY, float(baseline) * share)
        return metric

    def error(self, leaf: Leaf, a: NDArray[Any], b: NDArray[Any]) -> Floats:
        """The error (B, T) of rows `a` against rows `b` (B, T, ...) of one leaf, in its own unit."""
        if leaf.kind == "image":
            return squared_error(a, b)
        if is_text(leaf):
            return np.asarray((until_end(a) != until_end(b)).any(-1), np.float64)
        apart = a != b if leaf.is_discrete else np.square((a.astype(np.float64) - b) / self.scale[leaf.name])
        return np.asarray(apart.mean(tuple(range(2, apart.ndim))))

    def edit_distance(self, leaf: Leaf, a: NDArray[Any], b: NDArray[Any]) -> Floats:
        """(B, T) between texts (B, T, k): insertions, deletions and replacements of characters (Levenshtein 1966).

        As a share of the longer one's characters: 0 for the same text, 1 where they have nothing in common.
        """
        from rapidfuzz.distance import Levenshtein

        pairs = zip(*(until_end(codes).reshape(-1, codes.shape[-1]).tolist() for codes in (a, b)), strict=True)
        shares = [Levenshtein.normalized_distance(*([c for c in codes if c] for codes in pair)) for pair in pairs]
        return np.array(shares, np.float64).reshape(a.shape[:2])

    def within_by_leaf(self, a: Arrays, b: Arrays) -> dict[str, Bools]:
        """Leaf -> (B, T): whether it is within its tolerance."""
        return {
            leaf.name: self.error(leaf, a[leaf.name], b[leaf.name]) <= self.allowed[leaf.name] for leaf in self.leaves
        }

    def within(self, a: Arrays, b: Arrays) -> Bools:
        """(B, T): whether every leaf is within its tolerance."""
        return np.asarray(np.logical_and.reduce(list(self.within_by_leaf(a, b).values())))

    def distance(self, a: Arrays, b: Arrays, mask: Bools) -> Floats:
        """(B,) in [0, 1): mean error of each window, by which windows are ranked; all leaves count the same.

        An error of e tolerances counts as e / (1 + e): 0 if it is exact, a half if it is just tolerated.
        """
        ratios = [self.error(leaf, a[leaf.name], b[leaf.name]) / self.allowed[leaf.name] for leaf in self.leaves]
        apart = np.mean([ratio / (1 + ratio) for ratio in ratios], 0)
        return np.asarray((apart * mask).sum(1) / mask.sum(1))
