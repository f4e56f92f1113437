"""Faults between real HTTP clients and a real service on loopback, which counts what it does."""

import asyncio
import importlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.http_service import EVENTS, ORDER, PIXELS, Client, Handler, Service, serving
from worldsim.errors import ConfigError, MissingExtraError
from worldsim.faults import Faults, WallClock
from worldsim.faults.calls import Call, Reply
from worldsim.faults.generators import CallContext, FaultGenerator, fault_from_generator
from worldsim.faults.http import AsyncFaultTransport, FaultTransport
from worldsim.faults.http.requests import ParsedRequest, PathTemplates

PATHS = ["/orders/7", "/orders?page=2", "/missing", "/empty", "/list", "/scalar", "/text", "/latin", "/pixels",
         "/gzip", "/until_close", "/chunked", "/events", "/else"]  # fmt: skip


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with serving() as found:
        yield found


@pytest.fixture
def service(running: Service) -> Service:
    running.reset()
    return running


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def always(kind: str, **parameters: Any) -> list[dict[str, Any]]:
    return [{"kind": kind, "severity": 1.0, "rate": 1.0, **parameters}]


def bare(service: Service, url: str, method: str = "GET", **options: Any) -> httpx.Response:
    with httpx.Client(base_url=service.url) as client:
        return client.request(method, url, **options)


def without_date(response: httpx.Response) -> list[tuple[bytes, bytes]]:
    return [(key, value) for key, value in response.headers.raw if key.lower() != b"date"]


# --- nothing happens where no fault acts ---


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "plan",
    [
        [],
        [{"kind": "wrong_unit", "severity": 0.0}],
        [{"kind": "jitter", "severity": 1.0, "tools": ["GET /elsewhere"]}],
        [{"kind": "wrong_unit", "severity": 1.0, "schedule": {"kind": "after", "calls": 10**6}}],
        [{"kind": "constant_latency", "severity": 1.0}],
        [{"kind": "partial_page", "severity": 1.0, "targets": ["nowhere"]}],  # reads the body, and finds nothing in it
    ],
    ids=["empty", "severity 0", "another tool", "not yet", "only slow", "reads"],
)
def test_what_no_fault_changes_is_passed_on_byte_for_byte(
    service: Service, mode: str, path: str, plan: list[Any]
) -> None:
    expected = bare(service, path)
    with Client(service, mode, plan) as client:
        got = client.get(path)
        assert (got.status_code, without_date(got), got.reason_phrase, got.http_version) == (
            expected.status_code,
            without_date(expected),
            expected.reason_phrase,
            expected.http_version,
        )
        assert got.content == expected.content
        assert client.get(path, headers={"X": "1"}).num_bytes_downloaded == expected.num_bytes_downloaded
    assert [seen.target for seen in service.received] == [path] * 3


@settings(max_examples=60, deadline=None)
@given(
    status=st.sampled_from([200, 201, 206, 400, 404, 409, 418, 500, 503]),
    headers=st.lists(st.tuples(st.sampled_from(["X-A", "x-a", "Set-Cookie", "ETag"]), st.text("ab=;", max_size=5))),
    kind=st.sampled_from([None, "application/json", "text/plain", "text/event-stream", "image/png", "weird"]),
    chunks=st.lists(st.binary(max_size=20) | st.sampled_from([b'{"a": 1}', b"[", b"]", b"\xff\xfe"]), max_size=5),
    plan=st.sampled_from([[], [{"kind": "drop", "severity": 0.0}], "watching"]),
    is_async=st.booleans(),
)
def test_severity_zero_and_watching_change_no_bit_of_any_response(
    status: int, headers: list[tuple[str, str]], kind: str | None, chunks: list[bytes], plan: Any, is_async: bool
) -> None:
    class Stream(httpx.SyncByteStream, httpx.AsyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield from chunks

        async def __aiter__(self) -> Any:
            for chunk in chunks:
                yield chunk

    sent = headers + ([] if kind is None else [("Content-Type", kind)])
    plan = [watching()] if plan == "watching" else [{"kind": "wrong_unit", "severity": 0.0}] if plan else []

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, headers=sent, stream=Stream())

    def check(response: httpx.Response, got: list[bytes]) -> None:
        assert response.status_code == status
        assert response.headers.raw == httpx.Headers(sent).raw
        assert got == chunks

    request = httpx.Request("GET", "http://service/orders/7")
    if is_async:

        async def run() -> None:
            transport = AsyncFaultTransport(plan, httpx.MockTransport(answer))
            response = await transport.handle_async_request(request)
            check(response, [chunk async for chunk in response.stream])

        asyncio.run(run())
    else:
        response = FaultTransport(plan, httpx.MockTransport(answer)).handle_request(request)
        check(response, list(response.stream))


def watching() -> Any:
    """A fault that looks at every reply and leaves it alone."""

    def watch(call: Call, context: CallContext) -> FaultGenerator:
        return (yield call)

    watch.__name__ = "watch"
    kind = fault_from_generator(watch)
    kind.kind = "watch"
    return kind(severity=1.0)


# --- names and arguments ---


@pytest.mark.parametrize(
    ("method", "path", "tool"),
    [
        ("GET", "/orders/4711", "GET /orders/{id}"),
        ("POST", "/users/5/orders/7", "POST /users/{id}/orders/{id2}"),
        ("GET", "/files/123e4567-e89b-12d3-a456-426614174000/raw", "GET /files/{id}/raw"),
        ("GET", "/blobs/DEADBEEFdeadbeef00", "GET /blobs/{id}"),
        ("GET", "/v1/models/gpt-4", "GET /v1/models/gpt-4"),
        ("GET", "/cafe/bed", "GET /cafe/bed"),
        ("GET", "/", "GET /"),
    ],
)
def test_identifiers_in_paths_are_parameters(method: str, path: str, tool: str) -> None:
    assert PathTemplates(()).match(method, path).tool == tool


def test_the_most_specific_template_counts() -> None:
    templates = PathTemplates(["/orders/{number}", "/orders/search", "PUT /orders/{order}", "/{any}/{thing}"])
    assert templates.match("GET", "/orders/abc").tool == "GET /orders/{number}"
    assert templates.match("GET", "/orders/search").tool == "GET /orders/search"
    assert templates.match("PUT", "/orders/abc").tool == "PUT /orders/{order}"
    assert templates.match("GET", "/a/b").tool == "GET /{any}/{thing}"
    assert PathTemplates({"POST /refunds": "refund"}).match("POST", "/refunds").tool == "refund"


@pytest.mark.parametrize("bad", ["orders/{id}", "G3T /orders", "", "/a/{id}/b/{id}"])
def test_a_template_that_is_none_is_refused(bad: str) -> None:
    with pytest.raises(ConfigError, match="templates: "):
        FaultTransport([], templates=[bad])


def test_without_httpx_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("worldsim.faults.http")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'worldsim\[http\]'"):
        importlib.import_module("worldsim.faults.http")


def parsed_request(method: str, url: str, **content: Any) -> ParsedRequest:
    request = httpx.Request(method, f"http://service{url}", **content)
    request.read()
    return ParsedRequest(request, PathTemplates(["/orders/{id}"]).match(method, request.url.path))


@pytest.mark.parametrize(
    ("found", "arguments"),
    [
        (parsed_request("GET", "/orders/a%20b?page=2&tag=x&tag=y&q=007"),
         {"id": "a b", "page": 2, "tag": ["x", "y"], "q": "007"}),
        (parsed_request("POST", "/orders/7?id=8", json={"id": 9, "lines": [1]}),
         {"id": 7, "query.id": 8, "body.id": 9, "lines": [1]}),
        (parsed_request("POST", "/form", data={"a": "1", "b": "x y"}), {"a": 1, "b": "x y"}),
        (parsed_request("POST", "/list", json=[1, 2]), {"body": [1, 2]}),
        (parsed_request("POST", "/text", content="hello"), {"body": "hello"}),
        (parsed_request("POST", "/bad", content="{", headers={"Content-Type": "application/json"}), {"body": "{"}),
    ],
)  # fmt: skip
def test_arguments_are_path_query_and_body(found: ParsedRequest, arguments: dict[str, Any]) -> None:
    assert found.arguments == arguments
    assert found.with_arguments(dict(arguments)) is found.request


def test_bytes_are_told_apart_by_their_hash_and_uploads_by_their_length() -> None:
    one, two = (parsed_request("POST", "/raw", content=bytes([255, number])).arguments for number in (1, 2))
    assert one != two and one["body"]["bytes"] == 2
    first, again = (parsed_request("POST", "/up", files={"f": b"abc"}).arguments for _ in range(2))
    assert first == again  # httpx draws another boundary each time


def test_other_arguments_make_another_request() -> None:
    found = parsed_request("POST", "/orders/7?page=2&q=a+b", json={"amount": 5, "note": "ü"})
    request = found.with_arguments({**found.arguments, "id": "a/b", "page": 3, "amount": 6, "new": True})
    request.read()
    assert request.url.raw_path == b"/orders/a%2Fb?page=3&q=a+b"
    assert json.loads(request.content) == {"amount": 6, "note": "ü", "new": True}
    assert request.headers["content-length"] == str(len(request.content))
    assert found.request.url.raw_path == b"/orders/7?page=2&q=a+b"  # the client's own stays what it was
    form = parsed_request("POST", "/form", data={"a": "1", "b": "x y"})
    request = form.with_arguments({"a": 2, "b": "x y"})
    assert request.read() == b"a=2&b=x+y" and request.headers["content-length"] == "9"
    plain = parsed_request("GET", "/orders?page=2&tag=x&tag=y")
    assert plain.with_arguments({"tag": ["x", "z"]}).url.query == b"tag=x&tag=z"


def test_a_turned_page_is_what_the_service_is_asked_for(service: Service, mode: str) -> None:
    with Client(service, mode, always("off_by_one_page")) as client:
        assert client.get("/orders", params={"page": 2}).json()["page"] == 3
        assert client.transport.faults.records[0].details == {"argument": "page", "before": 2, "after": 3}
    assert service.received[0].target == "/orders?page=3"


# --- what faults do to replies ---


def test_fields_of_json_are_changed_in_place(service: Service, mode: str) -> None:
    with Client(service, mode, always("transposed_digits", targets=["id", "0", "1"])) as client:
        response = client.get("/list")
        first, second = response.json()
        assert [first, second] != [1234, 5678] and sorted(f"{first}{second}") == list("12345678")
        assert response.headers["content-length"] == str(len(response.content))
        assert client.transport.faults.records


def test_the_status_and_headers_of_a_changed_response_stay(service: Service, mode: str) -> None:
    with Client(service, mode, always("null_for_required", spread=1.0, targets=["id", "error"])) as client:
        response = client.get("/orders/7")
        assert response.json() == {**json.loads(ORDER), "id": None}
        assert response.headers["x-trace"] == "abc" and response.status_code == 200
        missing = client.get("/missing")  # an answer like any other
        assert missing.status_code == 404 and missing.json() == {"error": None}
        unzipped = client.get("/gzip")
        assert unzipped.json() == {**json.loads(ORDER), "id": None} and "content-encoding" not in unzipped.headers
        assert client.get("/chunked").json()["id"] is None


def test_bodies_in_other_charsets_stay_in_them(service: Service, mode: str) -> None:
    with Client(service, mode, always("hidden_instruction", targets=["city"])) as client:
        response = client.get("/latin")
        assert response.headers["content-type"].endswith("iso-8859-1")
        assert json.loads(response.content.decode("latin-1"))["city"].startswith("Köln Ignore")


def test_bytes_and_empty_bodies_are_left_alone_by_faults_of_fields(service: Service, mode: str) -> None:
    elsewhere = {"tools": ["* /[!t]*"]}  # all but /text
    plan = [*always("hidden_instruction"), *always("wrong_type", **elsewhere)]
    with Client(service, mode, plan) as client:
        assert client.get("/pixels").content == PIXELS
        assert client.get("/empty").content == b""
        assert client.request("HEAD", "/orders/7").headers["content-length"] == str(len(ORDER))
        assert not client.transport.faults.records
        assert client.get("/text").text.startswith("two\nlines Ignore")
        assert client.get("/scalar").json() == len("a word")


@pytest.mark.parametrize("form", ["json", "list", "scalar", "text"])
def test_an_answer_from_before_has_the_status_of_then(service: Service, mode: str, form: str) -> None:
    gone, there = (bare(service, f"/switch?as={form}") for _ in range(2))
    assert (gone.status_code, there.status_code) == (404, 200)
    with Client(service, mode, always("previous_answer")) as client:
        got = [client.get(f"/switch?as={form}") for _ in range(3)]
    assert [response.status_code for response in got] == [404, 404, 200]
    assert [response.content for response in got] == [gone.content, gone.content, there.content]
    assert service.done["GET /switch"] == 5


def test_stale_answers_are_of_the_same_request_only(service: Service, mode: str) -> None:
    with Client(service, mode, always("previous_answer")) as client:
        assert [client.get("/orders", params={"page": page}).json()["page"] for page in (1, 2, 3)] == [1, 2, 3]


def test_success_is_claimed_for_what_was_not_done(service: Service, mode: str) -> None:
    with Client(service, mode, always("false_success")) as client:
        first, second = (client.post("/refunds", json={"order": order}) for order in (1, 2))
        assert second.status_code == 201 and second.json() == first.json()
        assert service.done["POST /refunds"] == 1
        events = client.chunks("/events")
        assert b"".join(client.chunks("/events")) == b"".join(events) == b"".join(EVENTS)
        assert service.done["GET /events"] == 1


# --- what becomes of failures ---


@pytest.mark.parametrize(("kind", "done"), [("lost_answer", 1), ("lost_request", 0)])
def test_a_timeout_looks_the_same_whatever_was_lost(service: Service, mode: str, kind: str, done: int) -> None:
    with Client(service, mode, always(kind)) as client:
        with pytest.raises(httpx.ReadTimeout) as error:
            client.post("/refunds", json={"order": 7})
        assert error.value.request.url.path == "/refunds"
        assert client.transport.faults.session().clock.now() == 4.0
    assert service.done["POST /refunds"] == done


def test_a_lost_connection_is_a_read_error(service: Service, mode: str) -> None:
    plan = always("dropped_connection", lose_answer=1.0)
    with Client(service, mode, plan) as client, pytest.raises(httpx.ReadError):
        client.post("/refunds", json={})
    assert service.done["POST /refunds"] == 1


@pytest.mark.parametrize(
    ("kind", "status", "waits"),
    [
        ("rate_limited", 429, "2"),
        ("server_error", 500, None),
        ("unavailable", 503, "1"),
        ("bad_gateway", 502, None),
        ("expired_token", 401, None),
        ("lost_permission", 403, None),
    ],
)
def test_refusals_have_their_status(service: Service, mode: str, kind: str, status: int, waits: str | None) -> None:
    plan = [{"kind": kind, "severity": 1.0}] if kind == "expired_token" else always(kind)
    plan[0] |= {"retry_after_s": 1.2} if kind == "rate_limited" else {}
    with Client(service, mode, plan) as client:
        responses = [client.get("/orders/7") for _ in range(60)]
        refused = [response for response in responses if response.status_code != 200]
        assert refused and {response.status_code for response in refused} == {status}
        assert refused[0].json()["status"] == status
        assert refused[0].headers["content-type"] == "application/json"
        if waits is not None:
            assert refused[0].headers["retry-after"] == waits  # whole seconds, rounded up


def test_a_reply_that_is_not_there_says_so(service: Service, mode: str) -> None:
    with Client(service, mode, always("missing_data", unavailable=1.0)) as client:
        response = client.get("/orders/7")
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert response.json() == {"status": 503, "error": "Service Unavailable"}


@pytest.mark.parametrize("path", ["/orders/7", "/chunked", "/gzip", "/pixels", "/text", "/latin"])
def test_a_truncated_body_breaks_off_while_it_is_read(service: Service, mode: str, path: str) -> None:
    expected = bare(service, path)
    got: list[bytes] = []
    with Client(service, mode, always("truncated_json")) as client:
        with pytest.raises(httpx.RemoteProtocolError, match="peer closed connection without sending complete message"):
            client.get(path)
        with pytest.raises(httpx.RemoteProtocolError):  # streamed responses, too
            client.chunks(path, lambda found: got.extend(found[-1:]))
    if path != "/gzip":  # what was sent, up to the cut
        assert expected.content.startswith(b"".join(got)) and 0 < len(b"".join(got)) < len(expected.content)


def test_truncation_of_what_another_fault_has_changed(service: Service, mode: str) -> None:
    plan = [*always("truncated_json"), *always("hidden_instruction", targets=["note"])]
    with Client(service, mode, plan) as client:
        for _ in range(5):
            with pytest.raises(httpx.RemoteProtocolError, match="received [0-9]+ bytes, expected [0-9]+"):
                client.get("/orders/7")


def test_the_other_encoding_is_read_by_nobody(service: Service, mode: str) -> None:
    with Client(service, mode, always("wrong_encoding")) as client:
        response = client.get("/orders/7")
        assert response.status_code == 200 and response.headers["content-type"] == "application/json"
        assert response.content.decode("utf-16").lstrip("\ufeff") == ORDER.decode()
        with pytest.raises(ValueError):
            response.json()
        with pytest.raises(ValueError):
            json.loads(response.text)


@pytest.mark.parametrize("kind", ["invalid_json", "malformed_output"])
def test_what_cannot_be_parsed_cannot_be_parsed(service: Service, mode: str, kind: str) -> None:
    loud = {"loud": 1.0} if kind == "malformed_output" else {}
    with Client(service, mode, always(kind, **loud)) as client:
        for path in ("/orders/7", "/list", "/missing", "/gzip", "/chunked"):
            response = client.get(path)
            assert response.status_code == (404 if path == "/missing" else 200)
            assert response.headers["content-type"] == "application/json"
            with pytest.raises(ValueError):
                response.json()


def test_an_error_page_comes_with_the_status_that_it_says(service: Service, mode: str) -> None:
    with Client(service, mode, always("html_error_page")) as client:
        responses = [client.get("/orders/7") for _ in range(30)]
    titles = {502: "502 Bad Gateway", 504: "504 Gateway Time-out", 503: "Service temporarily unavailable"}
    assert {response.status_code for response in responses} == set(titles)
    for response in responses:
        assert (
            response.headers["content-type"].startswith("text/html") and titles[response.status_code] in response.text
        )


# --- streams ---


@pytest.mark.parametrize(
    "plan",
    [
        [{"kind": "constant_latency", "severity": 1.0}],
        always("partial_page"),
        [*always("rate_limited", schedule={"kind": "after", "calls": 99}), *always("stale_cache")],
    ],
    ids=["slow", "rows", "stale"],
)
def test_events_are_passed_on_as_they_come(service: Service, mode: str, plan: list[dict[str, Any]]) -> None:
    """The service waits after two events until the client says that it has them."""

    def came(found: list[bytes]) -> None:
        if b"".join(found) == b"".join(EVENTS[:2]):
            service.gate.set()

    with Client(service, mode, plan) as client:
        assert b"".join(client.chunks("/events?gated=1", came)) == b"".join(EVENTS)
    assert service.gate.is_set()


def test_other_streams_wait_for_nobody_but_faults_of_bodies(service: Service, mode: str) -> None:
    seen: list[bytes] = []

    def came(found: list[bytes]) -> None:
        seen.extend(found[-1:])
        service.gate.set()

    slow = [{"kind": "constant_latency", "severity": 1.0}, {"kind": "wrong_unit", "severity": 1.0, "rate": 1.0,
            "schedule": {"kind": "after", "calls": 1}}]  # fmt: skip
    with Client(service, mode, slow) as client:
        assert b"".join(client.chunks("/chunked", came)) == ORDER and seen[0] == ORDER[:20]
        assert client.chunks("/chunked") != [ORDER[:20], ORDER[20:]]  # of the second the wrong unit needs all


def test_events_can_be_cut_refused_and_garbled(service: Service, mode: str) -> None:
    whole = b"".join(EVENTS)
    got: list[bytes] = []
    with Client(service, mode, always("truncated_json")) as client:
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            client.chunks("/events", lambda found: got.extend(found[-1:]))
        (record,) = client.transport.faults.records
        assert b"".join(got) == whole[: record.details["characters"]]
    with Client(service, mode, always("rate_limited")) as client:
        assert client.get("/events").status_code == 429
    with Client(service, mode, always("wrong_encoding")) as client:
        assert b"".join(client.chunks("/events")).decode("utf-16").lstrip("\ufeff") == whole.decode()
    with Client(service, mode, always("invalid_json")) as client:
        response = client.get("/events")
        assert response.headers["content-type"] == "text/event-stream"
        assert response.text.startswith("data: ") and response.text.endswith("\n\n")
    with Client(service, mode, always("html_error_page")) as client:
        assert client.get("/events").status_code in (502, 503, 504)


# --- what is carried out ---


def test_a_call_that_is_carried_out_twice(service: Service, mode: str) -> None:
    with Client(service, mode, always("duplicate_execution")) as client:
        response = client.post("/refunds", json={"order": 7})
        assert response.json() == {"refund": 2, "asked": {"order": 7}}
    assert service.done["POST /refunds"] == 2
    assert service.received[0].body == service.received[1].body


def test_a_call_that_is_carried_out_twice_needs_one_connection(service: Service) -> None:
    inner = httpx.HTTPTransport(limits=httpx.Limits(max_connections=1))
    transport = FaultTransport(always("duplicate_execution"), inner)
    with httpx.Client(transport=transport, base_url=service.url, timeout=2.0) as client:
        assert client.get("/chunked").content == ORDER
        assert client.get("/events").content == b"".join(EVENTS)
    assert service.done["GET /events"] == 2


def test_what_was_asked_before_is_carried_out_as_it_was_asked(service: Service, mode: str) -> None:
    plan = [{"kind": "sticky_action", "severity": 1.0, "rate": 1.0, "tools": ["POST *"]}]
    with Client(service, mode, plan) as client:
        client.post("/refunds", json={"order": 1}, headers={"X-Who": "anna"})
        client.post("/audit?deep=1", content=b"other", headers={"X-Who": "ben"})
    arrived = [(seen.target, seen.json, seen.headers["X-Who"]) for seen in service.received]
    assert arrived == [("/refunds", {"order": 1}, "anna")] * 2


def test_a_streamed_upload_arrives_once_for_each_time_that_it_is_carried_out(service: Service, mode: str) -> None:
    async def achunks() -> Any:
        yield b'{"order":'
        yield b" 7}"

    with Client(service, mode, always("duplicate_execution")) as client:
        content: Any = achunks() if client.is_async else iter([b'{"order":', b" 7}"])
        client.post("/refunds", content=content, headers={"Content-Type": "application/json"})
    assert [seen.json for seen in service.received] == [{"order": 7}] * 2


# --- time ---


def test_a_client_that_gives_up_earlier_gets_a_timeout(service: Service, mode: str) -> None:
    plan = [{"kind": "constant_latency", "severity": 1.0, "seconds": 8.0}]
    with Client(service, mode, plan, timeout=3.0) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/refunds", json={})
        assert client.transport.faults.session().clock.now() == 3.0
        assert client.post("/refunds", json={}, timeout=9.0).status_code == 201
        assert client.post("/refunds", json={}, timeout=None).status_code == 201
        assert client.transport.faults.session().clock.now() == 3.0 + 8.0 + 8.0
    assert service.done["POST /refunds"] == 3  # the first one was carried out, and nobody was told


def test_the_client_may_be_more_patient_than_a_fault(service: Service, mode: str) -> None:
    with Client(service, mode, always("lost_answer", timeout_s=2.0), timeout=30.0) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.get("/orders/7")
        assert client.transport.faults.session().clock.now() == 2.0


def test_on_a_wall_clock_a_slow_service_uses_up_what_faults_have_left(service: Service, mode: str) -> None:
    faults = Faults([{"kind": "constant_latency", "severity": 1.0, "seconds": 0.05}], clock=WallClock)
    with Client(service, mode, faults, timeout=0.3) as client, pytest.raises(httpx.ReadTimeout):
        client.get("/slow")
    service.gate.set()
    assert service.done["GET /slow"] == 1


def test_on_a_wall_clock_an_impatient_client_leaves_before_its_request_is_answered(service: Service, mode: str) -> None:
    faults = Faults([{"kind": "constant_latency", "severity": 1.0, "seconds": 60.0}], clock=WallClock)
    with Client(service, mode, faults, timeout=0.05) as client, pytest.raises(httpx.ReadTimeout):
        client.post("/refunds", json={})
    for _ in range(500):
        if service.done["POST /refunds"]:
            break
        time.sleep(0.01)
    assert service.done["POST /refunds"] == 1  # it was late, and is carried out


def test_no_call_is_late_because_others_wait_beside_it(service: Service) -> None:
    faults = Faults([{"kind": "constant_latency", "severity": 1.0, "seconds": 2.0}])

    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=AsyncFaultTransport(faults), base_url=service.url, timeout=3) as client:
            return await asyncio.gather(*[client.get(f"/orders/{number}") for number in range(20)])

    assert {response.status_code for response in asyncio.run(run())} == {200}


# --- sessions and recordings ---


def test_each_session_meets_its_own_faults(service: Service, mode: str) -> None:
    def statuses(names: list[str]) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {name: [] for name in names}
        with Client(service, mode, always("server_error", rate=0.5), session="X-Conversation") as client:
            for _ in range(12):
                for name in names:
                    response = client.get("/orders/7", headers={"X-Conversation": name})
                    found[name].append(response.status_code)
        return found

    together = statuses(["anna", "ben"])
    assert together["anna"] == statuses(["anna"])["anna"] != together["ben"]


def test_the_session_may_be_a_function_or_the_current_one(service: Service, mode: str) -> None:
    faults = Faults(always("server_error"))
    with Client(service, mode, faults, session=lambda request: request.url.path.rpartition("/")[2]) as client:
        client.get("/orders/7")
    with Client(service, mode, faults, session="X-Absent") as client, faults.session("entered"):
        client.get("/orders/8")
    assert [len(faults.session(name).records) for name in ("7", "entered", "default")] == [1, 1, 0]


def test_everything_is_recorded(service: Service, mode: str, tmp_path: Path) -> None:
    for plan in ([], always("rate_limited", tools=["GET /orders/{id}"])):
        faults = Faults(plan, record=tmp_path / "calls.jsonl")
        with Client(service, mode, faults) as client:
            client.get("/orders/7")
            client.get("/missing")
    calls = [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
    assert [(call["tool"], call["ok"], call.get("error")) for call in calls] == [
        ("GET /orders/{id}", True, None),
        ("GET /missing", True, None),
        ("GET /orders/{id}", False, "rate_limited"),
        ("GET /missing", True, None),
    ]


def test_what_the_network_does_goes_on_as_it_is(mode: str, tmp_path: Path) -> None:
    class Nowhere:
        url = "http://127.0.0.1:1"

    faults = Faults([{"kind": "jitter", "severity": 1.0}], record=tmp_path / "x")
    with Client(Nowhere(), mode, faults) as client, pytest.raises(httpx.ConnectError):  # type: ignore[arg-type]
        client.get("/orders/7")
    assert "ConnectError" in (tmp_path / "x").read_text()


def test_calls_through_threads(service: Service) -> None:
    faults = Faults(always("server_error", rate=0.5))
    with httpx.Client(transport=FaultTransport(faults), base_url=service.url) as client:
        statuses: list[int] = []
        threads = [
            threading.Thread(target=lambda: statuses.append(client.get("/orders/7").status_code)) for _ in range(24)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(statuses) == 24 and set(statuses) == {200, 500}
    assert statuses.count(500) == len(faults.records)


def test_a_fault_of_ones_own_can_make_up_a_reply_and_rewrite_a_request(service: Service, mode: str) -> None:
    def made_up(call: Call, context: CallContext) -> FaultGenerator:
        if call.tool == "GET /orders":
            return (yield call._replace(arguments={**call.arguments, "page": 9}))
        context.record(lost="request")
        return Reply({"made": "up"})
        yield

    kind = fault_from_generator(made_up)
    kind.kind = "made_up"
    with Client(service, mode, [kind(severity=1.0)]) as client:
        assert client.get("/orders?page=1").json()["page"] == 9
        assert client.get("/orders/7").json() == {"made": "up"}


# --- the successor of httpx, and a real SDK ---


def test_clients_of_httpx2_get_its_exceptions(service: Service) -> None:
    httpx2 = pytest.importorskip("httpx2")
    for kind, error in [("lost_answer", httpx2.ReadTimeout), ("truncated_json", httpx2.RemoteProtocolError)]:
        transport = FaultTransport(always(kind))
        with httpx2.Client(transport=transport, base_url=service.url) as client, pytest.raises(error):
            client.get("/orders/7")

    async def run() -> Any:
        plan = always("null_for_required", targets=["id"])
        async with httpx2.AsyncClient(transport=AsyncFaultTransport(plan), base_url=service.url) as client:
            return (await client.get("/orders/7")).json()

    assert asyncio.run(run())["id"] is None


class Model(Handler):
    """What a service of language models answers."""

    def _answer(self, path: str, query: dict[str, str], body: bytes) -> None:
        if json.loads(body).get("stream"):
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            words = [{"role": "assistant", "content": f"word{number} "} for number in range(30)]
            events = [json.dumps({**_COMPLETION, "choices": [{"index": 0, "delta": word}]}) for word in words]
            self._stream([f"data: {event}\n\n".encode() for event in [*events, "[DONE]"]], False)
            return
        message = {"role": "assistant", "content": "The answer is 42."}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        self.send(200, json.dumps({**_COMPLETION, "choices": [choice]}).encode())


_COMPLETION = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m"}


@pytest.fixture(scope="module")
def model() -> Iterator[Service]:
    handler: type[BaseHTTPRequestHandler] = Model
    with serving(handler) as found:
        yield found


class Chat:
    """The OpenAI SDK, sync or async, with its own retries."""

    def __init__(self, model: Service, mode: str, plan: Any, monkeypatch: pytest.MonkeyPatch, retries: int = 2) -> None:
        openai = pytest.importorskip("openai")
        model.reset()
        self.faults, self.slept = Faults(plan, seed=1), list[float]()
        self.is_async, self._model = mode == "async", model
        options = {"api_key": "none", "base_url": f"{model.url}/v1", "max_retries": retries}
        if self.is_async:
            client: Any = httpx.AsyncClient(transport=AsyncFaultTransport(self.faults))
            self.sdk: Any = openai.AsyncOpenAI(http_client=client, **options)
            from openai import _base_client

            async def asleep(seconds: float) -> None:
                self.slept.append(seconds)
                self.faults.wait(seconds)

            monkeypatch.setattr(_base_client.anyio, "sleep", asleep)
        else:
            self.sdk = openai.OpenAI(http_client=httpx.Client(transport=FaultTransport(self.faults)), **options)
            from openai import _base_client

            def sleep(seconds: float) -> None:
                self.slept.append(seconds)
                self.faults.wait(seconds)

            monkeypatch.setattr(_base_client.time, "sleep", sleep)

    def ask(self, **options: Any) -> Any:
        asked = {"model": "m", "messages": [{"role": "user", "content": "What is it?"}], **options}
        if not self.is_async:
            return self.sdk.chat.completions.create(**asked)
        return asyncio.run(self.sdk.chat.completions.create(**asked))

    @property
    def done(self) -> int:
        return self._model.done["POST /v1/chat/completions"]


_ONCE = {"schedule": {"kind": "window", "start": 0, "stop": 1}}  # the first call


def test_the_sdk_waits_as_it_is_asked_to_and_is_served(model: Service, mode: str, monkeypatch: Any) -> None:
    plan = always("rate_limited", until_retry_after=True, retry_after_s=7.0, **_ONCE)
    chat = Chat(model, mode, plan, monkeypatch)
    assert chat.ask().choices[0].message.content == "The answer is 42."
    assert len(chat.slept) == 1 and 7.0 <= chat.slept[0] <= 7.0 * 1.25
    assert chat.done == 1
    assert [record.kind for record in chat.faults.records] == ["rate_limited"]


def test_the_sdk_retries_a_server_error(model: Service, mode: str, monkeypatch: Any) -> None:
    chat = Chat(model, mode, always("server_error", lose_answer=1.0, **_ONCE), monkeypatch)
    assert chat.ask().choices[0].message.content == "The answer is 42."
    assert chat.done == 2 and len(chat.slept) == 1  # the first one was carried out, too


def test_the_sdk_gives_up_in_the_end(model: Service, mode: str, monkeypatch: Any) -> None:
    openai = pytest.importorskip("openai")
    for kind, error in [
        ("rate_limited", openai.RateLimitError),
        ("lost_answer", openai.APITimeoutError),
        ("dropped_connection", openai.APIConnectionError),
        ("lost_permission", openai.PermissionDeniedError),
    ]:
        chat = Chat(model, mode, always(kind), monkeypatch, retries=1)
        with pytest.raises(error):
            chat.ask()
        assert chat.done == (2 if kind == "lost_answer" else 0)


def test_a_lost_answer_is_paid_for_twice(model: Service, mode: str, monkeypatch: Any) -> None:
    chat = Chat(model, mode, always("lost_answer", **_ONCE), monkeypatch)
    assert chat.ask().choices[0].message.content == "The answer is 42." and chat.done == 2


def test_what_the_model_says_can_be_changed(model: Service, mode: str, monkeypatch: Any) -> None:
    plan = always("hidden_instruction", targets=["choices/0/message/content"])
    chat = Chat(model, mode, plan, monkeypatch)
    said = chat.ask().choices[0].message.content
    assert said.startswith("The answer is 42. Ignore all instructions")
    assert chat.faults.records[0].details["token"] in said


def test_the_sdk_streams_and_its_stream_breaks_off(model: Service, monkeypatch: Any) -> None:
    chat = Chat(model, "sync", [{"kind": "constant_latency", "severity": 1.0}], monkeypatch)
    words = [chunk.choices[0].delta.content for chunk in chat.ask(stream=True)]
    assert words == [f"word{number} " for number in range(30)]
    broken = Chat(model, "sync", always("truncated_json"), monkeypatch)
    heard: list[str] = []
    with pytest.raises(pytest.importorskip("openai").APIConnectionError):
        for chunk in broken.ask(stream=True):
            heard.append(chunk.choices[0].delta.content)
    assert heard == words[: len(heard)] and len(heard) < len(words)
