"""A service on loopback that counts what it really does, and clients of it, sync and async, that tests play alike."""

import asyncio
import gzip
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import httpx

from worldsim.faults.http import AsyncFaultTransport, FaultTransport

ORDER = b'{"id": 7,  "total_eur": 12.50, "lines": ["tea", "milk"], "note": "gr\xc3\xbc\xc3\x9fe"}'
PIXELS = bytes(range(256)) * 2
EVENTS = [f'event: token\ndata: {{"text": "word {number}"}}\n\n'.encode() for number in range(40)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # it would hold every body back for 40 ms
    server: "Service"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self._chunked_body()
        self.server.received.append(ReceivedRequest(self.command, self.path, dict(self.headers), body))
        self.server.done[f"{self.command} {path}"] += 1
        with suppress(ConnectionError):  # whoever asked may have gone
            self._answer(path, dict(parse_qsl(query)), body)

    do_POST = do_PUT = do_HEAD = do_GET

    def _chunked_body(self) -> bytes:
        found = b""
        while self.headers.get("Transfer-Encoding") == "chunked":
            size = int(self.rfile.readline(), 16)
            found += self.rfile.read(size)
            self.rfile.readline()
            if not size:
                break
        return found

    def _answer(self, path: str, query: dict[str, str], body: bytes) -> None:
        if path.startswith("/orders/"):
            self.send(200, ORDER, X_Trace="abc")
        elif path == "/orders":
            page = int(query.get("page", 1))
            self.send(200, json.dumps({"page": page, "rows": [page * 10 + row for row in range(3)]}).encode())
        elif path == "/refunds":
            count = self.server.done["POST /refunds"]
            self.send(201, json.dumps({"refund": count, "asked": json.loads(body or b"{}")}).encode())
        elif path == "/switch":  # 404 every other time
            gone = self.server.done["GET /switch"] % 2
            said = {"json": {"state": "gone" if gone else "there"}, "list": [gone], "scalar": gone}
            body = json.dumps(said[query["as"]]).encode() if query["as"] != "text" else b"gone" if gone else b"there"
            self.send(404 if gone else 200, body, "text/plain" if query["as"] == "text" else "application/json")
        elif path == "/missing":
            self.send(404, b'{"error": "no such order 4711"}')
        elif path == "/empty":
            self.send(204, b"")
        elif path == "/list":
            self.send(200, b"[1234, 5678]")
        elif path == "/scalar":
            self.send(200, b'"a word"')
        elif path == "/text":
            self.send(200, b"two\nlines", "text/plain; charset=utf-8")
        elif path == "/latin":
            self.send(200, '{"city": "Köln"}'.encode("latin-1"), "application/json; charset=iso-8859-1")
        elif path == "/pixels":
            self.send(200, PIXELS, "image/png")
        elif path == "/gzip":
            self.send(200, gzip.compress(ORDER), Content_Encoding="gzip")
        elif path == "/until_close":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(ORDER)
            self.close_connection = True
        elif path in ("/chunked", "/events"):
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream" if path == "/events" else "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self._stream(EVENTS if path == "/events" else [ORDER[:20], ORDER[20:]], "gated" in query)
        elif path == "/slow":
            self.server.gate.wait(10)
            self.send(200, b"{}")
        else:
            self.send(200, json.dumps({"path": path}).encode())

    def _stream(self, chunks: list[bytes], gated: bool) -> None:
        for at, chunk in enumerate(chunks):
            if gated and at == len(chunks) // 2 and not self.server.gate.wait(10):
                return  # the client did not say in time that it has read the first half
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def send(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class ReceivedRequest(NamedTuple):
    """A request as it arrived."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Service(ThreadingHTTPServer):
    """seen: the requests that arrived. done: how many, by method and path. gate: what slow answers wait for.

    With `?gated=1` half of a stream is sent when the gate has opened, and else never.
    """

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler] = Handler) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.received: list[ReceivedRequest] = []
        self.done: Counter[str] = Counter()
        self.gate = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up in the middle are what is tested here."""

    def reset(self) -> None:
        self.received.clear()
        self.done.clear()
        self.gate.clear()


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler] = Handler) -> Iterator[Service]:
    service = Service(handler)
    thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.shutdown()
        service.server_close()
        thread.join()


class Client:
    """An httpx client, sync or async, that is used the same way."""

    def __init__(self, service: Service, mode: str, faults: Any = None, **options: Any) -> None:
        base = {"base_url": service.url, "timeout": options.pop("timeout", 5.0)}
        self.is_async = mode == "async"
        if self.is_async:
            self._runner = asyncio.Runner()
            self.transport: Any = None if faults is None else AsyncFaultTransport(faults, **options)
            self.raw: Any = httpx.AsyncClient(transport=self.transport, **base)
        else:
            self.transport = None if faults is None else FaultTransport(faults, **options)
            self.raw = httpx.Client(transport=self.transport, **base)

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        found = self.raw.request(method, url, **options)
        return self._runner.run(found) if self.is_async else found

    def get(self, url: str, **options: Any) -> httpx.Response:
        return self.request("GET", url, **options)

    def post(self, url: str, **options: Any) -> httpx.Response:
        return self.request("POST", url, **options)

    def chunks(self, url: str, each: Any = None) -> list[bytes]:
        """The chunks of a response that is streamed; `each` is called with what has come after every one."""
        found: list[bytes] = []

        def arrived(chunk: bytes) -> None:
            found.append(chunk)
            if each is not None:
                each(found)

        if not self.is_async:
            with self.raw.stream("GET", url) as response:
                for chunk in response.iter_raw():
                    arrived(chunk)
            return found

        async def run() -> None:
            async with self.raw.stream("GET", url) as response:
                async for chunk in response.aiter_raw():
                    arrived(chunk)

        self._runner.run(run())
        return found

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        if self.is_async:
            self._runner.run(self.raw.aclose())
            self._runner.close()
        else:
            self.raw.close()
