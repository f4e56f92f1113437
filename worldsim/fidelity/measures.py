"""Plain measures on plain arrays: PSNR, detection, calibration. Axes: B windows, T steps, N predictions."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, minimize_scalar
from scipy.stats import rankdata

from worldsim.spaces import Bools, Floats, Ints

Curve = list[float | None]  # one value for each horizon, None where there is no data

BINS = 10  # of reliability diagrams


def squared_error(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Floats:
    """Mean squared error (B, T) of uint8 frames (B, T, H, W, C), in units of full scale."""
    return np.stack([_squares(a[:, t], b[:, t]).mean((1, 2, 3)) for t in range(a.shape[1])], 1).astype(np.float64)


def changed_error(a: NDArray[np.uint8], b: NDArray[np.uint8], before: NDArray[np.uint8]) -> tuple[Floats, Ints]:
    """Squared error (B, T) summed over the values of `b` whose pixel differs from `before` (B, 1, H, W, C), and their
    number (B, T). A pixel differs if any of its channels does.
    """
    errors, counts = [], []
    for t in range(b.shape[1]):
        differs = (b[:, t] != before[:, 0]).any(-1)
        errors.append((_squares(a[:, t], b[:, t]).sum(-1) * differs).sum((1, 2)))
        counts.append(differs.sum((1, 2)) * b.shape[-1])
    return np.stack(errors, 1).astype(np.float64), np.stack(counts, 1)


def _squares(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float32]:
    difference: NDArray[np.float32] = a.astype(np.float32) - b
    difference *= 1 / 255
    np.square(difference, out=difference)
    return difference


class WeightedSum(NamedTuple):
    """Weighted sums (T,) of a measure over windows, from which its mean follows; sums of more windows can be added."""

    values: Floats  # sum of weighted values
    weight: Floats  # sum of weights

    @classmethod
    def of(cls, values: NDArray[Any], weight: NDArray[Any]) -> Self:
        """Sums over B of values (B, T) with weights (B, T)."""
        weighted = np.where(weight > 0, values * weight, 0)
        return cls(weighted.sum(0, dtype=np.float64), weight.sum(0, dtype=np.float64))

    def plus(self, more: Self) -> Self:
        return type(self)(self.values + more.values, self.weight + more.weight)

    def mean(self) -> Curve:
        """Weighted means; None where the weights sum to 0."""
        return [float(v / w) if w else None for v, w in zip(*self, strict=True)]


def psnr(mean_squared_error: Curve) -> Curve:
    """Peak signal-to-noise ratio in dB, of errors in units of full scale; 100 where there is no error."""
    return [None if x is None else float(-10 * np.log10(max(x, 1e-10))) for x in mean_squared_error]


class Detection(NamedTuple):
    """How well events are predicted, each at exactly its step."""

    precision: float | None  # None where nothing was predicted, or nothing happened
    recall: float | None  # None where nothing happened
    f1: float | None  # None where nothing happened
    events: int  # actual events
    predicted: int  # predicted events, rightly or not


def detection(predicted: Bools, actual: Bools) -> Detection:
    """Precision, recall and F1 of predicted against actual events, both (N,); None where there are no events."""
    hits, positives, events = (int(each.sum()) for each in (predicted & actual, predicted, actual))
    if not events:
        return Detection(None, None, None, 0, positives)
    precision = hits / positives if positives else None
    return Detection(precision, hits / events, 2 * hits / (positives + events), events, positives)


def auroc(scores: Floats, truth: Bools) -> float | None:
    """Area under the ROC curve: probability that a true one scores above a false one (Hanley and McNeil 1982).

    None where all are true or all are false.
    """
    positive = int(truth.sum())
    negative = len(truth) - positive
    if not positive or not negative:
        return None
    ranks = rankdata(scores)
    return float((ranks[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))


def reliability(probability: Floats, truth: Bools) -> list[dict[str, float]]:
    """A reliability diagram: mean predicted probability and observed frequency, in BINS bins of equal width.

    Empty bins are left out.
    """
    place = np.minimum((probability * BINS).astype(int), BINS - 1)
    groups = [place == index for index in range(BINS)]
    return [
        {"predicted": float(probability[g].mean()), "observed": float(truth[g].mean()), "count": int(g.sum())}
        for g in groups
        if g.any()
    ]


def calibration_error(bins: list[dict[str, float]]) -> float:
    """Expected calibration error (Guo et al. 2017, eq. 3) of a reliability diagram."""
    total = sum(each["count"] for each in bins)
    return float(sum(each["count"] * abs(each["predicted"] - each["observed"]) for each in bins) / max(1, total))


def fit_temperature(negative_log_likelihood: Callable[[float], float]) -> float:
    """The temperature in [1/20, 20] with the least negative log-likelihood, given in nats over all the data.

    A standard normal prior on its logarithm keeps it near 1 where there is little data.
    """

    def cost(log_temperature: float) -> float:
        return negative_log_likelihood(float(np.exp(log_temperature))) + 0.5 * log_temperature**2

    return float(np.exp(minimize_scalar(cost, bounds=(-np.log(20), np.log(20)), method="bounded").x))


def trust_curve(entropy: Floats, within: Bools, bins: int = 40) -> tuple[Floats, Floats]:
    """Probability of being within tolerance as a falling function of cumulative entropy.

    Isotonic regression over quantile bins; returns the mean entropy of each bin and the probability there.
    """
    order = np.argsort(entropy, kind="stable")
    groups = np.array_split(order, min(bins, len(order)))
    middle = np.array([entropy[group].mean() for group in groups])
    share = np.array([within[group].mean() for group in groups])
    weights = np.array([len(group) for group in groups], float)
    fitted = isotonic_regression(share, weights=weights, increasing=False).x
    return middle, np.clip(fitted, 0, 1)
