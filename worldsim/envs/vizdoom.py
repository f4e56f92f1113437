"""A wrapper for ViZDoom that repeats the last observation at the end of an episode."""

from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs


class KeepLastObservation(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Returns the last real observation where ViZDoom has none.

    The game has no state once an episode is over, and its Gymnasium wrapper then returns zeros, which would be learned
    as a black frame.
    """

    def __init__(self, env: gym.Env[Any, Any]):
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        self._last: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._last, info = self.env.reset(seed=seed, options=options)
        return self._last, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self.env.unwrapped.state is not None:  # type: ignore[attr-defined]
            self._last = observation
        return self._last, reward, terminated, truncated, info
