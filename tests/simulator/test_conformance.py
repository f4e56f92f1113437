"""The checks of a World pass for worlds that keep what they promise, and each finds those that do not."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from tests.simulator.stub_world import IMAGE_SPACE, StubState, StubStep, StubWorld
from worldsim.simulator.conformance import CHECKS, check_world, checks_of

NESTED = spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(3)}), "c": IMAGE_SPACE})
ONE_SIDED = spaces.Box(0.0, 5.0, (2,), np.float32)
TOOL = spaces.Dict({"tool": spaces.Discrete(4), "amount": spaces.Box(-1.0, 1.0, (1,), np.float32)})


@pytest.mark.parametrize("observed", [IMAGE_SPACE, NESTED], ids=["dict", "nested"])
@pytest.mark.parametrize("actions", [None, ONE_SIDED, TOOL], ids=["discrete", "box that is warned of", "dict"])
def test_a_sound_world_passes(observed: spaces.Space[Any], actions: spaces.Space[Any] | None) -> None:
    world: Any = StubWorld(observed, actions)
    assert set(CHECKS) - set(checks_of(world)) == ({"stable_baselines3"} if actions is TOOL else set())
    check_world(world)


@pytest.mark.parametrize(
    "observed",
    [spaces.Tuple([spaces.Discrete(3), IMAGE_SPACE]), spaces.Box(0, 9, (12, 12), np.int64), spaces.Text(4)],
    ids=["tuple", "unusual grid", "text"],
)
@pytest.mark.parametrize(
    "actions",
    [spaces.Discrete(3, start=-1), spaces.Box(-np.inf, np.inf, (2,), np.float32)],
    ids=["other start", "boundless"],
)
def test_spaces_of_the_real_environment_are_not_held_against_a_world(
    observed: spaces.Space[Any], actions: spaces.Space[Any]
) -> None:
    check_world(StubWorld(observed, actions))  # type: ignore[arg-type]


class Careless(StubWorld):
    """Draws its rewards from the generator that all share."""

    def step(self, state: StubState, actions: Any) -> tuple[StubState, StubStep]:
        after, step = super().step(state, actions)
        return after, step._replace(reward=np.random.normal(size=len(step.reward)).astype(np.float32))


class Forgetful(StubWorld):
    """Keeps part of its state in itself and not in the state."""

    def step(self, state: StubState, actions: Any) -> tuple[StubState, StubStep]:
        after, step = super().step(state, actions)
        return after, step._replace(reward=step.reward + self.steps_called)


class Crowded(StubWorld):
    """A world's first lamp depends on how many worlds there are."""

    def step(self, state: StubState, actions: Any) -> tuple[StubState, StubStep]:
        after, step = super().step(state, actions)
        lamps = step.observation["lamps"] * (0.5 if len(state.seed) > 1 else 1.0)
        return after, step._replace(observation=step.observation | {"lamps": lamps})


class Deaf(StubWorld):
    """All seeds are one."""

    def start_seeds(self, seeds: list[int]) -> StubState:
        return super().start_seeds([0] * len(seeds))


class Numberless(StubWorld):
    """Rewards that are no numbers."""

    def step(self, state: StubState, actions: Any) -> tuple[StubState, StubStep]:
        after, step = super().step(state, actions)
        return after, step._replace(reward=np.full(len(step.reward), np.nan, np.float32))


@pytest.mark.parametrize(
    ("broken", "found_by"),
    [
        (Careless, {"gymnasium", "seeds", "snapshots", "vector"}),
        (Forgetful, {"snapshots"}),
        (Crowded, {"vector"}),
        (Deaf, {"seeds"}),
        (Numberless, {"gymnasium"}),
    ],
)
def test_a_broken_world_is_found(broken: type[StubWorld], found_by: set[str]) -> None:
    found = set()
    for name, check in CHECKS.items():
        try:
            check(broken())  # type: ignore[arg-type]
        except Exception:
            found.add(name)
    assert found >= found_by
