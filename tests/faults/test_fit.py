"""A plan learned from traces against the plan that made them, and its parts against other means to the same end."""

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from worldsim.cli import main
from worldsim.errors import ConfigError
from worldsim.faults import Bursts, Pipeline, Plan, Reply, VirtualClock
from worldsim.faults.chance import Dice
from worldsim.faults.kinds.latencies import GivenUp, Lognormal, Pareto, Uniform, fit_latencies, ks_distance
from worldsim.faults.learned.bursts import fit_failures, gilbert_log_likelihood
from worldsim.faults.learned.fit import FitConfig, Fitted, fit_calls
from worldsim.faults.learned.traces import TracedCall, read_traces

PRODUCTION = """
faults:
  - {kind: rate_limited, severity: 1, rate: 0.5, retry_after_s: 7, tools: [pay],
     schedule: {kind: bursts, mean_calls: 25, mean_gap: 150}}
  - {kind: server_error, severity: 1, rate: 0.05, lose_answer: 0, tools: [pay]}
  - {kind: lognormal_latency, severity: 1, median_s: 0.4, sigma: 0.8, tools: [pay]}
  - {kind: lost_request, severity: 1, rate: 0.1, timeout_s: 5, tools: ["find[*]"]}
  - {kind: pareto_latency, severity: 1, minimum_s: 0.2, shape: 2.5, tools: ["find[*]"]}
  - {kind: bad_gateway, severity: 1, rate: 0.08, lose_answer: 0, tools: [list]}
  - {kind: uniform_latency, severity: 1, low_s: 0.2, high_s: 0.5, tools: [list]}
  - {kind: slow_api, severity: 1, median_s: 1.5, timeout_s: 4, sigma: 0.9, tools: [old]}
  - {kind: constant_latency, severity: 1, seconds: 0.25, tools: [fix]}
"""
TOOLS = ["pay", "find*", "list", "old", "fix"]


def record(plan: Plan, tools: list[str], calls: int, seed: int = 0) -> list[dict[str, Any]]:
    """What a caller sees of calls to random tools under a plan, on a virtual clock."""
    rng, clock = np.random.default_rng(seed), VirtualClock(1.7e9)
    pipeline = Pipeline(plan.faults, seed, clock, (), tools)
    pipeline.start((0,), {})
    rows = []
    for tool in rng.choice(tools, calls).tolist():
        start = clock.now()
        reply = pipeline.exchange(tool, {}, lambda call: Reply({}))
        told = {key: value for key, value in reply.to_json().items() if key != "raw"}
        rows.append({"tool": tool, "start": start, **told})
        clock.sleep(0.01)
    return rows


def learned(rows: list[dict[str, Any]], **settings: Any) -> Fitted:
    return fit_calls([TracedCall(**row) for row in rows], FitConfig(traces=Path("t.jsonl"), **settings))


@pytest.fixture(scope="module")
def production() -> list[dict[str, Any]]:
    return record(Plan.from_yaml(PRODUCTION), TOOLS, 25_000)


@pytest.fixture(scope="module")
def found(production: list[dict[str, Any]]) -> Fitted:
    return learned(production, lose_answer=0)


def test_a_plan_learned_from_what_a_plan_did_is_that_plan(found: Fitted) -> None:
    """Latencies within 5 % (four standard errors), rates within 20 %, lengths of bursts within a third.

    Some 5,000 calls a tool; 370 of them refused in bursts, of which there are about 140.
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


def test_the_fit_is_good_where_the_family_is_right(found: Fitted, production: list[dict[str, Any]]) -> None:
    for each in found.tools:
        assert each.latencies is not None and each.latencies.goodness.p > 0.01, each.tool
        assert each.calls == sum(row["tool"] == each.tool for row in production)
        for kind, (count, _) in each.failures.items():
            assert count == sum(row["tool"] == each.tool and row["error"] == kind for row in production)


def test_the_learned_plan_does_what_the_traces_show(found: Fitted, production: list[dict[str, Any]]) -> None:
    """Run again under other seeds, calls have the same latencies and errors, by tests that know nothing of plans."""
    again = record(found.plan, TOOLS, 25_000, seed=5)
    for tool in TOOLS:
        before, after = ([row for row in rows if row["tool"] == tool] for rows in (production, again))
        seconds = [[row["latency_s"] for row in rows if row["ok"]] for rows in (before, after)]
        assert tool == "fix" or stats.ks_2samp(*seconds).statistic < 0.05
        for error in {row["error"] for row in before}:
            shares = [np.mean([row["error"] == error for row in rows]) for rows in (before, after)]
            assert shares[0] == pytest.approx(shares[1], rel=0.35, abs=0.01), (tool, error)


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
    found = GivenUp.fitted(np.minimum(seconds, 3.0))
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
    gaps = np.diff(numbers, prepend=0).astype(float)
    assert gilbert_log_likelihood(failed, gaps, into, out_of, rate) == pytest.approx(math.log(total))


def test_bursts_are_told_from_failures_that_come_by_themselves() -> None:
    numbers = np.arange(6000)
    dice, memory = Dice(1), {}
    schedule = Bursts(mean_calls=10.0, mean_gap=60.0)
    together = np.array([schedule.due(number, dice, memory) for number in range(6000)])
    found = fit_failures(together, numbers)
    assert found.bursts is not None and found.gain > 100
    assert (found.bursts.mean_calls, found.bursts.mean_gap) == pytest.approx((10, 60), rel=0.3)
    assert found.rate == pytest.approx(1, abs=0.05)
    shuffled = np.random.default_rng(0).permutation(together)
    alone = fit_failures(shuffled, numbers)
    assert alone.bursts is None and alone.rate == shuffled.mean()


def test_short_episodes_of_a_learned_plan_fail_as_often_as_the_traces() -> None:
    """Bursts of 30 in 300 calls: episodes of four calls that began outside one would hardly ever meet any."""
    plan = Plan.from_yaml(
        "faults: [{kind: unavailable, severity: 1, rate: 0.8, schedule: {kind: bursts, mean_calls: 30, mean_gap: 270}}]"
    )
    rows = record(plan, ["pay"], 20_000)
    found = learned(rows).plan
    assert isinstance(found.faults[0].schedule, Bursts)
    failed = []
    for episode in range(6000):
        pipeline = Pipeline(found.faults, 3, VirtualClock(), (), ["pay"])
        pipeline.start((episode,), {})
        failed.append([not pipeline.exchange("pay", {}, lambda call: Reply({})).ok for _ in range(4)])
    traced = np.mean([not row["ok"] for row in rows])
    assert np.mean(failed, axis=0) == pytest.approx(np.full(4, traced), rel=0.2)


def test_the_same_traces_give_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    rows = record(Plan.load("slow_api").at(0.5), ["pay"], 400)
    traces = tmp_path / "traces.jsonl"
    traces.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plans = []
    for name in ("one", "two"):
        assert main(["faults", "fit", str(traces), f"out={tmp_path / name / 'plan.yaml'}"]) == 0
        plans.append((tmp_path / name / "plan.yaml").read_text())
    assert plans[0] == plans[1]
    (fault,) = Plan.load(tmp_path / "one" / "plan.yaml").faults
    assert fault.kind == "slow_api" and fault.median_s == pytest.approx(1.5, rel=0.2)
    shown = capsys.readouterr().out
    assert "slow_api median_s=" in shown and "timeout" in shown and "a plan of 1 faults in" in shown
    assert [each.tool for each in read_traces(traces)] == ["pay"] * 400


def test_too_few_calls_are_left_out_and_none_is_an_error() -> None:
    rows = [{"tool": "rare", "latency_s": 1.0}] * 3 + [{"tool": "common", "latency_s": 1.0}] * 30
    assert learned(rows).left_out == ["rare"]
    with pytest.raises(ConfigError, match="no tool has 20 calls in t.jsonl"):
        learned(rows[:5])


def test_tools_that_never_answer_or_take_no_time_are_learned_too() -> None:
    rows = [{"tool": "down", "latency_s": 0.0, "status": 503}] * 30 + [{"tool": "quick", "latency_s": 0.0}] * 30
    down, quick = learned(rows).plan.faults
    assert (down.kind, down.tools, down.rate) == ("unavailable", ("down",), 1.0)
    assert (quick.kind, quick.median_latency_s) == ("constant_latency", 0.0)
