"""Open-loop evaluation: the recorded windows that a world continues, and the actions under which it does.

Axes: B windows, T steps.
"""

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import gymnasium as gym
import numpy as np

from worldsim.errors import DatasetError
from worldsim.fidelity.curves import Sums, measure, to_curves
from worldsim.fidelity.error_metric import ErrorMetric
from worldsim.rollouts import sampling
from worldsim.rollouts.arrays import EpisodeArrays
from worldsim.simulator.rollout import imagine, observe_context
from worldsim.simulator.world import World, WorldState
from worldsim.spaces import Arrays, Bools, Ints, flatten

WINDOWS_AT_ONCE = 128  # windows imagined in one batch, and in memory
CONTROL_STEP = 4  # step at which controllability is measured (Genie, arXiv:2402.15391, section 4)


class Windows(NamedTuple):
    """A batch of recorded windows, and the states of worlds that have observed their context."""

    state: WorldState  # after the context
    observation: Arrays  # what was recorded after it, (B, T, ...)
    action: Arrays
    others: Arrays  # the actions of another window, as shuffled actions
    before: Arrays  # the last row of the context, (B, 1, ...)
    mask: Bools  # (B, T): inside the episode


class WindowDraw(NamedTuple):
    """The windows that are imagined, by number; their rows are loaded in batches, never all at once."""

    arrays: EpisodeArrays
    episodes: Ints  # those that are longer than the context
    context: int
    horizon: int
    places: Ints  # (B,) as `sampling.window_at` numbers them
    seeds: list[int]  # (B,)

    @classmethod
    def of(cls, arrays: EpisodeArrays, episodes: Ints, context: int, horizon: int, count: int, seed: int) -> Self:
        """`count` random windows, or all possible ones if there are fewer; cut to the episode where that is shorter."""
        long = episodes[np.diff(arrays.start)[episodes] > context]
        if not len(long):
            raise DatasetError(f"no held-out episode is longer than context={context}; give less context")
        rng, total = np.random.default_rng(seed), int(sampling.places(arrays, long, context + horizon).sum())
        chosen = np.arange(total) if count >= total else rng.integers(total, size=count)
        return cls(arrays, long, context, horizon, chosen, rng.integers(2**62, size=len(chosen)).tolist())

    def windows(self, rows: Any) -> dict[str, Any]:
        """The recorded rows of some of the windows, context and horizon."""
        return sampling.window_at(self.arrays, self.episodes, self.context + self.horizon, self.places[rows])


def batches(world: World, draw: WindowDraw) -> Iterator[Windows]:
    """All windows drawn, at most WINDOWS_AT_ONCE at a time."""
    for at in range(0, len(draw.places), WINDOWS_AT_ONCE):
        rows = np.arange(at, min(at + WINDOWS_AT_ONCE, len(draw.places)))
        whole, context = draw.windows(rows), draw.context
        state = observe_context(world, whole, context, [draw.seeds[row] for row in rows])
        actual, action = (_between(whole[key], context, None) for key in ("observation", "action"))
        others = _between(draw.windows(rows - 1)["action"], context, None)
        before = _between(whole["observation"], context - 1, context)
        yield Windows(state, actual, action, others, before, whole["mask"][:, context:])
        draw.arrays.release()


def _between(rows: Arrays, begin: int, end: int | None) -> Arrays:
    return {name: values[:, begin:end] for name, values in rows.items()}


def seeded_action_space(world: World, seed: int) -> gym.Space[Any]:
    """A copy of the action space with a seeded generator."""
    space = copy.deepcopy(world.action_space)
    space.seed(seed)
    return space


def _random_actions(space: gym.Space[Any], count: int, steps: int) -> Arrays:
    """Uniform random actions, (count, steps, ...) a leaf."""
    drawn = [flatten(space, space.sample()) for _ in range(count * steps)]
    return {
        name: np.stack([each[name] for each in drawn]).reshape(count, steps, *drawn[0][name].shape) for name in drawn[0]
    }


def under_random_actions(
    world: World, metric: ErrorMetric, cut: Windows, model: Arrays, actions: gym.Space[Any]
) -> Sums:
    """Measures at CONTROL_STEP, or the last step, of predictions under recorded (`model`) and under random actions."""
    steps = min(CONTROL_STEP, cut.mask.shape[1])
    at_random = imagine(world, cut.state, _random_actions(actions, len(cut.mask), steps)).observation
    last = slice(steps - 1, steps)
    parts = [{name: rows[:, last] for name, rows in each.items()} for each in (cut.observation, model, at_random)]
    actual, recorded, random = parts
    return measure(metric, actual, cut.before, {"recorded": recorded, "random": random}, cut.mask[:, last])


def controllability(found: Sums, horizon: int) -> dict[str, Any]:
    """How much worse the prediction is under random actions: delta PSNR at step 4 (Genie, arXiv:2402.15391).

    For categorical leaves the difference in accuracy, for vectors in normalised error. It is 0 for a world whose
    predictions do not depend on the actions.
    """
    curves, metrics = to_curves(found), dict[str, Any](step=min(CONTROL_STEP, horizon))
    for key in ("psnr", "psnr_changed", "accuracy", "nrmse"):
        for leaf, each in curves.get(key, {}).items():
            values = {name: curve[0] for name, curve in each.items()}
            a, b = values["recorded"], values["random"]
            values["delta"] = None if a is None or b is None else a - b
            metrics.setdefault(key, {})[leaf] = values
    return metrics
