"""A plan breaks tools, what went through is recorded, a plan is fitted to the record, and breaks the tools alike."""

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldsim.errors import ConfigError
from worldsim.faults import Faults, Plan, ToolError, WallClock, wrap
from worldsim.faults.learned.fit import FitConfig, fit
from worldsim.faults.learned.traces import read_traces

PLAN = """
faults:
  - {kind: rate_limited, severity: 1, rate: 0.6, retry_after_s: 7, tools: [pay],
     schedule: {kind: bursts, mean_calls: 6, mean_gap: 24}}
  - {kind: server_error, severity: 1, rate: 0.08, tools: [find]}
  - {kind: lost_answer, severity: 1, rate: 0.12, timeout_s: 9, tools: [find]}
  - {kind: lognormal_latency, severity: 1, median_s: 0.4, sigma: 0.7, tools: [pay]}
  - {kind: uniform_latency, severity: 1, low_s: 0.2, high_s: 0.6, tools: [find]}
  - {kind: pareto_latency, severity: 1, minimum_s: 0.3, shape: 2.5, tools: [list]}
"""
CALLS = 6000
TOOLS = ("pay", "find", "list")


def recorded(plan: Plan, path: Path, sessions: int, seed: int = 0) -> Path:
    """So many calls of tools that always work, by conversations side by side, behind a plan and into a file."""
    faults = Faults(plan, seed=seed, record=path)
    tools = wrap({name: lambda order: {"order": order} for name in TOOLS}, faults)
    rng = np.random.default_rng(seed)
    calls = zip(rng.integers(sessions, size=CALLS).tolist(), rng.choice(TOOLS, CALLS).tolist(), strict=True)
    for session, name in calls:
        with faults.session(str(session)):
            try:
                tools[name](order=session)
            except ToolError:
                continue
    assert faults.recorder is not None
    faults.recorder.close()
    return path


def after_a_failure(path: Path, tool: str, failure: str) -> float:
    """P(a call fails | the one before it in its session failed)."""
    outcomes = defaultdict(list)
    for call in read_traces(path).calls:
        if call.tool == tool:
            outcomes[call.session].append(call.failure == failure)
    pairs = [pair for each in outcomes.values() for pair in zip(each, each[1:], strict=False)]
    return float(np.mean([after for before, after in pairs if before]))


@pytest.mark.parametrize("sessions", [1, 7, 60])
def test_a_plan_learned_from_what_faults_did_is_that_plan(sessions: int, tmp_path: Path) -> None:
    path = recorded(Plan.from_yaml(PLAN), tmp_path / "calls.jsonl", sessions)
    config = FitConfig(traces=path, out=tmp_path / "plan.yaml", lose_answer=1.0)
    learned = {(fault.kind, fault.tools): fault for fault in fit(config).plan.faults}
    assert set(learned) == {(fault.kind, fault.tools) for fault in Plan.from_yaml(PLAN).faults}
    limited: Any = learned["rate_limited", ("pay",)]
    assert limited.retry_after_s == 7.0
    assert 4 < limited.schedule.mean_calls < 9 and 17 < limited.schedule.mean_gap < 34
    assert abs(limited.rate - 0.6) < 0.1
    error: Any = learned["server_error", ("find",)]
    lost: Any = learned["lost_answer", ("find",)]
    deviation = math.sqrt(0.08 * 0.92 / 2000)
    assert abs(error.rate - 0.08) < 4 * deviation and abs(lost.rate - 0.12) < 5 * deviation
    assert (lost.timeout_s, error.lose_answer) == (9.0, 1.0)
    times: Any = learned["lognormal_latency", ("pay",)]
    assert abs(math.log(times.median_s / 0.4)) < 0.1 and abs(times.sigma - 0.7) < 0.06
    tail: Any = learned["pareto_latency", ("list",)]
    assert abs(tail.minimum_s - 0.3) < 0.01 and abs(tail.shape - 2.5) < 0.25


def test_the_learned_plan_does_what_the_recording_shows(tmp_path: Path) -> None:
    """Back in at the same entry point, with another seed: as many failures, and as close together."""
    first = recorded(Plan.from_yaml(PLAN), tmp_path / "calls.jsonl", 7)
    fit(FitConfig(traces=first, out=tmp_path / "plan.yaml", lose_answer=1.0))
    again = recorded(Plan.load(tmp_path / "plan.yaml"), tmp_path / "again.jsonl", 7, seed=5)
    both = read_traces(first).calls, read_traces(again).calls
    cases = (("pay", "rate_limited", 0.07), ("find", "server_error", 0.03), ("find", "timeout", 0.03))
    for tool, failure, slack in cases:  # calls of a burst are no independent draws
        shares = [np.mean([call.failure == failure for call in calls if call.tool == tool]) for calls in both]
        assert abs(shares[0] - shares[1]) < slack, (tool, failure, shares)
    assert abs(after_a_failure(first, "pay", "rate_limited") - after_a_failure(again, "pay", "rate_limited")) < 0.1


def test_a_recording_holds_no_arguments_and_no_results_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    for secret in ("one", "two"):
        faults = Faults([], record=path, clock=WallClock)
        tools = wrap({"login": lambda password: {"token": password}}, faults)
        assert tools["login"](password=secret) == {"token": secret}
        assert faults.recorder is not None
        faults.recorder.close()
    text = path.read_text()
    assert len(text.splitlines()) == 2 and "one" not in text and "two" not in text
    assert [call.tool for call in read_traces(path).calls] == ["login", "login"]


def test_what_a_tool_itself_raises_is_recorded_as_its_failure(tmp_path: Path) -> None:
    def broken() -> None:
        raise ConnectionRefusedError("[Errno 111] Connection refused")

    path = tmp_path / "calls.jsonl"
    tools = wrap({"broken": broken}, Faults([], record=path))
    with pytest.raises(ConnectionRefusedError):
        tools["broken"]()
    (call,) = read_traces(path).calls
    assert call.failure == "connection"


def test_a_place_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        Faults([], record=tmp_path / "nowhere" / "calls.jsonl")
