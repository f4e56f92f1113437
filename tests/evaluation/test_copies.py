"""What is kept of an environment in evaluating is copied: some write all they give into one array."""

import numpy as np
import pytest

from tests.envs.others import LENGTH, NewArrays, OneArray, Walk, other
from worldsim.agents import RandomAgent
from worldsim.envs.make import EnvConfig
from worldsim.errors import EnvError
from worldsim.evaluation.runs import SuccessCriteria, first_observations, run_episode
from worldsim.evaluation.stress import StressConfig, StressTest

SEEDS = [3, 4, 5]


def test_every_seed_has_its_own_start():
    starts, expected = (first_observations(env, SEEDS) for env in (OneArray(), NewArrays()))
    assert [starts[seed]["state"].tolist() for seed in SEEDS] == [expected[seed]["state"].tolist() for seed in SEEDS]
    assert len({tuple(start["state"]) for start in starts.values()}) == len(SEEDS)


def test_the_starts_of_a_stress_test_are_those_of_its_seeds(tmp_path):
    config = StressConfig(env=EnvConfig(id=other("OneArray")), where=["real"], episodes=4, out=tmp_path)
    starts, alone = StressTest(config).starts, NewArrays()
    for seed in config.seeds():
        assert np.array_equal(starts[seed]["state"], alone.reset(seed=seed)[0]["state"])


def test_a_trace_has_the_reply_of_each_step():
    env = OneArray()
    agent = RandomAgent(env.observation_space, env.action_space)
    episode = run_episode(agent, env, 3, SuccessCriteria(None, None), trace=True)
    assert [row["reply"]["step"] for row in episode.trace] == list(range(1, LENGTH + 1))


class NamesAlike(Walk):
    """Its info has keys that a desk or a World has, with other content."""

    def info(self):
        return {"violations": "many", "trust": None}


def test_infos_that_only_share_a_name_are_not_counted():
    env = NamesAlike()
    agent = RandomAgent(env.observation_space, env.action_space)
    result = run_episode(agent, env, 3, SuccessCriteria(None, None)).result
    assert (result.violations_counted, result.trust_mean, result.steps) == (None, None, LENGTH)


def test_a_wrong_value_stops_ppo_with_the_whole_line(tmp_path):
    pytest.importorskip("stable_baselines3")
    from worldsim.evaluation.ppo import PPOConfig, train_ppo

    env = EnvConfig(id=other("NaNReward"))
    with pytest.raises(EnvError, match=rf"^env '{other('NaNReward')}', step 3: reward is nan; return one"):
        train_ppo(PPOConfig(env=env, steps=16, num_envs=1, out=tmp_path / "a.zip"), False)
    assert not (tmp_path / "a.zip").exists()
