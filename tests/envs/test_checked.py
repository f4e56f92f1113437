"""What environments of others give: checked, copied, or taken as it is clearly meant."""

import copy
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.envs.others import FRAME, LENGTH, VECTOR, Walk, other
from tests.test_spaces import nested, same, samples
from worldsim.envs.checked import ValueLocation, fitted, info_of
from worldsim.envs.make import EnvConfig, make_env, make_vec
from worldsim.errors import EnvError
from worldsim.spaces import leaves

HERE = ValueLocation("env 'X', reset: observation")


def made(name, **changes):
    return make_env(EnvConfig(id=other(name), **changes))


def shows(space, value):
    return make_env(EnvConfig(id=other("Shows"), kwargs={"space": space, "value": value}))


def arrays_in(value):
    if isinstance(value, dict | tuple):
        return [array for part in (value.values() if isinstance(value, dict) else value) for array in arrays_in(part)]
    return [value] if isinstance(value, np.ndarray) else []


@settings(max_examples=100, deadline=None)
@given(nested(), st.integers(0, 2**31))
def test_a_member_stays_what_it_is_in_memory_of_its_own(space, seed):
    (value,) = samples(space, seed, 1)
    kept = fitted(space, value, HERE)
    assert space.contains(kept) and same(value, kept)
    assert not any(np.shares_memory(a, b) for a in arrays_in(value) for b in arrays_in(kept))


@settings(max_examples=100, deadline=None)
@given(nested(), st.integers(0, 2**31), st.data())
def test_a_number_outside_is_refused_wherever_it_is(space, seed, data):
    (value,) = samples(space, seed, 1)
    leaf = data.draw(st.sampled_from(leaves(space)))
    if isinstance(leaf.space, spaces.Box) and leaf.space.dtype.kind == "f":
        wrong = np.full(leaf.space.shape, np.nan)
    elif isinstance(leaf.space, spaces.Text):
        wrong = leaf.space.character_list[0] * (leaf.space.max_length + 1)
    else:
        wrong = np.full(leaf.space.shape or (), 2.0**60)
    with pytest.raises(EnvError, match=r"^env 'X', reset: observation.*; ") as error:
        fitted(space, replaced(space, value, leaf.path, wrong), HERE)
    assert "\n" not in str(error.value)
    assert not leaf.path or " ".join(f"observation '{leaf.name}' has".split()[:-1]) in str(error.value)


def replaced(space, value, path, part):
    """The value with one part of it another, by a way of its own through dicts and tuples."""
    if not path:
        return part
    changed = list(value) if isinstance(value, tuple) else dict(value)
    changed[path[0]] = replaced(space[path[0]], value[path[0]], path[1:], part)
    return tuple(changed) if isinstance(value, tuple) else changed


HALVES = np.full(3, 0.5, np.float32)
RECORD = spaces.Dict(where=spaces.Discrete(4), at=VECTOR)


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (FRAME, np.full((16, 16, 3), 0.5, np.float32), r"has 0.5 at \[0, 0, 0\], a float32 of 0 to 1 in .*times 255"),
        (FRAME, np.eye(16)[:, :, None].repeat(3, 2), "has 1.0 at .*, a float64 of 0 to 1 in .*times 255"),
        (FRAME, np.full((16, 16, 3), 7.5), "has 7.5 at .*no whole number, in"),
        (FRAME, np.full((16, 16, 3), 256), "has 256 at .*not in"),
        (FRAME, np.full((16, 16, 3), -1, np.int8), "has -1 at .*not in"),
        (VECTOR, np.array([0, 1.5, 0]), r"has 1.5 at \[1\], not in Box\(-1.*; widen the observation space"),
        (VECTOR, np.array([0, np.nan, 0]), r"has nan at \[1\], which is not finite"),
        (spaces.Box(-np.inf, np.inf, (1,), np.float32), [1e39], r"has 1e\+39 at \[0\], not in"),
        (spaces.Box(-np.inf, np.inf, (1,), np.float32), [np.inf], "which is not finite"),
        (VECTOR, np.zeros(4), r"has shape \(4,\), not \(3,\)"),
        (VECTOR, {"obs": HALVES}, r"is a? ?.*'obs'.*not in Box.*; return an array of numbers"),
        (VECTOR, None, "is None, not in Box"),
        (VECTOR, [[1, 2], [3]], "not in Box"),
        (VECTOR, np.array(["a", "b", "c"]), "not in Box"),
        (RECORD, {"where": 4, "at": HALVES}, r"'where' is 4, not in Discrete\(4\)"),
        (RECORD, {"where": -1, "at": HALVES}, r"'where' is -1, not in Discrete\(4\)"),
        (RECORD, {"where": 1.5, "at": HALVES}, "'where' is 1.5, no whole number"),
        (RECORD, {"where": 1}, "'at' is missing"),
        (RECORD, {"where": 1, "at": HALVES, "more": 1}, "'more' is not in the observation space"),
        (RECORD, HALVES, "return a dict with the keys where, at"),
        (spaces.MultiDiscrete([2, 3], start=[0, 5]), [1, 8], r"has 8 at \[1\], not in"),
        (spaces.MultiBinary(2), [0, 2], r"has 2 at \[1\], not in"),
        (spaces.Box(0, 1, (2,), np.bool_), [0, 2], r"has 2 at \[1\], not in"),
        (spaces.Tuple([VECTOR]), HALVES, "return a tuple of 1"),
        (spaces.Tuple([VECTOR, VECTOR]), (HALVES, HALVES * 4), r"'1' has 2.0 at \[0\], not in"),
        (spaces.Text(3, charset="ab"), "abc", "is 'abc', not in Text"),
        (spaces.Text(3, charset="ab"), 7, "is 7, not in Text"),
    ],
)
def test_what_is_not_in_its_space_is_a_line_at_the_first_step(space, value, message):
    with pytest.raises(EnvError, match=message) as error:
        shows(space, value).reset(seed=0)
    line = str(error.value)
    assert line.startswith(f"env '{other('Shows')}', reset: observation") and "; " in line and "\n" not in line


@pytest.mark.parametrize(
    ("space", "value", "meant"),
    [
        (VECTOR, [0.5, 0, 1], np.array([0.5, 0, 1], np.float32)),
        (VECTOR, np.array([[0.5, 0, 1]]), np.array([0.5, 0, 1], np.float32)),
        (VECTOR, np.array([1 + 1e-7, -1 - 1e-7, 0]), np.array([1, -1, 0], np.float32)),
        (spaces.Box(-1, 1, (1,), np.float32), 0.25, np.array([0.25], np.float32)),
        (spaces.Box(0, 1, (2,), np.bool_), [1, 0], np.array([True, False])),
        (spaces.Box(0, 1, (2,), np.float32), np.array([True, False]), np.array([1, 0], np.float32)),
        (spaces.Box(0, 9, (2,), np.int32), [3.0, 4.0], np.array([3, 4], np.int32)),
        (FRAME, np.full((16, 16, 3), 200.0), np.full((16, 16, 3), 200, np.uint8)),
        (FRAME, np.zeros((16, 16, 3)), np.zeros((16, 16, 3), np.uint8)),
        (spaces.Discrete(4), np.array([2]), np.int64(2)),
        (spaces.Discrete(4), True, np.int64(1)),
        (spaces.MultiBinary(2), [True, False], np.array([1, 0], np.int8)),
        (spaces.Tuple([VECTOR]), [HALVES], (HALVES,)),
    ],
)
def test_what_is_clear_becomes_a_member(space, value, meant):
    returned, _ = shows(space, value).reset(seed=0)
    assert space.contains(returned)
    assert data_equivalence(returned, meant, exact=True), (returned, meant)


@pytest.mark.parametrize("reward", [np.nan, np.inf, -np.inf, 1e39, [1.0, 2.0], "1", None, {"a": 1.0}])
def test_rewards_that_are_no_finite_number_are_a_line(reward):
    env = made("Pays", kwargs={"reward": reward})
    env.reset(seed=0)
    env.step(0), env.step(0)
    with pytest.raises(EnvError, match=r"', step 3: reward is .*; return one finite number$"):
        env.step(0)


@pytest.mark.parametrize("reward", [np.array([1.5], np.float32), np.float16(1.5), np.array(1.5), [[1.5]], 1.5])
def test_rewards_of_one_number_are_floats(reward):
    env = made("Pays", kwargs={"reward": reward})
    env.reset(seed=0)
    rewards = [env.step(0)[1] for _ in range(3)]
    assert rewards == [0, 0, 1.5] and all(type(each) is float for each in rewards)


def test_float_frames_are_refused_also_where_they_would_be_resized():
    with pytest.raises(EnvError, match="a float32 of 0 to 1"):
        made("FloatFrames", resize=8).reset(seed=0)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Dict({}), "observation_space is Dict(), which is empty"),
        (spaces.Dict(a=VECTOR, b=spaces.Dict({})), "observation_space 'b' is Dict(), which is empty"),
        (spaces.Tuple([VECTOR, spaces.Tuple([])]), "observation_space '1' is Tuple(), which is empty"),
        (spaces.Box(-1, 1, (0,), np.float32), "observation_space is Box([], [], (0,), float32), which is empty"),
        (spaces.Dict(a=VECTOR, b=spaces.Box(0, 1, (3, 0), bool)), "observation_space 'b' is Box([], [], (3, 0), bool)"),
        (None, "observation_space is None; set it to a space of gymnasium.spaces"),
    ],
)
def test_spaces_in_which_there_is_nothing_are_a_line(space, message):
    with pytest.raises(EnvError) as error:
        shows(space, 0)
    assert str(error.value).startswith(f"env '{other('Shows')}': {message}") and "\n" not in str(error.value)


def test_what_is_no_environment_is_a_line():
    with pytest.raises(EnvError, match="is not a gymnasium.Env; derive it from that class"):
        made("NoEnv")


def trace(env, seed):
    rows = [env.reset(seed=seed)]
    while len(rows) <= LENGTH:
        rows.append(env.step(0))
    return copy.deepcopy(rows)


@pytest.mark.parametrize("name", ["FourValues", "NoOptions"])
def test_older_interfaces_live_as_the_current_one(name):
    whole = trace(Walk(), 5)
    returned = trace(made(name, max_episode_steps=50), 5)
    assert data_equivalence(returned[1:], whole[1:], exact=True)
    assert np.array_equal(returned[0][0], whole[0][0])
    assert not np.array_equal(trace(made(name), 6)[0][0], whole[0][0])


def test_done_is_a_truncation_where_info_says_so():
    last = trace(made("FourValuesCut"), 5)[-1]
    assert last[2:4] == (False, True)
    assert trace(made("FourValues", max_episode_steps=2), 5)[2][2:4] == (False, True)


def test_a_reset_without_seed_is_seeded_where_possible_and_reported():
    with pytest.warns(UserWarning, match="takes no seed.*give its reset a parameter `seed`"):
        returned = trace(made("NoSeed"), 5)
    assert data_equivalence(returned, trace(Walk(), 5), exact=True)


def test_an_old_observation_that_looks_like_a_pair_is_one():
    (numbers, rest), info = made("PairSpace").reset(seed=1)
    assert numbers.shape == (3,) and rest == {"step": 0} and info == {}


@pytest.mark.parametrize("workers", [0, 2])
def test_infos_arrive_as_they_were_given(workers):
    envs = make_vec(EnvConfig(id=other("Infos")), num_envs=2, workers=workers)
    alone = [made("Infos") for _ in range(2)]
    _, infos = envs.reset(seed=[3, 4])
    expected = [env.reset(seed=seed)[1] for env, seed in zip(alone, (3, 4), strict=True)]
    for _ in range(LENGTH):
        for i, info in enumerate(expected):
            got = info_of(infos, i)
            assert data_equivalence(got, info, exact=True) and type(got["n"]) is type(info["n"])
        *_, infos = envs.step(np.zeros(2, int))
        expected = [env.step(0)[4] for env in alone]
    envs.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_command_line_says_one_line_and_keeps_what_was_recorded(tmp_path, workers):
    typed = ["collect", f"env={other('NaNReward')}", f"workers={workers}", "num_envs=2", f"out={tmp_path / 'data'}"]
    done = subprocess.run([sys.executable, "-m", "worldsim.cli", *typed], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"worldsim: env '{other('NaNReward')}', step 3: reward is nan; return one finite number"
    ]


def test_boolean_grids_are_neither_averaged_nor_made_large():
    board, plain = made("Board", resize=64), made("Board")
    assert board.observation_space == plain.observation_space == spaces.Box(0.0, 1.0, (10, 10, 2), bool)
    assert data_equivalence(trace(board, 3), trace(plain, 3), exact=True)


def test_minatar_steps_in_its_space():
    pytest.importorskip("minatar")
    for name in ("Breakout", "Asterix", "Freeway", "Seaquest", "SpaceInvaders"):
        env = make_env(EnvConfig(id=f"tests.envs.minatars:MinAtar/{name}-v1", resize=64))
        assert env.observation_space.dtype == bool
        observation, _ = env.reset(seed=1)
        env.action_space.seed(0)
        for _ in range(30):
            assert env.observation_space.contains(observation)
            observation, _, terminated, *_ = env.step(env.action_space.sample())
            if terminated:
                env.reset()


def test_gymnasium_makes_the_environment_inside_from_its_spec():
    env = made("FourValues")
    assert env.spec.additional_wrappers == () and isinstance(
        gym.make(env.spec, disable_env_checker=True).unwrapped, Walk
    )
