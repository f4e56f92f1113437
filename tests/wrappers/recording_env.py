"""An environment that writes down what really reached it and what it answered: records are held against it."""

import copy
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from worldsim import faults

BUILT_IN = {kind.kind: kind for family in faults.FAMILIES.values() for kind in family}
KINDS = sorted(set(BUILT_IN) - {"plausible_lie"})  # it needs a world: see tests/faults/test_lies.py

DESK = spaces.Dict(
    {
        "reply": spaces.Dict({"status": spaces.Discrete(5), "amount": spaces.Discrete(900), "order": spaces.Text(6)}),
        "screen": spaces.Box(0, 255, (16, 12, 3), "uint8"),
        "pose": spaces.Tuple((spaces.Box(-1.0, 1.0, (3,), "float32"), spaces.MultiDiscrete([4, 4, 4]))),
    }
)
FIELDS = spaces.Dict({name: spaces.Discrete(900) for name in "abc"})  # cheap to sample


class RecordingEnv(gym.Env[Any, Any]):
    """Answers with random observations; call k is worth k + 1; terminates after `length` calls that arrived."""

    metadata = {  # noqa: RUF012
        "render_modes": [],
        "on_error": {
            "timeout": {"reply/status": 3, "reply/amount": 0},
            "malformed": {"reply/status": 4},
            "unavailable": {"reply/status": 2},
        },
    }

    def __init__(self, space: Any = None, length: int = 10**9) -> None:
        self.observation_space = copy.deepcopy(DESK if space is None else space)
        self.action_space = spaces.Discrete(1000)
        self.length = length
        self.arrived: list[Any] = []
        self.answered: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.arrived, self.answered = [], []
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self._answer(), {"arrived": 0}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.arrived.append(action)
        calls = len(self.arrived)
        return self._answer(), float(calls), calls >= self.length, False, {"arrived": calls}

    def _answer(self) -> Any:
        observation = self.observation_space.sample()
        self.answered.append(copy.deepcopy(observation))
        return observation

    def snapshot(self) -> Any:
        return copy.deepcopy((self.arrived, self.answered, self.observation_space, self.np_random))

    def restore(self, snapshot: Any) -> None:
        self.arrived, self.answered, self.observation_space, self._np_random = copy.deepcopy(snapshot)
