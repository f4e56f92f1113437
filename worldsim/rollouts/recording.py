"""Episodes from recording to disk: leaf by leaf in memory, then a file each, then one Minari data set.

Minari's HDF5 file is damaged if the process is killed while writing it. So each finished episode is first saved as a
small file of its own, atomically, and the Minari data set is written from these files at the end.
"""

import errno
import re
import shutil
import zipfile
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np
from gymnasium.envs.registration import EnvSpec
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage
from numpy.typing import NDArray

from worldsim import spaces
from worldsim.rollouts.arrays import FlatEpisode, flat_episode
from worldsim.spaces import Space

HDF5_MARGIN = 64 << 20  # bytes of disk that must stay free while an HDF5 file is written
LARGE = 1 << 9  # bytes from which on a row is compressed: of smaller ones, HDF5's overhead is larger
CHUNK = 1 << 16  # bytes of rows that are compressed together: 4 frames of 64x64, twice what deflate looks back
Raw = dict[str, NDArray[Any]]  # one episode as the env gave it: "observation/<leaf>" (T+1, ...), the rest (T, ...)


class EpisodeBuilder:
    """One episode while it runs. Values are kept as the environment returns them, not as flat arrays."""

    def __init__(self, observation_space: Space, action_space: Space, seed: int, policy: str, observation: Any):
        self._observed = spaces.leaves(observation_space)
        self._acted = spaces.leaves(action_space)
        self._columns: dict[str, list[Any]] = {"reward": [], "terminated": [], "truncated": []}
        self._facts = {"seed": np.asarray(seed), "policy": np.asarray(policy)}
        self._append("observation", self._observed, observation)

    def __len__(self) -> int:
        return len(self._columns["reward"])

    def add(self, action: Any, observation: Any, reward: float, terminated: bool, truncated: bool) -> None:
        self._append("action", self._acted, action)
        self._append("observation", self._observed, observation)
        self._columns["reward"].append(float(reward))
        self._columns["terminated"].append(bool(terminated))
        self._columns["truncated"].append(bool(truncated))

    def _append(self, group: str, leaves: tuple[spaces.Leaf, ...], value: Any) -> None:
        for leaf in leaves:
            part = value
            for step in leaf.path:
                part = part[step]
            is_text = isinstance(leaf.space, gym.spaces.Text)
            if is_text:
                leaf.flatten(part)  # raises now for a text outside its space, not after recording everything
            self._columns.setdefault(f"{group}/{leaf.name}", []).append(
                part if is_text else np.array(part, leaf.space.dtype)  # a copy: vector envs reuse their buffers
            )

    def raw(self) -> Raw:
        return {name: np.stack([np.asarray(v) for v in column]) for name, column in self._columns.items()} | self._facts


class EpisodeFiles:
    """The episodes recorded so far, by index: one file each in `folder`. Damaged files are deleted."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.lengths: dict[int, int] = {}
        self.steps = 0  # of all episodes
        self._ends: list[int] = []  # cumulative steps of the episodes up to the first index that is missing
        for path in folder.glob("*.npz"):
            try:
                self._add(int(path.stem), len(_read(path)["reward"]))
            except (OSError, ValueError, KeyError, zipfile.BadZipFile):
                path.unlink()

    def save(self, index: int, raw: Raw) -> None:
        """Write episode `index`, whole or not at all. Raises OSError where it cannot be written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder / f"{index:06d}.tmp"
        try:
            with aside.open("wb") as file:
                np.savez(file, **raw)  # type: ignore[arg-type]
            aside.replace(self.path(index))
        finally:
            aside.unlink(missing_ok=True)
        self._add(index, len(raw["reward"]))

    def _add(self, index: int, steps: int) -> None:
        self.lengths[index] = steps
        self.steps += steps
        while (following := len(self._ends)) in self.lengths:
            self._ends.append(self.lengths[following] + (self._ends[-1] if following else 0))

    def path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.npz"

    def count_holding(self, steps: int) -> int | None:
        """How many of the first episodes hold `steps` steps in all; None while they do not, or one is missing."""
        count = bisect_left(self._ends, steps) + 1
        return count if count <= len(self._ends) else None

    def read(self, count: int) -> Iterator[Raw]:
        return (_read(self.path(index)) for index in range(count))


def _read(path: Path) -> Raw:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def write_minari(
    folder: Path,
    episodes: Iterator[Raw],
    lengths: Sequence[int],
    observation_space: Space,
    action_space: Space,
    spec: EnvSpec | None,
    about: str,
) -> None:
    """A new Minari data set in `folder` (replaced if it exists), frames compressed without loss.

    lengths: steps of each episode. Raises OSError before the disk is full, because HDF5 then crashes the process.
    """
    folder = folder.absolute()  # Minari does not find files below a relative one
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    storage = MinariStorage.new(folder, observation_space, action_space, _plain(spec), jpeg_encoding=False)
    name = re.sub(r"-v\d+$", "", spec.id if spec else "env").rpartition("/")[2]
    storage.update_metadata(
        {
            "dataset_id": f"worldsim/{re.sub(r'[^-a-zA-Z0-9_]+', '-', name)}-v0",
            "minari_version": minari.__version__,
            "algorithm_name": about,
        }
    )
    policies: list[dict[str, str]] = []  # added at the end: episode metadata is the only place that Minari has for it
    large = _large_rows(observation_space, action_space)

    def buffers() -> Iterator[EpisodeBuffer]:
        for number, raw in enumerate(episodes):
            need = HDF5_MARGIN + 4 * sum(array.nbytes for array in raw.values())  # HDF5 pads what it stores
            if shutil.disk_usage(folder).free < need:
                raise OSError(errno.ENOSPC, "No space left on device")
            policies.append({"policy": str(raw["policy"])})
            yield EpisodeBuffer(
                id=number,
                seed=int(raw["seed"]) if "seed" in raw else None,
                observations=_nest(observation_space, raw, "observation", ()),
                actions=_nest(action_space, raw, "action", ()),
                rewards=raw["reward"],
                terminations=raw["terminated"],
                truncations=raw["truncated"],
                infos={},
            )

    # Minari does not compress, and its chunks do not fit frames, so files are half as large again. But it appends to
    # arrays that exist: so large ones are created here, empty, compressed and with chunks that fit.
    with h5py.File(folder / "main_data.hdf5", "a", track_order=True) as file:
        for number, steps in enumerate(lengths):
            for place, leaf in large.items():
                _compressed(file, f"episode_{number}/{place}", leaf.space, steps + 1)
    storage.update_episodes(buffers())
    storage.update_episode_metadata(policies)


def _large_rows(observation_space: Space, action_space: Space) -> dict[str, spaces.Leaf]:
    """Leaves whose rows are worth compressing, by their path in Minari's group of an episode."""
    groups = {"observations": observation_space, "actions": action_space}
    return {
        "/".join([group, *(f"_index_{step}" if isinstance(step, int) else step for step in leaf.path)]): leaf
        for group, space in groups.items()
        for leaf in spaces.leaves(space)
        if leaf.space.shape and _row_bytes(leaf.space) >= LARGE
    }


def _row_bytes(space: Space) -> int:
    return int(np.prod(space.shape or ())) * np.dtype(space.dtype).itemsize


def _compressed(file: h5py.File, place: str, space: Space, rows: int) -> None:
    """Creates an empty array to append to, whose chunks hold several rows, because successive rows are similar."""
    rows_per_chunk = max(1, min(rows, CHUNK // _row_bytes(space)))
    shape = space.shape or ()
    file.create_dataset(
        place,
        (0, *shape),
        space.dtype,
        maxshape=(None, *shape),
        chunks=(rows_per_chunk, *shape),
        compression="gzip",
        compression_opts=1,  # 4 takes twice the time for 5 % less
    )


def flat(observation_space: Space, action_space: Space, raw: Raw) -> FlatEpisode:
    """The flat rows of a raw episode."""
    observations = _nest(observation_space, raw, "observation", ())
    actions = _nest(action_space, raw, "action", ())
    parts = (raw["reward"], raw["terminated"], raw["truncated"])
    return flat_episode(observation_space, action_space, observations, actions, *parts)


def _nest(space: Space, raw: Raw, group: str, path: tuple[str | int, ...]) -> Any:
    """The batched value that Minari stores: dicts and tuples of arrays, texts as lists."""
    if isinstance(space, gym.spaces.Dict):
        return {name: _nest(inner, raw, group, (*path, name)) for name, inner in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(_nest(inner, raw, group, (*path, i)) for i, inner in enumerate(space.spaces))
    array = raw[f"{group}/{spaces.Leaf(path, space).name}"]
    return array.tolist() if isinstance(space, gym.spaces.Text) else array


def _plain(spec: EnvSpec | None) -> EnvSpec | None:
    """The spec if it can be written as JSON, so that Minari can make the environment from it; else None."""
    try:
        return EnvSpec.from_json(spec.to_json()) if spec is not None else None
    except Exception:
        return None
