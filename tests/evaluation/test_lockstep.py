"""Episodes in lockstep give what they give alone, in one network step each time."""

from typing import Any

import numpy as np
import pytest

from tests.simulator.stub_world import StubWorld
from worldsim.evaluation.lockstep import LockstepEnv, in_lockstep
from worldsim.simulator.env import WorldEnv
from worldsim.spaces import flatten


class Counting(StubWorld):
    """Notes how many worlds each step moved."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.sizes: list[int] = []

    def step(self, state: Any, actions: Any) -> Any:
        self.sizes.append(len(state.seed))
        return super().step(state, actions)


def shown(env: WorldEnv, observation: Any) -> dict[str, Any]:
    return {name: array.tolist() for name, array in flatten(env.observation_space, observation).items()}


def episode(world: StubWorld, seed: int):  # type: ignore[no-untyped-def]
    """A program that plays one episode."""

    def play(step: Any) -> list[Any]:
        env = LockstepEnv(world, step)
        trajectory: list[Any] = [shown(env, env.reset(seed=seed)[0])]
        ended = False
        while not ended:
            observation, reward, terminated, truncated, _ = env.step(len(trajectory) % 3)
            trajectory.append((shown(env, observation), reward))
            ended = terminated or truncated
        return trajectory

    return play


def test_the_same_as_alone_in_one_batch_a_step() -> None:
    world = Counting(ending=0.2)
    together = in_lockstep(world, [episode(world, seed) for seed in range(9)])
    alone = StubWorld(ending=0.2)
    assert together == [episode(alone, seed)(alone.step) for seed in range(9)]
    lengths = np.array([len(trajectory) - 1 for trajectory in together])
    assert len(set(lengths)) > 2
    assert world.sizes == [int((lengths > step).sum()) for step in range(lengths.max())]


def test_only_one_program_runs_at_a_time() -> None:
    running: list[int] = []

    def program(number: int):  # type: ignore[no-untyped-def]
        def run(step: Any) -> int:
            state = StubWorld().start(1, number)
            for _ in range(4):
                running.append(number)
                assert running.count(number) == 1
                running.remove(number)
                state, _ = step(state, {"value": np.zeros((1, 1), np.int64)})
            return number

        return run

    assert in_lockstep(StubWorld(), [program(number) for number in range(5)]) == list(range(5))
    assert in_lockstep(StubWorld(), []) == []


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_an_error_ends_all(error: BaseException) -> None:
    closed = []

    def patient(step: Any) -> None:
        state = StubWorld().start(1)
        try:
            while True:
                state, _ = step(state, {"value": np.zeros((1, 1), np.int64)})
        finally:
            closed.append(True)

    def hasty(step: Any) -> None:
        step(StubWorld().start(1), {"value": np.zeros((1, 1), np.int64)})
        raise error

    with pytest.raises(type(error)):
        in_lockstep(StubWorld(), [patient, hasty, patient])
    assert closed == [True, True]
