"""The world moves on while the agent waits: counted by an environment that writes down what reached it."""

import time
from typing import Any

import pytest

from worldsim.errors import ConfigError
from worldsim.faults import ConstantLatency, LostRequest
from worldsim.wrappers import InjectFaults, SlowAPI

from .recording_env import FIELDS, RecordingEnv


def world(**settings: Any) -> tuple[RecordingEnv, InjectFaults]:
    below = RecordingEnv(FIELDS, length=settings.pop("length", 10**9))
    faults = settings.pop("faults", [ConstantLatency(severity=1.0, seconds=settings.pop("seconds", 0.35))])
    env = InjectFaults(below, faults, **{"time": "virtual", "step_s": 0.1, **settings})
    env.reset(seed=0)
    return below, env


def test_by_default_the_world_stands_still() -> None:
    below, env = world(time=None)
    env.step(7)
    assert below.arrived == [7] and env.clock.now() == 0.35


def test_the_world_takes_a_step_for_each_tick_of_the_latency() -> None:
    below, env = world()
    _, reward, *_ = env.step(7)  # 0.35 s under way: three ticks of 0.1 s, and the action in the fourth
    assert below.arrived == [0, 0, 0, 7]
    assert reward == 1 + 2 + 3 + 4
    assert env.clock.now() == pytest.approx(0.4)
    env.step(8)
    assert below.arrived == [0, 0, 0, 7, 0, 0, 0, 8]


def test_without_latency_nothing_is_added_and_time_passes_by_steps() -> None:
    below, env = world(faults=[])
    for action in range(5):
        env.step(action)
    assert below.arrived == [0, 1, 2, 3, 4]
    assert env.clock.now() == pytest.approx(0.5)


def test_it_can_hold_the_last_action_or_another_one() -> None:
    below, env = world(hold="last")
    env.step(7), env.step(8)
    assert below.arrived == [0, 0, 0, 7, 7, 7, 7, 8]  # before the first one there is none to hold
    below, env = world(hold=5)
    env.step(7)
    assert below.arrived == [5, 5, 5, 7]


def test_a_world_that_ends_while_the_agent_waits_has_ended() -> None:
    below, env = world(length=2)
    *_, reward, terminated, truncated, info = env.step(7)
    assert terminated and not truncated and below.arrived == [0, 0]


def test_a_request_that_never_arrives_lets_the_world_go_by() -> None:
    below, env = world(faults=[LostRequest(severity=1.0, rate=1.0, timeout_s=0.5)])
    _, reward, *_, info = env.step(7)
    assert info["reply"]["error"] == "timeout" and below.arrived == [0] * 5 and reward == 15


def test_real_time_counts_the_agents_thinking() -> None:
    below, env = world(faults=[], time="wall", step_s=0.02)
    env.step(7)
    time.sleep(0.07)
    start = time.monotonic()
    env.step(8)
    waited = time.monotonic() - start
    assert below.arrived[0] == 7 and below.arrived[-1] == 8
    assert below.arrived[1:-1] and set(below.arrived[1:-1]) == {0}
    assert len(below.arrived[1:-1]) >= 3
    assert waited < 10


def test_snapshots_keep_the_time_of_the_world() -> None:
    below, env = world(seconds=0.13)
    env.step(1), env.step(2)
    kept = env.snapshot()
    env.step(3), env.step(4)
    first = list(below.arrived)
    env.restore(kept)
    env.step(3), env.step(4)
    assert below.arrived == first


def test_seconds_per_step_come_from_the_environment_or_are_asked_for() -> None:
    below = RecordingEnv(FIELDS)
    with pytest.raises(ConfigError, match="step_s must be the seconds"):
        SlowAPI(below, time="virtual")
    with pytest.raises(ConfigError, match="time must be 'virtual', 'wall'"):
        SlowAPI(below, time="slow", step_s=1.0)
    below.metadata = {**below.metadata, "render_fps": 4}
    env = SlowAPI(below, severity=1e-9, time="virtual")
    env.reset(seed=0)
    env.step(0)
    assert env.clock.now() == pytest.approx(0.25)
