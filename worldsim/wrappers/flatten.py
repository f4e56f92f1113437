"""One level of keys, for libraries that know no nested observations."""

from typing import Any

import gymnasium as gym
from gymnasium import spaces as gym_spaces

from worldsim.errors import SpaceMismatchError
from worldsim.spaces import by_name, leaves


class FlattenDict(gym.ObservationWrapper[dict[str, Any], Any, Any], gym.utils.RecordConstructorArgs):
    """A nested Dict or Tuple observation as one Dict from leaf name to leaf.

    `obs["reply"]["status"]` becomes `obs["reply/status"]`. Stable-Baselines3 and others take Dict observations of one
    level only. Values and leaf spaces are untouched.

    Raises SpaceMismatchError for an observation that is no Dict or Tuple.
    """

    def __init__(self, env: gym.Env[Any, Any]):
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        if not isinstance(env.observation_space, gym_spaces.Dict | gym_spaces.Tuple):
            kind = type(env.observation_space).__name__
            raise SpaceMismatchError(
                f"the observation is a {kind}, which has nothing to flatten; leave FlattenDict out"
            )
        named = [(leaf.name, leaf.space) for leaf in leaves(env.observation_space)]
        self.observation_space = gym_spaces.Dict(named)

    def observation(self, observation: Any) -> dict[str, Any]:
        """The leaves of a nested observation by name."""
        return by_name(self.env.observation_space, observation)
