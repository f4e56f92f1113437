"""Faults written as generators: they do what the same fault does as a composition, and plans know them by name."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldsim import faults
from worldsim.errors import ConfigError
from worldsim.faults import KINDS, LOST, Call, CallContext, Fault, FaultGenerator, Plan, Reply, Sleep, fault
from worldsim.faults.conformance import check_fault
from worldsim.faults.entry_points import ENTRY_POINTS, MockService, check_entry_points
from worldsim.faults.generators import fault_from_generator
from worldsim.faults.parameters import number, scaled

from .payloads import RICH, orders
from .sessions import PipelineSession

CALLS = 45


def unlisted(kind: str) -> Any:
    """A kind of fault written as a generator that no plan knows by name. It draws what a kind of that name draws."""

    def made(function: Any) -> type[Fault]:
        found = fault_from_generator(function)
        found.kind, found.family = kind, "of your own"
        return found

    return made


# --- four faults that exist as compositions ---


@unlisted("lost_request")
def lost_request(call: Call, context: CallContext, rate: float = 0.3, timeout_s: float = 4.0) -> FaultGenerator:
    if context.uniform >= context.severity * rate:
        return (yield call)
    context.record(lost="request")
    yield Sleep(timeout_s)
    return Reply.failed("timeout")


@unlisted("false_failure")
def false_failure(call: Call, context: CallContext, rate: float = 0.3) -> FaultGenerator:
    reply = yield call
    if context.uniform >= context.severity * rate or reply.payload is LOST:
        return reply
    context.record(lost="answer")
    return Reply.failed("server_error")


@unlisted("duplicate_execution")
def duplicate_execution(call: Call, context: CallContext, rate: float = 0.3) -> FaultGenerator:
    if context.uniform < context.severity * rate:
        context.record()
        yield call
    return (yield call)


@unlisted("slow_start")
def slow_start(call: Call, context: CallContext, first_s: float = 10.0, calls: float = 5.0) -> FaultGenerator:
    latency_s = context.severity * first_s * float(np.exp(-context.number / calls))
    if latency_s >= 1e-3:
        context.record("delay", latency_s=latency_s)
        yield Sleep(latency_s)
    return (yield call)


TWINS = [lost_request, false_failure, duplicate_execution, slow_start]


@pytest.mark.parametrize("space", [RICH, None], ids=["space", "plain"])
@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.kind)
@pytest.mark.parametrize(
    "settings", [{}, {"probability": 0.8, "schedule": faults.After(calls=2), "tools": ["r*", "write"]}]
)
def test_it_does_what_the_composition_does_through_every_entry_point(
    twin: Any, space: Any, settings: dict[str, Any]
) -> None:
    service = MockService(space, None if space else orders, seed=3)
    composed, seen = KINDS[twin.kind](severity=0.8, **settings), 0
    for name, entry_point in ENTRY_POINTS.items():
        if entry_point.fits(service):
            wanted = service.run([composed], CALLS, entry_point=entry_point)
            got = service.run([twin(severity=0.8, **settings)], CALLS, entry_point=entry_point)
            assert [one.difference_from(other) for one, other in zip(wanted, got, strict=True)] == [""] * CALLS, name
            seen = sum(each.changed for each in got)
    assert seen > 2


# --- one that does everything at once ---


@unlisted("moody")
def moody(call: Call, context: CallContext, rate: float = 0.9) -> FaultGenerator:
    """By chance a call is dropped, carried out twice, asked otherwise, slowed down before and after, or left alone."""
    mood = int(context.uniform / (context.severity * rate) * 6)
    said = context.memory.setdefault("said", [])
    if mood > 5:
        return (yield call)
    context.record(mood=mood, before=list(said[-2:]), **({"lost": "request"} if mood in (0, 5) else {}))
    said.append(context.number)
    if mood == 0:
        return Reply.failed("unavailable", retry_after_s=7.0)
    if mood == 5:
        yield Sleep(1.5)
        return Reply.failed("malformed", raw=f"{context.rng.integers(1000)} ...")
    if mood == 1:
        first = yield call
        yield Sleep(0.5)
        second = yield call
        return first if context.rng.random() < 0.5 else second
    if mood == 2:
        yield Sleep(float(context.rng.exponential()))
        yield Sleep(0.25)
        reply = yield Call(call.tool, {"action": 2 - call.arguments["action"]}, call.number)
        yield Sleep(context.now_s % 3)
        return reply
    if mood == 3:
        for _ in range(3):
            reply = yield call
        return reply
    reply = yield call
    yield Sleep(0.75)
    return reply


MOODS = {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize("space", [RICH, None], ids=["space", "plain"])
def test_entry_points_agree_where_some_calls_are_dropped_some_repeated_and_some_sleep(space: Any) -> None:
    service = MockService(space, None if space else orders, seed=5)
    outcomes = service.run([moody(severity=1.0)], 90)
    assert {record.details["mood"] for each in outcomes for record in each.records} == MOODS
    check_entry_points(service, [moody(severity=1.0)], 90)


def test_entry_points_agree_where_several_stand_in_a_row() -> None:
    plan = [
        moody(severity=0.7),
        faults.LostAnswer(severity=0.9),
        duplicate_execution(severity=1.0),
        faults.MissingData(severity=0.5),
        moody(severity=0.9, tools=["read", "write"]),
        faults.LognormalLatency(severity=0.2),
    ]
    for service in (MockService(RICH, seed=5), MockService(None, orders, seed=5)):
        check_entry_points(service, plan, 60)


def test_it_keeps_what_every_fault_keeps() -> None:
    def failures(outcomes: Any) -> float:
        return sum(not each.reply.ok for each in outcomes)

    check_fault(lost_request, RICH)
    check_fault(lost_request, None, orders)
    check_fault(false_failure, None, orders, statistic=failures)


def test_a_caller_that_gives_up_cuts_its_sleep_short() -> None:
    @unlisted("sleepy")
    def sleepy(call: Call, context: CallContext) -> FaultGenerator:
        context.record()
        yield Sleep(60.0)
        return (yield call)

    session = PipelineSession(faults.LostAnswer(severity=1.0, rate=1.0, timeout_s=5.0), sleepy())
    assert (session.call("read").latency_s, session.clock.now()) == (5.0, 5.0)


def test_memory_lasts_for_the_session_and_is_each_ones_own() -> None:
    @unlisted("counting")
    def counting(call: Call, context: CallContext) -> FaultGenerator:
        context.memory["calls"] = context.memory.get("calls", 0) + 1
        context.record(calls=context.memory["calls"])
        return (yield call)

    service = MockService(RICH)
    for entry_point in ("call", "among rows"):
        outcomes = service.run([counting(), counting()], 5, entry_point=ENTRY_POINTS[entry_point])
        assert [[record.details["calls"] for record in each.records] for each in outcomes] == [
            [k + 1, k + 1] for k in range(5)
        ]


# --- plans know it by name ---

WRITTEN = '''
from worldsim.faults import Call, CallContext, FaultGenerator, Reply, fault
from worldsim.faults.parameters import NameGlobs, option, scaled


@fault("maintenance_{0}")
def maintenance(call: Call, context: CallContext, rate: float = scaled(0.2, 0, 1, "share of the calls"),
                words: NameGlobs = option(("a", "b"), "what it says"), most: int = 3) -> FaultGenerator:
    """Some calls are told to come back in an hour."""
    if context.uniform >= context.severity * rate:
        return (yield call)
    context.record(lost="request", words=list(words))
    return Reply.failed("unavailable", retry_after_s=3600.0)
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module of the user's that defines a fault of kind `maintenance_1`."""
    known, name = dict(KINDS), "its_own_faults"
    (tmp_path / f"{name}.py").write_text(WRITTEN.format(1))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield lambda: importlib.import_module(name)
    sys.modules.pop(name, None)
    KINDS.clear()
    KINDS.update(known)


def test_the_decorator_alone_makes_it_a_kind_that_plans_know(module: Any) -> None:
    text = "faults:\n  - kind: maintenance_1\n    severity: 0.5\n    rate: 0.4\n    words: [x]\n"
    with pytest.raises(ConfigError, match="^plan.yaml:2: no fault is of kind 'maintenance_1'"):
        Plan.from_yaml(text)
    kind = module().maintenance
    (read,) = Plan.from_yaml(text).faults
    assert read == kind(severity=0.5, rate=0.4, words=["x"]) and isinstance(read, Fault)
    assert (read.kind, read.scaled("rate"), read.values_at_severity()) == ("maintenance_1", 0.2, {"rate": 0.2})  # type: ignore[attr-defined]
    assert KINDS["maintenance_1"] is kind and kind.__doc__ == "Some calls are told to come back in an hour."
    session = PipelineSession(read.replace(severity=1.0, rate=1.0))
    assert (session.call("read").error, session.records[0].details) == (
        "unavailable",
        {"lost": "request", "words": ["x"]},
    )


def test_a_plan_imports_it_by_where_it_is(module: Any) -> None:
    text = "faults:\n  - kind: its_own_faults:maintenance\n    severity: 0.5\n    most: 4\n"
    plan = Plan.from_yaml(text)
    assert plan.faults == (module().maintenance(severity=0.5, most=4),)
    assert "kind: its_own_faults:maintenance" in plan.to_yaml()
    assert Plan.from_yaml(plan.to_yaml()).faults == plan.faults
    with pytest.raises(ConfigError, match=r"^plan.yaml:4: maintenance_1: most must be .* got 'x'$"):
        Plan.from_yaml(text.replace("4", "x"))
    with pytest.raises(ConfigError, match=r"^plan.yaml:4: maintenance_1: no parameter 'mots'. Did you mean 'most'\?$"):
        Plan.from_yaml(text.replace("most", "mots"))


def test_a_clash_of_names_is_one_clear_line(module: Any) -> None:
    module()
    for kind, where in {"slow_api": "worldsim.faults.kinds.slow", "maintenance_1": "its_own_faults"}.items():
        with pytest.raises(ConfigError) as caught:

            @fault(kind)
            def mine(call: Call, context: CallContext) -> FaultGenerator:
                return (yield call)

        assert str(caught.value) == f"two faults are of kind '{kind}': {where} has one already; rename yours"
        assert KINDS[kind].__module__ == where and KINDS[kind].kind == kind
    importlib.reload(module())  # the same one again is no clash


# --- mistakes in writing one ---


def test_a_parameter_needs_a_default() -> None:
    def forgetful(call: Call, context: CallContext, rate: float) -> FaultGenerator:
        return (yield call)

    with pytest.raises(ConfigError, match="^forgetful: parameter 'rate' needs a default; give it one$"):
        fault_from_generator(forgetful)


def test_bounds_of_parameters_are_kept() -> None:
    @unlisted("bounded")
    def bounded(call: Call, context: CallContext, rate: float = scaled(0.2, 0, 1, "share"),
                tries: int = number(3, 1, 9, "tries"), how: str = "x") -> FaultGenerator:  # fmt: skip
        return (yield call)

    assert bounded(tries=9).replace(severity=0.1).tries == 9
    for wrong, says in {
        "rate": r"bounded: rate must be between 0 and 1, got 12",
        "tries": r"bounded: tries must be a whole number between 1 and 9, got 12",
    }.items():
        with pytest.raises(ConfigError, match=f"^{says}$"):
            bounded(**{wrong: 12})


def test_what_is_no_generator_is_refused() -> None:
    def plain(call: Call, context: CallContext) -> Reply:
        return Reply.failed("timeout")

    with pytest.raises(ConfigError, match="^plain: a fault is a generator: write `reply = yield call` in it$"):
        fault_from_generator(plain)


@pytest.mark.parametrize("entry_point", ["call", "among rows"])
def test_what_cannot_be_passed_on_or_returned_is_one_clear_line(entry_point: str) -> None:
    @unlisted("numb")
    def numb(call: Call, context: CallContext) -> FaultGenerator:
        yield 3  # type: ignore[misc]
        return (yield call)

    @unlisted("silent")
    def silent(call: Call, context: CallContext) -> FaultGenerator:  # type: ignore[return]
        yield call

    service = MockService(RICH)
    with pytest.raises(ConfigError, match=r"^numb: yields a Call to pass it on or a Sleep, not 3$"):
        service.run([numb()], 1, entry_point=ENTRY_POINTS[entry_point])
    with pytest.raises(ConfigError, match=r"^silent: returns a Reply, not None$"):
        service.run([silent()], 1, entry_point=ENTRY_POINTS[entry_point])
