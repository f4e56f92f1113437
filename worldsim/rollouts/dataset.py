"""A data set of rollouts: a folder with a Minari data set, its provenance, and the flat arrays built from it."""

import errno
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from worldsim import spaces
from worldsim.errors import DatasetError, MissingExtraError, WorldsimError
from worldsim.rollouts import offline
from worldsim.rollouts.arrays import EpisodeArrays, FlatEpisode, write_arrays
from worldsim.rollouts.offline import flat_episodes
from worldsim.rollouts.progress import Bar
from worldsim.rollouts.provenance import read_json, write_json

__all__ = ["EpisodeArrays", "Rollouts"]

MINARI = "minari-data"  # the Minari data set, readable by Minari itself
PROVENANCE = "provenance.json"  # written last: a folder with it is complete
ARRAYS = "arrays"  # a cache of flat arrays; may be deleted at any time
VERIFIED = "verified.json"  # beside them: size and time of each file when the hash was last verified


class Rollouts:
    """Recorded episodes of one environment, opened by path: what `collect` wrote, or any Minari data set.

    A Minari data set may also be named by its id, if it has been downloaded; see `worldsim.rollouts.offline`.

    Raises DatasetError, in one line, where `path` holds no data set, an unfinished one, or one that cannot be read,
    SpaceMismatchError where its spaces cannot be used, MissingExtraError where Minari needs a package for its format.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        place = offline.find_data_set(self.path)
        self.folder = self.path if place is None else place
        self._own = self.path if place is None else place / offline.CACHE
        self._stored = self.path / MINARI if place is None else offline.episodes_folder(place)
        if place is not None:
            with _readable(self.path):
                offline.write_provenance(place)
        self.provenance = _read_provenance(self._own)
        with _readable(self.path):
            self.observation_space = spaces.space_from_json(self.provenance["observation_space"])
            self.action_space = spaces.space_from_json(self.provenance["action_space"])
            self.content_hash: str = self.provenance["content_hash"]
            self.metadata: dict[str, Any] = self.provenance["metadata"]
            self.lossy: list[str] = self.provenance.get("lossy", [])
            self.storage = offline.storage_in(self._stored)
            last = self.storage.total_episodes - 1
            if last < 0:
                raise DatasetError(f"{self.path} has no episodes; collect it again")
            next(iter(self.storage.get_episode_metadata([last])))  # fails for a file that was cut short

    @property
    def episodes(self) -> int:
        return int(self.storage.total_episodes)

    @property
    def steps(self) -> int:
        return int(self.storage.total_steps)

    @cached_property
    def lengths(self) -> list[int]:
        """Steps of each episode."""
        with _readable(self.path):
            rows = self.storage.get_episode_metadata(range(self.episodes))
            return [int(row["total_steps"]) for row in rows]

    @cached_property
    def _arrays(self) -> EpisodeArrays:
        folder = self._own / ARRAYS / self.content_hash[:16]
        return self._load(folder) or self._build(folder)

    def arrays(self) -> EpisodeArrays:
        """The flat arrays, from the cache if it is intact, else built from the Minari data.

        Their hash is verified only after a file has changed, not on every opening: hashing a million frames takes ten
        seconds, or minutes if they must be read from the disk.

        Raises DatasetError where the Minari data is damaged or is not what the provenance says it is.
        """
        return self._arrays

    def _load(self, folder: Path) -> EpisodeArrays | None:
        try:
            arrays = EpisodeArrays.load(folder, self.observation_space, self.action_space)
        except (OSError, ValueError, EOFError):
            return None
        if _verified(folder) != (files := _files(folder)):
            if arrays.content_hash != self.content_hash:
                return None
            with suppress(OSError):  # a read-only folder: they are verified each time
                write_json(folder / VERIFIED, files)
        return arrays

    def _build(self, folder: Path) -> EpisodeArrays:
        building = folder.parent / f".building-{uuid.uuid4().hex}"
        try:
            with _readable(self.path):
                _remove_abandoned(folder.parent)
                building.mkdir(parents=True)
                found = write_arrays(building, self._flat_episodes(), self.lengths)
                write_json(building / VERIFIED, _files(building))
            if found != self.content_hash:
                raise DatasetError(
                    f"{self._stored} holds other data than {PROVENANCE} says (hash {found[:12]}, not "
                    f"{self.content_hash[:12]}); restore it or collect it again"
                )
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # another process has just put the same arrays there
                building.replace(folder)
            with _readable(self.path):
                return EpisodeArrays.load(folder, self.observation_space, self.action_space)
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def _flat_episodes(self) -> Iterator[FlatEpisode]:
        with Bar("read", self.episodes) as bar:
            yield from bar.each(flat_episodes(self.path, self.storage, self.observation_space, self.action_space))


def _files(folder: Path) -> dict[str, list[int]]:
    """Size and modification time of each array's file, to notice changes without reading it."""
    found = {path.name: path.stat() for path in sorted(folder.glob("*.npy"))}
    return {name: [about.st_size, about.st_mtime_ns] for name, about in found.items()}


def _verified(folder: Path) -> dict[str, Any] | None:
    try:
        return read_json(folder / VERIFIED)
    except (OSError, DatasetError):
        return None


def _read_provenance(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise DatasetError(f"there is no data set at {path}; make one: worldsim collect out={path}")
    if not (path / PROVENANCE).is_file():
        raise DatasetError(f"{path} holds no finished data set (no {PROVENANCE}); run the same worldsim collect again")
    return read_json(path / PROVENANCE)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Errors of libraries on damaged files become a DatasetError of one line."""
    try:
        yield
    except WorldsimError:
        raise
    except ImportError as error:  # Minari keeps some formats in packages of their own
        raise MissingExtraError(f"{path}: {' '.join(str(error).split())}") from error
    except (OSError, KeyError, ValueError, AssertionError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise DatasetError(f"the disk of {path} is full; free some space and run the same command again") from error
        if isinstance(error, PermissionError):
            raise DatasetError(f"{error.filename or path} cannot be written or read; change its permissions") from error
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DatasetError(f"{path} is damaged or cut short ({reason}); restore it or collect it again") from error


def _remove_abandoned(folder: Path) -> None:
    """Removes builds that were killed: those in which nothing has changed for a minute."""
    for building in folder.glob(".building-*"):
        newest = max((p.stat().st_mtime for p in [building, *building.iterdir()]), default=0.0)
        if time.time() - newest > 60:
            shutil.rmtree(building, ignore_errors=True)
