"""One session of calls through faults, to a service that answers as a function says."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from worldsim.faults import Call, Fault, FaultRecord, Pipeline, Reply, VirtualClock
from worldsim.faults.pipeline import ForwardContext


class PipelineSession:
    """Calls to a service of plain JSON, one after the other, on a virtual clock. Faults come outermost first, seed 0.

    answer: what the service answers to a call. lasts_s: how long it takes to carry one out.
    """

    def __init__(
        self,
        *faults: Fault,
        answer: Callable[[Call], Any] = lambda call: {},
        tools: Sequence[str] | None = None,
        lasts_s: float = 0.0,
        session: str = "0",
    ) -> None:
        self.clock, self._answer, self._lasts_s = VirtualClock(), answer, lasts_s
        self.executed: list[Call] = []
        self.records: list[FaultRecord] = []  # of the last call
        self.pipeline = Pipeline([(fault, 0) for fault in faults], None, tools, self.clock)
        self.pipeline.start(np.array([0]), [(session,)])

    def call(self, tool: str, arguments: dict[str, Any] | None = None) -> Reply:
        """The reply to a call."""
        reply, self.records = self.pipeline.call(tool, arguments or {}, self._execute)
        return reply

    def _execute(self, call: Call, context: ForwardContext) -> Reply:
        self.executed.append(call)
        self.clock.sleep(self._lasts_s)
        return Reply(self._answer(call))
