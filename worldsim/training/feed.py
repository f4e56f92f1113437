"""The batches of a run, one after another: sampled one ahead in a thread, and copied to the device without waiting.

What is drawn does not depend on when the thread runs: losses that sequences are drawn by reach the sampler at a fixed
distance, those of update t before the batch of update t+2 is drawn.
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
from worldsim.training.phases import Phase, at


class Priorities(NamedTuple):
    """How badly sequences were predicted, which they are drawn by from then on."""

    segment: NDArray[np.int64]  # (B,) that they began in
    loss: Tensor  # (B,), on its way to the CPU
    wait: Callable[[], None]  # until it is there


class _Ahead(NamedTuple):
    """A batch that waits, and the sampler as it was before."""

    state: dict[str, Any]
    batch: Batch
    segment: NDArray[np.int64] | None  # of the whole batch's sequences, where they are drawn by loss


class Feed:
    """`with feed: batch = feed.take(step); ...; feed.update_priorities(losses)`, for one step after another.

    samplers: one for each phase of `plan`; they share one generator.
    """

    def __init__(self, plan: list[Phase], samplers: list[SequenceSampler], device: torch.device):
        self.plan, self.samplers, self.device = plan, samplers, device
        self.total = sum(phase.steps for phase in plan)
        self._pool = ThreadPoolExecutor(1, "feed")
        self._ahead: Future[_Ahead] | None = None
        self._priorities: Priorities | None = None
        self._segment: NDArray[np.int64] | None = None

    def take(self, step: int) -> Batch:
        """The batch of update `step`; the next one is begun."""
        priorities, self._priorities = self._priorities, None
        if self._ahead is None:
            self._ahead = self._pool.submit(self._sample, step, None)
        now = self._ahead.result()
        self._ahead = self._pool.submit(self._sample, step + 1, priorities) if step + 1 < self.total else None
        self._segment = now.segment
        return now.batch.each(lambda value: value.to(self.device, non_blocking=True))

    @property
    def prioritized(self) -> bool:
        """Whether the batch that was taken last was drawn by loss."""
        return self._segment is not None

    def update_priorities(self, loss: Tensor) -> None:
        """Takes how badly each sequence (B,) of the whole batch that was taken last was predicted."""
        assert self._segment is not None and len(loss) == len(self._segment), loss.shape
        there = loss.to("cpu", non_blocking=True)
        self._priorities = Priorities(self._segment, there, _arrival(loss))

    def _sample(self, step: int, priorities: Priorities | None) -> _Ahead:
        sampler = self.samplers[at(step, self.plan)[0]]
        if priorities is not None and sampler.segments is not None:
            priorities.wait()
            sampler.segments.learn(priorities.segment, priorities.loss.double().numpy())
        state = sampler.state_dict()
        found = sampler.sample()
        batch = Batch.from_numpy(found)
        by_loss = sampler.segments is not None and sampler.segments.alpha > 0
        pinned = batch.each(Tensor.pin_memory) if self.device.type == "cuda" else batch
        return _Ahead(state, pinned, found["segment"] if by_loss else None)

    def state_dict(self) -> dict[str, Any]:
        """As plain JSON, what the batches that come next depend on. Empty where none come."""
        if self._ahead is None:
            return {}
        priorities = None
        if self._priorities is not None:
            self._priorities.wait()
            priorities = [self._priorities.segment.tolist(), self._priorities.loss.double().tolist()]
        return {"sampler": self._ahead.result().state, "priorities": priorities}

    def load_state_dict(self, state: Mapping[str, Any], step: int) -> None:
        """Goes on before update `step` where a feed with this state was."""
        if not state:
            return
        self.samplers[at(step, self.plan)[0]].load_state_dict(state["sampler"])
        if state["priorities"] is not None:
            segment, loss = state["priorities"]
            self._priorities = Priorities(np.array(segment), torch.tensor(loss, dtype=torch.float64), _nothing)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _arrival(loss: Tensor) -> Callable[[], None]:
    if not loss.is_cuda:
        return _nothing
    event = torch.cuda.Event()
    event.record()
    return event.synchronize


def _nothing() -> None:
    """What is on the CPU is there."""
