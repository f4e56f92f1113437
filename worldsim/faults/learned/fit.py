"""A plan learned from production: per tool the latencies, the mix of errors and their bursts, out of recorded calls."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from rich.table import Table

from worldsim.errors import ConfigError
from worldsim.faults.kinds.latencies import GivenUp, Latencies, fit_given_up, fit_latencies, shortened
from worldsim.faults.learned.bursts import Failures, fit_failures
from worldsim.faults.learned.traces import TracedCall, read_traces
from worldsim.faults.plans.plan import Plan
from worldsim.files import write_atomically

REFUSALS: dict[str, dict[str, Any]] = {  # kind of failure -> the fault that causes it, with rate 1 at severity 1
    "rate_limited": {"kind": "rate_limited"},
    "quota": {"kind": "rate_limited"},
    "server_error": {"kind": "server_error"},
    "bad_gateway": {"kind": "bad_gateway"},
    "unavailable": {"kind": "unavailable"},
    "connection": {"kind": "dropped_connection"},
    "unauthorized": {"kind": "expired_token", "outage_calls": 1},
    "forbidden": {"kind": "lost_permission", "outage_calls": 1},
    "malformed": {"kind": "malformed_output", "loud": 1.0},
}


class FitConfig(BaseModel):
    """What to learn a plan from. The keys are explained in configs/faults-fit.yaml."""

    model_config = ConfigDict(extra="forbid")

    traces: Path
    out: Path = Path("plan.yaml")
    fewest: int = Field(20, ge=2)
    tolerance: float = Field(0.1, gt=0, le=1)
    lose_answer: float = Field(0.5, ge=0, le=1)
    seed: int = Field(0, ge=0, lt=2**32)


class ToolFit(NamedTuple):
    """What was found of one tool."""

    tool: str
    calls: int
    latencies: Latencies | None  # None: no call was answered
    failures: dict[str, tuple[int, Failures]]  # kind -> how many, and how they come; outermost first
    retry_after_s: dict[str, float]
    timeout_s: float


class Fitted(NamedTuple):
    """A plan and what it was learned from."""

    plan: Plan
    tools: list[ToolFit]
    left_out: list[str]  # tools with too few calls

    def latency_table(self) -> Table:
        """Per tool: the distribution, its goodness of fit, and its tail beside the measured one."""
        table = Table(title="Latencies in seconds: fitted (measured)", title_justify="left")
        for name in ("tool", "distribution"):
            table.add_column(name, overflow="fold")
        for name in ("calls", "KS", "p", "median", "95 %", "99 %", "next best, AIC"):
            table.add_column(name, justify="right")
        for each in self.tools:
            if each.latencies is not None:
                table.add_row(each.tool, *_latency_row(each.latencies))
        return table

    def failure_table(self) -> Table:
        """Per tool and kind of failure: how many, how often, and whether in bursts."""
        table = Table(title="Failures", title_justify="left")
        for name in ("tool", "failure"):
            table.add_column(name, overflow="fold")
        for name in ("calls", "failed", "share", "bursts of", "every", "AIC gain"):
            table.add_column(name, justify="right")
        for each in self.tools:
            for kind, (count, found) in each.failures.items():
                bursts = ("-", "-")
                if found.bursts is not None:
                    period = found.bursts.mean_calls + found.bursts.mean_gap
                    bursts = (f"{found.bursts.mean_calls:.1f} calls", f"{period:.1f} calls")
                share = f"{count / each.calls:.2%}"
                table.add_row(each.tool, kind, str(each.calls), str(count), share, *bursts, f"{found.gain:.1f}")
        return table


def fit(config: FitConfig) -> Fitted:
    """Learns a plan and writes it to `config.out`.

    At severity 1 the plan does what the traces show. Refusals take no time; latencies are those of answered calls.

    Raises ConfigError for traces that cannot be read and where no tool has enough calls.
    """
    fitted = fit_calls(read_traces(config.traces), config)
    heading = f"# Learned by worldsim faults fit from {sum(each.calls for each in fitted.tools)} calls.\n"
    write_atomically(config.out, heading + fitted.plan.to_yaml())
    return fitted


def fit_calls(calls: Sequence[TracedCall], config: FitConfig) -> Fitted:
    """The same for calls in the order in which they started, without writing anything."""
    counts = Counter(call.tool for call in calls)
    tools = [tool for tool, count in sorted(counts.items()) if count >= config.fewest]
    left_out = [tool for tool, count in sorted(counts.items()) if count < config.fewest]
    if not tools:
        raise ConfigError(f"no tool has {config.fewest} calls in {config.traces}; record more, or set fewest lower")
    rng = np.random.default_rng(config.seed)
    found = [_fit_tool(tool, calls, config, rng) for tool in tools]
    faults = [entry for each in found for entry in _entries(each, config.lose_answer)]
    learned = f"Learned from {len(calls)} recorded calls."
    return Fitted(Plan(name=config.out.stem, description=learned, faults=faults), found, left_out)


def _fit_tool(tool: str, calls: Sequence[TracedCall], config: FitConfig, rng: np.random.Generator) -> ToolFit:
    numbers = np.array([number for number, call in enumerate(calls) if call.tool == tool])
    own = [calls[number] for number in numbers]
    kinds = np.array([call.failure or "" for call in own])
    failures: dict[str, tuple[int, Failures]] = {}
    asked = np.ones(len(own), np.bool_)  # calls that got past the failures further out
    for kind, count in sorted(Counter(kinds[kinds != ""].tolist()).items(), key=_outermost_first):
        failures[kind] = (count, fit_failures(kinds[asked] == kind, numbers[asked]))
        asked &= kinds != kind
    waits = {kind: [call.retry_after_s for call in own if call.failure == kind] for kind in failures}
    asked_for = {kind: [wait for wait in found if wait is not None] for kind, found in waits.items()}
    retry_after_s = {kind: float(np.median(found)) for kind, found in asked_for.items() if found}
    late = [call.latency_s for call in own if call.failure == "timeout"]
    answered = np.array([call.latency_s for call in own if call.failure is None])
    latencies = _fit_latencies(answered, late, failures, config.tolerance, rng) if len(answered) else None
    return ToolFit(tool, len(own), latencies, failures, retry_after_s, float(np.median(late)) if late else 0.0)


def _outermost_first(item: tuple[str, int]) -> tuple[bool, int, str]:
    """A refused call has not waited: time-outs come last, then the commonest first."""
    kind, count = item
    return kind == "timeout", -count, kind


def _fit_latencies(
    answered: NDArray[np.float64],
    late: list[float],
    failures: dict[str, tuple[int, Failures]],
    tolerance: float,
    rng: np.random.Generator,
) -> Latencies:
    """By themselves, or with the time-outs as their tail, whichever is likelier for both together."""
    apart = fit_latencies(answered, tolerance, rng)
    whole = fit_given_up(answered, len(late), min(late), rng) if late else None
    if whole is None or whole.goodness.distance > tolerance:
        return apart
    aic = min(apart.aic.values()) + failures["timeout"][1].aic
    return whole if min(whole.aic.values()) < aic else apart


def _entries(found: ToolFit, lose_answer: float) -> list[dict[str, Any]]:
    """The faults of one tool, outermost first, as plans write them."""
    at = {"tools": [escape(found.tool)]}
    entries: list[dict[str, Any]] = []
    for kind, (_, failures) in found.failures.items():
        schedule: dict[str, Any] = {}
        if failures.bursts is not None:
            lengths = {key: shortened(value) for key, value in asdict(failures.bursts).items()}
            schedule = {"schedule": {"kind": "bursts", **lengths}}
        if kind != "timeout":
            wait = {"retry_after_s": shortened(found.retry_after_s[kind])} if kind in found.retry_after_s else {}
            wait = wait if kind != "malformed" else {}
            rate = {"severity": 1.0, "rate": shortened(failures.rate)}
            entries.append({**REFUSALS[kind], **rate, **wait, **at, **schedule})
        elif not isinstance(found.latencies and found.latencies.family, GivenUp):
            entries += [{**each, **at, **schedule} for each in _timeouts(failures.rate, found.timeout_s, lose_answer)]
    if found.latencies is not None:
        given_up = isinstance(found.latencies.family, GivenUp)
        entries.append({**found.latencies.family.to_json(), **({"lose_answer": lose_answer} if given_up else {}), **at})
    return entries


def _timeouts(rate: float, timeout_s: float, lose_answer: float) -> list[dict[str, Any]]:
    """Time-outs that lose the request, and among the calls that get through those that lose the answer."""
    request = rate * (1 - lose_answer)
    rates = {"lost_request": request, "lost_answer": rate * lose_answer / (1 - request) if request < 1 else 0.0}
    common = {"severity": 1.0, "timeout_s": shortened(timeout_s)}
    return [{"kind": kind, **common, "rate": shortened(rate)} for kind, rate in rates.items() if rate > 0]


def _latency_row(found: Latencies) -> list[str]:
    family = found.family
    said = {key: value for key, value in family.to_json().items() if key not in ("kind", "severity", "values_s")}
    shares = np.array([0.5, 0.95, 0.99])
    tails = zip(np.quantile(found.measured, shares), family.quantile(shares), strict=True)
    others = sorted(value for value in found.aic.values())[1:]
    return [
        " ".join([family.kind, *(f"{key}={value:g}" for key, value in said.items())]),
        str(len(found.measured)),
        f"{found.goodness.distance:.3f}",
        "-" if np.isnan(found.goodness.p) else f"{found.goodness.p:.3f}",
        *(f"{fitted:.3g} ({measured:.3g})" for measured, fitted in tails),
        f"+{others[0] - min(found.aic.values()):.1f}" if others else "-",
    ]
