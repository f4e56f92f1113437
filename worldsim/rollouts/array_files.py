"""Files of plain arrays that other programs wrote: .npz, .npy and HDF5, opened group by group and read by rows.

A group is one set of arrays: one .npz file, the .npy files of one folder, an HDF5 file, or a group in it that holds
actions of its own (as robomimic and Minari store each episode). Its arrays are named by their path: "obs/image".
"""

import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from worldsim.errors import DatasetError

HDF5 = {".hdf5", ".h5", ".hdf"}
ENDINGS = HDF5 | {".npz", ".npy"}
NUMBERS = "biuf"  # kinds of NumPy types that are numbers
ACTIONS = ("actions", "action", "acts", "act")


@dataclass
class ArrayColumn:
    """One array of a group, read on demand: HDF5 and .npy by rows, .npz as a whole."""

    where: str  # "demo.hdf5: 'obs/image'", for messages
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    _read: Callable[[slice], NDArray[Any]]

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    def rows(self, begin: int, end: int) -> NDArray[Any]:
        """(end - begin, *shape[1:]). Raises DatasetError where the file is damaged."""
        try:
            return self._read(slice(begin, end))
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DatasetError(f"{self.where} cannot be read ({_reason(error)}); it is damaged or cut short") from error

    def error(self, wrong: str, fix: str) -> DatasetError:
        return DatasetError(f"{self.where} {wrong}; {fix}")


@dataclass(frozen=True)
class ArrayGroup:
    """Arrays that belong together, by name."""

    where: str  # the file, and the group in it
    columns: Mapping[str, ArrayColumn]


def array_files(place: Path) -> list[Path]:
    """The files, and folders of .npy files, that `place` is or holds: in natural order, so that 10 comes after 9.

    Raises DatasetError where there are none.
    """
    if not place.exists():
        raise DatasetError(f"there is no file or folder arrays={place}")
    if place.is_file():
        if place.suffix.lower() not in ENDINGS:
            raise DatasetError(f"arrays={place} is none of {', '.join(sorted(ENDINGS))}; save it as one of them")
        return [place]
    if any(place.glob("*.npy")):
        return [place]
    found = [file for file in place.rglob("*") if file.suffix.lower() in ENDINGS - {".npy"}]
    if not found:
        raise DatasetError(f"arrays={place} holds no file that ends in {', '.join(sorted(ENDINGS))}")
    return sorted(found, key=lambda file: _natural(str(file.relative_to(place))))


@contextmanager
def opened(file: Path) -> Iterator[list[ArrayGroup]]:
    """The groups of one file, or of a folder of .npy files, for as long as it is open."""
    with ExitStack() as stack:
        try:
            groups = _groups(file, stack)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DatasetError(f"{file} cannot be read ({_reason(error)}); it is damaged or no such file") from error
        yield groups


def _groups(file: Path, stack: ExitStack) -> list[ArrayGroup]:
    if file.is_dir() or file.suffix == ".npy":
        files = sorted(file.glob("*.npy")) if file.is_dir() else [file]
        return [ArrayGroup(str(file), {each.stem: _npy(each) for each in files})]
    if file.suffix.lower() == ".npz":
        archive = stack.enter_context(np.load(file, allow_pickle=False))
        return [ArrayGroup(str(file), {name: _npz(file, archive, name) for name in archive.files})]
    return list(_hdf5_groups(file, stack.enter_context(h5py.File(file, "r"))))


def _npy(file: Path) -> ArrayColumn:
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    return ArrayColumn(f"{file}", array.shape, array.dtype, lambda rows: np.array(array[rows]))


def _npz(file: Path, archive: Any, name: str) -> ArrayColumn:
    """Shape and type are read from the header; the array is unpacked once, when rows are first read."""
    with archive.zip.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    kept: list[NDArray[Any]] = []

    def rows(which: slice) -> NDArray[Any]:
        if not kept:
            kept.append(archive[name])
        return kept[0][which]

    return ArrayColumn(f"{file}: '{name}'", shape, dtype, rows)


def _hdf5_groups(file: Path, root: h5py.File) -> Iterator[ArrayGroup]:
    """The file as a whole where it holds actions; else each group that does, in natural order."""
    found: list[h5py.Group] = []

    def look(group: h5py.Group) -> None:
        if any(key in group and isinstance(group[key], h5py.Dataset | h5py.Group) for key in ACTIONS):
            found.append(group)
            return
        for name in sorted(group, key=_natural):
            if isinstance(inner := group.get(name), h5py.Group):
                look(inner)

    look(root)
    for group in found or [root]:
        where = f"{file}" + (f", group {group.name}" if group.name != "/" else "")
        yield ArrayGroup(where, dict(_datasets(where, group)))


def _datasets(where: str, group: h5py.Group, prefix: str = "") -> Iterator[tuple[str, ArrayColumn]]:
    for name, inner in group.items():
        path = f"{prefix}{name}"
        if isinstance(inner, h5py.Group):
            yield from _datasets(where, inner, f"{path}/")
        elif isinstance(inner, h5py.Dataset):
            yield path, ArrayColumn(f"{where}: '{path}'", inner.shape or (), inner.dtype, inner.__getitem__)


def _natural(name: str) -> list[tuple[int, int | str]]:
    """A sort key that takes digits as numbers: demo_2 before demo_10."""
    return [(0, int(piece)) if piece.isdigit() else (1, piece) for piece in re.split(r"(\d+)", name)]


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
