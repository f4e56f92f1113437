"""That a severity is gradual: what each kind and each ready plan does, measured at five severities."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest

from worldsim.faults import FAMILIES, KINDS, BlackFrames, Blur, Plan, RateLimited, SlowStart, WrongUnit, ready_plans
from worldsim.faults.entry_points import MockService
from worldsim.faults.severity import SEVERITIES, SeverityMeasurement, difference_of, measured, orders

BUILT_IN = {kind.kind for family in FAMILIES.values() for kind in family}
EACH = sorted(BUILT_IN - {"plausible_lie"})  # it needs a world: see tests/faults/test_lies.py
NOISE = 0.03  # of a share of 180 calls that draw the same numbers at every severity
ALL_CALLS = {"dying_camera"}  # of whose frames none is clean: severity is how much
SMALL = 0.25  # of what a fault does at severity 1, the most that is left of it at 0.1
LESS_SMALL = {
    "shot_noise": 0.35,  # the standard deviation of photons goes with the square root of what each is worth
    "delayed_action": 0.3,  # at severity 1 hardly any call is left that could be late, too
}


@lru_cache
def rows_of(name: str) -> tuple[SeverityMeasurement, ...]:
    if name in ready_plans():
        return tuple(measured(Plan.load(name)))
    return tuple(measured(KINDS[name], sessions=4))


@pytest.mark.parametrize("name", sorted({*EACH, *ready_plans()}))
def test_it_begins_with_nothing_and_only_grows(name: str) -> None:
    rows = rows_of(name)
    assert tuple(row.severity for row in rows) == SEVERITIES
    assert rows[0][1:] == (0.0, 0.0, 0.0)
    for milder, graver in zip(rows, rows[1:], strict=False):
        assert graver.share >= milder.share - NOISE
        assert graver.harm >= milder.harm - NOISE * max(graver.difference, milder.difference)
        assert graver.waited_s >= milder.waited_s
    assert rows[-1].harm > 0 or rows[-1].waited_s > 0


@pytest.mark.parametrize("name", sorted({*EACH, *ready_plans()}))
def test_a_tenth_is_little(name: str) -> None:
    """Of what happens to a call on average: by how much it comes out otherwise, and how long it takes."""
    rows = {row.severity: row for row in rows_of(name)}
    assert rows[0.1].harm <= LESS_SMALL.get(name, SMALL) * rows[1.0].harm
    assert rows[0.1].waited_s <= SMALL * rows[1.0].waited_s


@pytest.mark.parametrize("name", ready_plans())
def test_a_tenth_of_a_plan_leaves_most_calls_alone(name: str) -> None:
    rows = {row.severity: row for row in rows_of(name)}
    if name in ALL_CALLS:
        assert rows[0.1].difference < SMALL * rows[1.0].difference
        return
    assert rows[0.1].share < SMALL * rows[1.0].share
    assert rows[0.1].share < rows[0.25].share < rows[0.5].share <= rows[1.0].share


def test_what_is_measured_is_what_was_done() -> None:
    """Held against faults whose effect is known."""
    (refused,) = measured(RateLimited(rate=0.3), [1.0], sessions=10)
    assert (refused.share, refused.difference, refused.waited_s) == (pytest.approx(0.3, abs=0.06), 1.0, 0.0)
    (twice,) = measured(WrongUnit(rate=1.0, spread=1.0, factors=[3.0]), [1.0])  # 1 page, 4 amounts, 4 of pieces
    assert (twice.share, twice.difference) == (1.0, pytest.approx(9 * 0.5 / 23))
    (slow,) = measured(SlowStart(first_s=8.0, calls=1e6), [0.5])
    assert slow[1:] == (0.0, 0.0, pytest.approx(4.0, rel=1e-3))
    (black,) = measured(BlackFrames(rate=1.0), [1.0], sessions=1)
    assert black.share == 1.0 and 0.3 < black.difference < 0.6  # the picture is as bright as that
    assert measured(Blur, [0.5], sessions=1) == measured(Blur(severity=0.2), [0.5], sessions=1)
    plan = Plan(faults=[RateLimited(severity=0.5, rate=0.8)])
    assert measured(plan, [0.5])[0][1:] == measured(RateLimited(rate=0.8), [0.25])[0][1:]  # half of its share


def test_the_difference_of_a_change_is_the_mean_over_all_fields() -> None:
    service = MockService(None, orders)
    (outcome,) = service.run([], 1)
    assert difference_of(outcome, service) is None
    fields = 3 + 4 * 5

    def difference(**changes: Any) -> float | None:
        other = outcome.reply._replace(payload={**orders(0), **changes})
        return difference_of(replace(outcome, reply=other), service)

    assert difference(page=3) == pytest.approx(0.5 / fields)
    assert difference(page="1") == difference(page=None) == difference(status="shut") == pytest.approx(1 / fields)
    assert difference(updated_at="2026-03-01T21:30:00+00:00") == pytest.approx(0.5 / fields)
    assert difference(more=1) == pytest.approx(1 / (fields + 1))
    assert difference(orders=[]) == pytest.approx(21 / (fields + 1))
