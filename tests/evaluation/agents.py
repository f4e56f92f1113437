"""Agents for the tests: what each does is known."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym


class Balance:
    """Keeps CartPole up by pushing to where the pole falls."""

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        del observation_space, action_space

    def reset(self, seed: int) -> None:
        del seed

    def act(self, observation: Any, info: Mapping[str, Any]) -> int:
        assert set(info) <= {"reply"}, "an agent sees nothing of info but its last reply"
        return int(observation[2] + observation[3] > 0)


class Push(Balance):
    """Always pushes to the left: the pole soon falls."""

    def act(self, observation: Any, info: Mapping[str, Any]) -> int:
        return 0


class Brittle(Balance):
    """Cannot cope with an error."""

    def act(self, observation: Any, info: Mapping[str, Any]) -> int:
        if not info.get("reply", {}).get("ok", True):
            raise KeyError("answer")
        return super().act(observation, info)


class Wild(Balance):
    """Gives an action that there is none of."""

    def act(self, observation: Any, info: Mapping[str, Any]) -> int:
        return 17


class Trusting(Balance):
    """Reads its reply without asking whether there is one."""

    def act(self, observation: Any, info: Mapping[str, Any]) -> int:
        return super().act(observation, info) if info["reply"]["ok"] else 0
