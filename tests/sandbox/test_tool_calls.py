"""What is recorded of calls of tools, by what the server answers."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.conftest import call
from worldsim.faults import NullFields
from worldsim.faults.tools import Faults
from worldsim.sandbox.tool_calls import Message, Response, ToolCalls, as_line

TEXT = [{"type": "text", "text": "out of order"}]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"result": {"content": TEXT}}, None),
        ({"result": {"task": {"taskId": "1", "status": "working"}}}, None),
        ({"result": {"resultType": "input_required", "inputRequests": {}}}, None),
        ({"result": {"content": TEXT, "isError": True}}, "_ServerError: the tool reports an error"),
        ({"error": {"code": -32602, "message": "no such tool"}}, "_ServerError: no such tool"),
    ],
)
def test_only_errors_are_recorded_as_failures(answer: Message, error: str | None, tmp_path: Path) -> None:
    calls = ToolCalls(Faults(NullFields(severity=1.0, rate=0.0), record=tmp_path / "calls.jsonl"))

    async def send(request: Message) -> Response:
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": request["id"], **answer}
        return Response(as_line(message), message)

    found = asyncio.run(calls.answer(call(1, "find"), send))
    assert json.loads(found.text) == {"jsonrpc": "2.0", "id": 1, **answer}
    recorded = json.loads((tmp_path / "calls.jsonl").read_text())
    assert recorded.get("error") == error and recorded["ok"] == (error is None)
