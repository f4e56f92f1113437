"""Flat arrays of a data set: one memory-mapped .npy file a leaf, written once, verified after every change.

An episode of T steps takes T+1 rows. Row t holds observation o_t and the action, reward, terminated and truncated that
led to o_t, so the first row of an episode has zeros there. N = all rows, E = episodes.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Self, cast
from urllib.parse import quote

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from worldsim import spaces

CHUNK = 64 << 20  # bytes that are read at once to verify an array
FlatEpisode = dict[str, NDArray[Any]]  # "observation/<leaf>", "action/<leaf>", "reward", ...: (T+1, ...) rows


class ConcatenatedRows:
    """Rows of several arrays of one type and shape, one after another, without copying them into one array."""

    def __init__(self, parts: Sequence[NDArray[Any]]):
        self.parts = tuple(parts)
        self.dtype = parts[0].dtype
        self._start = np.cumsum([0, *map(len, parts)])
        self.shape: tuple[int, ...] = (int(self._start[-1]), *parts[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self.take(rows)

    def take(self, rows: NDArray[np.int64], axis: int = 0) -> NDArray[Any]:
        """The rows with numbers (...), as (..., *shape[1:])."""
        assert axis == 0, axis
        flat = np.asarray(rows).ravel()
        taken = np.empty((len(flat), *self.shape[1:]), self.dtype)
        owner = np.searchsorted(self._start, flat, side="right") - 1
        for number in np.unique(owner):
            here = owner == number
            taken[here] = self.parts[number].take(flat[here] - self._start[number], axis=0)
        return taken.reshape(*np.shape(rows), *self.shape[1:])


def concatenated(several: Sequence["EpisodeArrays"]) -> "EpisodeArrays":
    """Several data sets of the same leaves as one, episodes in order. Observations and actions are not copied."""
    if len(several) == 1:
        return several[0]

    def leaves_of(group: str) -> dict[str, NDArray[Any]]:
        names = getattr(several[0], group)
        return {
            name: cast(NDArray[Any], ConcatenatedRows([getattr(a, group)[name] for a in several])) for name in names
        }

    offsets = np.cumsum([0, *(a.rows for a in several)])
    starts = [a.start[:-1] + offset for a, offset in zip(several, offsets, strict=False)]
    flags = {k: np.concatenate([getattr(a, k) for a in several]) for k in ("reward", "terminated", "truncated")}
    start = np.concatenate([*starts, offsets[-1:]])
    return EpisodeArrays(leaves_of("observation"), leaves_of("action"), start=start, **flags)


@dataclass(frozen=True)
class EpisodeArrays:
    """All episodes of a data set, one after another, by leaf. The arrays are read-only maps of files."""

    observation: dict[str, NDArray[Any]]  # leaf name -> (N, *leaf.shape)
    action: dict[str, NDArray[Any]]  # leaf name -> (N, *leaf.shape), zeros in an episode's first row
    reward: NDArray[np.float32]  # (N,)
    terminated: NDArray[np.bool_]  # (N,)
    truncated: NDArray[np.bool_]  # (N,)
    start: NDArray[np.int64]  # (E+1,): episode e has the rows start[e]:start[e+1]

    @property
    def rows(self) -> int:
        return len(self.reward)

    @property
    def episodes(self) -> int:
        return len(self.start) - 1

    @cached_property
    def first(self) -> NDArray[np.bool_]:
        """(N,) True in the first row of every episode."""
        first = np.zeros(self.rows, np.bool_)
        first[self.start[:-1]] = True
        return first

    @cached_property
    def content_hash(self) -> str:
        """sha256 over every array with its name, type and shape."""
        named = self._named()
        return combine({name: self._digest(array) for name, array in named.items()}, named)

    def _digest(self, array: NDArray[Any]) -> str:
        digest = hashlib.sha256()
        rows = max(1, CHUNK // max(1, array[:1].nbytes))
        for at in range(0, len(array), rows):
            digest.update(np.ascontiguousarray(array[at : at + rows]).data)
            self.release()
        return digest.hexdigest()

    def release(self) -> None:
        """Frees the pages read from memory-mapped files; the kernel may still cache them."""
        for array in self._named().values():
            for part in array.parts if isinstance(array, ConcatenatedRows) else (array,):
                mapping: Any = getattr(part.base, "_mmap", None) if isinstance(part.base, np.memmap) else None
                if mapping is not None and hasattr(mapping, "madvise"):  # not on Windows
                    mapping.madvise(mmap.MADV_DONTNEED)

    def _named(self) -> dict[str, NDArray[Any]]:
        named = {f"observation/{name}": array for name, array in self.observation.items()}
        named |= {f"action/{name}": array for name, array in self.action.items()}
        return named | {k: getattr(self, k) for k in ("reward", "terminated", "truncated", "start")}

    @classmethod
    def load(cls, folder: Path, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> Self:
        """Map the files that `write_arrays` left in `folder`. Raises OSError or ValueError if one is missing or cut."""

        def read(name: str) -> NDArray[Any]:
            return np.asarray(np.load(folder / file_name(name), mmap_mode="r"))

        return cls(
            observation={leaf.name: read(f"observation/{leaf.name}") for leaf in spaces.leaves(observation_space)},
            action={leaf.name: read(f"action/{leaf.name}") for leaf in spaces.leaves(action_space)},
            **{name: read(name) for name in ("reward", "terminated", "truncated", "start")},
        )


def flat_episode(
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    observations: Any,
    actions: Any,
    rewards: Any,
    terminations: Any,
    truncations: Any,
) -> FlatEpisode:
    """The rows of one episode from its batched values: T+1 observations, T of everything else."""

    def after_zeros(array: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([np.zeros_like(array[:1]), array])

    flat = {f"observation/{k}": v for k, v in spaces.flatten_batch(observation_space, observations).items()}
    flat |= {f"action/{k}": after_zeros(v) for k, v in spaces.flatten_batch(action_space, actions).items()}
    flat["reward"] = after_zeros(np.asarray(rewards, np.float32))
    flat["terminated"] = after_zeros(np.asarray(terminations, np.bool_))
    flat["truncated"] = after_zeros(np.asarray(truncations, np.bool_))
    assert len({len(array) for array in flat.values()}) == 1, {name: array.shape for name, array in flat.items()}
    return flat


def repeat_last(rows: NDArray[Any]) -> NDArray[Any]:
    """T+1 rows from T: where the last observation was not recorded, the one before is repeated in its place.

    Dropping the last step instead would lose its reward and the termination, which must be learned.
    """
    return np.concatenate([rows, rows[-1:]])


class ArrayWriter:
    """Writes episodes as .npy files, one episode in memory at a time; without a folder, it only calculates the hash.

    Files are written sequentially and not through a memory map, where a full disk would be a bus error.
    """

    def __init__(self, folder: Path | None, lengths: Sequence[int]):
        """lengths: steps of each episode that will be appended."""
        self._folder, self._columns, self._files = folder, dict[str, _Column](), ExitStack()
        self._start = np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64) + 1)]).astype(np.int64)

    def append(self, episode: FlatEpisode) -> None:
        for name, array in episode.items():
            if name not in self._columns:
                self._add(name, (int(self._start[-1]), *array.shape[1:]), array.dtype)
            self._columns[name].append(array)

    def finish(self) -> str:
        """The content hash, once all episodes are appended."""
        self._add("start", self._start.shape, self._start.dtype)
        self._columns["start"].append(self._start)
        return combine({name: column.digest.hexdigest() for name, column in self._columns.items()}, self._columns)

    def _add(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        place = self._folder / file_name(name) if self._folder else Path(os.devnull)
        self._columns[name] = _Column(self._files.enter_context(place.open("wb")), shape, dtype)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()


def write_arrays(folder: Path | None, episodes: Iterable[FlatEpisode], lengths: Sequence[int]) -> str:
    """All episodes by an `ArrayWriter`; returns the content hash."""
    with ArrayWriter(folder, lengths) as writer:
        for episode in episodes:
            writer.append(episode)
        return writer.finish()


class _Column:
    """One .npy file that grows by rows, and the digest of what was written."""

    def __init__(self, file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]):
        self.file, self.shape, self.dtype = file, shape, dtype
        self.digest = hashlib.sha256()
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, header)

    def append(self, array: NDArray[Any]) -> None:
        assert array.shape[1:] == self.shape[1:] and array.dtype == self.dtype, (array.shape, array.dtype, self.shape)
        data = np.ascontiguousarray(array)
        self.file.write(data.data)
        self.digest.update(data.data)


def combine(digests: Mapping[str, str], arrays: Mapping[str, Any]) -> str:
    """One sha256 from the digests of the named arrays, with their types and shapes."""
    table = [[name, digests[name], arrays[name].dtype.str, list(arrays[name].shape)] for name in sorted(digests)]
    return hashlib.sha256(json.dumps(table).encode()).hexdigest()


def file_name(name: str) -> str:
    """The file of an array: its name with what file systems do not take escaped as in a URL."""
    return quote(name, safe="") + ".npy"
