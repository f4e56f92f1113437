"""Trajectories in the Agent Trajectory Interchange Format, which Harbor writes.

They say which tools were called and what came back, and not how long that took; NVIDIA's toolkit adds it as
`extra.invocation`. https://www.harborframework.com/docs/agents/trajectory-format
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from worldsim.faults.learned.errors import classify
from worldsim.faults.learned.spans import TraceSpan
from worldsim.faults.learned.timestamps import optional_moment_ns

_STARTS_AS_ERROR = re.compile(
    r"\s*\[?(error|\w*(error|exception)|traceback|http \d\d\d|api error|failed|mcp error)\b", re.I
)


def read_trajectory(trajectory: Mapping[str, Any]) -> Iterator[TraceSpan]:
    """The calls of one trajectory, and of those of sub-agents within it."""
    whole = str(trajectory.get("trajectory_id") or trajectory.get("session_id") or "")
    session = str(trajectory.get("session_id") or whole)
    moment_ns = 0
    for step in trajectory["steps"]:
        calls = step.get("tool_calls") or []
        started_ns = optional_moment_ns(step.get("timestamp"))  # of calls of one step the first comes first
        moment_ns = moment_ns + 1 if started_ns is None else max(started_ns, moment_ns)
        results = (step.get("observation") or {}).get("results") or []
        for number, call in enumerate(calls):
            result = _result(call, number, calls, results)
            found = _span(step, number, call, result, moment_ns + number)
            found.trace, found.session = whole, session
            yield found
        moment_ns += len(calls)
    for inner in trajectory.get("subagent_trajectories") or []:
        yield from read_trajectory(inner)


def _result(
    call: Mapping[str, Any], number: int, calls: Sequence[Any], results: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """What came back from a call: the result that names it; where none names any, the one in its place."""
    if not any(each.get("source_call_id") for each in results):
        return results[number] if len(results) == len(calls) else None
    return next((each for each in results if each.get("source_call_id") == call["tool_call_id"]), None)


def _span(
    step: Mapping[str, Any],
    number: int,
    call: Mapping[str, Any],
    result: Mapping[str, Any] | None,
    moment_ns: int,
) -> TraceSpan:
    timing = _timing(step, number, call)
    start_ns, end_ns = (
        optional_moment_ns(timing.get("start_timestamp")),
        optional_moment_ns(timing.get("end_timestamp")),
    )
    timed = start_ns is not None and end_ns is not None
    content = _text((result or {}).get("content"))
    failed = _failed(step, timing, result or {}, content)
    return TraceSpan(
        trace="",
        id=f"{step.get('step_id')}:{call['tool_call_id']}",
        parent="",
        name=str(call["function_name"]),
        kind="internal",
        start_ns=start_ns if timed else moment_ns,
        end_ns=end_ns if timed else None if result is None else moment_ns,
        attributes={"gen_ai.tool.name": str(call["function_name"])},
        failed=failed,
        texts=[content] if failed else [],
        timed=timed,
    )


def _timing(step: Mapping[str, Any], number: int, call: Mapping[str, Any]) -> Mapping[str, Any]:
    """When a call started and ended, where NVIDIA's toolkit says so: beside the call or, before 1.7, in its step."""
    beside = (call.get("extra") or {}).get("invocation")
    in_step = (step.get("extra") or {}).get("tool_invocations") or []
    return beside or (in_step[number] if number < len(in_step) else None) or {}


def _failed(step: Mapping[str, Any], timing: Mapping[str, Any], result: Mapping[str, Any], content: str) -> bool:
    """Whether a call failed: where nothing marks it, if what came back begins as an error that is known."""
    extra = {**(step.get("extra") or {}), **(result.get("extra") or {})}
    if len((step.get("observation") or {}).get("results") or []) == 1 and extra.get("tool_result_is_error"):
        return True  # as Harbor writes what Claude Code says
    if result.get("is_error") or extra.get("is_error") or timing.get("status") == "error":
        return True
    return bool(_STARTS_AS_ERROR.match(content)) and classify(content) is not None


def _text(content: Any) -> str:
    """The text of a result, which since version 1.6 may be a list of parts."""
    if isinstance(content, list):
        return "\n".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    return str(content or "")
