"""The cost of one step of a world: FLOPs, bytes moved, memory. Counted on meta tensors, so nothing is computed.

Axes: B worlds.
"""

import copy
import weakref
from collections.abc import Iterable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from worldsim.models.world_model import WorldModel
from worldsim.simulator.noise import NoiseSource
from worldsim.simulator.world import WorldState, tick
from worldsim.spaces import leaves

BATCHES = (1, 64, 1024)


class Cost(NamedTuple):
    """Cost of one step of B worlds, with decoded observation, reward, termination and ensemble."""

    flops: int  # of matrix products and convolutions; a multiplication and an addition are two
    bytes: int  # least bytes moved: every parameter once, states and actions read, all outputs written
    memory: int  # peak bytes of live tensors, parameters and states included


class _Peak(TorchDispatchMode):
    """Counts the bytes of all live tensors, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now, self.peak = 0, 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.count(tree_leaves(out))
        return out

    def count(self, values: Iterable[Any]) -> None:
        """Adds the storages of the tensors among the values, each once, until they are freed."""
        for storage in [value.untyped_storage() for value in values if isinstance(value, Tensor)]:
            key, size = storage._cdata, storage.nbytes()
            if key not in self.known:
                self.known.add(key)
                self.now += size
                weakref.finalize(storage, self._freed, key, size)
        self.peak = max(self.peak, self.now)

    def _freed(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


@torch.no_grad()
def cost(model: WorldModel, action_space: gym.Space[Any], batch: int) -> Cost:
    """The cost of the `tick` by which a World steps, for `batch` states."""
    model, device = copy.deepcopy(model).to("meta"), torch.device("meta")
    nothing, whole = torch.zeros(batch, device=device), torch.zeros(batch, dtype=torch.long, device=device)
    state = WorldState(model.initial(batch), whole, whole.clone(), nothing, nothing.clone(), {})
    chance = NoiseSource.of(model.noise_size + 2, device)
    action = {
        leaf.name: torch.from_numpy(np.zeros((batch, *leaf.shape), leaf.dtype)).to(device)
        for leaf in leaves(action_space)
    }
    # One run for each counter: in one run, each would count the tensors of the other.
    flops, peak = FlopCounterMode(display=False), _Peak()
    with flops:
        outputs = tick(model, state, action, "frame", chance, (1.0, 1.0))
    moved = [*model.parameters(), *tree_leaves((state, action, outputs))]
    size = sum(tensor.numel() * tensor.element_size() for tensor in moved)
    del outputs, moved
    with peak:
        peak.count([*model.parameters(), *model.buffers(), *tree_leaves((state, action, chance))])
        tick(model, state, action, "frame", chance, (1.0, 1.0))
    return Cost(flops.get_total_flops(), size, peak.peak)
