"""An update captured once as a CUDA graph and then replayed: thousands of small kernels cost one launch.

A loop over time steps, as `rssm` has it, is bound by kernel launches otherwise.
"""

import gc
from collections.abc import Callable
from typing import NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Generator

from worldsim.errors import ConfigError
from worldsim.models.world_model import Batch, Losses

WARMUP_UPDATES = 3  # run before one is captured: they allocate the optimizer's state, and whatever else is made once

Update = Callable[[Batch], Losses]


class CapturedGraph(NamedTuple):
    """An update that was captured and not run yet, and the tensors that it writes its losses to."""

    replay: Callable[[], None]
    losses: Losses


CaptureGraph = Callable[[Callable[[], Losses], Generator], CapturedGraph]  # arguments: an update, its random generator


def graph_capture(fabric: Fabric, asked: bool) -> CaptureGraph | None:
    """How updates are captured; None where they are not: on a CPU, or where several processes share an update."""
    return as_cuda_graph if asked and fabric.device.type == "cuda" and fabric.world_size == 1 else None


def as_cuda_graph(update: Callable[[], Losses], generator: Generator) -> CapturedGraph:
    """Captures the update. Raises ConfigError where it does what a graph cannot, such as waiting for the device."""
    gc.collect()  # a graph in a reference cycle must not be freed while another is captured
    # A stream of its own: graphs of one stream share a workspace, which is freed with the first of them.
    graph, own = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    graph.register_generator_state(generator)
    try:
        # thread_local: the thread that prefetches batches goes on pinning memory
        with torch.cuda.stream(own), torch.cuda.graph(graph, stream=own, capture_error_mode="thread_local"):
            losses = update()
    except RuntimeError as error:
        cause = error.__context__ or error  # ending a failed capture raises an error of its own
        if isinstance(cause, torch.OutOfMemoryError):
            raise cause from None
        reason = str(cause).partition("\n")[0]
        raise ConfigError(
            f"an update cannot be captured as a CUDA graph ({reason}); give trainer.cuda_graphs=false"
        ) from error
    return CapturedGraph(graph.replay, losses)


class Captured:
    """`update`, with the same results and side effects, but captured after its first WARMUP_UPDATES calls and replayed.

    Batches must all have the same shapes. The update may depend on tensors that stay where they are, on its batch and
    on its generator, and on nothing else: a Python number is captured with the value that it had.
    """

    def __init__(self, update: Update, generator: Generator, capture: CaptureGraph):
        self.update, self.generator, self.capture = update, generator, capture
        self.warmup_left = WARMUP_UPDATES
        self.captured: tuple[Batch, CapturedGraph] | None = None  # the batch that the graph reads, and the graph

    def __call__(self, batch: Batch) -> Losses:
        if self.warmup_left:
            self.warmup_left -= 1
            return self.update(batch)
        if self.captured is None:
            static = batch.each(torch.clone)
            self.captured = static, self.capture(lambda: self.update(static), self.generator)
        static, graph = self.captured
        for target, source in zip(static.tensors(), batch.tensors(), strict=True):
            target.copy_(source)
        graph.replay()
        return graph.losses.each(torch.clone)
