"""One fault on many environments: whom it strikes is found with arrays.

An `ArrayFault` then does with arrays what it does. Any other fault plays `Fault.exchange` for each environment that it
strikes. A call cannot be stopped in the middle of that until all others have come as far, so it is played twice: up to
where it passes the call on, and again, from the same memory and with the same dice, with the reply that came. A fault
whose `passing` is AS_IS needs no first time.
"""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from worldsim.faults.chance import Dice, Words, lane_of, splitmix, unit
from worldsim.faults.exchange import Call, Passing, Record, Reply
from worldsim.faults.fault import Context, Fault, matches
from worldsim.faults.leafwise import copied
from worldsim.faults.many.calls import Calls
from worldsim.faults.many.log import Log
from worldsim.faults.many.payloads import Rows
from worldsim.faults.many.replies import Replies
from worldsim.faults.schedule import LANE, After, Always, Bursts, Window
from worldsim.faults.struck import ArrayFault, ForwardMany, Struck

if TYPE_CHECKING:
    from worldsim.faults.pipeline import Placed


class Shared:
    """What all faults of N environments share: time, (N,) seconds, and the records of the present calls."""

    def __init__(self, count: int) -> None:
        self.seconds = np.zeros(count)
        self.log = Log(count)  # of the present calls
        self.moving = False  # whether worlds move on while calls are under way, so that it counts when each arrives


class RowClock:
    """The virtual clock of one environment among many."""

    def __init__(self, seconds: NDArray[np.float64], row: int) -> None:
        self._seconds, self._row = seconds, row

    def now(self) -> float:
        return float(self._seconds[self._row])

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0, f"a clock runs forward, not by {seconds} s"
        self._seconds[self._row] += seconds

    def set(self, now: float) -> None:
        """Go to a time that was read before."""
        self._seconds[self._row] = now


class Stage:
    """A fault in its place among others, on N environments."""

    def __init__(self, place: "Placed", shared: Shared, names: Sequence[str], missing: dict[str, Any]) -> None:
        self.fault, self.seeds = place.fault, place.seeds
        self._leaves, self._shared = place.leaves, shared
        count = len(shared.seconds)
        clocks = [RowClock(shared.seconds, row) for row in range(count)]
        self.contexts = [Context(self.fault, Dice(), clock, place.leaves, missing) for clock in clocks]
        self._keys = np.zeros(count, np.uint64)
        self._lanes: dict[int | None, Words] = {}  # where they begin, as far as they have been asked for
        self._drawn = np.zeros(count)  # the uniforms of the present calls
        self._memory: dict[str, Any] = {}  # of all environments together
        self._asks = isinstance(self.fault, ArrayFault) or type(self.fault).strikes is not Fault.strikes
        self._any_tool = all(matches(name, self.fault.tools) for name in names)
        self._reached, self._on = np.full(count, -1), np.zeros(count, np.bool_)  # of bursts

    def start(self, rows: Rows, dice: Sequence[Dice], shown: Replies) -> None:
        """Begin episodes of the environments `rows`; `shown` is what they showed before their first calls."""
        fault = self.fault
        for row, own in zip(rows.tolist(), dice, strict=True):
            context = self.contexts[row]
            context.dice, context.memory, context.now = own, {}, []
            self._keys[row] = own.key[0]
        for lane, words in self._lanes.items():
            words[rows] = lane_of(self._keys[rows], lane)
        self._reached[rows], self._on[rows] = -1, False
        if isinstance(fault, ArrayFault):
            if type(fault).first_seen is not ArrayFault.first_seen:
                fault.first_seen(self._struck_of(Calls.none(rows, len(self.contexts)), rows), shown)
        elif type(fault).begin is not Fault.begin:
            for row in rows.tolist():
                fault.begin(shown.payload(row), self.contexts[row])

    def uniforms(self, rows: Rows, indices: NDArray[np.int64], lane: int = 0) -> NDArray[np.float64]:
        """What `Dice.uniform` gives for the calls `indices` of the environments `rows`."""
        return unit(splitmix(self._lane(lane)[rows], indices))

    def _lane(self, lane: int | None) -> Words:
        if lane not in self._lanes:
            self._lanes[lane] = lane_of(self._keys, lane)
        return self._lanes[lane]

    def struck(self, calls: Calls) -> Rows:
        """The environments whose calls the fault must see: by its tools, schedule and probability, and by its own."""
        rows = calls.rows
        if not self._any_tool:
            rows = rows[calls.calling(rows, self.fault.tools)]
        rows = self._due(rows, calls.numbers)
        if self.fault.probability < 1 and len(rows):
            rows = rows[self.uniforms(rows, calls.numbers[rows], lane=1) < self.fault.probability]
        if not len(rows) or not self._asks:
            return rows
        self._drawn[rows] = drawn = self.uniforms(rows, calls.numbers[rows])
        return rows[self.fault.strikes(drawn, self._leaves)]

    def _due(self, rows: Rows, numbers: NDArray[np.int64]) -> Rows:
        """Those at whose calls the schedule has the fault at work: `due` of each schedule, with arrays."""
        schedule = self.fault.schedule
        if isinstance(schedule, Always):
            return rows
        if isinstance(schedule, After):
            return rows[numbers[rows] >= schedule.calls]
        if isinstance(schedule, Window):
            return rows[(numbers[rows] >= schedule.start) & (numbers[rows] < schedule.stop)]
        return self._in_burst(schedule, rows, numbers)

    def _in_burst(self, schedule: Bursts, rows: Rows, numbers: NDArray[np.int64]) -> Rows:
        while len(behind := rows[self._reached[rows] < numbers[rows]]):
            self._reached[behind] += 1
            turns = 1 / np.where(self._on[behind], schedule.mean_calls, schedule.mean_gap)
            turns[self._reached[behind] == 0] = schedule.share
            self._on[behind] ^= self.uniforms(behind, self._reached[behind], LANE) < turns
        return rows[self._on[rows]]

    def exchange(self, calls: Calls, rows: Rows, forward: ForwardMany) -> Replies:
        """Carry the calls out, those of the environments `rows` through the fault."""
        if isinstance(self.fault, ArrayFault):
            return self.fault.exchange_many(self._struck_of(calls, rows), forward)
        return self._through(calls, rows, forward)

    def _struck_of(self, calls: Calls, rows: Rows) -> Struck:
        numbers, shared = calls.numbers[rows], self._shared
        of_calls = rows, numbers, self._keys[rows], self._lane(None)[rows], self._drawn[rows], calls
        return Struck(self.contexts, *of_calls, self._memory, shared.seconds, shared.log)

    def _through(self, calls: Calls, struck: Rows, forward: ForwardMany) -> Replies:
        """Play the struck calls through the fault, all together up to wherever the last of them passes a call on."""
        plays = {row: _Play(self, row, calls.of(row), self._shared) for row in struck.tolist()}
        asked = {row: call for row, play in plays.items() if (call := play.begin()) is not None}
        silent = [row for row in plays if row not in asked]
        replies = forward(calls.without(np.array(silent, np.int64)).instead(asked))
        answers = replies
        while asked:
            asked = {row: call for row in asked if (call := plays[row].go_on(answers.of(row))) is not None}
            if asked:
                answers = forward(calls.only(np.array(list(asked), np.int64)).instead(asked))
        for row, play in plays.items():
            replies.put(row, play.reply)
        return replies

    def snapshot(self) -> Any:
        """Where the episodes stand, as a value for `restore`."""
        inner = [(context.dice, copy.deepcopy(context.memory)) for context in self.contexts]
        return inner, copy.deepcopy(self._memory), self._reached.copy(), self._on.copy()

    def restore(self, snapshot: Any) -> None:
        """Go to where a snapshot was taken."""
        inner, memory, reached, on = snapshot
        self._memory, self._reached, self._on = copy.deepcopy(memory), reached.copy(), on.copy()
        for row, (context, (dice, own)) in enumerate(zip(self.contexts, inner, strict=True)):
            context.dice, context.memory = dice, copy.deepcopy(own)
            self._keys[row] = dice.key[0]
        self._lanes = {}


class _Asked(BaseException):
    """Ends a play where it passes on a call whose reply is not there yet."""

    def __init__(self, call: Call) -> None:
        self.call = call


class _Play:
    """One call of one environment on its way through one fault."""

    def __init__(self, stage: Stage, row: int, call: Call, shared: Shared) -> None:
        self._fault, self._context, self._call, self._row = stage.fault, stage.contexts[row], call, row
        self._log, self._replayed = shared.log, shared.moving or stage.fault.passing > Passing.AS_IS
        self._answers: list[Reply] = []
        self._began_s = self._context.clock.now()
        self._asked_s: list[float] = []  # when each call was passed on
        self._answered_s: list[float] = []  # when its reply came
        self._starts: list[int] = []  # how many records there were before each reply
        self.reply: Reply

    @property
    def _now(self) -> list[Record]:
        """What has been done to this environment's call so far."""
        return self._log.records[self._row]

    def begin(self) -> Call | None:
        """The first call that is passed on, None where there is none."""
        if not self._replayed:
            self._starts.append(len(self._now))
            self._asked_s.append(self._began_s)
            return self._call
        return self._played(last=False)

    def go_on(self, answer: Reply) -> Call | None:
        """With the reply to the last call that was passed on: the next one, None where there is no more."""
        self._answers.append(answer)
        self._answered_s.append(self._context.clock.now())
        return self._played(last=self._fault.passing < Passing.ANY)

    def _played(self, last: bool) -> Call | None:
        context, own, marks = self._context, list[Record](), list[int]()
        kept = None if last else copied(context.memory)

        def forward(call: Call) -> Reply:
            position = len(marks)
            if position == len(self._answers):
                raise _Asked(call)
            marks.append(len(own))
            self._pass_time(self._asked_s[position], self._answered_s[position])
            return self._answers[position]

        context.clock.set(self._began_s)  # type: ignore[attr-defined]
        context.now, context.number = own, self._call.number
        try:
            self.reply = self._fault.exchange(self._call, forward, context)
        except _Asked as asked:
            assert kept is not None, f"{self._fault.kind} passes more calls on than `passing` says"
            context.memory = kept
            self._asked_s.append(context.clock.now())
            self._starts.append(len(self._now))
            return asked.call
        self._write_down(own, marks)
        return None

    def _pass_time(self, asked_s: float, answered_s: float) -> None:
        """The time between a call and its reply passes again. What was read from the clock stays so to the bit."""
        clock = self._context.clock
        now_s = clock.now()
        clock.set(answered_s if now_s == asked_s else now_s + answered_s - asked_s)  # type: ignore[attr-defined]

    def _write_down(self, own: list[Record], marks: list[int]) -> None:
        """Put the fault's records among those of the faults further in: in the order in which things happened."""
        ends = [*marks, len(own)]
        now = self._now
        now += own[marks[-1] if marks else 0 :]
        for start, begin, end in reversed(list(zip(self._starts, [0, *marks], ends, strict=False))):
            now[start:start] = own[begin:end]
