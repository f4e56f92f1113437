"""Plain functions and coroutines behind faults: what their callers get, and what frameworks still see of them."""

import asyncio
import inspect
import json
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any, get_type_hints

import pytest

from worldsim.errors import ConfigError
from worldsim.faults import (
    FAMILIES,
    KINDS,
    DuplicateExecution,
    FalseSuccess,
    Faults,
    LostAnswer,
    LostRequest,
    MalformedReply,
    MissingRows,
    RateLimited,
    Reply,
    SlowAPI,
    StaleCache,
    ToolConnectionError,
    ToolError,
    ToolRefused,
    ToolTimeout,
    TruncatedJSON,
    WallClock,
    WrongUnit,
    tool,
    wrap,
)
from worldsim.faults.tools import STATUSES


def order(number: int, *, note: str = "") -> dict[str, Any]:
    """Where an order is."""
    return {"order": number, "note": note, "amount": 10**18 + 1, "items": [{"id": each} for each in range(4)]}


async def aorder(number: int, *, note: str = "") -> dict[str, Any]:
    """Where an order is."""
    await asyncio.sleep(0)
    return order(number, note=note)


@pytest.mark.parametrize("function", [order, aorder])
def test_what_agent_frameworks_read_stays(function: Callable[..., Any]) -> None:
    wrapped = tool("black_friday")(function)
    assert inspect.signature(wrapped) == inspect.signature(function)
    assert (wrapped.__doc__, wrapped.__name__) == (function.__doc__, function.__name__)
    assert get_type_hints(wrapped) == get_type_hints(function)
    assert inspect.iscoroutinefunction(wrapped) == inspect.iscoroutinefunction(function)


def test_without_faults_a_tool_answers_with_the_very_object_of_the_function() -> None:
    answer = {"a": [1, {"b": None}]}
    assert wrap({"find": lambda: answer}, [])["find"]() is answer


def positional(first: int, second: int = 2, /, third: int = 3, *more: int, fourth: int = 4, **rest: int) -> list[Any]:
    return [first, second, third, more, fourth, rest]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ((1,), {}),
        ((1, 5), {"third": 6, "fourth": 7}),
        ((1, 5, 6), {"other": 8}),
        ((1, 5, 6, 7, 8), {"fourth": 9, "other": 10}),
    ],
)
@pytest.mark.parametrize("severity", [0.0, 1.0])
def test_arguments_reach_the_function_as_they_were_given(given: Any, named: Any, severity: float) -> None:
    """Behind a fault at work, too: a call is then made from its arguments by name."""
    faults = Faults([{"kind": "constant_latency", "severity": severity}])
    assert tool(faults)(positional)(*given, **named) == positional(*given, **named)


def test_methods_are_tools_too() -> None:
    class Desk:
        def __init__(self) -> None:
            self.calls = 0

        def find(self, number: int) -> int:
            self.calls += 1
            return number

    desk = Desk()
    assert wrap({"find": desk.find}, [SlowAPI(severity=0.01)])["find"](3) == 3 and desk.calls == 1


@pytest.mark.parametrize(
    ("plan", "kind", "also"),
    [
        ([LostRequest(severity=1.0, rate=1.0)], ToolTimeout, TimeoutError),
        ([{"kind": "dropped_connection", "severity": 1.0, "rate": 1.0}], ToolConnectionError, ConnectionError),
        ([RateLimited(severity=1.0, rate=1.0, retry_after_s=3.0)], ToolRefused, RuntimeError),
        ([TruncatedJSON(severity=1.0, rate=1.0)], MalformedReply, ValueError),
    ],
)
def test_failures_raise_what_a_clients_library_would(plan: Any, kind: type[ToolError], also: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        tool(plan)(order)(1)
    assert isinstance(caught.value, also) and caught.value.tool == "order" and str(caught.value).startswith("order: ")


def test_a_refusal_says_its_status_and_when_to_come_again() -> None:
    for name, status in STATUSES.items():
        kind = {"quota": "quota_exceeded", "unauthorized": "expired_token", "forbidden": "lost_permission"}.get(
            name, name
        )
        with pytest.raises(ToolRefused) as caught:
            tool([{"kind": kind, "severity": 1.0, **({} if kind == "quota_exceeded" else {"rate": 1.0})}])(order)(1)
        assert (caught.value.status, caught.value.reply.error) == (status, name)
    with pytest.raises(ToolRefused) as caught:
        tool([RateLimited(severity=1.0, rate=1.0, retry_after_s=3.0)])(order)(1)
    assert caught.value.retry_after_s == 3.0 and "retry after 3 s" in str(caught.value)


def test_errors_can_come_in_band() -> None:
    answer = tool([RateLimited(severity=1.0, rate=1.0)], errors="result")(order)(1)
    assert answer["isError"] is True and "429" in answer["content"][0]["text"]
    with pytest.raises(ConfigError, match="raise"):
        tool([], errors="band")(order)  # type: ignore[arg-type]


def test_what_a_tool_raises_itself_goes_through_and_can_be_lost() -> None:
    def broken() -> None:
        raise KeyError("no such order")

    with pytest.raises(KeyError, match="no such order"):
        tool([SlowAPI(severity=0.01)])(broken)()
    with pytest.raises(ToolTimeout):
        tool([LostAnswer(severity=1.0, rate=1.0)])(broken)()


def test_a_tool_that_answers_with_text_gets_the_text_garbled() -> None:
    text = tool([TruncatedJSON(severity=1.0, rate=1.0)])(lambda: json.dumps(order(1)))()
    assert isinstance(text, str) and text and json.dumps(order(1)).startswith(text)
    with pytest.raises(ValueError, match="char|line|Expecting|Unterminated"):
        json.loads(text)
    result = {"content": [{"type": "text", "text": json.dumps(order(1))}], "structuredContent": order(1)}
    garbled = tool([TruncatedJSON(severity=1.0, rate=1.0)])(lambda: result)()
    assert "structuredContent" not in garbled and json.dumps(order(1)).startswith(garbled["content"][0]["text"])


def test_fields_of_json_texts_and_of_mcp_results_are_changed_alike() -> None:
    faults = [MissingRows(severity=1.0, rate=1.0, targets=["items"])]
    plain = tool(Faults(faults, seed=5))(order)(1)
    text = tool(Faults(faults, seed=5), name="order")(lambda number: json.dumps(order(number)))(1)
    result = {
        "content": [{"type": "text", "text": json.dumps(order(1))}],
        "structuredContent": order(1),
        "_meta": {"a": 1},
    }
    mcp = tool(Faults(faults, seed=5), name="order")(lambda number: result)(1)
    assert plain != order(1) and json.loads(text) == plain
    assert mcp["structuredContent"] == plain == json.loads(mcp["content"][0]["text"]) and mcp["_meta"] == {"a": 1}
    assert result["structuredContent"] == order(1)  # nothing was written into what the tool gave out


def test_whole_numbers_keep_all_their_digits() -> None:
    text = tool([WrongUnit(severity=1.0, rate=1.0, factors=[100.0], targets=["amount"])])(
        lambda: json.dumps(order(1))
    )()
    assert json.loads(text)["amount"] == (10**18 + 1) * 100


def test_calls_run_twice_or_not_at_all_where_faults_say_so() -> None:
    calls: list[int] = []

    def pay(invoice: int) -> dict[str, int]:
        calls.append(invoice)
        return {"paid": invoice}

    assert tool([DuplicateExecution(severity=1.0, rate=1.0)])(pay)(1) == {"paid": 1} and calls == [1, 1]
    pretend = tool(Faults([FalseSuccess(severity=1.0, rate=1.0)]))(pay)
    assert pretend(2) == {"paid": 2} and calls == [1, 1, 2]  # a tool that has not answered yet cannot pretend
    assert pretend(3) == {"paid": 2} and calls == [1, 1, 2]


def test_a_stale_answer_is_one_to_the_same_question() -> None:
    count = iter(range(100))
    find = tool([StaleCache(severity=1.0, rate=1.0, calls=50)])(lambda name, page=1: {"name": name, "at": next(count)})
    assert find("a") == {"name": "a", "at": 0} and find("b") == {"name": "b", "at": 1}
    assert find("a") == {"name": "a", "at": 0} and find(name="b") == {"name": "b", "at": 1}


# --- sessions ---


def outcomes(wrapped: Callable[[int], Any], count: int = 30) -> list[str]:
    found = []
    for number in range(count):
        try:
            found.append(str(wrapped(number)))
        except ToolError as error:
            found.append(str(error))
    return found


def test_sessions_have_their_own_counters_clocks_and_draws() -> None:
    faults = Faults("flaky_vendor", seed=3)
    find = tool(faults)(order)
    with faults.session("anna"):
        first = outcomes(find)
        with faults.session("ben"):
            other = outcomes(find)
        more = outcomes(find)
    again = Faults("flaky_vendor", seed=3)
    with again.session("ben"):
        assert outcomes(tool(again)(order)) == other
    with again.session("anna"):
        assert outcomes(tool(again)(order)) == first and first not in (other, more)
    assert faults.session("anna").clock.now() != faults.session("ben").clock.now()
    assert [record.call for record in faults.session("ben").records] == sorted(
        record.call for record in faults.session("ben").records
    )


def test_tasks_and_threads_are_in_the_session_that_they_entered() -> None:
    faults = Faults([SlowAPI(severity=0.5)], seed=1)
    find, afind = tool(faults)(order), tool(faults, name="order")(aorder)

    async def talk(name: str) -> str:
        with faults.session(name):
            for number in range(20):
                await asyncio.gather(afind(number), return_exceptions=True)
            return faults.current.name

    async def all_talks() -> list[str]:
        return await asyncio.gather(*(talk(f"task {number}") for number in range(5)))

    assert asyncio.run(all_talks()) == [f"task {number}" for number in range(5)]

    def work(name: str) -> None:
        with faults.session(name):
            outcomes(find, 20)

    threads = [threading.Thread(target=work, args=(f"thread {number}",)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sessions = [f"{kind} {number}" for kind in ("task", "thread") for number in range(5)]
    for name in sessions:
        assert sorted(record.call for record in faults.session(name).records) == list(range(20))
    assert not faults.session().records


def test_waiting_as_asked_is_served_and_hammering_is_not() -> None:
    limited = [RateLimited(severity=1.0, rate=0.2, retry_after_s=30.0, until_retry_after=True)]
    for patient in (True, False):
        faults = Faults(limited, seed=2)
        find, refused = tool(faults)(order), 0
        for number in range(60):
            try:
                find(number)
            except ToolRefused as error:
                refused += 1
                if patient:
                    assert error.retry_after_s is not None
                    faults.wait(error.retry_after_s)
                    find(number)  # is served
        assert (refused < 20) == patient, refused
    with pytest.raises(ConfigError, match="0 or more"):
        faults.wait(-1.0)


def test_a_plan_that_is_aimed_at_no_tool_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'order'"):
        wrap({"order": order}, [LostAnswer(tools=["ordr"])])
    with pytest.raises(ConfigError, match="Did you mean 'order'"):
        Faults([LostAnswer(tools=["ordr"])], tools=["order"])
    with pytest.raises(ConfigError, match="flaky_vendor"):
        Faults("flaky_vendr")


def test_calls_that_are_none_of_pythons() -> None:
    faults = Faults([WrongUnit(severity=1.0, rate=1.0, factors=[2.0])])
    reply = faults.call("price", {"of": "a"}, lambda call: {"eur": 3.0, "of": call.arguments["of"]})
    assert reply == Reply({"eur": 6.0, "of": "a"})

    async def forward(call: Any) -> Any:
        return Reply({"eur": 3.0})

    assert asyncio.run(faults.acall("price", {}, forward)).payload == {"eur": 6.0}
    assert faults.call("price", {}, lambda call: Reply.failed("quota")).error == "quota"


# --- real time ---


def test_on_a_wall_clock_callers_really_wait_and_give_up_in_time() -> None:
    faults = Faults([{"kind": "constant_latency", "severity": 1.0, "seconds": 0.05}], clock=WallClock)
    begun = time.monotonic()
    tool(faults)(order)(1)
    assert time.monotonic() - begun >= 0.05

    finished: list[int] = []

    async def slow(number: int) -> int:
        await asyncio.sleep(0.2)
        finished.append(number)
        return number

    impatient = Faults([LostAnswer(severity=1.0, rate=1.0, timeout_s=0.05)], clock=WallClock)

    async def main() -> float:
        start = time.monotonic()
        with pytest.raises(ToolTimeout):
            await tool(impatient)(slow)(7)
        waited = time.monotonic() - start
        await asyncio.sleep(0.3)
        return waited

    assert asyncio.run(main()) < 0.19  # it did not wait for the service, which has gone on nevertheless
    assert finished == [7]


def test_what_is_raised_can_be_sent_to_another_process() -> None:
    with pytest.raises(ToolRefused) as caught:
        tool([RateLimited(severity=1.0, rate=1.0)])(order)(1)
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (str(copied), copied.reply, copied.status) == (str(caught.value), caught.value.reply, 429)


EVERY_KIND = sorted({kind.kind for family in FAMILIES.values() for kind in family} - {"plausible_lie"})


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_what_a_tool_raises_is_delayed_or_lost_but_never_changed(kind: str) -> None:
    def find(number: int) -> dict[str, Any]:
        raise KeyError(number)

    faulty = tool([KINDS[kind](severity=1.0)])(find)
    for number in range(20):
        with pytest.raises((KeyError, ToolTimeout, ToolConnectionError, ToolRefused)) as raised:
            faulty(number=number)
        assert isinstance(raised.value, ToolError) or type(raised.value) is KeyError
