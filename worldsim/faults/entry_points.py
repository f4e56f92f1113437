"""The same script of calls through every entry point of this package: a fault must do the same through each of them.

An entry point is a way to call a service through faults: a function call, a coroutine, a row of a vector, a decorated
tool, ... A `MockService` is a service whose answers are known. An `EntryPoint` carries calls to it through faults, one
at a time, and gives a `CallOutcome` each: what the caller got, what was executed, how long it took, and what the
records say. Another entry point is one small class with `_call`, added to `ENTRY_POINTS`.
"""

import asyncio
import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array

from worldsim.faults.call_batch import CallBatch
from worldsim.faults.calls import Call, FaultRecord, Reply
from worldsim.faults.clock import Clock, VirtualClock
from worldsim.faults.definition import Fault
from worldsim.faults.pipeline import ForwardContext, Pipeline
from worldsim.faults.replies import Replies
from worldsim.faults.tools import Faults, ToolError, tool, wrap
from worldsim.faults.trees import alike, copied, leaves_of
from worldsim.spaces import Leaf

PayloadFunction = Callable[[int], Any]  # what call `at` answers; -1: before the first call
TOOLS = ("search", "read", "write")
ACTIONS = spaces.Discrete(3)
BEFORE = -1  # stands for the observation before the first call


class ScriptedCall(NamedTuple):
    """A call of a script. at: its place in the script, which is what the service's answer depends on."""

    at: int
    tool: str
    arguments: dict[str, Any]


def script(calls: int, tools: Sequence[str] = TOOLS) -> list[ScriptedCall]:
    """So many calls, of each tool in turn, with a few different requests of each."""
    return [
        ScriptedCall(at, tools[at % len(tools)], {"action": at // len(tools) % int(ACTIONS.n)}) for at in range(calls)
    ]


@dataclass
class CallOutcome:
    """One call and its outcome: what the caller got, what was really executed, and the records of the faults."""

    at: int  # its place in the script
    call: Call
    reply: Reply
    executed: list[Call]
    answers: list[Reply]  # of the service
    waited_s: float
    records: list[FaultRecord]

    @property
    def place(self) -> str:
        """Which call it was."""
        return f"call {self.call.number} of {self.call.tool}"

    @property
    def changed(self) -> bool:
        """Whether anything differs from a call without faults."""
        untouched = len(self.answers) == 1 and self.executed == [self.call] and not self.waited_s
        return not (untouched and same_reply(self.reply, self.answers[0]))

    def difference_from(self, other: "CallOutcome") -> str:
        """The first difference from another outcome of the same call, in a line; "" for none. Times are rounded."""
        pairs = {
            "call": (self.call, other.call),
            "payload": (self.reply.payload, other.reply.payload),
            "reply": (self.reply[1:], other.reply[1:]),
            "executed": (self.executed, other.executed),
            "waited_s": (self.waited_s, other.waited_s),
            "records": (self.records, other.records),
        }
        for what, (mine, theirs) in pairs.items():
            same = alike(mine, theirs) if what == "payload" else mine == theirs or _rounded(mine) == _rounded(theirs)
            if not same:
                return f"{what} {mine!r} is {theirs!r}"
        return ""


def same_reply(left: Reply, right: Reply) -> bool:
    """Whether two replies are alike in everything, to the bit."""
    return left[1:] == right[1:] and alike(left.payload, right.payload)


def _rounded(value: Any) -> Any:
    """Nine digits of every number: clocks are sums, and sums depend on their order in the last ones."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


@dataclass
class MockService:
    """A service whose answers are known, and which keeps the payloads that were passed to and from faults.

    payloads: by default members of `space` drawn for each call; needed where `space` is None (plain JSON).
    every_s: seconds from the beginning of one call to that of the next, if none takes longer.
    one_request: whether all calls ask for the same, as steps do whose action is no named tool.
    watch: keep copies of all payloads that are passed, to check that no fault writes into them.
    scribble: write into answers and replies once their call is over, as their owners may.
    """

    space: spaces.Space[Any] | None
    payloads: PayloadFunction | None = None
    seed: int = 0
    every_s: float = 1.0
    one_request: bool = False
    watch: bool = False
    scribble: bool = False
    given: list[Any] = field(default_factory=list)  # the very objects that were handed to faults, and copies of them
    replied: list[Any] = field(default_factory=list)  # those that the caller got, with copies of what they were then
    known: dict[int, Any] = field(default_factory=dict)

    def answer(self, at: int) -> Any:
        """What call `at` answers: equal each time, and never the same object."""
        if at not in self.known:
            self.known[at] = self.payloads(at) if self.payloads is not None else self._sample(at)
        return copied(self.known[at])

    def _sample(self, at: int) -> Any:
        assert self.space is not None, "plain JSON needs payloads"
        space = copy.deepcopy(self.space)
        space.seed(self.seed + 1 + at)
        return space.sample()

    @property
    def leaves(self) -> tuple[Leaf, ...] | None:
        """Of the answers, None for plain JSON."""
        return None if self.space is None else leaves_of(self.space)

    def run(
        self,
        faults: Sequence[Fault],
        calls: int,
        first: int = 0,
        episode: int = 0,
        entry_point: "type[EntryPoint] | None" = None,
    ) -> list[CallOutcome]:
        """An episode of so many calls; those before `first` are made, too, and left out of the result."""
        return self.play(faults, script(calls), episode, entry_point)[first:]

    def play(
        self,
        faults: Sequence[Fault],
        calls: Sequence[ScriptedCall],
        episode: int = 0,
        entry_point: "type[EntryPoint] | None" = None,
    ) -> list[CallOutcome]:
        """These calls, one after the other, through an entry point; by default a function call."""
        with (entry_point or PipelineCall)(self, faults, episode) as opened:
            return [opened.call(each) for each in calls]


class ObservedCall:
    """One call that the service executes and observes. handed: all objects that were passed to or from the faults."""

    def __init__(self, service: MockService, scripted: ScriptedCall, number: int) -> None:
        self._service, self.scripted, self.number, self.handed = service, scripted, number, list[Any]()
        self.arguments = self.hand(dict(scripted.arguments))
        self.executed: list[Call] = []
        self.answers: list[Reply] = []

    def hand(self, value: Any) -> Any:
        """Keep an object to check it later, and return it."""
        self.handed.append(value)
        if self._service.watch:
            self._service.given.append((value, copied(value)))
        return value

    def execute(self, call: Call) -> Reply:
        """The service's answer; keeps the call that was executed."""
        self.executed.append(Call(call.tool, copied(dict(call.arguments)), call.number))
        answer = self._service.answer(self.scripted.at)
        self.answers.append(Reply(copied(answer) if self._service.watch or self._service.scribble else answer))
        return Reply(self.hand(answer))


class EntryPoint(ABC):
    """A way to call the service through faults: one session.

    takes_spaces, takes_plain: whether it takes payloads of a space, and plain JSON.
    """

    takes_spaces: ClassVar[bool] = True
    takes_plain: ClassVar[bool] = True

    def __init__(self, service: MockService, faults: Sequence[Fault], episode: int = 0) -> None:
        self.service = service
        self._numbers: dict[str, int] = {}
        self._open([(fault, service.seed) for fault in faults], str(episode))

    @classmethod
    def fits(cls, service: MockService) -> bool:
        """Whether the service's answers can come through this entry point."""
        return cls.takes_plain if service.space is None else cls.takes_spaces

    @abstractmethod
    def _open(self, faults: list[tuple[Fault, int]], session: str) -> None:
        """Begin a session under this name."""

    @abstractmethod
    def _call(self, observed: ObservedCall) -> tuple[Reply, Sequence[FaultRecord]]:
        """Make a call; return its reply and its records."""

    def now(self) -> float:
        """Seconds on the session's clock."""
        return self.clock.now()

    def wait(self, seconds: float) -> None:
        """Let time pass on it."""
        self.clock.sleep(seconds)

    clock: Clock

    def call(self, scripted: ScriptedCall) -> CallOutcome:
        """One call through the faults to the service."""
        self.wait(max(0.0, scripted.at * self.service.every_s - self.now()))
        number = self._numbers.get(scripted.tool, 0)
        self._numbers[scripted.tool] = number + 1
        observed, before = ObservedCall(self.service, scripted, number), self.now()
        reply, records = self._call(observed)
        waited_s, reply_as_returned = self.now() - before, reply
        if self.service.watch or self.service.scribble:
            reply_as_returned = reply._replace(payload=copied(reply.payload))
            self.service.replied.append((reply.payload, reply_as_returned.payload))
        for each in (reply.payload, *observed.handed) if self.service.scribble else ():
            scribble(each)
        call = Call(scripted.tool, scripted.arguments, number)
        return CallOutcome(
            scripted.at, call, reply_as_returned, observed.executed, observed.answers, waited_s, list(records)
        )

    def close(self) -> None:  # noqa: B027  (most have nothing to close)
        """Release what the entry point holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def scribble(payload: Any) -> None:
    """Write into a payload wherever that is possible."""
    if isinstance(payload, np.ndarray) and payload.flags.writeable:
        payload[...] = 0
    elif isinstance(payload, dict):
        for value in payload.values():
            scribble(value)
        if payload and not any(isinstance(value, dict | np.ndarray) for value in payload.values()):
            payload.clear()
    elif isinstance(payload, list | tuple):
        for value in payload:
            scribble(value)
        if isinstance(payload, list):
            payload.clear()


class PipelineCall(EntryPoint):
    """A function call."""

    def _open(self, faults: list[tuple[Fault, int]], session: str) -> None:
        self.clock = VirtualClock()
        service = self.service
        self.pipeline = Pipeline(faults, service.leaves, TOOLS, self.clock, one_request=service.one_request)
        shown = None if service.space is None else self._shown  # what answers in plain JSON shows nothing before
        self.pipeline.start(np.zeros(1, np.int64), [(session,)], shown)

    def _shown(self) -> Replies:
        return Replies.single(Reply(self.service.answer(BEFORE)))

    def _call(self, observed: ObservedCall) -> tuple[Reply, Sequence[FaultRecord]]:
        def execute(call: Call, context: ForwardContext) -> Reply:
            return observed.execute(call)

        return self.pipeline.call(observed.scripted.tool, observed.arguments, execute)

    def snapshot(self) -> Any:
        """Where the session stands."""
        return self.pipeline.snapshot(), dict(self._numbers)

    def restore(self, snapshot: Any) -> None:
        """Go back to there."""
        self.pipeline.restore(snapshot[0])
        self._numbers = dict(snapshot[1])


class PipelineAsyncCall(PipelineCall):
    """A coroutine."""

    def _open(self, faults: list[tuple[Fault, int]], session: str) -> None:
        super()._open(faults, session)
        self._loop = asyncio.new_event_loop()

    def _call(self, observed: ObservedCall) -> tuple[Reply, Sequence[FaultRecord]]:
        async def execute(call: Call, context: ForwardContext) -> Reply:
            await asyncio.sleep(0)
            return observed.execute(call)

        return self._loop.run_until_complete(self.pipeline.acall(observed.scripted.tool, observed.arguments, execute))

    def close(self) -> None:
        self._loop.close()


class VectorOfOne(EntryPoint):
    """A vector of one."""

    takes_plain = False
    count: ClassVar[int] = 1
    row: ClassVar[int] = 0

    def _open(self, faults: list[tuple[Fault, int]], session: str) -> None:
        service, count = self.service, self.count
        self._in_space = not any(getattr(fault, "out_of_space", False) for fault, _ in faults)
        self.pipeline = Pipeline(
            faults, service.leaves, TOOLS, count=count, action_space=ACTIONS, one_request=service.one_request
        )
        sessions = [(session if row == self.row else f"other {row}",) for row in range(count)]
        shown = [service.answer(BEFORE if row == self.row else row) for row in range(count)]
        self.pipeline.start(np.arange(count), sessions, lambda: self._replies(shown))
        self._rng = np.random.default_rng(0)

    def _replies(self, payloads: list[Any]) -> Replies:
        space: Any = self.service.space
        blank: Any = create_empty_array(space, self.count)
        batch = concatenate(space, payloads, blank)
        return Replies(self.count, space, batch, self._in_space)

    def now(self) -> float:
        return float(self.pipeline.sessions.clock_s[self.row])

    def wait(self, seconds: float) -> None:
        self.pipeline.sessions.clock_s[self.row] += seconds

    def _call(self, observed: ObservedCall) -> tuple[Reply, Sequence[FaultRecord]]:
        scripted, count = observed.scripted, self.count
        tools, actions = self._rng.integers(0, len(TOOLS), count), self._rng.integers(0, ACTIONS.n, count)
        tools[self.row], actions[self.row] = TOOLS.index(scripted.tool), observed.arguments["action"]
        calling = self._rng.random(count) < 0.8
        calling[self.row] = True

        def forward(calls: CallBatch) -> Replies:
            payloads = [self.service.answer((scripted.at + 5 * row) % 23) for row in range(count)]
            if self.row in calls.rows:
                payloads[self.row] = observed.execute(calls.call(self.row)).payload
            replies = self._replies(payloads)
            observed.hand(replies.batch)
            return replies

        replies, log = self.pipeline.batch_call(np.flatnonzero(calling), tools, observed.hand(actions), forward)
        return replies.reply(self.row), log.by_row()[self.row]


class RowOfVector(VectorOfOne):
    """A row of a vector, beside others that make other calls."""

    count = 7
    row = 3


class FaultsCall(EntryPoint):
    """`Faults.call`."""

    takes_spaces = False

    @classmethod
    def fits(cls, service: MockService) -> bool:
        return super().fits(service) and not service.one_request

    def _open(self, faults: list[tuple[Fault, int]], session: str) -> None:
        self.faults = Faults([fault for fault, _ in faults], seed=self.service.seed, tools=TOOLS)
        self.session = self.faults.session(session)
        self.clock = self.session.clock

    def _call(self, observed: ObservedCall) -> tuple[Reply, Sequence[FaultRecord]]:
        known = len(self.session.records)
        with self.session:
            reply = self._reply(observed)
        return reply, self.session.records[known:]

    def _reply(self, observed: ObservedCall) -> Reply:
        return self.faults.call(observed.scripted.tool, observed.arguments, lambda call: observed.execute(call).payload)


class FaultsAsyncCall(FaultsCall):
    """`Faults.acall`."""

    def _reply(self, observed: ObservedCall) -> Reply:
        async def execute(call: Call) -> Any:
            await asyncio.sleep(0)
            return observed.execute(call).payload

        return asyncio.run(self.faults.acall(observed.scripted.tool, observed.arguments, execute))


class DecoratedTool(FaultsCall):
    """`@tool` on functions."""

    def _open(self, faults: list[tuple[Fault, int]], session: str) -> None:
        super()._open(faults, session)
        self.tools = self._behind({name: self._function(name) for name in TOOLS})

    def _function(self, name: str) -> Callable[..., Any]:
        def function(action: int) -> Any:
            return self.observed.execute(Call(name, {"action": action}, self.observed.number)).payload

        return function

    def _behind(self, functions: dict[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
        return {name: tool(self.faults, name=name)(function) for name, function in functions.items()}

    def _reply(self, observed: ObservedCall) -> Reply:
        self.observed, before = observed, self.now()
        try:
            return Reply(self._answer(observed), latency_s=self.now() - before)
        except ToolError as error:
            return error.reply

    def _answer(self, observed: ObservedCall) -> Any:
        return self.tools[observed.scripted.tool](**observed.arguments)


class DecoratedAsyncTool(DecoratedTool):
    """`@tool` on coroutine functions."""

    def _function(self, name: str) -> Callable[..., Any]:
        function = super()._function(name)

        async def coroutine(action: int) -> Any:
            await asyncio.sleep(0)
            return function(action)

        return coroutine

    def _answer(self, observed: ObservedCall) -> Any:
        return asyncio.run(super()._answer(observed))


class WrappedTool(DecoratedTool):
    """`wrap`, of functions by name."""

    def _behind(self, functions: dict[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
        return wrap(functions, self.faults)


ENTRY_POINTS: dict[str, type[EntryPoint]] = {
    "call": PipelineCall,
    "acall": PipelineAsyncCall,
    "only row": VectorOfOne,
    "among rows": RowOfVector,
    "Faults.call": FaultsCall,
    "Faults.acall": FaultsAsyncCall,
    "@tool": DecoratedTool,
    "@tool, async": DecoratedAsyncTool,
    "wrap": WrappedTool,
}
"""All entry points. Add yours here, and every check includes it."""


def check_entry_points(service: MockService, faults: Sequence[Fault], calls: int, message: str = "a call") -> None:
    """Raise AssertionError unless the same calls have the same outcomes through every entry point that fits."""
    direct = service.run(faults, calls)
    for name, entry_point in ENTRY_POINTS.items():
        if entry_point is not PipelineCall and entry_point.fits(service):
            for one, other in zip(direct, service.run(faults, calls, entry_point=entry_point), strict=True):
                found = one.difference_from(other)
                assert not found, f"{message} differs through the entry point '{name}': {one.place}: {found}"
