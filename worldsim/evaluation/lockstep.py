"""Steps many episodes of one World as one batch, although each is a program that steps an environment by itself.

The call stack of an episode holds the agent, which is user code, and wrappers of faults, which may step the environment
twice or not at all. To wait for the other episodes in the middle of a step, each episode runs in a thread of its own.
Only one thread runs at a time, from one step of the World to the next.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Semaphore, Thread
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from worldsim.simulator.env import WorldEnv
from worldsim.spaces import Arrays

if TYPE_CHECKING:
    from worldsim.simulator.world import Step, World, WorldState

T = TypeVar("T")
Advance = Callable[["WorldState", Arrays], "tuple[WorldState, Step]"]  # what `World.step` is


class LockstepEnv(WorldEnv):
    """A WorldEnv that is stepped by the function `step`, which may wait for the steps of other episodes."""

    def __init__(self, world: "World", step: Advance, horizon: int | None = None) -> None:
        super().__init__(world, horizon)
        self.advance = step

    def _advance(self, state: "WorldState", actions: Arrays) -> "tuple[WorldState, Step]":
        return self.advance(state, actions)


def in_lockstep(world: "World", programs: Sequence[Callable[[Advance], T]]) -> list[T]:
    """Runs programs that each get a function to use like `world.step` with B = 1; returns their results.

    The steps of all unfinished programs are taken as one batch, in the order of the programs, so results are
    reproducible. An exception in one of them stops them all and is raised here.
    """
    runners = [_Runner(program) for program in programs]
    active = list(runners)
    for runner in runners:
        runner.start()
    try:
        while active:
            for runner in active:
                runner.resume()
                if runner.error is not None:  # `finally` stops the others
                    raise runner.error
            active = [runner for runner in active if not runner.finished]
            if active:
                _step_all(world, active)
    finally:
        for runner in active:
            runner.stop()
    return [runner.results[0] for runner in runners]


class _Stopped(BaseException):
    """Raised inside a program to end it, when its result is not needed any more."""


class _Runner(Thread, Generic[T]):
    """A thread used as a coroutine: it runs only while `resume` waits for it, so never two of them at once."""

    def __init__(self, program: Callable[[Advance], T]) -> None:
        super().__init__(daemon=True)
        self.program = program
        self.request: tuple[Any, Any] | None = None  # state and actions of the step that it waits for
        self.answer: Any = None
        self.results: list[T] = []
        self.error: BaseException | None = None
        self.finished = self.stopped = False
        self._go, self._paused = Semaphore(0), Semaphore(0)

    def resume(self) -> None:
        """Runs the program up to its next step, or to its end."""
        self._go.release()
        self._paused.acquire()

    def stop(self) -> None:
        """Ends the program where it waits."""
        self.stopped = True
        self._go.release()
        self.join()

    def run(self) -> None:
        try:
            with suppress(_Stopped):
                self._wait()
                self.results.append(self.program(self._step))
        except BaseException as error:
            self.error = error
        finally:
            self.finished = True
            self._paused.release()

    def _step(self, state: Any, actions: Any) -> Any:
        self.request = (state, actions)
        self._paused.release()
        self._wait()
        return self.answer

    def _wait(self) -> None:
        self._go.acquire()
        if self.stopped:
            raise _Stopped


def _step_all(world: "World", runners: Sequence[_Runner[Any]]) -> None:
    requests = [runner.request for runner in runners if runner.request is not None]
    state, actions = (_batched([request[part] for request in requests]) for part in (0, 1))
    following, step = world.step(state, actions)
    for row, runner in enumerate(runners):
        runner.answer = _row(following, row), _row(step, row)


def _batched(trees: Sequence[Any]) -> Any:
    """Trees of arrays or tensors, concatenated along their first axis."""
    first = trees[0]
    if isinstance(first, dict):
        return {name: _batched([tree[name] for tree in trees]) for name in first}
    if isinstance(first, tuple):
        return type(first)(*(_batched(parts) for parts in zip(*trees, strict=True)))
    if isinstance(first, np.ndarray):
        return np.concatenate(trees)
    import torch

    return torch.cat(list(trees))


def _row(tree: Any, row: int) -> Any:
    """One row of a tree, still with its first axis."""
    if isinstance(tree, dict):
        return {name: _row(part, row) for name, part in tree.items()}
    if isinstance(tree, tuple):
        return type(tree)(*(_row(part, row) for part in tree))
    return tree[row : row + 1]
