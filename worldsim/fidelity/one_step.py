"""One step ahead, teacher-forced: every recorded row is predicted from all rows before it in its episode.

For speed, episodes are cut into pieces of `length` rows. The latent state at the beginning of each piece comes from
observing the rows before it; then all pieces are stepped as one batch. Axes: P pieces, T steps, N transitions,
R reward bins.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.fidelity.curves import Curves, Sums, add_up, measure_beside_baselines, to_curves
from worldsim.fidelity.error_metric import ErrorMetric
from worldsim.rollouts.arrays import EpisodeArrays
from worldsim.rollouts.sampling import gather
from worldsim.simulator.rollout import predictions
from worldsim.simulator.world import World, WorldState
from worldsim.spaces import Arrays, Bools, Floats, Ints
from worldsim.training.statistics import rows_of

EPISODES_AT_ONCE = 32  # episodes observed in one batch
PIECES_AT_ONCE = 512  # pieces stepped in one batch, and in memory


class Pieces(NamedTuple):
    """The first and last rows of pieces, and the latent states at their beginning."""

    latent: dict[str, Tensor]  # (P, ...), after observing row `begin`
    begin: Ints  # (P,) row numbers
    end: Ints  # (P,) row number of the episode's last row


class HeadPredictions(NamedTuple):
    """Reward and end of every transition, predicted and actual: each flat, (N,) or (N, R)."""

    reward: Tensor  # (N, R) log-probabilities of the bins, at temperature 1
    end: Floats  # (N,) logits of termination, at temperature 1
    actual_reward: Floats
    ended: Bools
    reported: Bools  # True: of an episode to report on; False: of one to calibrate with

    def where(self, chosen: Bools) -> "HeadPredictions":
        """Only the chosen transitions."""
        reward = self.reward[torch.from_numpy(chosen)]
        heads = self.end[chosen], self.actual_reward[chosen], self.ended[chosen], self.reported[chosen]
        return HeadPredictions(reward, *heads)


def pieces(world: World, arrays: EpisodeArrays, episodes: Ints, length: int) -> Pieces:
    """All rows of the episodes, in pieces of `length` steps."""
    parts = [
        part
        for at in range(0, len(episodes), EPISODES_AT_ONCE)
        for part in _pieces(world, arrays, episodes[at : at + EPISODES_AT_ONCE], length)
    ]
    return concatenated(parts)


def concatenated(parts: Sequence[Pieces]) -> Pieces:
    """Several `Pieces` as one."""
    latent = {name: torch.cat([part.latent[name] for part in parts]) for name in parts[0].latent}
    begin, end = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
    return Pieces(latent, begin, end)


def _pieces(world: World, arrays: EpisodeArrays, episodes: Ints, length: int) -> list[Pieces]:
    first, last = arrays.start[episodes], arrays.start[episodes + 1] - 1
    latent, found = _observed(world, arrays, first[:, None], None), []
    for at in range(0, int((last - first).max()), length):
        going = first + at < last
        kept = {name: value[torch.from_numpy(going)] for name, value in latent.items()}
        found.append(Pieces(kept, first[going] + at, last[going]))
        rows = np.minimum((first + at)[:, None] + 1 + np.arange(length), last[:, None])
        latent = _observed(world, arrays, rows, latent)
    return found


@torch.inference_mode()
def _observed(world: World, arrays: EpisodeArrays, rows: Ints, latent: dict[str, Tensor] | None) -> dict[str, Tensor]:
    batch = gather(arrays, rows)
    observation, action = (_tensors(world, batch[key]) for key in ("observation", "action"))
    return world.model.observe(observation, action, torch.from_numpy(batch["first"]).to(world.device), latent).state


def _tensors(world: World, rows: dict[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values).to(world.device) for name, values in rows.items()}


class OneStep(NamedTuple):
    """Results of stepping through pieces."""

    heads: HeadPredictions
    sums: list[Sums]  # (T,) of the reported pieces, by steps since a piece began; empty where there are none
    counts: list[int]  # (T,) number of transitions in the sums

    def curves(self) -> dict[str, Curves]:
        """Measure -> leaf -> name -> curve over the steps since a piece began."""
        steps = [to_curves(each) for each in self.sums]
        some = next(step for step in steps if step)
        return {
            measure: {
                leaf: {name: [step[measure][leaf][name][0] if step else None for step in steps] for name in predictors}
                for leaf, predictors in leaves.items()
            }
            for measure, leaves in some.items()
        }


def predict_all(
    world: World, arrays: EpisodeArrays, halves: Sequence[Ints], length: int, metric: ErrorMetric, seed: int
) -> OneStep:
    """Predict every row of both `halves`: the episodes to calibrate with, and those to report on."""
    rng, parts = np.random.default_rng(seed), []
    others = shuffled_rows(arrays, halves[1], np.random.default_rng([seed, 1]))
    for reported, episodes in zip((False, True), halves, strict=True):
        for group in _groups(arrays, episodes, length):
            cut = pieces(world, arrays, group, length)
            counted = np.full(len(cut.begin), reported)
            parts.append(predict(world, arrays, cut, counted, length, metric, others, rng))
            arrays.release()
    heads = HeadPredictions(*(_concatenated(each) for each in zip(*(part.heads for part in parts), strict=True)))
    steps = zip(*(part.sums for part in parts), strict=True)
    summed = [add_up(some) if (some := [each for each in step if each]) else {} for step in steps]
    return OneStep(heads, summed, np.sum([part.counts for part in parts], 0).tolist())


def shuffled_rows(arrays: EpisodeArrays, episodes: Ints, rng: np.random.Generator) -> Ints:
    """(N,): for each row another random row of the episodes, whose action replaces its own to shuffle actions."""
    rows = rows_of(arrays, episodes)
    order = rng.permutation(rows[~arrays.first[rows]])
    found = np.arange(arrays.rows)
    found[order] = np.roll(order, 1)
    return found


def _groups(arrays: EpisodeArrays, episodes: Ints, length: int) -> list[Ints]:
    """The episodes in order, in groups of some PIECES pieces."""
    many = -(-(np.diff(arrays.start)[episodes] - 1) // length)
    return np.split(episodes, np.flatnonzero(np.diff((np.cumsum(many) - 1) // PIECES_AT_ONCE)) + 1)


def _concatenated(parts: Sequence[Any]) -> Any:
    return torch.cat(list(parts)) if isinstance(parts[0], Tensor) else np.concatenate(parts)


@torch.inference_mode()
def predict(
    world: World,
    arrays: EpisodeArrays,
    cut: Pieces,
    reported: Bools,
    length: int,
    metric: ErrorMetric,
    others: Ints,
    rng: np.random.Generator,
) -> OneStep:
    """Predict every row of the pieces.

    reported: (P,), the pieces that count for the sums; predictions of the heads are returned for all.
    others: (N,), from `shuffled_rows`.
    """
    # One pass measures everything, because the model's steps, not the measures, take the time.
    seeds = torch.from_numpy(rng.integers(2**62, size=len(cut.begin))).to(world.device)
    nothing = torch.zeros(len(seeds), device=world.device)
    last = _tensors(world, gather(arrays, cut.begin)["observation"])
    state = WorldState(cut.latent, seeds, torch.zeros_like(seeds), nothing, nothing, last)
    heads, sums, counts = [], list[Sums](), []
    # A piece that is shorter than others repeats its last row, uncounted, so that the batch keeps its shape, which a
    # compiled step needs.
    rows = [np.minimum(cut.begin + step, cut.end) for step in range(1, length + 1)]
    recorded = (gather(arrays, each) for each in rows)
    for step, (before, actual, tick) in enumerate(predictions(world, state, recorded, teacher_forced=True)):
        inside = cut.begin + step < cut.end
        logits = (world.model.reward(tick.features), world.model.termination(tick.features))
        reward, end = (head.cpu()[torch.from_numpy(inside)] for head in logits)
        outcome = actual["reward"][inside].astype(np.float64), actual["terminated"][inside]
        heads.append(HeadPredictions(reward, end.double().numpy(), *outcome, reported[inside]))
        counted = inside & reported
        counts.append(int(counted.sum()))
        sums.append({})
        if counts[-1]:  # predict again under another action, to measure whether actions matter
            action = {name: values.take(others[rows[step]], axis=0) for name, values in arrays.action.items()}
            states = before, tick.state, world.predict(before, action).state
            sums[-1] = _measure(metric, (actual["observation"], *map(world.observation, states)), counted)
    flat = HeadPredictions(*(_concatenated(column) for column in zip(*heads, strict=True)))
    return OneStep(flat, sums, counts)


def _measure(metric: ErrorMetric, shown: Sequence[Arrays], counted: Bools) -> Sums:
    """Measures of the pieces that are `counted` (P,), as windows of one step.

    shown: the actual row, the one before it, the prediction, and the prediction under another action.
    """
    actual, before, model, shuffled = ({name: rows[counted][:, None] for name, rows in each.items()} for each in shown)
    return measure_beside_baselines(metric, actual, before, model, shuffled, np.ones((int(counted.sum()), 1), np.bool_))
