"""Malformed actions are their agent's crash, in any space; what an environment says of its actions is given on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.conftest import small
from tests.faults.strategies import observation_spaces
from worldsim.agents import RandomAgent
from worldsim.envs.make import EnvConfig
from worldsim.evaluation.runs import SuccessCriteria, run_episode
from worldsim.evaluation.stress import stress
from worldsim.faults import MissingData
from worldsim.rollouts.collect import CollectConfig, collect
from worldsim.wrappers import InjectFaults

UNJUDGED = SuccessCriteria(None, None)


class Fixed:
    """Gives one and the same action; as a factory, NaN for Pendulum."""

    def __init__(self, observation_space: Any, action_space: Any, action: Any = None) -> None:
        self.action = np.full(1, np.nan, np.float32) if action is None else action

    def reset(self, seed: int) -> None: ...

    def act(self, observation: Any, info: Mapping[str, Any]) -> Any:
        return self.action


class Taking(gym.Env[Any, Any]):
    """Takes whatever it is given, and writes it down."""

    metadata = {"render_modes": []}  # noqa: RUF012
    observation_space = spaces.Discrete(2)

    def __init__(self, space: gym.Space[Any]) -> None:
        self.action_space, self.taken = space, list[Any]()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.int64(0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.taken.append(action)
        return np.int64(0), 1.0, len(self.taken) >= 3, False, {}


def crash(space: gym.Space[Any], action: Any) -> str | None:
    env = Taking(space)
    result = run_episode(Fixed(None, None, action), env, 0, UNJUDGED).result
    assert len(env.taken) == result.steps == (0 if result.crash else 3), "what is malformed reaches no environment"
    return result.crash


TWO = spaces.Box(-1, 1, (2,), np.float32)
CALL = spaces.Dict(tool=spaces.Discrete(2), amount=spaces.Box(0, 9, (), np.float32))


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (TWO, np.array([0, np.nan], np.float32)),
        (TWO, np.array([0, -np.inf], np.float32)),
        (TWO, np.zeros(3, np.float32)),
        (TWO, np.zeros((1, 2), np.float32)),
        (TWO, 0.5),
        (TWO, None),
        (TWO, "left"),
        (TWO, np.array([0, None])),
        (TWO, [[0], [1, 2]]),
        (TWO, np.array([1j, 0])),
        (spaces.Box(0, 9, (2,), np.int64), np.array([0.5, 1])),
        (spaces.Discrete(3), 3),
        (spaces.Discrete(3), 1.0),
        (spaces.Discrete(3), np.nan),
        (spaces.Discrete(3), [1]),
        (spaces.MultiDiscrete([2, 2]), np.array([0, 2])),
        (spaces.MultiDiscrete([2, 2]), np.array([0.0, np.nan])),
        (spaces.MultiBinary(2), np.array([0, 2], np.int8)),
        (spaces.Text(3), "four"),
        (CALL, {"tool": 0}),
        (CALL, {"tool": 0, "amount": np.float32(np.nan)}),
        (CALL, {"tool": 0, "amount": 1.0, "more": 1}),
        (CALL, [0, 1.0]),
        (spaces.Tuple([spaces.Discrete(2), TWO]), (0,)),
        (spaces.Tuple([spaces.Discrete(2), TWO]), (0, np.full(2, np.nan))),
    ],
)
def test_a_malformed_action_is_the_agents_crash(space: gym.Space[Any], action: Any) -> None:
    message = crash(space, action)
    assert message is not None and "Error: " in message and "\n" not in message


@given(space=observation_spaces(), seed=st.integers(0, 99))
def test_whatever_a_space_has_is_an_action(space: gym.Space[Any], seed: int) -> None:
    space.seed(seed)
    assert crash(space, space.sample()) is None


@pytest.mark.parametrize("action", [np.array([5, -5], np.float64), [0, 1], np.array([0, 1]), (0.5, 0.5)])
def test_numbers_that_environments_clip_or_convert_are_theirs(action: Any) -> None:
    assert crash(TWO, action) is None


def test_nan_is_a_crash_in_the_report_and_the_run_goes_on(tmp_path: Path) -> None:
    env = EnvConfig(id="Pendulum-v1", max_episode_steps=10)
    agents = [f"{__name__}:Fixed", "random"]
    report = stress(small(tmp_path, env=env, agents=agents, episodes=2, worst=0), progress=False)
    crashes = {row["agent"]: row["crashes"] for row in report.results}
    assert crashes == {agents[0]: 2, "random": 0}
    message = next(row["crash_example"] for row in report.results if row["crashes"])
    assert message == "ValueError: the action array([nan], dtype=float32) is not in Box(-2.0, 2.0, (1,), float32)"
    assert all(np.isfinite(row["return_mean"]) for row in report.results)


class Doors(gym.Env[Any, Any]):
    """Of its doors one is open each time, and whoever tries another ends the episode; `info` names the open one."""

    metadata = {"render_modes": []}  # noqa: RUF012
    observation_space, action_space = spaces.Discrete(2), spaces.Discrete(6, start=1)

    def _mask(self) -> dict[str, Any]:
        self.open = int(self.np_random.integers(6))
        return {"action_mask": np.eye(6, dtype=np.int8)[self.open], "secret": 1}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.int64(0), self._mask()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        right = action == self.open + 1
        self.steps += 1
        return np.int64(0), float(right), not right, self.steps >= 30, self._mask()


gym.register("WorldsimTestDoors-v0", Doors)
DOORS = EnvConfig(id=f"{__name__}:WorldsimTestDoors-v0")


def test_masks_reach_agents_in_stress_tests_under_faults_too() -> None:
    for env in (Doors(), InjectFaults(Doors(), MissingData(severity=1.0), seed=0)):
        agent = RandomAgent(env.observation_space, env.action_space)
        for seed in range(5):
            result = run_episode(agent, env, seed, UNJUDGED, max_steps=200).result
            assert result.episode_return == 30.0 and result.truncated


def test_masks_reach_policies_that_collect(tmp_path: Path) -> None:
    rollouts = collect(CollectConfig(env=DOORS, steps=300, num_envs=3, epsilon=0.1, out=tmp_path / "data"), False)
    assert rollouts.steps == 300 and rollouts.episodes == 10
