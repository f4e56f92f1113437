"""Stale answers: each is an earlier answer to the same request, whatever else is called in between."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from worldsim import faults
from worldsim.faults import Call, Fault, Reply
from worldsim.faults.entry_points import EntryPoint, MockService, PipelineCall, RowOfVector, script

from .payloads import RICH, orders
from .sessions import PipelineSession

TOOLS = ["get_order", "get_customer", "list_refunds"]
STALE = [
    faults.PreviousAnswer(severity=1.0, rate=0.6),
    faults.StaleCache(severity=1.0, calls=5),
    faults.StaleCache(severity=0.5, calls=5),
    faults.DelayedObservation(severity=1.0, max_calls=4),
    faults.EventualConsistency(rate=1.0, severity=1.0, calls=6),
    faults.EventualConsistency(rate=1.0, severity=0.7, calls=6, writes=["list_*"]),
]


def request_of(tool: str, arguments: dict[str, Any]) -> tuple[str, str]:
    return tool, json.dumps(arguments, sort_keys=True)


def random_calls(count: int, seed: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Calls of three tools with different arguments, in random order, the keys of arguments in random order, too."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        fields = ["name", "total"][: rng.integers(1, 3)]
        items = [("id", int(rng.integers(3))), ("fields", fields), ("page", {"from": 0, "to": 9})]
        arguments = dict(items[place] for place in rng.permutation(len(items)).tolist())
        if rng.random() < 0.5:
            arguments["page"] = dict(reversed(arguments["page"].items()))
        yield TOOLS[int(rng.integers(3))], arguments


def numbered() -> Any:
    """A service that answers each call otherwise, and says which call it was that it answers."""
    count = iter(range(10**9))
    return lambda call: {"answer": next(count), "tool": call.tool}


def stale_ages(given: list[tuple[str, dict[str, Any]]], fault: Fault) -> list[int]:
    """How many answers to the same request ago each reply is from; fails where it is an answer to another request."""
    session, answers, ages = PipelineSession(fault, answer=numbered()), defaultdict[Any, list[Any]](list), []
    for number, (tool, arguments) in enumerate(given):
        reply = session.call(tool, arguments)
        earlier = answers[request_of(tool, arguments)]
        earlier.append({"answer": number, "tool": tool})
        assert reply.payload in earlier, "an answer to another request"
        ages.append(len(earlier) - 1 - earlier.index(reply.payload))
        recorded = [record.details["age"] for record in session.records]
        assert recorded == [ages[-1]] * bool(ages[-1])
    return ages


@pytest.mark.parametrize("fault", STALE, ids=lambda fault: f"{fault.kind} {fault.severity}")
def test_every_stale_answer_is_an_earlier_one_to_the_same_tool_with_the_same_arguments(fault: Fault) -> None:
    ages = stale_ages(list(random_calls(900)), fault)
    assert sum(map(bool, ages)) > 100


@pytest.mark.parametrize(
    "fault", [faults.FalseSuccess(severity=1.0), faults.ReorderedDelivery(severity=1.0)], ids=lambda fault: fault.kind
)
def test_what_stands_for_an_answer_that_never_came_is_the_last_one_of_the_same_tool(fault: Fault) -> None:
    session, last, pretended = PipelineSession(fault, answer=numbered()), dict[str, Any](), 0
    for tool, arguments in random_calls(900):
        reply = session.call(tool, arguments)
        assert reply.ok and reply.payload["tool"] == tool
        if any("lost" in record.details for record in session.records):
            assert reply.payload == last[tool]
            pretended += 1
        last[tool] = reply.payload
    assert pretended > 100


def test_the_previous_answer_is_that_to_the_same_request() -> None:
    ages = stale_ages(list(random_calls(900)), faults.PreviousAnswer(severity=1.0, rate=0.5))
    assert Counter(ages).keys() == {0, 1}
    assert np.mean(ages) == pytest.approx(0.5, abs=0.08)  # of 36 requests each has a first answer


def test_a_cache_is_filled_by_the_first_answer_and_then_every_so_many_of_the_same_request() -> None:
    given = list(random_calls(900))
    ages, known = stale_ages(given, faults.StaleCache(severity=1.0, calls=4)), Counter[Any]()
    for (tool, arguments), age in zip(given, ages, strict=True):
        assert age == known[request_of(tool, arguments)] % 5
        known[request_of(tool, arguments)] += 1


def test_a_milder_cache_answers_fewer_calls_and_no_others() -> None:
    given = list(random_calls(900))
    full, half = (stale_ages(given, faults.StaleCache(severity=severity, calls=4)) for severity in (1.0, 0.5))
    assert all(mild in (0, grave) for mild, grave in zip(half, full, strict=True))
    assert sum(map(bool, half)) / sum(map(bool, full)) == pytest.approx(0.5, abs=0.06)


def delays(severity: float, calls: int = 3000) -> Any:
    """Delays of an environment whose steps all ask for the same."""
    fault = faults.DelayedObservation(severity=severity, min_calls=2, max_calls=5, hold=0.8)
    service = MockService(None, orders, one_request=True)
    outcomes = service.play([fault], script(calls, tools=["search"]))[5:]
    return np.array([each.at - (each.reply.payload["page"] - 1) for each in outcomes])


def test_observations_are_delayed_within_their_range_and_held() -> None:
    late = delays(1.0)
    shares = np.array([1, 2, 2, 1]) / 6  # of 2 to 5 calls: even between 2 and 5, and rounded by chance
    assert [np.mean(late == calls) for calls in (2, 3, 4, 5)] == pytest.approx(shares.tolist(), abs=0.06)
    again = 0.2 * np.square(shares).sum()  # drawn again, and equal
    assert (late[1:] == late[:-1]).mean() == pytest.approx(0.8 + again, abs=0.03)


@pytest.mark.parametrize("severity", [0.1, 0.3, 0.5, 0.8])
def test_the_mean_delay_is_in_proportion_to_the_severity(severity: float) -> None:
    assert delays(severity, 1200).mean() == pytest.approx(3.5 * severity, abs=0.2)


# --- writes that are seen late ---


class Counted:
    """A service with a number that `write` raises, and that reads of either kind show."""

    def __init__(self) -> None:
        self.value = 0

    def __call__(self, call: Call) -> Any:
        self.value += call.tool == "write"
        return {"value": self.value}


def test_a_write_is_seen_so_many_calls_later() -> None:
    """Reads right after a write show what they showed before it; what was never read is not known from before."""
    session = PipelineSession(
        faults.EventualConsistency(rate=1.0, severity=1.0, calls=3, writes=["write"]), answer=Counted()
    )
    tools = ["read", "write", *["read"] * 4, "write", "write", *["read"] * 4]
    shown = [session.call(tool).payload["value"] for tool in tools]
    #         the first write, unknown before, is shown; then reads lag; then writes, too, show what they showed before
    assert shown == [0, 1, 0, 0, 1, 1, 1, 1, 1, 1, 3, 3]


@pytest.mark.parametrize("calls", [1, 2, 5, 9])
def test_a_read_shows_its_own_answer_from_before_the_write_until_so_many_calls_later(calls: int) -> None:
    """By a loop over what happened: 40 sessions of random reads and writes of different things."""
    late = 0
    for seed in range(40):
        rng, service = np.random.default_rng(seed), Counted()
        fault = faults.EventualConsistency(rate=1.0, severity=1.0, calls=calls, writes=["write"])
        session = PipelineSession(fault, answer=service)
        answered: dict[Any, list[tuple[int, int]]] = defaultdict(list)  # by request: at which call, and what
        writes: list[int] = []
        for now in range(60):
            tool = ["read", "read", "look", "write"][int(rng.integers(4))]
            arguments = {} if tool == "write" else {"id": int(rng.integers(2))}
            shown = session.call(tool, arguments).payload["value"]
            if tool == "write":
                writes.append(now)
            before = answered[request_of(tool, arguments)]
            unseen = [write for write in writes if now - write < calls]
            known = [value for at, value in before if at < unseen[0]] if unseen else []
            assert shown == (known[-1] if known else service.value)
            late += shown != service.value
            before.append((now, service.value))
    assert late > 0 or calls == 1


def test_a_share_of_the_writes_is_seen_late() -> None:
    fault = faults.EventualConsistency(rate=1.0, severity=0.3, calls=2, writes=["write"])
    session, late = PipelineSession(fault, answer=Counted()), 0
    for number in range(1, 1001):
        session.call("read"), session.call("write", {"number": number})
        late += session.call("read").payload["value"] != number
    assert late / 1000 == pytest.approx(0.3, abs=0.05)


def test_what_was_asked_once_fills_no_memory() -> None:
    fault = faults.EventualConsistency(rate=1.0, severity=1.0, calls=3)
    session, sizes = PipelineSession(fault, answer=Counted()), []
    for number in range(3000):
        session.call("read", {"id": 10_000 + number})
        if number in (1500, 2999):
            *_, ((_, memory),) = session.pipeline.snapshot()
            (session_memory,) = memory.objects("session", dict)
            sizes.append(len(session_memory.answered))
    assert sizes == [3, 3]


# --- through every entry point, in a space ---


@pytest.mark.parametrize("entry_point", [PipelineCall, RowOfVector])
@pytest.mark.parametrize(
    "fault", [*STALE[:4], faults.EventualConsistency(rate=1.0, severity=1.0, writes=["write"])], ids=str
)
def test_stale_observations_are_those_of_the_same_request_in_the_leaves_that_are_targets(
    fault: Fault, entry_point: type[EntryPoint]
) -> None:
    service = MockService(RICH)
    earlier: dict[Any, list[Reply]] = defaultdict(list)
    stale = 0
    for each in service.run([fault.replace(targets=["reply/*"])], 120, entry_point=entry_point):
        answers = earlier[request_of(each.call.tool, dict(each.call.arguments))]
        answers.append(each.answers[0])
        age = each.records[0].details["age"] if each.records else 0
        then, now = answers[-1 - age].payload, each.answers[0].payload
        assert each.reply.payload["reply"] == then["reply"]
        assert all(np.array_equal(each.reply.payload[name], now[name]) for name in ("screen", "rows"))
        stale += age > 0
    assert stale > 10
