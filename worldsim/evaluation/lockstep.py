"""Many episodes of one World at once: each is a plain program that steps its own world, the network steps them all.

Between an agent and the World stand its own environment, wrappers of faults that may step that twice or not at all, and
an agent that is anybody's code: plain functions all of them, that can only be stopped in their middle in a thread of
their own. So each episode has a thread, of which one runs at a time, from one step of the World to its next.
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
    """A World as an environment that `step` moves on, which may wait for the steps of other episodes."""

    def __init__(self, world: "World", step: Advance, horizon: int | None = None) -> None:
        super().__init__(world, horizon)
        self.advance = step

    def _advance(self, state: "WorldState", actions: Arrays) -> "tuple[WorldState, Step]":
        return self.advance(state, actions)


def in_lockstep(world: "World", programs: Sequence[Callable[[Advance], T]]) -> list[T]:
    """Runs programs that each get a `step` of one world (B = 1) in place of `world.step`; returns what they return.

    The steps of all programs that still run are taken as one batch, in the programs' order, so the same programs give
    the same results. What one of them raises ends them all and goes on to the caller.
    """
    runners = [_Runner(program) for program in programs]
    active = list(runners)
    for runner in runners:
        runner.start()
    try:
        while active:
            for runner in active:
                runner.resume()
                if runner.error is not None:  # nobody waits for the others' results any more
                    raise runner.error
            active = [runner for runner in active if not runner.finished]
            if active:
                _step_all(world, active)
    finally:
        for runner in active:
            runner.stop()
    return [runner.results[0] for runner in runners]


class _Stopped(BaseException):
    """Ends the program of a runner whose result nobody waits for any more."""


class _Runner(Thread, Generic[T]):
    """A thread that runs only while `resume` waits for it, so never two of them at once: a coroutine."""

    def __init__(self, program: Callable[[Advance], T]) -> None:
        super().__init__(daemon=True)
        self.program = program
        self.request: tuple[Any, Any] | None = None  # the state and actions of the step that it waits for
        self.answer: Any = None
        self.results: list[T] = []
        self.error: BaseException | None = None
        self.finished = self.stopped = False
        self._go, self._paused = Semaphore(0), Semaphore(0)

    def resume(self) -> None:
        """Lets the program run to its next step, or to its end."""
        self._go.release()
        self._paused.acquire()

    def stop(self) -> None:
        """Ends the program where it stands."""
        self.stopped = True
        self._go.release()
        self.join()

    def run(self) -> None:
        try:
            with suppress(_Stopped):
                self._wait()
                self.results.append(self.program(self._ask))
        except BaseException as error:
            self.error = error
        finally:
            self.finished = True
            self._paused.release()

    def _ask(self, state: Any, actions: Any) -> Any:
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
    state, actions = (_joined([request[part] for request in requests]) for part in (0, 1))
    following, step = world.step(state, actions)
    for row, runner in enumerate(runners):
        runner.answer = _row(following, row), _row(step, row)


def _joined(trees: Sequence[Any]) -> Any:
    """Trees of arrays or tensors, put together along their first axis."""
    first = trees[0]
    if isinstance(first, dict):
        return {name: _joined([tree[name] for tree in trees]) for name in first}
    if isinstance(first, tuple):
        return type(first)(*(_joined(parts) for parts in zip(*trees, strict=True)))
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
