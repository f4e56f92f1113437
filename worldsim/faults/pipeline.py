"""Faults in a row, from the caller inward: the one core that carries every call.

A call on its way is a generator that asks, of whoever drives it, for two things: to carry calls out, and to let time
pass. So a function call, a coroutine, and a step of a thousand environments are three short loops around the same
generator, and calls in flight side by side cannot get into each other's way: each has a generator of its own.
"""

import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple
from zlib import crc32

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from worldsim.errors import ConfigError
from worldsim.faults.callbatch import FIRST, Calls, Flight, call_space
from worldsim.faults.calls import LOST, Call, Record, Reply
from worldsim.faults.clock import Clock, VirtualClock
from worldsim.faults.definition import Composition, Fault
from worldsim.faults.effects.base import Batch, Memory, Scope, Steps, Wait
from worldsim.faults.keys import Floats, Keys, fold_in, new_key, unit
from worldsim.faults.log import History, Log, Origin
from worldsim.faults.parameters import EVERYTHING, matches, suggest
from worldsim.faults.payloads import Payloads, Rows
from worldsim.faults.replies import Replies
from worldsim.faults.schedule import Always, TimeWindow
from worldsim.spaces import Leaf

BLOCK = 256  # calls of a single session for which is worked out ahead whether a fault is at work
TRIGGER, PROBABILITY, SCHEDULE = 1, 2, 3  # folded into a tool's key: streams of uniforms; 0 is for all else


class Trip(NamedTuple):
    """What whoever carries a call out may know of it.

    deadline_s: when its caller gives up, on the clock; None: never. log: where faults further in put their records;
    None where no fault is at work here.
    """

    deadline_s: float | None = None
    log: Log | None = None


CarryOut = Callable[[Call, Trip], Reply]
"""Carries a call out, where the last fault passes it on."""

CarryOutAsync = Callable[[Call, Trip], Awaitable[Reply]]


class Placed(NamedTuple):
    """A fault in its place."""

    fault: Fault
    composition: Composition
    seeds: tuple[int, str, int]  # of its keys, but for the session
    leaves: tuple[Leaf, ...] | None  # that it may change


def checked_seed(seed: int) -> int:
    """The seed of a plan. Raises ConfigError unless it is a whole number, 0 or more."""
    if not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"the seed of faults must be a whole number, 0 or more; got {seed!r}")
    return seed


def placed(
    faults: Sequence[tuple[Fault, int]],
    leaves: tuple[Leaf, ...] | None,
    tools: Sequence[str] | None,
    kinds: Counter[str],
) -> list[Placed]:
    """Faults, outermost first and each with the seed of its plan, less those that can never do anything.

    tools: all that there are, None where they are not known. kinds: how many faults there are of each kind further in;
    those that are placed are added, so that two of a kind draw different numbers, whatever else there is.
    Raises ConfigError for tools or targets that match nothing.
    """
    found: list[Placed] = []
    for fault, seed in reversed(faults):
        if tools is not None:
            require_match(fault, "tool", fault.tools, tools)
        seeds = (seed if fault.seed is None else fault.seed, fault.kind, kinds[fault.kind])
        kinds[fault.kind] += 1
        composition = fault.compose()
        chosen = leaves
        if leaves is not None and composition.targets != EVERYTHING:
            require_match(fault, "target", composition.targets, [leaf.name for leaf in leaves])
            chosen = tuple(leaf for leaf in leaves if matches(leaf.name, composition.targets))
        if not fault.idle:
            found.insert(0, Placed(fault, composition, seeds, chosen))
    return found


def require_match(fault: Fault, what: str, globs: Sequence[str], names: Sequence[str]) -> None:
    """Raise ConfigError for a glob that fits none of the names."""
    for glob in globs:
        if not any(matches(name, [glob]) for name in names):
            raise ConfigError(f"{fault.kind}: {what} '{glob}' matches nothing. {suggest(glob, names)}")


class Stage:
    """A fault in its place among others, on N sessions."""

    def __init__(self, place: Placed, sessions: "Sessions", missing: dict[str, Any], one_request: bool) -> None:
        fault, composition = place.fault, place.composition
        self.fault, self.effect, self.seeds = fault, composition.effect, place.seeds
        self.scope = Scope(fault.kind, place.leaves, composition.targets, missing, one_request)
        self.memory = Memory(sessions.count)
        self._sessions = sessions
        self.session_keys: Keys = np.zeros(sessions.count, np.uint64)
        self._tool_keys: Keys = np.zeros((sessions.count, 0), np.uint64)
        self._stream_keys: dict[int, Keys] = {}  # (N, tools) by stream
        schedule = fault.schedule
        self._always = isinstance(schedule, Always)
        self._in_time = isinstance(schedule, TimeWindow)
        self.joint = None if getattr(schedule, "per_tool", True) else fault.tools
        self._share, self._sees_all = composition.share, self.effect.sees_all(self.scope)
        self._every_tool = fault.tools == EVERYTHING
        self._blocks: dict[Any, tuple[int, list[bool]]] = {}

    def start(self, rows: Rows, keys: Sequence[int], shown: Callable[[], Replies] | None) -> None:
        """Begin sessions `rows`, under a key each; `shown` is what they showed before their first calls."""
        self.session_keys[rows] = np.array(keys, np.uint64)
        self._add_tools(0)
        self._tool_keys[rows] = self._keys_of_tools(rows)
        for stream, known in self._stream_keys.items():
            known[rows] = fold_in(self._tool_keys[rows], stream)
        self.memory.begin(rows)
        self._blocks = {}
        if shown is not None:
            count = self._sessions.count
            origin = Origin(self._sessions.names, np.zeros(count, np.int64), np.full(count, -1), {})
            calls = Calls(rows, origin, Payloads(count), (), Flight(count))
            self.effect.begin(Batch(self, calls, rows), shown())

    def _add_tools(self, at_least: int) -> None:
        """Tools that nobody knew of get their keys when they are first called."""
        known, names = self._tool_keys.shape[1], self._sessions.names
        if len(names) > known or self._tool_keys.shape[0] != self._sessions.count:
            rows = np.arange(self._sessions.count)
            self._tool_keys = self._keys_of_tools(rows)
            self._stream_keys = {}

    def _keys_of_tools(self, rows: Rows) -> Keys:
        hashed = np.array(self._sessions.hashes, np.int64)
        return fold_in(self.session_keys[rows][:, None], hashed[None])

    def _stream(self, stream: int) -> Keys:
        """(N, tools) keys of a stream of uniforms."""
        if len(self._sessions.names) > self._tool_keys.shape[1]:
            self._add_tools(0)
        if stream not in self._stream_keys:
            self._stream_keys[stream] = fold_in(self._tool_keys, stream)
        return self._stream_keys[stream]

    def keys(self, rows: Rows, origin: Origin) -> Keys:
        """The fault's keys for the tools that are called, (n,)."""
        self._stream(TRIGGER)
        return self._tool_keys[rows, origin.tools[rows]]

    def drawn(self, rows: Rows, origin: Origin) -> Floats:
        """The uniforms that decide whether the fault is triggered, (n,)."""
        return self._uniforms(TRIGGER, rows, origin)

    def seconds(self, rows: Rows) -> Floats:
        """How late it is, (n,)."""
        return self._sessions.seconds(rows)

    def _uniforms(self, stream: int, rows: Rows, origin: Origin) -> Floats:
        return unit(fold_in(self._stream(stream)[rows, origin.tools[rows]], origin.numbers[rows]))

    def batch(self, calls: Calls) -> Batch | None:
        """The calls that the effect must see: those that it triggers on, or all of its tools. None for none."""
        rows, origin = calls.rows, calls.origin
        if not len(rows):
            return None
        if self._sessions.count == 1:
            return Batch(self, calls, rows) if self._single(calls) else None
        if not self._every_tool:
            rows = rows[calls.calling(rows, self.fault.tools)]
        if self._sees_all:
            return Batch(self, calls, rows) if len(rows) else None
        if not self._always and len(rows):
            rows = rows[self._scheduled(rows, origin)]
        if self.fault.probability < 1 and len(rows):
            rows = rows[self._uniforms(PROBABILITY, rows, origin) < self.fault.probability]
        drawn = None
        if self._share < 1 and len(rows):
            drawn = self.drawn(rows, origin)
            hit = drawn < self._share
            rows, drawn = rows[hit], drawn[hit]
        return Batch(self, calls, rows, drawn) if len(rows) else None

    def triggered(self, calls: Calls, rows: Rows) -> NDArray[np.bool_]:
        """On which calls, (n,), of its tools the fault triggers: by schedule and probability, and by its share."""
        origin = calls.origin
        if self._sessions.count == 1 and len(rows):
            return np.array([self._due(int(origin.tools[0]), int(origin.numbers[0]), origin.joint)])
        hit = np.ones(len(rows), np.bool_) if self._always else self._scheduled(rows, origin)
        if self.fault.probability < 1:
            hit = hit & (self._uniforms(PROBABILITY, rows, origin) < self.fault.probability)
        return hit & (self.drawn(rows, origin) < self._share) if self._share < 1 else hit

    def _scheduled(self, rows: Rows, origin: Origin) -> NDArray[np.bool_]:
        numbers, keys = origin.numbers, self._stream(SCHEDULE)[rows, origin.tools[rows]]
        if self.joint is not None:
            numbers, keys = origin.joint[self.joint], fold_in(self.session_keys[rows], SCHEDULE)
        seconds = self.seconds(rows) if self._in_time else 0.0
        return self.fault.schedule.active(keys, numbers[rows], seconds)

    def _single(self, calls: Calls) -> bool:
        """Whether the effect must see the one call of a single session."""
        origin = calls.origin
        if not self._every_tool and not _fits(self.fault.tools, calls.call(0).tool):
            return False
        return self._sees_all or self._due(int(origin.tools[0]), int(origin.numbers[0]), origin.joint)

    def _due(self, tool: int, number: int, joint: Mapping[tuple[str, ...], Rows]) -> bool:
        """`triggered` of a call of a single session: what depends on its number alone is known for many ahead."""
        if self._in_time and not self.fault.schedule.active(self.session_keys, FIRST, self.seconds(FIRST))[0]:
            return False
        if self.joint is not None and not self._in_block("joint", int(joint[self.joint][0]), tool):
            return False
        return self._in_block(tool, number, tool)

    def _in_block(self, name: Any, number: int, tool: int) -> bool:
        block, offset = divmod(number, BLOCK)
        known = self._blocks.get(name)
        if known is None or known[0] != block:
            known = self._blocks[name] = block, self._block(name, block, tool).tolist()
        return known[1][offset]

    def _block(self, name: Any, block: int, tool: int) -> NDArray[np.bool_]:
        numbers = np.arange(block * BLOCK, (block + 1) * BLOCK)
        if name == "joint":
            return self.fault.schedule.active(fold_in(self.session_keys, SCHEDULE), numbers, 0.0)
        found = np.ones(BLOCK, np.bool_)
        if not (self._always or self._in_time or self.joint is not None):
            found = self.fault.schedule.active(self._stream(SCHEDULE)[0, tool : tool + 1], numbers, 0.0)
        for stream, share in ((PROBABILITY, self.fault.probability), (TRIGGER, self._share)):
            if share < 1:
                found = found & (unit(fold_in(self._stream(stream)[0, tool : tool + 1], numbers)) < share)
        return found

    def reaches(self, tool: str, position: int, number: int, joint: Mapping[tuple[str, ...], Rows]) -> bool:
        """`batch` for the call of a single session, before there is anything but its tool and its number."""
        if not self._every_tool and not _fits(self.fault.tools, tool):
            return False
        return self._sees_all or self._due(position, number, joint)

    def resume(self, keys: Keys, memory: Memory) -> None:
        """Go to where a snapshot was taken."""
        self.session_keys, self.memory = keys.copy(), memory.copy()
        self._tool_keys = self._keys_of_tools(np.arange(self._sessions.count))
        self._stream_keys, self._blocks = {}, {}


class Sessions:
    """What N sessions share whatever faults there are: the tools there are, and the time on each one's clock."""

    def __init__(self, count: int, names: Sequence[str], clock: Clock | None) -> None:
        self.count, self.clock = count, clock
        self.names: list[str] = []
        self.hashes: list[int] = []
        self.positions: dict[str, int] = {}
        self.clock_s: Floats = np.zeros(count)  # where there is no clock from outside
        for name in names:
            self.position(name)

    def position(self, tool: str) -> int:
        """The tool's position among the names; it is added where nobody knew of it."""
        if tool not in self.positions:
            self.positions[tool] = len(self.names)
            self.names.append(tool)
            self.hashes.append(crc32(tool.encode()))
        return self.positions[tool]

    def seconds(self, rows: Rows) -> Floats:
        """How late it is for these sessions, (n,)."""
        return self.clock_s[rows] if self.clock is None else np.full(len(rows), self.clock.now())

    def waiting(self, wait: Wait) -> Floats:
        """The seconds that these calls wait, (n,): no longer than until their callers give up."""
        seconds = np.maximum(wait.seconds, 0.0)
        if wait.calls.deadline_s is not None:
            left = wait.calls.deadline_s[wait.rows] - self.seconds(wait.rows)
            seconds = np.minimum(seconds, np.maximum(left, 0.0))
        wait.calls.flight.waited_s[wait.rows] += seconds
        return seconds


class Pipeline:
    """Carries the calls of N sessions through faults. The first fault is the outermost: it gets a call first.

    Session i meets what it would meet alone. What a fault does to call k of a tool depends on the seeds, the tool and
    k, not on other faults, nor on what else is called (except for kinds that tie tools together, and say so).

    Args:
        faults: outermost first, each with the seed of its plan. Those that can never do anything are left out.
        leaves: of the payload; None for plain JSON, whose leaves are seen reply by reply.
        tools: names of all there are; None: tools get known when they are called.
        clock: of a single session. Without one each session has seconds of its own, which pass by waiting.
        count: N.
        action_space: of one environment, where calls come as batches of actions.
        missing: leaf name -> what stands for "unknown" there, as plain JSON.
        below: how many faults of each kind are further in, behind another door.
        one_request: whether all calls ask for the same, as steps do whose action is no named tool.

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
        below: Mapping[str, int] | None = None,
        one_request: bool = False,
    ) -> None:
        self.count, self.kinds = count, Counter(below)
        self.sessions = Sessions(count, tools or (), clock)
        places = placed(faults, leaves, tools, self.kinds)
        self.stages = [Stage(place, self.sessions, dict(missing or {}), one_request) for place in places]
        self._joint_globs = tuple(dict.fromkeys(stage.joint for stage in self.stages if stage.joint is not None))
        self.numbers: Rows = np.zeros((count, len(self.sessions.names)), np.int64)  # of next calls, by tool
        self._joint = {globs: np.zeros(count, np.int64) for globs in self._joint_globs}
        self._history = History(count)
        self._call_space = None if action_space is None else call_space(action_space)
        self.lock = threading.RLock()

    def positions(self, tools: Sequence[str]) -> Rows:
        """The positions of tools, (n,), in the names that are known; those that nobody knew of are added."""
        return np.array([self.sessions.position(tool) for tool in tools], np.int64)

    @property
    def idle(self) -> bool:
        """Whether no fault can ever do anything."""
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
    def records(self) -> list[list[Record]]:
        """What was done to each session since it began."""
        with self.lock:
            return self._history.records()

    def start(
        self, rows: Rows, sessions: Sequence[tuple[int | str, ...]], shown: Callable[[], Replies] | None = None
    ) -> None:
        """Begin sessions: `rows`, named by `sessions`. `shown` gives what they showed before their first calls."""
        with self.lock:
            self.numbers[rows] = 0
            for joint in self._joint.values():
                joint[rows] = 0
            self._history.start(rows)
            for stage in self.stages:
                stage.start(rows, [new_key(*stage.seeds, *session) for session in sessions], shown)

    # --- one call of a single session ---

    def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        forward: CarryOut,
        origin: tuple[str, int] | None = None,
        deadline_s: float | None = None,
    ) -> tuple[Reply, list[Record]]:
        """Carry one call through the faults; `forward` takes it where the last of them passes it on.

        origin: the tool and number that count for what is drawn, where the call comes from faults further out.
        deadline_s: on the clock, when the caller gives up. Gives the reply and what was done to the call.
        """
        call, steps, flight = self._begin(tool, arguments, origin, deadline_s)
        if steps is None:
            return forward(call, _FREE if deadline_s is None else Trip(deadline_s)), []
        clock, answer = self._clock, None
        while True:
            asked, result = self._advance(steps, answer)
            if asked is None:
                return self._arrived(result, flight)
            if isinstance(asked, Wait):
                clock.sleep(float(self.sessions.waiting(asked)[0]) if len(asked.rows) else 0.0)
                answer = None
            else:
                answer = Replies.single(forward(asked.call(0), _trip(asked)) if len(asked.rows) else _NOTHING)

    async def acall(
        self, tool: str, arguments: Mapping[str, Any], forward: CarryOutAsync
    ) -> tuple[Reply, list[Record]]:
        """`call` for a coroutine: while it waits and while it is carried out, others go on."""
        call, steps, flight = self._begin(tool, arguments, None, None)
        if steps is None:
            return await forward(call, _FREE), []
        clock, answer = self._clock, None
        while True:
            asked, result = self._advance(steps, answer)
            if asked is None:
                return self._arrived(result, flight)
            if isinstance(asked, Wait):
                await clock.asleep(float(self.sessions.waiting(asked)[0]) if len(asked.rows) else 0.0)
                answer = None
            else:
                answer = Replies.single(await forward(asked.call(0), _trip(asked)) if len(asked.rows) else _NOTHING)

    @property
    def _clock(self) -> Clock:
        assert self.sessions.clock is not None, "a single session has a clock"
        return self.sessions.clock

    def _begin(
        self, tool: str, arguments: Mapping[str, Any], origin: tuple[str, int] | None, deadline_s: float | None
    ) -> tuple[Call, Steps | None, Flight | None]:
        """Number the call. There are no steps where no fault is at work on it, as is mostly so."""
        sessions = self.sessions
        with self.lock:
            position = sessions.positions.get(tool)
            if position is None or position >= self.numbers.shape[1]:
                position = sessions.position(tool)
                self.numbers = np.pad(self.numbers, ((0, 0), (0, len(sessions.names) - self.numbers.shape[1])))
            if origin is None:
                number, drawn_as = int(self.numbers[0, position]), position
            else:
                number, drawn_as = origin[1], sessions.position(origin[0])
            self.numbers[0, position] = number + 1
            joint = self._count_joint(tool)
            call = Call(tool, arguments, number)
            for at, stage in enumerate(self.stages):
                if stage.reaches(tool, drawn_as, number, joint):
                    flight = Flight(1)
                    calls = self._single(call, drawn_as, joint, flight, deadline_s)
                    self._history.add(flight.log)
                    return call, self._run(at, calls), flight
        return call, None, None

    def _count_joint(self, tool: str) -> Mapping[tuple[str, ...], Rows]:
        """Count a call among those of all tools that some schedule counts together."""
        if not self._joint_globs:
            return _NO_JOINT
        found = {}
        for globs, numbers in self._joint.items():
            found[globs] = numbers.copy()
            numbers += matches(tool, globs)
        return found

    def _single(
        self, call: Call, drawn_as: int, joint: Mapping[Any, Rows], flight: Flight, deadline_s: float | None
    ) -> Calls:
        origin = Origin(self.sessions.names, np.array([drawn_as]), np.array([call.number]), joint)
        asked = Payloads(1, overrides={0: {"tool": call.tool, "arguments": call.arguments}})
        deadline = None if deadline_s is None else np.array([deadline_s])
        return Calls(FIRST, origin, asked, (), flight, deadline)

    def _advance(self, steps: Steps, answer: Replies | None) -> tuple[Calls | Wait | None, Replies]:
        """The next thing that a call on its way asks for; None and the replies where it has come back."""
        with self.lock:
            try:
                return steps.send(answer), _NO_REPLIES
            except StopIteration as arrived:
                return None, arrived.value

    def _arrived(self, replies: Replies, flight: Flight | None) -> tuple[Reply, list[Record]]:
        assert flight is not None, "a call without faults has no flight"
        reply = replies.of(0)
        return reply._replace(latency_s=reply.latency_s + float(flight.waited_s[0])), flight.log.records[0]

    # --- one call of each of many sessions ---

    def batch_call(
        self, rows: Rows, tools: NDArray[np.int64], actions: Any, forward: Callable[[Calls], Replies]
    ) -> tuple[Replies, Log]:
        """Carry one call of each of the sessions `rows` through the faults; `forward` takes them to where they go.

        tools: (N,) positions in the names of the tools. actions: a batch of those of all environments.

        `forward` is asked once, of no session where all calls are dropped; and again by faults that pass a call on
        more than once.
        """
        assert self._call_space is not None, "calls come as batches where there is an action space"
        space, leaves = self._call_space
        flight = Flight(self.count)
        if not self.idle:
            self._history.add(flight.log)
        asked = Payloads(self.count, space, {"tool": tools, "arguments": {"action": actions}}, in_space=True)
        if self.numbers.shape[1] < len(self.sessions.names):
            self.numbers = np.pad(self.numbers, ((0, 0), (0, len(self.sessions.names) - self.numbers.shape[1])))
        numbers = self.numbers[np.arange(self.count), tools]
        joint = {globs: known.copy() for globs, known in self._joint.items()}
        calls = Calls(rows, Origin(self.sessions.names, tools, numbers, joint), asked, leaves, flight)
        self.numbers[rows, tools[rows]] += 1
        for globs, known in self._joint.items():
            known[rows[calls.calling(rows, globs)]] += 1
        steps, answer = self._run(0, calls), None
        while True:
            asking, replies = self._advance(steps, answer)
            if asking is None:
                replies.latency_s += flight.waited_s
                return replies, flight.log
            if isinstance(asking, Wait):
                self.sessions.clock_s[asking.rows] += self.sessions.waiting(asking)
                answer = None
            else:
                answer = forward(asking)

    # --- both ---

    def _run(self, position: int, calls: Calls) -> Steps:
        """Pass calls on from the fault at `position`: to those that act on them, one after the other, and out."""
        for at in range(position, len(self.stages)):
            stage = self.stages[at]
            batch = stage.batch(calls)
            if batch is not None:
                replies = yield from stage.effect.run(batch, _Forward(self, at + 1))
                return replies
        answer = yield calls
        assert answer is not None, "calls that are passed on are answered"
        return answer

    def snapshot(self) -> Any:
        """Where the sessions stand, as a value for `restore`."""
        seconds = self.sessions.clock_s.copy() if self.sessions.clock is None else self.sessions.clock.now()
        joint = {globs: numbers.copy() for globs, numbers in self._joint.items()}
        stages = [(stage.session_keys.copy(), stage.memory.copy()) for stage in self.stages]
        return self.numbers.copy(), joint, seconds, self._history.copy(), stages

    def restore(self, snapshot: Any) -> None:
        """Go back (or forth) to where a snapshot was taken. Real time stays what it is."""
        numbers, joint, seconds, history, stages = snapshot
        self.numbers, self._history = numbers.copy(), history.copy()
        self._joint = {globs: known.copy() for globs, known in joint.items()}
        if self.sessions.clock is None:
            self.sessions.clock_s[:] = seconds
        elif isinstance(self.sessions.clock, VirtualClock):
            self.sessions.clock.set(seconds)
        for stage, (keys, memory) in zip(self.stages, stages, strict=True):
            stage.resume(keys, memory)


class _Forward:
    """Passes calls on to the faults from a position on."""

    __slots__ = ("_pipeline", "_position")

    def __init__(self, pipeline: Pipeline, position: int) -> None:
        self._pipeline, self._position = pipeline, position

    def __call__(self, calls: Calls) -> Steps:
        return self._pipeline._run(self._position, calls)


@lru_cache(maxsize=4096)
def _fits(globs: tuple[str, ...], tool: str) -> bool:
    return matches(tool, globs)


def _trip(calls: Calls) -> Trip:
    return Trip(None if calls.deadline_s is None else float(calls.deadline_s[0]), calls.flight.log)


_FREE = Trip()


_NOTHING = Reply(LOST, False)
_NO_REPLIES = Replies(0)
_NO_JOINT: Mapping[tuple[str, ...], Rows] = {}
