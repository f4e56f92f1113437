"""Values outside the space on vectors: each environment gets what `InjectFaults` on it alone gives, bit for bit."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.strategies import observation_spaces
from tests.simulator.stub_world import StubWorld
from worldsim import faults
from worldsim.simulator import WorldEnv, WorldVectorEnv
from worldsim.spaces import leaves
from worldsim.wrappers import InjectFaults, Ragged, VectorInjectFaults, VectorNonFinite

from .recording_env import DESK, KINDS, RecordingEnv
from .test_vector import acting, check_restored, clerk, told

COUNT = 3
WIDE = sorted(kind for kind in KINDS if "out_of_space" in faults.KINDS[kind].model_fields)
BOX = spaces.Box(-1.0, 1.0, (5,), np.float32)


def part(space: gym.Space[Any], batch: Any, row: int) -> Any:
    """What stands in a batch for one environment, read as the docstring of `VectorInjectFaults` says."""
    if isinstance(batch, Ragged):
        assert len(batch) == COUNT
        return batch[row]
    if isinstance(space, spaces.Dict):
        assert batch.keys() == space.keys()
        return {key: part(inner, batch[key], row) for key, inner in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(part(inner, below, row) for inner, below in zip(space, batch, strict=True))
    assert len(batch) == COUNT
    return batch[row]


def assert_same(mine: Any, yours: Any) -> None:
    """Alike in structure, types and bits; numbers of an array count as what they are in it."""
    if isinstance(yours, Mapping):
        assert isinstance(mine, Mapping) and mine.keys() == yours.keys()
        for key in yours:
            assert_same(mine[key], yours[key])
    elif isinstance(yours, list | tuple):
        assert isinstance(mine, list | tuple) and len(mine) == len(yours)
        for each in zip(mine, yours, strict=True):
            assert_same(*each)
    elif isinstance(yours, np.ndarray | np.generic) or (isinstance(yours, int) and isinstance(mine, np.integer)):
        theirs = np.asarray(yours)
        assert isinstance(mine, np.ndarray | np.generic)
        assert (mine.shape, mine.dtype, mine.tobytes()) == (theirs.shape, theirs.dtype, theirs.tobytes())
    else:
        assert type(mine) is type(yours) and mine == yours


class Played(NamedTuple):
    """What a vector gave: a batch for each step, and the kinds of the faults that did something."""

    batches: list[Any]
    acted: set[str]


def play(make: Any, plan: Sequence[faults.Fault], steps: int, **settings: Any) -> Played:
    """A vector and as many environments alone, compared at each step."""
    mode = AutoresetMode.DISABLED
    ours = VectorInjectFaults(SyncVectorEnv([make] * COUNT, autoreset_mode=mode), plan, seed=5, **settings)
    alone = [InjectFaults(make(), plan, seed=5, **settings) for _ in range(COUNT)]
    space, played = ours.single_observation_space, Played([], set())
    seen = ours.reset(seed=7)[0]
    for row, env in enumerate(alone):
        assert_same(part(space, seen, row), env.reset(seed=7 + row)[0])
    for action in range(steps):
        seen, rewards, terminated, truncated, infos = ours.step(np.full(COUNT, action))
        played.batches.append(seen)
        for row, env in enumerate(alone):
            observation, *rest, info = env.step(action)
            played.acted.update(record.fault for record in info["faults"])
            assert_same(part(space, seen, row), observation)
            assert [rewards[row], terminated[row], truncated[row]] == rest
            np.testing.assert_equal(told(infos, row)["reply"], info["reply"])
            np.testing.assert_equal(list(infos["faults"][row]), info["faults"])
        if rest[1] or rest[0]:
            mask = np.ones(COUNT, np.bool_)
            seen = ours.reset(options={"reset_mask": mask})[0]
            for row, env in enumerate(alone):
                assert_same(part(space, seen, row), env.reset()[0])
    return played


def desk() -> gym.Env[Any, Any]:
    return RecordingEnv(DESK, length=13)


def box() -> gym.Env[Any, Any]:
    return RecordingEnv(BOX, length=13)


@pytest.mark.parametrize("make", [clerk, box])
@pytest.mark.parametrize("kind", WIDE)
def test_each_kind_gives_each_environment_what_it_would_get_alone(kind: str, make: Any) -> None:
    fault = acting(kind).replace(out_of_space=True)
    idle = fault.idle_reason(None, leaves(make().observation_space))
    assert play(make, [fault], 30).acted == (set() if idle else {kind})


MANY = [
    faults.LostRequest(severity=0.4),
    faults.StaleCache(severity=0.3, targets=["*"]),
    faults.MalformedOutput(severity=1.0, rate=1.0, out_of_space=True),
    faults.ServerError(severity=0.4, lose_answer=1.0),
    faults.MissingData(severity=0.6, out_of_space=True),
    faults.SchemaDrift(severity=0.4, out_of_space=True),
    faults.TruncatedJSON(severity=0.5),
    faults.MalformedOutput(severity=0.9),
    faults.Brightness(severity=0.5),
]


def test_many_together_and_in_an_order_that_hurts() -> None:
    played = play(desk, MANY, 60)
    assert any(isinstance(each, Ragged) for each in played.batches)
    play(box, [fault for fault in MANY if fault.kind != "brightness"], 60)


GONE: list[faults.Fault] = [
    faults.FrozenFrames(severity=1.0, rate=0.3, mean_calls=4),
    faults.DeadSensors(severity=1.0, rate=0.2, mean_calls=3, out_of_space=True),
    faults.EmptyResult(severity=0.3),
    faults.ReorderedRows(severity=0.9),
    faults.MissingRows(severity=0.9, out_of_space=True),
    faults.DuplicatedRows(severity=0.9),
    faults.DroppedFields(severity=0.9, spread=0.2, out_of_space=True),
    faults.MalformedOutput(severity=0.6, out_of_space=True),
    faults.LostRequest(severity=0.4),
]


def test_what_is_gone_already_or_fits_into_no_array_is_left_out_or_looked_at_alone() -> None:
    every = {fault.kind for fault in GONE}
    assert play(desk, GONE, 60).acted == every
    assert play(desk, GONE[::-1], 60).acted == every


def test_records_of_frames_of_which_some_are_gone() -> None:
    dropped = faults.DroppedFields(severity=0.9, targets=["screen"], out_of_space=True)
    assert play(desk, [faults.BlackFrames(severity=0.9), dropped], 30).acted == {"black_frames", "dropped_fields"}


class Declaring(RecordingEnv):
    """Says what "unknown" is."""

    metadata = {**RecordingEnv.metadata, "on_missing": {"reply/status": 4, "reply/amount": 7}}  # noqa: RUF012


@pytest.mark.parametrize("kind", ["null_fields", "empty_result", "dead_sensors", "missing_data"])
def test_what_stands_for_unknown_stands_for_nothing_that_is_gone(kind: str) -> None:
    dropped = faults.DroppedFields(severity=0.9, spread=0.5, targets=["reply/*"], out_of_space=True)
    plan = [faults.KINDS[kind](severity=1.0, rate=0.9, targets=["reply/*"]), dropped]  # type: ignore[call-arg]
    batches = play(Declaring, plan, 30).batches
    replies = [part(DESK, seen, row)["reply"] for seen in batches for row in range(COUNT)]
    amounts = [reply["amount"] for reply in replies if "amount" in reply]
    assert 0 < amounts.count(7) < len(amounts) < len(replies)


def play_over_ends(ours: VectorInjectFaults, alone: Sequence[InjectFaults], steps: int) -> int:
    """A vector that begins episodes anew by itself, and environments alone; gives how many episodes ended."""
    same_step = ours.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    ours.reset(seed=7)
    for row, env in enumerate(alone):
        env.reset(seed=7 + row)
    ended, ends = [False] * COUNT, 0
    for action in range(steps):
        seen, _, terminated, truncated, infos = ours.step(np.full(COUNT, action % 3))
        for row, env in enumerate(alone):
            done = False
            if ended[row]:
                expected, _ = env.reset()
            else:
                expected, _, *over, _ = env.step(action % 3)
                done = any(over)
            assert done == (terminated[row] or truncated[row])
            if done and same_step:
                assert_same(infos["final_obs"][row], expected)
                expected, _ = env.reset()
            assert_same(part(ours.single_observation_space, seen, row), expected)
            ended[row], ends = done and not same_step, ends + done
    return ends


LOUD = [faults.MalformedOutput(severity=1.0, rate=1.0, out_of_space=True), faults.LostRequest(severity=0.8)]


def test_learned_worlds_too() -> None:
    world = StubWorld()
    ours = VectorInjectFaults(WorldVectorEnv(world, COUNT, horizon=9), LOUD, seed=5)
    assert play_over_ends(ours, [InjectFaults(WorldEnv(world, horizon=9), LOUD, seed=5) for _ in range(COUNT)], 40)


@pytest.mark.parametrize("plan", [LOUD, GONE, [fault for fault in GONE if not getattr(fault, "out_of_space", False)]])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_ends_of_episodes_too(mode: AutoresetMode, plan: Sequence[faults.Fault]) -> None:
    makers = [lambda length=length: RecordingEnv(DESK, length=length) for length in (4, 6, 9)]
    ours = VectorInjectFaults(SyncVectorEnv(makers, autoreset_mode=mode), plan, seed=5)
    assert play_over_ends(ours, [InjectFaults(make(), plan, seed=5) for make in makers], 60) > 6


@pytest.mark.parametrize("kind", WIDE)
def test_a_single_number_without_axes_is_a_leaf_like_any_other(kind: str) -> None:
    fault, number = acting(kind), spaces.Box(0.0, 1.0, (), np.float32)
    idle = fault.idle_reason(None, leaves(number))
    assert play(lambda: RecordingEnv(number, length=9), [fault], 12).acted == (set() if idle else {kind})


@settings(max_examples=40, deadline=None)
@given(space=observation_spaces(), kinds=st.lists(st.sampled_from(WIDE), min_size=1, max_size=3))
def test_any_space_and_any_plan(space: Any, kinds: list[str]) -> None:
    def make() -> gym.Env[Any, Any]:
        env = RecordingEnv(space, length=9)
        env.metadata = {"render_modes": []}
        return env

    play(make, [faults.KINDS[kind](severity=0.9, out_of_space=True) for kind in kinds], 8)


def test_what_fits_into_an_array_comes_in_one_and_only_leaves_that_do_not_are_apart() -> None:
    envs = VectorNonFinite(SyncVectorEnv([box] * COUNT), severity=1.0, rate=0.8, out_of_space=True)
    envs.reset(seed=0)
    seen = [envs.step(np.zeros(COUNT, int))[0] for _ in range(8)]
    assert all(each.dtype == np.float32 and each.shape == (COUNT, 5) for each in seen)
    assert not all(np.isfinite(each).all() for each in seen)
    null = faults.NullForRequired(severity=1.0, rate=1.0, targets=["reply/amount"], out_of_space=True)
    envs = VectorInjectFaults(SyncVectorEnv([desk] * COUNT), [null])
    envs.reset(seed=0)
    seen = envs.step(np.zeros(COUNT, int))[0]
    assert seen["reply"].pop("amount") == (None,) * COUNT
    whole = batch_space(spaces.Dict({**DESK, "reply": spaces.Dict({**DESK["reply"]})}), COUNT)
    del whole["reply"].spaces["amount"]
    assert seen in whole


def test_snapshots_keep_what_fits_into_no_array_and_it_belongs_to_the_agents() -> None:
    plan = [faults.WrongShape(severity=1.0, rate=0.8, out_of_space=True), faults.LostRequest(severity=0.9)]
    ours, theirs = (VectorInjectFaults(WorldVectorEnv(StubWorld(), COUNT, horizon=99), plan) for _ in range(2))
    for envs in (ours, theirs):
        envs.reset(seed=1)
    for action in range(12):
        actions = np.full(COUNT, action % 3)
        mine, yours = ours.step(actions)[0], theirs.step(actions)[0]
        assert data_equivalence(mine, yours)
        for leaf in mine if isinstance(mine, tuple) else mine.values():
            for value in leaf if isinstance(leaf, Ragged) else [leaf]:
                if isinstance(value, np.ndarray):
                    value[...] = 0
    check_restored(ours, 9)
