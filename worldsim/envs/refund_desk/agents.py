"""Reference agents for the refund desk: `Hasty`, `Blind`, `Careful`, and `Curious`, which only collects data.

Each class is an agent factory, `(observation_space, action_space) -> Agent`. They use only `observation["reply"]` and
`info["reply"]`, so they work in the real desk, under faults, and in the World. Only `Curious` is random. An agent is
written as a generator: it yields a call and is sent the reply.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Generator, Mapping
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np

from worldsim.envs.refund_desk.fields import (
    APPROVAL_ABOVE,
    DAYS_PER_AGE_STEP,
    FORM_FIELDS,
    LEDGER_STEP,
    PRICES,
    REPLY_FIELDS,
    RETURN_DAYS,
    DeskTool,
    Request,
    Shipping,
    Status,
    YesNo,
)
from worldsim.envs.refund_desk.replies import DeskReply, read_reply

T = TypeVar("T")
Program = Generator[int, DeskReply, T]

LOOK_UP, REFUND, REPLACE, REPLY, ESCALATE, CLOSE, WAIT = (
    int(tool) - 1 for tool in DeskTool if 0 < tool < DeskTool.OPEN
)
MAX_AGE = RETURN_DAYS // DAYS_PER_AGE_STEP
FIRST_DEAR = next(
    k for k, price in enumerate(PRICES, 1) if price > APPROVAL_ABOVE
)  # least amount class that needs approval


def open_(ticket: int) -> int:
    """The action that opens ticket 1, 2, ..."""
    return int(DeskTool.OPEN) - 2 + ticket


class Clerk(ABC):
    """Runs `_shift` against an environment."""

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        assert isinstance(observation_space, gym.spaces.Dict) and isinstance(action_space, gym.spaces.Discrete)
        reply = observation_space["reply"]
        assert isinstance(reply, gym.spaces.Dict)
        self._sizes = {name: int(reply[name].n) for name in REPLY_FIELDS}  # type: ignore[attr-defined]
        self._tickets = range(1, int(action_space.n) - int(DeskTool.OPEN) + 2)
        self.reset(0)

    def reset(self, seed: int) -> None:
        del seed  # nothing here is left to chance
        self._program = self._shift()
        self._begun = False

    def act(self, observation: Any, info: Mapping[str, Any]) -> np.int64:
        if self._begun:
            return np.int64(self._program.send(read_reply(observation, info, self._sizes)))
        self._begun = True
        return np.int64(next(self._program))

    @abstractmethod
    def _shift(self) -> Program[None]:
        """Handles all tickets, then waits forever."""


class Hasty(Clerk):
    """Gives every customer what was asked for, without looking up the order or reading the status of a call."""

    def _shift(self) -> Program[None]:
        for ticket in self._tickets:
            reply = yield open_(ticket)
            yield REPLACE if reply.request == Request.REPLACEMENT else REFUND
            yield CLOSE
        while True:
            yield WAIT


class Curious(Clerk):
    """Takes random decisions, so that recorded data also shows the consequences of wrong ones.

    For collecting only. If all recorded agents decline only what must be declined, a world learns that declining is
    always right.
    """

    def reset(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        super().reset(seed)

    def _shift(self) -> Program[None]:
        while True:
            for ticket in self._rng.permutation(self._tickets):
                yield open_(int(ticket))
                if self._rng.random() < 0.8:
                    yield LOOK_UP
                for decision in self._rng.choice((REFUND, REPLACE, REPLY, ESCALATE), self._rng.integers(1, 3)):
                    yield int(decision)
                yield CLOSE


class Blind(Clerk):
    """Follows the policy, but ignores missing fields, and repeats calls that failed, also payments.

    Without faults it makes the same calls as `Careful`.
    """

    RETRIES = 3

    def _shift(self) -> Program[None]:
        for ticket in self._tickets:
            yield from self._insist(open_(ticket))
            form = yield from self._insist(LOOK_UP)
            yield from self._settle(form)
            yield from self._insist(CLOSE)
        while True:
            yield WAIT

    def _insist(self, call: int) -> Program[DeskReply]:
        for _ in range(1 + self.RETRIES):
            reply = yield call
            if not reply.failed:
                break
        return reply

    def _settle(self, form: DeskReply) -> Program[None]:
        objection = (
            form.paid == YesNo.NO
            or form.shipping == Shipping.IN_TRANSIT
            or form.refunded == YesNo.YES
            or (form.age or 0) > MAX_AGE
        )
        if objection:
            yield from self._insist(REPLY)
        elif form.request == Request.REPLACEMENT:
            yield from self._insist(REPLACE)
        else:
            if (form.amount or 0) >= FIRST_DEAR and form.approved != YesNo.YES:
                yield from self._insist(ESCALATE)
            yield from self._insist(REFUND)


class Careful(Clerk):
    """Acts only on complete and consistent forms, and never repeats a payment before knowing whether it was made.

    Tickets that stay unclear after a few calls are postponed. After the first malformed reply, it believes a field only
    if two replies agree on it.
    """

    TRIES = 3  # of one call
    LOOKS = 6  # successive look-ups to settle one field or form

    def reset(self, seed: int) -> None:
        self._votes: dict[int, dict[str, Counter[int]]] = {
            ticket: {name: Counter() for name in FORM_FIELDS} for ticket in self._tickets
        }
        self._tried: set[tuple[int, int]] = (
            set()
        )  # (ticket, call) of payments and parcels that may have been carried out
        self._served: set[int] = set()  # tickets that only need closing
        self._suspicious = False
        self._clock, self._calls_since = 0, 0  # last plausible clock, and calls since then
        self._ledger, self._refunds_since = 0, 0  # last plausible ledger, and refunds ordered since then
        self._implausible = 0  # the last implausible ledger
        super().reset(seed)

    def _shift(self) -> Program[None]:
        unfinished = list(self._tickets)
        while unfinished:
            for ticket in list(unfinished):
                if (yield from self._handle(ticket)):
                    unfinished.remove(ticket)
                else:
                    yield WAIT
        while True:
            yield WAIT

    def _handle(self, ticket: int) -> Program[bool]:
        """Tries to handle a ticket. Returns whether it is closed."""
        found = yield from self._open(ticket)
        if found == "closed":
            return True
        if found == "unsure":
            return False
        if ticket not in self._served:
            if not (yield from self._serve(ticket)):
                return False
            self._served.add(ticket)
        return (yield from self._close(ticket))

    def _open(self, ticket: int) -> Program[str]:
        """ "open", "closed" (the desk refuses to open it, twice), or "unsure"."""
        refusals = 0
        for _ in range(self.TRIES):
            reply = yield from self._ask(open_(ticket), ticket)
            refusals += reply.refused
            if refusals > 1:
                return "closed"
            named = reply.ticket == ticket or (
                not self._suspicious and not reply.ticket and reply.tool == DeskTool.OPEN
            )
            if reply.ok and named:
                return "open"
        return "unsure"

    def _close(self, ticket: int) -> Program[bool]:
        for attempt in range(self.TRIES):
            reply = yield from self._ask(CLOSE, ticket)
            if reply.ok or (reply.refused and attempt):  # refused after a lost answer: it was closed then
                return True
        return False

    def _serve(self, ticket: int) -> Program[bool]:
        """Gives the customer what is due. Returns whether that certainly happened."""
        for call, field, value in ((REFUND, "refunded", YesNo.YES), (REPLACE, "shipping", Shipping.IN_TRANSIT)):
            if (ticket, call) in self._tried:  # its outcome was unclear the last time
                return (yield from self._once(ticket, call, field, value))
        yield from self._look_up(ticket)
        due = self._due(ticket)
        if due is None:
            return False
        if due == REPLY:
            return (yield from self._decline(ticket))
        if due == REPLACE:
            return (yield from self._once(ticket, REPLACE, "shipping", Shipping.IN_TRANSIT))
        if self._believed(ticket, "amount") >= FIRST_DEAR and not (yield from self._approve(ticket)):
            return False
        return (yield from self._once(ticket, REFUND, "refunded", YesNo.YES))

    def _due(self, ticket: int) -> int | None:
        """The call that settles the ticket; None while a field that matters is missing."""
        form = {name: self._believed(ticket, name) for name in FORM_FIELDS}
        bad = form["paid"] == YesNo.NO or form["shipping"] == Shipping.IN_TRANSIT or form["refunded"] == YesNo.YES
        if bad or form["age"] > MAX_AGE:
            return REPLY
        if not all(form[name] for name in ("paid", "shipping", "refunded", "age", "request")):
            return None
        if form["request"] == Request.REPLACEMENT:
            return REPLACE
        return REFUND if form["amount"] and form["approved"] else None

    def _decline(self, ticket: int) -> Program[bool]:
        for _ in range(self.TRIES):  # declining twice is harmless
            if (yield from self._ask(REPLY, ticket)).ok:
                return True
        return False

    def _approve(self, ticket: int) -> Program[bool]:
        for _ in range(self.TRIES):
            if self._believed(ticket, "approved") == YesNo.YES:
                return True
            if (yield from self._ask(ESCALATE, ticket)).ok:
                return True
            yield from self._verify(ticket, "approved", YesNo.YES)
        return self._believed(ticket, "approved") == YesNo.YES

    def _once(self, ticket: int, call: int, field: str, done: int) -> Program[bool]:
        """Pays or sends once: after an unclear reply again only if the form shows that nothing happened."""
        for _ in range(self.TRIES):
            if (ticket, call) in self._tried:
                happened = yield from self._verify(ticket, field, done)
                if happened is None:
                    return False
                if happened:
                    return True
            self._tried.add((ticket, call))
            if (yield from self._ask(call, ticket)).ok:
                return True
        return False

    def _verify(self, ticket: int, field: str, done: int) -> Program[bool | None]:
        """Looks up again whether `field` is `done`; None if that stays unclear. A grown ledger proves a refund."""
        ledger = self._ledger
        self._votes[ticket][field].clear()
        yield from self._look_up(ticket, only=field)
        if field == "refunded" and self._ledger > ledger:
            return True
        believed = self._believed(ticket, field)
        return believed == done if believed else None

    def _look_up(self, ticket: int, only: str | None = None) -> Program[None]:
        """Looks the order up, at most LOOKS times, until the field `only` (None: the whole form) is settled."""
        for _ in range(self.LOOKS):
            if self._believed(ticket, only) if only else self._due(ticket) is not None:
                return
            yield from self._ask(LOOK_UP, ticket)

    def _ask(self, call: int, ticket: int) -> Program[DeskReply]:
        """Makes a call. An implausible reply is returned as empty; of a plausible one the fields count as votes."""
        reply = yield call
        self._calls_since += 1
        self._refunds_since += call == REFUND
        if reply.garbled or reply.status == Status.MALFORMED:
            self._suspicious = True
        if reply.garbled or reply.failed:
            return DeskReply()
        if not self._plausible(reply, call, ticket):
            self._suspicious = True
            return DeskReply()
        if reply.clock:
            self._clock, self._calls_since = reply.clock, 0
        if reply.ledger:
            self._ledger, self._refunds_since = reply.ledger, 0
        if reply.ok:
            for name in FORM_FIELDS:
                if value := getattr(reply, name):
                    self._votes[ticket][name][value] += 1
        return reply

    def _plausible(self, reply: DeskReply, call: int, ticket: int) -> bool:
        of_this_call = reply.tool in (None, 0, min(call + 1, DeskTool.OPEN)) and reply.ticket in (None, 0, ticket)
        new = not reply.clock or self._clock < reply.clock <= self._clock + self._calls_since + 2
        return of_this_call and new and self._ledger_plausible(reply.ledger)

    def _ledger_plausible(self, ledger: int | None) -> bool:
        """Whether the ledger grew by refunds only. An implausible figure is believed when it comes twice in a row."""
        most = self._ledger + self._refunds_since * max(PRICES) // LEDGER_STEP
        if not ledger or self._ledger <= ledger <= most:
            return True
        before, self._implausible = self._implausible, ledger
        return ledger == before

    def _believed(self, ticket: int, field: str) -> int:
        """The field's class with the most votes, if they are enough and more than for any other; else 0."""
        (value, count), (_, next_count) = [*self._votes[ticket][field].most_common(2), (0, 0), (0, 0)][:2]
        return value if count >= 1 + self._suspicious and count > next_count else 0
