"""Time-outs, held against an environment that counts; and time that costs nothing."""

import copy
import time

import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence

from worldsim import faults
from worldsim.faults import VirtualClock, WallClock
from worldsim.wrappers import SlowAPI

from .recording_env import RecordingEnv


def always(lose_answer: float) -> dict[str, float]:
    return {"severity": 1.0, "timeout_s": 0.0, "lose_answer": lose_answer}


def test_a_lost_request_never_arrives() -> None:
    below = RecordingEnv(length=2)
    env = SlowAPI(below, **always(lose_answer=0.0))
    first, info = env.reset(seed=0)
    for action in range(5):
        observation, reward, terminated, truncated, info = env.step(action)
        assert (reward, terminated, truncated) == (0.0, False, False)
        assert info["reply"] == {"ok": False, "error": "timeout", "retry_after_s": None, "latency_s": 0.0}
        assert info["faults"][0].details["lost"] == "request"
        assert info["arrived"] == 0
    assert below.arrived == []


def test_a_lost_answer_leaves_the_effect_the_reward_and_the_end() -> None:
    below = RecordingEnv(length=3)
    env = SlowAPI(below, **always(lose_answer=1.0))
    first, _ = env.reset(seed=0)
    first = copy.deepcopy(first)
    ends = []
    for action in range(3):
        observation, reward, terminated, _, info = env.step(action)
        assert reward == action + 1
        assert info["faults"][0].details["lost"] == "answer"
        ends.append(terminated)
        assert data_equivalence(observation["screen"], first["screen"], exact=True)
        assert observation["reply"]["status"] == 3 and observation["reply"]["amount"] == 0
        assert observation["reply"]["order"] == first["reply"]["order"]
        assert observation in env.observation_space
    assert ends == [False, False, True]
    assert below.arrived == [0, 1, 2]


def test_half_of_the_timeouts_lose_the_request() -> None:
    below = RecordingEnv()
    env = SlowAPI(below, severity=1.0)
    env.reset(seed=0)
    for action in range(2000):
        env.step(action)
    lost = [record.details["lost"] for record in env.records if record.kind == "timeout"]
    assert lost.count("request") == 2000 - len(below.arrived)
    assert lost.count("request") / len(lost) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(len(lost)))


def test_latencies_are_log_normal_and_the_clock_and_the_reply_agree_with_the_records() -> None:
    env = SlowAPI(RecordingEnv(), severity=0.5, timeout_s=1e9)
    env.reset(seed=0)
    replies = [env.step(action)[-1]["reply"] for action in range(4000)]
    latencies = np.array([record.details["latency_s"] for record in env.records])
    assert np.median(latencies) == pytest.approx(1.5, rel=0.06)
    assert np.log(latencies).std() == pytest.approx(1.05, rel=0.05)
    assert [reply["latency_s"] for reply in replies] == latencies.tolist()
    assert env.clock.now() == pytest.approx(latencies.sum())


def test_a_caller_never_waits_longer_than_the_timeout() -> None:
    env = SlowAPI(RecordingEnv(), severity=1.0, timeout_s=4.0)
    env.reset(seed=0)
    waited = []
    for action in range(300):
        before = env.clock.now()
        reply = env.step(action)[-1]["reply"]
        waited.append(env.clock.now() - before)
        assert waited[-1] == pytest.approx(reply["latency_s"])
    assert max(waited) == pytest.approx(4.0)


def test_one_simulated_hour_costs_milliseconds() -> None:
    env = SlowAPI(RecordingEnv(space=RecordingEnv().action_space), severity=1.0)
    env.reset(seed=0)
    start = time.process_time()
    while env.clock.now() < 3600:
        env.step(0)
    assert time.process_time() - start < 0.25  # 50 ms on an idle machine, see benchmarks/faults.py


def test_the_wall_clock_really_waits() -> None:
    env = SlowAPI(RecordingEnv(), severity=1.0, median_s=0.002, timeout_s=0.004, clock=WallClock())
    env.reset(seed=0)
    start = time.monotonic()
    latency_s = sum(env.step(action)[-1]["reply"]["latency_s"] for action in range(10))
    assert time.monotonic() - start >= latency_s > 0


def test_a_clock_can_be_shared() -> None:
    clock = VirtualClock()
    one, other = SlowAPI(RecordingEnv(), clock=clock), SlowAPI(RecordingEnv(), clock=clock)
    one.reset(seed=0), other.reset(seed=0)
    one.step(0), other.step(0)
    assert clock.now() == one.clock.now() == other.clock.now() > 0


def test_the_latency_of_a_quantile_grows_with_severity() -> None:
    for quantile in (0.0, 0.3, 0.5, 0.9, 0.999):
        latencies = [
            faults.SlowAPI(severity=severity).latencies_s(np.array([quantile]))[0]
            for severity in (0.25, 0.5, 0.75, 1.0)
        ]
        assert quantile == 0.0 or latencies == sorted(latencies)
        assert all(np.isfinite(latencies))
