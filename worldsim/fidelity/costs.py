"""What one step of a world costs: operations, bytes, memory. Counted by running it on tensors that hold no data.

Axes: B worlds.
"""

import copy
import weakref
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from worldsim.models.world_model import State, WorldModel
from worldsim.spaces import leaves

BATCHES = (1, 64, 1024)


class Cost(NamedTuple):
    """Of one step of B worlds, decoded, with reward, termination and ensemble."""

    flops: int  # of matrix products and convolutions; a multiplication and an addition are two
    bytes: int  # read and written at least: every parameter once, states, noise and actions in, states and frames out
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
    """Of a model on `batch` states; nothing is computed."""
    action = _nothing_done(action_space, batch)
    model = copy.deepcopy(model).to("meta")
    state = model.initial(batch)
    noise = torch.zeros(batch, model.noise_size, device="meta")
    flops, peak = FlopCounterMode(display=False), _Peak()
    with flops:
        outputs = _step(model, state, action, noise)
    moved = [*model.parameters(), *state.values(), *action.values(), noise, *tree_leaves(outputs)]
    size = sum(tensor.numel() * tensor.element_size() for tensor in moved)
    del outputs, moved
    with peak:
        peak.meet([*model.parameters(), *model.buffers(), *state.values(), *action.values(), noise])
        _step(model, state, action, noise)
    return Cost(flops.get_total_flops(), size, peak.peak)


def _nothing_done(space: gym.Space[Any], batch: int) -> dict[str, Tensor]:
    """Actions (B, ...) that hold no data."""
    return {
        leaf.name: torch.from_numpy(np.zeros((batch, *leaf.shape), leaf.dtype)).to("meta") for leaf in leaves(space)
    }


def _step(model: WorldModel, state: State, action: Mapping[str, Tensor], noise: Tensor) -> tuple[Any, ...]:
    following, predicted = model.step(state, action, noise)
    heads = model.reward.mean(predicted.features), model.termination(predicted.features)
    return following, predicted, model.decode(following), heads
