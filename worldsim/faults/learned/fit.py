"""A plan learned from production: per tool the latencies, the mix of errors and their bursts, out of recorded calls."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from rich.table import Table

from worldsim.errors import ConfigError
from worldsim.faults.learned.bursts import FailureFit, fit_failures
from worldsim.faults.learned.calls import TracedCall
from worldsim.faults.learned.latencies import CensoredLognormal, LatencyFit, fit_censored, fit_latencies, rounded
from worldsim.faults.learned.traces import read_traces
from worldsim.faults.plans.plan import Plan
from worldsim.faults.schedule import Bursts
from worldsim.files import alone_at, lies_in, refuse_foreign, starts_with, write_atomically
from worldsim.settings import Seed, Settings

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
HEADING = "# Learned by worldsim faults fit"  # the first line of a learned plan
# After these it is not known whether the call was executed. 503 is among them: a service that sends it has done
# nothing, but proxies and gRPC report the same for a connection that broke after the request had been sent.
AMBIGUOUS_FAILURES = ("connection", "server_error", "bad_gateway", "unavailable")


class FitConfig(Settings):
    """What to learn a plan from."""

    traces: Path = Field(
        description="JSON lines, one call a line, or spans as OpenTelemetry, Jaeger, Tempo, Langfuse, Phoenix, "
        "Vercel's AI SDK, OpenLLMetry or Harbor (ATIF) export them; a file, or a folder of them; docs/faults.md says "
        "what they hold"
    )
    out: Path = Field(Path("plan.yaml"), description="the plan")
    fewest: int = Field(20, ge=2, description="tools with fewer calls than this are left out")
    tolerance: float = Field(
        0.1,
        gt=0,
        le=1,
        description="the greatest Kolmogorov-Smirnov distance at which a distribution is believed; where none is, 100 "
        "measured latencies are written instead",
    )
    lose_answer: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the time-outs, broken connections and answers 500, 502 and 503 that are taken to have "
        "been carried out all the same, which no trace can tell; of those that say no (401, 403, 429) nothing was",
    )
    seed: Seed = Field(0, description="of the simulated p-values")


class ToolFit(NamedTuple):
    """What was found of one tool."""

    tool: str
    calls: int
    latencies: LatencyFit | None  # None: no call was answered, or none was timed
    failures: dict[str, tuple[int, FailureFit]]  # kind -> how many, and how they come; outermost first
    retry_after_s: dict[str, float]
    timeout_s: float | None  # None: no time-out, or none that was measured


class FitResult(NamedTuple):
    """A plan and what it was learned from."""

    plan: Plan
    tools: list[ToolFit]
    left_out: list[str]  # tools with too few calls
    notes: list[str]  # what else the traces held and the plan does not: a line each

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
        table = Table(title="FailureFit", title_justify="left")
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


def fit(config: FitConfig) -> FitResult:
    """Learns a plan and writes it to `config.out`.

    At severity 1 the plan does what the traces show. Refusals take no time; latencies are those of answered calls.

    Raises ConfigError for traces that cannot be read, where no tool has enough calls, where the plan would lie over the
    traces or among them, and where `config.out` is a file that was not learned so.
    """
    if lies_in(config.out, config.traces):
        raise ConfigError(f"out={config.out} would lie over traces={config.traces} or among them; choose another out=")
    with alone_at(config.out):
        if not starts_with(config.out, HEADING):
            refuse_foreign([config.out], "faults fit")
        traces = read_traces(config.traces)
        fitted = fit_calls(traces.calls, config)
        heading = f"{HEADING} from {sum(each.calls for each in fitted.tools)} calls.\n"
        write_atomically(config.out, heading + fitted.plan.to_yaml())
    return fitted._replace(notes=[*traces.notes, *fitted.notes])


def fit_calls(calls: Sequence[TracedCall], config: FitConfig) -> FitResult:
    """The same for calls in the order in which they started, without writing anything."""
    by_tool: dict[str, list[TracedCall]] = defaultdict(list)
    for call in calls:
        by_tool[call.tool].append(call)
    tools = [tool for tool, tool_calls in sorted(by_tool.items()) if len(tool_calls) >= config.fewest]
    left_out = [tool for tool, tool_calls in sorted(by_tool.items()) if len(tool_calls) < config.fewest]
    if not tools:
        raise ConfigError(f"no tool has {config.fewest} calls in {config.traces}; record more, or set fewest lower")
    rng = np.random.default_rng(config.seed)
    found = [_fit_tool(tool, by_tool[tool], config, rng) for tool in tools]
    faults = [entry for each in found for entry in _entries(each, config.lose_answer)]
    untimed = [tool for tool in tools if all(call.latency_s is None for call in by_tool[tool])]
    notes = [f"the traces do not say how long calls took: {', '.join(untimed)}"] if untimed else []
    learned = f"Learned from {len(calls)} recorded calls."
    return FitResult(Plan(name=config.out.stem, description=learned, faults=faults), found, left_out, notes)


def _fit_tool(tool: str, calls: Sequence[TracedCall], config: FitConfig, rng: np.random.Generator) -> ToolFit:
    tool_calls, numbers, sessions = _by_session(calls)
    kinds = np.array([call.failure or "" for call in tool_calls])
    # The plan has the kinds of failure in a row, the commonest outermost and time-outs
    # innermost: each is fitted on the calls that reach it.
    failures: dict[str, tuple[int, FailureFit]] = {}
    reached = np.ones(len(tool_calls), np.bool_)  # calls that no outer failure has stopped
    for kind, count in sorted(Counter(kinds[kinds != ""].tolist()).items(), key=_outermost_first):
        failures[kind] = (count, fit_failures(kinds[reached] == kind, numbers[reached], sessions[reached]))
        reached &= kinds != kind
    retry_afters: dict[str, list[float]] = defaultdict(list)
    for kind, call in zip(kinds.tolist(), tool_calls, strict=True):
        if kind and call.retry_after_s is not None:
            retry_afters[kind].append(call.retry_after_s)
    retry_after_s = {kind: float(np.median(waits)) for kind, waits in retry_afters.items()}
    timed = [
        (kind, call.latency_s)
        for kind, call in zip(kinds.tolist(), tool_calls, strict=True)
        if call.latency_s is not None
    ]
    timeouts_s = [latency_s for kind, latency_s in timed if kind == "timeout"]
    answered = np.array([latency_s for kind, latency_s in timed if not kind])
    latencies = _fit_latencies(answered, timeouts_s, failures, config.tolerance, rng) if len(answered) else None
    return ToolFit(
        tool, len(tool_calls), latencies, failures, retry_after_s, float(np.median(timeouts_s)) if timeouts_s else None
    )


def _by_session(calls: Sequence[TracedCall]) -> tuple[list[TracedCall], NDArray[np.int64], NDArray[np.int64]]:
    """Calls of a tool, (n,), those of a session side by side; their numbers in it; which session each is of."""
    by_session: dict[str, list[TracedCall]] = defaultdict(list)
    for call in calls:
        by_session[call.session].append(call)
    lengths = [len(tool_calls) for tool_calls in by_session.values()]
    numbers = np.concatenate([np.arange(length) for length in lengths])
    return (
        [call for tool_calls in by_session.values() for call in tool_calls],
        numbers,
        np.repeat(np.arange(len(lengths)), lengths),
    )


def _outermost_first(item: tuple[str, int]) -> tuple[bool, int, str]:
    """A refused call has not waited: time-outs come last, then the commonest first."""
    kind, count = item
    return kind == "timeout", -count, kind


def _fit_latencies(
    answered: NDArray[np.float64],
    timeouts_s: list[float],
    failures: dict[str, tuple[int, FailureFit]],
    tolerance: float,
    rng: np.random.Generator,
) -> LatencyFit:
    """By themselves, or with the time-outs as their tail, whichever is likelier for both together."""
    apart = fit_latencies(answered, tolerance, rng)
    whole = fit_censored(answered, len(timeouts_s), min(timeouts_s), rng) if timeouts_s else None
    if whole is None or whole.goodness.distance > tolerance:
        return apart
    aic = min(apart.aic.values()) + failures["timeout"][1].aic
    return whole if min(whole.aic.values()) < aic else apart


def _entries(found: ToolFit, lose_answer: float) -> list[dict[str, Any]]:
    """The faults of one tool, outermost first, as plans write them."""
    at = {"tools": [escape(found.tool)]}
    entries: list[dict[str, Any]] = []
    for kind, (_, failures) in found.failures.items():
        if kind != "timeout":
            entries.append({**_refusal(kind, failures, found, lose_answer), **at, **_schedule(failures.bursts)})
        elif not isinstance(found.latencies and found.latencies.family, CensoredLognormal):
            entries += [{**each, **at} for each in _timeouts(failures, found.timeout_s, lose_answer)]
    if found.latencies is not None:
        given_up = isinstance(found.latencies.family, CensoredLognormal)
        entries.append({**found.latencies.family.to_json(), **({"lose_answer": lose_answer} if given_up else {}), **at})
    return entries


def _refusal(kind: str, failures: FailureFit, found: ToolFit, lose_answer: float) -> dict[str, Any]:
    entry = {**REFUSALS[kind], "severity": 1.0, "rate": rounded(failures.rate)}
    if kind == "malformed":  # a malformed reply means that the call was executed
        return entry
    entry["lose_answer"] = lose_answer if kind in AMBIGUOUS_FAILURES else 0.0
    return {**entry, "retry_after_s": rounded(found.retry_after_s[kind])} if kind in found.retry_after_s else entry


def _timeouts(failures: FailureFit, timeout_s: float | None, lose_answer: float) -> list[dict[str, Any]]:
    """Time-outs that lose the request, and among the calls that get through those that lose the answer.

    The two have bursts of their own: each burst loses either requests or answers, in as many calls as before.
    """
    rate, bursts = failures.rate, failures.bursts
    share = rate * (bursts.share if bursts else 1.0)
    request = share * (1 - lose_answer)
    shares = {"lost_request": request, "lost_answer": share * lose_answer / (1 - request) if request < 1 else 0.0}
    common = {"severity": 1.0, **({} if timeout_s is None else {"timeout_s": rounded(timeout_s)})}
    return [
        {"kind": kind, **common, **_in_bursts_of(bursts, of_calls, rate)}
        for kind, of_calls in shares.items()
        if of_calls
    ]


def _in_bursts_of(bursts: Bursts | None, of_calls: float, rate: float) -> dict[str, Any]:
    """A failure of this share of all calls, by itself or at this rate in bursts of the same length."""
    if bursts is None:
        return {"rate": rounded(of_calls)}
    within = min(of_calls / rate, bursts.mean_calls / (bursts.mean_calls + 1))  # a gap is one call or more
    gap = bursts.mean_calls * (1 - within) / within
    return {"rate": rounded(rate), **_schedule(Bursts(mean_calls=bursts.mean_calls, mean_gap=gap))}


def _schedule(bursts: Bursts | None) -> dict[str, Any]:
    if bursts is None:
        return {}
    lengths = {"mean_calls": rounded(bursts.mean_calls), "mean_gap": rounded(bursts.mean_gap)}
    return {"schedule": {"kind": "bursts", **lengths}}


def _latency_row(found: LatencyFit) -> list[str]:
    family = found.family
    parameters = {key: value for key, value in family.to_json().items() if key not in ("kind", "severity", "values_s")}
    shares = np.array([0.5, 0.95, 0.99])
    tails = zip(np.quantile(found.measured, shares), family.quantile(shares), strict=True)
    others = sorted(value for value in found.aic.values())[1:]
    return [
        " ".join([family.kind, *(f"{key}={value:g}" for key, value in parameters.items())]),
        str(len(found.measured)),
        f"{found.goodness.distance:.3f}",
        "-" if np.isnan(found.goodness.p) else f"{found.goodness.p:.3f}",
        *(f"{fitted:.3g} ({measured:.3g})" for measured, fitted in tails),
        f"+{others[0] - min(found.aic.values()):.1f}" if others else "-",
    ]
