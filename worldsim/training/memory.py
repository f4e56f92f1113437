"""Memory: settings of the allocator, and errors of one line where it does not suffice, if possible before training."""

import ctypes
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from worldsim.errors import ConfigError
from worldsim.models.leaves.base import torch_type
from worldsim.models.world_model import Batch, WorldModel
from worldsim.spaces import leaves
from worldsim.training.config import TrainerConfig
from worldsim.training.phases import Phase

WIDTH = "model.width, or leave out the part of the observation that has the most variables"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # glibc's malloc.h


def keep_freed_memory() -> bool:
    """Makes glibc keep freed tensors for the next step instead of handing their pages back to the kernel.

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
def explain_out_of_memory(what: str) -> Iterator[None]:
    """Out of memory inside becomes a ConfigError. what: the settings that took the memory, and the fix."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        in_message = any(words in str(error) for words in ("can't allocate memory", "out of memory"))
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not in_message:
            raise
        raise ConfigError(f"out of memory with {what}") from error


Spaces = tuple[gym.Space[Any], gym.Space[Any]]  # of observations and of actions


class MemoryNeed(NamedTuple):
    """A lower bound on the bytes that one process of a training run holds; temporary tensors are not counted."""

    weights: int  # with their gradients and AdamW's two moments
    updates: dict[str, int]  # stage -> activations kept for its backward pass


def memory_need(model: WorldModel, spaces: Spaces, plan: Sequence[Phase], trainer: TrainerConfig) -> MemoryNeed:
    """The memory that training this model takes: measured on one sequence of each phase, times their number."""
    ranks = trainer.devices * trainer.num_nodes
    size = 2 if trainer.precision == "bf16-mixed" else 1  # measured in fp32: rounded weights do not grow with the batch
    own = {tensor.untyped_storage().data_ptr(): 0 for tensor in (*model.parameters(), *model.buffers())}
    updates: dict[str, int] = {}
    for phase in plan:
        kept = dict(own)

        def keep(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            storage = tensor.untyped_storage()
            kept.setdefault(storage.data_ptr(), storage.nbytes())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            losses = model.losses(_sequence(spaces, phase.length), torch.Generator().manual_seed(0), phase.stage)
        del losses  # only now: addresses that are freed would be used, and counted, twice
        updates[phase.stage.name] = sum(kept.values()) * phase.batch // (ranks * size)
    return MemoryNeed(4 * sum(parameter.nbytes for parameter in model.parameters()), updates)


def check_memory(need: MemoryNeed, plan: Sequence[Phase], free: int | None) -> None:
    """Raises ConfigError, with the key to lower, where a run needs more than the `free` bytes (None: unknown)."""
    phase = max(plan, key=lambda phase: need.updates[phase.stage.name])
    update = need.updates[phase.stage.name]
    if free is None or need.weights + update <= free:
        return
    rows = f"trainer.codec_frames={phase.batch}" if phase.stage.frames else f"trainer.batch={phase.batch}"
    parts = f"{need.weights / 1e9:.1f} GB for weights and optimizer and {update / 1e9:.1f} GB for an update"
    knob = rows if update > need.weights else WIDTH
    raise ConfigError(f"training takes at least {parts}, and {free / 1e9:.1f} GB are free; lower {knob}")


class MemoryLimit(TorchDispatchMode):
    """A context in which new tensors may take at most `free` bytes together (None: no limit), for building a model.

    Raises ConfigError before the first tensor that would take more. Where the system overcommits memory, the process
    would be killed instead, without a message.
    """

    def __init__(self, free: int | None):
        super().__init__()  # type: ignore[no-untyped-call]
        self.free, self.taken = free, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        sizes = args[0] if args and isinstance(args[0], list | tuple) else ()
        if self.free is not None and sizes and all(isinstance(size, int) for size in sizes):
            self.taken += 4 * math.prod(sizes)
            if self.taken > self.free:
                taken = f"{self.taken / 1e9:.1f} GB, and {self.free / 1e9:.1f} GB are free"
                raise ConfigError(f"the weights of this model take more than {taken}; lower {WIDTH}")
        return func(*args, **(kwargs or {}))


def _sequence(spaces: Spaces, length: int) -> Batch:
    """One sequence of zeros."""

    def zeros(space: gym.Space[Any]) -> dict[str, Tensor]:
        return {leaf.name: torch.zeros(1, length, *leaf.shape, dtype=torch_type(leaf)) for leaf in leaves(space)}

    none = torch.zeros(1, length, dtype=torch.bool)
    return Batch(zeros(spaces[0]), zeros(spaces[1]), torch.zeros(1, length), none, none)


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device; None where that is unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return None
