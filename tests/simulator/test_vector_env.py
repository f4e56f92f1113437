"""WorldVectorEnv against gymnasium's SyncVectorEnv of WorldEnvs, call by call."""

import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tests.simulator.stub_world import IMAGE_SPACE, StubWorld
from worldsim.errors import ConfigError, SpaceMismatchError
from worldsim.simulator import WorldEnv, WorldVectorEnv

NESTED = spaces.Dict({"a": spaces.Tuple([spaces.Discrete(2, start=1), spaces.Text(5, min_length=0)]), "b": IMAGE_SPACE})
TOOL = spaces.Dict({"tool": spaces.Discrete(4), "amount": spaces.Box(-1, 1, (1,), np.float32)})


def twins(count: int = 4, **settings) -> tuple[WorldVectorEnv, SyncVectorEnv]:
    world = StubWorld(settings.pop("observation_space", IMAGE_SPACE), settings.pop("action_space", None))
    return WorldVectorEnv(world, count, **settings), SyncVectorEnv([lambda: WorldEnv(world, **settings)] * count)


@pytest.mark.parametrize("observation_space", [IMAGE_SPACE, NESTED, spaces.Discrete(3)], ids=["dict", "nested", "int"])
@pytest.mark.parametrize("action_space", [None, TOOL], ids=["discrete", "dict"])
@pytest.mark.parametrize("seed", [3, [5, None, 5, 9]], ids=["seed", "seeds"])
def test_every_call_gives_what_sync_vector_env_gives(observation_space, action_space, seed) -> None:
    batched, sync = twins(observation_space=observation_space, action_space=action_space, horizon=7, min_trust=0.8)
    assert batched.observation_space == sync.observation_space and batched.action_space == sync.action_space
    assert batched.metadata == sync.metadata and batched.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    if seed != 3:  # a world without a seed goes on with its generator, so both must have one
        batched.reset(seed=0), sync.reset(seed=0)
    assert data_equivalence(batched.reset(seed=seed), sync.reset(seed=seed), exact=True)
    sync.action_space.seed(0)
    ends = 0
    for _ in range(30):
        actions = sync.action_space.sample()
        ours, theirs = batched.step(actions), sync.step(actions)
        assert data_equivalence(ours, theirs, exact=True)
        assert batched.observation_space.contains(ours[0])
        ends += int((ours[2] | ours[3]).sum())
    assert ends > 8
    assert data_equivalence(batched.reset(), sync.reset(), exact=True)
    assert batched.np_random_seed == sync.np_random_seed


def test_reset_mask_as_sync_vector_env_has_it() -> None:
    batched, sync = twins(horizon=5)
    batched.reset(seed=1), sync.reset(seed=1)
    for _ in range(4):
        batched.step(np.zeros(4, int)), sync.step(np.zeros(4, int))
    mask = np.array([True, False, False, True])
    results = [env.reset(seed=[4, 5, 6, None], options={"reset_mask": mask.copy()}) for env in (batched, sync)]
    assert data_equivalence(*results, exact=True)
    for _ in range(12):
        assert data_equivalence(batched.step(np.ones(4, int)), sync.step(np.ones(4, int)), exact=True)


def test_some_move_and_the_others_stay() -> None:
    batched, sync = twins(horizon=5)
    sync.reset(seed=4)
    seen, _ = batched.reset(seed=4)
    random = np.random.default_rng(0)
    for _ in range(40):
        mask, actions = random.random(4) < 0.6, random.integers(0, 3, 4)
        ours = batched.step_some(actions, mask)
        if not mask.any():
            assert data_equivalence(dict(ours[0]), dict(seen), exact=True)
            continue
        for row in range(4):  # each alone, as a SyncVectorEnv steps it
            env = sync.envs[row]
            if not mask[row]:
                expected = (None, 0.0, False, False)
                assert all((ours[0][key][row] == seen[key][row]).all() for key in seen)
            elif sync._autoreset_envs[row]:
                expected = (env.reset()[0], 0.0, False, False)
            else:
                expected = env.step(actions[row])[:4]
            if mask[row]:
                sync._autoreset_envs[row] = expected[2] or expected[3]
                assert all((ours[0][key][row] == expected[0][key]).all() for key in expected[0])
            assert [part[row] for part in ours[1:4]] == list(expected[1:])
        assert (ours[4]["_trust"] == mask).all()
        seen = ours[0]


def test_one_step_of_the_world_moves_all() -> None:
    batched, _ = twins(16, horizon=3)
    batched.reset(seed=0)
    for _ in range(10):
        batched.step(np.zeros(16, int))
    assert batched.world.steps_called == 10


def test_only_worlds_whose_episode_ended_begin_anew() -> None:
    batched, _ = twins(16)
    batched.reset(seed=0)
    begun, ended = batched.world.begun, np.zeros(16, np.bool_)
    for _ in range(20):
        _, _, terminated, truncated, _ = batched.step(np.zeros(16, int))
        begun += int(ended.sum())
        assert batched.world.begun == begun
        ended = terminated | truncated
    assert begun > 16


def test_starts_from_one_observation_or_from_one_for_each() -> None:
    batched, sync = twins()
    one = IMAGE_SPACE.sample()
    results = [env.reset(seed=2, options={"observation": one}) for env in (batched, sync)]
    assert data_equivalence(*results, exact=True)
    each = batched.observation_space.sample()
    observation, _ = batched.reset(seed=2, options={"observation": each})
    assert data_equivalence(dict(observation), dict(each), exact=True)


def test_a_snapshot_has_one_future() -> None:
    batched, _ = twins(horizon=4)
    batched.reset(seed=0)
    batched.step(np.array([0, 1, 2, 0]))
    snapshot = pickle.loads(pickle.dumps(batched.snapshot()))
    fork = batched.fork()
    actions = np.random.default_rng(0).integers(0, 3, (12, 4))
    future = [batched.step(a) for a in actions]
    assert data_equivalence([fork.step(a) for a in actions], future, exact=True)
    batched.restore(snapshot)
    assert data_equivalence([batched.step(a) for a in actions], future, exact=True)


def test_make_vec_makes_it_without_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make_vec("worldsim/World-v0", num_envs=3, world=StubWorld(), horizon=4, render_mode="rgb_array")
    assert isinstance(env, WorldVectorEnv) and env.num_envs == 3
    env.reset(seed=0)
    assert [frame.shape for frame in env.render()] == [(240, 288, 3)] * 3
    wrapped = gym.wrappers.vector.RecordEpisodeStatistics(env)
    wrapped.reset(seed=0)
    lengths = [
        info["episode"]["l"].max()
        for *_, info in (wrapped.step(np.zeros(3, int)) for _ in range(6))
        if "episode" in info
    ]
    assert max(lengths) == 4
    env.close()


def test_what_it_cannot_take_is_one_clear_line() -> None:
    batched, _ = twins()
    with pytest.raises(gym.error.ResetNeeded):
        batched.step(np.zeros(4, int))
    with pytest.raises(ConfigError, match="3 seeds"):
        batched.reset(seed=[1, 2, 3])
    with pytest.raises(ConfigError, match="reset_mask"):
        batched.reset(options={"reset_mask": np.zeros(4, bool)})
    with pytest.raises(SpaceMismatchError, match="observation space"):
        batched.reset(options={"observation": 3})
    with pytest.raises(ConfigError, match="num_envs=0"):
        WorldVectorEnv(StubWorld(), 0)
    batched.reset(seed=0)
    with pytest.raises(SpaceMismatchError, match="which is not in"):
        batched.step(np.array([0, 1, 2, 3]))
    with pytest.raises(ConfigError, match="4 worlds"):
        WorldVectorEnv(StubWorld(), 2).restore(batched.snapshot())


def test_make_vec_takes_a_limit_of_steps_as_make_does() -> None:
    settings = {"world": StubWorld(ending=0.0), "max_episode_steps": 3}
    batched = gym.make_vec("worldsim/World-v0", num_envs=2, **settings)
    sync = gym.make_vec("worldsim/World-v0", num_envs=2, vectorization_mode="sync", **settings)
    assert data_equivalence(batched.reset(seed=1), sync.reset(seed=1), exact=True)
    for step in range(1, 10):
        ours, theirs = batched.step(np.zeros(2, int)), sync.step(np.zeros(2, int))
        assert data_equivalence(ours, theirs, exact=True)
        assert ours[3].all() == (step % 4 == 3)


def test_the_smaller_of_two_limits_counts() -> None:
    for limits, counts in (((5, 3), 3), ((3, 5), 3), ((None, 3), 3), ((5, None), 5), ((5, -1), 5)):
        env = WorldVectorEnv(StubWorld(), 2, limits[0], max_episode_steps=limits[1])
        env.reset(seed=0)
        assert env.rules.horizon == env.fork().rules.horizon == counts
    with pytest.raises(ConfigError, match="max_episode_steps=0 leaves no step"):
        WorldVectorEnv(StubWorld(), 2, max_episode_steps=0)
