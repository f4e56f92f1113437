"""Stale and repeated: answers from before, and actions that come late, twice, or in another order."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from worldsim.faults import leafwise
from worldsim.faults.exchange import Call, Forward, Passing, Reply
from worldsim.faults.fault import Context, Fault, LeafFault, count, matches, number, option
from worldsim.spaces import Leaf

_HOLD, _DRAW = 3, 4  # lanes of the dice


@dataclass(frozen=True, kw_only=True)
class _Stale(LeafFault):
    """Replies show what they showed some calls ago, in the leaves that are targets. What was done is done.

    Records: the kind of the fault (age: so many answers ago).
    """

    @property
    @abstractmethod
    def oldest(self) -> int:
        """The greatest age that it gives."""

    @abstractmethod
    def age(self, call: Call, context: Context) -> int:
        """How many answers ago this reply is from."""

    @property
    def passing(self) -> Passing:
        return Passing.AS_IS

    def begin(self, payload: Any, context: Context) -> None:
        context.memory["answers"] = [leafwise.copied(payload)]

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        reply = forward(call)
        if not reply.ok:
            return reply
        answers = context.memory["answers"]
        answers.append(leafwise.copied(reply.payload))
        del answers[: -1 - self.oldest]
        age = min(self.age(call, context), len(answers) - 1)
        if not age:
            return reply
        payload = context.mixed(reply.payload, answers[-1 - age])
        if leafwise.alike(payload, reply.payload):
            return reply
        context.record(self.kind, age=age)
        return reply._replace(payload=payload)


@dataclass(frozen=True, kw_only=True)
class PreviousAnswer(_Stale):
    """Some replies are the previous answer again.

    | severity | share |
    |----------|-------|
    | 0.5      | 20 %  |
    | 1        | 40 %  |

    Records: `previous_answer` (age: 1).
    """

    kind: ClassVar[str] = "previous_answer"

    rate: float = number(0.4, 0, 1, "share of the replies that are the previous answer at severity 1")

    @property
    def share(self) -> float:
        """Share of the replies that are the previous answer."""
        return self.severity * self.rate

    @property
    def oldest(self) -> int:
        return 1

    def age(self, call: Call, context: Context) -> int:
        return int(context.uniform() < self.share)


@dataclass(frozen=True, kw_only=True)
class StaleCache(_Stale):
    """A cache answers: it is filled every so many calls, and its answers grow old in between.

    | severity | oldest |
    |----------|--------|
    | 0.25     | 2      |
    | 0.5      | 4      |
    | 1        | 8      |

    `oldest` is the age, in answers, just before the cache is filled again. Records: `stale_cache` (age).
    """

    kind: ClassVar[str] = "stale_cache"

    calls: int = count(8, 1, 1000, "age just before the cache is filled again, in answers, at severity 1")

    @property
    def oldest(self) -> int:
        """Age just before the cache is filled again, in answers."""
        return math.ceil(self.severity * self.calls)

    def age(self, call: Call, context: Context) -> int:
        return (call.number + 1) % (self.oldest + 1)  # the cache is filled when the episode starts


@dataclass(frozen=True, kw_only=True)
class DelayedObservation(_Stale):
    """Observations arrive late by a number of calls that changes now and then.

    | severity | least | oldest |
    |----------|-------|--------|
    | 0.25     | 0     | 1      |
    | 0.5      | 0     | 2      |
    | 1        | 0     | 4      |

    The delay is drawn evenly from `least` to `oldest` and then held for the next call with probability `hold`.
    Records: `delayed_observation` (age).
    """

    kind: ClassVar[str] = "delayed_observation"

    min_calls: int = count(0, 0, 1000, "shortest delay at severity 1, in calls")
    max_calls: int = count(4, 0, 1000, "longest delay at severity 1, in calls")
    hold: float = number(0.5, 0, 1, "probability that a call has the same delay as the one before")

    @property
    def least(self) -> int:
        """Shortest delay in calls."""
        return min(round(self.severity * self.min_calls), self.oldest)

    @property
    def oldest(self) -> int:
        """Longest delay in calls."""
        return math.ceil(self.severity * self.max_calls)

    def age(self, call: Call, context: Context) -> int:
        return _held_delay(self.least, self.oldest, self.hold, call, context)


def _held_delay(least: int, most: int, hold: float, call: Call, context: Context) -> int:
    """A delay drawn evenly from a range, and held from call to call with probability `hold`."""
    drawn = context.memory.setdefault("drawn", -1)  # the call at which the present delay was drawn
    reached = context.memory.get("reached", -1)
    for index in range(reached + 1, call.number + 1):
        if drawn < 0 or context.dice.uniform(index, _HOLD) >= hold:
            drawn = index
    context.memory.update(drawn=drawn, reached=call.number)
    return least + int(context.dice.uniform(drawn, _DRAW) * (most - least + 1))


@dataclass(frozen=True, kw_only=True)
class EventualConsistency(_Stale):
    """What was written is seen only some calls later: until then, replies show what they showed before the write.

    | severity | oldest |
    |----------|--------|
    | 0.25     | 2      |
    | 0.5      | 3      |
    | 1        | 6      |

    `oldest` is the number of calls, the write's own counted, that do not show it. Name the tools that write in `writes`
    and the leaves that lag in `targets`: a service mostly tells at once how the call itself went.
    Records: `eventual_consistency` (age).
    """

    kind: ClassVar[str] = "eventual_consistency"

    calls: int = count(6, 1, 1000, "calls that do not show a write at severity 1")
    writes: tuple[str, ...] = option(("*",), "globs over the tools that write")

    @property
    def oldest(self) -> int:
        """Calls, the write's own counted, that do not show it."""
        return math.ceil(self.severity * self.calls)

    def age(self, call: Call, context: Context) -> int:
        recent = context.memory.setdefault("written", [])  # one flag for each of the last answers
        recent.append(matches(call.tool, self.writes))
        del recent[: -self.oldest]
        return len(recent) - recent.index(True) if True in recent else 0


# --- actions ---


@dataclass(frozen=True, kw_only=True)
class DuplicateExecution(Fault):
    """Some calls are carried out twice, and the second answer arrives: a retry that nobody asked for.

    | severity | share |
    |----------|-------|
    | 0.5      | 15 %  |
    | 1        | 30 %  |

    Records: `duplicate_execution`.
    """

    kind: ClassVar[str] = "duplicate_execution"

    rate: float = number(0.3, 0, 1, "share of the calls that are carried out twice at severity 1")

    @property
    def share(self) -> float:
        """Share of the calls that are carried out twice."""
        return self.severity * self.rate

    def strikes(self, uniforms: NDArray[np.float64], leaves: tuple[Leaf, ...] | None) -> NDArray[np.bool_]:
        return uniforms < self.share

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        if context.uniform() < self.share:
            context.record(self.kind)
            forward(call)
        return forward(call)


@dataclass(frozen=True, kw_only=True)
class ReorderedDelivery(Fault):
    """Some calls are overtaken by the next one: carried out after it, while the caller believes that they are done.

    | severity | share |
    |----------|-------|
    | 0.5      | 15 %  |
    | 1        | 30 %  |

    A call that is held back is answered with the last answer; the reply to the next one comes after both.
    Records: `reordered_delivery` (held: the number of the call; lost: "request" where it is held back).
    """

    kind: ClassVar[str] = "reordered_delivery"

    rate: float = number(0.3, 0, 1, "share of the calls that are held back at severity 1, if none is already")

    @property
    def share(self) -> float:
        """Share of the calls that are held back, if none is already."""
        return self.severity * self.rate

    def begin(self, payload: Any, context: Context) -> None:
        context.memory.update(last=leafwise.copied(payload), held=None)

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        memory = context.memory
        if memory["held"] is None and context.uniform() < self.share:
            memory["held"] = (call.tool, dict(call.arguments), call.number)
            context.record(self.kind, held=call.number, lost="request")
            return Reply(leafwise.copied(memory["last"]))
        reply = forward(call)
        if memory["held"] is not None:
            tool, arguments, held = memory["held"]
            context.record(self.kind, held=held)
            reply = forward(Call(tool, arguments, call.number))
            memory["held"] = None
        if reply.ok:
            memory["last"] = leafwise.copied(reply.payload)
        return reply


@dataclass(frozen=True, kw_only=True)
class DelayedAction(Fault):
    """What is carried out is what was asked for some calls ago.

    | severity | least | most |
    |----------|-------|------|
    | 0.25     | 0     | 1    |
    | 0.5      | 0     | 2    |
    | 1        | 0     | 4    |

    The delay is drawn evenly from `least` to `most` calls and then held for the next call with probability `hold`.
    Before the first call has come through, it is carried out at once. Records: `delayed_action` (age) where something
    else was carried out than was asked for.
    """

    kind: ClassVar[str] = "delayed_action"

    min_calls: int = count(0, 0, 1000, "shortest delay at severity 1, in calls")
    max_calls: int = count(4, 0, 1000, "longest delay at severity 1, in calls")
    hold: float = number(0.5, 0, 1, "probability that a call has the same delay as the one before")

    @property
    def least(self) -> int:
        """Shortest delay in calls."""
        return min(round(self.severity * self.min_calls), self.most)

    @property
    def most(self) -> int:
        """Longest delay in calls."""
        return math.ceil(self.severity * self.max_calls)

    @property
    def passing(self) -> Passing:
        return Passing.CHANGED

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        asked = context.memory.setdefault("asked", [])
        asked.append((call.tool, dict(call.arguments)))
        del asked[: -1 - self.most]
        age = min(_held_delay(self.least, self.most, self.hold, call, context), len(asked) - 1)
        return _carried_out_instead(self.kind, asked[-1 - age], call, forward, context, age=age)


@dataclass(frozen=True, kw_only=True)
class StickyAction(Fault):
    """Some calls carry out again what the last one did (Machado et al. 2018, sticky actions).

    | severity | share  |
    |----------|--------|
    | 0.5      | 12.5 % |
    | 1        | 25 %   |

    Records: `sticky_action` where something else was carried out than was asked for.
    """

    kind: ClassVar[str] = "sticky_action"

    rate: float = number(0.25, 0, 1, "share of the calls that repeat the last action at severity 1")

    @property
    def share(self) -> float:
        """Share of the calls that repeat the last action."""
        return self.severity * self.rate

    @property
    def passing(self) -> Passing:
        return Passing.CHANGED

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        last = context.memory.get("last")
        sticks = last is not None and context.uniform() < self.share
        chosen = last if last is not None and sticks else (call.tool, dict(call.arguments))
        context.memory["last"] = chosen
        return _carried_out_instead(self.kind, chosen, call, forward, context)


def _carried_out_instead(
    kind: str, chosen: tuple[str, Any], call: Call, forward: Forward, context: Context, **details: Any
) -> Reply:
    """Carry out the chosen tool and arguments as this call, recorded if they are others."""
    tool, arguments = chosen
    if tool == call.tool and leafwise.alike(arguments, dict(call.arguments)):
        return forward(call)
    context.record(kind, **details)
    return forward(Call(tool, arguments, call.number))
