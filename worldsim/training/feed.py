"""The batches of a run: each is sampled in a thread while the one before is trained on, and copied without blocking.

What is sampled does not depend on the timing of the thread: with prioritised sampling, the losses of update t always
reach the sampler before the batch of update t+2 is drawn, and never before that of t+1.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.models.world_model import Batch
from worldsim.rollouts.sampling import SequenceSampler
from worldsim.training.phases import Phase, phase_at


class Priorities(NamedTuple):
    """The losses of sequences, by which prioritised sampling draws from then on."""

    segment: NDArray[np.int64]  # (B,) index of the segment in which each sequence began
    loss: Tensor  # (B,), being copied to the CPU
    wait: Callable[[], None]  # returns once the copy is complete


class _Prefetched(NamedTuple):
    """The next batch, and the state of the sampler before it was drawn."""

    state: dict[str, Any]
    batch: Batch
    segment: NDArray[np.int64] | None  # of each sequence of the whole batch, with prioritised sampling


class Feed:
    """`with feed: batch = feed.take(step); ...; feed.update_priorities(losses)`, for one step after another.

    samplers: one for each phase of `plan`; they share one generator.
    """

    def __init__(self, plan: list[Phase], samplers: list[SequenceSampler], device: torch.device):
        self.plan, self.samplers, self.device = plan, samplers, device
        self.total = sum(phase.steps for phase in plan)
        self._pool = ThreadPoolExecutor(1, "feed")
        self._ahead: Future[_Prefetched] | None = None
        self._priorities: Priorities | None = None
        self._segment: NDArray[np.int64] | None = None

    def take(self, step: int) -> Batch:
        """The batch of update `step`, on the device; starts to sample the next one."""
        priorities, self._priorities = self._priorities, None
        if self._ahead is None:
            self._ahead = self._pool.submit(self._sample, step, None)
        now = self._ahead.result()
        self._ahead = self._pool.submit(self._sample, step + 1, priorities) if step + 1 < self.total else None
        self._segment = now.segment
        return now.batch.each(lambda value: value.to(self.device, non_blocking=True))

    @property
    def prioritized(self) -> bool:
        """Whether the batch that was taken last was drawn with prioritised sampling."""
        return self._segment is not None

    def update_priorities(self, loss: Tensor) -> None:
        """Sets the losses by which sequences are drawn from the batch after the next one on.

        loss: (B,), of each sequence of the whole batch that was taken last.
        """
        assert self._segment is not None and len(loss) == len(self._segment), loss.shape
        copy = loss.to("cpu", non_blocking=True)
        self._priorities = Priorities(self._segment, copy, _when_copied(loss))

    def _sample(self, step: int, priorities: Priorities | None) -> _Prefetched:
        sampler = self.samplers[phase_at(step, self.plan)[0]]
        if priorities is not None and sampler.segments is not None:
            priorities.wait()
            sampler.segments.update_losses(priorities.segment, priorities.loss.double().numpy())
        state = sampler.state_dict()
        found = sampler.sample()
        batch = Batch.from_numpy(found)
        by_loss = sampler.segments is not None and sampler.segments.alpha > 0
        pinned = batch.each(Tensor.pin_memory) if self.device.type == "cuda" else batch
        return _Prefetched(state, pinned, found["segment"] if by_loss else None)

    def state_dict(self) -> dict[str, Any]:
        """As plain JSON, what the following batches depend on; empty after the last one."""
        if self._ahead is None:
            return {}
        priorities = None
        if self._priorities is not None:
            self._priorities.wait()
            priorities = [self._priorities.segment.tolist(), self._priorities.loss.double().tolist()]
        return {"sampler": self._ahead.result().state, "priorities": priorities}

    def load_state_dict(self, state: Mapping[str, Any], step: int) -> None:
        """Continues at update `step` as the feed did whose state this is."""
        if not state:
            return
        self.samplers[phase_at(step, self.plan)[0]].load_state_dict(state["sampler"])
        if state["priorities"] is not None:
            segment, loss = state["priorities"]
            self._priorities = Priorities(np.array(segment), torch.tensor(loss, dtype=torch.float64), _nothing)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _when_copied(loss: Tensor) -> Callable[[], None]:
    """A function that returns once the copy of `loss` that was just begun is complete."""
    if not loss.is_cuda:
        return _nothing
    event = torch.cuda.Event()
    event.record()
    return event.synchronize


def _nothing() -> None:
    """A copy from CPU to CPU is complete at once."""
