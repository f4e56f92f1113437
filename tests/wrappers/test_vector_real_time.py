"""Worlds of a vector that move on while their agents wait: as under `InjectFaults` on each alone, bit for bit."""

import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tests.simulator.stub_world import StubWorld
from worldsim import faults
from worldsim.errors import ConfigError
from worldsim.faults import Call, CallContext, FaultGenerator, Sleep
from worldsim.simulator import WorldEnv, WorldVectorEnv
from worldsim.wrappers import InjectFaults, VectorInjectFaults, VectorSlowAPI

from .recording_env import DESK, FIELDS, RecordingEnv
from .test_vector import check_restored, play_both

COUNT = 3
MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]


@faults.fault("hesitation")
def hesitation(call: Call, context: CallContext) -> FaultGenerator:
    """Passes calls on as they are, 0.24 s late, and their replies 0.11 s late."""
    yield Sleep(0.24 * context.uniform)
    reply = yield call
    yield Sleep(0.11 * context.rng.random())
    return reply


@faults.fault("waits_twice")
def waits_twice(call: Call, context: CallContext) -> FaultGenerator:
    """Waits before each of two calls."""
    yield Sleep(0.3 * context.uniform)
    yield call
    yield Sleep(0.15)
    return (yield call)


PLANS: dict[str, Sequence[faults.Fault]] = {
    "none": [],
    "slow": [faults.LognormalLatency(severity=0.6)],
    "lost": [faults.LostRequest(severity=0.7, timeout_s=0.5), faults.SlowAPI(severity=0.5)],
    "drip": [faults.SlowDrip(severity=0.8, patience_s=1e6), faults.LostAnswer(severity=0.6, timeout_s=0.4)],
    "own": [faults.UniformLatency(severity=0.3), waits_twice(severity=1.0), hesitation(severity=1.0)],
    "many": [
        faults.LognormalLatency(severity=0.4),
        faults.DuplicateExecution(severity=0.9),
        hesitation(severity=1.0, probability=0.5),
        faults.SlowStart(severity=0.5),
        faults.DelayedAction(severity=0.5),
        faults.RateLimited(severity=0.5),
        faults.ParetoLatency(severity=0.3),
        faults.StaleCache(severity=0.3, targets=["*"]),
        faults.MissingData(severity=0.6),
    ],
}


def desk(length: int = 25) -> gym.Env[Any, Any]:
    return RecordingEnv(DESK, length=length)


def pair(
    make: Any, plan: Any, mode: AutoresetMode = AutoresetMode.NEXT_STEP, **moving: Any
) -> tuple[VectorInjectFaults, SyncVectorEnv]:
    """Faults around a vector, and a vector of environments with faults around each, both under virtual clocks."""
    moving = {"time": "virtual", "step_s": 0.1, **moving}
    below = SyncVectorEnv([make] * COUNT, autoreset_mode=mode)
    apart = SyncVectorEnv([lambda: InjectFaults(make(), plan, seed=5, **moving)] * COUNT, autoreset_mode=mode)
    return VectorInjectFaults(below, plan, seed=5, **moving), apart


def arrived(envs: SyncVectorEnv) -> list[Any]:
    return [list(map(int, env.unwrapped.arrived)) for env in envs.envs]  # type: ignore[attr-defined]


@pytest.mark.parametrize("hold", [None, "last", 5])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_each_world_moves_on_as_it_would_alone(plan: Any, mode: AutoresetMode, hold: Any) -> None:
    ours, theirs = pair(desk, plan, mode, hold=hold)
    play_both(ours, theirs, 25)
    assert arrived(ours._inner_envs) == arrived(theirs)  # type: ignore[arg-type]
    assert ours.seconds.tolist() == [env.clock.now() for env in theirs.envs]  # type: ignore[attr-defined]
    assert ours.records == [env.records for env in theirs.envs]  # type: ignore[attr-defined]


def test_ticks_are_counted_for_each_world() -> None:
    plan = [faults.ConstantLatency(severity=1.0, seconds=0.35)]
    ours = pair(lambda: RecordingEnv(FIELDS), plan)[0]
    ours.reset(seed=0)
    _, rewards, *_ = ours.step(np.array([7, 8, 9]))  # 0.35 s under way: three ticks, and the action in the fourth
    assert arrived(ours._inner_envs) == [[0, 0, 0, 7], [0, 0, 0, 8], [0, 0, 0, 9]]  # type: ignore[arg-type]
    assert rewards.tolist() == [10.0] * COUNT and ours.seconds == pytest.approx([0.4] * COUNT)


def test_learned_worlds_and_their_snapshots() -> None:
    world, moving = StubWorld(), {"time": "virtual", "step_s": 0.1}
    ours = VectorInjectFaults(WorldVectorEnv(world, COUNT, horizon=60), PLANS["many"], seed=5, **moving)  # type: ignore[arg-type]
    theirs = SyncVectorEnv([lambda: InjectFaults(WorldEnv(world, horizon=60), PLANS["many"], seed=5, **moving)] * COUNT)  # type: ignore[arg-type]
    play_both(ours, theirs, 30)
    check_restored(ours, 15)


def test_nested_directly_one_time_counts_for_all() -> None:
    plan = [faults.SlowAPI(severity=0.9), faults.MissingData()]
    one = pair(desk, plan)[0]
    below = SyncVectorEnv([desk] * COUNT)
    inner = VectorInjectFaults(below, plan[1:], seed=5, time="virtual", step_s=0.1)
    assert play_both(VectorInjectFaults(inner, plan[:1], seed=5), one, 20)


def test_seconds_per_step_come_from_the_environment_and_bad_ones_are_told() -> None:
    def paced() -> gym.Env[Any, Any]:
        env = RecordingEnv(FIELDS)
        env.metadata = {**env.metadata, "render_fps": 4}
        return env

    envs = VectorSlowAPI(SyncVectorEnv([paced] * COUNT), severity=1e-9, time="virtual")
    envs.reset(seed=0)
    envs.step(np.zeros(COUNT, int))
    assert envs.seconds == pytest.approx([0.25] * COUNT)
    below = SyncVectorEnv([desk] * COUNT)
    with pytest.raises(ConfigError, match="step_s must be the seconds"):
        VectorInjectFaults(below, [], time="virtual")
    with pytest.raises(ConfigError, match="time must be 'virtual', 'wall'"):
        VectorInjectFaults(below, [], time="slow", step_s=1.0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"hold must be an action of Discrete\(1000\) or 'last', got -3"):
        VectorInjectFaults(below, [], time="virtual", step_s=1.0, hold=-3)
    together = gym.vector.VectorWrapper(below)
    with pytest.raises(ConfigError, match="^time: each world moves on by itself, and .* moves all .* together; use a"):
        VectorInjectFaults(together, [], time="virtual", step_s=1.0)


@faults.fault("slow_for_one")
def slow_for_one(call: Call, context: CallContext) -> FaultGenerator:
    """A call takes 0.2 s where its action is 1."""
    yield Sleep(0.2 if call.arguments["action"] == 1 else 0.0)
    return (yield call)


def test_real_time_counts_thinking_and_the_last_reply_is_waited_for() -> None:
    envs = VectorInjectFaults(
        SyncVectorEnv([lambda: RecordingEnv(FIELDS)] * COUNT), [slow_for_one()], time="wall", step_s=0.02
    )
    envs.reset(seed=0)
    start = time.monotonic()
    envs.step(np.array([7, 1, 9]))
    assert time.monotonic() - start >= 0.2
    quick, slow, _ = arrived(envs._inner_envs)  # type: ignore[arg-type]
    assert quick[0] == 7 and len(quick) >= 10 and set(quick[1:]) == {0}
    assert slow.index(1) >= 10 and set(slow) == {0, 1}
    time.sleep(0.1)
    envs.step(np.array([7, 8, 9]))
    assert len(arrived(envs._inner_envs)[0]) >= len(quick) + 5  # type: ignore[arg-type]
    assert np.ptp(envs.seconds) == 0
