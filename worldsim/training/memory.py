"""What a library may do about memory: the allocator's settings, and one line where there is not enough."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from worldsim.errors import ConfigError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # glibc's malloc.h


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed tensors for the next step instead of handing their pages back to the kernel.

    Every page that comes back must be zeroed again: with the defaults a training step on a CPU spends up to half its
    time there. True where the allocator took the settings (Linux with glibc); elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((M_MMAP_THRESHOLD, 32 << 20), (M_TRIM_THRESHOLD, 2**31 - 1), (M_ARENA_MAX, 1))
    return all(mallopt(*setting) == 1 for setting in settings)


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Memory that runs out inside becomes a ConfigError. what: the settings that took it, and what to do about them."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = any(words in str(error) for words in ("can't allocate memory", "out of memory"))
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not said:
            raise
        raise ConfigError(f"out of memory with {what}") from error
