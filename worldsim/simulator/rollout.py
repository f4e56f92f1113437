"""Rollouts in a World: it observes recorded rows, and imagines what follows.

`predictions` is the loop, open loop or teacher-forced; `imagine` and `open_loop` collect its results. Recorded rows
are batches as `worldsim.rollouts.sampling` gives them. Axes: B worlds, T steps.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldsim.simulator.world import Tick, World, WorldState
from worldsim.spaces import Arrays

RecordedRows = Mapping[
    str, Any
]  # "observation" and "action" as leaf -> array; also "reward", "first" and so on, see `sampling.gather`


class Prediction(NamedTuple):
    """One step ahead of B worlds."""

    before: WorldState  # before the step
    row: RecordedRows  # the recorded row that is predicted, (B, ...)
    tick: Tick  # the World's prediction under the row's action, on its device


class Rollout(NamedTuple):
    """What B worlds imagined in T steps."""

    observation: Arrays  # leaf -> (B, T, ...)
    reward: NDArray[np.float32]  # (B, T)
    terminated: NDArray[np.bool_]  # (B, T)
    cumulative_entropy: NDArray[np.float32]  # (B, T) nats, summed since the rollout's first step
    disagreement: NDArray[np.float32]  # (B, T), the ensemble's greatest since the rollout's first step
    trust: NDArray[np.float32]  # (B, T) in [0, 1]; 0 throughout for a World without calibration


def predictions(
    world: World, state: WorldState, rows: Iterable[RecordedRows], teacher_forced: bool = False
) -> Iterator[Prediction]:
    """One prediction for each row (B, ...), in order, lazily: only the current one is kept.

    Open loop, each starts from the predicted state of the one before; of the rows only `action` is read. Teacher-
    forced, each starts from the recorded rows before it: after each step the world observes the real `observation`.
    """
    for row in rows:
        tick = world.predict(state, row["action"])
        yield Prediction(state, row, tick)
        state = world.follow(state, row["observation"], row["action"]) if teacher_forced else tick.state


def imagine(world: World, state: WorldState, actions: Mapping[str, NDArray[Any]]) -> Rollout:
    """Open loop from `state` under actions (B, T, ...), leaf by leaf; T is at least 1."""
    steps = next(iter(actions.values())).shape[1]
    rows = ({"action": {name: values[:, t] for name, values in actions.items()}} for t in range(steps))
    observations, scalars = list[Arrays](), list[list[NDArray[Any]]]()
    for _, _, tick in predictions(world, state, rows):
        observations.append(world.observation(tick.state))
        now = (tick.reward, tick.terminated, tick.state.cumulative_entropy, tick.state.disagreement)
        scalars.append(
            [tensor.cpu().numpy() for tensor in now]
        )  # copied at every step, so that a GPU need not hold all frames
    reward, terminated, entropy, disagreement = (np.stack(column, 1) for column in zip(*scalars, strict=True))
    observed = {name: np.stack([each[name] for each in observations], 1) for name in observations[0]}
    trust = np.zeros_like(entropy) if world.trust is None else world.trust.of(entropy, disagreement)
    return Rollout(observed, reward, terminated, entropy, disagreement, trust)


def observe_context(world: World, window: RecordedRows, context: int, seeds: Sequence[int]) -> WorldState:
    """States of worlds, one seed each, that have observed the first `context` rows of recorded windows (B, T)."""
    observation, action = (
        {name: rows[:, :context] for name, rows in window[key].items()} for key in ("observation", "action")
    )
    return world.observe(observation, action, window["first"][:, :context], seeds)


def open_loop(world: World, window: RecordedRows, context: int, seeds: Sequence[int]) -> Rollout:
    """Continues recorded windows (B, T): the World observes `context` rows, and then gets only the recorded actions.

    The result has T rows, too: the first `context` are the record, with entropy and disagreement 0 and trust 1; the
    others are imagined.
    """
    length = window["reward"].shape[1]
    assert 0 < context < length, (context, length)
    state = observe_context(world, window, context, seeds)
    ahead = imagine(world, state, {name: rows[:, context:] for name, rows in window["action"].items()})

    def after_record(recorded: NDArray[Any], imagined: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([recorded[:, :context], imagined], axis=1)

    nothing = np.zeros_like(window["reward"])
    return Rollout(
        {name: after_record(rows, ahead.observation[name]) for name, rows in window["observation"].items()},
        after_record(window["reward"], ahead.reward),
        after_record(window["terminated"], ahead.terminated),
        after_record(nothing, ahead.cumulative_entropy),
        after_record(nothing, ahead.disagreement),
        after_record(nothing + 1, ahead.trust),
    )
