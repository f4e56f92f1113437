"""Atomic writes, locks on folders and files, and sealed JSON, which contains a hash of itself."""

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
TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{32}")  # name of a temporary file while it is written
LOCK_TAKEN = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}  # errors for a lock that another process holds, by system
SEAL = "sha256"  # key of a sealed JSON object for the hash of all other keys

_held: set[int] = set()  # descriptors of the locks that this process holds


def temporary_path(path: Path) -> Path:
    """A temporary path to write a file to before it replaces `path`; leftovers are removed by `alone_in`."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def lies_in(path: Path, place: Path) -> bool:
    """Whether `path` is a file or folder, `place`, or would be inside it; links are followed."""
    return path.resolve().is_relative_to(place.resolve())


def write_atomically(path: Path, data: str | bytes) -> None:
    """Writes a file atomically: after a crash at any moment, it is the complete old or new one. Text is UTF-8."""
    _require_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = temporary_path(path)
    try:
        with aside.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        error.filename = str(path)  # instead of the temporary name
        raise
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path, *below: str) -> Iterator[None]:
    """Locks `folder`, which is created if necessary, against other worldsim processes.

    Temporary files of writers that were killed, in it and in the folders `below`, are removed first. Raises ConfigError
    where another process holds the lock.
    """
    with _locked(folder / LOCK, folder):
        for place in (folder, *(folder / name for name in below)):
            _remove_leftovers(place)
        yield


@contextmanager
def alone_at(file: Path) -> Iterator[None]:
    """Locks `file` against other worldsim processes, as `alone_in` locks a folder."""
    _require_name(file)
    with _locked(file.with_name(f".{file.name}{LOCK}"), file):
        _remove_leftovers(file.parent, file.name)
        yield


def starts_with(file: Path, heading: str) -> bool:
    """Whether a file exists and begins with `heading`."""
    try:
        with file.open("rb") as opened:
            return opened.read(len(heading.encode())) == heading.encode()
    except OSError:
        return False


def refuse_foreign(files: Iterable[Path], writer: str) -> None:
    """Raises ConfigError for the first of the files that exists.

    For files that would be overwritten where nothing shows that worldsim wrote them.
    """
    for file in files:
        if file.exists() or file.is_symlink():
            raise ConfigError(
                f"{file} exists and was not written by worldsim {writer}; move it away, or choose another out="
            )


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """The plain JSON object with a hash of its content added, to detect later changes."""
    return {**data, SEAL: _hash_of(data)}


def is_broken(data: Mapping[str, Any]) -> bool:
    """Whether a JSON object has a hash that does not match. Files of older versions have none."""
    return SEAL in data and data[SEAL] != _hash_of(data)


def read_sealed(file: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ValueError where its content was changed, OSError where there is no file."""
    data = json.loads(file.read_text())
    if not isinstance(data, dict) or is_broken(data):
        raise ValueError("its content was changed")
    return data


def hash_of(file: Path) -> str:
    """SHA-256 of a file as hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def hashes_of(places: Iterable[Path], root: Path) -> dict[str, str]:
    """SHA-256 of each file that exists among `places` or below them, by its path relative to `root`."""
    files = {file for place in places for file in (place, *place.rglob("*")) if file.is_file()}
    return {file.relative_to(root).as_posix(): hash_of(file) for file in sorted(files)}


def _hash_of(data: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps({key: value for key, value in data.items() if key != SEAL}))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _require_name(file: Path) -> None:
    if not file.name:  # "." and "/"
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))


@contextmanager
def _locked(lock: Path, place: Path) -> Iterator[None]:
    """Holds a lock of the kernel, which ends with the process: after a kill nothing stays locked."""
    made = [folder for folder in (lock.parent, *lock.parent.parents) if not folder.exists()]
    held = _acquire(lock, place)
    _held.add(held)
    try:
        yield
    finally:
        with suppress(OSError):  # Windows cannot remove an open file, which does no harm
            lock.unlink()
        _held.discard(held)
        os.close(held)
        with suppress(OSError):  # not empty
            for folder in made:
                folder.rmdir()


def _acquire(lock: Path, place: Path) -> int:
    """Opens and locks the lock file; returns its descriptor."""
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the last holder has just removed the empty folder
            continue
        try:
            _lock(descriptor)
            if os.fstat(descriptor).st_nlink:  # else the last holder has removed the file: try again
                return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno not in LOCK_TAKEN:
                raise
            raise ConfigError(
                f"{place} is in use by another worldsim; wait for it to end, or choose another out="
            ) from error
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Locks an open file without waiting. Without support of the file system, as on some network drives, no lock."""
    if sys.platform == "win32":
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise


def _close_locks() -> None:
    """Closes inherited locks in a forked process, which would keep them locked after its parent is killed."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_locks)


def _remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Removes temporary files that killed writers left in the folder, of this name or any."""
    for path in folder.iterdir() if folder.is_dir() else ():
        found = TEMPORARY.fullmatch(path.name)
        if found and name in (None, found["name"]) and path.is_file():
            path.unlink(missing_ok=True)
