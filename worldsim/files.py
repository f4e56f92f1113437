"""Files that are either wholly there or as they were before, places that one process at a time writes to, and seals."""

import errno
import hashlib
import json
import os
import re
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from worldsim.errors import ConfigError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = ".worldsim.lock"
ASIDE = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{32}")  # what a file is called while it is being written
TAKEN = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}  # of a lock that somebody else has, by the system
SEAL = "sha256"  # the key of a JSON object under which the hash of all its other keys is

_held: set[int] = set()  # descriptors of the locks that this process has


def aside_of(path: Path) -> Path:
    """Where a file is written before it takes the place of `path`; what a kill leaves there, `alone_in` removes."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def lies_in(path: Path, place: Path) -> bool:
    """Whether `path` is a file or folder, `place`, or would be inside it; links are followed."""
    return path.resolve().is_relative_to(place.resolve())


def write_atomically(path: Path, data: str | bytes) -> None:
    """Writes a file so that a reader, or a crash at any moment, finds the old or the new one whole. Text: UTF-8."""
    _require_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(path)
    try:
        with aside.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        error.filename = str(path)  # the name that a reader of the error knows
        raise
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path, *below: str) -> Iterator[None]:
    """Keeps other processes from writing to `folder`, which is made where there is none.

    What writers that were killed left half written there, and in the folders `below` it, is removed first. Raises
    ConfigError, in a line, where another process is at it.
    """
    with _alone(folder / LOCK, folder):
        for place in (folder, *(folder / name for name in below)):
            _sweep(place)
        yield


@contextmanager
def alone_at(file: Path) -> Iterator[None]:
    """Keeps other processes from writing `file`, as `alone_in` does for a folder."""
    _require_name(file)
    with _alone(file.with_name(f".{file.name}{LOCK}"), file):
        _sweep(file.parent, file.name)
        yield


def starts_with(file: Path, heading: str) -> bool:
    """Whether a file is there and begins so."""
    try:
        with file.open("rb") as opened:
            return opened.read(len(heading.encode())) == heading.encode()
    except OSError:
        return False


def refuse_foreign(files: Iterable[Path], writer: str) -> None:
    """Raises ConfigError, naming it, for the first of the files that is there.

    For files that would be overwritten in a place where nothing says that worldsim wrote them.
    """
    for file in files:
        if file.exists() or file.is_symlink():
            raise ConfigError(
                f"{file} is there and was not written by worldsim {writer}; move it away, or choose another out="
            )


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """The plain JSON object with a hash of itself, by which a change of it is noticed."""
    return {**data, SEAL: _hash_of(data)}


def is_broken(data: Mapping[str, Any]) -> bool:
    """Whether a JSON object has a seal and was changed since. One without a seal was written by an older worldsim."""
    return SEAL in data and data[SEAL] != _hash_of(data)


def read_sealed(file: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ValueError where it is not what was written, OSError where there is none."""
    data = json.loads(file.read_text())
    if not isinstance(data, dict) or is_broken(data):
        raise ValueError("it is not what was written")
    return data


def hash_of(file: Path) -> str:
    """SHA-256 of a file as hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def hashes_of(places: Iterable[Path], root: Path) -> dict[str, str]:
    """SHA-256 of each file that is there, be it one of `places` or below one, by its path below `root`."""
    files = {file for place in places for file in (place, *place.rglob("*")) if file.is_file()}
    return {file.relative_to(root).as_posix(): hash_of(file) for file in sorted(files)}


def _hash_of(data: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps({key: value for key, value in data.items() if key != SEAL}))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _require_name(file: Path) -> None:
    if not file.name:  # "." and "/"
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))


@contextmanager
def _alone(lock: Path, place: Path) -> Iterator[None]:
    """The kernel holds the lock for as long as the process lives: one that was killed is in nobody's way."""
    made = [folder for folder in (lock.parent, *lock.parent.parents) if not folder.exists()]
    held = _acquired(lock, place)
    _held.add(held)
    try:
        yield
    finally:
        with suppress(OSError):  # Windows lets nobody remove what is open, and a later one finds it free
            lock.unlink()
        _held.discard(held)
        os.close(held)
        with suppress(OSError):  # there is something in it by now
            for folder in made:
                folder.rmdir()


def _acquired(lock: Path, place: Path) -> int:
    """The descriptor of the lock file, locked."""
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the one who had it has just taken the empty folder away
            continue
        try:
            _take(descriptor)
            if os.fstat(descriptor).st_nlink:  # else the one who had it has removed it since: it guards nothing
                return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno not in TAKEN:
                raise
            raise ConfigError(
                f"{place} is in use: another worldsim is writing there; wait for it to end, or choose another out="
            ) from error
        os.close(descriptor)


def _take(descriptor: int) -> None:
    """Locks an open file, without waiting for it. Network drives that know no locks are written to without one."""
    if sys.platform == "win32":
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise


def _let_go() -> None:
    """A forked process shares the locks of its parent, and would keep them where the parent is killed."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _sweep(folder: Path, name: str | None = None) -> None:
    """Removes what was being written in the folder, under this name or any, when its writer was killed."""
    for path in folder.iterdir() if folder.is_dir() else ():
        found = ASIDE.fullmatch(path.name)
        if found and name in (None, found["name"]) and path.is_file():
            path.unlink(missing_ok=True)
