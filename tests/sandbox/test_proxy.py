"""The proxy over stdio, line by line, against a server that writes JSON in its own way."""

import asyncio
import json
import subprocess
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sandbox.conftest import COMMAND, Proxied, call, line
from worldsim import faults
from worldsim.errors import ConfigError
from worldsim.faults import Fault, Plan

LOST_ANSWER = faults.LostAnswer(severity=1.0, rate=1.0, timeout_s=0.05)
ALWAYS: dict[str, Any] = {"severity": 1.0, "rate": 1.0}


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


CONVERSATION = [
    line({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}),
    line({"jsonrpc": "2.0", "method": "notifications/initialized"}),
    line(call(1, "echo", text="é\ud800", number=1.0, big=2**70, nothing=None)),
    line(call("one", "add", amount=2)),
    line(call(1.5, "wrong")),
    b"this is no JSON\n",
    b'{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":5}}\n',
    b'{"jsonrpc":"2.0","id":4,"method":"tools/call","params":[]}\n',
    b"[" * 100_000 + b"\n",
    line(call(5, "big", size=300_000)),
    line({"jsonrpc": "2.0", "id": 6, "method": "resources/read", "params": {"uri": "a://b"}}),
]


@pytest.mark.parametrize(
    "plan",
    [
        Plan.load("flaky_vendor").at(0),
        [faults.LostAnswer(**ALWAYS, tools=["other"])],
        [faults.NullFields(severity=1.0, rate=0.0), faults.ServerError(severity=1.0, rate=0.0)],  # never fire
    ],
)
def test_what_no_fault_touches_is_the_same_byte_by_byte(plan: Any) -> None:
    direct = subprocess.run(COMMAND, input=b"".join(CONVERSATION), capture_output=True, timeout=30).stdout

    async def through() -> bytes:
        async with Proxied(plan) as proxy:
            got = []
            for each in CONVERSATION:
                proxy.send(each)
                if b"notifications" not in each:
                    got.append(await proxy.read())
            return b"".join(got + await proxy.close())

    assert asyncio.run(through()) == direct


def one_answer(fault: Fault, tool: str = "echo", failures: Any = "result", **arguments: Any) -> dict[str, Any]:
    async def answer() -> dict[str, Any]:
        async with Proxied([fault], failures=failures) as proxy:
            return await proxy.ask(call(9, tool, **arguments))

    found = asyncio.run(answer())
    assert found["id"] == 9 and found["jsonrpc"] == "2.0"
    return found


def test_a_value_that_is_missing_is_missing_in_the_text() -> None:
    found = one_answer(faults.NullFields(**ALWAYS, targets=["price"]), price=3, name="pen")
    ((text,),) = ([each["text"] for each in found["result"]["content"]],)
    assert json.loads(text) == {"price": None, "name": "pen"} and found["result"]["x"] == 1500


def test_a_refused_call_is_an_error_of_the_tool_or_of_the_protocol() -> None:
    fault = faults.RateLimited(severity=1.0, rate=1.0, retry_after_s=3.0)
    found = one_answer(fault)
    assert found["result"]["isError"] and "retry after 3 s" in found["result"]["content"][0]["text"]
    found = one_answer(fault, failures="protocol")
    assert found["error"]["code"] == -32603 and found["error"]["data"] == {"retry_after_s": 3.0}


def test_half_a_reply_is_half_a_text_or_half_a_message() -> None:
    fault = faults.TruncatedJSON(severity=1.0, rate=1.0)
    (content,) = one_answer(fault, name="pen", price=3)["result"]["content"]
    with pytest.raises(ValueError):
        json.loads(content["text"])

    async def whole_line() -> None:
        async with Proxied([fault], failures="protocol") as proxy:
            proxy.send(line(call(1, "echo", name="pen")))
            with pytest.raises(ValueError):
                json.loads(await proxy.read())
            assert (await proxy.ask({"jsonrpc": "2.0", "id": 2, "method": "ping"}))["id"] == 2  # and it goes on

    run(whole_line)


def test_the_server_did_it_and_the_client_never_hears() -> None:
    async def lost() -> None:
        fault = LOST_ANSWER.replace(tools=["add"], schedule=faults.Window(start=0, stop=1))
        async with Proxied([fault]) as proxy:
            began = time.monotonic()
            found = await proxy.ask(call(1, "add", amount=2))
            assert found["error"]["code"] == -32001 and time.monotonic() - began >= 0.05
            (content,) = (await proxy.ask(call(2, "add", amount=1)))["result"]["content"]
            assert json.loads(content["text"]) == {"total": 3}

    run(lost)


def test_a_duplicate_is_carried_out_twice_and_answered_once() -> None:
    async def twice() -> None:
        async with Proxied([faults.DuplicateExecution(severity=1.0, rate=1.0)]) as proxy:
            (content,) = (await proxy.ask(call(1, "add", amount=2)))["result"]["content"]
            assert json.loads(content["text"])["total"] in (2, 4)
            assert (await proxy.ask(call(2, "echo")))["id"] == 2
            assert not [text for text in await proxy.close() if b'"id"' in text]
            assert sum(record.tool == "add" for record in proxy.faults.records) == 1

    run(twice)


def test_calls_in_flight_do_not_wait_for_each_other() -> None:
    async def both() -> None:
        fault = faults.ConstantLatency(severity=1.0, seconds=0.3, tools=["add"])
        async with Proxied([fault]) as proxy:
            proxy.send(line(call(1, "add", amount=2)) + line(call(2, "echo")))
            assert [json.loads(await proxy.read())["id"] for _ in range(2)] == [2, 1]

    run(both)


def test_calls_that_nothing_holds_up_reach_the_server_in_their_order() -> None:
    async def in_order() -> None:
        async with Proxied([faults.NullFields(severity=1.0, rate=0.0)]) as proxy:
            proxy.send(b"".join(line(call(number, "add", amount=number)) for number in range(20)))
            found = {(each := json.loads(await proxy.read()))["id"]: each for _ in range(20)}
            totals = [json.loads(found[number]["result"]["content"][0]["text"])["total"] for number in range(20)]
            assert totals == [number * (number + 1) // 2 for number in range(20)]

    run(in_order)


NEVER_LATE = faults.LostAnswer(severity=1.0, rate=0.0)  # watches the time of calls, and never acts


@pytest.mark.parametrize("fault", [NEVER_LATE, faults.NullFields(severity=1.0, rate=0.0)])
def test_calls_with_faults_and_without_reach_the_server_in_their_order(fault: Fault) -> None:
    async def in_order() -> None:
        async with Proxied([fault.replace(tools=["add"])]) as proxy:
            pairs = [(call(f"add {number}", "add", amount=1), call(number, "sum")) for number in range(20)]
            proxy.send(b"".join(line(one) + line(other) for one, other in pairs))
            found = {(each := json.loads(await proxy.read()))["id"]: each for _ in range(40)}
            totals = [json.loads(found[number]["result"]["content"][0]["text"])["total"] for number in range(20)]
            assert totals == list(range(1, 21))

    run(in_order)


@pytest.mark.parametrize("fault", [NEVER_LATE, faults.DuplicateExecution(severity=1.0, rate=1.0)])
def test_a_call_that_is_cancelled_at_once_is_cancelled_at_the_server_too(fault: Fault) -> None:
    async def cancelled() -> None:
        async with Proxied([fault]) as proxy:
            notification = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
            proxy.send(line(call(1, "never")) + line(notification))
            heard = json.loads(await proxy.read())
            assert (heard["method"], heard["params"]) == ("notifications/heard", {"requestId": 1})
            assert (await proxy.ask(call(2, "echo")))["id"] == 2

    run(cancelled)


def test_replies_that_are_delivered_in_another_order_keep_their_own_form() -> None:
    async def reordered() -> None:
        async with Proxied([faults.ReorderedDelivery(severity=1.0)], clock=faults.VirtualClock) as proxy:
            for number in range(12):
                tool = "echo" if number % 2 else "add"
                found = await proxy.ask(call(number, tool, amount=number))
                if "result" in found and not found["result"].get("isError"):
                    (content,) = found["result"]["content"]
                    assert set(json.loads(content["text"])) == ({"amount"} if number % 2 else {"total"})

    run(reordered)


def test_a_slow_reader_gets_everything() -> None:
    async def slowly() -> None:
        async with Proxied([NEVER_LATE]) as proxy:
            for number in range(20):
                proxy.send(line(call(number, "big", size=300_000)))
            await asyncio.sleep(0.5)
            proxy._lines._transport.pause_reading()  # type: ignore[attr-defined]
            closing = asyncio.ensure_future(proxy.close())
            await asyncio.sleep(4)
            proxy._lines._transport.resume_reading()  # type: ignore[attr-defined]
            assert len(await closing) == 21 and proxy.code == 0 and proxy.notes == []

    run(slowly)


def test_a_cancelled_call_is_cancelled_at_the_server_and_never_answered() -> None:
    async def cancelled() -> None:
        async with Proxied([faults.ConstantLatency(severity=1.0, seconds=0.2)]) as proxy:
            notification = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
            proxy.send(line(call(1, "echo")))
            await asyncio.sleep(0.05)
            proxy.send(line(notification) + line(call(2, "echo")))
            assert json.loads(await proxy.read())["id"] == 2
            assert not [text for text in await proxy.close() if b'"id"' in text]

    run(cancelled)


def test_a_server_that_dies_is_an_error_for_what_was_open_and_the_proxys_exit_code() -> None:
    async def dies() -> None:
        async with Proxied([faults.ConstantLatency(severity=1.0, seconds=0.01)]) as proxy:
            found = await proxy.ask(call(1, "die"))
            assert found["error"] == {"code": -32000, "message": "the server has ended with exit code 7"}
            await proxy.close()
            assert proxy.code == 7

    run(dies)


def test_a_client_that_hangs_up_gets_what_is_still_under_way() -> None:
    async def hangs_up() -> None:
        async with Proxied([faults.ConstantLatency(severity=1.0, seconds=0.3)]) as proxy:
            proxy.send(line(call(1, "echo", text="x")))
            await asyncio.sleep(0.1)
            rest = await proxy.close()
            assert json.loads(rest[0])["id"] == 1 and rest[-1] == b"not JSON at the end\n" and proxy.code == 0

    run(hangs_up)


def test_a_server_that_does_not_stop_is_stopped() -> None:
    stubborn = [COMMAND[0], "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(100)"]

    async def stops() -> None:
        async with Proxied("slow_api", stubborn) as proxy:
            await proxy.close()
            assert proxy.code == -9

    run(stops)


def test_a_reply_of_50_megabytes() -> None:
    async def big() -> None:
        async with Proxied([faults.ConstantLatency(severity=1.0, seconds=0.01)]) as proxy:
            found = await proxy.ask(call(1, "big", size=50_000_000))
            assert len(found["result"]["content"][0]["text"]) == 50_000_000
            assert (await proxy.ask(call(2, "echo")))["id"] == 2

    run(big)


def test_globs_that_match_no_listed_tool_are_told() -> None:
    lists = (
        "import sys, json\n"
        "for line in sys.stdin:\n"
        "    m = json.loads(line); page = (m.get('params') or {}).get('cursor')\n"
        "    result = {'tools': [{'name': 'pay' if page else 'look_up'}], **({} if page else {'nextCursor': 'b'})}\n"
        "    print(json.dumps({'id': m['id'], 'result': result}), flush=True)"
    )

    async def listed() -> None:
        plan = [faults.Unavailable(tools=["pay", "look_*"]), faults.ServerError(tools=["refund"])]
        async with Proxied(plan, [COMMAND[0], "-c", lists]) as proxy:
            request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
            await proxy.ask(request)
            assert proxy.notes == []
            await proxy.ask({**request, "id": 2, "params": {"cursor": "b"}})
            (note,) = proxy.notes
            assert "server_error: tool 'refund' matches nothing" in note and "pay" in note

    run(listed)


def test_a_command_that_cannot_be_started_is_a_line() -> None:
    async def nowhere() -> None:
        proxy = Proxied("slow_api", ["nowhere-to-be-found"])
        await proxy.__aenter__()
        with pytest.raises(ConfigError, match="'nowhere-to-be-found' cannot be started .*; check the command"):
            await proxy.close()

    run(nowhere)


EACH = sorted({kind.kind for family in faults.FAMILIES.values() for kind in family} - {"plausible_lie"})
ARGUMENTS = st.dictionaries(st.text(max_size=5), st.integers() | st.text() | st.none(), max_size=3)
ASKED = st.lists(st.tuples(st.sampled_from(["echo", "fail", "wrong", "other"]), ARGUMENTS), max_size=6)


def check_answers(kinds: list[str], asked: list[tuple[str, dict[str, Any]]]) -> None:
    """Each request is answered once, in a whole line of JSON, with a result of a tool or an error."""

    async def ask() -> None:
        plan = [faults.KINDS[kind](severity=0.9) for kind in kinds]
        async with Proxied(plan, clock=faults.VirtualClock) as proxy:
            for number, (tool, arguments) in enumerate(asked):
                message = call(number, tool)
                message["params"]["arguments"] = arguments
                found = await proxy.ask(message)
                assert found["id"] == number and ("result" in found) != ("error" in found)
                if "result" in found:
                    assert [each["type"] for each in found["result"]["content"]] == ["text"]
            assert proxy.notes == []

    asyncio.run(ask())


@settings(max_examples=25, deadline=None)
@given(kinds=st.lists(st.sampled_from(EACH), min_size=1, max_size=3), asked=ASKED)
def test_whatever_is_asked_under_whatever_plan_is_answered_once(
    kinds: list[str], asked: list[tuple[str, dict[str, Any]]]
) -> None:
    check_answers(kinds, asked)


@pytest.mark.parametrize("family", faults.FAMILIES)
def test_errors_and_replies_go_through_every_family(family: str) -> None:
    kinds = [kind.kind for kind in faults.FAMILIES[family] if kind.kind != "plausible_lie"]
    tools = ["echo", "fail", "wrong", "other", "echo"] * 6
    check_answers(kinds or ["slow_api"], [(tool, {"price": 12, "name": "pen"}) for tool in tools])


@pytest.mark.parametrize("kind", EACH)
def test_errors_and_replies_go_through_every_kind(kind: str) -> None:
    tools = ["echo", "fail", "wrong", "other", "echo"] * 4
    check_answers([kind], [(tool, {"price": 12, "name": "pen"}) for tool in tools])
