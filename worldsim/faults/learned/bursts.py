"""Whether failures come by themselves or in bursts: the two-state Markov chain of Gilbert (1960), by likelihood."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldsim.faults.schedule import Bursts
from worldsim.spaces import Floats

MIN_FAILURES = 10  # below this many failures bursts are not fitted
MIN_AIC_GAIN = (
    10.0  # AIC by which bursts must be the better story (Burnham and Anderson 2002: "essentially no support")
)


class FailureFit(NamedTuple):
    """How calls fail: a share `rate` of all of them, or of those in bursts."""

    rate: float
    bursts: Bursts | None
    gain: float  # AIC by which bursts are the better model
    aic: float  # of the model that is chosen


def fit_failures(failed: NDArray[np.bool_], numbers: NDArray[np.int64], sessions: NDArray[np.int64]) -> FailureFit:
    """The likelier of the two for one tool.

    failed: (n,) of the calls at which the failure could have been seen, n at least 1. numbers: (n,) where they stand
    among all calls of the tool in their session, ascending within it: each of those moves the chain on, as
    `worldsim.faults.Bursts` has it, whether it was seen or hidden by an outer failure. sessions: (n,) which
    session each is of, equal ones side by side: in each the chain starts anew, as it is on average.
    """
    share = float(failed.mean())
    independent_aic = 2.0 - 2.0 * _bernoulli(int(failed.sum()), len(failed))
    if failed.sum() < MIN_FAILURES or share == 1:
        return FailureFit(share, None, 0.0, independent_aic)
    gaps = np.diff(numbers, prepend=numbers[0]).astype(np.float64)
    gaps[np.diff(sessions, prepend=sessions[0] - 1) != 0] = np.inf  # nothing is remembered over an endless gap
    p_begin, p_end, rate, log_likelihood = _gilbert(failed, gaps)
    bursts_aic = 6.0 - 2.0 * log_likelihood
    if independent_aic - bursts_aic < MIN_AIC_GAIN:
        return FailureFit(share, None, independent_aic - bursts_aic, independent_aic)
    return FailureFit(
        rate, Bursts(mean_calls=1 / p_end, mean_gap=1 / p_begin), independent_aic - bursts_aic, bursts_aic
    )


def _bernoulli(ones: int, total: int) -> float:
    share = ones / total
    zeros = total - ones
    return (ones * math.log(share) if ones else 0.0) + (zeros * math.log(1 - share) if zeros else 0.0)


def _gilbert(failed: NDArray[np.bool_], gaps: Floats) -> tuple[float, float, float, float]:
    """Probabilities of a call to begin a burst, to end one, and to fail within one; the log-likelihood."""
    from scipy.optimize import minimize
    from scipy.special import expit, logit

    def cost(point: Floats) -> float:
        p_begin, p_end, rate = np.clip(expit(point), 1e-9, 1 - 1e-9)
        return -gilbert_log_likelihood(failed, gaps, float(p_begin), float(p_end), float(rate))

    share = float(failed.mean())
    starts = [(0.3 * share, 0.3, 0.7), (0.03 * share, 0.03, 0.7), (0.1 * share, 0.1, 0.7), (0.2 * share, 0.1, 0.3)]
    options = {"xatol": 1e-3, "fatol": 1e-3, "maxiter": 400}
    points = [logit(np.clip(start, 1e-6, 0.99)) for start in starts]
    best = minimize(cost, min(points, key=cost), method="Nelder-Mead", options=options)
    p_begin, p_end, rate = np.clip(expit(best.x), 1e-9, 1 - 1e-9).tolist()
    return p_begin, p_end, rate, -float(best.fun)


def gilbert_log_likelihood(failed: NDArray[np.bool_], gaps: Floats, p_begin: float, p_end: float, rate: float) -> float:
    """Log-likelihood of failures seen at some calls of a chain that moves at every call.

    The forward algorithm, as a product of 2x2 matrices that is taken pairwise: state 0 is quiet and never fails, state
    1 is a burst. gaps: (n,) calls since the one before; infinite at the first of each session, where the chain starts
    as it is on average, so that the product is one over all sessions.
    """
    p_burst = p_begin / (p_begin + p_end)
    memory = (1 - p_begin - p_end) ** gaps  # how much of a state is remembered over a gap
    likelihood_quiet = np.where(failed, 0.0, 1.0)
    likelihood_burst = np.where(failed, rate, 1 - rate)
    product = np.array(
        [
            [(1 - p_burst + p_burst * memory) * likelihood_quiet, p_burst * (1 - memory) * likelihood_burst],
            [(1 - p_burst) * (1 - memory) * likelihood_quiet, (p_burst + (1 - p_burst) * memory) * likelihood_burst],
        ]
    )
    scale = 0.0
    while product.shape[2] > 1:
        even = product.shape[2] // 2 * 2
        left, right = product[:, :, 0:even:2], product[:, :, 1:even:2]
        pairs = np.stack([_row(left[0], right), _row(left[1], right)])
        largest = np.maximum(pairs.max(axis=(0, 1)), 1e-300)
        scale += float(np.log(largest).sum())
        product = np.concatenate([pairs / largest, product[:, :, even:]], axis=2)
    likelihood = (1 - p_burst) * product[0, :, 0].sum() + p_burst * product[1, :, 0].sum()
    return scale + math.log(max(float(likelihood), 1e-300))


def _row(row: Floats, right: Floats) -> Floats:
    return np.stack([row[0] * right[0, 0] + row[1] * right[1, 0], row[0] * right[0, 1] + row[1] * right[1, 1]])
