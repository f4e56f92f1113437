"""Figures made from episodes whose every value is known, in both worlds."""

from dataclasses import replace

import pytest

from worldsim.evaluation import narrative
from worldsim.evaluation.cells import Cell
from worldsim.evaluation.runs import EpisodeResult
from worldsim.evaluation.summary import Summary
from worldsim.evaluation.worst import pick_worst

EPISODE = EpisodeResult(
    seed=0,
    episode_return=0.0,
    steps=5,
    success=False,
    violations=0,
    violations_counted=None,
    faults={},
    latency_s=0.0,
    terminated=True,
    truncated=False,
    crash=None,
    trust_mean=None,
    trust_min=None,
)


def episodes(*returns: float, **changes) -> list[EpisodeResult]:  # type: ignore[no-untyped-def]
    return [replace(EPISODE, seed=i, episode_return=r, success=r > 5, **changes) for i, r in enumerate(returns)]


NOISE = (0.0, 0.3, -0.2, 0.1, -0.1, 0.2, -0.3, 0.05)
GOOD, FAIR, POOR = ([level + noise for noise in NOISE] for level in (9.0, 6.0, 2.0))
FIRED = {"faults": {"timeout": 2}}


@pytest.fixture
def outcomes() -> dict[Cell, list[EpisodeResult]]:
    """Clean: a > b > c in both worlds. Under a fault a falls below b, but in the World it does not."""
    found = {}
    for where in ("real", "world"):
        trust = {"trust_mean": 0.3, "trust_min": 0.1} if where == "world" else {}
        for agent, returns in (("a", GOOD), ("b", FAIR), ("c", POOR)):
            found[Cell(agent, "none", 0.0, where)] = episodes(*returns, **trust)
            hurt = POOR if agent == "a" and where == "real" else returns
            found[Cell(agent, "slow_api", 0.5, where)] = episodes(*hurt, violations=1, **FIRED, **trust)
    return found


@pytest.fixture
def data(outcomes: dict[Cell, list[EpisodeResult]]) -> dict:
    summary = Summary(outcomes, seed=0)
    return {
        "results": summary.results(),
        "ranking": summary.rankings(),
        "comparisons": {
            "faults": summary.fault_effects(),
            "agents": summary.agent_pairs(),
            "worlds": summary.world_gaps(),
        },
    }


def test_rankings_agree_where_they_should(data: dict) -> None:
    clean, faulty = data["ranking"]
    assert clean["real"] == clean["world"] == {"a": 1.0, "b": 2.0, "c": 3.0}
    for key in ("by_means", "by_intervals"):
        assert clean[key] == {"tau_b": 1.0, "same_ranking": True, "contradictions": []}
        assert not faulty[key]["same_ranking"] and faulty[key]["contradictions"] == [["a", "b"]]
    assert faulty["real"] == {"a": 2.5, "b": 1.0, "c": 2.5}, "an exact tie stays a tie"


def test_differences_within_chance_are_ties_by_intervals() -> None:
    near = [value + noise for value, noise in zip(GOOD, reversed(NOISE), strict=True)]
    near[0] += 0.2
    cells = {Cell(n, "none", 0.0, w): episodes(*r) for n, r in (("a", GOOD), ("b", near)) for w in ("real", "world")}
    (row,) = Summary(cells, seed=0).rankings()
    assert row["by_means"]["tau_b"] == 1.0
    assert row["by_intervals"] == {"tau_b": None, "same_ranking": True, "contradictions": []}


def test_pairs_gaps_and_effects(data: dict) -> None:
    effect = {(r["agent"], r["where"]): r for r in data["comparisons"]["faults"]}
    assert effect["a", "real"]["return"]["mean"] == pytest.approx(-7.0)
    assert effect["a", "real"]["return"]["sign"] == -1
    assert effect["a", "world"]["return"] == {"mean": 0.0, "interval": [0.0, 0.0], "sign": 0}
    assert effect["a", "real"]["violations"]["mean"] == 1.0
    assert effect["a", "real"]["success"]["mean"] == -1.0
    gap = {(r["agent"], r["fault"]): r["return"]["mean"] for r in data["comparisons"]["worlds"]}
    assert gap["a", "slow_api"] == pytest.approx(7.0) and gap["b", "slow_api"] == 0.0
    assert len(data["comparisons"]["agents"]) == 3 * 2 * 2


def test_figures_do_not_depend_on_other_cells(outcomes: dict[Cell, list[EpisodeResult]], data: dict) -> None:
    few = {cell: found for cell, found in outcomes.items() if cell.agent == "b"}
    assert Summary(few, seed=0).results() == [row for row in data["results"] if row["agent"] == "b"]
    assert Summary(few, seed=1).results() != Summary(few, seed=0).results()


def test_the_verdict_says_what_the_figures_say(data: dict) -> None:
    best, costliest, belief = narrative.verdict(data)
    assert best.startswith("Without faults a does best in the real environment, with a mean return of 9.01 [")
    assert "c does worst, with a mean return of 2.01" in best
    assert "slow_api at severity 0.5: it takes 7.00 of return from a" in costliest
    assert costliest.endswith("adds 1.00 violations an episode; b and c lose no more than chance explains.")
    assert "as the real environment does in 1 of 2 conditions" in belief
    assert "differ by more than chance are the same in 1 of them, and 1 pair is in clearly opposite order" in belief
    assert "at most by 7.00 (a, slow_api 0.5)" in belief


def test_differences_that_the_world_does_not_show_are_counted(outcomes: dict[Cell, list[EpisodeResult]]) -> None:
    blurred = {c: e if c.where == "real" else outcomes[c._replace(agent="b")] for c, e in outcomes.items()}
    pairs = Summary(blurred, seed=0).agent_pairs()
    data = {"results": [], "ranking": [], "comparisons": {"faults": [], "agents": pairs, "worlds": []}}
    # Clean all three pairs differ; under the fault a and c are level.
    assert "Of 5 clear differences between two agents in the real environment, the World misses 5." in (
        narrative._about_worlds(data)
    )


def test_warnings_name_where_the_world_misleads(data: dict) -> None:
    warnings = narrative.warnings(data)
    assert any("puts in the opposite order: a and b (slow_api 0.5)." in warning for warning in warnings)
    assert any("In 1 of 6 cases the World's mean return differs" in warning for warning in warnings)
    assert any("mean trust is below 0.5" in warning and "0.30" in warning for warning in warnings)


def test_what_is_alike_is_said_once(data: dict) -> None:
    against = {"contradictions": [["a", "b"], ["b", "c"]]}
    ranking = [{"fault": "slow_api", "severity": s, "by_intervals": against} for s in (0.25, 0.5)]
    (sentence,) = narrative._contradictions(ranking)
    assert sentence.endswith("a and b (slow_api 0.25, slow_api 0.5); b and c (slow_api 0.25, slow_api 0.5).")
    quiet = [row | {"episodes_with_faults": 0} for row in data["results"] if row["fault"] != "none"]
    assert [sentence.partition(":")[0] for sentence in narrative.never_fired(quiet)] == [
        "slow_api at severity 0.5 never fired for a, b and c in the real environment",
        "slow_api at severity 0.5 never fired for a, b and c in the World",
    ]


def test_crashes_and_unjudged_measures_are_reported(outcomes: dict[Cell, list[EpisodeResult]]) -> None:
    cell = Cell("a", "none", 0.0, "real")
    unjudged = [replace(e, success=None, violations=None, crash="ValueError: no") for e in outcomes[cell]]
    (row,) = Summary({cell: unjudged}, seed=0).results()
    assert row["success_rate"] is None and row["violations_mean_interval"] is None and row["crashes"] == 8
    data = {"results": [row], "ranking": [], "comparisons": {"faults": [], "agents": [], "worlds": []}}
    warnings = " ".join(narrative.warnings(data))
    for part in ("success_return", "violation_reward", "a crashed in 8 of 8 episodes", "ValueError: no"):
        assert part in warnings
    crashed, best, *_ = narrative.verdict(data)
    assert crashed.startswith("a crashed, in 8 of 8 episodes, all of theirs (ValueError: no)")
    assert best.startswith("Without faults a reaches a mean return of 9.01")


def test_the_worst_are_those_that_a_fault_cost_most(outcomes: dict[Cell, list[EpisodeResult]]) -> None:
    harmless = Cell("b", "missing_data", 0.5, "real")
    outcomes[harmless] = episodes(*FAIR)  # nothing fired: nothing to see
    picked = pick_worst(outcomes, 2)
    assert [(w.cells[0].agent, len(w.cells)) for w in picked] == [("a", 2), ("b", 2)]
    assert picked[0].return_drop == pytest.approx(7.0) and picked[0].more_violations == 1
    assert pick_worst(outcomes, 0) == []
