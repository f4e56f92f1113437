"""Calls side by side, in tasks and in threads: what happens to call k of a tool is what would happen to it alone."""

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

from worldsim import faults
from worldsim.faults import (
    KINDS,
    Call,
    CallContext,
    Fault,
    FaultGenerator,
    FaultRecord,
    Pipeline,
    Reply,
    Sleep,
    VirtualClock,
)
from worldsim.faults.entry_points import CallOutcome
from worldsim.faults.generators import fault_from_generator
from worldsim.faults.pipeline import ForwardContext
from worldsim.faults.tools import Faults

TOOLS = ("search", "read", "write")
TASKS, THREADS, EACH = 1000, 8, 500


@pytest.fixture(autouse=True)
def often_interrupted() -> Iterator[None]:
    """Threads take turns a hundred times as often as they do by themselves."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    yield
    sys.setswitchinterval(before)


def by_tool_and_number(kind: str) -> Any:
    """A fault written as a generator that no plan knows by name."""

    def made(function: Any) -> type[Fault]:
        found = fault_from_generator(function)
        found.kind, found.family = kind, "of your own"
        return found

    return made


@by_tool_and_number("fickle")
def fickle(call: Call, context: CallContext, rate: float = 0.6) -> FaultGenerator:
    """Drops, repeats, or delays a call, by its own random numbers."""
    if context.uniform >= context.severity * rate:
        return (yield call)
    how = int(context.rng.integers(3))
    context.record(how=how, **({"lost": "request"} if how == 0 else {}))
    if how == 0:
        return Reply.failed("unavailable", retry_after_s=float(context.rng.random()))
    yield Sleep(float(context.rng.exponential()))
    if how == 1:
        yield call
    return (yield call)


# Every one of them does to a call what depends on its tool and its number alone: none goes by what came before.
PLAN: list[Fault] = [
    faults.SlowAPI(severity=0.6, timeout_s=3.0),
    fickle(severity=0.7),
    faults.RateLimited(severity=0.4, tools=["search", "read"]),
    faults.LostAnswer(severity=0.4, schedule=faults.Bursts(mean_calls=4, mean_gap=9)),
    faults.DuplicateExecution(severity=0.6),
    faults.DeadSensors(severity=0.3),
    faults.MalformedOutput(severity=0.4, probability=0.8),
    faults.HiddenInstruction(severity=0.3, schedule=faults.After(calls=50)),
    faults.SlowDrip(severity=0.5, patience_s=1.0),
]


class SeenCall(NamedTuple):
    """One call as it went."""

    tool: str
    reply: Reply
    records: list[FaultRecord]
    executed: list[Call]

    @property
    def numbers(self) -> set[int]:
        """The numbers that it goes by, wherever one is told."""
        return {call.number for call in self.executed} | {record.call for record in self.records}


def answered(call: Call) -> Any:
    """What a call is answered, by its tool and number."""
    return {"id": f"{call.tool} {call.number}", "total": 7.5 * call.number, "made_at": "2026-03-01", "paid": True}


def a_pipeline(plan: Sequence[Fault] = PLAN, clock: Any = None) -> Pipeline:
    made = Pipeline([(fault, 7) for fault in plan], None, TOOLS, clock or VirtualClock())
    made.start(np.array([0]), [("anna",)])
    return made


def called(pipeline: Pipeline, tool: str, answer: Callable[[Call], Any] = answered) -> SeenCall:
    executed: list[Call] = []

    def execute(call: Call, context: ForwardContext) -> Reply:
        executed.append(call)
        return Reply(answer(call))

    reply, records = pipeline.call(tool, {"action": 0}, execute)
    return SeenCall(tool, reply, list(records), executed)


async def acalled(pipeline: Pipeline, tool: str, answer: Callable[[Call], Any] = answered, turns: int = 1) -> SeenCall:
    executed: list[Call] = []

    async def execute(call: Call, context: ForwardContext) -> Reply:
        executed.append(call)
        for _ in range(turns):
            await asyncio.sleep(0)
        return Reply(answer(call))

    reply, records = await pipeline.acall(tool, {"action": 0}, execute)
    return SeenCall(tool, reply, list(records), executed)


def outcomes(outcomes_seen: Sequence[SeenCall]) -> dict[tuple[str, int], SeenCall]:
    """By tool and number; each of them occurs once, and numbers are 0, 1, 2 and so on."""
    found: dict[tuple[str, int], SeenCall] = {}
    for each in outcomes_seen:
        (number,) = each.numbers
        assert (each.tool, number) not in found
        assert all((record.tool, record.call) == (each.tool, number) for record in each.records)
        assert all(call.tool == each.tool for call in each.executed)
        found[each.tool, number] = each
    counts = Counter(tool for tool, _ in found)
    assert set(found) == {(tool, number) for tool, count in counts.items() for number in range(count)}
    return found


def alone(outcomes_seen: Sequence[SeenCall], plan: Sequence[Fault] = PLAN) -> dict[tuple[str, int], SeenCall]:
    """What so many calls of each tool would have met one after the other, tool by tool."""
    pipeline = a_pipeline(plan)
    return outcomes([called(pipeline, tool) for tool in sorted(each.tool for each in outcomes_seen)])


def assert_same(found: dict[tuple[str, int], SeenCall], wanted: dict[tuple[str, int], SeenCall]) -> None:
    assert found.keys() == wanted.keys()
    for (tool, number), each in found.items():
        one, other = (
            CallOutcome(
                0,
                Call(tool, {}, number),
                outcomes_seen.reply,
                outcomes_seen.executed,
                [],
                outcomes_seen.reply.latency_s,
                outcomes_seen.records,
            )
            for outcomes_seen in (each, wanted[tool, number])
        )
        assert not one.difference_from(other), f"call {number} of {tool}: {one.difference_from(other)}"


def some_tools(count: int, seed: int = 0) -> list[str]:
    return [TOOLS[position] for position in np.random.default_rng(seed).integers(0, 3, count)]


def in_threads(work: Callable[[int], list[SeenCall]], count: int = THREADS) -> list[SeenCall]:
    """The work of each thread, all begun at the same moment."""
    together, done = threading.Barrier(count), dict[int, list[SeenCall]]()

    def run(position: int) -> None:
        together.wait(30)
        done[position] = work(position)

    threads = [threading.Thread(target=run, args=(position,), daemon=True) for position in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(done) == list(range(count)), "a thread is stuck, or has failed"
    return [outcomes_seen for position in range(count) for outcomes_seen in done[position]]


def test_a_thousand_calls_in_tasks() -> None:
    pipeline, tools = a_pipeline(), some_tools(TASKS)

    async def all_at_once() -> list[SeenCall]:
        each = (acalled(pipeline, tool, turns=position * 7 % 5) for position, tool in enumerate(tools))
        return await asyncio.wait_for(asyncio.gather(*each), 120)

    outcomes_seen = asyncio.run(all_at_once())
    found = outcomes(outcomes_seen)
    assert_same(found, alone(outcomes_seen))
    records_seen = pipeline.records[0]
    assert Counter(map(repr, records_seen)) == Counter(
        repr(record) for each in outcomes_seen for record in each.records
    )
    assert {record.fault for record in records_seen} == {fault.kind for fault in PLAN}


def test_eight_threads_of_500_calls() -> None:
    pipeline = a_pipeline()
    outcomes_seen = in_threads(lambda position: [called(pipeline, tool) for tool in some_tools(EACH, position)])
    assert len(outcomes_seen) == THREADS * EACH
    assert_same(outcomes(outcomes_seen), alone(outcomes_seen))
    assert Counter(map(repr, pipeline.records[0])) == Counter(
        repr(record) for each in outcomes_seen for record in each.records
    )


def test_records_can_be_read_meanwhile() -> None:
    pipeline, reading = a_pipeline(), threading.Event()

    def read() -> None:
        while not reading.is_set():
            for record in pipeline.records[0]:
                assert record.tool in TOOLS

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    outcomes_seen = in_threads(lambda position: [called(pipeline, tool) for tool in some_tools(60, position)], 4)
    reading.set()
    reader.join(60)
    outcomes(outcomes_seen)
    assert Counter(map(repr, pipeline.records[0])) == Counter(
        repr(record) for each in outcomes_seen for record in each.records
    )


def test_tools_in_threads_and_tasks_share_a_session() -> None:
    shared = Faults(PLAN, seed=7, tools=TOOLS)

    def call(tool: str) -> SeenCall:
        executed: list[Call] = []

        def execute(call: Call) -> Any:
            executed.append(call)
            return answered(call)

        known = shared.session("anna")
        return SeenCall(tool, known.call(tool, {"action": 0}, execute), [], executed)

    async def acall(tool: str) -> SeenCall:
        executed: list[Call] = []

        async def execute(call: Call) -> Any:
            await asyncio.sleep(0)
            executed.append(call)
            return answered(call)

        return SeenCall(tool, await shared.session("anna").acall(tool, {"action": 0}, execute), [], executed)

    async def many(tools: list[str]) -> list[SeenCall]:
        return await asyncio.gather(*map(acall, tools))

    def work(position: int) -> list[SeenCall]:
        tools = some_tools(100, position)
        return asyncio.run(many(tools)) if position % 2 else [call(tool) for tool in tools]

    outcomes_seen = in_threads(work)
    wanted = alone(outcomes_seen)
    records = Counter(repr(record) for each in wanted.values() for record in each.records)
    assert Counter(map(repr, shared.session("anna").records)) == records
    went = Counter((each.tool, call.number) for each in outcomes_seen for call in each.executed)
    assert went == Counter((each.tool, call.number) for each in wanted.values() for call in each.executed)


WITHOUT_A_WORLD = sorted(set(KINDS) - {"plausible_lie"})


@pytest.mark.parametrize("kind", WITHOUT_A_WORLD)
def test_every_kind_counts_and_records_exactly_whatever_runs_beside(kind: str) -> None:
    pipeline = a_pipeline([KINDS[kind](severity=0.9)])

    async def tasks() -> list[SeenCall]:
        each = (acalled(pipeline, tool, turns=position % 3) for position, tool in enumerate(some_tools(60, 1)))
        return await asyncio.gather(*each)

    outcomes_seen = in_threads(lambda position: [called(pipeline, tool) for tool in some_tools(30, position)], 2)
    outcomes_seen += asyncio.run(asyncio.wait_for(tasks(), 60))
    records = pipeline.records[0]
    assert Counter(map(repr, records)) == Counter(repr(record) for each in outcomes_seen for record in each.records)
    for each in outcomes_seen:
        numbers_recorded = {record.call for record in each.records} or {call.number for call in each.executed}
        assert len(numbers_recorded) == 1 and all(record.tool == each.tool for record in each.records)
    counts = Counter(each.tool for each in outcomes_seen)
    numbers = {(each.tool, number) for each in outcomes_seen for number in each.numbers}
    assert numbers == {(tool, number) for tool, count in counts.items() for number in range(count)}


# --- time ---


class TogetherGate:
    """A clock whose sleepers go on when all have fallen asleep."""

    def __init__(self, sleepers: int) -> None:
        self.asleep_now, self.most, self._sleepers = 0, 0, sleepers

    def now(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        raise AssertionError("a coroutine does not block")

    async def asleep(self, seconds: float) -> None:
        self.asleep_now += 1
        self.most = max(self.most, self.asleep_now)
        while self.most < self._sleepers:
            await asyncio.sleep(0)
        self.asleep_now -= 1


def test_while_a_coroutine_waits_others_go_on() -> None:
    clock = TogetherGate(50)
    pipeline = a_pipeline([faults.ConstantLatency(severity=1.0)], clock)

    async def all_at_once() -> None:
        await asyncio.wait_for(asyncio.gather(*(acalled(pipeline, "read") for _ in range(50))), 60)

    asyncio.run(all_at_once())
    assert clock.most == 50


def test_on_a_virtual_clock_calls_side_by_side_wait_side_by_side() -> None:
    slow = faults.ConstantLatency(severity=1.0, seconds=2.0)
    one_after_the_other, side_by_side = VirtualClock(), VirtualClock()
    for clock in (one_after_the_other, side_by_side):
        pipeline = a_pipeline([slow], clock)

        async def calls(pipeline: Pipeline = pipeline, together: bool = clock is side_by_side) -> None:
            each = [acalled(pipeline, "read") for _ in range(5)]
            if together:
                await asyncio.gather(*each)
            for one in () if together else each:
                await one

        asyncio.run(calls())
    assert (one_after_the_other.now(), side_by_side.now()) == (10.0, 2.0)


def test_a_call_within_a_call_takes_time_of_the_outer_one() -> None:
    clock = VirtualClock()
    inner = a_pipeline([faults.ConstantLatency(severity=1.0, seconds=5.0)], clock)
    outer = a_pipeline([faults.LostAnswer(severity=1.0, rate=1.0, timeout_s=12.0)], clock)

    def nested(call: Call) -> Any:
        return [called(inner, "read").reply.latency_s for _ in range(2)]

    reply = called(outer, "search", nested).reply
    assert (reply.error, clock.now()) == ("timeout", 12.0)

    async def two() -> None:
        def at_the_beginning(call: Call) -> Any:
            clock.sleep(1.0)

        await asyncio.gather(acalled(inner, "read", at_the_beginning), acalled(inner, "read", at_the_beginning))

    asyncio.run(two())
    assert clock.now() == 12.0 + 6.0


# --- what goes wrong on the way ---


class Broke(Exception):
    """The service itself failed."""


def broken(numbers: set[int]) -> Callable[[Call], Any]:
    """A service that breaks at calls of these numbers."""

    def answer(call: Call) -> Any:
        if call.number in numbers:
            raise Broke(f"{call.tool} {call.number}")
        return answered(call)

    return answer


@pytest.mark.parametrize("through", ["call", "acall"])
def test_what_carrying_out_raises_goes_on_to_the_caller_and_the_next_call_is_as_ever(through: str) -> None:
    pipeline, outcomes_seen, failed = a_pipeline(), [], 0
    for tool in some_tools(300):
        try:
            answer = broken({3, 4, 11, 30})
            one = called(pipeline, tool, answer) if through == "call" else asyncio.run(acalled(pipeline, tool, answer))
            outcomes_seen.append(one)
        except Broke as error:
            name, number = str(error).split()
            outcomes_seen.append(SeenCall(name, Reply.failed("server_error"), [], [Call(name, {}, int(number))]))
            failed += 1
    found, wanted = outcomes(outcomes_seen), alone(outcomes_seen)
    assert failed >= 3
    for key in [key for key, each in found.items() if each.reply.error == "server_error" and not each.records]:
        del found[key], wanted[key]
    assert_same(found, wanted)


def test_a_fault_under_way_is_over_when_its_call_has_failed() -> None:
    open_now: list[int] = []

    @by_tool_and_number("careful")
    def careful(call: Call, context: CallContext) -> FaultGenerator:
        open_now.append(context.number)
        try:
            return (yield call)
        finally:
            open_now.remove(context.number)

    pipeline = a_pipeline([faults.DuplicateExecution(severity=1.0), careful()])
    with pytest.raises(Broke) as caught:
        called(pipeline, "read", broken({0}))
    assert not open_now and caught.value.__traceback__
    called(pipeline, "read", broken({0}))
    assert not open_now


@pytest.mark.parametrize("plan", [PLAN, [faults.ReorderedDelivery(severity=1.0), faults.StaleCache(severity=1.0)]])
def test_calls_that_are_cancelled_leave_a_session_as_it_should_be(plan: list[Fault]) -> None:
    pipeline, never = a_pipeline(plan), asyncio.Event

    async def stuck(tool: str, arrived: Callable[[int], None]) -> None:
        async def execute(call: Call, context: ForwardContext) -> Reply:
            arrived(call.number)
            await never().wait()
            raise AssertionError("it waits for ever")

        await pipeline.acall(tool, {"action": 0}, execute)

    async def with_cancelled_ones() -> tuple[list[SeenCall], int, int]:
        before = [await acalled(pipeline, tool) for tool in some_tools(40, 1)]
        arrived: list[int] = []
        tasks = [asyncio.ensure_future(stuck(tool, arrived.append)) for tool in TOOLS * 20]
        for _ in range(3):  # some are waiting now, and most are being carried out
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        cancelled = sum(isinstance(each, asyncio.CancelledError) for each in ended)
        assert cancelled + sum(each is None for each in ended) == len(tasks)
        after = [await acalled(pipeline, tool) for tool in some_tools(40, 2)]
        return before + after, cancelled, len(arrived)

    outcomes_seen, cancelled, arrived = asyncio.run(with_cancelled_ones())
    assert cancelled >= 10 and arrived >= 10
    before = Counter(each.tool for each in outcomes_seen[:40])
    for each in outcomes_seen[40:]:
        assert min(each.numbers) >= before[each.tool] + 20
    if plan is PLAN:
        wanted = alone([*outcomes_seen, *(SeenCall(tool, Reply(None), [], []) for tool in TOOLS * 20)])
        assert_same(
            {(each.tool, min(each.numbers)): each for each in outcomes_seen},
            {(each.tool, min(each.numbers)): wanted[each.tool, min(each.numbers)] for each in outcomes_seen},
        )


def test_a_call_may_need_another_one_of_the_same_session() -> None:
    """Carrying out one call waits for a call in another thread, and then makes one itself."""
    pipeline, done = a_pipeline(), threading.Event()

    def waits(call: Call) -> Any:
        assert done.wait(60), "the other call cannot begin before this one is over"
        return called(pipeline, "read").reply.latency_s

    def work(position: int) -> list[SeenCall]:
        if position == 0:
            return [called(pipeline, "search", waits) for _ in range(3)]
        outcomes_seen = [called(pipeline, "write") for _ in range(3)]
        done.set()
        return outcomes_seen

    outcomes_seen = in_threads(work, 2)
    assert len([each for each in outcomes_seen if each.executed]) >= 2
