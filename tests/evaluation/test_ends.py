"""Every episode ends, also where no call reaches the environment whose own limit would end it."""

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from tests.evaluation.agents import Push
from tests.evaluation.conftest import small
from tests.simulator.stub_world import StubWorld
from worldsim.agents import RandomAgent
from worldsim.envs.make import EnvConfig
from worldsim.evaluation.lockstep import Advance, LockstepEnv, in_lockstep
from worldsim.evaluation.runs import DEFAULT_MAX_STEPS, Episode, SuccessCriteria, run_episode
from worldsim.evaluation.stress import stress
from worldsim.faults import QuotaExceeded, Unavailable
from worldsim.wrappers import InjectFaults

UNJUDGED = SuccessCriteria(None, None)


class Endless(gym.Env[Any, Any]):
    """Never ends by itself."""

    metadata = {"render_modes": []}  # noqa: RUF012
    observation_space = spaces.Box(0, 1, (4,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(4, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(4, np.float32), 1.0, False, False, {}


gym.register("WorldsimTestEndless-v0", Endless)
ENDLESS = "tests.evaluation.test_ends:WorldsimTestEndless-v0"


@pytest.fixture
def refusing(tmp_path: Path) -> str:
    """A plan under which no call is ever carried out."""
    path = tmp_path / "refusing.yaml"
    path.write_text("name: refusing\nfaults:\n  - kind: quota_exceeded\n    severity: 1.0\n")
    return str(path)


def test_refused_calls_count_towards_the_environments_own_limit(refusing: str, tmp_path: Path) -> None:
    settings = {"agents": ["push"], "faults": [refusing], "severities": [1.0], "episodes": 2, "worst": 2}
    own = EnvConfig(id="CartPole-v1", agents={"push": "tests.evaluation.agents:Push"})
    for env, limit in ((own, 500), (own.model_copy(update={"max_episode_steps": 60}), 60)):
        report = stress(small(tmp_path / str(limit), env=env, **settings), progress=False)
        clean, refused = report.results
        assert clean["steps_mean"] < limit and clean["terminated_rate"] == 1.0
        assert refused["steps_mean"] == refused["faults_fired"] == limit
        assert refused["return_mean"] == refused["terminated_rate"] == 0.0
        assert report.data["endless"] == []


def test_an_episode_without_any_limit_is_cut_and_reported(refusing: str, tmp_path: Path) -> None:
    settings = {"agents": ["random"], "faults": [refusing], "severities": [1.0], "episodes": 1, "worst": 0}
    env = EnvConfig(id=ENDLESS)
    report = stress(small(tmp_path / "none", env=env, **settings), progress=False)
    assert [row["steps_mean"] for row in report.results] == [DEFAULT_MAX_STEPS, DEFAULT_MAX_STEPS]
    assert [row["return_mean"] for row in report.results] == [DEFAULT_MAX_STEPS, 0.0]
    (warning,) = [each for each in report.data["warnings"] if "cut after" in each]
    assert "10,000 calls" in warning and "under refusing 1" in warning and "max_steps=" in warning
    report = stress(small(tmp_path / "said", env=env, max_steps=30, **settings), progress=False)
    assert [row["steps_mean"] for row in report.results] == [30, 30]
    assert not any("cut after" in warning for warning in report.data["warnings"])


def test_episodes_in_lockstep_end_though_none_of_their_calls_arrives() -> None:
    world = StubWorld()

    def program(seed: int, step: Advance) -> Episode:
        env = InjectFaults(LockstepEnv(world, step), QuotaExceeded(severity=1.0), seed=0)
        return run_episode(RandomAgent(env.observation_space, env.action_space), env, seed, UNJUDGED, max_steps=70)

    episodes = in_lockstep(world, [partial(program, seed) for seed in range(3)])
    assert [episode.result.steps for episode in episodes] == [70, 70, 70]
    assert all(episode.result.truncated and not episode.result.terminated for episode in episodes)


def test_pictures_that_stay_the_same_are_kept_once() -> None:
    env = InjectFaults(gym.make("CartPole-v1"), Unavailable(severity=1.0, rate=1.0), seed=0)
    agent = Push(env.observation_space, env.action_space)
    frames = run_episode(agent, env, 0, UNJUDGED, max_steps=50, frames=True).frames
    assert len(frames) == 51 and len({id(frame) for frame in frames}) == 1
    moving = run_episode(agent, gym.make("CartPole-v1"), 0, UNJUDGED, frames=True).frames
    assert len(moving) > 8 and len({id(frame) for frame in moving}) > 1
