"""A fault among the others of a plan: on which calls it acts, and its random numbers.

A fault is triggered on a call of one of its `tools` where its schedule is active and two draws, which do not depend on
each other, fall below their limits:

    P(triggered) = P(scheduled) * Fault.probability * Composition.trigger_probability

scheduled: by `Fault.schedule`, which is active at certain calls or for a time. probability: a parameter of every fault.
trigger_probability: of the kind, mostly the severity times its `rate`. The draws are those of the call, whatever the
limits, so a greater probability or severity triggers on the same calls and on more.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from worldsim.errors import ConfigError
from worldsim.faults.arrays import Rows
from worldsim.faults.call_batch import FIRST_ROW, CallBatch, InFlight
from worldsim.faults.clock import Clock
from worldsim.faults.definition import Composition, Fault
from worldsim.faults.effects.base import AffectedCalls, ByCallIndex, Effect, Memory, Scope, Wait
from worldsim.faults.fault_log import CallIdentity, SharedCallIndices
from worldsim.faults.keys import Keys, fold_in, to_unit_interval
from worldsim.faults.parameters import EVERYTHING, matches, suggest
from worldsim.faults.payloads import Payloads
from worldsim.faults.replies import Replies
from worldsim.faults.schedule import Always, Bursts, TimeWindow
from worldsim.spaces import Floats, Leaf

BLOCK = 256  # calls of a single session for which triggers are computed ahead
EFFECT, TRIGGER, PROBABILITY, SCHEDULE = range(4)  # streams of random numbers, folded into a tool's key; see above
STREAMS = np.arange(4)


class PlacedFault(NamedTuple):
    """A fault, with what its place among other faults decides.

    seeds: the fault's or its plan's seed, its kind, and how many of that kind are inside it. With a session they make
    the keys of its random numbers. leaves: of replies, that it may change; None where these are plain JSON.
    """

    fault: Fault
    composition: Composition
    seeds: tuple[int, str, int]
    leaves: tuple[Leaf, ...] | None


def checked_seed(seed: int) -> int:
    """The seed of a plan. Raises ConfigError unless it is a whole number, 0 or more."""
    if not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"the seed of faults must be a whole number, 0 or more; got {seed!r}")
    return seed


def place_faults(
    faults: Sequence[tuple[Fault, int]],
    leaves: tuple[Leaf, ...] | None,
    tools: Sequence[str] | None,
    kinds: Counter[str],
) -> list[PlacedFault]:
    """Faults, outermost first and each with the seed of its plan, less those that can never do anything.

    tools: all that there are, None where they are not known. kinds: how many inner faults there are of each kind. All
    faults are added to it, those that are left out too: two of a kind draw different numbers, and a fault draws the
    same ones at every severity of the others.
    Raises ConfigError for tools or targets that match nothing.
    """
    found: list[PlacedFault] = []
    # From the innermost out: a fault's seeds depend on how many of its kind are inside it, and on none outside.
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
            found.insert(0, PlacedFault(fault, composition, seeds, chosen))
    return found


def require_match(fault: Fault, what: str, globs: Sequence[str], names: Sequence[str]) -> None:
    """Raise ConfigError for a glob that fits none of the names."""
    for glob in globs:
        if not any(matches(name, [glob]) for name in names):
            raise ConfigError(f"{fault.kind}: {what} '{glob}' matches nothing. {suggest(glob, names)}")


class FaultStage:
    """A fault that acts on N sessions: which of their calls it affects, its random numbers and its memory."""

    def __init__(self, placed: PlacedFault, sessions: "Sessions", **scope: Any) -> None:
        fault, composition = placed.fault, placed.composition
        self.fault, self.effect, self.seeds = fault, composition.effect, placed.seeds
        self.scope = Scope(fault.kind, placed.leaves, composition.targets, **scope)
        self.memory = Memory(sessions.count)
        self._sessions = sessions
        self.session_keys: Keys = np.zeros(sessions.count, np.uint64)
        self._tool_keys: Keys = np.zeros((len(STREAMS), sessions.count, 0), np.uint64)
        schedule = fault.schedule
        self._always_scheduled = isinstance(schedule, Always)
        self._scheduled_by_time = isinstance(schedule, TimeWindow)
        self._draws_schedule = isinstance(schedule, Bursts)
        # The globs over tools whose calls the schedule counts together; None: it counts each tool's by themselves.
        self.shared_counter_key = None if getattr(schedule, "per_tool", True) else fault.tools
        self._trigger_probability = composition.trigger_probability
        self._needs_all_calls = self.effect.needs_all_calls(self.scope)
        self._every_tool = fault.tools == EVERYTHING
        # Whether the schedule depends on nothing but the tool and the index of the call, so that it can be worked out
        # for many calls ahead.
        self._scheduled_by_call_index = not (
            self._always_scheduled or self._scheduled_by_time or self.shared_counter_key is not None
        )
        # Whether no draw and no schedule by call index is left, once the tool and the other schedules have agreed.
        self._triggers_whenever_scheduled = (
            not self._scheduled_by_call_index and fault.probability >= 1 and self._trigger_probability >= 1
        )
        # Of a single session: the results for a block of calls, with the number of the block.
        self._blocks: dict[Any, tuple[int, list[Any]]] = {}

    def start(self, rows: Rows, keys: Sequence[int], initial: Callable[[], Replies] | None) -> None:
        """Begin sessions `rows`, under a key each; `initial` is what they showed before their first calls."""
        self.session_keys[rows] = np.array(keys, np.uint64)
        self._add_tools()
        self._tool_keys[:, rows] = self._keys_of_tools(rows)
        self.memory.begin(rows)
        self._blocks = {}
        if initial is not None and type(self.effect).begin is not Effect.begin:
            count = self._sessions.count
            identity = CallIdentity(self._sessions.names, np.zeros(count, np.int64), np.full(count, -1), {})
            calls = CallBatch(rows, identity, Payloads(count), (), InFlight(count))
            self.effect.begin(AffectedCalls(self, calls, rows), initial())

    def _add_tools(self) -> None:
        """New tools get their keys when they are first called."""
        if len(self._sessions.names) > self._tool_keys.shape[2]:
            self._tool_keys = self._keys_of_tools(np.arange(self._sessions.count))

    def _keys_of_tools(self, rows: Rows) -> Keys:
        hashed = np.array(self._sessions.hashes, np.int64)
        return fold_in(fold_in(self.session_keys[rows][:, None], hashed), STREAMS[:, None, None])

    def _stream(self, stream: int) -> Keys:
        """(N, tools) keys of a stream of random numbers."""
        self._add_tools()
        keys: Keys = self._tool_keys[stream]
        return keys

    def keys(self, rows: Rows, identity: CallIdentity) -> Keys:
        """The fault's keys for the tools that are called, (n,), of all draws but those that trigger it."""
        return _select_tools(self._stream(EFFECT), rows, identity)

    def trigger_uniforms(self, rows: Rows, identity: CallIdentity) -> Floats:
        """The uniforms that decide whether the fault is triggered, (n,)."""
        if self._sessions.count == 1 and len(rows):
            return self._from_block("uniform", int(identity.tools[0]), int(identity.numbers[0]), _uniform)
        return self._uniforms(TRIGGER, rows, identity)

    def by_call_index(self, name: str, function: ByCallIndex, batch: AffectedCalls) -> NDArray[Any]:
        """The values of a function of the trigger uniforms and the indices of calls, (n,).

        For a single session they are computed for a block of `BLOCK` calls at once and cached under `name`.
        """
        if self._sessions.count > 1 or not len(batch):
            return function(batch.uniforms, batch.numbers)
        identity = batch.calls.identity
        return self._from_block(name, int(identity.tools[0]), int(identity.numbers[0]), function)

    def _from_block(self, name: str, tool: int, call_index: int, function: ByCallIndex) -> NDArray[Any]:
        """A function of the uniform and the index of a call, (1,), computed for a block of calls at a time."""
        block, offset = divmod(call_index, BLOCK)
        known = self._blocks.get((name, tool))
        if known is None or known[0] != block:
            call_indices = np.arange(block * BLOCK, (block + 1) * BLOCK)
            drawn = to_unit_interval(fold_in(self._stream(TRIGGER)[0, tool : tool + 1], call_indices))
            known = self._blocks[name, tool] = block, list(function(drawn, call_indices)[:, None])
        value: NDArray[Any] = known[1][offset]
        return value

    def now_s(self, rows: Rows) -> Floats:
        """The time on the clocks, (n,) in seconds."""
        return self._sessions.now_s(rows)

    def _uniforms(self, stream: int, rows: Rows, identity: CallIdentity) -> Floats:
        return to_unit_interval(
            fold_in(_select_tools(self._stream(stream), rows, identity), _select_rows(identity.numbers, rows))
        )

    def affected_calls(self, calls: CallBatch) -> AffectedCalls | None:
        """The calls that the effect gets: those it is triggered on, or, where it needs them, all of its tools.

        None where there are none.
        """
        rows, identity = calls.rows, calls.identity
        if not len(rows):
            return None
        if self._sessions.count == 1:
            return AffectedCalls(self, calls, rows) if self._acts_on_single(calls) else None
        if not self._every_tool:
            rows = rows[calls.calls_tool(rows, self.fault.tools)]
        if self._needs_all_calls:
            return AffectedCalls(self, calls, rows) if len(rows) else None
        if not self._always_scheduled and len(rows):
            rows = rows[self._scheduled(rows, identity)]
        if self.fault.probability < 1 and len(rows):
            rows = rows[self._uniforms(PROBABILITY, rows, identity) < self.fault.probability]
        drawn = None
        if self._trigger_probability < 1 and len(rows):
            drawn = self.trigger_uniforms(rows, identity)
            hit = drawn < self._trigger_probability
            rows, drawn = rows[hit], drawn[hit]
        return AffectedCalls(self, calls, rows, drawn) if len(rows) else None

    def triggered(self, calls: CallBatch, rows: Rows) -> NDArray[np.bool_]:
        """On which calls, (n,), of its tools the fault is triggered: by schedule and by both draws."""
        identity = calls.identity
        if self._sessions.count == 1 and len(rows):
            return np.array([self._is_triggered(int(identity.tools[0]), int(identity.numbers[0]), identity.shared)])
        hit = np.ones(len(rows), np.bool_) if self._always_scheduled else self._scheduled(rows, identity)
        if self.fault.probability < 1:
            hit = hit & (self._uniforms(PROBABILITY, rows, identity) < self.fault.probability)
        if self._trigger_probability < 1:
            hit = hit & (self.trigger_uniforms(rows, identity) < self._trigger_probability)
        return hit

    def _scheduled(self, rows: Rows, identity: CallIdentity) -> NDArray[np.bool_]:
        call_indices, keys = identity.numbers, self.session_keys
        if self.shared_counter_key is not None:
            call_indices = identity.shared[self.shared_counter_key]
            keys = fold_in(self.session_keys[rows], SCHEDULE)
        elif self._draws_schedule:
            keys = _select_tools(self._stream(SCHEDULE), rows, identity)
        elapsed_s = self._sessions.elapsed_s(rows) if self._scheduled_by_time else 0.0
        return self.fault.schedule.active(keys, _select_rows(call_indices, rows), elapsed_s)

    def _acts_on_single(self, calls: CallBatch) -> bool:
        """Whether the effect gets the call of a single session."""
        identity = calls.identity
        if not self._every_tool and not _tool_matches(self.fault.tools, calls.call(0).tool):
            return False
        return self._needs_all_calls or self._is_triggered(
            int(identity.tools[0]), int(identity.numbers[0]), identity.shared
        )

    def _is_triggered(self, tool: int, call_index: int, shared: SharedCallIndices) -> bool:
        """Whether it is triggered on a call of a single session. What its index alone decides is cached in blocks."""
        elapsed_s = self._sessions.elapsed_s(FIRST_ROW) if self._scheduled_by_time else 0.0
        if self._scheduled_by_time and not self.fault.schedule.active(self.session_keys, FIRST_ROW, elapsed_s)[0]:
            return False
        if self.shared_counter_key is not None and not self._is_scheduled_at(int(shared[self.shared_counter_key][0])):
            return False
        if self._triggers_whenever_scheduled:
            return True
        block, offset = divmod(call_index, BLOCK)
        known = self._blocks.get(tool)
        if known is None or known[0] != block:
            call_indices = np.arange(block * BLOCK, (block + 1) * BLOCK)
            known = self._blocks[tool] = block, self._triggered_block(tool, call_indices).tolist()
        return bool(known[1][offset])

    def _is_scheduled_at(self, shared_index: int) -> bool:
        """Whether a schedule that counts the calls of several tools together is active at this one of a session."""
        block, offset = divmod(shared_index, BLOCK)
        known = self._blocks.get("shared")
        if known is None or known[0] != block:
            call_indices = np.arange(block * BLOCK, (block + 1) * BLOCK)
            active = self.fault.schedule.active(fold_in(self.session_keys, SCHEDULE), call_indices, 0.0)
            known = self._blocks["shared"] = block, active.tolist()
        return bool(known[1][offset])

    def _triggered_block(self, tool: int, call_indices: Rows) -> NDArray[np.bool_]:
        """Which calls of a block, (BLOCK,), pass both draws and a schedule by call index."""
        found = np.ones(BLOCK, np.bool_)
        if self._scheduled_by_call_index:
            found &= self.fault.schedule.active(self._stream(SCHEDULE)[0, tool : tool + 1], call_indices, 0.0)
        for stream, probability in ((PROBABILITY, self.fault.probability), (TRIGGER, self._trigger_probability)):
            if probability < 1:
                keys = self._stream(stream)[0, tool : tool + 1]
                found &= to_unit_interval(fold_in(keys, call_indices)) < probability
        return found

    def acts_on(self, tool: str, position: int, call_index: int, shared: SharedCallIndices) -> bool:
        """Whether the effect gets this call of a single session, before there is a `CallBatch` of it.

        position: of the tool in the names. call_index: among the calls of the tool, from 0.
        """
        if not self._every_tool and not _tool_matches(self.fault.tools, tool):
            return False
        return self._needs_all_calls or self._is_triggered(position, call_index, shared)

    def may_act_on(self, tool: str, position: int, call_index: int) -> bool:
        """Whether the effect may get this call, as far as tool and index decide.

        Unlike `acts_on` it needs neither the time of the call nor how often other tools were called.
        """
        if self._scheduled_by_time or self.shared_counter_key is not None:
            return self._every_tool or _tool_matches(self.fault.tools, tool)
        return self.acts_on(tool, position, call_index, {})

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "effect"}  # effects are made of functions

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, effect=state["fault"].compose().effect)

    def restore(self, keys: Keys, memory: Memory) -> None:
        """Go to where a snapshot was taken."""
        self.session_keys, self.memory = keys.copy(), memory.copy()
        self._tool_keys = self._keys_of_tools(np.arange(self._sessions.count))
        self._blocks = {}


class Sessions:
    """What N sessions share whatever faults there are: the tools there are, and the time on each one's clock."""

    def __init__(self, count: int, names: Sequence[str], clock: Clock | None) -> None:
        self.count, self.clock = count, clock
        self.names: list[str] = []
        self.hashes: list[int] = []
        self.positions: dict[str, int] = {}
        self.clock_s: Floats = np.zeros(count)  # where there is no clock from outside
        self.started_s: Floats = np.zeros(count)  # on the clocks
        for name in names:
            self.position(name)

    def position(self, tool: str) -> int:
        """The tool's position among the names; new ones are added."""
        if tool not in self.positions:
            self.positions[tool] = len(self.names)
            self.names.append(tool)
            self.hashes.append(crc32(tool.encode()))
        return self.positions[tool]

    def now_s(self, rows: Rows) -> Floats:
        """The time on the clocks of these sessions, (n,) in seconds."""
        if self.clock is None:
            return self.clock_s[rows]
        return np.array([self.clock.now()] * len(rows))

    def begin(self, rows: Rows) -> None:
        """Sessions begin, now."""
        self.started_s[rows] = self.now_s(rows)

    def elapsed_s(self, rows: Rows) -> Floats:
        """Seconds since these sessions began, (n,)."""
        return self.now_s(rows) - self.started_s[rows]

    def apply_wait(self, wait: Wait) -> Floats:
        """The seconds that these calls wait, (n,): no longer than until their callers give up."""
        seconds = np.maximum(wait.seconds, 0.0)
        if wait.calls.deadline_s is not None:
            left = wait.calls.deadline_s[wait.rows] - self.now_s(wait.rows)
            seconds = np.minimum(seconds, np.maximum(left, 0.0))
        if self.count == 1:
            wait.calls.in_flight.waited_s[0] += float(seconds.sum())
        else:
            wait.calls.in_flight.waited_s[wait.rows] += seconds
        return seconds

    def apply_wait_single(self, wait: Wait) -> float:
        """The same for the one call of a single session, without arrays: it happens at every call of a slow service."""
        if not len(wait.rows):
            return 0.0
        seconds = max(float(wait.seconds[0]), 0.0)
        if wait.calls.deadline_s is not None and self.clock is not None:
            seconds = min(seconds, max(float(wait.calls.deadline_s[0]) - self.clock.now(), 0.0))
        wait.calls.in_flight.waited_s[0] += seconds
        return seconds


def _uniform(drawn: Floats, call_indices: Rows) -> Floats:
    return drawn


def _select_rows(values: NDArray[Any], rows: Rows) -> NDArray[Any]:
    """The values of some sessions; those very values where they are all."""
    return values if len(rows) == len(values) else values[rows]


def _select_tools(matrix: NDArray[Any], rows: Rows, identity: CallIdentity) -> NDArray[Any]:
    """What stands in a matrix (N, tools) for the tools that these sessions call, (n,)."""
    return _select_rows(matrix[:, 0], rows) if matrix.shape[1] == 1 else matrix[rows, identity.tools[rows]]


@lru_cache(maxsize=4096)
def _tool_matches(globs: tuple[str, ...], tool: str) -> bool:
    return matches(tool, globs)
