"""Calls of MCP tools through faults: JSON-RPC requests of `tools/call`, and what their client gets for them.

Source: Model Context Protocol 2026-07-28 and 2025-11-25, sections Tools and Cancellation; JSON-RPC 2.0, section 5.
"""

import json
import uuid
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import Any, Literal, NamedTuple

from worldsim.faults.calls import LOST, Call, Reply, Unchangeable
from worldsim.faults.parameters import matches
from worldsim.faults.payload_views import is_mcp_result
from worldsim.faults.tools import DEFAULT, Faults, ToolError

Message = dict[str, Any]
Failures = Literal["result", "protocol"]

CONNECTION_CLOSED = -32000  # as the SDKs report it for every request that was open
REQUEST_TIMEOUT = -32001
INTERNAL_ERROR = -32603


class Response(NamedTuple):
    """A response of a server: the text as it came, and what it holds."""

    text: bytes
    message: Message


class Answer(NamedTuple):
    """What a client gets for a request. failed: the reply, where a fault lost or refused it, or left it unreadable."""

    text: bytes
    failed: Reply | None = None


Send = Callable[[Message], Awaitable[Response]]


class ToolCalls:
    """Puts faults between a client's `tools/call` requests and their server.

    A response that no fault has changed is passed on as the server wrote it, byte by byte. Errors, of the tool and of
    the protocol, and results that are not a tool's content yet (a task, a question to the user), may be delayed or
    lost, but not changed.

    Args:
        faults: the plan. session: the name of the client's session in it.
        failures: how a call looks that failed, or whose reply cannot be parsed. "result": as a tool reports it, a
            result with `isError`, or one whose text is cut off. "protocol": as a broken server does, a JSON-RPC error,
            or half a message.
    """

    def __init__(self, faults: Faults, session: str = DEFAULT, failures: Failures = "result") -> None:
        self.session, self._failures = faults.session(session), failures
        self._is_recorded = faults.recorder is not None
        self._faults = [fault for fault in faults.plan.faults if not fault.idle]
        self._numbers, self._own_ids = count(), f"worldsim-{uuid.uuid4().hex[:12]}"

    def is_targeted(self, message: Any) -> bool:
        """Whether a message is a request that faults may act on, or that is recorded."""
        if not isinstance(message, dict) or message.get("method") != "tools/call" or "id" not in message:
            return False
        params = message.get("params")
        if not isinstance(params, dict) or not isinstance(params.get("arguments", {}), dict | None):
            return False  # which the server refuses
        if not isinstance(name := params.get("name"), str):
            return False
        return self._is_recorded or any(matches(name, fault.tools) for fault in self._faults)

    async def answer(self, request: Message, send: Send) -> Answer:
        """The response that the client gets.

        send: sends a request to the server, and returns its response. It is called as often as the call is carried
        out, with `request` itself if no fault has changed it, and from the second time on with an id of its own. Raises
        what `send` raises, unless a fault loses the answer.
        """
        params = request["params"]
        name, arguments = params["name"], params.get("arguments") or {}
        sent, responses = count(), list[Response]()

        async def forward(call: Call) -> Any:
            response = await send(self._request(request, call, first=next(sent) == 0))
            responses.append(response)
            result = response.message.get("result")
            if not isinstance(result, Mapping) or result.get("isError"):
                raise _ServerError(response)
            return result if is_mcp_result(result) else _Unfinished(response)

        try:
            reply = await self.session.acall(name, arguments, forward)
        except _ServerError as error:
            return Answer(self._for_request(error.response, request))
        if isinstance(reply.payload, _Unfinished):
            return Answer(self._for_request(reply.payload.response, request))
        if reply.payload is LOST:
            return Answer(self._failed(request, reply), reply)
        if not (isinstance(reply.payload, Mapping) and is_mcp_result(reply.payload)):  # of another tool, or of none yet
            return Answer(_result(request, _content(reply.payload)))
        came = next((each for each in responses if each.message.get("result") == reply.payload), None)
        return Answer(self._for_request(came, request) if came else _result(request, reply.payload))

    def _request(self, request: Message, call: Call, first: bool) -> Message:
        params = request["params"]
        changed = call.tool != params["name"] or call.arguments != (params.get("arguments") or {})
        if changed:
            params = {**params, "name": call.tool, "arguments": dict(call.arguments)}
        if first:
            return {**request, "params": params} if changed else request
        if "progressToken" in (meta := params.get("_meta") or {}):  # under which the client expects no second progress
            params = {**params, "_meta": {key: value for key, value in meta.items() if key != "progressToken"}}
        return {**request, "params": params, "id": f"{self._own_ids}-{next(self._numbers)}"}

    def _for_request(self, response: Response, request: Message) -> bytes:
        """A server's response under the id that the client knows."""
        if response.message.get("id") == request["id"]:
            return response.text
        return as_line({**response.message, "id": request["id"]})

    def _failed(self, request: Message, reply: Reply) -> bytes:
        """What a client gets of a reply that was lost or cannot be parsed."""
        tool = request["params"]["name"]
        if reply.error == "malformed":
            malformed = self.session.malformed_payload(tool, reply)
            payload = _content(reply.raw or "") if malformed is LOST else malformed
            if self._failures == "result":
                return _result(request, payload)
            whole = _result(request, payload)
            return whole[: len(whole) // 2] + b"\n"
        problem = str(ToolError(tool, reply))
        code = {"timeout": REQUEST_TIMEOUT, "connection": CONNECTION_CLOSED}.get(str(reply.error))
        if code is None and self._failures == "result":
            return _result(request, {**_content(problem), "isError": True})
        data = {} if reply.retry_after_s is None else {"data": {"retry_after_s": reply.retry_after_s}}
        return error_text(request["id"], code or INTERNAL_ERROR, problem, **data)


class _ServerError(Exception):
    """An error that the server reports, of the tool or of the protocol."""

    def __init__(self, response: Response) -> None:
        error = response.message.get("error")
        super().__init__(error.get("message") if isinstance(error, dict) else "the tool reports an error")
        self.response = response


class _Unfinished(Unchangeable):
    """A result that is not a tool's content yet: a task, a question to the user."""

    def __init__(self, response: Response) -> None:
        self.response = response


def error_text(identifier: Any, code: int, problem: str, **more: Any) -> bytes:
    """The text of a JSON-RPC error. more: `data`."""
    return as_line({"jsonrpc": "2.0", "id": identifier, "error": {"code": code, "message": problem, **more}})


def _content(payload: Any) -> Message:
    """A tool's result that holds a value as a text."""
    return {"content": [{"type": "text", "text": payload if isinstance(payload, str) else json.dumps(payload)}]}


def _result(request: Message, result: Mapping[str, Any]) -> bytes:
    return as_line({"jsonrpc": "2.0", "id": request["id"], "result": {"resultType": "complete", **result}})


def as_line(message: Message) -> bytes:
    """A message as a line of JSON."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"  # ASCII: faults may leave half a surrogate
