"""Batches for training and windows for evaluation, from flat arrays; the train / held-out split of episodes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from worldsim.errors import DatasetError
from worldsim.rollouts.arrays import EpisodeArrays
from worldsim.rollouts.segments import Segments
from worldsim.spaces import Bools, Ints

RowBatch = dict[str, Any]  # rows (B, T, ...) of every array: see `gather`


class RankShard(NamedTuple):
    """The part of a batch of one process of `ranks`: rows from both ends, so that it has row B-1-i for each row i.

    Models corrupt codes of row i with those of row B-1-i (`Tensor.flip` of the batch), so both must be in one process.
    """

    rank: int = 0
    ranks: int = 1

    def of(self, size: int) -> Ints:
        """Row numbers of this process in a batch of `size` rows, a multiple of 2 * ranks where there are several."""
        if self.ranks == 1:
            return np.arange(size)
        assert size % (2 * self.ranks) == 0, (size, self.ranks)
        half = size // (2 * self.ranks)
        low = np.arange(self.rank * half, (self.rank + 1) * half)
        return np.concatenate([low, size - 1 - low[::-1]])


WHOLE = RankShard()


def split(arrays: EpisodeArrays, holdout: float = 0.1, seed: int = 0) -> tuple[Ints, Ints]:
    """The train / held-out split: two disjoint, sorted arrays of episode indices, the same for the same seed.

    `holdout` in [0, 1) is the share of episodes held out; above 0 it is at least one episode, and never all of them.
    Raises DatasetError where there are too few episodes to hold one out.
    """
    assert 0 <= holdout < 1, holdout
    count = arrays.episodes
    if holdout > 0 and count < 2:
        raise DatasetError(f"{count} episode is too few to hold one out; collect more steps, or set holdout to 0")
    count_held_out = int(np.clip(round(holdout * count), 1, count - 1)) if holdout > 0 else 0
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[count_held_out:]), np.sort(order[:count_held_out])


def gather(arrays: EpisodeArrays, rows: Ints, mask: Bools | None = None) -> RowBatch:
    """The given rows of every array, (B, T, ...), contiguous and of the stored types.

    `first` marks an episode's first row: the action and the reward there are zeros, and a recurrent state must be reset
    before it. `mask` is False where a row is padding.
    """
    return {
        "observation": {name: array.take(rows, axis=0) for name, array in arrays.observation.items()},
        "action": {name: array.take(rows, axis=0) for name, array in arrays.action.items()},
        "reward": arrays.reward.take(rows),
        "terminated": arrays.terminated.take(rows),
        "first": arrays.first.take(rows),
        "mask": np.ones(rows.shape, np.bool_) if mask is None else mask,
    }


class SequenceSampler:
    """Samples sequences from `episodes` that start at a uniformly drawn row, or as drawn by `segments`.

    A sequence that reaches an episode's end continues with the first row of another, drawn uniformly, and `first` is
    True there. So no row is padding, `mask` is True throughout, and the ends of episodes are drawn as often as other
    rows. Where several processes share a batch, each draws the row numbers of the whole batch and reads only its own.
    """

    def __init__(
        self,
        arrays: EpisodeArrays,
        episodes: Ints,
        batch: int,
        length: int,
        rng: np.random.Generator,
        segments: Segments | None = None,
        shard: RankShard = WHOLE,
    ):
        """`batch` = B sequences of `length` = T rows; `rng` is owned by the sampler from here on."""
        if len(episodes) == 0:
            raise DatasetError("no episodes to sample from; collect more steps")
        self.arrays, self.batch, self.length, self.rng = arrays, batch, length, rng
        self.segments, self.shard = segments, shard
        self._begin, self._end = arrays.start[episodes], arrays.start[np.asarray(episodes) + 1]
        self._total = np.cumsum(self._end - self._begin)  # rows in all episodes up to and including each

    def sample(self) -> RowBatch:
        """The next batch: observation and action {leaf: (B, T, ...)}, reward, terminated, first and mask (B, T).

        With segments also `weight` (B,), and `segment`: those of the whole batch. Where processes share a batch, B is
        this one's part, and `valid_steps` is how many rows of the whole batch follow another, over the number of
        processes.
        """
        mine, more = self.shard.of(self.batch), dict[str, Any]()
        if self.segments is None:
            drawn = self.rng.integers(self._total[-1], size=self.batch)
            episode = np.searchsorted(self._total, drawn, side="right")
            start = np.asarray(self._end[episode] - (self._total[episode] - drawn), np.int64)
        else:
            starts = self.segments.draw(self.batch, self.rng)
            start = starts.row
            more |= {"weight": starts.weight[mine], "segment": starts.segment}
            episode = np.searchsorted(self._begin, start, side="right") - 1
        # Every process draws all row numbers from the same generator state: the batch does not depend on their number.
        rows = self._rows(start, episode)
        if self.shard.ranks > 1:
            more["valid_steps"] = np.asarray((~self.arrays.first[rows]).sum() / self.shard.ranks, np.float32)
        found = gather(self.arrays, rows[mine]) | more
        self.arrays.release()  # else the resident memory grows to the size of the data set
        return found

    def _rows(self, start: Ints, episode: Ints) -> Ints:
        row, end = start.copy(), self._end[episode]
        rows = np.empty((self.batch, self.length), np.int64)
        for t in range(self.length):
            over = np.flatnonzero(row == end)
            if len(over):
                episode = self.rng.integers(len(self._begin), size=len(over))
                row[over], end[over] = self._begin[episode], self._end[episode]
            rows[:, t] = row
            row += 1
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Generator and segments as plain JSON: a sampler that loads it continues with the same batches."""
        segments = {} if self.segments is None else {"segments": self.segments.state_dict()}
        return {"rng": dict(self.rng.bit_generator.state), **segments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rng.bit_generator.state = state["rng"]
        if self.segments is not None:
            self.segments.load_state_dict(state["segments"])


def windows(arrays: EpisodeArrays, episodes: Ints, length: int, count: int, rng: np.random.Generator) -> RowBatch:
    """`count` windows of `length` rows, each inside ONE episode, uniform over all possible windows.

    An episode shorter than `length` has one window: its last row is repeated, and `mask` is False there.
    """
    if len(episodes) == 0:
        raise DatasetError("no episodes to take windows from; collect more steps or hold more out")
    total = int(places(arrays, episodes, length).sum())
    return window_at(arrays, episodes, length, rng.integers(total, size=count))


def places(arrays: EpisodeArrays, episodes: Ints, length: int) -> Ints:
    """How many different windows of `length` rows each episode has, at least one."""
    return np.asarray(np.maximum(1, np.diff(arrays.start)[episodes] - length + 1))


def window_at(arrays: EpisodeArrays, episodes: Ints, length: int, chosen: Ints) -> RowBatch:
    """The windows with the given numbers; those of all episodes are numbered consecutively."""
    begin, end = arrays.start[episodes], arrays.start[np.asarray(episodes) + 1]
    total = np.cumsum(places(arrays, episodes, length))
    episode = np.searchsorted(total, chosen, side="right")
    first_row = begin[episode] + chosen - np.concatenate([[0], total])[episode]
    rows = first_row[:, None] + np.arange(length)
    last = end[episode][:, None] - 1
    return gather(arrays, np.minimum(rows, last), rows <= last)
