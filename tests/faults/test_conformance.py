"""The suite that is open to everybody, run on every kind of fault there is; and whether it catches bad ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.faults import KINDS, LOST, Call, Context, Fault, Forward, LeafFault, Reply
from worldsim.faults import conformance as suite
from worldsim.faults.conformance import Bench, Outcome, check_fault
from worldsim.faults.exchange import Passing
from worldsim.faults.fault import number
from worldsim.faults.leafwise import copied

from .payloads import RICH, orders
from .strategies import observation_spaces

# What cannot do anything to plain JSON: what wants frames or a shape.
NEEDS_FRAMES = {kind.kind for kind in map(KINDS.get, KINDS) if kind and kind.__module__.endswith("pixels")} | {
    "black_frames",
    "frozen_frames",
    "occlusion",
    "dropped_channels",
    "painted_instruction",
}
NEEDS_A_WORLD = {"plausible_lie"}  # see test_lies.py
CALLS = 60
SEED = 1  # under which the rare ones strike, too
ALL = sorted(set(KINDS) - NEEDS_A_WORLD)


def records(outcomes: Sequence[Outcome]) -> float:
    return sum(bool(each.records) for each in outcomes)


def age(outcomes: Sequence[Outcome]) -> float:
    return sum(record.details["age"] for each in outcomes for record in each.records)


def noise(outcomes: Sequence[Outcome]) -> float:
    """Mean square difference of the screens: the energy of a disturbance."""
    pairs = [(each.reply.payload["screen"], each.answers[-1].payload["screen"]) for each in outcomes]
    return float(np.mean([np.square(left.astype(float) - right).mean() for left, right in pairs]))


def skew(outcomes: Sequence[Outcome]) -> float:
    """Seconds by which times are off, from texts and numbers alike."""

    def seconds(value: Any) -> float:
        return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else float(np.sum(value))

    told = [record.details for each in outcomes for record in each.records]
    return sum(abs(seconds(details["after"]) - seconds(details["before"])) for details in told)


def slip(outcomes: Sequence[Outcome]) -> float:
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
    check_fault(KINDS[kind], RICH, statistic=STATISTICS.get(kind), calls=CALLS, seed=SEED)


@pytest.mark.parametrize("kind", ALL)
def test_every_kind_keeps_its_promises_on_plain_json(kind: str) -> None:
    strikes = kind not in NEEDS_FRAMES
    check_fault(KINDS[kind], None, orders, statistic=STATISTICS.get(kind), strikes=strikes, calls=40, seed=SEED)


EVERY_CHECK = (
    suite.check_identity,
    suite.check_determinism,
    suite.check_independence,
    suite.check_records,
    suite.check_promises,
    suite.check_no_mutation,
    suite.check_space,
)


@settings(max_examples=80, deadline=None)
@given(kind=st.sampled_from(ALL), space=observation_spaces(), seed=st.integers(0, 1000))
def test_promises_are_kept_on_any_space(kind: str, space: Any, seed: int) -> None:
    for check in EVERY_CHECK:
        check(KINDS[kind], Bench(space, seed=seed), 6)


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from([kind for kind in ALL if issubclass(KINDS[kind], LeafFault)]),
    space=observation_spaces(),
    seed=st.integers(0, 1000),
)
def test_what_leaves_the_space_is_recorded_too(kind: str, space: Any, seed: int) -> None:
    suite.check_records(partial(KINDS[kind], out_of_space=True), Bench(space, seed=seed), 12)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(ALL), payloads=st.lists(json_values, min_size=1, max_size=3), seed=st.integers(0, 1000))
def test_promises_are_kept_on_any_plain_json(kind: str, payloads: list[Any], seed: int) -> None:
    for check in EVERY_CHECK:
        check(KINDS[kind], Bench(None, lambda number: payloads[number % len(payloads)], seed), 8)


@dataclass(frozen=True, kw_only=True)
class _Bad(Fault):
    """
    | severity | share |
    |----------|-------|
    | 0.5      | 50 %  |
    """

    kind = "bad"

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        return forward(call)


class Sound(_Bad):
    """Takes longer the graver it is.

    | severity | seconds |
    |----------|---------|
    | 0.5      | 0.5     |
    """

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        context.record("bad")
        context.clock.sleep(self.severity)
        return forward(call)._replace(latency_s=self.severity)


class Silent(_Bad):
    """Changes and does not say so."""

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        return forward(call)._replace(payload=None)


class Awake(Silent):
    """Is at work at severity 0."""

    idle = False


class Boastful(_Bad):
    """Says and does not change."""

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        context.record("bad")
        return forward(call)


class Scribbling(_Bad):
    """Writes into what it was given."""

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        reply = forward(call)
        reply.payload["screen"][:] = 0
        context.record("bad")
        return reply


class Restless(_Bad):
    """Draws from a stream of its own."""

    stream = np.random.default_rng(0)

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        context.clock.sleep(seconds := float(self.stream.random()))
        context.record("bad")
        return forward(call)._replace(latency_s=seconds)


class Shrinking(_Bad):
    """Does less the graver it is."""

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        context.clock.sleep(seconds := 1 - self.severity / 2)
        context.record("bad")
        return forward(call)._replace(latency_s=seconds)


class Outside(_Bad):
    """Gives what the space does not allow, without being asked to."""

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        context.record("bad")
        return forward(call)._replace(payload="nothing like it")


class Repeating(_Bad):
    """Writes into a reply that it has already given."""

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        reply = forward(call)
        given = context.memory.setdefault("given", copied(reply.payload))
        given["screen"][0, 0] = call.number
        context.record("bad")
        return reply._replace(payload=given)


class Straying(_Bad):
    """Promises to pass calls on and drops them."""

    passing = Passing.AS_IS

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        context.record("bad", lost="request")
        return Reply(LOST, ok=False, error="timeout")


class Unannounced(_Bad):
    """Strikes where it said that it would not."""

    def strikes(self, uniforms: Any, leaves: Any) -> Any:
        return uniforms < 0

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        forward(call)
        context.record("bad")
        return Reply(LOST, ok=False, error="timeout")


@dataclass(frozen=True, kw_only=True)
class Forgetful(_Bad):
    """Is twice as strong each time it is read."""

    strength: float = number(1.0, 0, 1e9, "how strong")

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "strength", 2 * self.strength)


class Wordless(_Bad):
    """Fails without saying how."""

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        forward(call)
        context.record("bad")
        return Reply(LOST, ok=False, error="oops")


class Untimely(_Bad):
    """Waits and does not tell how long."""

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        context.clock.sleep(1.0)
        context.record("bad")
        return forward(call)


class Lying(_Bad):
    """Its docstring says something else.

    | severity | share |
    |----------|-------|
    | 0.5      | 50 %  |
    """

    share = 0.4


@pytest.mark.parametrize(
    ("check", "bad", "says"),
    [
        (suite.check_identity, Awake, "severity 0 did something"),
        (suite.check_records, Silent, "went otherwise"),
        (suite.check_records, Boastful, "was left alone"),
        (suite.check_records, Wordless, "no error is called 'oops'"),
        (suite.check_records, Untimely, "latency_s is not what was waited"),
        (suite.check_space, Outside, "is not in the space"),
        (suite.check_promises, Straying, "was passed on as"),
        (suite.check_promises, Unannounced, "which `strikes` rules out"),
        (suite.check_no_mutation, Repeating, "wrote into a reply that it had given"),
        (suite.check_no_mutation, Scribbling, "wrote into a payload"),
        (suite.check_determinism, Restless, "the second time"),
        (suite.check_independence, Restless, "depends on other faults"),
        (partial(suite.check_growth, statistic=suite.harm), Shrinking, "does not grow"),
    ],
)
def test_the_suite_catches_what_it_is_for(check: Any, bad: type[Fault], says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        check(bad, Bench(RICH), 20)


def test_the_suite_reads_what_it_has_written() -> None:
    with pytest.raises(AssertionError, match="strength: 2.0.* reads as another fault: Forgetful"):
        suite.check_yaml(Forgetful)
    suite.check_yaml(Restless)  # a class of one's own, named by where it is


def test_a_sound_fault_of_ones_own_passes_every_check() -> None:
    check_fault(Sound, RICH, calls=40)
    check_fault(Sound, None, orders, calls=40)


@pytest.mark.parametrize("bad", [Silent, Awake, Boastful, Scribbling, Restless, Shrinking, Outside, Repeating])
def test_no_broken_fault_gets_through(bad: type[Fault]) -> None:
    with pytest.raises(AssertionError):
        check_fault(bad, RICH, calls=20)


def test_the_suite_reads_the_docstring() -> None:
    with pytest.raises(AssertionError, match="says that share is 50 % at severity 0.5; it is 0.4"):
        suite.check_table(Lying)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_says_what_its_severity_means(kind: str) -> None:
    rows = suite.table(KINDS[kind])
    assert rows[0][0] == "severity" and len(rows) >= 3
    assert "Records:" in (KINDS[kind].__doc__ or "")
    suite.check_table(KINDS[kind])
