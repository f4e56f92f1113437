"""Faults on plain functions and coroutines: what an agent's tools are, before any framework wraps them.

    faults = Faults("flaky_vendor", seed=1)

    @tool(faults)
    def refund(order: int, amount: float) -> dict: ...

A tool takes arguments that are JSON, by name, and answers with something that is. Its signature, docstring and
annotations stay, so agent frameworks still make the same schema of it.
"""

import asyncio
import functools
import inspect
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar, Token
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, TypeVar, cast

import numpy as np

from worldsim.errors import ConfigError
from worldsim.faults.call_recorder import CallRecorder
from worldsim.faults.calls import ERRORS, LOST, Call, FaultRecord, Reply, Unchangeable
from worldsim.faults.clock import Clock, VirtualClock, WallClock, call_time
from worldsim.faults.definition import Fault
from worldsim.faults.effects.base import Effect
from worldsim.faults.effects.delays import ON_TIME_S
from worldsim.faults.parameters import suggest
from worldsim.faults.payload_views import PayloadView, view_of
from worldsim.faults.pipeline import ExecuteCall, ExecuteCallAsync, ForwardContext, Pipeline
from worldsim.faults.plans.plan import Plan
from worldsim.faults.stage import checked_seed

F = TypeVar("F", bound=Callable[..., Any])
Errors = Literal["raise", "result"]
_ROW = np.zeros(1, np.int64)
DEFAULT = "default"  # the session of callers that open none


class ToolError(RuntimeError):
    """A call that failed, as its caller sees it.

    reply: all that the caller may know: error, retry_after_s, latency_s, raw.
    """

    def __init__(self, tool: str, reply: Reply) -> None:
        super().__init__(_error_text(tool, reply))
        self.tool, self.reply = tool, reply

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.tool, self.reply)  # agents run in other processes, too

    @property
    def retry_after_s(self) -> float | None:
        """Seconds after which the service asks to be called again, None where it does not."""
        return self.reply.retry_after_s


class ToolTimeout(ToolError, TimeoutError):
    """Nothing came in time. Whether the call was carried out is not known."""


class ToolConnectionError(ToolError, ConnectionError):
    """The connection was lost. Whether the call was carried out is not known."""


class ToolRefused(ToolError):
    """The service refused the call, or failed: see `status` and `retry_after_s`."""

    @property
    def status(self) -> int:
        """The HTTP status that stands for the error."""
        return STATUSES[str(self.reply.error)]


class MalformedReply(ToolError, ValueError):
    """A reply arrived that cannot be parsed: see `reply.raw`."""


STATUSES: Mapping[str, int] = {
    "unavailable": 503,
    "rate_limited": 429,
    "server_error": 500,
    "bad_gateway": 502,
    "unauthorized": 401,
    "forbidden": 403,
    "quota": 429,
}
"""Kinds of failure -> the HTTP status that stands for each; a time-out, a lost connection, and nonsense have none."""

_EXCEPTIONS: Mapping[str, type[ToolError]] = {
    "timeout": ToolTimeout,
    "connection": ToolConnectionError,
    "malformed": MalformedReply,
}


def _error_text(tool: str, reply: Reply) -> str:
    """The error message of a failed call, in a line."""
    status = f" {STATUSES[reply.error]}" if reply.error and reply.error in STATUSES else ""
    wait = "" if reply.retry_after_s is None else f"; retry after {reply.retry_after_s:g} s"
    raw = f": {' '.join(reply.raw.split())[:200]}" if reply.raw else ""
    return f"{tool}: {(reply.error or 'failed').replace('_', ' ')}{status}{wait}{raw}"


class _ToolException(Unchangeable):
    """What a tool itself raised."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class Session:
    """The calls of one conversation: its own counters, clock and records. Made by `Faults.session`.

    As a context (`with faults.session("anna"):`) it is the one in which tools are called, in this task or thread.
    """

    def __init__(self, faults: "Faults", name: str) -> None:
        self.name, self.clock = name, faults._clock()
        self._began = time.time() - self.clock.now()  # when the session's clock stood at 0, in seconds since 1970
        self._faults, self._records = faults, list[FaultRecord]()
        self._views: dict[str, PayloadView] = {}  # of the last answer of each tool, to rebuild replayed payloads
        self._tokens: list[Token[Session | None]] = []
        seeded = [(fault, faults.seed) for fault in faults.plan.faults]
        self._pipeline = Pipeline(seeded, None, faults.tools, self.clock)
        self._pipeline.start(_ROW, [(name,)])

    @property
    def records(self) -> list[FaultRecord]:
        """The records of the calls of this session, in the order in which their replies arrived."""
        return list(self._records)

    def call(self, tool: str, arguments: Mapping[str, Any], forward: Callable[[Call], Any]) -> Reply:
        """Carry a call through the faults. `forward` executes it, and returns a result or a `Reply`.

        What `forward` raises goes on to the caller, unless a fault has lost the answer.
        """
        adapter = _CallAdapter(self, tool, arguments)
        reply, _ = self.call_with_records(tool, arguments, adapter.sync(forward))
        return adapter.restore_payload(tool, reply)

    async def acall(self, tool: str, arguments: Mapping[str, Any], forward: Callable[[Call], Awaitable[Any]]) -> Reply:
        """`call` for a coroutine."""
        adapter = _CallAdapter(self, tool, arguments)
        reply, _ = await self.acall_with_records(tool, arguments, adapter.coroutine(forward))
        return adapter.restore_payload(tool, reply)

    def call_with_records(
        self, tool: str, arguments: Mapping[str, Any], execute: ExecuteCall, timeout_s: float | None = None
    ) -> tuple[Reply, Sequence[FaultRecord]]:
        """`call` with the records of the call, for entry points that open payloads for the faults in their own way.

        timeout_s: seconds that the caller waits at most for what faults hold up; None: for as long as it takes.
        """

        def caught(call: Call, context: ForwardContext) -> Reply:
            try:
                return execute(call, context)
            except Exception as error:
                return Reply(_ToolException(error))

        with call_time(self.clock):
            started_s = self.clock.now()
            deadline_s = None if timeout_s is None else started_s + timeout_s
            reply, records = self._pipeline.call(tool, arguments, caught, deadline_s=deadline_s)
            return self._finish_call(tool, reply, records, started_s, timeout_s), records

    async def acall_with_records(
        self, tool: str, arguments: Mapping[str, Any], execute: ExecuteCallAsync, timeout_s: float | None = None
    ) -> tuple[Reply, Sequence[FaultRecord]]:
        """`call_with_records` for a coroutine."""

        async def caught(call: Call, context: ForwardContext) -> Reply:
            try:
                return await execute(call, context)
            except Exception as error:
                return Reply(_ToolException(error))

        with call_time(self.clock):
            started_s = self.clock.now()
            deadline_s = None if timeout_s is None else started_s + timeout_s
            reply, records = await self._pipeline.acall(tool, arguments, caught, deadline_s)
            return self._finish_call(tool, reply, records, started_s, timeout_s), records

    def effects(self, tool: str, number: int) -> list[Effect]:
        """The effects of the faults that may act on a call."""
        return self._pipeline.effects(tool, number)

    def malformed_payload(self, tool: str, reply: Reply) -> Any:
        """What the caller of a tool that answers with a text gets of a reply that cannot be parsed; LOST for others."""
        view = self._views.get(tool)
        if reply.error != "malformed" or reply.raw is None or view is None or view.malformed is None:
            return LOST
        return view.malformed(reply.raw)

    def wait(self, seconds: float) -> None:
        """Let time pass on the session's clock: an agent that heeds a Retry-After waits here."""
        self.clock.sleep(_checked_wait(seconds))

    async def await_(self, seconds: float) -> None:
        """`wait` for a coroutine."""
        await self.clock.asleep(_checked_wait(seconds))

    def _finish_call(
        self, tool: str, reply: Reply, records: Sequence[FaultRecord], started_s: float, timeout_s: float | None
    ) -> Reply:
        self._records += records
        was_delayed = reply.latency_s > 0
        if isinstance(self.clock, WallClock):  # execution takes time, too
            reply = reply._replace(latency_s=self.clock.now() - started_s)
        if timeout_s is not None and was_delayed and reply.latency_s >= timeout_s - ON_TIME_S:
            reply = Reply.failed("timeout")._replace(latency_s=reply.latency_s)
        raised = reply.payload.error if isinstance(reply.payload, _ToolException) else None
        if self._faults.recorder is not None:
            failure = None if raised is None else f"{type(raised).__name__}: {raised}"
            self._faults.recorder.add(self.name, tool, self._began + started_s, reply, failure)
        if raised is not None:
            raise raised
        return reply

    def __enter__(self) -> "Session":
        self._tokens.append(_current.set(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current.reset(self._tokens.pop())


_current: ContextVar[Session | None] = ContextVar("worldsim.faults.session", default=None)


class _CallAdapter:
    """Executes one call, and keeps the view of its answer that the faults changed.

    With it, a call that a fault has held back may be executed, too: its answer has a view of its own.
    """

    def __init__(self, session: Session, tool: str, arguments: Mapping[str, Any]) -> None:
        self._session, self._tool, self._arguments = session, tool, arguments
        self.view: PayloadView | None = None

    def sync(self, forward: Callable[[Call], Any]) -> Callable[[Call, ForwardContext], Reply]:
        def execute(call: Call, context: ForwardContext) -> Reply:
            return self._open_payload(call, forward(call))

        return execute

    def coroutine(
        self, forward: Callable[[Call], Awaitable[Any]]
    ) -> Callable[[Call, ForwardContext], Awaitable[Reply]]:
        async def execute(call: Call, context: ForwardContext) -> Reply:
            try:
                answer = await self._in_time(forward(call), context)
            except _CallerTimedOut:
                return Reply.failed("timeout")
            return self._open_payload(call, answer)

        return execute

    async def _in_time(self, answer: Awaitable[Any], context: ForwardContext) -> Any:
        """An answer, unless the caller gives up before: the service goes on then, and its answer is dropped."""
        if context.deadline_s is None or not isinstance(self._session.clock, WallClock):
            return await answer
        task = asyncio.ensure_future(answer)
        left_s = max(0.0, context.deadline_s - self._session.clock.now())
        try:
            done, _ = await asyncio.wait({task}, timeout=left_s)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not done:
            self._session._faults._abandoned.add(task)
            task.add_done_callback(self._session._faults._forget)
            raise _CallerTimedOut
        return task.result()

    def restore_payload(self, tool: str, reply: Reply) -> Reply:
        """A reply with its payload in the form of the tool's answers again."""
        view = self.view or self._session._views.get(tool)
        return reply if reply.payload is LOST or view is None else reply._replace(payload=view.rebuild(reply.payload))

    def _open_payload(self, call: Call, answer: Any) -> Reply:
        reply = answer if isinstance(answer, Reply) else Reply(answer)
        if reply.payload is LOST:
            return reply
        view = self._session._views[call.tool] = view_of(reply.payload)
        if self.view is None or (call.tool == self._tool and call.arguments == self._arguments):
            self.view = view
        return reply._replace(payload=view.inner)


class _CallerTimedOut(Exception):
    """The caller has given up waiting."""


def _checked_wait(seconds: float) -> float:
    if not seconds >= 0:
        raise ConfigError(f"wait({seconds!r}): the seconds to wait must be 0 or more")
    return seconds


class Faults:
    """A plan of faults, ready to carry the calls of tools. Safe to share between threads and tasks.

    What happens to call k of a tool in a session depends on the seed, the session's name, the tool and k, not on what
    runs beside it (except for kinds that tie tools together, and say so).

    Args:
        plan: a plan, the name of a ready one or the path of its file; or faults, outermost first, or mappings that
            describe them.
        seed: of the faults, 0 or more, where the plan has none of its own.
        tools: the names of all tools there are, so that a plan which is aimed at others is refused; None: any.
        clock: makes the clock of a session. On a `VirtualClock` latencies cost nothing; on a `WallClock` callers wait.
        record: a file to which what went through is appended, for `worldsim faults fit`.

    Raises ConfigError for a bad seed, plan or path.
    """

    def __init__(
        self,
        plan: "Plan | str | Path | Fault | Sequence[Fault | Mapping[str, Any]]",
        *,
        seed: int = 0,
        tools: Sequence[str] | None = None,
        clock: Callable[[], Clock] = VirtualClock,
        record: str | Path | None = None,
    ) -> None:
        self.plan = Plan.of(plan)
        self.seed = checked_seed(seed) if self.plan.seed is None else self.plan.seed
        self.tools = None if tools is None else tuple(tools)
        self.plan.check(self.tools, None)
        self.recorder = None if record is None else CallRecorder(record)
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self.functions: dict[str, Callable[[Call], Any]] = {}  # what carries each tool out, of those that are wrapped
        self._abandoned: set[asyncio.Future[Any]] = set()  # whose callers have given up; held so that they go on

    def session(self, name: str = DEFAULT) -> Session:
        """The session of this name; it begins when it is first used."""
        found = self._sessions.get(name)
        return found if found is not None else self._sessions.setdefault(name, Session(self, name))

    @property
    def current(self) -> Session:
        """The session that was entered (`with faults.session(...)`), or else the default one."""
        active = _current.get()
        return active if active is not None and active._faults is self else self.session()

    def call(self, tool: str, arguments: Mapping[str, Any], forward: Callable[[Call], Any]) -> Reply:
        """`Session.call` in the current session."""
        return self.current.call(tool, arguments, forward)

    async def acall(self, tool: str, arguments: Mapping[str, Any], forward: Callable[[Call], Awaitable[Any]]) -> Reply:
        """`Session.acall` in the current session."""
        return await self.current.acall(tool, arguments, forward)

    def wait(self, seconds: float) -> None:
        """`Session.wait` in the current session."""
        self.current.wait(seconds)

    async def await_(self, seconds: float) -> None:
        """`Session.await_` in the current session."""
        await self.current.await_(seconds)

    @property
    def records(self) -> list[FaultRecord]:
        """What was done to the calls of all sessions."""
        return [record for session in self._sessions.values() for record in session.records]

    def _forget(self, task: "asyncio.Future[Any]") -> None:
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, or asyncio would log it


def tool(
    faults: "Faults | Plan | str | Path | Fault | Sequence[Fault | Mapping[str, Any]]",
    *,
    name: str | None = None,
    errors: Errors = "raise",
) -> Callable[[F], F]:
    """Put a function or coroutine function behind faults; a plan instead of `Faults` is for this tool alone.

    name: of the tool; by default the function's. errors: "raise" gives callers a `ToolError`; "result" gives them what
    an MCP server would: {"isError": True, "content": [{"type": "text", "text": ...}]}.

    The result has an attribute `faults`.
    """
    faults_of_tool = faults if isinstance(faults, Faults) else Faults(faults)

    def put_behind(function: F) -> F:
        return cast(F, _wrapped(function, name or function.__name__, faults_of_tool, errors))

    return put_behind


def wrap(
    functions: Mapping[str, Callable[..., Any]],
    faults: "Faults | Plan | str | Path | Fault | Sequence[Fault | Mapping[str, Any]]",
    *,
    errors: Errors = "raise",
) -> dict[str, Callable[..., Any]]:
    """Put functions and coroutine functions, by the names of the tools that they are, behind faults.

    Raises ConfigError for a plan that is aimed at none of them.
    """
    faults_of_tool = faults if isinstance(faults, Faults) else Faults(faults, tools=list(functions))
    faults_of_tool.plan.check(list(functions), None)
    return {name: _wrapped(function, name, faults_of_tool, errors) for name, function in functions.items()}


def _wrapped(function: Callable[..., Any], name: str, faults: Faults, errors: Errors) -> Callable[..., Any]:
    if errors not in ("raise", "result"):
        raise ConfigError(f"errors cannot be {errors!r}. {suggest(errors, ['raise', 'result'])}")
    signature_ = inspect.signature(function)

    # Faults see arguments by name. The two functions below turn a Python call into names and back, whatever kinds of
    # parameters the signature has.
    def arguments_of(given: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        bound = signature_.bind(*given, **named)
        arguments = dict(bound.arguments)
        rest = next((p.name for p in signature_.parameters.values() if p.kind is p.VAR_KEYWORD), None)
        arguments |= arguments.pop(rest, {}) if rest else {}
        return arguments

    positional = [p.name for p in signature_.parameters.values() if p.kind is p.POSITIONAL_ONLY]
    several = next((p.name for p in signature_.parameters.values() if p.kind is p.VAR_POSITIONAL), None)

    def forward(call: Call) -> Any:
        passed = dict(call.arguments)
        first = [passed.pop(each) for each in positional if each in passed]
        more = passed.pop(several, ()) if several else ()
        if more:  # what stands before *args has to be given by position
            first += [passed.pop(p.name) for p in signature_.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD
                      and p.name in passed]  # fmt: skip
        return function(*first, *more, **passed)

    faults.functions[name] = forward

    def execute(call: Call) -> Any:  # what a fault holds back is carried out at a call of another tool
        return (forward if call.tool == name else faults.functions.get(call.tool, forward))(call)

    if inspect.iscoroutinefunction(function):

        async def execute_async(call: Call) -> Any:
            answer = execute(call)
            return await answer if inspect.isawaitable(answer) else answer

        @functools.wraps(function)
        async def acalled(*given: Any, **named: Any) -> Any:
            session = faults.current
            reply = await session.acall(name, arguments_of(given, named), execute_async)
            return _result(session, name, reply, errors)

        acalled.faults = faults  # type: ignore[attr-defined]
        return acalled

    @functools.wraps(function)
    def called(*given: Any, **named: Any) -> Any:
        session = faults.current
        return _result(session, name, session.call(name, arguments_of(given, named), execute), errors)

    called.faults = faults  # type: ignore[attr-defined]
    return called


def _result(session: Session, name: str, reply: Reply, errors: Errors) -> Any:
    """What a caller gets: the payload, or the failure as `errors` has it."""
    payload = session.malformed_payload(name, reply) if reply.payload is LOST else reply.payload
    if payload is not LOST:
        return payload
    if errors == "result":
        return {"isError": True, "content": [{"type": "text", "text": _error_text(name, reply)}]}
    _fail(name, reply)


def _fail(name: str, reply: Reply) -> NoReturn:
    assert reply.error in ERRORS, f"a lost reply has an error, not {reply.error!r}"
    raise _EXCEPTIONS.get(str(reply.error), ToolRefused)(name, reply)
