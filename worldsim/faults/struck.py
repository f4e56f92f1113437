"""Faults written for many calls at once, with arrays. One call is a batch of one, so both doors do the same."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from worldsim.faults.chance import Draws, Words, addresses, splitmix, uniforms
from worldsim.faults.exchange import LOST, Call, Forward, Record, Reply
from worldsim.faults.fault import Context, Fault
from worldsim.faults.many.calls import Calls
from worldsim.faults.many.log import Details, Log
from worldsim.faults.many.past import Past
from worldsim.faults.many.payloads import Rows
from worldsim.faults.many.replies import Replies
from worldsim.spaces import Leaf

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
ForwardMany = Callable[[Calls], Replies]
"""Passes the calls of some environments on, to the next fault or to the environments."""


class Struck:
    """n calls, of as many of N environments, that one fault strikes at the same time.

    contexts: of all N environments. rows: (n,) which are struck. numbers: (n,) of their calls in their episodes.
    keys: (n,) of their dice. lanes: (n,) where the draws of those begin. uniforms: (n,) what `Context.uniform` gives.
    asked: the calls of all environments that call, these among them.
    memory: of the fault, for all N environments. seconds: (N,) on their clocks. log: where records go. Without those
    two the contexts' own clocks and records count.
    """

    def __init__(
        self,
        contexts: Sequence[Context],
        rows: Rows,
        numbers: NDArray[np.int64],
        keys: Words,
        lanes: Words,
        uniforms: Floats,
        asked: Calls,
        memory: dict[str, Any],
        seconds: Floats | None = None,
        log: Log | None = None,
    ) -> None:
        self.rows, self.numbers, self.uniforms, self.asked, self.memory = rows, numbers, uniforms, asked, memory
        self.kept: dict[str, Any] = {}  # what `before` leaves for `after`
        self._contexts, self._keys, self._lanes, self._seconds, self._log = contexts, keys, lanes, seconds, log

    @classmethod
    def alone(cls, call: Call, context: Context) -> "Struck":
        """One call of one environment."""
        numbers, uniforms, dice = np.array([call.number]), np.array([context.uniform()]), context.dice
        return cls((context,), _FIRST, numbers, dice.key, dice.lane, uniforms, Calls.single(call), context.memory)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: Any) -> "Struck":
        """Some of these calls, by positions or mask; these very ones where the mask is true for all."""
        if isinstance(which, np.ndarray) and which.dtype == np.bool_ and np.count_nonzero(which) == len(self):
            return self
        return Struck(
            self._contexts,
            self.rows[which],
            self.numbers[which],
            self._keys[which],
            self._lanes[which],
            self.uniforms[which],
            self.asked,
            self.memory,
            self._seconds,
            self._log,
        )

    @property
    def count(self) -> int:
        """N."""
        return len(self._contexts)

    @cached_property
    def draws(self) -> Draws:
        """What else these calls draw."""
        return Draws(splitmix(self._lanes, self.numbers))

    @property
    def tools(self) -> NDArray[np.object_]:
        """The names of the tools that are called, (n,)."""
        return self.asked.tools(self.rows)

    def uniforms_of(self, indices: NDArray[np.int64], lane: int) -> Floats:
        """What `Dice.uniform` gives for other calls, `indices` (n,), of the same environments."""
        if len(self) == 1:  # its dice keep a block of them
            return np.array([self._contexts[int(self.rows[0])].dice.uniform(int(indices[0]), lane)])
        return uniforms(self._keys, indices, lane)

    def by_tool(self) -> Iterable[tuple[str, Mask]]:
        """Each tool that is called, and which of the calls, (n,), are calls of it."""
        tools = self.tools
        for tool in dict.fromkeys(tools.tolist()):
            yield tool, tools == tool

    def numbers_kept(self, name: str, start: int) -> NDArray[np.int64]:
        """Whole numbers that the fault remembers, (N,), to be written to; `start` until then."""
        if name not in self.memory:
            self.memory[name] = np.full(self.count, start)
        kept: NDArray[np.int64] = self.memory[name]
        return kept

    def past(self, name: str, depth: int) -> Past:
        """The last `depth` payloads of each environment that the fault was given to remember under this name."""
        if name not in self.memory:
            self.memory[name] = Past(self.count, depth)
        past: Past = self.memory[name]
        return past

    def episode_draws(self, name: str) -> Draws:
        """Draws that stay the same for the whole episode; others for each name."""
        return Draws(addresses(self._keys, -1)).lane(crc32(name.encode()))

    @property
    def first(self) -> Context:
        """A context, for what is the same in all of them: leaves, missing, plain."""
        return self._contexts[0]

    @property
    def known_leaves(self) -> tuple[Leaf, ...]:
        """The leaves that the fault may change, as far as a space tells them."""
        return self.first.leaves or ()

    def leaves(self, replies: Replies) -> tuple[Leaf, ...]:
        """The leaves that the fault may change in the replies, all of them of one form."""
        return self.first.leaves_in(replies.payload(int(self.rows[0])) if self.first.plain else None)

    def wait(self, seconds: Floats) -> None:
        """Time passes, (n,) seconds."""
        if self._seconds is not None:
            self._seconds[self.rows] += seconds
        else:
            for row, each in zip(self.rows.tolist(), seconds.tolist(), strict=True):
                self._contexts[row].clock.sleep(each)

    def record(self, kind: str, details: Details) -> None:
        """Note what was really done to each of these calls."""
        if not len(self):
            return
        if self._log is not None:
            self._log.note(self.rows, self.numbers, self.first.fault.kind, kind, details)
        else:
            self.first.now += [Record(self.first.number, self.first.fault.kind, kind, each) for each in details()]


_FIRST = np.zeros(1, np.int64)


@dataclass(frozen=True, kw_only=True)
class ArrayFault(Fault):
    """A fault that says with arrays what it does to the calls that it strikes.

    Most say what comes before the calls are passed on, and after. It remembers nothing of calls that `strikes` leaves
    out, and passes them on as they are.
    """

    def first_seen(self, struck: Struck, shown: Replies) -> None:  # noqa: B027  (most faults need nothing here)
        """Episodes start; `shown` is what the callers got before their first call."""

    def before(self, struck: Struck) -> Mask:
        """Before the calls are passed on: which of them, (n,), are not. By default all are."""
        return np.zeros(len(struck), np.bool_)

    def after(self, struck: Struck, replies: Replies) -> None:  # noqa: B027
        """When the replies are there: what becomes of those to the struck calls. There are none to calls held back."""

    def exchange_many(self, struck: Struck, forward: ForwardMany) -> Replies:
        """Carry out `struck.asked`, all of them: pass calls on by `forward` once or more often, and give the replies.

        It asks for calls of no environment, too: there is always something to show.
        """
        held_back = self.before(struck)
        replies = forward(struck.asked.without(struck.rows[held_back]))
        self.after(struck, replies)
        return replies

    def begin(self, payload: Any, context: Context) -> None:
        if type(self).first_seen is not ArrayFault.first_seen:
            self.first_seen(Struck.alone(Call("", {}, 0), context), Replies.single(Reply(payload)))

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        if not context.dice.through("strikes", partial(self.strikes, leaves=context.leaves), call.number):
            return forward(call)

        def forward_one(calls: Calls) -> Replies:
            return Replies.single(forward(calls.of(0)) if len(calls.rows) else Reply(LOST, False))

        return self.exchange_many(Struck.alone(call, context), forward_one).of(0)
