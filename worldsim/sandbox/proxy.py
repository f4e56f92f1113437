"""A proxy between an MCP client and a server that it starts, over stdio: one JSON-RPC message a line.

Source: Model Context Protocol 2026-07-28 and 2025-11-25, section Transports, stdio.
"""

import asyncio
import contextlib
import json
import queue
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from worldsim.errors import ConfigError
from worldsim.faults.plans.plan import Plan
from worldsim.sandbox.tool_calls import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    Message,
    Response,
    ToolCalls,
    as_line,
    error_text,
)

LONGEST_LINE = 2**30  # bytes of a message
SHUTDOWN_S = 2.0  # a server has this long to end by itself, and again after it was asked to
SLOWEST_READER_S = 30.0  # a client that has read nothing for so long gets no more
TURNS = 5  # of the event loop, in which a call that nothing holds up has been sent
PART = 2**16  # bytes of a line that are written at once
MOST_CANCELLED = 1000  # requests whose responses are still dropped


class StdioProxy:
    """Starts a server, and passes lines on between it and a client; calls of tools go through faults on the way.

    Whatever is no call that a fault is aimed at passes as it is: other requests, notifications, the server's own
    requests, and lines that are not JSON.

    Args:
        command: of the server, with its arguments.
        calls: carries the calls of tools.
        source, sink: the client's lines, and where it gets its own.
        note: called with a line that a user should see.

    Raises ConfigError where the command cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        calls: ToolCalls,
        plan: Plan,
        source: BinaryIO,
        sink: BinaryIO,
        note: Callable[[str], None],
    ) -> None:
        self._command, self._calls, self._source, self._note = command, calls, source, note
        self._writer = LineWriter(sink)
        self._tools = ListedTools(plan, note)
        self._waiting: dict[str, asyncio.Future[Response]] = {}  # requests at the server, by the JSON of their id
        self._answering: dict[str, asyncio.Task[None]] = {}  # requests of the client, by the same
        self._at_server: dict[str, Any] = {}  # the id under which the server has a request of the client
        self._cancelled: OrderedDict[str, None] = OrderedDict()  # ids at the server to which no response is wanted

    async def run(self) -> int:
        """Passes messages on until the client or the server is gone. Returns the exit code of the server."""
        try:
            self._server = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=LONGEST_LINE,
            )
        except OSError as error:
            raise ConfigError(
                f"'{self._command[0]}' cannot be started ({error.strerror}); check the command"
            ) from error
        assert self._server.stdin is not None and self._server.stdout is not None
        self._to_server, self._from_server = self._server.stdin, self._server.stdout
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # on Windows, in other threads
                asyncio.get_running_loop().add_signal_handler(number, self._stop, stopped)
        client, server = asyncio.ensure_future(self._read_client()), asyncio.ensure_future(self._read_server())
        ends: list[asyncio.Future[Any]] = [client, server, asyncio.ensure_future(stopped.wait())]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if server.done():
                await self._server_is_gone()
            elif client.done():
                await self._finish_answers()
            code = await self._shut_down()
            await asyncio.wait([server], timeout=SHUTDOWN_S)  # what the server has said in the end
            if not await asyncio.to_thread(self._writer.close):
                self._note(f"the client has read nothing for {SLOWEST_READER_S:.0f} s, and got no more")
                return code or 1
            return code
        finally:
            for task in [*ends, *self._answering.values()]:
                task.cancel()
            for end in ends:
                if end.done() and not end.cancelled():
                    end.result()  # raises what went wrong in it

    # --- from the client ---

    async def _read_client(self) -> None:
        lines = _lines_of(self._source)
        while line := await lines.get():
            message = parsed(line)
            if self._calls.is_targeted(message):
                key = key_of(message["id"])
                self._answering[key] = asyncio.ensure_future(self._answer(key, message, line))
                for _ in range(TURNS):  # a call that nothing holds up keeps its place before the next line
                    if key in self._at_server or key not in self._answering:
                        break
                    await asyncio.sleep(0)
                continue
            if isinstance(message, dict):
                if message.get("method") == "notifications/cancelled":
                    await self._cancel(message, line)
                    continue
                self._tools.on_request(message)
            await self._send_line(line)

    async def _answer(self, key: str, request: Message, line: bytes) -> None:
        async def send(message: Message) -> Response:
            self._at_server[key] = message["id"]
            return await self._send(message, line if message is request else as_line(message))

        try:
            text = (await self._calls.answer(request, send)).text
        except _ServerGone as error:
            text = error_text(request["id"], CONNECTION_CLOSED, str(error))
        except Exception as error:
            problem = f"{request['params']['name']}: {type(error).__name__}: {error}"
            self._note(problem)
            text = error_text(request["id"], INTERNAL_ERROR, f"worldsim proxy: {problem}")
        finally:
            if self._answering.get(key) is asyncio.current_task():
                del self._answering[key]
                self._at_server.pop(key, None)
        self._writer.write(text)

    async def _send(self, request: Message, line: bytes) -> Response:
        """Sends a request to the server, as this line, and waits for its response."""
        key = key_of(request["id"])
        response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._waiting[key] = response
        await self._send_line(line)
        return await response

    async def _send_line(self, line: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # the end of the server's output tells of it
            self._to_server.write(line)
            await self._to_server.drain()

    async def _cancel(self, notification: Message, line: bytes) -> None:
        """Stops what answers a cancelled request; passes the notification on if the server has that request."""
        params = notification.get("params")
        key = key_of(params.get("requestId")) if isinstance(params, dict) else ""
        task = self._answering.pop(key, None)
        if task is None:
            return await self._send_line(line)
        task.cancel()
        if key not in self._at_server:
            return
        there = self._at_server.pop(key)
        if self._waiting.pop(key_of(there), None) is not None:
            self._cancelled[key_of(there)] = None
            if len(self._cancelled) > MOST_CANCELLED:
                self._cancelled.popitem(last=False)
        if there != params["requestId"]:  # type: ignore[index]
            line = as_line({**notification, "params": {**params, "requestId": there}})  # type: ignore[dict-item]
        await self._send_line(line)

    def _stop(self, stopped: asyncio.Event) -> None:
        """Ends everything at once: a signal has come."""
        stopped.set()
        for task in self._answering.values():
            task.cancel()
        self._writer.give_up()
        with contextlib.suppress(ProcessLookupError):
            self._server.terminate()

    # --- from the server ---

    async def _read_server(self) -> None:
        while line := await self._from_server.readline():
            if not self._waiting and not self._cancelled and not self._tools.is_waiting:
                self._writer.write(line)
                continue
            message = parsed(line)
            if not isinstance(message, dict) or "method" in message or "id" not in message:
                self._writer.write(line)
                continue
            self._tools.on_response(message)
            key = key_of(message["id"])
            waiting = self._waiting.pop(key, None)
            if key in self._cancelled:
                del self._cancelled[key]
            elif waiting is None:
                self._writer.write(line)
            elif not waiting.done():
                waiting.set_result(Response(line, message))

    async def _server_is_gone(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._server.wait(), SHUTDOWN_S)
        code = self._server.returncode
        gone = _ServerGone(f"the server has ended{'' if code is None else f' with exit code {code}'}")
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(gone)
        self._waiting.clear()
        await self._finish_answers()

    async def _finish_answers(self) -> None:
        if self._answering:
            await asyncio.wait(list(self._answering.values()), timeout=SHUTDOWN_S)

    async def _shut_down(self) -> int:
        """As the specification has it: close its input, then ask, then kill (section Lifecycle, Shutdown)."""
        with contextlib.suppress(OSError, RuntimeError):
            self._to_server.close()
        for stop in (None, self._server.terminate, self._server.kill):
            with contextlib.suppress(ProcessLookupError):
                if stop is not None:
                    stop()
            try:
                return await asyncio.wait_for(self._server.wait(), SHUTDOWN_S)
            except TimeoutError:
                continue
        return 1


class ListedTools:
    """Names of tools, as the server lists them to the client: notes globs of the plan that match none of them."""

    def __init__(self, plan: Plan, note: Callable[[str], None]) -> None:
        self._plan, self._note = plan, note
        self._requests: set[str] = set()
        self._names: list[str] = []

    @property
    def is_waiting(self) -> bool:
        return bool(self._requests)

    def on_request(self, message: Message) -> None:
        if message.get("method") == "tools/list" and "id" in message and self._plan.faults:
            self._requests.add(key_of(message["id"]))

    def on_response(self, message: Message) -> None:
        if key_of(message["id"]) not in self._requests:
            return
        self._requests.discard(key_of(message["id"]))
        result = message.get("result")
        if not isinstance(result, dict) or not isinstance(tools := result.get("tools"), list):
            return
        self._names += [tool["name"] for tool in tools if isinstance(tool, dict) and isinstance(tool.get("name"), str)]
        if result.get("nextCursor") is not None:
            return
        names, self._names = self._names, []
        try:
            self._plan.check(names, None)
        except ConfigError as error:
            self._note(str(error))


class _ServerGone(ConnectionError):
    """The server has ended before it answered."""


def parsed(line: bytes) -> Any:
    """What a line of JSON holds; None for every other line."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def key_of(identifier: Any) -> str:
    """The id of a request as a key: 1 and "1" are two."""
    return json.dumps(identifier)


class LineWriter:
    """Writes lines to a file in a thread of its own, so that a client that reads slowly holds up nothing else."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink, self._lines = sink, queue.SimpleQueue[bytes | None]()
        self._written = 0  # parts of lines
        self._given_up = False
        self._thread = threading.Thread(target=self._write_all, daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        self._lines.put(line)

    def give_up(self) -> None:
        """From now on `close` does not wait."""
        self._given_up = True

    def close(self) -> bool:
        """Waits until everything is written, as long as the client reads. Returns whether it was."""
        self._lines.put(None)
        before, since = self._written, time.monotonic()
        while self._thread.is_alive() and not self._given_up:
            self._thread.join(0.05)
            if self._written != before:
                before, since = self._written, time.monotonic()
            elif time.monotonic() - since > SLOWEST_READER_S:
                return False
        return True

    def _write_all(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # the client is gone, which the end of its input tells, too
            while (line := self._lines.get()) is not None:
                for start in range(0, len(line), PART):
                    self._sink.write(line[start : start + PART])
                    self._sink.flush()
                    self._written += 1


def _lines_of(source: BinaryIO) -> "asyncio.Queue[bytes]":
    """The lines of a file, which a thread reads; b"" at its end."""
    loop, lines = asyncio.get_running_loop(), asyncio.Queue[bytes]()

    def read() -> None:
        with contextlib.suppress(RuntimeError, ValueError, OSError):  # the loop is over, or the file is closed
            for line in iter(source.readline, b""):
                loop.call_soon_threadsafe(lines.put_nowait, line)
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(lines.put_nowait, b"")

    threading.Thread(target=read, daemon=True).start()
    return lines
