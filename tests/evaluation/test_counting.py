"""What is counted in an episode: faults by calls, violations by the times that a call was carried out."""

from importlib.resources import files
from typing import Any

import pytest
import yaml

from worldsim.agents import make_agent
from worldsim.envs.make import EnvConfig, make_env
from worldsim.evaluation.runs import Episode, SuccessCriteria, fault_kinds, request_lost, run_episode
from worldsim.faults import FaultRecord
from worldsim.wrappers import InjectFaults

DESK = EnvConfig.model_validate(yaml.safe_load((files("worldsim") / "configs/env/refund_desk.yaml").read_text()))


def shifts(agent: str, faults: list[dict[str, Any]], count: int = 25) -> list[Episode]:
    """Shifts at the refund desk, whose database counts violations by itself."""
    env = InjectFaults(make_env(DESK), faults, seed=5)
    made = make_agent(agent, env.observation_space, env.action_space, DESK.agents)
    criteria = SuccessCriteria(DESK.success_return, DESK.violation_reward)
    return [run_episode(made, env, seed, criteria, trace=True) for seed in range(count)]


TWICE = {"kind": "duplicate_execution", "severity": 1.0, "rate": 1.0}
LOST = {"kind": "lost_answer", "severity": 1.0, "rate": 0.5}


@pytest.mark.parametrize("agent", ["blind", "hasty", "random"])
@pytest.mark.parametrize(
    "faults",
    [
        [TWICE],
        [LOST],  # who repeats blindly pays twice
        [LOST, {"kind": "duplicate_execution", "severity": 0.5}],
        [{"kind": "reordered_delivery", "severity": 1.0}],  # two calls are carried out in one step
        [{"kind": "false_success", "severity": 1.0}, {"kind": "server_error", "severity": 1.0}],
        [{"kind": "sticky_action", "severity": 1.0}, {"kind": "delayed_action", "severity": 0.5}],
    ],
    ids=lambda faults: "+".join(each["kind"] for each in faults),
)
def test_violations_by_rewards_are_those_of_the_database(agent: str, faults: list[dict[str, Any]]) -> None:
    results = [episode.result for episode in shifts(agent, faults)]
    assert [each.violations for each in results] == [each.violations_counted for each in results]
    assert sum(each.violations for each in results) > 0


def test_both_runs_of_a_call_are_judged() -> None:
    """Refunded twice, the second time a double refund, by somebody who was not due one: two violations in one step."""
    for episode in shifts("hasty", [TWICE]):
        by_steps = sum(row["reward"] <= DESK.violation_reward for row in episode.trace)
        assert episode.result.violations > by_steps


def test_a_fault_is_counted_once_a_call_whatever_number_of_fields_it_changed() -> None:
    faults = [{"kind": "missing_data", "severity": 1.0}, {"kind": "malformed_output", "severity": 1.0}]
    for episode in shifts("blind", faults, count=3):
        counted = dict.fromkeys(("missing", "unavailable", "wrong_value", "unparsable"), 0)
        for row in episode.trace:
            for kind in counted:
                counted[kind] += any(record["kind"] == kind for record in row["faults"])
        assert episode.result.faults == counted
        assert sum(len(row["faults"]) for row in episode.trace) > 3 * sum(counted.values())


def record(kind: str, **details: Any) -> FaultRecord:
    return FaultRecord("refund", 0, "some_fault", kind, details)


def test_kinds_are_named_with_what_was_lost() -> None:
    info = {"faults": [record("delay"), record("timeout", lost="answer"), record("delay"), record("missing", leaf="a")]}
    assert fault_kinds(info) == ["delay", "timeout, answer lost", "missing"]
    assert fault_kinds({}) == []


@pytest.mark.parametrize(
    "info, lost",
    [
        ({"faults": [record("timeout", lost="request")], "executions": []}, True),
        ({"faults": [record("timeout", lost="answer")], "executions": [-1.0]}, False),
        (
            {"faults": [record("refused", lost="request"), record("again")], "executions": [0.0]},
            False,
        ),  # retried within
        ({"faults": [], "executions": []}, False),  # a reset
        ({}, False),  # no faults around the environment
    ],
)
def test_a_request_is_lost_where_nothing_was_carried_out(info: dict[str, Any], lost: bool) -> None:
    assert request_lost(info) == lost
