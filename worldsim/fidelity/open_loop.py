"""Open loop: a world sees some recorded rows and then imagines on under actions. Axes: B windows, T steps."""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldsim.errors import DatasetError
from worldsim.fidelity.curves import Curves, blind, curves
from worldsim.fidelity.measures import Bools, Floats
from worldsim.fidelity.yardstick import Yardstick
from worldsim.rollouts.arrays import Arrays
from worldsim.rollouts.sampling import windows
from worldsim.simulator.world import World, WorldState
from worldsim.spaces import flatten

Leaves = dict[str, NDArray[Any]]  # leaf -> (B, T, ...)
CONTROL = 4  # step at which controllability is told (Genie, arXiv:2402.15391, section 4)


class Windows(NamedTuple):
    """Recorded windows and worlds that have seen their context."""

    whole: dict[str, Any]  # as `windows` gives them, context and horizon
    seeds: list[int]
    state: WorldState  # after the context
    observation: Leaves  # what came then, (B, T, ...)
    action: Leaves
    before: Leaves  # the last row of the context, (B, 1, ...)
    mask: Bools  # (B, T): inside the episode


class Rolled(NamedTuple):
    """What a world imagined."""

    observation: Leaves
    doubt: Floats  # (B, T)
    novelty: Floats  # (B, T)


def cut(
    world: World, arrays: Arrays, episodes: NDArray[np.int64], context: int, horizon: int, count: int, seed: int
) -> Windows:
    """`count` windows of the episodes, the longest that fit where these are shorter than context and horizon."""
    long = episodes[np.diff(arrays.start)[episodes] > context]
    if not len(long):
        raise DatasetError(f"no held-out episode is longer than context={context}; give less context")
    rng = np.random.default_rng(seed)
    whole = windows(arrays, long, context + horizon, count, rng)
    seeds = rng.integers(2**62, size=count).tolist()
    seen, done = (_between(whole[key], 0, context) for key in ("observation", "action"))
    state = world.observe(seen, done, whole["first"][:, :context], seeds)
    came, action = (_between(whole[key], context, None) for key in ("observation", "action"))
    before = _between(whole["observation"], context - 1, context)
    return Windows(whole, seeds, state, came, action, before, whole["mask"][:, context:])


def _between(rows: Leaves, begin: int, end: int | None) -> Leaves:
    return {name: values[:, begin:end] for name, values in rows.items()}


def roll(world: World, state: WorldState, action: Mapping[str, NDArray[Any]], horizon: int) -> Rolled:
    """What the worlds foresee under the first `horizon` of the actions (B, T, ...) a leaf."""
    seen, doubt, novelty = [], [], []
    for t in range(horizon):
        state = world.foresee(state, {name: rows[:, t] for name, rows in action.items()}).state
        seen.append(world.observation(state))
        doubt.append(state.doubt.cpu().numpy())
        novelty.append(state.novelty.cpu().numpy())
    observation = {name: np.stack([each[name] for each in seen], 1) for name in seen[0]}
    return Rolled(observation, np.stack(doubt, 1).astype(np.float64), np.stack(novelty, 1).astype(np.float64))


def others_actions(action: Leaves) -> Leaves:
    """The actions of another window for each: as likely as its own, but not what led to what was recorded."""
    return {name: np.roll(rows, 1, axis=0) for name, rows in action.items()}


def random_actions(world: World, count: int, steps: int, seed: int) -> Leaves:
    """Uniform over the action space, (count, steps, ...) a leaf."""
    space = copy.deepcopy(world.action_space)
    space.seed(seed)
    drawn = [flatten(space, space.sample()) for _ in range(count * steps)]
    return {
        name: np.stack([each[name] for each in drawn]).reshape(count, steps, *drawn[0][name].shape) for name in drawn[0]
    }


def measured(yardstick: Yardstick, cut: Windows, model: Leaves, shuffled: Leaves) -> dict[str, Curves]:
    """Curves of the model beside copying, the mean, and the model under other windows' actions."""
    shown = {"model": model, **blind(yardstick, cut.before, cut.observation), "shuffled": shuffled}
    return curves(yardstick, cut.observation, cut.before, shown, cut.mask)


def controllability(world: World, yardstick: Yardstick, cut: Windows, model: Leaves, seed: int) -> dict[str, Any]:
    """How much worse the prediction is under random actions: delta PSNR at step 4 (Genie, arXiv:2402.15391).

    Of categorical leaves the difference in accuracy, of vectors in normalised error. A world that does not listen to
    its actions has 0.
    """
    steps = min(CONTROL, cut.mask.shape[1])
    alike = roll(world, cut.state, random_actions(world, len(cut.seeds), steps, seed), steps).observation
    last = slice(steps - 1, steps)
    parts = [{name: rows[:, last] for name, rows in each.items()} for each in (cut.observation, model, alike)]
    actual, recorded, random = parts
    found = curves(yardstick, actual, cut.before, {"recorded": recorded, "random": random}, cut.mask[:, last])
    told: dict[str, Any] = {"step": steps}
    for measure in ("psnr", "psnr_changed", "accuracy", "nrmse"):
        for leaf, each in found.get(measure, {}).items():
            values = {name: curve[0] for name, curve in each.items()}
            a, b = values["recorded"], values["random"]
            values["delta"] = None if a is None or b is None else a - b
            told.setdefault(measure, {})[leaf] = values
    return told
