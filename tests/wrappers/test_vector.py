"""Environment i of a vector under faults against `InjectFaults` on it alone, step by step and for every kind."""

import copy
import pickle
import string
import tracemalloc
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.strategies import observation_spaces
from tests.simulator.stub_world import StubWorld
from worldsim import faults
from worldsim.envs.refund_desk.fields import ACTIONS
from worldsim.errors import ConfigError
from worldsim.faults.kinds import refusing
from worldsim.simulator import WorldEnv, WorldVectorEnv
from worldsim.wrappers import (
    InjectFaults,
    MalformedOutput,
    MissingData,
    SlowAPI,
    VectorInjectFaults,
    VectorMalformedOutput,
    VectorMissingData,
    VectorSlowAPI,
)

from .recording_env import BUILT_IN, DESK, KINDS, RecordingEnv

MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]
COUNT = 3


def desk() -> gym.Env[Any, Any]:
    return RecordingEnv(length=9)  # every kind of leaf, an image among them


def clerk(length: int = 9) -> RecordingEnv:
    """A desk on which every kind finds something: times, rows, a text that has room, two fields of one kind."""
    more = {"other": gym.spaces.Discrete(900), "placed_at": gym.spaces.Discrete(100_000)}
    note = gym.spaces.Text(200, charset=string.printable)
    reply = gym.spaces.Dict({**DESK["reply"].spaces, **more, "note": note})
    rows = gym.spaces.Box(-1e6, 1e6, (6, 2), np.float32)
    return RecordingEnv(gym.spaces.Dict({**DESK.spaces, "reply": reply, "rows": rows}), length)


def named() -> gym.Env[Any, Any]:
    """The clerk's desk, with the refund desk's names for what can be called."""
    env = clerk(length=25)
    env.action_space = gym.spaces.Discrete(len(ACTIONS))
    env.metadata = {**env.metadata, "action_names": ACTIONS}
    return env


def acting(kind: str) -> faults.Fault:
    """A fault of the kind that does something within a few calls."""
    fields = BUILT_IN[kind].model_fields
    often = {name: value for name, value in {"rate": 0.5, "calls": 2}.items() if name in fields}
    return BUILT_IN[kind](severity=0.9, **often)


def wordless() -> gym.Env[Any, Any]:
    leaves = {name: space for name, space in DESK["reply"].items() if name != "order"}
    return RecordingEnv(gym.spaces.Dict({**DESK, "reply": gym.spaces.Dict(leaves)}), length=9)


def pair(
    make: Any, plan: Sequence[faults.Fault], mode: AutoresetMode = AutoresetMode.NEXT_STEP, blind: bool = False
) -> tuple[VectorInjectFaults, SyncVectorEnv]:
    """Faults around a vector, and a vector of environments with faults around each."""

    def broken() -> InjectFaults:
        return InjectFaults(make(), plan, seed=5, blind=blind)

    below = SyncVectorEnv([make] * COUNT, autoreset_mode=mode)
    apart = SyncVectorEnv([broken] * COUNT, autoreset_mode=mode)
    return VectorInjectFaults(below, plan, seed=5, blind=blind), apart


def told(infos: dict[str, Any], row: int) -> dict[str, Any]:
    """What the infos of a vector say of one environment, in one form."""
    out: dict[str, Any] = {}
    for key, value in infos.items():
        known = infos.get(f"_{key}")
        if key.startswith("_") or known is None or not known[row]:
            continue
        out[key] = told(value, row) if isinstance(value, dict) else value[row]
        if key == "retry_after_s" and out[key] is not None and np.isnan(out[key]):
            out[key] = None
        if key == "retry_after_s" and out[key] is not None:
            out[key] = float(out[key])
        if key == "raw" and out[key] is None:
            del out[key]
    return out


def assert_alike(ours: Sequence[Any], theirs: Sequence[Any]) -> None:
    for mine, yours in zip(ours[:-1], theirs[:-1], strict=True):
        assert data_equivalence(mine, yours, exact=True)
    for row in range(len(ours[1]) if len(ours) > 2 else len(ours[-1]["_reply"])):
        mine, yours = told(ours[-1], row), told(theirs[-1], row)
        assert list(sorted(mine)) == list(sorted(yours))
        for key in mine:
            np.testing.assert_equal(mine[key], yours[key], err_msg=key)


def check_restored(env: VectorInjectFaults, steps: int) -> None:
    """What is restored has the future that it had, whatever was played meanwhile."""
    kept = env.snapshot()
    future = [env.step(np.full(COUNT, k % 3)) for k in range(steps)]
    env.reset(seed=1)
    env.restore(kept)
    for k, expected in enumerate(future):
        assert_alike(env.step(np.full(COUNT, k % 3)), expected)


def play_both(ours: VectorEnv[Any, Any, Any], theirs: VectorEnv[Any, Any, Any], steps: int, seed: Any = 7) -> list[Any]:
    """Both played alike, and compared at each step; gives the records that were told."""
    assert_alike(ours.reset(seed=seed), theirs.reset(seed=seed))
    theirs.action_space.seed(0)
    records = []
    for _ in range(steps):
        actions = theirs.action_space.sample()
        mine, yours = ours.step(actions), theirs.step(actions)
        assert_alike(mine, yours)
        records += [record for each in yours[-1].get("faults", []) for record in each or []]
    return records


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_does_what_it_does_to_an_environment_alone(kind: str, mode: AutoresetMode) -> None:
    assert play_both(*pair(clerk, [acting(kind)], mode), 20), "the fault never did anything"


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_keeps_its_schedule_and_its_tools_on_each(kind: str) -> None:
    """Schedules of each tool, of all tools together, and by the clock, on calls that have names."""
    fault = acting(kind)
    plan: list[faults.Fault] = [
        fault.replace(schedule=faults.Window(start=2, stop=9, per_tool=False), tools=["re*", "look_up"]),
        fault.replace(severity=0.8, schedule=faults.TimeWindow(start_s=5.0, stop_s=9.0, every_s=15.0)),
        faults.LognormalLatency(severity=0.9, schedule=faults.After(calls=2, per_tool=False)),
        fault.replace(severity=0.7, schedule=faults.Bursts(mean_calls=3, mean_gap=2, per_tool=False), probability=0.8),
        fault.replace(severity=0.6, schedule=faults.After(calls=1), tools=["re*", "open_?"]),
    ]
    play_both(*pair(lambda: gym.make("worldsim/RefundDesk-v0"), plan), 15)
    acted = {record.fault for record in play_both(*pair(named, plan), 30)}
    assert kind in acted, "the fault never did anything"


@pytest.mark.parametrize("kind", KINDS)
def test_a_vector_of_one_is_that_one(kind: str) -> None:
    plan = [acting(kind), faults.SlowAPI(severity=0.7)]
    ours = VectorInjectFaults(SyncVectorEnv([clerk]), plan, seed=5)
    theirs = SyncVectorEnv([lambda: InjectFaults(clerk(), plan, seed=5)])
    assert kind in {record.fault for record in play_both(ours, theirs, 20)}


def test_a_throttled_service_lets_each_environment_do_as_much_as_one_alone() -> None:
    plan = [
        faults.Throttled(severity=1.0, calls=2, window_s=6.0, per_tool=False),
        faults.ConstantLatency(severity=1.0, seconds=1.0),
    ]
    records = play_both(*pair(lambda: gym.make("worldsim/RefundDesk-v0"), plan), 60)
    refused = [record for record in records if record.fault == "throttled"]
    assert 20 < len(refused) < len(records)


THREE = [faults.SlowAPI(severity=0.8), faults.MalformedOutput(severity=0.8), faults.MissingData(severity=0.8)]
MANY: list[faults.Fault] = [
    faults.LognormalLatency(severity=0.4, tools=["*"]),
    faults.DuplicateExecution(severity=0.9),
    faults.ReorderedDelivery(severity=0.6),
    faults.SlowAPI(severity=0.3, schedule=faults.Bursts(mean_calls=3, mean_gap=3)),
    faults.RateLimited(severity=0.5, until_retried=1, probability=0.6),
    faults.RateLimited(severity=0.1, until_retry_after=True, schedule=faults.TimeWindow(start_s=9.0, stop_s=40.0)),
    faults.Throttled(severity=1.0, calls=4, window_s=60.0),
    faults.DelayedAction(severity=0.5, schedule=faults.After(calls=3)),
    faults.MalformedOutput(severity=0.6, schedule=faults.Window(start=1, stop=30)),
    faults.StaleCache(severity=0.3, targets=["*"]),
    faults.MissingData(severity=0.6),
    faults.MissingData(severity=0.3, seed=3),
]
PLANS = {"three": THREE, "many": MANY}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("env_id", ["worldsim/RefundDesk-v0", "CartPole-v1", "witness"])
def test_plans_do_what_they_do_to_an_environment_alone(env_id: str, plan: Any, mode: AutoresetMode) -> None:
    make = desk if env_id == "witness" else lambda: gym.make(env_id)
    records = play_both(*pair(make, plan, mode), 60)
    assert {record.fault for record in records} >= {fault.kind for fault in plan} - {"stale_cache"}


def test_calls_that_wait_for_a_retry_are_forgotten_as_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusing, "RETRIED_WITHIN", 2)
    plan = [faults.Unavailable(severity=1.0, rate=0.5, until_retried=2)]
    assert play_both(*pair(lambda: gym.make("worldsim/RefundDesk-v0"), plan), 60)


GIVEN = ["black_friday", faults.Plan.load("monday_morning"), faults.Unavailable(severity=0.9)]


@pytest.mark.parametrize("given", GIVEN)
def test_a_plan_by_name_or_as_a_value_is_what_it_is_on_one(given: Any) -> None:
    def make() -> gym.Env[Any, Any]:
        return gym.make("worldsim/RefundDesk-v0")

    assert play_both(*pair(make, given), 12)


def test_a_plans_mistakes_are_told_by_line_and_its_seed_counts() -> None:
    plan = faults.Plan.from_yaml("seed: 5\nfaults:\n  - kind: unavailable\n    tools: [pay]\n")
    with pytest.raises(ConfigError, match="^plan.yaml:4: unavailable: tool 'pay' matches nothing"):
        VectorInjectFaults(SyncVectorEnv([desk] * COUNT), plan)
    own = faults.Plan.from_yaml("seed: 5\nfaults:\n  - kind: unavailable\n")
    ours = VectorInjectFaults(SyncVectorEnv([desk] * COUNT), own, seed=77)
    play_both(ours, pair(desk, own.faults)[1], 20)


@pytest.mark.parametrize("seed", [None, [4, None, 9], 2**63 - 1, [2**100, None, 0]])
def test_seeds_are_gymnasiums(seed: Any) -> None:
    ours, theirs = pair(desk, THREE)
    play_both(ours, theirs, 12, seed=3)
    play_both(ours, theirs, 12, seed=seed)


def test_without_any_seed_the_environments_differ() -> None:
    envs = VectorInjectFaults(SyncVectorEnv([desk] * 4), [faults.RateLimited(severity=1.0)])
    envs.reset()
    struck = np.array([envs.step(np.zeros(4, int))[-1]["reply"]["ok"] for _ in range(8)])
    assert len({tuple(column) for column in struck.T.tolist()}) > 1


def test_a_reset_of_some_leaves_the_others_where_they_are() -> None:
    ours, theirs = pair(desk, THREE)
    play_both(ours, theirs, 5)
    mask = np.array([True, False, True])
    given = ours.reset(seed=[1, None, 2], options={"reset_mask": mask.copy()})
    assert_alike(given, theirs.reset(seed=[1, None, 2], options={"reset_mask": mask.copy()}))
    for action in range(20):
        actions = np.full(COUNT, action)
        assert_alike(ours.step(actions), theirs.step(actions))


def test_where_nothing_begins_anew_by_itself_a_reset_of_some_begins_their_faults_anew() -> None:
    ours, theirs = pair(desk, THREE, AutoresetMode.DISABLED)
    assert_alike(ours.reset(seed=3), theirs.reset(seed=3))
    for action in range(60):
        actions = np.full(COUNT, action)
        mine, yours = ours.step(actions), theirs.step(actions)
        assert_alike(mine, yours)
        if (done := mine[2] | mine[3]).any():
            given = [envs.reset(options={"reset_mask": done.copy()}) for envs in (ours, theirs)]
            assert_alike(*given)
    assert any(ours.records)


@pytest.mark.parametrize(
    ("wrap", "alone"),
    [(VectorSlowAPI, SlowAPI), (VectorMalformedOutput, MalformedOutput), (VectorMissingData, MissingData)],
)
def test_named_ones_are_twins_of_those_on_one(wrap: Any, alone: Any) -> None:
    settings: dict[str, Any] = {"severity": 0.9, "seed": 8, "probability": 0.7, "schedule": faults.After(calls=2)}
    ours = wrap(SyncVectorEnv([desk] * COUNT), **settings)
    theirs = SyncVectorEnv([lambda: alone(desk(), **settings)] * COUNT)
    assert play_both(ours, theirs, 40)
    with pytest.raises(ConfigError, match="no parameter 'rates'"):
        wrap(SyncVectorEnv([desk] * COUNT), rates=1)


@settings(max_examples=40, deadline=None)
@given(space=observation_spaces(), seed=st.integers(0, 99), kinds=st.lists(st.sampled_from(KINDS), max_size=3))
def test_any_space_and_any_plan(space: Any, seed: int, kinds: list[str]) -> None:
    def make() -> gym.Env[Any, Any]:
        env = RecordingEnv(space, length=6)
        env.metadata = {"render_modes": []}
        return env

    play_both(*pair(make, [faults.KINDS[kind](severity=0.9) for kind in kinds]), 14, seed=seed)


def test_learned_worlds_are_held_and_moved_apart() -> None:
    world = StubWorld()
    plan = [faults.LostRequest(severity=1.0), faults.DuplicateExecution(severity=1.0), *THREE]
    ours = VectorInjectFaults(WorldVectorEnv(world, COUNT, horizon=9), plan, seed=5)
    theirs = SyncVectorEnv([lambda: InjectFaults(WorldEnv(world, horizon=9), plan, seed=5)] * COUNT)
    records = play_both(ours, theirs, 80)
    assert {record.fault for record in records} >= {"lost_request", "duplicate_execution"}
    check_restored(ours, 20)


def test_severity_0_hands_the_very_arrays_through() -> None:
    class Known(SyncVectorEnv):
        def step(self, actions: Any) -> Any:
            self.last = super().step(actions)
            return self.last

    below = Known([desk] * COUNT)
    envs = VectorInjectFaults(below, [kind(severity=0.0) for kind in BUILT_IN.values()])
    envs.reset(seed=0)
    for _ in range(20):
        result = envs.step(np.zeros(COUNT, int))
        assert all(got is given for got, given in zip(result[:4], below.last[:4], strict=True))
        assert result[-1]["faults"].tolist() == [[]] * COUNT and result[-1]["reply"]["ok"].all()


def test_nested_directly_they_are_one_plan() -> None:
    def played(envs: VectorInjectFaults) -> list[Any]:
        envs.reset(seed=2)
        return [envs.step(np.full(COUNT, action)) for action in range(40)]

    one = VectorInjectFaults(SyncVectorEnv([desk] * COUNT), [THREE[0], THREE[2]], seed=4)
    inner = VectorInjectFaults(SyncVectorEnv([desk] * COUNT), [THREE[2]], seed=4)
    two = VectorInjectFaults(inner, [THREE[0]], seed=4)
    for left, right in zip(played(one), played(two), strict=True):
        assert_alike(left, right)
    behind = gym.wrappers.vector.RecordEpisodeStatistics(inner)
    with pytest.raises(ConfigError, match="there are faults in an inner wrapper"):
        VectorInjectFaults(behind, [THREE[1]])
    with pytest.raises(ConfigError, match="or on each environment: put all in one place"):
        VectorInjectFaults(pair(desk, THREE)[1], [THREE[1]])


def test_blind_hides_the_ground_truth_and_keeps_it() -> None:
    ours, theirs = pair(desk, THREE, blind=True)
    play_both(ours, theirs, 20)
    assert any(ours.records) and "faults" not in ours.step(np.zeros(COUNT, int))[-1]


def test_spells_are_in_snapshots_and_pickles() -> None:
    spells = [faults.DeadSensors(severity=1.0), faults.FrozenFrames(severity=1.0, rate=0.4), *THREE]
    ours = VectorInjectFaults(WorldVectorEnv(StubWorld(), COUNT, horizon=9), spells)
    ours.reset(seed=0)
    for _ in range(12):
        ours.step(np.ones(COUNT, int))
    twin = pickle.loads(pickle.dumps(ours))
    check_restored(ours, 20)
    check_restored(twin, 20)
    assert_alike(ours.step(np.ones(COUNT, int)), twin.step(np.ones(COUNT, int)))


def test_pickled_in_mid_episode_they_go_on_alike() -> None:
    ours, theirs = pair(lambda: gym.make("CartPole-v1"), MANY)
    play_both(ours, theirs, 10)
    made = VectorInjectFaults(WorldVectorEnv(StubWorld(), COUNT), MANY)
    made.reset(seed=0)
    made.step(np.zeros(COUNT, int))
    twin = pickle.loads(pickle.dumps(made))
    for _ in range(20):
        assert_alike(made.step(np.ones(COUNT, int)), twin.step(np.ones(COUNT, int)))


def test_where_environments_move_together_lost_calls_need_an_action_to_hold() -> None:
    class Together(gym.vector.VectorWrapper[Any, Any, Any, Any, Any]):
        """Hides that there is a SyncVectorEnv."""

    def below() -> Together:
        return Together(SyncVectorEnv([desk] * COUNT))

    lost, twice = faults.LostRequest(severity=1.0), faults.DuplicateExecution()
    with pytest.raises(ConfigError, match="lost_request, rate_limited: a call may be lost, and .* or give hold="):
        VectorInjectFaults(below(), [lost, faults.RateLimited(), THREE[1]])
    with pytest.raises(ConfigError, match="duplicate_execution: a call may be executed again"):
        VectorInjectFaults(below(), [lost, twice], hold=0)
    with pytest.raises(ConfigError, match="hold must be an action of Discrete"):
        VectorInjectFaults(below(), [lost], hold=-3)
    envs = VectorInjectFaults(below(), [lost], hold=777)
    envs.reset(seed=0)
    arrived = [env.unwrapped.arrived for env in envs.unwrapped.envs]  # type: ignore[attr-defined]
    for action in range(8):
        lost_now = ~envs.step(np.full(COUNT, action))[-1]["reply"]["ok"]
        assert [row[-1] for row in arrived] == np.where(lost_now, 777, action).tolist()
    VectorInjectFaults(below(), [faults.ServerError(lose_answer=1.0), THREE[1], THREE[2], faults.StickyAction()])


def test_make_vec_takes_faults_on_each_and_on_all() -> None:
    made = gym.make_vec("CartPole-v1", num_envs=COUNT, vectorization_mode="sync")
    ours = VectorInjectFaults(made, THREE, seed=5)
    wrap = lambda env: InjectFaults(env, THREE, seed=5)  # noqa: E731
    theirs = gym.make_vec("CartPole-v1", num_envs=COUNT, vectorization_mode="sync", wrappers=[wrap])
    play_both(ours, theirs, 60)
    recorded = gym.wrappers.vector.RecordEpisodeStatistics(ours)
    recorded.reset(seed=0)
    ends = [recorded.step(recorded.action_space.sample())[-1].get("episode") for _ in range(60)]
    assert any(ends)


@pytest.mark.parametrize("shared_memory", [True, False])
def test_environments_in_processes_of_their_own(shared_memory: bool) -> None:
    """Processes move together: a call that is lost moves its environment under `hold`, and all else is as ever."""
    plan = [faults.LognormalLatency(), faults.ServerError(lose_answer=1.0), faults.Brightness(), *THREE[1:]]
    make = wordless if shared_memory else desk  # Gymnasium's shared memory garbles texts
    below = AsyncVectorEnv([make] * 2, shared_memory=shared_memory)
    theirs = SyncVectorEnv([lambda: InjectFaults(make(), plan, seed=5)] * 2)
    ours = VectorInjectFaults(below, plan, seed=5)
    try:
        assert_alike(ours.reset(seed=7), theirs.reset(seed=7))
        for action in range(25):  # over the end of an episode
            assert_alike(ours.step(np.full(2, action)), theirs.step(np.full(2, action)))
    finally:
        ours.close()
    held = VectorInjectFaults(AsyncVectorEnv([Counting] * 2), [faults.LostRequest(severity=1.0)], hold=0)
    try:
        held.reset(seed=0)
        steps = [held.step(np.array([2, 3])) for _ in range(20)]
    finally:
        held.close()
    paid, arrived = np.stack([step[1] for step in steps]), np.stack([step[-1]["reply"]["ok"] for step in steps])
    assert paid.tolist() == np.where(arrived, [2, 3], 0).tolist() and 0 < arrived.mean() < 1


class Counting(gym.Env[Any, Any]):
    """An environment that pays what it is asked for."""

    observation_space: gym.Space[Any] = gym.spaces.Box(0, 1, (2,), np.float32)
    action_space: gym.Space[Any] = gym.spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(2, np.float32), float(action), False, False, {}


def test_what_is_seen_belongs_to_the_agents() -> None:
    """They may write into it, and it does not change under them; records say what was, not what became of it."""
    ours, theirs = (pair(desk, [faults.NullFields(rate=1.0, spread=1.0), *THREE])[0] for _ in range(2))
    assert_alike(ours.reset(seed=7), theirs.reset(seed=7))
    held: list[Any] = []
    for action in range(30):
        mine, yours = ours.step(np.full(COUNT, action)), theirs.step(np.full(COUNT, action))
        held.append(
            (mine[-1]["faults"], [list(each) for each in yours[-1]["faults"]], yours[0], copy.deepcopy(yours[0]))
        )
        assert_alike(mine, yours)
        mine[0]["screen"][:] = 77
        mine[0]["pose"][0][:] = 0.5
    for late, early, seen, then in held:
        assert data_equivalence(seen, then, exact=True)
        np.testing.assert_equal([list(each) for each in late], early)


def test_records_are_like_a_list_and_stay_what_they_were() -> None:
    ours, theirs = pair(desk, THREE)
    play_both(ours, theirs, 5)
    seen = [ours.step(np.zeros(COUNT, int))[-1]["faults"] for _ in range(12)]
    wanted = [theirs.step(np.zeros(COUNT, int))[-1].get("faults", [[]] * COUNT) for _ in range(12)]
    for mine, yours in zip(seen, wanted, strict=True):
        for records, others in zip(mine, yours, strict=True):
            assert records == (others or []) and len(records) == len(others or [])
            assert repr(records) == repr(others or []) and list(records)[:1] == list(records[:1])
    assert any(len(records) for mine in seen for records in mine)


@pytest.mark.parametrize("kind", ["wrong_encoding", "invalid_json", "truncated_json", "blur", "frozen_frames"])
def test_no_frame_and_no_text_of_one_lasts_as_long_as_the_records(kind: str) -> None:
    def camera() -> gym.Env[Any, Any]:
        return RecordingEnv(gym.spaces.Box(0, 255, (64, 64, 3), np.uint8))

    envs = VectorInjectFaults(SyncVectorEnv([camera] * 2), [faults.KINDS[kind](severity=1.0)])
    envs.reset(seed=0)
    for env in envs.unwrapped.envs:  # type: ignore[attr-defined]
        env._answer = env.observation_space.sample  # which keeps none
    envs.step(np.zeros(2, int))
    tracemalloc.start()
    for _ in range(40):
        envs.step(np.zeros(2, int))
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < 40 * 2 * 2000, f"{grown / 80:.0f} bytes a step of an environment"


def test_records_and_seconds_are_of_each_environment() -> None:
    ours, theirs = pair(lambda: RecordingEnv(), THREE)
    play_both(ours, theirs, 40)
    assert ours.records == [env.records for env in theirs.envs]  # type: ignore[attr-defined]
    assert ours.seconds == pytest.approx([env.clock.now() for env in theirs.envs])  # type: ignore[attr-defined]
