"""What every fault must keep, run on each: identity at 0, determinism, independence, growth, true records."""

import copy
import json
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.strategies import observation_spaces
from worldsim import faults
from worldsim.faults.trees import get, leaves_of
from worldsim.wrappers import InjectFaults, MalformedOutput, MissingData, SlowAPI

from .recording_env import FIELDS, RecordingEnv

WRAPPERS = (SlowAPI, MalformedOutput, MissingData)
Wrap = Callable[..., InjectFaults]
each_fault = pytest.mark.parametrize("wrap", WRAPPERS)


def alike(left: Any, right: Any) -> bool:
    return bool(data_equivalence(left, right, exact=True))


def play(env: gym.Env[Any, Any], calls: int, seed: int | None = 0) -> list[Any]:
    """Everything that comes out of `calls` calls with actions 0, 1, 2, ... as far as there are."""
    out: list[Any] = [copy.deepcopy(env.reset(seed=seed))]
    for action in range(calls):
        out.append(copy.deepcopy(env.step(action % env.action_space.n)))  # type: ignore[attr-defined]
        if out[-1][2] or out[-1][3]:
            break
    return out


def different_leaves(space: Any, left: Any, right: Any) -> set[str]:
    return {leaf.name for leaf in leaves_of(space) if not alike(get(left, leaf.path), get(right, leaf.path))}


@each_fault
def test_severity_0_is_the_identity(wrap: Wrap) -> None:
    bare, wrapped = RecordingEnv(length=40), RecordingEnv(length=40)
    for number, (plain, faulty) in enumerate(zip(play(bare, 50), play(wrap(wrapped, severity=0), 50), strict=True)):
        told = faulty[-1]
        assert told.pop("faults") == [] and told.pop("executions") == ([plain[1]] if number else [])
        assert told.pop("reply") == {"ok": True, "error": None, "retry_after_s": None, "latency_s": 0.0}
        assert alike(plain, faulty)


@each_fault
def test_severity_0_hands_the_very_objects_through(wrap: Wrap) -> None:
    class Same(RecordingEnv):
        def step(self, action: Any) -> Any:
            self.last = super().step(action)
            return self.last

    below = Same()
    env = wrap(below, severity=0)
    env.reset(seed=0)
    result = env.step(1)
    assert all(got is given for got, given in zip(result[:4], below.last[:4], strict=True))


@each_fault
def test_the_same_seeds_do_the_same_and_others_do_not(wrap: Wrap) -> None:
    env = wrap(RecordingEnv(), severity=0.8, seed=5)
    first = play(env, 80)
    assert alike(first, play(wrap(RecordingEnv(), severity=0.8, seed=5), 80))
    again = play(env, 80)  # later on the clock, whose sums are rounded
    for step, other in zip(first, again, strict=True):
        late, other_late = (each[-1]["reply"].pop("latency_s") for each in (copy.deepcopy(step), other))
        assert late == pytest.approx(other_late)
        assert alike(step[:-1], other[:-1])
        assert step[-1]["faults"] == other[-1]["faults"] and step[-1]["executions"] == other[-1]["executions"]
    records = [record for step in first[1:] for record in step[-1]["faults"]]
    assert records == wrap_records(wrap, seed=5, reset=0)
    assert records != wrap_records(wrap, seed=6, reset=0)
    assert records != wrap_records(wrap, seed=5, reset=1)


def wrap_records(wrap: Wrap, seed: int, reset: int) -> list[Any]:
    env = wrap(RecordingEnv(), severity=0.8, seed=seed)
    play(env, 80, reset)
    return env.records


@each_fault
def test_episodes_without_a_seed_differ_and_repeat_as_a_sequence(wrap: Wrap) -> None:
    def episodes() -> list[Any]:
        env = wrap(RecordingEnv(), severity=0.8)
        seen = []
        for seed in (3, None, None):
            play(env, 40, seed)
            seen.append([(record.call, record.kind) for record in env.records])
        return seen

    first = episodes()
    assert first == episodes()
    assert first[0] != first[1] != first[2]


@each_fault
def test_what_happens_to_call_k_does_not_depend_on_other_faults_or_calls(wrap: Wrap) -> None:
    """The fault alone; from a later call on; and among others (further out and in) whose kinds it ignores."""
    kind = wrap.kind  # type: ignore[attr-defined]
    built = faults.KINDS[kind]

    def struck(plan: list[faults.Fault]) -> set[int]:
        env = InjectFaults(RecordingEnv(), plan, seed=1)
        play(env, 60)
        return {record.call for record in env.records if record.fault == kind and record.kind != "delay"}

    alone = struck([built(severity=0.9)])
    assert {k for k in alone if k >= 20} == struck([built(severity=0.9, schedule=faults.After(calls=20))])
    other = faults.MissingData if kind == "slow_api" else faults.SlowAPI
    quiet = [other(severity=1e-9), built(severity=0.9), other(severity=1e-9)]
    assert struck(quiet) == alone
    among = struck([built(severity=0.9), other(severity=0.4)])
    assert among == alone if kind == "slow_api" else among <= alone


@each_fault
def test_a_graver_fault_strikes_where_a_milder_one_did_and_more(wrap: Wrap) -> None:
    struck = []
    for severity in (0.1, 0.3, 0.6, 1.0):
        env = wrap(RecordingEnv(FIELDS), severity=severity)
        play(env, 600)
        struck.append({record.call for record in env.records if record.kind != "delay"})
    assert all(mild < grave for mild, grave in zip(struck, struck[1:], strict=False))


@each_fault
@pytest.mark.parametrize("severity", [0.25, 0.5, 1.0])
def test_rates_are_those_of_the_docstring(wrap: Wrap, severity: float) -> None:
    """Within four standard errors of what each severity promises."""
    promised = {
        SlowAPI: {"timeout": {0.25: 0.051, 0.5: 0.175, 1.0: 0.397}},
        MalformedOutput: {
            "unparsable": {0.25: 0.05, 0.5: 0.1, 1.0: 0.2},
            "wrong_value": {0.25: 0.05, 0.5: 0.1, 1.0: 0.2},
        },
        MissingData: {
            "unavailable": {0.25: 0.0375, 0.5: 0.075, 1.0: 0.15},
            "missing": {0.25: 0.1125, 0.5: 0.225, 1.0: 0.45},
        },
    }
    calls = 3000
    env = wrap(RecordingEnv(FIELDS), severity=severity)
    play(env, calls)
    for kind, table in promised[wrap].items():  # type: ignore[index]
        rate = len({record.call for record in env.records if record.kind == kind}) / calls
        expected = table[severity]
        assert abs(rate - expected) < 4 * np.sqrt(expected * (1 - expected) / calls), (kind, rate, expected)


@each_fault
@settings(max_examples=40, deadline=None)
@given(space=observation_spaces(), seed=st.integers(0, 1000), severity=st.floats(0.3, 1.0))
def test_records_say_what_happened_on_any_space(wrap: Wrap, space: Any, seed: int, severity: float) -> None:
    below = RecordingEnv(space)
    below.metadata = {"render_modes": []}
    env = wrap(below, severity=severity, seed=seed)
    seen, info = env.reset(seed=seed)
    expected: list[Any] = []
    for action in range(25):
        arrived = len(below.arrived)
        observation, reward, terminated, truncated, info = env.step(action)
        records, reply = info["faults"], info["reply"]
        json.dumps([record.to_json() for record in records], allow_nan=False)
        assert all(record.call == action for record in records)
        assert observation in space and not terminated and not truncated
        lost = [record.details["lost"] for record in records if record.kind == "timeout"]
        if lost == ["request"]:
            assert len(below.arrived) == arrived and reward == 0
        else:
            expected.append(action)
            assert reward == len(expected)
        failed = {"timeout": "timeout", "unparsable": "malformed", "unavailable": "unavailable"}
        assert reply["error"] == next((failed[r.kind] for r in records if r.kind in failed), None)
        if reply["ok"]:
            changed = {record.details["leaf"] for record in records if "leaf" in record.details}
            assert changed == different_leaves(space, below.answered[-1], observation)
            seen = copy.deepcopy(observation)
        else:
            assert alike(observation, seen)
        assert below.arrived == expected
    assert len(env.records) == len({id(record) for record in env.records})


@each_fault
@pytest.mark.parametrize("out_of_space", [False, True])
def test_what_the_environment_and_the_agent_hold_is_never_written_to(wrap: Wrap, out_of_space: bool) -> None:
    class Reusing(RecordingEnv):
        """Keeps what it gave away, as environments that answer from one buffer do."""

        def _answer(self) -> Any:
            self.given = super()._answer()
            return self.given

    below = Reusing()
    extra = {} if wrap is SlowAPI else {"out_of_space": out_of_space}
    env = wrap(below, severity=1.0, **extra)
    held = [env.reset(seed=0)[0]]
    copies = copy.deepcopy(held)
    for action in range(60):
        held.append(env.step(action)[0])
        copies.append(copy.deepcopy(held[-1]))
        assert alike(below.given, below.answered[-1])
    np.testing.assert_equal(held, copies)  # NaN equals NaN


@each_fault
def test_what_the_agent_writes_into_its_observation_does_not_come_back(wrap: Wrap) -> None:
    env = wrap(RecordingEnv(), severity=1.0)
    clean = [step[0] for step in play(wrap(RecordingEnv(), severity=1.0), 60)]
    observation, _ = env.reset(seed=0)
    for action in range(60):
        observation["screen"][:] = 77
        observation = env.step(action)[0]
        assert alike(observation, clean[action + 1])


@pytest.mark.parametrize("wrap", [MalformedOutput, MissingData])
def test_out_of_space_values_arrive_when_asked_for_and_chains_survive_them(wrap: Wrap) -> None:
    env = wrap(RecordingEnv(), severity=1.0, out_of_space=True)
    steps = play(env, 200)
    outside = [step for step in steps if step[0] not in env.observation_space]
    assert len(outside) > 20
    assert all(step[-1]["faults"] for step in outside)
    other = MissingData if wrap is MalformedOutput else MalformedOutput
    play(other(env, severity=1.0, out_of_space=True), 200)


@pytest.mark.parametrize("wrap", [MalformedOutput, MissingData])
def test_targets_and_schedules_confine_a_fault(wrap: Wrap) -> None:
    window = faults.Window(start=10, stop=40)
    env = wrap(RecordingEnv(), severity=1.0, targets=["reply/*"], schedule=window, rate=1.0)
    play(env, 80)
    assert {record.call for record in env.records} == set(range(10, 40))
    touched = {record.details["leaf"] for record in env.records if "leaf" in record.details}
    assert touched == {"reply/status", "reply/amount", "reply/order"}


@each_fault
def test_probability_thins_a_fault_out(wrap: Wrap) -> None:
    full, half = wrap(RecordingEnv(FIELDS), severity=1.0), wrap(RecordingEnv(FIELDS), severity=1.0, probability=0.5)
    play(full, 1000)
    play(half, 1000)
    struck = [{record.call for record in env.records} for env in (full, half)]
    assert struck[1] < struck[0]
    assert len(struck[1]) / len(struck[0]) == pytest.approx(0.5, abs=0.06)
