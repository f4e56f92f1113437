"""What the networks must know of the data before they see it: mean image, scale of vectors, range of rewards."""

import numpy as np
import torch
from numpy.typing import NDArray

from worldsim.models.codec import FieldCodec, ImageCodec
from worldsim.models.layers import symlog
from worldsim.models.world_model import WorldModel
from worldsim.rollouts.arrays import Arrays

SAMPLED = 4000  # rows that the figures are taken from


def rows_of(arrays: Arrays, episodes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row numbers of all rows of the given episodes."""
    return np.concatenate([np.arange(arrays.start[e], arrays.start[e + 1]) for e in episodes])


def reward_range(arrays: Arrays, episodes: NDArray[np.int64]) -> tuple[float, float]:
    """Least and greatest reward in the given episodes."""
    reward = arrays.reward[rows_of(arrays, episodes)]
    return float(reward.min()), float(reward.max())


def fit_statistics(model: WorldModel, arrays: Arrays, episodes: NDArray[np.int64], rng: np.random.Generator) -> None:
    """Sets the model's mean images and vector scales from the given episodes."""
    rows = rows_of(arrays, episodes)
    rows = np.sort(rng.choice(rows, min(SAMPLED, len(rows)), replace=False))
    for leaf, codec in model.codec.dense_codecs():
        values = arrays.observation[leaf.name]
        parts = np.array_split(rows, max(1, len(rows) // 256))
        if isinstance(codec, FieldCodec):
            codec.measure(torch.from_numpy(values[part]) for part in parts)
        if isinstance(codec, ImageCodec):
            sums = [codec.shown(torch.from_numpy(values[part])).sum(0, dtype=torch.float64) for part in parts]
            codec.mean.copy_(torch.stack(sums).sum(0) / len(rows) / 255)
        else:
            seen = symlog(torch.from_numpy(np.ascontiguousarray(values[rows])).float())
            codec.mean.copy_(seen.mean(0))
            codec.std.copy_(seen.std(0).clamp_min(1e-3) if len(rows) > 1 else torch.ones_like(codec.std))
