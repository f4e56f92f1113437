"""Files that are either wholly there or as they were before."""

import errno
import os
import uuid
from pathlib import Path


def lies_in(path: Path, place: Path) -> bool:
    """Whether `path` is a file or folder, `place`, or would be inside it; links are followed."""
    return path.resolve().is_relative_to(place.resolve())


def write_atomically(path: Path, data: str | bytes) -> None:
    """Writes a file so that a reader, or a crash at any moment, finds the old or the new one whole. Text: UTF-8."""
    if not path.name:  # "." and "/"
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
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
