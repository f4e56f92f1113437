"""Interval estimates and rankings.

All intervals are two-sided, each at its own level (95 % by default), without correction for multiple comparisons.
Bootstrap intervals of a mean are BCa (Efron 1987) with the small-sample levels of Hesterberg (2014: t instead of z, and
the factor sqrt(n / (n - 1))), because plain percentiles are too narrow below some 30 episodes.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

RESAMPLES = 4000


class Interval(NamedTuple):
    """Both ends of an interval estimate; NaN where the data allow none (fewer than two values)."""

    low: float
    high: float


UNKNOWN = Interval(math.nan, math.nan)


class Difference(NamedTuple):
    """Mean of paired differences `a - b` and its interval."""

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """+1 or -1 when the interval excludes zero: a clear difference. Else 0."""
        return int(self.low > 0) - int(self.high < 0)


class Agreement(NamedTuple):
    """How two rankings of the same agents agree.

    `tau_b` is Kendall's tau-b in [-1, 1], None where one of them ties everything; `contradictions` are the pairs that
    the two put in opposite order.
    """

    tau_b: float | None
    same_ranking: bool
    contradictions: tuple[tuple[int, int], ...]


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's (1927) score interval of a rate, in [0, 1]; `n` trials of which `successes` succeeded."""
    if not 0 <= successes <= n:
        raise ValueError(f"successes must be between 0 and n, got {successes} of {n}")
    if n == 0:
        return UNKNOWN
    z = float(stats.norm.ppf((1 + confidence) / 2))
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return Interval(0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half)


def bootstrap_mean(
    values: ArrayLike, rng: np.random.Generator, confidence: float = 0.95, resamples: int = RESAMPLES
) -> Interval:
    """BCa bootstrap interval of the mean of `values` (n,). Equal values give an interval without width.

    There is none for too few values: resampled means stay within the range of the values, which misses the median of
    the distribution with probability 2 ** (1 - n). A confidence of 0.95 needs six.
    """
    x = np.asarray(values, dtype=np.float64)
    if 2.0 ** (1 - len(x)) > 1 - confidence:
        return UNKNOWN
    centred = x - x.mean()
    spread = float((centred**2).sum())
    # Equal up to rounding: the acceleration would divide by zero.
    if spread <= (1e-12 * max(1.0, float(np.abs(x).max()))) ** 2:
        return Interval(float(x.mean()), float(x.mean()))
    means = x[rng.integers(0, len(x), (resamples, len(x)))].mean(axis=1)
    # Ties count half: resampled means of few or integer values often equal the mean, which is no bias.
    below = (np.sum(means < x.mean()) + 0.5 * np.sum(means == x.mean())) / resamples
    # Clipped, because the bias would be infinite if all resampled means were on one side.
    bias = float(stats.norm.ppf(np.clip(below, 1 / resamples, 1 - 1 / resamples)))
    acceleration = float((centred**3).sum()) / (6 * spread**1.5)
    # Percentiles of few values are too narrow by these two factors (Hesterberg 2014): at n = 12 by 4 % and by 12 %.
    z = math.sqrt(len(x) / (len(x) - 1)) * float(stats.t.ppf((1 + confidence) / 2, len(x) - 1))
    shifted = np.array([bias - z, bias + z])
    levels = stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))
    low, high = np.quantile(means, levels)
    return Interval(float(low), float(high))


def count_mean(counts: ArrayLike, rng: np.random.Generator, confidence: float = 0.95) -> Interval:
    """Interval of the mean of counts per episode, such as violations.

    When all are zero the upper end is Garwood's (1936) Poisson bound, -ln(alpha / 2) / n.
    """
    x = np.asarray(counts, dtype=np.float64)
    if len(x) and not x.any():
        return Interval(0.0, -math.log((1 - confidence) / 2) / len(x))
    return bootstrap_mean(x, rng, confidence)


def paired_difference(a: ArrayLike, b: ArrayLike, rng: np.random.Generator, confidence: float = 0.95) -> Difference:
    """Mean of `a - b`, both (n,) and paired by position (the same seed), with its bootstrap interval."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape:
        raise ValueError(f"paired values must have one shape, got {x.shape} and {y.shape}")
    apart = np.where(_level(x, y), 0.0, x - y)
    mean = float(apart.mean()) if len(x) else math.nan
    return Difference(mean, *bootstrap_mean(apart, rng, confidence))


def _level(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether values are equal up to the rounding of sums."""
    return np.isclose(x, y, rtol=1e-9, atol=1e-9)


def ranks(values: Sequence[float]) -> list[float]:
    """Rank of each value, 1 for the highest; equal values share the mean of their places (1, 2.5, 2.5, 4)."""
    return [float(rank) for rank in stats.rankdata([-value for value in values])]


def mean_signs(means: Sequence[float]) -> NDArray[np.int64]:
    """Pairwise order (n, n) by the means alone: +1 where row beats column, -1 where it loses, 0 for a tie."""
    x = np.asarray(means, dtype=np.float64)
    rows, columns = x[:, None], x[None, :]
    return np.where(_level(rows, columns), 0, np.sign(rows - columns)).astype(np.int64)


def agreement(a: NDArray[np.int64], b: NDArray[np.int64]) -> Agreement:
    """Compares two pairwise orders (n, n). On `mean_signs` this is Kendall's tau-b of the means (Kendall 1945)."""
    upper = np.triu_indices(len(a), 1)
    x, y = a[upper], b[upper]
    norm = math.sqrt(float((x * x).sum()) * float((y * y).sum()))
    against = tuple((int(i), int(j)) for i, j, s in zip(*upper, x * y, strict=True) if s < 0)
    return Agreement(float((x * y).sum()) / norm if norm else None, bool((x == y).all()), against)
