"""Faults in a row over many environments at once. Which of them are struck is found with arrays."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from worldsim.faults.chance import Dice
from worldsim.faults.exchange import Record
from worldsim.faults.fault import Fault
from worldsim.faults.many.calls import Calls, call_space
from worldsim.faults.many.log import History, Log
from worldsim.faults.many.payloads import Payloads, Rows
from worldsim.faults.many.replies import Replies
from worldsim.faults.many.stage import Shared, Stage
from worldsim.faults.pipeline import placed
from worldsim.faults.struck import ForwardMany
from worldsim.spaces import Leaf


class BatchPipeline:
    """Carries the calls of N environments through faults; environment i meets what it would meet in a `Pipeline`.

    Args:
        faults: outermost first, each with the seed of its plan.
        count: N.
        leaves: of one environment's payload.
        names: of all tools there are.
        action_space: of one environment.
        missing: leaf name -> what stands for "unknown" there, as plain JSON.

    Raises ConfigError for tools or targets that match nothing.
    """

    def __init__(
        self,
        faults: Sequence[tuple[Fault, int]],
        count: int,
        leaves: tuple[Leaf, ...],
        names: Sequence[str],
        action_space: gym.Space[Any],
        missing: Mapping[str, Any],
    ) -> None:
        self.count, self.names = count, names
        self._call_space, self._call_leaves = call_space(names, action_space)
        self.numbers = np.zeros(count, np.int64)  # of the next call of each environment's episode
        self.shared = Shared(count)
        self._history = History(count)
        places = placed(faults, leaves, names, Counter())
        self.stages = [Stage(place, self.shared, names, dict(missing)) for place in places]

    @property
    def idle(self) -> bool:
        """Whether no fault can ever do anything."""
        return not self.stages

    @property
    def log(self) -> Log:
        """What was done to the present call of each environment."""
        return self.shared.log

    @property
    def records(self) -> list[list[Record]]:
        """What was done to each environment in its episode."""
        return self._history.records()

    def start(self, rows: Rows, episodes: Sequence[tuple[int, int]], shown: Replies) -> None:
        """Begin episodes, as `Pipeline.start` does: of the environments `rows`, named by `episodes`."""
        self.numbers[rows] = 0
        self._history.start(rows)
        for stage in self.stages:
            stage.start(rows, [Dice(*stage.seeds, *episode) for episode in episodes], shown)

    def exchange(self, rows: Rows, tools: NDArray[np.int64], actions: Any, forward: ForwardMany) -> Replies:
        """Carry one call of each of the environments `rows` through the faults; `forward` takes them to where they go.

        tools: (N,) positions in `names`. actions: a batch of those of all environments.

        `forward` is asked once, of no environment where all calls are lost; and again by faults that pass a call on
        more than once.
        """
        self.shared.log = Log(self.count)
        if not self.idle:
            self._history.add(self.log)
        asked = Payloads(self.count, self._call_space, {"tool": tools, "arguments": {"action": actions}}, tidy=True)
        calls = Calls(rows, self.numbers.copy(), self.names, asked, self._call_leaves)
        self.numbers[rows] += 1
        return self._pass(0, forward, calls)

    def _pass(self, position: int, forward: ForwardMany, calls: Calls) -> Replies:
        for position in range(position, len(self.stages)):  # noqa: B020
            stage = self.stages[position]
            struck = stage.struck(calls)
            if len(struck):
                return stage.exchange(calls, struck, partial(self._pass, position + 1, forward))
        return forward(calls)

    def snapshot(self) -> Any:
        """Where the episodes stand, as a value for `restore`."""
        kept = self._history.copy(), self.log
        return self.numbers.copy(), self.shared.seconds.copy(), *kept, [stage.snapshot() for stage in self.stages]

    def restore(self, snapshot: Any) -> None:
        """Go back (or forth) to where a snapshot was taken."""
        numbers, seconds, history, log, stages = snapshot
        self.numbers, self.shared.seconds[:] = numbers.copy(), seconds
        self._history, self.shared.log = history.copy(), log
        for stage, kept in zip(self.stages, stages, strict=True):
            stage.restore(kept)
