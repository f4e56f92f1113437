"""Observations of Langfuse, as its API and its exports write them, in camelCase or snake_case.

https://langfuse.com/docs/api-and-data-platform/features/export-from-ui
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from worldsim.faults.learned.formats.otlp import attributes, get
from worldsim.faults.learned.spans import TraceSpan
from worldsim.faults.learned.timestamps import optional_moment_ns

KINDS = {  # type of observation -> kind of span
    "TOOL": "internal",
    "SPAN": "step",  # before there was TOOL, tools were written as this, and so was all that called them
    "RETRIEVER": "client",
}
TYPES = (*KINDS, "GENERATION", "EVENT", "AGENT", "CHAIN", "EVALUATOR", "EMBEDDING", "GUARDRAIL")


def is_observation(document: Mapping[str, Any]) -> bool:
    """Whether a document is an observation of Langfuse."""
    return document.get("type") in TYPES and ("startTime" in document or "start_time" in document)


def read_trace(trace: Mapping[str, Any]) -> Iterator[TraceSpan]:
    """The observations of one trace, which knows its session."""
    session = str(get(trace, "sessionId") or "")
    for observation in trace["observations"]:
        if not isinstance(observation, Mapping):
            raise ValueError("it holds the ids of observations and not the observations; export these")
        yield read_observation({"traceId": trace.get("id"), **observation}, session)


def read_observation(observation: Mapping[str, Any], session: str = "") -> TraceSpan:
    """One observation. session: what its trace says."""
    fields = _attributes(observation.get("metadata"))
    if observation["type"] == "TOOL":
        fields = {"langfuse.observation.type": "tool", **fields}
    message = get(observation, "statusMessage")
    return TraceSpan(
        trace=str(get(observation, "traceId") or ""),
        id=str(observation.get("id") or ""),
        parent=str(get(observation, "parentObservationId") or ""),
        name=str(observation.get("name") or observation["type"]),
        kind=KINDS.get(observation["type"], ""),
        start_ns=optional_moment_ns(get(observation, "startTime")),
        end_ns=optional_moment_ns(get(observation, "endTime")),
        attributes=fields,
        failed=True if observation.get("level") == "ERROR" else None,
        texts=[str(message)] if message else [],
        session=str(get(observation, "sessionId") or session),
    )


def _attributes(metadata: Any) -> dict[str, Any]:
    """The attributes of the OpenTelemetry span that an observation was made from, which Langfuse keeps as metadata."""
    if isinstance(metadata, str) and metadata.startswith("{"):
        metadata = json.loads(metadata)
    kept = metadata.get("attributes") if isinstance(metadata, Mapping) else None
    if isinstance(kept, str) and kept.startswith("{"):
        kept = json.loads(kept)
    return attributes(kept) if isinstance(kept, Mapping) else {}
