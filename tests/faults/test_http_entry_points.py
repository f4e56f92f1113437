"""Faults do through HTTP what they do to a function call. Every kind by itself is in `test_conformance.py`."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.faults.http_entry_points import AsyncHttp, Http
from worldsim import faults
from worldsim.faults import FAMILIES
from worldsim.faults.definition import KINDS
from worldsim.faults.entry_points import EntryPoint, MockService, PipelineCall

from .payloads import orders

ALL = sorted({kind.kind for family in FAMILIES.values() for kind in family} - {"plausible_lie"})
IN_A_ROW = [
    faults.SlowAPI(severity=0.6),
    faults.RateLimited(severity=0.4, until_retry_after=True),
    faults.StaleCache(severity=0.5),
    faults.WrongUnit(severity=0.6),
    faults.DuplicateExecution(severity=0.5),
    faults.DelayedAction(severity=0.5),
    faults.TruncatedJSON(severity=0.3),
    faults.FalseSuccess(severity=0.3),
]


def check(entry_point: type[EntryPoint], service: MockService, plan: list[Any], calls: int) -> None:
    for one, other in zip(
        service.run(plan, calls, entry_point=PipelineCall),
        service.run(plan, calls, entry_point=entry_point),
        strict=True,
    ):
        found = one.difference_from(other)
        assert not found, f"call {one.at} goes otherwise through HTTP: {found}"


@pytest.mark.parametrize("entry_point", [Http, AsyncHttp])
def test_faults_in_a_row(entry_point: type[EntryPoint]) -> None:
    check(entry_point, MockService(None, orders, 1), IN_A_ROW, 60)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@example(kind="malformed_output", payloads=[10], seed=0)
@given(kind=st.sampled_from(ALL), payloads=st.lists(VALUES, min_size=1, max_size=3), seed=st.integers(0, 1000))
def test_on_any_json(kind: str, payloads: list[Any], seed: int) -> None:
    service = MockService(None, lambda number: payloads[number % len(payloads)], seed)
    check(Http, service, [KINDS[kind](severity=0.8)], 8)
