"""What one step of a world costs: operations, bytes, memory. Counted by running it on tensors that hold no data.

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
from worldsim.simulator.noise import Chance
from worldsim.simulator.world import WorldState, tick
from worldsim.spaces import leaves

BATCHES = (1, 64, 1024)


class Cost(NamedTuple):
    """Of one step of B worlds, decoded, with reward, termination and ensemble."""

    flops: int  # of matrix products and convolutions; a multiplication and an addition are two
    bytes: int  # read and written at least: every parameter once, states and actions in, all that a tick gives out
    memory: int  # bytes alive at once at most, parameters and states among them


class _Peak(TorchDispatchMode):
    """Follows how many bytes live tensors hold, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now, self.peak = 0, 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.meet(tree_leaves(out))
        return out

    def meet(self, values: Iterable[Any]) -> None:
        """Counts the storages of the tensors among the values, each once."""
        for storage in [value.untyped_storage() for value in values if isinstance(value, Tensor)]:
            key, size = storage._cdata, storage.nbytes()
            if key not in self.known:
                self.known.add(key)
                self.now += size
                weakref.finalize(storage, self._leave, key, size)
        self.peak = max(self.peak, self.now)

    def _leave(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


@torch.no_grad()
def cost(model: WorldModel, action_space: gym.Space[Any], batch: int) -> Cost:
    """Of a model on `batch` states, under the very `tick` that a World steps by; nothing is computed."""
    model, device = copy.deepcopy(model).to("meta"), torch.device("meta")
    nothing, whole = torch.zeros(batch, device=device), torch.zeros(batch, dtype=torch.long, device=device)
    state = WorldState(model.initial(batch), whole, whole.clone(), nothing, nothing.clone(), {})
    chance = Chance.of(model.noise_size + 2, device)
    action = {
        leaf.name: torch.from_numpy(np.zeros((batch, *leaf.shape), leaf.dtype)).to(device)
        for leaf in leaves(action_space)
    }
    # Once for each meter: together each would count what the other makes.
    flops, peak = FlopCounterMode(display=False), _Peak()
    with flops:
        outputs = tick(model, state, action, "frame", chance, (1.0, 1.0))
    moved = [*model.parameters(), *tree_leaves((state, action, outputs))]
    size = sum(tensor.numel() * tensor.element_size() for tensor in moved)
    del outputs, moved
    with peak:
        peak.meet([*model.parameters(), *model.buffers(), *tree_leaves((state, action, chance))])
        tick(model, state, action, "frame", chance, (1.0, 1.0))
    return Cost(flops.get_total_flops(), size, peak.peak)
