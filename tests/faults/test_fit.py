"""A plan learned from traces against the plan that made them, and its parts against other means to the same end."""

import json
import math
from collections import defaultdict
from collections.abc import Callable
from fnmatch import fnmatch
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from worldsim.cli import main
from worldsim.errors import ConfigError
from worldsim.faults import Bursts, Plan
from worldsim.faults.learned.bursts import fit_failures, gilbert_log_likelihood
from worldsim.faults.learned.calls import TracedCall
from worldsim.faults.learned.fit import FitConfig, FitResult, fit, fit_calls
from worldsim.faults.learned.latencies import CensoredLognormal, Lognormal, Pareto, Uniform, fit_latencies, ks_distance
from worldsim.faults.learned.traces import read_traces

PRODUCTION = """
faults:
  - {kind: rate_limited, severity: 1, rate: 0.5, retry_after_s: 7, tools: [pay],
     schedule: {kind: bursts, mean_calls: 12, mean_gap: 60}}
  - {kind: server_error, severity: 1, rate: 0.05, tools: [pay]}
  - {kind: lognormal_latency, severity: 1, median_s: 0.4, sigma: 0.8, tools: [pay]}
  - {kind: lost_request, severity: 1, rate: 0.1, timeout_s: 5, tools: ["find[*]"]}
  - {kind: pareto_latency, severity: 1, minimum_s: 0.2, shape: 2.5, tools: ["find[*]"]}
  - {kind: bad_gateway, severity: 1, rate: 0.08, tools: [list]}
  - {kind: uniform_latency, severity: 1, low_s: 0.2, high_s: 0.5, tools: [list]}
  - {kind: slow_api, severity: 1, median_s: 1.5, timeout_s: 4, sigma: 0.9, tools: [old]}
  - {kind: constant_latency, severity: 1, seconds: 0.25, tools: [fix]}
"""
TOOLS = ["pay", "find*", "list", "old", "fix"]
ERRORS_OF = {"dropped_connection": "connection", "lost_request": "timeout", "lost_answer": "timeout"}
Row = dict[str, Any]


def record(plan: Plan, tools: list[str], calls: int, sessions: int = 1, seed: int = 0) -> list[Row]:
    """What callers see of calls to random tools under a plan, by nothing but what the plan's words mean.

    A schedule counts the calls of each tool in each session, and starts there as it is on average. The sessions run
    side by side. Only the kinds of fault are known here that a fit writes.
    """
    rng = np.random.default_rng(seed)
    now = 1.7e9 + rng.random(sessions)
    on: dict[tuple[int, int], bool] = {}
    rows = []
    for session, tool in zip(
        rng.integers(sessions, size=calls).tolist(), rng.choice(tools, calls).tolist(), strict=True
    ):
        mine = [
            (number, fault)
            for number, fault in enumerate(plan.faults)
            if any(fnmatch(tool, glob) for glob in fault.tools)
        ]
        for number, fault in mine:  # the chains move at every call, whether or not a fault further out lets it through
            if isinstance(fault.schedule, Bursts):
                before = on.get((session, number))
                turns = 1 / (fault.schedule.mean_calls if before else fault.schedule.mean_gap)
                flips = rng.random() < (fault.schedule.share if before is None else turns)
                on[session, number] = bool(before) ^ bool(flips)
        row: Row = {"tool": tool, "session": str(session), "start": float(now[session]), "latency_s": 0.0, "ok": True}
        for number, fault in mine:
            if on.get((session, number), True):
                outcome(row, fault, rng)
            if not row["ok"]:
                break
        now[session] += row["latency_s"] + 0.01
        rows.append(row)
    return sorted(rows, key=lambda row: row["start"])


def outcome(row: Row, fault: Any, rng: np.random.Generator) -> None:
    """What one fault does to a call that has come so far."""
    kind, draw = fault.kind, rng.random()
    if kind.endswith("_latency"):
        row["latency_s"] = float(fault.latencies_s(np.array([draw]))[0])
    elif kind == "slow_api":
        seconds = fault.median_s * math.exp(1.1 * fault.sigma * rng.standard_normal())
        late = seconds >= fault.timeout_s
        row |= {"latency_s": min(seconds, fault.timeout_s)} | ({"ok": False, "error": "timeout"} if late else {})
    elif draw < fault.rate:
        row |= {"ok": False, "error": ERRORS_OF.get(kind, kind), "latency_s": getattr(fault, "timeout_s", 0.0)}
        row["retry_after_s"] = getattr(fault, "retry_after_s", None)


def learned(rows: list[Row], **settings: Any) -> FitResult:
    return fit_calls([TracedCall(**row) for row in rows], FitConfig(traces=Path("t.jsonl"), **settings))


def after_a_failure(rows: list[Row], tool: str, error: str) -> tuple[float, int]:
    """P(a call fails | the last of this tool in the session failed), and in how many cases that was seen."""
    by_session = defaultdict(list)
    for row in rows:
        if row["tool"] == tool:
            by_session[row["session"]].append(row.get("error") == error)
    pairs = [pair for failed in by_session.values() for pair in zip(failed, failed[1:], strict=False)]
    again = [after for before, after in pairs if before]
    return float(np.mean(again)), len(again)


@pytest.fixture(scope="module")
def production() -> list[Row]:
    return record(Plan.from_yaml(PRODUCTION), TOOLS, 25_000)


@pytest.fixture(scope="module")
def found(production: list[Row]) -> FitResult:
    return learned(production, lose_answer=0)


def test_a_plan_learned_from_what_a_plan_did_is_that_plan(found: FitResult) -> None:
    """Latencies within 5 % (four standard errors), rates within 20 %, lengths of bursts within a third.

    Some 5,000 calls a tool; 400 of them refused in bursts, of which there are about 70.
    """
    asked = {(fault.kind, fault.tools): fault for fault in Plan.from_yaml(PRODUCTION).faults}
    assert {(fault.kind, fault.tools) for fault in found.plan.faults} == set(asked)
    tolerances = {"rate": 0.2, "shape": 0.08, "mean_calls": 1 / 3, "mean_gap": 1 / 3}
    for fault in found.plan.faults:
        wanted = asked[fault.kind, fault.tools]
        keys = [key for key in vars(wanted) if isinstance(getattr(wanted, key), float) and key != "lose_answer"]
        pairs = [(key, getattr(fault, key), getattr(wanted, key)) for key in keys]
        assert type(fault.schedule) is type(wanted.schedule), fault.kind
        pairs += [(key, getattr(fault.schedule, key), value) for key, value in vars(wanted.schedule).items()]
        for key, got, value in pairs:
            assert got == pytest.approx(value, rel=tolerances.get(key, 0.05)), (fault.kind, key)


def test_the_fit_is_good_where_the_family_is_right(found: FitResult, production: list[Row]) -> None:
    for each in found.tools:
        assert each.latencies is not None and each.latencies.goodness.p > 0.01, each.tool
        assert each.calls == sum(row["tool"] == each.tool for row in production)
        for kind, (count, _) in each.failures.items():
            assert count == sum(row["tool"] == each.tool and row.get("error") == kind for row in production)


def test_the_learned_plan_does_what_the_traces_show(found: FitResult, production: list[Row]) -> None:
    """Run again under other seeds, calls have the same latencies and errors, by tests that know nothing of plans."""
    again = record(found.plan, TOOLS, 25_000, seed=5)
    for tool in TOOLS:
        before, after = ([row for row in rows if row["tool"] == tool] for rows in (production, again))
        seconds = [[row["latency_s"] for row in rows if row["ok"]] for rows in (before, after)]
        assert tool == "fix" or stats.ks_2samp(*seconds).statistic < 0.05
        for error in {row.get("error") for row in before}:
            shares = [np.mean([row.get("error") == error for row in rows]) for rows in (before, after)]
            assert shares[0] == pytest.approx(shares[1], rel=0.35, abs=0.01), (tool, error)


# --- whatever the traces look like ---

BURSTY = """
faults:
  - {kind: unavailable, severity: 1, rate: 0.9, tools: [pay], schedule: {kind: bursts, mean_calls: 4, mean_gap: 40}}
  - {kind: rate_limited, severity: 1, rate: 0.03, retry_after_s: 2, tools: [pay]}
  - {kind: lognormal_latency, severity: 1, median_s: 0.3, sigma: 0.5, tools: [pay]}
  - {kind: server_error, severity: 1, rate: 0.03, tools: [find]}
  - {kind: uniform_latency, severity: 1, low_s: 0.2, high_s: 0.5, tools: [find]}
"""
STATUS = {"unavailable": 503, "rate_limited": 429, "server_error": 500}


def nanoseconds(seconds: float) -> int:
    return round(seconds * 1e6) * 1000


def otlp(rows: list[Row], nested: bool = False, say: Callable[[Row], Row] | None = None) -> list[Any]:
    """Batches of OTLP. nested: the agent above each tool and a client and a server below, all of them in any order."""
    spans = []
    for number, row in enumerate(rows, 1):
        start_ns = nanoseconds(row["start"])
        end_ns = start_ns + nanoseconds(row["latency_s"])
        said = say(row) if say else {"gen_ai.tool.name": row["tool"], "gen_ai.conversation.id": row["session"]}
        failed = {"code": 2, "message": f"HTTP {STATUS[row['error']]}"} if not row["ok"] else {}
        above = {"gen_ai.operation.name": "invoke_agent", "gen_ai.conversation.id": row["session"]}
        heard = {"http.response.status_code": 200 if row["ok"] else STATUS[row["error"]]}
        levels: list[tuple[str, int, Row, Row]] = [("execute_tool", 1, said, failed)]
        if nested:
            levels = [("agent", 1, above, {}), *levels, ("POST", 3, heard, failed), ("POST /", 2, heard, failed)]
        for depth, (name, kind, told, status) in enumerate(levels):
            ids = {"traceId": f"{number:032x}", "spanId": f"{10 * number + depth:016x}"}
            parent = {"parentSpanId": f"{10 * number + depth - 1:016x}"} if depth else {}
            times = {"startTimeUnixNano": str(start_ns), "endTimeUnixNano": str(end_ns)}
            attributes = [{"key": key, "value": {"stringValue": str(value)}} for key, value in told.items()]
            spans.append(
                {**ids, **parent, **times, "name": name, "kind": kind, "attributes": attributes, "status": status}
            )
    np.random.default_rng(0).shuffle(spans)  # type: ignore[arg-type]
    batches = [spans[first : first + 500] for first in range(0, len(spans), 500)]
    return [{"resourceSpans": [{"scopeSpans": [{"spans": batch}]}]} for batch in batches]


def jaeger(rows: list[Row]) -> list[Any]:
    traces = []
    for number, row in enumerate(rows, 1):
        tags = {"gen_ai.tool.name": row["tool"], "gen_ai.conversation.id": row["session"], "error": not row["ok"]}
        tags |= {} if row["ok"] else {"otel.status_description": str(STATUS[row["error"]])}
        start, took = nanoseconds(row["start"]) // 1000, nanoseconds(row["latency_s"]) // 1000
        span = {"traceID": f"{number:x}", "spanID": f"{number:x}", "operationName": "tool", "startTime": start}
        span |= {"duration": took, "tags": [{"key": key, "value": value} for key, value in tags.items()]}
        traces.append({"traceID": f"{number:x}", "spans": [span], "processes": {}})
    return [{"data": traces}]


def langfuse(rows: list[Row]) -> list[Any]:
    observations = []
    for number, row in enumerate(rows):
        failed = {} if row["ok"] else {"level": "ERROR", "statusMessage": f"status code {STATUS[row['error']]}"}
        moments = {"startTime": row["start"], "endTime": row["start"] + row["latency_s"]}
        ids = {"id": f"o-{number}", "traceId": f"t-{number}", "sessionId": row["session"]}
        observations.append({**ids, "type": "TOOL", "name": row["tool"], **moments, **failed})
    return [{"data": observations}]


def phoenix(rows: list[Row]) -> list[Any]:
    spans = []
    for number, row in enumerate(rows, 1):
        failed = {"status_code": "OK"} if row["ok"] else {"status_code": "ERROR", "status_message": row["error"]}
        moments = {"start_time": row["start"], "end_time": row["start"] + row["latency_s"]}
        said = {"span_kind": "TOOL", "attributes": {"tool": {"name": row["tool"]}, "session": {"id": row["session"]}}}
        spans.append({"context": {"trace_id": f"{number:x}", "span_id": f"{number:x}"}, **moments, **said, **failed})
    return spans


def vercel(row: Row) -> Row:
    return {"ai.toolCall.name": row["tool"], "ai.telemetry.metadata.sessionId": row["session"]}


def traceloop(row: Row) -> Row:
    session = {"traceloop.association.properties.session_id": row["session"]}
    return {"traceloop.span.kind": "tool", "traceloop.entity.name": row["tool"], **session}


FORMS: dict[str, Callable[[list[Row]], list[Any]]] = {
    "own lines": lambda rows: rows,
    "OTLP": otlp,
    "OTLP, nested and resent": lambda rows: 2 * otlp(rows, nested=True),
    "OTLP of Vercel's AI SDK": lambda rows: otlp(rows, say=vercel),
    "OTLP of OpenLLMetry": lambda rows: otlp(rows, say=traceloop),
    "Jaeger, resent": lambda rows: 2 * jaeger(rows),
    "Langfuse, resent": lambda rows: 2 * langfuse(rows),
    "Phoenix": phoenix,
}


@pytest.mark.parametrize("sessions", [1, 60])
def test_neither_nesting_nor_resending_nor_forms_nor_sessions_change_the_plan(sessions: int, tmp_path: Path) -> None:
    """The calls are the same in every form, and the plan is the one that made them.

    3,000 calls a tool, 250 of them refused in 70 bursts: P(fail | last failed) is 0.68 +- 0.03.
    """
    rows = record(Plan.from_yaml(BURSTY), ["pay", "find"], 6_000, sessions, seed=sessions)
    path, plans = tmp_path / "traces", {}
    for form, write in FORMS.items():
        path.write_text("".join(json.dumps(document) + "\n" for document in write(rows)))
        calls = read_traces(path).calls
        told = [(call.tool, call.session, call.failure) for call in calls]
        assert told == [(row["tool"], row["session"], row.get("error")) for row in rows], form
        moments = [(call.start_s, call.latency_s) for call in calls]
        np.testing.assert_allclose(moments, [(row["start"], row["latency_s"]) for row in rows], rtol=0, atol=3e-6)
        if form in ("own lines", "OTLP, nested and resent"):
            plans[form] = fit(FitConfig(traces=path, out=tmp_path / "plan.yaml")).plan
    one, other = plans.values()
    assert [(fault.kind, type(fault.schedule).__name__) for fault in one.faults] == [
        ("server_error", "Always"),
        ("uniform_latency", "Always"),
        ("unavailable", "Bursts"),
        ("rate_limited", "Always"),
        ("lognormal_latency", "Always"),
    ]
    bursts, rate = one.faults[2].schedule, one.faults[2].rate
    assert (bursts.mean_calls, bursts.mean_gap, rate) == pytest.approx((4, 40, 0.9), rel=0.3)
    assert one.faults[3].rate == pytest.approx(0.03, rel=0.3)
    for fault, same in zip(one.faults, other.faults, strict=True):
        assert (fault.kind, fault.schedule) == (same.kind, same.schedule)
    traced, cases = after_a_failure(rows, "pay", "unavailable")
    planned, _ = after_a_failure(record(one, ["pay"], 25_000, sessions, seed=99), "pay", "unavailable")
    assert planned == pytest.approx(traced, abs=4 * math.sqrt(0.25 / cases))


@pytest.mark.parametrize("sessions", [1, 60])
def test_errors_that_come_by_themselves_make_no_bursts_however_often_they_are_exported(
    sessions: int, tmp_path: Path
) -> None:
    rows = record(Plan.from_yaml(BURSTY), ["find"], 5_000, sessions)
    path = tmp_path / "traces"
    path.write_text("".join(json.dumps(document) + "\n" for document in 3 * otlp(rows, nested=True)))
    fitted = fit(FitConfig(traces=path, out=tmp_path / "plan.yaml"))
    ((_, failures),) = fitted.tools[0].failures.values()
    share = np.mean([not row["ok"] for row in rows])
    assert failures.bursts is None and failures.rate == pytest.approx(share) and fitted.tools[0].calls == 5_000
    assert [note.split(":")[0] for note in fitted.notes] == [
        "not counted, spans exported again",
        "not counted, spans within a call that is counted already",
    ]


def test_bursts_behind_other_failures_keep_their_length() -> None:
    """Half of the calls never reach the fault with the bursts, whose chain goes on meanwhile."""
    plan = Plan.from_yaml(
        """faults:
  - {kind: rate_limited, severity: 1, rate: 0.5}
  - {kind: unavailable, severity: 1, rate: 0.8, schedule: {kind: bursts, mean_calls: 20, mean_gap: 100}}"""
    )
    (_, inner) = [
        fault for fault in learned(record(plan, ["pay"], 12_000, 10)).plan.faults if fault.kind != "constant_latency"
    ]
    assert inner.kind == "unavailable" and isinstance(inner.schedule, Bursts)
    assert (inner.schedule.mean_calls, inner.schedule.mean_gap) == pytest.approx((20, 100), rel=0.35)
    assert inner.rate == pytest.approx(0.8, rel=0.1)


@pytest.mark.parametrize("lose_answer", [0.0, 0.3, 1.0])
def test_time_outs_in_bursts_are_as_many_and_stick_together_as_much(lose_answer: float) -> None:
    """They are split among two faults with bursts of their own, and still as many as in the traces."""
    plan = Plan.from_yaml(
        """faults:
  - {kind: lost_request, severity: 1, rate: 0.9, timeout_s: 3, schedule: {kind: bursts, mean_calls: 8, mean_gap: 72}}"""
    )
    rows = record(plan, ["pay"], 20_000, 5)
    faults = [fault for fault in learned(rows, lose_answer=lose_answer).plan.faults if fault.kind != "constant_latency"]
    assert [fault.kind for fault in faults] == ["lost_request"] * (lose_answer < 1) + ["lost_answer"] * (
        lose_answer > 0
    )
    shares = {fault.kind: fault.rate * fault.schedule.share for fault in faults}
    traced = float(np.mean([not row["ok"] for row in rows]))
    assert sum(shares.values()) == pytest.approx(traced, rel=0.1)
    assert shares.get("lost_answer", 0) / sum(shares.values()) == pytest.approx(lose_answer, abs=0.03)
    again = record(Plan(faults=faults), ["pay"], 60_000, 5, seed=3)
    assert np.mean([not row["ok"] for row in again]) == pytest.approx(traced, rel=0.12)
    before, after = after_a_failure(rows, "pay", "timeout")[0], after_a_failure(again, "pay", "timeout")[0]
    assert after == pytest.approx(before, abs=0.05)


def test_lose_answer_reaches_all_failures_after_which_nobody_can_tell() -> None:
    errors = ["connection", "server_error", "bad_gateway", "unavailable"]
    said_no = ["rate_limited", "unauthorized", "forbidden", "quota"]
    rows = [{"tool": error, "latency_s": 0.1, "error": error} for error in [*errors, *said_no, "malformed"]]
    plan = learned(rows * 30, lose_answer=0.3).plan
    for fault in plan.faults:
        (tool,) = fault.tools
        assert getattr(fault, "lose_answer", None) == (None if tool == "malformed" else 0.3 if tool in errors else 0.0)
    assert len(plan.faults) == 9
    slow = record(Plan.from_yaml(PRODUCTION), ["old"], 400)
    assert learned(slow, lose_answer=0.3).plan.faults[0].lose_answer == 0.3


def test_of_traces_without_times_failures_are_learned_and_that_is_said(tmp_path: Path) -> None:
    rows = [{"tool": "pay", "latency_s": None, "error": error} for error in ["timeout", "unavailable", None, None] * 10]
    fitted = learned(rows, lose_answer=0)
    assert [(fault.kind, fault.rate) for fault in fitted.plan.faults] == [
        ("unavailable", 0.25),
        ("lost_request", 0.3333),
    ]
    assert fitted.notes == ["the traces do not say how long calls took: pay"]
    assert fitted.latency_table().row_count == 0 and fitted.failure_table().row_count == 2


def test_of_what_comes_from_no_family_the_measurements_are_kept() -> None:
    rng = np.random.default_rng(0)
    rows = [{"tool": "a", "latency_s": float(rng.choice([0.1, 3.0]) + rng.random() / 100)} for _ in range(2000)]
    (fault,) = learned(rows).plan.faults
    assert fault.kind == "empirical_latency"
    measured = [row["latency_s"] for row in rows]
    shares = (0.1, 0.45, 0.55, 0.9, 0.99)
    assert fault.latencies_s(np.array(shares)) == pytest.approx(np.quantile(measured, shares), rel=0.02)


@pytest.mark.parametrize(
    ("drawn", "scipys"),
    [
        (stats.lognorm(0.7, scale=2.0), stats.lognorm),
        (stats.uniform(0.3, 2.0), stats.uniform),
        (stats.pareto(1.7, scale=0.4), stats.pareto),
    ],
)
def test_families_agree_with_scipy(drawn: Any, scipys: Any) -> None:
    seconds = np.sort(drawn.rvs(500, random_state=np.random.default_rng(1)))
    found = {stats.lognorm: Lognormal, stats.uniform: Uniform, stats.pareto: Pareto}[scipys].fitted(seconds)
    fixed = {} if scipys is stats.uniform else {"floc": 0}
    if scipys is stats.pareto:
        fixed["fscale"] = seconds.min()
    reference = scipys(*scipys.fit(seconds, **fixed))
    np.testing.assert_allclose(found.cdf(seconds), reference.cdf(seconds), atol=1e-4)
    np.testing.assert_allclose(found.log_density(seconds), reference.logpdf(seconds), atol=1e-3)
    shares = np.array([0.01, 0.5, 0.999])
    np.testing.assert_allclose(found.quantile(shares), reference.ppf(shares), rtol=1e-3)
    assert ks_distance(found, seconds) == pytest.approx(stats.kstest(seconds, reference.cdf).statistic, abs=1e-4)


def test_latencies_that_were_cut_off_agree_with_scipys_censored_fit() -> None:
    seconds = stats.lognorm(0.9, scale=1.5).rvs(800, random_state=np.random.default_rng(2))
    found = CensoredLognormal.fitted(np.minimum(seconds, 3.0))
    censored = stats.CensoredData(np.log(seconds[seconds < 3]), right=np.full((seconds >= 3).sum(), math.log(3.0)))
    mean, sigma = stats.norm.fit(censored)
    assert (math.log(found.median_s), found.sigma) == pytest.approx((mean, sigma), rel=1e-3)


def test_the_p_value_is_one() -> None:
    """Where the family is right it is spread evenly over [0, 1]; Kolmogorov's own would lie near 1."""
    p_values = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        p_values.append(fit_latencies(rng.lognormal(0.0, 0.5, 80), 0.5, rng).goodness.p)
    assert stats.kstest(p_values, "uniform").pvalue > 0.001
    wrong = fit_latencies(np.random.default_rng(0).gamma(0.5, 1.0, 2000), 0.5, np.random.default_rng(1))
    assert wrong.goodness.p <= 0.01


def test_the_likelihood_of_bursts_is_the_sum_over_all_that_may_have_been() -> None:
    """Every path of the hidden chain through nine calls, of which six were seen."""
    into, out_of, rate = 0.2, 0.35, 0.6
    numbers, failed = np.array([0, 1, 3, 4, 7, 8]), np.array([0, 1, 1, 0, 0, 1], np.bool_)
    total = 0.0
    for path in product((0, 1), repeat=9):
        chance = into / (into + out_of) if path[0] else out_of / (into + out_of)
        for before, after in zip(path, path[1:], strict=False):
            change = out_of if before else into
            chance *= change if before != after else 1 - change
        for number, fails in zip(numbers, failed, strict=True):
            share = rate if path[number] else 0.0
            chance *= share if fails else 1 - share
        total += chance
    gaps = np.array([np.inf, *np.diff(numbers)])
    assert gilbert_log_likelihood(failed, gaps, into, out_of, rate) == pytest.approx(math.log(total))


def test_the_likelihood_of_sessions_is_the_product_of_theirs() -> None:
    failed, gaps = np.array([0, 1, 1, 0, 1, 0, 0], np.bool_), np.array([np.inf, 1, 2, np.inf, 1, 1, 3])
    whole = gilbert_log_likelihood(failed, gaps, 0.2, 0.9, 0.6)
    parts = [gilbert_log_likelihood(failed[part], gaps[part], 0.2, 0.9, 0.6) for part in (slice(3), slice(3, 7))]
    assert whole == pytest.approx(sum(parts))


def test_bursts_are_told_from_failures_that_come_by_themselves() -> None:
    plan = Plan.from_yaml(
        "faults: [{kind: unavailable, severity: 1, rate: 1, schedule: {kind: bursts, mean_calls: 10, mean_gap: 60}}]"
    )
    together = np.array([not row["ok"] for row in record(plan, ["pay"], 6000)])
    numbers, sessions = np.arange(6000), np.zeros(6000, np.int64)
    found = fit_failures(together, numbers, sessions)
    assert found.bursts is not None and found.gain > 100
    assert (found.bursts.mean_calls, found.bursts.mean_gap) == pytest.approx((10, 60), rel=0.3)
    assert found.rate == pytest.approx(1, abs=0.05)
    shuffled = np.random.default_rng(0).permutation(together)
    alone = fit_failures(shuffled, numbers, sessions)
    assert alone.bursts is None and alone.rate == shuffled.mean()


def test_short_sessions_show_the_bursts_that_long_ones_show() -> None:
    """Bursts of 30 in 300 calls, in 20,000 calls; in sessions of four calls hardly any burst begins or ends."""
    plan = Plan.from_yaml(
        "faults: [{kind: unavailable, severity: 1, rate: 0.8, schedule: {kind: bursts, mean_calls: 30, mean_gap: 270}}]"
    )
    found = learned(record(plan, ["pay"], 20_000, 5_000)).plan.faults[0]
    assert isinstance(found.schedule, Bursts)
    assert found.schedule.share == pytest.approx(0.1, rel=0.2) and found.rate == pytest.approx(0.8, rel=0.1)


def test_the_same_traces_give_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    rows = record(Plan.from_yaml(PRODUCTION), ["old"], 400)
    traces = tmp_path / "traces.jsonl"
    traces.write_text("".join(json.dumps(document) + "\n" for document in 2 * langfuse_of_time_outs(rows)))
    plans = []
    for name in ("one", "two"):
        assert main(["faults", "fit", str(traces), f"out={tmp_path / name / 'plan.yaml'}"]) == 0
        plans.append((tmp_path / name / "plan.yaml").read_text())
    assert plans[0] == plans[1]
    (fault,) = Plan.load(tmp_path / "one" / "plan.yaml").faults
    assert fault.kind == "slow_api" and fault.median_s == pytest.approx(1.5, rel=0.2)
    shown = capsys.readouterr().out
    assert "slow_api median_s=" in shown and "timeout" in shown and "a plan of 1 faults in" in shown
    assert "not counted, spans exported again: 400\n" in shown
    assert [each.tool for each in read_traces(traces).calls] == ["old"] * 400


def langfuse_of_time_outs(rows: list[Row]) -> list[Any]:
    (document,) = langfuse([{**row, "ok": True} for row in rows])
    for row, observation in zip(rows, document["data"], strict=True):
        observation |= {} if row["ok"] else {"level": "ERROR", "statusMessage": "timed out"}
    return [document]


def test_too_few_calls_are_left_out_and_none_is_an_error() -> None:
    rows = [{"tool": "rare", "latency_s": 1.0}] * 3 + [{"tool": "common", "latency_s": 1.0}] * 30
    assert learned(rows).left_out == ["rare"]
    with pytest.raises(ConfigError, match="no tool has 20 calls in t.jsonl"):
        learned(rows[:5])


def test_tools_that_never_answer_or_take_no_time_are_learned_too() -> None:
    rows = [{"tool": "down", "latency_s": 0.0, "status": 503}] * 30 + [{"tool": "quick", "latency_s": 0.0}] * 30
    down, quick = learned(rows).plan.faults
    assert (down.kind, down.tools, down.rate) == ("unavailable", ("down",), 1.0)
    assert (quick.kind, quick.scaled("seconds")) == ("constant_latency", 0.0)
