"""What effects have in common: the calls that one acts on, its memory, and how it forwards calls.

An effect is a generator over calls that are in flight together: it yields calls to forward them and is sent the
replies, and it yields a `Wait` to let time pass. One call is a batch of one. What drives the generator (a function
call, a coroutine, a step of a vector of environments) executes calls and lets time pass in its own way, so an effect is
written once for all of them.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sized
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeVar
from zlib import crc32

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults.arrays import Mask, Rows
from worldsim.faults.call_batch import CallBatch
from worldsim.faults.calls import Call, Unchangeable
from worldsim.faults.fault_log import CallIdentity, Details
from worldsim.faults.keys import CallRandom, Keys, fold_in, last_where
from worldsim.faults.parameters import EVERYTHING, matches
from worldsim.faults.payload_history import Combine, PayloadHistory
from worldsim.faults.payloads import Payloads
from worldsim.faults.replies import Replies
from worldsim.faults.trees import ABSENT, copied, get, plain_leaves, put
from worldsim.spaces import Floats, Leaf

T = TypeVar("T")


class Wait(NamedTuple):
    """Time passes for some calls: (n,) seconds, or less where their callers give up before."""

    calls: CallBatch
    rows: Rows
    seconds: Floats


EffectGenerator = Generator[CallBatch | Wait, Replies | None, Replies]
"""An effect under way."""

ForwardCalls = Callable[[CallBatch], EffectGenerator]
"""Forwards calls to the next fault, and in the end to the service: `replies = yield from forward(calls)`."""

ByCallIndex = Callable[[Floats, Rows], NDArray[Any]]
"""A function of nothing but the trigger uniforms and the indices of calls, (n,), from 0 for each tool."""

SESSION = 2**32  # folded into a fault's key for what is drawn once a session; tools take the numbers below


class Memory:
    """The state of a fault between calls, of N sessions. A session's part is reset when it begins."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._arrays: dict[str, tuple[NDArray[Any], Any]] = {}
        self._objects: dict[str, tuple[list[Any], Callable[[], Any]]] = {}
        self._histories: dict[str, PayloadHistory] = {}

    def array(self, name: str, fill: Any, shape: tuple[int, ...] = (), dtype: Any = None) -> NDArray[Any]:
        """An array (N, *shape), to be written to; `fill` where nothing was written yet."""
        if name not in self._arrays:
            self._arrays[name] = np.full((self.count, *shape), fill, dtype), fill
        return self._arrays[name][0]

    def objects(self, name: str, make: Callable[[], T]) -> list[T]:
        """An object for each session, made anew where one begins."""
        if name not in self._objects:
            self._objects[name] = [make() for _ in range(self.count)], make
        return self._objects[name][0]

    def history(self, name: str, depth: int) -> PayloadHistory:
        """The last `depth` payloads that were put in under this name."""
        if name not in self._histories:
            self._histories[name] = PayloadHistory(self.count, depth)
        return self._histories[name]

    def begin(self, rows: Rows) -> None:
        """Sessions begin."""
        for array, fill in self._arrays.values():
            array[rows] = fill
        for objects, make in self._objects.values():
            for row in rows.tolist():
                objects[row] = make()
        for history in self._histories.values():
            history.begin(rows)

    def copy(self) -> "Memory":
        """The same, to go on by itself."""
        other = Memory(self.count)
        other._arrays = {name: (array.copy(), fill) for name, (array, fill) in self._arrays.items()}
        other._objects = {name: (copy.deepcopy(each), make) for name, (each, make) in self._objects.items()}
        other._histories = copy.deepcopy(self._histories)
        return other


@dataclass(frozen=True)
class Scope:
    """What is the same for all calls that a fault acts on.

    kind: of the fault. leaves: of replies, as far as a space tells them and the fault may change them; None: replies
    are plain JSON. targets: globs over what it may change. missing: leaf name -> what stands for "unknown" there.
    one_request: whether all calls ask for the same, as steps do whose action is no named tool. text: the space of
    replies that are a text, whose fields are plain JSON where it holds any. is_representable: whether a session has an
    action that makes a call, which a fault may have changed; None: it can make any.
    """

    kind: str
    leaves: tuple[Leaf, ...] | None
    targets: tuple[str, ...]
    missing: dict[str, Any]
    one_request: bool
    text: spaces.Text | None = None
    is_representable: Callable[[int, Call], bool] | None = None

    def for_payload(self, payload: Any) -> "Scope":
        """That of one payload: a text without JSON is a leaf of its space, as every other observation is."""
        if self.text is None or not isinstance(payload, str):
            return self
        leaf = Leaf((), self.text)
        return replace(self, leaves=(leaf,) if self.aims_at(leaf.name) else ())

    @property
    def plain(self) -> bool:
        """Whether payloads are plain JSON, which has no space."""
        return self.leaves is None

    def leaves_in(self, payload: Any) -> tuple[Leaf, ...]:
        """The leaves of a payload that the fault may change: those of the space, or of plain JSON as it is now."""
        if self.leaves is not None:
            return self.leaves
        found = plain_leaves(payload)
        return tuple(found) if self.targets == EVERYTHING else tuple(leaf for leaf in found if self.aims_at(leaf.name))

    def aims_at(self, name: str) -> bool:
        """Whether a place in the payload, by its name, is among the fault's targets."""
        return matches(name, self.targets)

    def combine(self, payload: Any, other: Any) -> Any:
        """A payload with the leaves that the fault may change taken from another one, where both have them.

        Plain JSON of which it may change everything becomes the other one.
        """
        if self.plain and self.targets == EVERYTHING:
            return copied(other)
        for leaf in self.leaves_in(payload):
            value = get(other, leaf.path)
            if value is not ABSENT and get(payload, leaf.path) is not ABSENT:
                payload = put(payload, leaf.path, copied(value))
        return payload


class StageProtocol(Protocol):
    """What `AffectedCalls` needs of a `FaultStage`: what its calls have in common, and their random numbers."""

    scope: Scope
    memory: Memory
    session_keys: Keys  # (N,)

    def keys(self, rows: Rows, identity: CallIdentity) -> Keys:
        """(n,) the fault's keys for the tools that are called, of all draws but those that trigger it."""
        ...

    def trigger_uniforms(self, rows: Rows, identity: CallIdentity) -> Floats:
        """(n,) the uniforms that decide whether the fault is triggered."""
        ...

    def triggered(self, calls: CallBatch, rows: Rows) -> Mask:
        """(n,) on which calls the fault triggers."""
        ...

    def by_call_index(self, name: str, function: "ByCallIndex", batch: "AffectedCalls") -> NDArray[Any]:
        """`AffectedCalls.by_call_index`."""
        ...

    def now_s(self, rows: Rows) -> Floats:
        """(n,) the time on the clocks, in seconds."""
        ...


class AffectedCalls:
    """n calls, each of another session, on which one fault acts at the same time.

    calls: all that are passed on together, these among them. rows: (n,) the sessions of these.
    """

    def __init__(
        self,
        source: StageProtocol,
        calls: CallBatch,
        rows: Rows,
        uniforms: Floats | None = None,
        scope: Scope | None = None,
    ) -> None:
        self.calls, self.rows, self.memory = calls, rows, source.memory
        self.scope = source.scope if scope is None else scope
        self._source, self._uniforms = source, uniforms

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: Any) -> "AffectedCalls":
        """Some of these calls, by positions or mask; these very ones where the mask is true for all."""
        if isinstance(which, np.ndarray) and which.dtype == np.bool_ and np.count_nonzero(which) == len(self):
            return self
        drawn = None if self._uniforms is None else self._uniforms[which]
        return AffectedCalls(self._source, self.calls, self.rows[which], drawn, self.scope)

    def one_by_one(self, replies: Replies) -> "list[AffectedCalls]":
        """Each of these calls by itself, where what is answered is plain JSON and built otherwise each time."""
        if not self.scope.plain:
            return [self]
        each = [self] if len(self) == 1 else [self[[position]] for position in range(len(self))]
        if self.scope.text is None:
            return each
        forms = [self.scope.for_payload(replies.payload(int(one.rows[0]))) for one in each]
        return [
            AffectedCalls(self._source, self.calls, one.rows, one._uniforms, form)
            for one, form in zip(each, forms, strict=True)
        ]

    def with_calls(self, calls: CallBatch, which: Mask) -> "AffectedCalls":
        """Some of these calls, (n,), when others than `calls` are to be passed on."""
        return AffectedCalls(self._source, calls, self.rows[which], scope=self.scope)

    @cached_property
    def numbers(self) -> Rows:
        """(n,) the index of each call among those of its tool, from 0."""
        return self.calls.identity.numbers[self.rows]

    @property
    def uniforms(self) -> Floats:
        """(n,) a number in [0, 1) a call, the one that decides whether the fault is triggered."""
        if self._uniforms is None:
            self._uniforms = self._source.trigger_uniforms(self.rows, self.calls.identity)
        return self._uniforms

    @cached_property
    def _keys(self) -> Keys:
        return self._source.keys(self.rows, self.calls.identity)

    @cached_property
    def random(self) -> CallRandom:
        """All else that these calls draw."""
        return CallRandom(fold_in(self._keys, self.numbers))

    @property
    def triggered(self) -> Mask:
        """On which of these calls, (n,), the fault triggers; it only observes the others."""
        return self._source.triggered(self.calls, self.rows)

    @property
    def tools(self) -> NDArray[np.object_]:
        """The names of the tools that are called, (n,)."""
        return self.calls.tools(self.rows)

    def last_where(self, decides: Callable[[CallRandom], Mask]) -> tuple[Rows, CallRandom]:
        """The last call of each call's tool, up to itself, at which something was decided: its number and its draws.

        decides: from what calls draw, (m,), at which it is.
        """
        keys = self._keys

        def decided(rows: Rows, numbers: Rows) -> Mask:
            drawn = CallRandom(fold_in(np.repeat(keys[rows], numbers.shape[1]), numbers.ravel()))
            return decides(drawn).reshape(numbers.shape)

        last = last_where(self.numbers, decided)
        return last, CallRandom(fold_in(keys, last))

    def session_random(self, name: str) -> CallRandom:
        """Draws that stay the same for the whole session; others for each name."""
        return CallRandom(fold_in(self._source.session_keys[self.rows], SESSION + crc32(name.encode())))

    def request_keys(self) -> list[Any] | None:
        """A key for the request of each call, equal for equal requests; None where all calls are the same request."""
        return None if self.scope.one_request else self.calls.request_keys(self.rows)

    def leaves(self, replies: Replies) -> tuple[Leaf, ...]:
        """The leaves that the fault may change in the replies, all of them of one form."""
        return self.scope.leaves_in(replies.payload(int(self.rows[0])) if self.scope.plain else None)

    @property
    def combine(self) -> Combine:
        """`Scope.combine`."""
        return self.scope.combine

    def answered(self, replies: Replies) -> "AffectedCalls":
        """The calls that got a payload."""
        return self[replies.ok[self.rows]]

    def changeable(self, replies: Replies) -> "AffectedCalls":
        """Those of these answered calls whose payload faults may change."""
        if not self.scope.plain:
            return self
        fixed = [isinstance(replies.payload(row), Unchangeable) for row in self.rows.tolist()]
        return self[~np.array(fixed)] if any(fixed) else self

    @property
    def now_s(self) -> Floats:
        """(n,) the time on the clocks, in seconds."""
        return self._source.now_s(self.rows)

    def by_call_index(self, name: str, function: "ByCallIndex") -> NDArray[Any]:
        """The values of a function of `uniforms` and `numbers`, (n,), which must depend on nothing else.

        For a single session they are computed for many calls ahead and cached under `name`: most of what numpy costs
        for one call is overhead.
        """
        return self._source.by_call_index(name, function, self)

    def wait(self, seconds: Floats) -> EffectGenerator:
        """Time passes, (n,) seconds, or less where a caller gives up: `yield from batch.wait(seconds)`."""
        yield Wait(self.calls, self.rows, seconds)
        return NO_REPLIES

    def record(self, kind: str, details: Details) -> None:
        """Record what was done to each of these calls."""
        if len(self.rows):
            self.calls.in_flight.log.add(self.rows, self.calls.identity, self.scope.kind, kind, details)


NO_REPLIES = Replies(0)


class Effect(ABC):
    """What a fault does to the calls that it triggers on."""

    @property
    def may_drop(self) -> bool:
        """Whether it may keep a call from being executed."""
        return False

    @property
    def may_repeat(self) -> bool:
        """Whether it may have a call executed more than once, or later than it was made."""
        return False

    def needs_all_calls(self, scope: Scope) -> bool:
        """Whether `run` needs all calls of its tools, to remember those on which it does not trigger, too."""
        return False

    @abstractmethod
    def run(self, batch: AffectedCalls, forward: ForwardCalls) -> EffectGenerator:
        """Carry all of `batch.calls` through this fault: `forward` calls once or more often, and return the replies.

        Where all calls are dropped it forwards an empty batch, so that there are replies to fill in.
        """

    def begin(self, batch: AffectedCalls, initial: Replies) -> None:  # noqa: B027  (most effects need nothing here)
        """Sessions begin; `initial` is what the callers got before their first call."""


def same_details(batch: Sized, **details: Any) -> Details:
    """The same details for every record."""
    count = len(batch)
    return lambda: [details for _ in range(count)]


def payloads_of(replies: Payloads, rows: Rows) -> list[Any]:
    """The payloads of these sessions one by one."""
    return [replies.payload(row) for row in rows.tolist()]
