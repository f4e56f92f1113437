"""The suite that is open to everybody, run on every kind of fault there is; and whether it catches bad ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import model_validator

from tests.simulator.conftest import one_thread, world_folder  # noqa: F401  (fixtures)
from tests.simulator.stub_world import IMAGE_SPACE
from worldsim import faults
from worldsim.faults import (
    FAMILIES,
    KINDS,
    LOST,
    Call,
    CallContext,
    Composition,
    Fault,
    FaultGenerator,
    Reply,
    Sleep,
)
from worldsim.faults import conformance as suite
from worldsim.faults.conformance import TIES_TOOLS, CallOutcome, MockService, check_fault
from worldsim.faults.effects.base import AffectedCalls, Effect, EffectGenerator, ForwardCalls, same_details
from worldsim.faults.entry_points import ENTRY_POINTS, PipelineCall, check_entry_points
from worldsim.faults.generators import fault_from_generator
from worldsim.faults.parameters import number
from worldsim.faults.trees import copied

from .http_entry_points import AsyncHttp, Http
from .payloads import RICH, orders
from .strategies import observation_spaces

ENTRY_POINTS.update({"httpx": Http, "httpx, async": AsyncHttp})  # here, as httpx is an extra

# What cannot do anything to plain JSON: what wants frames or a shape.
NEEDS_FRAMES = {kind.kind for kind in FAMILIES["pixels and sensors"] if kind.__module__.endswith("pixels")} | {
    "black_frames",
    "frozen_frames",
    "occlusion",
    "dropped_channels",
    "painted_instruction",
}
NEEDS_A_WORLD = {"plausible_lie"}  # see test_lies.py
CALLS = 60
SEED = 1  # under which the rare ones happen, too
ALL = sorted({kind.kind for family in FAMILIES.values() for kind in family} - NEEDS_A_WORLD)


def records(outcomes: Sequence[CallOutcome]) -> float:
    return sum(bool(each.records) for each in outcomes)


def age(outcomes: Sequence[CallOutcome]) -> float:
    return sum(record.details["age"] for each in outcomes for record in each.records)


def noise(outcomes: Sequence[CallOutcome]) -> float:
    """Mean square difference of the screens: the energy of a disturbance."""
    pairs = [(each.reply.payload["screen"], each.answers[-1].payload["screen"]) for each in outcomes]
    return float(np.mean([np.square(left.astype(float) - right).mean() for left, right in pairs]))


def skew(outcomes: Sequence[CallOutcome]) -> float:
    """Seconds by which times are off, from texts and numbers alike."""

    def seconds(value: Any) -> float:
        return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else float(np.sum(value))

    details_of = [record.details for each in outcomes for record in each.records]
    return sum(abs(seconds(details["after"]) - seconds(details["before"])) for details in details_of)


def slip(outcomes: Sequence[CallOutcome]) -> float:
    """Pixels by which the last rows of the screens are shifted."""
    rows = [(each.reply.payload["screen"][-1], each.answers[-1].payload["screen"][-1]) for each in outcomes]
    return sum(next(s for s in range(12) if np.array_equal(np.roll(true, s, axis=0), seen)) for seen, true in rows)


# Statistics of those for which a payload that is wrong elsewhere is no more and no less wrong.
STATISTICS: dict[str, Any] = {
    "reordered_delivery": records,
    "other_record": records,
    "previous_answer": records,
    "swapped_fields": records,
    "wrong_time_zone": records,
    "wrong_unit": records,
    "transposed_digits": records,
    "hidden_instruction": records,
    "stale_cache": age,
    "eventual_consistency": age,
    "delayed_observation": age,
    "delayed_action": age,
    "camera_shift": noise,
    "camera_rotation": noise,
    "clock_skew": skew,
    "tearing": slip,
}


@pytest.mark.parametrize("kind", ALL)
def test_every_kind_keeps_its_promises_on_a_space(kind: str) -> None:
    check_fault(kind, RICH, statistic=STATISTICS.get(kind), calls=CALLS, seed=SEED)


@pytest.mark.parametrize("kind", ALL)
def test_every_kind_keeps_its_promises_on_plain_json(kind: str) -> None:
    acts = kind not in NEEDS_FRAMES
    check_fault(kind, None, orders, statistic=STATISTICS.get(kind), acts=acts, calls=40, seed=SEED)


@pytest.mark.parametrize("kind", sorted(TIES_TOOLS))
def test_those_that_tie_tools_together_do_and_say_so(kind: str) -> None:
    with pytest.raises(AssertionError, match="depends on calls of other tools"):
        suite.check_interleaving(KINDS[kind], MockService(RICH, seed=SEED), CALLS)
    assert "ties the tools together" in " ".join((KINDS[kind].__doc__ or "").split())


@pytest.mark.parametrize(
    "schedule",
    [
        lambda per_tool: faults.After(calls=6, per_tool=per_tool),
        lambda per_tool: faults.Window(start=2, stop=9, per_tool=per_tool),
        lambda per_tool: faults.Bursts(mean_calls=3, mean_gap=4, per_tool=per_tool),
    ],
)
def test_schedules_tie_tools_together_only_where_they_are_asked_to(schedule: Callable[[bool], Any]) -> None:
    service = MockService(None, orders, SEED)
    suite.check_interleaving(partial(faults.LostRequest, rate=1.0, schedule=schedule(True)), service, CALLS)
    with pytest.raises(AssertionError, match="depends on calls of other tools"):
        suite.check_interleaving(partial(faults.LostRequest, rate=1.0, schedule=schedule(False)), service, CALLS)


@settings(max_examples=80, deadline=None)
@given(kind=st.sampled_from(ALL), space=observation_spaces(), seed=st.integers(0, 1000))
def test_promises_are_kept_on_any_space(kind: str, space: Any, seed: int) -> None:
    for check in suite.CHECKS:
        check(KINDS[kind], MockService(space, seed=seed), 6)


LEAVE_THE_SPACE = [kind for kind in ALL if "out_of_space" in KINDS[kind].model_fields]


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(LEAVE_THE_SPACE), space=observation_spaces(), seed=st.integers(0, 1000))
def test_what_leaves_the_space_is_recorded_too(kind: str, space: Any, seed: int) -> None:
    suite.check_records(partial(KINDS[kind], out_of_space=True), MockService(space, seed=seed), 12)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(ALL), payloads=st.lists(json_values, min_size=1, max_size=3), seed=st.integers(0, 1000))
def test_promises_are_kept_on_any_plain_json(kind: str, payloads: list[Any], seed: int) -> None:
    for check in suite.CHECKS:
        if check is not suite.check_entry_points:  # where a tool answers with a text, some entry points look into it
            check(KINDS[kind], MockService(None, lambda number: payloads[number % len(payloads)], seed), 8)


# --- every entry point ---

STALE = [kind.kind for kind in FAMILIES["stale and repeated"]] + ["other_record", "false_success"]


@pytest.mark.parametrize("kind", STALE)
def test_entry_points_agree_where_all_calls_ask_for_the_same(kind: str) -> None:
    check_entry_points(MockService(RICH, seed=SEED, one_request=True), [KINDS[kind](severity=0.8)], 40)


@pytest.mark.parametrize("space", [RICH, None], ids=["space", "plain"])
@pytest.mark.parametrize("schedule", [faults.After(calls=4), faults.After(calls=9, per_tool=False),
    faults.Window(start=2, stop=5), faults.Bursts(mean_calls=2, mean_gap=3),
    faults.Bursts(mean_calls=2, mean_gap=3, per_tool=False),
    faults.TimeWindow(start_s=5, stop_s=12, every_s=20)], ids=str)  # fmt: skip
def test_entry_points_agree_on_when_a_fault_is_at_work(space: Any, schedule: Any) -> None:
    plan = [
        faults.LognormalLatency(severity=0.3, schedule=schedule),
        faults.LostRequest(severity=0.9, schedule=schedule, probability=0.7, tools=["read", "write"]),
        faults.DuplicateExecution(severity=1.0, schedule=schedule),
    ]
    check_entry_points(MockService(space, None if space else orders, SEED), plan, 50)


PLANS: dict[str, list[Fault]] = {
    "three": [faults.SlowAPI(), faults.MalformedOutput(), faults.MissingData()],
    "time-outs outside of what is slow": [
        faults.SlowAPI(severity=0.9),
        faults.LostAnswer(severity=0.6),
        faults.SlowDrip(severity=0.4, patience_s=2),
        faults.ParetoLatency(severity=0.7),
    ],
    "many": [
        faults.LognormalLatency(severity=0.4),
        faults.DuplicateExecution(severity=0.9),
        faults.ReorderedDelivery(severity=0.6),
        faults.RateLimited(severity=0.5, until_retried=1, probability=0.6),
        faults.RateLimited(severity=0.8, until_retry_after=True),
        faults.Throttled(severity=0.9, calls=6, window_s=30),
        faults.DelayedAction(severity=0.5, schedule=faults.After(calls=3)),
        faults.FalseSuccess(severity=0.4),
        faults.StaleCache(severity=0.5),
        faults.MissingData(severity=0.6),
        faults.MissingData(severity=0.3, seed=3),
        faults.EventualConsistency(severity=0.5, writes=["write"]),
    ],
}


@pytest.mark.parametrize("space", [RICH, None], ids=["space", "plain"])
@pytest.mark.parametrize("plan", PLANS)
def test_entry_points_agree_on_faults_in_a_row(plan: str, space: Any) -> None:
    check_entry_points(MockService(space, None if space else orders, SEED), PLANS[plan], 60)


def test_entry_points_agree_on_lies(world_folder: Path) -> None:  # noqa: F811
    lie = faults.PlausibleLie(severity=0.7, world=str(world_folder), dreams=3, ticks=2, rate=0.8)
    check_entry_points(MockService(IMAGE_SPACE, seed=SEED), [lie], 8)


def test_an_entry_point_that_differs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(PipelineCall):
        """Begins another session."""

        def _open(self, faults: Any, session: str) -> None:
            super()._open(faults, "another")

    monkeypatch.setitem(ENTRY_POINTS, "another", Forgetful)
    with pytest.raises(AssertionError, match="differs through the entry point 'another': call 0 of search: "):
        check_entry_points(MockService(None, orders), [faults.Jitter()], 3)


# --- what the suite is for ---


def unlisted(function: Any) -> Any:
    """A kind of fault, written as a class or a generator, that no plan knows by name."""
    made = function if isinstance(function, type) else fault_from_generator(function)
    made.kind, made.family = "bad", "of your own"
    return made


@unlisted
def Sound(call: Call, context: CallContext, wait_s: float = 1.0) -> FaultGenerator:
    """Takes longer the graver it is."""
    context.record(wait_s=context.severity * wait_s)
    yield Sleep(context.severity * wait_s)
    return (yield call)


@unlisted
def Silent(call: Call, context: CallContext) -> FaultGenerator:
    """Changes and does not say so."""
    reply = yield call
    return reply._replace(payload=None)


class Awake(Silent):
    """Acts at severity 0."""

    idle = property(lambda self: False)  # type: ignore[assignment]


@unlisted
def Boastful(call: Call, context: CallContext) -> FaultGenerator:
    """Says and does not change."""
    context.record()
    return (yield call)


@unlisted
def Scribbling(call: Call, context: CallContext) -> FaultGenerator:
    """Writes into what it was given."""
    reply = yield call
    reply.payload["screen"][:] = 0
    context.record()
    return reply


STREAM = np.random.default_rng(0)


@unlisted
def Restless(call: Call, context: CallContext) -> FaultGenerator:
    """Draws from a stream of its own."""
    context.record()
    yield Sleep(float(STREAM.random()))
    return (yield call)


@unlisted
def Shrinking(call: Call, context: CallContext) -> FaultGenerator:
    """Does less the graver it is."""
    context.record()
    yield Sleep(1 - context.severity / 2)
    return (yield call)


@unlisted
def Outside(call: Call, context: CallContext) -> FaultGenerator:
    """Gives what the space does not allow, without being asked to."""
    context.record()
    reply = yield call
    return reply._replace(payload="nothing like it")


@unlisted
def Repeating(call: Call, context: CallContext) -> FaultGenerator:
    """Writes into a reply that it has already given."""
    reply = yield call
    given = context.memory.setdefault("given", copied(reply.payload))
    given["screen"][0, 0] = context.number
    context.record()
    return reply._replace(payload=given)


@unlisted
def Hoarding(call: Call, context: CallContext) -> FaultGenerator:
    """Holds on to what others own, to show it again."""
    reply = yield call
    before = context.memory.get("before", reply.payload)
    context.memory["before"] = reply.payload
    context.record()
    return reply._replace(payload=before)


@unlisted
def Jealous(call: Call, context: CallContext) -> FaultGenerator:
    """Counts the calls of all tools."""
    context.memory["calls"] = context.memory.get("calls", 0) + 1
    context.record()
    yield Sleep(context.severity * context.memory["calls"])
    return (yield call)


@unlisted
def Wordless(call: Call, context: CallContext) -> FaultGenerator:
    """Fails without saying how."""
    yield call
    context.record(lost="answer")
    return Reply(LOST, ok=False, error="oops")


@unlisted
def Untimely(call: Call, context: CallContext) -> FaultGenerator:
    """Says that it took time, and took none."""
    context.record()
    reply = yield call
    return reply._replace(latency_s=1.0)


@unlisted
def Secretive(call: Call, context: CallContext) -> FaultGenerator:
    """Drops calls and does not say that they were not carried out."""
    context.record()
    return Reply.failed("timeout")
    yield


@unlisted
def Mistaken(call: Call, context: CallContext) -> FaultGenerator:
    """Says that the call was carried out, which it was not."""
    context.record(lost="answer")
    return Reply.failed("timeout")
    yield


@dataclass(frozen=True)
class Strays(Effect):
    """Drops calls, or carries them out twice, which it does not promise."""

    twice: bool

    def run(self, batch: AffectedCalls, forward: ForwardCalls) -> EffectGenerator:
        batch.record("bad", same_details(batch, **({} if self.twice else {"lost": "request"})))
        if self.twice:
            yield from forward(batch.calls)
            return (yield from forward(batch.calls))
        replies = yield from forward(batch.calls.without(batch.rows))
        replies.lose(batch.rows, "timeout")
        return replies


@dataclass(frozen=True)
class Counts(Effect):
    """Remembers by itself how many calls there were, where no snapshot finds it."""

    seen: list[int] = field(default_factory=lambda: [0])

    def run(self, batch: AffectedCalls, forward: ForwardCalls) -> EffectGenerator:
        self.seen[0] += 1
        batch.record("bad", same_details(batch))
        yield from batch.wait(np.full(len(batch), float(self.seen[0])))
        return (yield from forward(batch.calls))


@dataclass(frozen=True)
class FirstOnly(Effect):
    """Delays the first of the calls that come together."""

    def run(self, batch: AffectedCalls, forward: ForwardCalls) -> EffectGenerator:
        batch.record("bad", same_details(batch))
        yield from batch[[0]].wait(np.ones(1))
        return (yield from forward(batch.calls))


def composed(effect: Callable[[], Effect]) -> type[Fault]:
    """A kind of fault that has such an effect."""

    class Composed(Fault):
        kind: ClassVar[str] = "bad"

        def compose(self) -> Composition:
            return Composition(effect())

    return Composed


@unlisted
class Forgetful(Fault):
    """Is twice as strong each time it is read."""

    strength: float = number(1.0, 0, 1e9, "how strong")

    @model_validator(mode="after")
    def _doubled(self) -> "Forgetful":
        object.__setattr__(self, "strength", 2 * self.strength)
        return self

    def compose(self) -> Composition:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("check", "bad", "message"),
    [
        (suite.check_identity, Awake, "severity 0 did something"),
        (suite.check_records, Silent, "went otherwise"),
        (suite.check_records, Boastful, "was left alone"),
        (suite.check_records, Wordless, "no error is called 'oops'"),
        (suite.check_records, Untimely, "latency_s is not what was waited"),
        (suite.check_records, Secretive, "was not carried out, and no record says"),
        (suite.check_records, Mistaken, r"lost answer, and yet \[\]"),
        (suite.check_space, Outside, "is not in the space"),
        (suite.check_promises, composed(lambda: Strays(False)), "was dropped, and may_drop is false"),
        (suite.check_promises, composed(lambda: Strays(True)), "may_repeat is false"),
        (suite.check_no_mutation, Repeating, "wrote into a reply that it had given"),
        (suite.check_no_mutation, Scribbling, "wrote into what it was given"),
        (suite.check_no_mutation, Hoarding, "holds on to what others own"),
        (suite.check_determinism, Restless, "the second time"),
        (suite.check_independence, Restless, "depends on other faults"),
        (suite.check_interleaving, Jealous, "depends on calls of other tools"),
        (suite.check_snapshot, composed(Counts), "after a snapshot was restored"),
        (suite.check_entry_points, composed(FirstOnly), "through the entry point 'among rows'"),
        (partial(suite.check_growth, statistic=suite.harm), Shrinking, "does not grow"),
    ],
)
def test_the_suite_catches_what_it_is_for(check: Any, bad: type[Fault], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check(bad, MockService(RICH), 20)


def test_the_suite_reads_what_it_has_written() -> None:
    with pytest.raises(AssertionError, match="strength: 2.0.* reads as another fault: Forgetful"):
        suite.check_yaml(Forgetful)
    suite.check_yaml(Restless)  # one of one's own, named by where it is


def test_a_sound_fault_of_ones_own_passes_every_check() -> None:
    check_fault(Sound, RICH, calls=40)
    check_fault(Sound, None, orders, calls=40)
    check_fault(Jealous, RICH, calls=20, ties_tools=True)


BAD = [Silent, Awake, Boastful, Scribbling, Restless, Shrinking, Outside, Repeating, Hoarding, Jealous, Secretive]


@pytest.mark.parametrize("bad", BAD)
def test_no_broken_fault_gets_through(bad: type[Fault]) -> None:
    with pytest.raises(AssertionError):
        check_fault(bad, RICH, calls=20)


@pytest.mark.parametrize("kind", [*ALL, *NEEDS_A_WORLD])
def test_every_kind_says_what_it_records(kind: str) -> None:
    assert "Records:" in (KINDS[kind].__doc__ or "")
