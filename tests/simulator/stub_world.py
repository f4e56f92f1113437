"""A tiny world in numpy with the interface of worldsim.simulator.world.World: fast, and every value of it is known."""

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from worldsim.spaces import Arrays, leaves


class StubState(NamedTuple):
    seed: np.ndarray  # (B,) int64
    tick: np.ndarray  # (B,) int64
    observation: Arrays  # (B, ...)


class StubStep(NamedTuple):
    observation: Arrays
    reward: np.ndarray  # (B,) float32
    terminated: np.ndarray  # (B,) bool
    trust: np.ndarray  # (B,) float32


IMAGE_SPACE = spaces.Dict(
    {
        "screen": spaces.Box(0, 255, (40, 48, 3), np.uint8),
        "lamps": spaces.Box(-1.0, 1.0, (3,), np.float32),
        "mode": spaces.Discrete(4),
    }
)


class StubWorld:
    """Every value is drawn anew each step from (seed, tick, action), so any mistake in keeping them shows at once."""

    def __init__(
        self, observation_space: Any = IMAGE_SPACE, action_space: Any = None, ending: float = 0.1, horizon: int = 12
    ) -> None:
        self.observation_space = observation_space
        self.action_space = action_space if action_space is not None else spaces.Discrete(3)
        self.metadata: dict[str, Any] = {"on_error": {"timeout": {"mode": 3}}, "render_modes": ["human"]}
        self.horizon = horizon
        self.trust: Any = "calibrated"
        self.ending = ending  # probability of termination at a step
        self.steps_called = self.begun = 0

    def start(self, n: int, seed: int = 0) -> StubState:
        return self.start_seeds([seed + i for i in range(n)])

    def start_seeds(self, seeds: list[int]) -> StubState:
        keys = np.array(seeds, np.int64)
        self.begun += len(keys)
        return StubState(keys, np.zeros_like(keys), self._draw([np.random.default_rng([s, 0]) for s in seeds]))

    def encode(self, observation: Arrays, seeds: list[int]) -> StubState:
        keys = np.array(seeds, np.int64)
        return StubState(keys, np.zeros_like(keys), observation)

    def observe(self, observation: Arrays, action: Arrays, first: np.ndarray, seeds: list[int]) -> StubState:
        assert first.shape == next(iter(action.values())).shape[:2] == (len(seeds), first.shape[1])
        return self.encode({name: array[:, -1] for name, array in observation.items()}, seeds)

    def observation(self, state: StubState) -> Arrays:
        return state.observation

    def step(self, state: StubState, actions: Arrays) -> tuple[StubState, StubStep]:
        self.steps_called += 1
        digits = np.concatenate([np.abs(a.reshape(len(a), -1) * 8) for a in actions.values()], 1).astype(np.int64)
        rows = zip(state.seed, state.tick, digits, strict=True)
        generators = [np.random.default_rng([seed, tick + 1, *row]) for seed, tick, row in rows]
        ends = np.array([g.random() < self.ending for g in generators])
        reward = np.array([g.normal() for g in generators], np.float32)
        after = StubState(state.seed, state.tick + 1, self._draw(generators))
        return after, StubStep(after.observation, reward, ends, (0.97**after.tick).astype(np.float32))

    def take(self, mask: np.ndarray, state: StubState) -> StubState:
        observation = {name: array[mask] for name, array in state.observation.items()}
        return StubState(state.seed[mask], state.tick[mask], observation)

    def merge(self, mask: np.ndarray, new: StubState, state: StubState) -> StubState:
        def placed(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            out = x.copy()
            out[mask] = y
            return out

        observation = {k: placed(state.observation[k], new.observation[k]) for k in state.observation}
        return StubState(placed(state.seed, new.seed), placed(state.tick, new.tick), observation)

    def _draw(self, generators: list[np.random.Generator]) -> Arrays:
        return {
            leaf.name: np.stack([self._leaf(leaf, g) for g in generators]) for leaf in leaves(self.observation_space)
        }

    @staticmethod
    def _leaf(leaf: Any, generator: np.random.Generator) -> np.ndarray:
        if leaf.is_discrete:
            return generator.integers(0, leaf.nvec)
        if leaf.kind == "image":
            return generator.integers(0, 256, leaf.shape, dtype=np.uint8)
        return generator.normal(0, 2, leaf.shape).astype(leaf.dtype)  # beyond the bounds on purpose
