"""An update recorded once as a CUDA graph, and then replayed: thousands of small operations cost one launch.

A loop over time, as `rssm` has it, is bound by launches otherwise; a replay launches nothing but the graph.
"""

import gc
from collections.abc import Callable
from typing import NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Generator

from worldsim.errors import ConfigError
from worldsim.models.world_model import Batch, Losses

WARM = 3  # updates before one is recorded: they make the optimizer's state, and whatever else is made once

Update = Callable[[Batch], Losses]


class CapturedGraph(NamedTuple):
    """An update that was recorded and not run, and the place that it writes its losses to."""

    replay: Callable[[], None]
    losses: Losses


CaptureGraph = Callable[[Callable[[], Losses], Generator], CapturedGraph]  # of an update that draws from the generator


def recorder(fabric: Fabric, asked: bool) -> CaptureGraph | None:
    """How updates are recorded; None where they are not: on a CPU, or where several processes share one."""
    return as_cuda_graph if asked and fabric.device.type == "cuda" and fabric.world_size == 1 else None


def as_cuda_graph(update: Callable[[], Losses], generator: Generator) -> CapturedGraph:
    """Raises ConfigError where the update does what no graph can hold, such as waiting for the device."""
    gc.collect()  # a graph that hangs in a cycle must not go while another is recorded
    # a stream of its own: graphs of one stream share a workspace, which goes with the first of them
    graph, own = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    graph.register_generator_state(generator)
    try:
        # the feed's thread goes on pinning memory
        with torch.cuda.stream(own), torch.cuda.graph(graph, stream=own, capture_error_mode="thread_local"):
            losses = update()
    except RuntimeError as error:
        cause = error.__context__ or error  # to end a recording that went wrong is an error of its own
        if isinstance(cause, torch.OutOfMemoryError):
            raise cause from None
        reason = str(cause).partition("\n")[0]
        raise ConfigError(f"no CUDA graph of an update ({reason}); give trainer.cuda_graphs=false") from error
    return CapturedGraph(graph.replay, losses)


class Captured:
    """`update`, which returns the same and leaves the same behind, but is recorded after its first WARM calls.

    Batches must all have the same shapes. The update may depend on tensors that stay where they are, on its batch and
    on its generator, and on nothing else: a number that Python knows is recorded with the value that it had.
    """

    def __init__(self, update: Update, generator: Generator, record: CaptureGraph):
        self.update, self.generator, self.record = update, generator, record
        self.warm = WARM
        self.kept: tuple[Batch, CapturedGraph] | None = None  # the recorded update, and the batch that it reads

    def __call__(self, batch: Batch) -> Losses:
        if self.warm:
            self.warm -= 1
            return self.update(batch)
        if self.kept is None:
            place = batch.each(torch.clone)
            self.kept = place, self.record(lambda: self.update(place), self.generator)
        place, recorded = self.kept
        for here, now in zip(place.tensors(), batch.tensors(), strict=True):
            here.copy_(now)
        recorded.replay()
        return recorded.losses.each(torch.clone)
