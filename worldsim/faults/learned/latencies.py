"""Which distribution latencies come from: fitted by maximum likelihood, chosen by AIC, tested by simulation."""

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from worldsim.spaces import Floats

EQUAL = 1e-3  # latencies that differ by less than this share of the longest are all the same
RESAMPLES = 199
RESAMPLE_SIZE = 1000  # sqrt(n) times the distance hardly depends on n beyond this


class GoodnessOfFit(NamedTuple):
    """Kolmogorov-Smirnov distance, and how often chance alone gives as great a one."""

    distance: float
    p: float


@dataclass(frozen=True)
class Distribution(ABC):
    """Latencies as a fault draws them. The fields are the parameters of that fault at severity 1."""

    kind: ClassVar[str]  # of the fault

    @property
    def end_s(self) -> float:
        """Seconds at which the distribution is cut off (censored)."""
        return math.inf

    @abstractmethod
    def cdf(self, seconds: Floats) -> Floats:
        """Shares of the calls that take no longer."""

    @abstractmethod
    def quantile(self, share: Floats) -> Floats:
        """Seconds that these shares of the calls stay below."""

    def to_json(self) -> dict[str, Any]:
        """The fault, as plans write it."""
        return {"kind": self.kind, "severity": 1.0, **{k: rounded(v) for k, v in asdict(self).items()}}


@dataclass(frozen=True)
class ParametricDistribution(Distribution):
    """A distribution with a density, fitted by maximum likelihood."""

    @classmethod
    @abstractmethod
    def fitted(cls, seconds: Floats) -> "ParametricDistribution":
        """To positive latencies."""

    @abstractmethod
    def log_density(self, seconds: Floats) -> Floats:
        """Natural logarithm of the density, per second."""

    def aic(self, seconds: Floats) -> float:
        """Akaike's information criterion (1974); smaller is better."""
        return 2.0 * len(asdict(self)) - 2.0 * float(self.log_density(seconds).sum())


@dataclass(frozen=True)
class Constant(ParametricDistribution):
    """All calls take the same time."""

    kind = "constant_latency"
    seconds: float

    @classmethod
    def fitted(cls, seconds: Floats) -> "Constant":
        return cls(float(np.median(seconds)))

    def log_density(self, seconds: Floats) -> Floats:
        """That of an even spread over all that counts as equal."""
        width = max(EQUAL * self.seconds, 1e-9)
        return np.where(np.abs(seconds - self.seconds) <= width, -math.log(2 * width), -np.inf)

    def cdf(self, seconds: Floats) -> Floats:
        return (seconds >= self.seconds).astype(float)

    def quantile(self, share: Floats) -> Floats:
        return np.full(len(share), self.seconds)


@dataclass(frozen=True)
class Uniform(ParametricDistribution):
    """Evenly spread."""

    kind = "uniform_latency"
    low_s: float
    high_s: float

    @classmethod
    def fitted(cls, seconds: Floats) -> "Uniform":
        return cls(float(seconds.min()), float(seconds.max()))

    def log_density(self, seconds: Floats) -> Floats:
        return np.full(len(seconds), -math.log(max(self.high_s - self.low_s, 1e-12)))

    def cdf(self, seconds: Floats) -> Floats:
        return np.clip((seconds - self.low_s) / max(self.high_s - self.low_s, 1e-12), 0, 1)

    def quantile(self, share: Floats) -> Floats:
        return self.low_s + share * (self.high_s - self.low_s)


@dataclass(frozen=True)
class Lognormal(ParametricDistribution):
    """Log-normal."""

    kind = "lognormal_latency"
    median_s: float
    sigma: float

    @classmethod
    def fitted(cls, seconds: Floats) -> "Lognormal":
        logs = np.log(seconds)
        return cls(math.exp(logs.mean()), max(float(logs.std()), 1e-9))

    def log_density(self, seconds: Floats) -> Floats:
        logs = np.log(seconds)
        return -(self._standard(seconds) ** 2) / 2 - logs - math.log(self.sigma * math.sqrt(2 * math.pi))

    def cdf(self, seconds: Floats) -> Floats:
        from scipy.special import ndtr

        return np.asarray(ndtr(self._standard(seconds)))

    def quantile(self, share: Floats) -> Floats:
        from scipy.special import ndtri

        return self.median_s * np.exp(self.sigma * np.asarray(ndtri(share)))

    def _standard(self, seconds: Floats) -> Floats:
        return (np.log(seconds) - math.log(self.median_s)) / self.sigma


@dataclass(frozen=True)
class Pareto(ParametricDistribution):
    """Pareto: the share of the calls that take longer than t falls as a power of t."""

    kind = "pareto_latency"
    minimum_s: float
    shape: float

    @classmethod
    def fitted(cls, seconds: Floats) -> "Pareto":
        minimum = float(seconds.min())
        mean_log = float(np.log(seconds / minimum).mean())
        return cls(minimum, float(np.clip(1 / max(mean_log, 1e-9), 0.1, 100)))

    def log_density(self, seconds: Floats) -> Floats:
        return math.log(self.shape) - (self.shape + 1) * np.log(seconds / self.minimum_s) - math.log(self.minimum_s)

    def cdf(self, seconds: Floats) -> Floats:
        return 1 - (np.maximum(seconds, self.minimum_s) / self.minimum_s) ** -self.shape

    def quantile(self, share: Floats) -> Floats:
        return np.asarray(self.minimum_s * (1 - share) ** (-1 / self.shape), np.float64)


@dataclass(frozen=True)
class Empirical(Distribution):
    """The measured latencies themselves, 100 of them: for what comes from no family here."""

    kind = "empirical_latency"
    values_s: tuple[float, ...]

    @classmethod
    def fitted(cls, seconds: Floats) -> "Empirical":
        return cls(tuple(rounded(each) for each in np.quantile(seconds, np.linspace(0.005, 0.995, 100)).tolist()))

    def cdf(self, seconds: Floats) -> Floats:
        return np.asarray(np.searchsorted(self.values_s, seconds, side="right") / len(self.values_s), np.float64)

    def quantile(self, share: Floats) -> Floats:
        return np.quantile(self.values_s, share, method="inverted_cdf").astype(np.float64)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "severity": 1.0, "values_s": list(self.values_s)}


@dataclass(frozen=True)
class CensoredLognormal(ParametricDistribution):
    """Log-normal, and calls that take `timeout_s` are given up: such latencies are measured as `timeout_s`."""

    kind = "slow_api"
    median_s: float
    sigma: float
    timeout_s: float

    @classmethod
    def fitted(cls, seconds: Floats) -> "CensoredLognormal":
        """The longest of the latencies is taken for the time-out; what lies there is censored."""
        from scipy.optimize import minimize
        from scipy.special import log_ndtr

        end = float(seconds.max())
        logs = np.log(seconds[seconds < end])
        mean, variance, later = float(logs.mean()), float(logs.var()), len(seconds) - len(logs)

        def cost(point: Floats) -> float:
            spread = math.exp(point[1])
            answered = len(logs) * (point[1] + (variance + (point[0] - mean) ** 2) / (2 * spread**2))
            return float(answered - later * log_ndtr((point[0] - math.log(end)) / spread))

        start = [mean, math.log(max(math.sqrt(variance), 1e-3))]
        best = minimize(cost, start, method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-5, "maxiter": 1000})
        return cls(math.exp(best.x[0]), math.exp(best.x[1]), end)

    @property
    def end_s(self) -> float:
        return self.timeout_s

    def log_density(self, seconds: Floats) -> Floats:
        from scipy.special import log_ndtr

        later = log_ndtr(math.log(self.median_s / self.timeout_s) / self.sigma)
        return np.where(seconds < self.timeout_s, self._whole.log_density(seconds), later)

    def cdf(self, seconds: Floats) -> Floats:
        return np.where(seconds < self.timeout_s, self._whole.cdf(seconds), 1.0)

    def quantile(self, share: Floats) -> Floats:
        return np.minimum(self._whole.quantile(share), self.timeout_s)

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "sigma": rounded(self.sigma / 1.1)}  # as SlowAPI spreads at severity 1

    @property
    def _whole(self) -> Lognormal:
        return Lognormal(self.median_s, self.sigma)


class LatencyFit(NamedTuple):
    """How long a tool's calls take."""

    family: Distribution
    goodness: GoodnessOfFit
    aic: dict[str, float]  # of each family that was tried, by the kind of its fault
    measured: Floats  # sorted


def fit_latencies(seconds: Floats, tolerance: float, rng: np.random.Generator) -> LatencyFit:
    """The likeliest distribution, or the measured values where even that is further off than `tolerance`.

    seconds: (n,) of calls that were answered, n at least 1. tolerance: a Kolmogorov-Smirnov distance.
    """
    seconds = np.sort(seconds)
    families: list[type[ParametricDistribution]] = [Uniform, Lognormal, Pareto] if seconds[0] > 0 else [Uniform]
    if seconds[-1] - seconds[0] <= EQUAL * seconds[-1]:
        families = [Constant]
    found = [family.fitted(seconds) for family in families]
    aic = {each.kind: each.aic(seconds) for each in found}
    best = min(found, key=lambda each: aic[each.kind])
    if isinstance(best, Constant):
        return LatencyFit(best, GoodnessOfFit(0.0, 1.0), aic, seconds)
    if ks_distance(best, seconds) > tolerance:
        measured = Empirical.fitted(seconds)
        return LatencyFit(measured, GoodnessOfFit(ks_distance(measured, seconds), math.nan), aic, seconds)
    return LatencyFit(best, _goodness(best, seconds, rng), aic, seconds)


def fit_censored(seconds: Floats, timeouts: int, timeout_s: float, rng: np.random.Generator) -> LatencyFit | None:
    """The same with the calls that were given up, as the tail of one distribution; None where that cannot be."""
    if not timeouts or seconds.min() <= 0 or seconds.max() >= timeout_s:
        return None
    every = np.sort(np.append(seconds, np.full(timeouts, timeout_s)))
    best = CensoredLognormal.fitted(every)
    return LatencyFit(best, _goodness(best, every, rng), {best.kind: best.aic(every)}, every)


def ks_distance(family: Distribution, seconds: Floats) -> float:
    """The greatest gap between a distribution and sorted measurements, as shares of the calls, before its end."""
    steps = np.arange(len(seconds) + 1) / len(seconds)
    below = family.cdf(seconds[seconds < family.end_s])
    return float(max((steps[1 : len(below) + 1] - below).max(), (below - steps[: len(below)]).max()))


def _goodness(family: ParametricDistribution, seconds: Floats, rng: np.random.Generator) -> GoodnessOfFit:
    """The p-value is simulated, refitting each time, as fitted parameters lie closer than true ones.

    Parametric bootstrap (Stute, Gonzalez Manteiga and Presedo Quindimil 1993).
    """
    size = min(len(seconds), RESAMPLE_SIZE)
    distance = ks_distance(family, seconds)
    greater = 0
    for _ in range(RESAMPLES):
        drawn = np.sort(family.quantile(rng.random(size)))
        by_chance = ks_distance(type(family).fitted(drawn), drawn)
        greater += math.sqrt(size) * by_chance >= math.sqrt(len(seconds)) * distance
    return GoodnessOfFit(distance, (greater + 1) / (RESAMPLES + 1))


def rounded(value: float) -> float:
    """A number with four digits that count, as a plan is read by people."""
    return float(f"{value:.4g}")
