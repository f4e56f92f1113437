"""Statistics of the data, taken before training: mean images, scales of numbers, range of rewards."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.models.world_model import WorldModel
from worldsim.rollouts.arrays import EpisodeArrays

SAMPLED = 4000  # rows that the statistics are taken from
AT_ONCE = 256  # of these rows, in memory


def rows_of(arrays: EpisodeArrays, episodes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row numbers of all rows of the given episodes."""
    return np.concatenate([np.arange(arrays.start[e], arrays.start[e + 1]) for e in episodes])


def reward_range(arrays: EpisodeArrays, episodes: NDArray[np.int64]) -> tuple[float, float]:
    """Least and greatest reward in the given episodes."""
    reward = arrays.reward[rows_of(arrays, episodes)]
    return float(reward.min()), float(reward.max())


def fit_statistics(
    model: WorldModel, arrays: EpisodeArrays, episodes: NDArray[np.int64], rng: np.random.Generator
) -> None:
    """Sets the model's statistics (`WorldModel.measure`) from a random sample of rows of the given episodes."""
    rows = rows_of(arrays, episodes)
    rows = np.sort(rng.choice(rows, min(SAMPLED, len(rows)), replace=False))
    follows = np.setdiff1d(rows, arrays.start)  # nothing was done before an episode's first row
    acted = follows if len(follows) else rows

    def observations(rows: NDArray[np.int64]) -> dict[str, RowChunks]:
        return {name: RowChunks(values, rows) for name, values in arrays.observation.items()}

    model.measure(observations(rows), {name: RowChunks(values, acted) for name, values in arrays.action.items()})
    if len(follows):
        model.measure_changes(observations(follows - 1), observations(follows))


@dataclass(frozen=True)
class RowChunks:
    """Some rows of an array on disk as tensors of up to some AT_ONCE rows; may be iterated over repeatedly."""

    values: NDArray[Any]
    rows: NDArray[np.int64]

    def __iter__(self) -> Iterator[Tensor]:
        for part in np.array_split(self.rows, max(1, len(self.rows) // AT_ONCE)):
            yield torch.from_numpy(np.ascontiguousarray(self.values[part]))
