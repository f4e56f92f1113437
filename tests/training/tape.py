"""What a CUDA graph does, on a CPU: operations are recorded with the places of their tensors and are replayed there.

As with a graph, nothing of what Python does between the operations is replayed, and nothing happens while recording.
What makes the host wait for the device, or copies from its ordinary memory, cannot be recorded.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from worldsim.models.world_model import Losses
from worldsim.training.captured import CapturedGraph

WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "repeat_interleave", "bincount"}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}  # by a mask they count it first


class Tape(TorchDispatchMode):
    """`with tape: ...` records, `tape.undo()` puts everything back, `tape.replay()` does it again."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Callable[..., Any], Any, Any, list[Tensor]]] = []
        self.made: set[int] = set()  # storages that were made while recording
        self.before: dict[int, tuple[Tensor, Tensor]] = {}  # those that were there and were written to

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        if (
            name in WAITS
            or (name == "lift_fresh" and args[0].dim())
            or (name in INDEXED and any(map(_is_mask, args[1])))
        ):
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in tree_flatten(value)[0]:
                    self._keep(tensor)
        result = func(*args, **kwargs)
        given = {_place(value) for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)}
        results = [value for value in tree_flatten(result)[0] if isinstance(value, Tensor)]
        fresh = [value for value in results if _place(value) not in given]
        self.made.update(map(_place, fresh))
        self.operations.append((func, args, kwargs, results))
        return result

    def _keep(self, tensor: Tensor) -> None:
        place = _place(tensor)
        if place not in self.made and place not in self.before:
            whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
            self.before[place] = whole, whole.clone()

    def undo(self) -> None:
        for now, before in self.before.values():
            now.copy_(before)

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, places in self.operations:
                results = [value for value in tree_flatten(func(*args, **kwargs))[0] if isinstance(value, Tensor)]
                for place, value in zip(places, results, strict=True):
                    if _place(place) != _place(value):
                        place.copy_(value)


def on_tape(update: Callable[[], Losses], generator: Generator) -> CapturedGraph:
    """In place of `captured.as_cuda_graph`."""
    tape, drawn = Tape(), generator.get_state()
    with tape:
        losses = update()
    tape.undo()
    generator.set_state(drawn)
    return CapturedGraph(tape.replay, losses)


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
