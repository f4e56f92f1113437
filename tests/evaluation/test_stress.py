"""Stress tests of real small environments: what is run, pairing, resuming, and equal results of equal runs."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.evaluation.conftest import CARTPOLE, small
from worldsim.errors import WorldsimError
from worldsim.evaluation import runs
from worldsim.evaluation.report import Report
from worldsim.evaluation.runs import SuccessCriteria, run_episode
from worldsim.evaluation.stress import StressTest, stress
from worldsim.faults import Plan


def by_cell(report: Report) -> dict[tuple[str, str, float], dict]:
    return {(row["agent"], row["fault"], row["severity"]): row for row in report.results}


def test_rows_are_agents_times_conditions(report: Report) -> None:
    agents = {"random", "balance", "push", "brittle"}
    conditions = {("none", 0.0)} | {(f, s) for f in ("slow_api", "missing_data") for s in (0.5, 1.0)}
    assert set(by_cell(report)) == {(a, *c) for a in agents for c in conditions}
    assert len(report.results) == 20
    for row in report.results:
        assert row["episodes"] == 6
        for name in ("success_rate", "return_mean", "violations_mean"):
            low, high = row[f"{name}_interval"]
            assert low <= row[name] <= high


def test_clean_figures_are_what_cartpole_gives(report: Report) -> None:
    """A return is the steps survived, so the metrics can be had without worldsim."""
    import gymnasium as gym

    lengths = []
    for seed in small(Path()).seeds():
        env = gym.make("CartPole-v1")
        env.reset(seed=seed)
        steps = 1
        while not env.step(0)[2]:
            steps += 1
        lengths.append(steps)
    rows = by_cell(report)
    assert rows["push", "none", 0.0]["return_mean"] == np.mean(lengths)
    assert rows["balance", "none", 0.0]["success_rate"] == 1.0
    assert rows["balance", "none", 0.0]["return_mean_interval"] == [40.0, 40.0]
    assert rows["push", "none", 0.0]["violations_mean"] == 0.0


def test_faults_fire_hurt_and_are_counted(report: Report) -> None:
    rows = by_cell(report)
    assert all((row["faults_fired"] > 0) == (fault != "none") for (_, fault, _), row in rows.items())
    assert rows["balance", "missing_data", 1.0]["success_rate"] < 1.0
    assert rows["balance", "slow_api", 1.0]["latency_s_mean"] > 10
    assert set(rows["push", "slow_api", 1.0]["faults_fired_by_kind"]) <= {
        "delay",
        "timeout, answer lost",
        "timeout, request lost",
    }


def test_a_crash_is_a_finding(report: Report) -> None:
    rows = by_cell(report)
    assert rows["brittle", "none", 0.0]["crashes"] == 0
    worst = rows["brittle", "slow_api", 1.0]
    assert (
        worst["crashes"] == 6
        and worst["success_rate"] == 0.0
        and worst["crash_example"].startswith("KeyError: 'answer' at ")
    )
    assert any("brittle crashed in 6 of 6 episodes" in warning for warning in report.data["warnings"])


def test_effects_are_paired_differences(report: Report) -> None:
    rows = by_cell(report)
    for effect in report.data["comparisons"]["faults"]:
        clean = rows[effect["agent"], "none", 0.0]["return_mean"]
        faulty = rows[effect["agent"], effect["fault"], effect["severity"]]["return_mean"]
        assert effect["return"]["mean"] == pytest.approx(faulty - clean)


def test_two_runs_give_the_same_bytes(report: Report, out: Path, tmp_path: Path) -> None:
    stress(small(tmp_path), progress=False)
    for name in ("report.json", "report.html"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def test_an_interrupted_run_goes_on(report: Report, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def stops_once(agent, env, seed, *rest, **kept):  # type: ignore[no-untyped-def]
        ran.append(seed)
        if len(ran) == 21:
            raise KeyboardInterrupt
        return run_episode(agent, env, seed, *rest, **kept)

    monkeypatch.setattr("worldsim.evaluation.stress.run_episode", stops_once)
    with pytest.raises(KeyboardInterrupt):
        stress(small(tmp_path, worst=0), progress=False)
    cells = sorted((tmp_path / "cells").iterdir())
    assert len(cells) == 3  # 20 episodes are three whole cells of six
    cells[0].write_text(cells[0].read_text()[:100])  # and one of them is damaged
    ran.clear()
    ran.extend([-1] * 100)
    again = stress(small(tmp_path, worst=0), progress=False)
    assert len(ran) - 100 == 18 * 6
    assert again.results == report.results
    ran.clear()
    ran.extend([-1] * 100)
    stress(small(tmp_path, worst=0), progress=False)
    assert len(ran) == 100, "a finished run runs nothing again"


def test_cells_are_run_again_when_anything_changes(tmp_path: Path) -> None:
    cell = StressTest(small(tmp_path)).cells[-1]

    def path(**changes):  # type: ignore[no-untyped-def]
        test = StressTest(small(tmp_path, **changes))
        return test.store.path(cell, test.cache_key(cell))

    assert path() == path(worst=7) == path(confidence=0.9)
    changed = [path(seed=1), path(episodes=7), path(max_steps=9), path(env=CARTPOLE.model_copy(update={"resize": 8}))]
    assert len({path(), *changed}) == 5


def test_more_episodes_keep_the_first(tmp_path: Path) -> None:
    assert small(tmp_path, episodes=9).seeds()[:6] == small(tmp_path).seeds()
    assert not set(small(tmp_path, seed=1).seeds()) & set(small(tmp_path).seeds())


@pytest.mark.parametrize("changes", [{"episodes": 1}, {"faults": []}, {"agents": ["push"], "severities": [0.0]}])
def test_small_runs_make_a_report_too(changes: dict, tmp_path: Path) -> None:
    report = stress(small(tmp_path, **changes), progress=False)
    assert len(report.html()) > 5000 and len(report.table().rows) == len(report.results)
    if "episodes" in changes:
        assert report.results[0]["return_mean_interval"] == [None, None]
    if changes.get("severities") == [0.0]:
        assert any("never fired" in warning for warning in report.data["warnings"])


def test_trace_holds_every_step(tmp_path: Path) -> None:
    config = small(tmp_path, trace=True, agents=["push"], faults=["slow_api"], severities=[1.0], worst=0)
    report = stress(config, progress=False)
    traces = {path.name.split("-push")[0]: path for path in (tmp_path / "traces").iterdir()}
    assert set(traces) == {"real-none-0", "real-slow-api-1"}
    rows = [json.loads(line) for line in traces["real-slow-api-1"].read_text().splitlines()]
    faulty = report.results[1]
    assert len(rows) == round(faulty["steps_mean"] * 6)
    assert sum(row["reward"] for row in rows) / 6 == pytest.approx(faulty["return_mean"])
    assert sum(len(row["faults"]) for row in rows) / 6 == pytest.approx(faulty["faults_fired"])
    assert {"tool", "call", "fault", "kind", "details"} == set(rows[0]["faults"][0])
    assert {record["tool"] for row in rows for record in row["faults"]} == {"step"}


def test_an_agent_has_a_reply_without_faults_and_an_action_that_there_is_none_of_is_its_crash(tmp_path: Path) -> None:
    agents = ["tests.evaluation.agents:Trusting", "tests.evaluation.agents:Wild"]
    rows = stress(small(tmp_path, agents=agents, episodes=2), progress=False).data["results"]
    crashes = {(row["agent"].rpartition(":")[2], row["fault"]): row for row in rows}
    assert crashes["Trusting", "none"]["crashes"] == 0 and crashes["Trusting", "none"]["return_mean"] == 40
    assert crashes["Wild", "none"]["crashes"] == 2
    assert crashes["Wild", "none"]["crash_example"] == "ValueError: the action 17 is not in Discrete(2)"


def test_max_steps_cuts_in_any_environment(tmp_path: Path) -> None:
    test = StressTest(small(tmp_path, max_steps=5))
    episodes = test.run(test.cells[0])
    assert {episode.result.steps for episode in episodes} == {5}
    assert all(episode.result.truncated and not episode.result.terminated for episode in episodes)


def test_violations_and_success_follow_the_criteria(tmp_path: Path) -> None:
    test = StressTest(small(tmp_path, env=CARTPOLE.model_copy(update={"violation_reward": 0.0})))
    cell = next(cell for cell in test.cells if cell.agent == "push")

    def measure(criteria: SuccessCriteria) -> runs.EpisodeResult:
        from tests.evaluation.agents import Push

        env = test.make_env(cell)
        return run_episode(Push(env.observation_space, env.action_space), env, test.seeds[0], criteria).result

    every = measure(SuccessCriteria(success_return=1.0, violation_reward=1.0))
    assert every.success is True and every.violations == every.steps
    slow = test.run(next(cell for cell in test.cells if cell.agent == "push" and cell.severity == 1.0))
    lost = sum(episode.result.faults.get("timeout, request lost", 0) for episode in slow)
    assert lost > 0 and sum(episode.result.violations or 0 for episode in slow) == 0
    none = measure(SuccessCriteria(None, None))
    assert none.success is None and none.violations is None


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"faults": ["slow_apo"]}, "Did you mean 'slow_api'"),
        ({"severities": [-0.5]}, "between 0 and 1, got -0.5"),
        ({"agents": ["push", "push"]}, "has one entry twice"),
        ({"agents": []}, "has no agent"),
        ({"where": ["real", "world"]}, "world is not set"),
        ({"agents": ["balence"]}, "balence"),
    ],
)
def test_mistakes_get_one_line(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(WorldsimError, match=message) as caught:
        stress(small(tmp_path, **changes), progress=False)
    assert "\n" not in str(caught.value)


def test_agents_default_to_the_envs_and_random(tmp_path: Path) -> None:
    assert small(tmp_path).agent_specs() == ["random", "balance", "push", "brittle"]
    assert small(tmp_path, env={"id": "CartPole-v1"}).agent_specs() == ["random", "sticky"]


def test_a_plan_in_a_file_is_run_like_a_ready_one(tmp_path: Path) -> None:
    plan = Plan.load("slow_api").model_copy(update={"name": "mine", "description": "As slow as mine."})
    path = tmp_path / "plan.yaml"
    path.write_text(plan.to_yaml())
    settings = {"agents": ["push"], "severities": [1.0], "worst": 0, "faults": [str(path), "slow_api"]}
    report = stress(small(tmp_path / "out", **settings), progress=False)
    rows = {row["fault"]: row for row in report.results}
    own, ready = ({**rows[name], "fault": ""} for name in ("mine", "slow_api"))
    assert own == ready and own["faults_fired"] > 0
    assert "As slow as mine." in report.html()
    path.write_text(plan.model_copy(update={"name": "slow_api"}).to_yaml())
    with pytest.raises(WorldsimError, match="two have the same name"):
        stress(small(tmp_path / "out", **settings), progress=False)


def test_a_plan_that_can_never_act_is_warned_of_once(tmp_path: Path) -> None:
    path = tmp_path / "black.yaml"
    path.write_text("name: black\nfaults:\n  - kind: black_frames\n  - kind: blur\n")
    settings = {"agents": ["push", "balance"], "severities": [0.0, 0.5], "worst": 0, "episodes": 2}
    report = stress(small(tmp_path / "out", faults=[str(path), "dying_camera"], **settings), progress=False)
    sentence = (
        "black can never do anything in this environment (black_frames: there are no frames; blur: there are no frames)"
    )
    assert [warning.startswith(sentence) for warning in report.data["warnings"]].count(True) == 1
    assert not any("black at severity" in warning for warning in report.data["warnings"])
    assert not any("dying_camera can never" in warning for warning in report.data["warnings"])  # it has some noise
    assert sentence in report.html()
    console = Console(width=200, file=io.StringIO())
    console.print(report.table())
    assert sentence in " ".join(console.file.getvalue().split())
    rows = {(row["agent"], row["fault"], row["severity"]): row for row in report.results}
    assert rows["push", "black", 0.5]["return_mean"] == rows["push", "none", 0.0]["return_mean"]


def test_severity_0_is_no_reason_to_warn_of_a_plan(tmp_path: Path) -> None:
    report = stress(small(tmp_path, agents=["push"], severities=[0.0], worst=0, episodes=2), progress=False)
    assert report.data["idle"] == {} and any("never fired" in warning for warning in report.data["warnings"])


def test_a_plan_that_does_not_fit_the_environment_is_an_error_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("faults:\n  - kind: missing_data\n    targets: [screen]\n")
    with pytest.raises(WorldsimError, match=f"^{path}:3: missing_data: target 'screen' matches nothing"):
        stress(small(tmp_path / "out", faults=[str(path)]), progress=False)
    assert not (tmp_path / "out").exists()
