"""Numbers keep their digits: what a fault changes is exact, and what it leaves alone is the same to the last bit."""

import math
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim import faults
from worldsim.faults import Fault
from worldsim.faults.entry_points import EntryPoint, MockService, PipelineCall, RowOfVector
from worldsim.faults.trees import alike

from .sessions import PipelineSession

WHOLE = st.integers() | st.integers(-(10**60), 10**60) | st.integers(2**53, 2**64)


def replied(fault: Fault, payload: Any, calls: int = 1) -> tuple[Any, list[Any]]:
    """What arrives instead of a payload, and the details of the records."""
    session = PipelineSession(fault, answer=lambda call: payload)
    for _ in range(calls):
        reply = session.call("get")
    return reply.payload, [record.details for record in session.records]


# --- what is left alone ---


def ledger(number: int) -> dict[str, Any]:
    """Payloads full of whole numbers that no float holds."""
    big = 10**18 + 1 + 1000 * number
    return {
        "id": big,
        "amount": -(2**53 + 1 + 2 * number),
        "checked_at": 1_700_000_000_000_000_001 + number,
        "note": f"transfer {big + 1} of {number}",
        "flag": True,
        "rows": [{"id": big + row, "share": 10**30 + row, "name": f"row {row}"} for row in range(4)],
        "tags": [2**63 + number, 2**64 + 1],
    }


def whole_numbers(payload: Any) -> Iterator[int]:
    if isinstance(payload, dict | list):
        for value in payload.values() if isinstance(payload, dict) else payload:
            yield from whole_numbers(value)
    elif type(payload) is int:
        yield payload


@pytest.mark.parametrize("kind", sorted(set(faults.KINDS) - {"plausible_lie"}))
def test_whole_numbers_of_any_size_are_the_services_own_or_recorded(kind: str) -> None:
    """Whatever else happens to a reply: no whole number in it has lost digits on the way."""
    there = set[int]()
    changed = 0
    for each in MockService(None, ledger).run([faults.KINDS[kind](severity=1.0)], 150):
        there |= set(whole_numbers(each.answers[0].payload if each.answers else ledger(each.at)))
        there |= set(whole_numbers(ledger(-1)))
        said = {value for record in each.records for value in whole_numbers(dict(record.details))}
        if kind == "schema_drift":
            said |= {2}  # "version", where a field is nested
        found = set(whole_numbers(each.reply.payload))
        assert found <= there | said
        assert each.records or alike(each.reply.payload, each.answers[0].payload)
        changed += bool(each.records)
    assert changed or kind in NEEDS_FRAMES


NEEDS_FRAMES = {
    "black_frames",
    "dropped_channels",
    "frozen_frames",
    "occlusion",
    "painted_instruction",
    *(each.kind for each in faults.FAMILIES["pixels and sensors"]),
}


# --- what is multiplied and moved ---


def test_a_wrong_unit_of_a_large_number_is_exact() -> None:
    fault = faults.WrongUnit(severity=1.0, rate=1.0, factors=[100])
    assert replied(fault, {"id": 10**18 + 1})[0] == {"id": 10**20 + 100}
    assert replied(fault, {"id": -(10**40) - 1})[0] == {"id": -(10**42) - 100}
    assert replied(fault.replace(factors=[0.01]), {"id": 10**18 + 151})[0] == {"id": 10**16 + 2}
    after, ((details),) = replied(fault.replace(factors=[1.1]), {"id": 10**18 + 10})
    assert after == {"id": 11 * 10**17 + 11}
    assert details == {"leaf": "id", "before": 10**18 + 10, "after": 11 * 10**17 + 11}


@settings(max_examples=150)
@given(WHOLE, st.sampled_from([100.0, 0.01, 1000.0, 0.001, 1.1, 0.3048, 2.2046, -3.7, 1e-9, 1e22]))
def test_a_wrong_unit_is_the_decimal_factor_rounded_to_whole_numbers(number: int, factor: float) -> None:
    after, records = replied(faults.WrongUnit(severity=1.0, rate=1.0, factors=[factor]), {"amount": number})
    wanted = round(number * Fraction(repr(factor)))
    assert after == {"amount": wanted} and type(after["amount"]) is int
    assert bool(records) == (wanted != number)


@given(WHOLE, st.integers(-(10**9), 10**9))
def test_a_skewed_clock_adds_and_an_out_of_range_number_multiplies_exactly(number: int, late: int) -> None:
    after, _ = replied(faults.ClockSkew(severity=1.0, most=late), {"made_at": number})
    assert after == {"made_at": number + late}
    after, _ = replied(faults.OutOfRange(severity=1.0, rate=1.0), {"amount": number})
    assert after == {"amount": 10**6 * (number + 1)}
    after, ((details),) = replied(faults.WrongTimeZone(severity=1.0, rate=1.0), {"made_at": number})
    assert after["made_at"] - number in {3600 * hours for hours in range(-11, 13) if hours}


# --- digits ---


def swaps(text: str) -> set[str]:
    """A text with two neighbouring digits of one number in each other's place, in all the ways there are."""
    return {
        text[: at.start()] + text[at.start() + 1] + text[at.start()] + text[at.start() + 2 :]
        for at in re.finditer(r"\d(?=\d)", text)
    }


def transposed(payload: Any, seed: int) -> tuple[Any, list[Any]]:
    return replied(faults.TransposedDigits(severity=1.0, rate=1.0, spread=1.0, seed=seed), payload)


seeds = st.integers(0, 9999)


@settings(max_examples=300)
@given(WHOLE, seeds)
def test_two_neighbouring_digits_of_a_whole_number_are_swapped_and_nothing_else(number: int, seed: int) -> None:
    after, records = transposed({"id": number, "next": None}, seed)
    if after["id"] == number:
        assert not records  # one digit, or two alike
        return
    sign = -1 if number < 0 else 1
    assert type(after["id"]) is int and after["id"] in {sign * int(each) for each in swaps(str(abs(number)))}
    assert records == [{"leaf": "id", "before": number, "after": after["id"]}]


@settings(max_examples=300)
@given(st.floats(allow_nan=False, allow_infinity=False) | st.floats(-1e9, 1e9), seeds)
def test_of_a_number_with_decimals_two_digits_before_the_point_are_swapped(number: float, seed: int) -> None:
    after, records = transposed({"total": number}, seed)
    head, point, tail = np.format_float_positional(number, trim="-").partition(".")
    wanted = {float(each + point + tail) for each in swaps(head)} | {number}
    assert type(after["total"]) is float and after["total"] in wanted and math.isfinite(after["total"])
    assert bool(records) == (after["total"] != number)
    assert math.copysign(1, after["total"]) == math.copysign(1, number)


@settings(max_examples=200)
@given(st.text("ab 0123456789-.,:é", max_size=20), seeds)
def test_of_a_text_two_digits_of_one_number_in_it_are_swapped(text: str, seed: int) -> None:
    after, records = transposed([text], seed)
    assert after[0] == text or after[0] in swaps(text)
    assert bool(records) == (after[0] != text)
    assert swaps(text) <= {text} or any(transposed([text], each)[0][0] != text for each in range(200))


def test_every_pair_of_digits_is_swapped_at_times() -> None:
    assert {transposed(1234567, seed)[0] for seed in range(200)} == set(map(int, swaps("1234567")))


BOXES = [
    spaces.Box(-128, 127, (), np.int8),
    spaces.Box(-128, 127, (3,), np.int8),
    spaces.Box(10, 200, (4,), np.uint8),
    spaces.Box(0, 150, (), np.uint8),
    spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64),
    spaces.Box(0, 2**64 - 1, (2,), np.uint64),
    spaces.Box(-999, 5000, (), np.float32),
    spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
    spaces.Box(-np.inf, np.inf, (3,), np.float16),
    spaces.Discrete(900, start=-20),
    spaces.Discrete(2**62, start=3),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("out_of_space", [False, True])
@pytest.mark.parametrize("entry_point", [PipelineCall, RowOfVector])
@pytest.mark.parametrize("space", BOXES, ids=str)
def test_digits_of_vectors_are_swapped_in_one_entry_and_no_value_is_cut(
    space: Any, entry_point: type[EntryPoint], out_of_space: bool
) -> None:
    rng = np.random.default_rng(0)

    def sample(at: int) -> Any:
        if isinstance(space, spaces.Discrete):
            return np.int64(space.start + rng.integers(space.n))
        low, high = (np.clip(bound.astype(float), -9e15, 9e15) for bound in (space.low, space.high))
        if space.dtype == np.float16:
            low, high = low.clip(-60000), high.clip(max=60000)
        drawn = np.asarray(rng.uniform(low, high)).astype(space.dtype)
        ends = rng.random(space.shape) < 0.2
        if space.dtype.kind in "iu":
            drawn = np.where(ends, space.high - rng.integers(30, size=space.shape).astype(space.dtype), drawn)
        return np.asarray(np.clip(drawn, space.low, space.high)).astype(space.dtype)

    space.seed(0)
    fault, changed = faults.TransposedDigits(severity=1.0, rate=1.0, out_of_space=out_of_space), 0
    for each in MockService(space, sample).run([fault], 60, entry_point=entry_point):
        before, after = each.answers[0].payload, each.reply.payload
        assert np.asarray(after).dtype == np.asarray(before).dtype and np.shape(after) == np.shape(before)
        different = np.flatnonzero(np.ravel(before) != np.ravel(after))
        assert bool(each.records) == bool(len(different)) and len(different) <= 1
        assert out_of_space or after in space
        changed += len(different)
        for index in different:
            old, new = np.ravel(before)[index], np.ravel(after)[index]
            head, point, tail = written(old).partition(".")
            swapped = (each + point + tail for each in swaps(head))
            assert new in {old.dtype.type(each) for each in swapped if holds(old.dtype, each)}
    assert changed > 10


def written(number: Any) -> str:
    return np.format_float_positional(number, trim="-") if number.dtype.kind == "f" else str(number)


def holds(dtype: Any, text: str) -> bool:
    """Whether a type has room for a number."""
    if dtype.kind == "f":
        return abs(float(text)) <= float(np.finfo(dtype).max)
    return bool(np.iinfo(dtype).min <= int(text) <= np.iinfo(dtype).max)
