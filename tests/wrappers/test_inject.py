"""`InjectFaults`: nesting, snapshots, pickles, specs, checks, what an agent may know."""

import copy
import json
import pickle
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence

from worldsim import faults
from worldsim.errors import ConfigError
from worldsim.faults import Call, CallContext, FaultGenerator, fault
from worldsim.wrappers import InjectFaults, MalformedOutput, MissingData, SlowAPI

from .recording_env import BUILT_IN, KINDS, RecordingEnv
from .test_conformance import WRAPPERS, alike, each_fault, play

MINIGRID_LIKE = gym.spaces.Dict(
    {
        "image": gym.spaces.Box(0, 255, (7, 7, 3), "uint8"),
        "direction": gym.spaces.Discrete(4),
        "mission": gym.spaces.Text(20),
    }
)


@pytest.mark.parametrize("between", [False, True])
@pytest.mark.parametrize("blind", [False, True])
def test_nested_wrappers_mean_the_same_as_one_plan(between: bool, blind: bool) -> None:
    def nested() -> gym.Env[Any, Any]:
        env: gym.Env[Any, Any] = MissingData(RecordingEnv(length=200), severity=0.7, seed=3)
        env = MalformedOutput(env, severity=0.8, seed=3)
        if between:
            env = gym.wrappers.TimeLimit(env, 10**6)
        return SlowAPI(SlowAPI(env, severity=0.5, seed=3), severity=0.9, seed=3, blind=blind)

    plan = [faults.SlowAPI(severity=0.9), faults.SlowAPI(severity=0.5)]
    plan += [faults.MalformedOutput(severity=0.8), faults.MissingData(severity=0.7)]  # type: ignore[list-item]
    one, other = nested(), InjectFaults(RecordingEnv(length=200), plan, seed=3, blind=blind)
    assert alike(play(one, 10**4), play(other, 10**4))
    assert isinstance(one, InjectFaults)
    assert one.records == other.records
    assert one.clock.now() == pytest.approx(other.clock.now())
    assert {record.kind for record in one.records} >= {"delay", "timeout", "unparsable", "wrong_value", "missing"}


def test_a_blind_wrapper_hides_the_ground_truth_and_keeps_it() -> None:
    env = SlowAPI(MissingData(RecordingEnv(), severity=1.0, blind=True), severity=1.0)
    assert all("faults" not in step[-1] for step in play(env, 30))
    assert env.records


@each_fault
def test_snapshots_are_exact_even_under_a_nest(wrap: Any) -> None:
    env = wrap(MissingData(SlowAPI(RecordingEnv(), severity=0.6), severity=0.8), severity=0.9)
    play(env, 17)
    kept = env.get_wrapper_attr("snapshot")()
    time_s, records = env.clock.now(), list(env.records)
    first = [copy.deepcopy(env.step(action)) for action in range(40)]
    env.reset(seed=99)
    env.step(0)
    for _ in range(2):
        env.restore(kept)
        assert env.clock.now() == time_s and env.records == records
        assert alike([copy.deepcopy(env.step(action)) for action in range(40)], first)


def test_no_snapshot_is_offered_where_the_environment_has_none() -> None:
    env = SlowAPI(gym.make("CartPole-v1"))
    assert not env.has_wrapper_attr("snapshot") and not env.has_wrapper_attr("restore")


@each_fault
def test_pickled_in_mid_episode_it_goes_on_alike(wrap: Any) -> None:
    env = wrap(RecordingEnv(), severity=0.9)
    play(env, 20)
    twin = pickle.loads(pickle.dumps(env))
    for action in range(30):
        assert alike(env.step(action), twin.step(action))
    assert env.records == twin.records


@each_fault
@pytest.mark.parametrize("env_id", ["CartPole-v1", "worldsim/RefundDesk-v0"])
@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version.*")
def test_gymnasiums_checks_pass(wrap: Any, env_id: str) -> None:
    check_env(wrap(gym.make(env_id), severity=0.9), skip_render_check=True)


@each_fault
@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version.*")
def test_gymnasiums_checks_pass_on_dicts_like_minigrids(wrap: Any) -> None:
    check_env(wrap(RecordingEnv(MINIGRID_LIKE), severity=0.9), skip_render_check=True)


def test_a_part_of_the_observation_that_worldsim_cannot_encode_is_left_alone() -> None:
    class Mission(gym.Space[str]):
        def sample(self, mask: Any = None, probability: Any = None) -> str:
            return "get the key"

        def contains(self, x: Any) -> bool:
            return x == "get the key"

    space = gym.spaces.Dict({"mission": Mission(None, None), "direction": gym.spaces.Discrete(4)})
    below = RecordingEnv(space)
    kinds = [BUILT_IN[name] for name in KINDS]
    env = InjectFaults(below, [kind(severity=1.0) for kind in kinds])  # type: ignore[call-arg]
    assert {step[0]["mission"] for step in play(env, 100)} == {"get the key"}


@each_fault
def test_specs_are_plain_and_make_the_same_again(wrap: Any) -> None:
    env = wrap(gym.make("CartPole-v1"), severity=0.7, seed=4, schedule=faults.Window(start=2, stop=30), probability=0.9)
    spec = env.spec
    assert spec is not None
    twin = gym.make(gym.envs.registration.EnvSpec.from_json(json.loads(json.dumps(spec.to_json()))))
    assert type(twin) is wrap
    assert alike(play(env, 20), play(twin, 20))
    plain = copy.deepcopy(gym.spec("CartPole-v1"))
    plain.additional_wrappers = (wrap.wrapper_spec(severity=1.0),)
    assert isinstance(gym.make(plain), wrap)


def test_the_specs_of_a_plan_are_plain_too() -> None:
    env = InjectFaults(
        gym.make("CartPole-v1"), [*faults.Plan.load("slow_api").at(0.5).faults, {"kind": "missing_data", "severity": 1}]
    )
    assert env.spec is not None
    assert alike(play(env, 20), play(gym.make(env.spec), 20))


@each_fault
def test_vector_environments_take_it(wrap: Any) -> None:
    envs = gym.vector.SyncVectorEnv([lambda: wrap(gym.make("CartPole-v1"), severity=1.0)] * 3)
    envs.reset(seed=0)
    errors = set()
    for _ in range(60):
        info = envs.step(envs.action_space.sample())[-1]
        errors |= {str(error) for error in info["reply"]["error"]}
    assert len(errors) > 1
    envs.close()


def test_what_stands_for_missing_can_be_declared() -> None:
    below = RecordingEnv()
    below.metadata = {
        **below.metadata,
        "on_missing": {"reply/status": 1, "pose/0": [0.5, 0.5, 0.5], "reply/order": "none"},
    }
    env = MissingData(below, severity=1.0, rate=1.0, unavailable=0.0)
    env.reset(seed=0)
    for action in range(10):
        observation = env.step(action)[0]
        assert observation["reply"]["status"] == 1 and observation["reply"]["order"] == "none"
        assert observation["reply"]["amount"] == 0
        assert observation["pose"][0].tolist() == [0.5, 0.5, 0.5]


def test_frames_go_black_freeze_or_are_occluded() -> None:
    below = RecordingEnv()
    env = MissingData(below, severity=0.5, rate=1.0, unavailable=0.0, targets="screen")
    last = env.reset(seed=0)[0]["screen"].copy()
    ways = set()
    for action in range(200):
        observation, *_, info = env.step(action)
        screen, true = observation["screen"], below.answered[-1]["screen"]
        for record in info["faults"]:
            ways.add(how := record.details["how"])
            if how == "black":
                assert not screen.any()
            elif how == "frozen":
                assert data_equivalence(screen, last, exact=True)
            else:
                assert ((screen == true) | (screen == 0)).all() and (screen != true).any(axis=2).sum() <= 8 * 6
        last = screen.copy()
    assert ways == {"black", "frozen", "occluded"}


@fault("once_more")
def once_more(call: Call, context: CallContext) -> FaultGenerator:
    """A user's own fault: every call is carried out twice."""
    yield call
    context.record("duplicate")
    return (yield call)


def test_a_call_can_be_carried_out_twice_but_not_past_the_end() -> None:
    below = RecordingEnv(length=3)
    env = InjectFaults(below, [once_more()])
    env.reset(seed=0)
    *first, info = env.step(7)
    assert first[1:3] == [1.0 + 2.0, False] and info["executions"] == [1.0, 2.0]
    *second, info = env.step(8)
    assert second[1:3] == [3.0, True] and info["executions"] == [3.0]
    assert below.arrived == [7, 7, 8]


def test_mistakes_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match="target 'reply/statsu' matches nothing. Did you mean 'reply/status'?"):
        MissingData(RecordingEnv(), targets=["reply/statsu"])
    with pytest.raises(ConfigError, match="tool 'refund' matches nothing. Choose from: step"):
        SlowAPI(RecordingEnv(), tools="refund")
    with pytest.raises(ConfigError, match="seed of faults must be a whole number, 0 or more; got -1"):
        SlowAPI(RecordingEnv(), seed=-1)
    with pytest.raises(ConfigError, match="no parameter 'timeouts'. Did you mean 'timeout_s'?"):
        SlowAPI(RecordingEnv(), timeouts=3)
    for wrap in WRAPPERS:
        with pytest.raises(ConfigError, match="severity must be between 0 and 1, got 1.2"):
            wrap(RecordingEnv(), severity=1.2)
