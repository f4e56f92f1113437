"""From spans to calls: which spans are calls of tools, each counted once, and with which outcome."""

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Sequence
from typing import Any

from worldsim.faults.learned.calls import TracedCall
from worldsim.faults.learned.errors import classify, failure_of
from worldsim.faults.learned.spans import TraceSpan, error_of, has_failed, service_of, status_of, whole_number
from worldsim.faults.learned.timestamps import LONGEST_S, retry_after_seconds

MODEL_KEYS = ("gen_ai.operation.name", "gen_ai.request.model", "llm.request.type", "llm.model_name", "ai.model.id")
DEEPEST = 200  # ancestors that are looked at: a guard against circles
SIDE_BY_SIDE = 20  # requests among which the one is looked for that a try goes on
RETRY_AFTER_KEYS = ("http.response.header.retry-after", "http.response.header.retry_after")


def calls_from_spans(spans: Iterable[TraceSpan], left_out: Counter[str]) -> list[TracedCall]:
    """The calls in spans, in the order in which they started; what is not counted is added to `left_out`.

    Where any span names a tool, those that do are calls, else those of kind client that are not the model's own. A
    span within a call is part of it: of the same tool, or of the service that the tool asks.
    """
    tree = _SpanTree(spans, left_out)
    named = any(span.tool for span in tree.spans)
    found = [span for span in tree.spans if (span.tool if named else tree.is_service_call(span))]
    below = tree.below(found)
    inner = {id(span) for part in below.values() for span in part}
    left_out["spans within a call that is counted already"] += len(inner)
    outermost = [span for span in found if id(span) not in inner]
    if named:
        others = [span for span in tree.spans if span.kind == "client" and not span.tool and id(span) not in inner]
        left_out["spans of kind client, outside of all tools"] += sum(map(tree.is_service_call, others))
    finished = [span for span in outermost if span.start_ns is not None and span.end_ns is not None]
    left_out["spans without a start or an end"] += len(outermost) - len(finished)
    finished.sort(key=lambda span: (span.start_ns, span.id))
    counted = [[span] for span in finished] if named else _with_their_retries(finished)
    left_out["retries within a call"] += len(finished) - len(counted)
    return [_call(tries, below.get(id(tries[-1]), ()), tree.session(tries[0])) for tries in counted]


class _SpanTree:
    """Spans, each once, and what is above each of them."""

    def __init__(self, spans: Iterable[TraceSpan], left_out: Counter[str]) -> None:
        self._known: dict[tuple[str, str, bool], TraceSpan] = {}
        nameless = []
        for span in spans:
            if not span.id:  # without an id, spans that were exported twice cannot be recognized
                nameless.append(span)
                continue
            before = self._known.get(span.key)
            left_out["spans exported again"] += before is not None
            if before is None or (span.end_ns or 0) >= (before.end_ns or 0):  # the later export knows how it ended
                self._known[span.key] = span
        self.spans = [*self._known.values(), *nameless]
        self._parents = {(span.trace, span.parent) for span in self.spans}
        self._sessions: dict[str, set[str]] = defaultdict(set)
        for span in self.spans:
            if span.session:
                self._sessions[span.trace].add(span.session)

    def above(self, span: TraceSpan) -> Iterable[TraceSpan]:
        """The ancestors of a span, from its parent on."""
        known, below = self._known, span
        for _ in range(DEEPEST):
            parent = known.get((span.trace, span.id, False)) if span.kind == "server" else None
            if parent is None and span.parent:
                parent = known.get((span.trace, span.parent, True)) or known.get((span.trace, span.parent, False))
            if parent is None or parent is below:
                return
            yield parent
            span = parent

    def is_service_call(self, span: TraceSpan) -> bool:
        """Whether a span that names no tool is a call of one all the same."""
        if span.kind == "step":
            return (span.trace, span.id) not in self._parents
        if span.kind != "client" or any(key in span.attributes for key in MODEL_KEYS):
            return False
        return not any(each.is_model_call for each in self.above(span))  # the model's own HTTP

    def call_over(self, span: TraceSpan, calls: Container[tuple[str, str, bool]]) -> TraceSpan | None:
        """The outermost call that a span is part of. A tool that an agent calls as part of another tool is its own."""
        is_request = not span.tool or span.kind in ("client", "server") or "mcp.method.name" in span.attributes
        outermost = None
        for each in self.above(span):
            if (is_request or each.tool == span.tool) and each.key in calls:
                outermost = each
        return outermost

    def below(self, calls: Iterable[TraceSpan]) -> dict[int, list[TraceSpan]]:
        """The spans that are part of these calls, by the id of the object that is the call."""
        keys = {call.key for call in calls if call.id}
        found: dict[int, list[TraceSpan]] = defaultdict(list)
        for span in self.spans:
            if (span.tool or span.kind in ("client", "server")) and (call := self.call_over(span, keys)) is not None:
                found[id(call)].append(span)
        return found

    def session(self, span: TraceSpan) -> str:
        """The session in the span, or in its ancestors, or the only one in its trace; else the trace itself."""
        if span.session or not (of_trace := self._sessions.get(span.trace)):
            return span.session or span.trace
        if len(of_trace) == 1:
            return next(iter(of_trace))
        return next((each.session for each in self.above(span) if each.session), span.trace)


def _with_their_retries(spans: Iterable[TraceSpan]) -> list[list[TraceSpan]]:
    """Spans in the order of their start, each with those after it that sent the same request again."""
    counted: list[list[TraceSpan]] = []
    by_request: dict[tuple[str, str, str], list[list[TraceSpan]]] = defaultdict(list)
    for span in spans:
        requests = by_request[span.trace, span.parent, service_of(span)]
        number = (
            whole_number(span.attributes.get("http.request.resend_count", span.attributes.get("http.resend_count")))
            or 0
        )
        if number and requests:
            _request_of_retry(span, number, requests[-SIDE_BY_SIDE:]).append(span)
        else:
            counted.append([span])
            requests.append(counted[-1])
    return counted


def _request_of_retry(span: TraceSpan, number: int, requests: Sequence[list[TraceSpan]]) -> list[TraceSpan]:
    """The request that a try goes on: the last that was tried as often and had come to an end."""
    ended = (
        each for each in reversed(requests) if len(each) == number and (each[-1].end_ns or 0) <= (span.start_ns or 0)
    )
    return next(ended, requests[-1])


def _call(tries: list[TraceSpan], below: Iterable[TraceSpan], session: str) -> TracedCall:
    """One call, from its first try to the outcome of its last. below: the spans that are part of the last."""
    first, last = tries[0], tries[-1]
    assert first.start_ns is not None and last.end_ns is not None, "only spans that have ended are counted"
    took_ns = last.end_ns - first.start_ns
    possible = 0 <= took_ns <= LONGEST_S * 1e9  # else two clocks were at odds, or one was not set
    return TracedCall.model_construct(  # all of it is in range here, and checking it again takes longer than the rest
        tool=first.tool or service_of(first),
        start=first.start_ns / 1e9,
        latency_s=took_ns / 1e9 if last.timed and possible else None,
        session=session,
        **(_failure(last, below) if has_failed(last) else {"ok": True}),
    )


def _failure(last: TraceSpan, below: Iterable[TraceSpan]) -> dict[str, Any]:
    """What is known of a failure: where a tool's span has no cause, its inner spans may."""
    failed_inner = sorted((span for span in below if has_failed(span)), key=lambda span: span.end_ns or 0)
    causes = [(status_of(span.attributes), error_of(span), span) for span in (last, *reversed(failed_inner))]
    status, error, _ = next((each for each in causes if (each[0] or 0) >= 400 or classify(each[1])), causes[0])
    same = [span for its, text, span in causes if failure_of(its, text) == failure_of(status, error)]
    waits = (
        retry_after_seconds(span.attributes[key], span.end_ns)
        for span in same
        for key in RETRY_AFTER_KEYS
        if key in span.attributes
    )
    wait = next((wait for wait in waits if wait is not None), None)
    return {"ok": False, "error": error, "status": status, "retry_after_s": wait}
