"""Faults in a row, from the caller inward: the one core that carries every call.

A call in flight is a generator that yields two things to what drives it: calls to execute, and time to wait. So a
function call, a coroutine, and a step of a thousand environments are three short loops around the same generator, and
calls in flight side by side cannot get into each other's way: each has a generator of its own.
"""

import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults.arrays import Rows
from worldsim.faults.call_batch import FIRST_ROW, CallBatch, InFlight, call_space, single_row
from worldsim.faults.calls import LOST, Call, FaultRecord, Reply
from worldsim.faults.clock import Clock, VirtualClock, call_time
from worldsim.faults.definition import Fault
from worldsim.faults.effects.base import AffectedCalls, Effect, EffectGenerator, Wait
from worldsim.faults.fault_log import CallIdentity, EpisodeLog, FaultLog, LazyRecords, SharedCallIndices
from worldsim.faults.keys import new_key
from worldsim.faults.parameters import matches
from worldsim.faults.payloads import Payloads
from worldsim.faults.replies import Replies
from worldsim.faults.stage import FaultStage, Sessions, place_faults
from worldsim.spaces import Leaf


class ForwardContext(NamedTuple):
    """What the code that executes a call may know of it.

    deadline_s: when its caller gives up, on the clock; None: never. log: for the records of inner
    faults; None where no fault acts on the call.
    """

    deadline_s: float | None = None
    log: FaultLog | None = None


class OuterCall(NamedTuple):
    """Of a call that comes from the faults of an outer wrapper: which call it counts as.

    tool, number: decide what the call draws. shared: its indices in schedules that count several tools together.
    deadline_s: when its caller gives up, on the clock; None: never.
    """

    tool: str
    number: int
    shared: SharedCallIndices
    deadline_s: float | None = None


ExecuteCall = Callable[[Call, ForwardContext], Reply]
"""Executes a call that the last fault forwards."""

ExecuteCallAsync = Callable[[Call, ForwardContext], Awaitable[Reply]]


class Pipeline:
    """Carries the calls of N sessions through faults. The first fault is the outermost: it gets a call first.

    Session i meets what it would meet alone. What a fault does to call k of a tool depends on the seeds, the tool and
    k, not on other faults, nor on what else is called (except for kinds that tie tools together, and say so).

    Args:
        faults: outermost first, each with the seed of its plan. Those that can never do anything are left out.
        leaves: of the payload; None for plain JSON, whose leaves are found in each reply.
        tools: names of all there are; None: tools are added when they are first called.
        clock: of a single session. Without one each session has seconds of its own, which pass by waiting.
        count: N.
        action_space: of one environment, where calls come as batches of actions.
        missing: leaf name -> what stands for "unknown" there, as plain JSON.
        inner_kinds: how many faults of each kind inner wrappers have.
        one_request: whether all calls ask for the same, as steps do whose action is no named tool.
        text: the space of replies that are a text; leaves are then None, and count where it holds no JSON.
        is_representable: whether a session, by its number, has an action that makes a call, which a fault may have
            changed; None: it can make any.

    Raises ConfigError for tools or targets that match nothing.
    """

    def __init__(
        self,
        faults: Sequence[tuple[Fault, int]],
        leaves: tuple[Leaf, ...] | None,
        tools: Sequence[str] | None = None,
        clock: Clock | None = None,
        *,
        count: int = 1,
        action_space: gym.Space[Any] | None = None,
        missing: Mapping[str, Any] | None = None,
        inner_kinds: Mapping[str, int] | None = None,
        one_request: bool = False,
        text: spaces.Text | None = None,
        is_representable: Callable[[int, Call], bool] | None = None,
    ) -> None:
        self.count, self.kinds = count, Counter(inner_kinds)
        self.sessions = Sessions(count, tools or (), clock)
        placed_faults = place_faults(faults, leaves, tools, self.kinds)
        scope = {
            "missing": dict(missing or {}),
            "one_request": one_request,
            "text": text,
            "is_representable": is_representable,
        }
        self.stages = [FaultStage(placed, self.sessions, **scope) for placed in placed_faults]
        self.numbers: Rows = np.zeros((count, len(self.sessions.names)), np.int64)  # of next calls, by tool
        self._next: list[int] = []  # the same of a single session, whose calls come one by one
        # Counters that several tools share, (N,) each: the index that their next call will have.
        self._shared_counters: dict[tuple[str, ...], Rows] = {
            stage.shared_counter_key: np.zeros(count, np.int64)
            for stage in self.stages
            if stage.shared_counter_key is not None
        }
        self._history = EpisodeLog(count)
        self._call_space = None if action_space is None else call_space(action_space)
        self.lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, lock=threading.RLock())

    def positions(self, tools: Sequence[str]) -> Rows:
        """The positions of tools, (n,), in the names that are known; unknown ones are added."""
        return np.array([self.sessions.position(tool) for tool in tools], np.int64)

    @property
    def idle(self) -> bool:
        """Whether no fault can ever act."""
        return not self.stages

    @cached_property
    def may_drop(self) -> list[str]:
        """The kinds of the faults that may keep a call from being carried out."""
        return [stage.fault.kind for stage in self.stages if stage.effect.may_drop]

    @cached_property
    def may_repeat(self) -> list[str]:
        """The kinds of the faults that may have a call carried out again."""
        return [stage.fault.kind for stage in self.stages if stage.effect.may_repeat]

    @property
    def records(self) -> list[list[FaultRecord]]:
        """The records of each session since it began."""
        with self.lock:
            return self._history.records()

    def start(
        self, rows: Rows, sessions: Sequence[tuple[int | str, ...]], initial: Callable[[], Replies] | None = None
    ) -> None:
        """Begin sessions: `rows`, named by `sessions`. `initial` gives the observations before their first calls."""
        with self.lock:
            self.numbers[rows], self._next = 0, []
            for counter in self._shared_counters.values():
                counter[rows] = 0
            self._history.start(rows)
            self.sessions.begin(rows)
            for stage in self.stages:
                stage.start(rows, [new_key(*stage.seeds, *session) for session in sessions], initial)

    # --- one call of a single session ---

    def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        forward: ExecuteCall,
        outer: OuterCall | None = None,
        deadline_s: float | None = None,
    ) -> tuple[Reply, Sequence[FaultRecord]]:
        """Carry one call through the faults; `forward` executes it where the last of them forwards it.

        outer: the call of an outer wrapper, if this one comes from there. deadline_s: when the caller gives up, on the
        clock, if there is no outer call. Gives the reply and its records, which are made when they are read.
        """
        call, steps, in_flight = self._begin(tool, arguments, outer, deadline_s)
        if steps is None:
            return forward(call, _FREE if outer is None else ForwardContext(outer.deadline_s)), NO_RECORDS
        # The same loop is in `acall`, with `await`, and in `batch_call`, for many sessions: Python has no code that is
        # both sync and async. The lock is held only while the generator runs, never while a call is executed.
        clock, answer = self._clock, None
        with call_time(clock):
            try:
                while True:
                    yielded = self._advance(steps, answer)
                    if isinstance(yielded, Replies):
                        return self._finish(yielded, in_flight)
                    if isinstance(yielded, Wait):
                        clock.sleep(self.sessions.apply_wait_single(yielded))
                        answer = None
                    else:
                        answer = Replies.single(
                            forward(yielded.call(0), _context_of(yielded)) if len(yielded.rows) else _LOST
                        )
            except BaseException:
                self._end(steps)
                raise

    async def acall(
        self, tool: str, arguments: Mapping[str, Any], forward: ExecuteCallAsync, deadline_s: float | None = None
    ) -> tuple[Reply, Sequence[FaultRecord]]:
        """`call` for a coroutine: other tasks run while it waits and while it is executed."""
        call, steps, in_flight = self._begin(tool, arguments, None, deadline_s)
        if steps is None:
            return await forward(call, _FREE), NO_RECORDS
        clock, answer = self._clock, None
        with call_time(clock):
            try:
                while True:
                    yielded = self._advance(steps, answer)
                    if isinstance(yielded, Replies):
                        return self._finish(yielded, in_flight)
                    if isinstance(yielded, Wait):
                        await clock.asleep(self.sessions.apply_wait_single(yielded))
                        answer = None
                    else:
                        reply = await forward(yielded.call(0), _context_of(yielded)) if len(yielded.rows) else _LOST
                        answer = Replies.single(reply)
            except BaseException:
                self._end(steps)
                raise

    @property
    def _clock(self) -> Clock:
        assert self.sessions.clock is not None, "a single session has a clock"
        return self.sessions.clock

    def _begin(
        self, tool: str, arguments: Mapping[str, Any], outer: OuterCall | None, deadline_s: float | None = None
    ) -> tuple[Call, EffectGenerator | None, InFlight | None]:
        """Number the call, and start the first fault that acts on it; None where none does, which is the usual case."""
        sessions = self.sessions
        with self.lock:
            position = sessions.position(tool)
            if position >= len(self._next):
                self._next += [0] * (position + 1 - len(self._next))
            if outer is None:
                call_index, drawn_as = self._next[position], position
                shared = self.count_shared(tool)
            else:
                call_index, drawn_as, deadline_s = outer.number, sessions.position(outer.tool), outer.deadline_s
                shared = outer.shared
            self._next[position] = call_index + 1
            call = Call(tool, arguments, call_index)
            # Most calls meet no active fault: arrays and a generator are made for the first fault that acts on it.
            for at, stage in enumerate(self.stages):
                if stage.acts_on(tool, drawn_as, call_index, shared):
                    in_flight = InFlight(1)
                    calls = self._single(call, drawn_as, shared, in_flight, deadline_s)
                    self._history.add(in_flight.log)
                    return (
                        call,
                        stage.effect.run(AffectedCalls(stage, calls, FIRST_ROW), _Forward(self, at + 1)),
                        in_flight,
                    )
        return call, None, None

    def effects(self, tool: str, call_index: int) -> list[Effect]:
        """The effects of the faults that may act on a call of a single session, as far as tool and index decide."""
        with self.lock:
            position = self.sessions.position(tool)
            return [stage.effect for stage in self.stages if stage.may_act_on(tool, position, call_index)]

    def count_shared(self, tool: str) -> SharedCallIndices:
        """Count a call in the counters that several tools share; returns the index that it has in each of them."""
        if not self._shared_counters:
            return _NOT_SHARED
        found = {}
        for globs, counter in self._shared_counters.items():
            found[globs] = counter.copy()
            counter += matches(tool, globs)
        return found

    def _single(
        self, call: Call, drawn_as: int, shared: SharedCallIndices, in_flight: InFlight, deadline_s: float | None
    ) -> CallBatch:
        identity = CallIdentity(self.sessions.names, single_row(drawn_as), single_row(call.number), shared)
        payloads = Payloads(1, overrides={0: {"tool": call.tool, "arguments": call.arguments}})
        deadline = None if deadline_s is None else np.array([deadline_s])
        return CallBatch(FIRST_ROW, identity, payloads, (), in_flight, deadline)

    def _advance(self, steps: EffectGenerator, answer: Replies | None) -> CallBatch | Wait | Replies:
        """Resume the generator: the calls to execute, or the time to wait, or the replies where it has returned."""
        with self.lock:
            try:
                return steps.send(answer)
            except StopIteration as arrived:
                replies: Replies = arrived.value
                return replies

    def _end(self, steps: EffectGenerator) -> None:
        """Close the generator of a call that has raised, or whose caller was cancelled."""
        with self.lock:
            steps.close()

    def _finish(self, replies: Replies, in_flight: InFlight | None) -> tuple[Reply, Sequence[FaultRecord]]:
        assert in_flight is not None, "only calls with faults are in flight"
        return replies.reply(0, in_flight.waited_s[0]), LazyRecords(in_flight.log, 0)

    # --- one call of each of many sessions ---

    def batch_call(
        self,
        rows: Rows,
        tools: NDArray[np.int64],
        actions: Any,
        forward: Callable[[CallBatch], Replies],
        named: Sequence[tuple[str, Mapping[str, Any]]] | None = None,
    ) -> tuple[Replies, FaultLog]:
        """Carry one call of each of the sessions `rows` through the faults; `forward` executes what they forward.

        tools: (N,) positions in the names of the tools. actions: a batch of those of all environments. named: the tools
        and arguments of all, where actions have these by name.

        `forward` is called once, with no sessions where all calls are dropped; and again for faults that forward a
        call more than once.
        """
        assert self._call_space is not None, "calls come as batches where there is an action space"
        space, leaves = self._call_space
        in_flight = InFlight(self.count)
        if not self.idle:
            self._history.add(in_flight.log)
        payloads = Payloads(self.count, space, {"tool": tools, "arguments": {"action": actions}}, in_space=True)
        if named is not None:
            by_row = {row: {"tool": tool, "arguments": arguments} for row, (tool, arguments) in enumerate(named)}
            payloads, leaves = Payloads(self.count, overrides=by_row), ()
        # Tools that were first called since the last step get a column of counters.
        if self.numbers.shape[1] < len(self.sessions.names):
            self.numbers = np.pad(self.numbers, ((0, 0), (0, len(self.sessions.names) - self.numbers.shape[1])))
        numbers = (
            self.numbers[:, 0].copy() if self.numbers.shape[1] == 1 else self.numbers[np.arange(self.count), tools]
        )
        shared = {globs: counter.copy() for globs, counter in self._shared_counters.items()}
        calls = CallBatch(rows, CallIdentity(self.sessions.names, tools, numbers, shared), payloads, leaves, in_flight)
        self.numbers[rows, tools[rows]] += 1
        for globs, counter in self._shared_counters.items():
            counter[rows[calls.calls_tool(rows, globs)]] += 1
        steps, answer = self._run(0, calls), None
        while True:
            yielded = self._advance(steps, answer)
            if isinstance(yielded, Replies):
                yielded.latency_s += np.asarray(in_flight.waited_s)
                return yielded, in_flight.log
            if isinstance(yielded, Wait):
                self.sessions.clock_s[yielded.rows] += self.sessions.apply_wait(yielded)
                answer = None
            else:
                answer = forward(yielded)

    # --- both ---

    def _run(self, position: int, calls: CallBatch) -> EffectGenerator:
        """Run calls through the faults from `position` on: the first that acts on them forwards them to the rest."""
        for at in range(position, len(self.stages)):
            stage = self.stages[at]
            batch = stage.affected_calls(calls)
            if batch is not None:
                replies = yield from stage.effect.run(batch, _Forward(self, at + 1))
                return replies
        answer = yield calls
        assert answer is not None, "calls that are yielded are answered"
        return answer

    def snapshot(self) -> Any:
        """Where the sessions stand, as a value for `restore`."""
        now_s = self.sessions.clock_s.copy() if self.sessions.clock is None else self.sessions.clock.now()
        elapsed_s = self.sessions.elapsed_s(np.arange(self.count))
        shared = {globs: counter.copy() for globs, counter in self._shared_counters.items()}
        stages = [(stage.session_keys.copy(), stage.memory.copy()) for stage in self.stages]
        return (self.numbers.copy(), list(self._next)), shared, (now_s, elapsed_s), self._history.copy(), stages

    def restore(self, snapshot: Any) -> None:
        """Go back (or forth) to where a snapshot was taken. Real time stays what it is."""
        (numbers, following), shared, (now_s, elapsed_s), history, stages = snapshot
        self.numbers, self._next, self._history = numbers.copy(), list(following), history.copy()
        self._shared_counters = {globs: counter.copy() for globs, counter in shared.items()}
        if self.sessions.clock is None:
            self.sessions.clock_s[:] = now_s
        elif isinstance(self.sessions.clock, VirtualClock):
            self.sessions.clock.set(now_s)
        self.sessions.started_s = self.sessions.now_s(np.arange(self.count)) - elapsed_s
        for stage, (keys, memory) in zip(self.stages, stages, strict=True):
            stage.restore(keys, memory)


class _Forward:
    """Forwards calls to the faults from a position on."""

    __slots__ = ("_pipeline", "_position")

    def __init__(self, pipeline: Pipeline, position: int) -> None:
        self._pipeline, self._position = pipeline, position

    def __call__(self, calls: CallBatch) -> EffectGenerator:
        return self._pipeline._run(self._position, calls)


def _context_of(calls: CallBatch) -> ForwardContext:
    return ForwardContext(None if calls.deadline_s is None else float(calls.deadline_s[0]), calls.in_flight.log)


_FREE = ForwardContext()


NO_RECORDS: Sequence[FaultRecord] = LazyRecords(FaultLog(1), 0)
"""The records of a call on which no fault acted."""

_LOST = Reply(LOST, False)
_NOT_SHARED: SharedCallIndices = {}
