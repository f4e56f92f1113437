"""Faults that work with arrays against plain loops over payloads, leaves and rows; both make the same draws."""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from worldsim import faults
from worldsim.faults.chance import Dice, Draws
from worldsim.faults.conformance import Bench, Outcome
from worldsim.faults.leafwise import alike, get, leaves_of
from worldsim.faults.struck import ArrayFault

from .payloads import RICH, orders

ROWS = ["missing_rows", "partial_page", "duplicated_rows", "reordered_rows", "off_by_one_page"]
LEAVES = 16  # lane of the first leaf
LEAVES_OF_RICH = leaves_of(RICH)


def played(fault: Any, space: Any, payloads: Any = None, calls: int = 120) -> Iterator[tuple[Outcome, Draws, bool]]:
    """Each call with what it draws, and whether it is among the share of those that are struck."""
    assert isinstance(fault, ArrayFault)
    dice = Dice(0, fault.kind, 0, 0)
    for each in Bench(space, payloads).run([fault], calls):
        number = each.asked.number
        yield each, dice.draws(number), dice.uniform(number) < getattr(fault, "share", 1.0)


def told(each: Outcome) -> list[Any]:
    return [dict(record.details) for record in each.records]


# --- rows ---


def arranged(kind: str, rows: list[Any], reach: float, draws: Draws) -> list[Any]:
    """Rows as they arrive, one after another."""
    count, gone = len(rows), max(1, round(reach * len(rows)))
    if kind == "missing_rows":
        lost = draws.permutation(count)[0].tolist()[:gone]
        return [row for place, row in enumerate(rows) if place not in lost]
    if kind == "duplicated_rows":
        place = int(draws.integers(count)[0])
        return rows[: place + 1] + rows[place:]
    if kind == "reordered_rows":
        return [rows[place] for place in draws.permutation(count)[0].tolist()]
    return rows[: count - gone] if kind == "partial_page" else [*rows[1:], rows[-1]]


@pytest.mark.parametrize("out_of_space", [False, True])
@pytest.mark.parametrize("severity", [0.3, 1.0])
@pytest.mark.parametrize("kind", ROWS)
def test_rows_of_a_space(kind: str, severity: float, out_of_space: bool) -> None:
    fault = faults.KINDS[kind](severity=severity, out_of_space=out_of_space)  # type: ignore[call-arg]
    tables = [leaf for leaf in LEAVES_OF_RICH if leaf.name in ("rows", "pose/0", "pose/1")]
    for each, draws, struck in played(fault, RICH):
        records = []
        for lane, leaf in enumerate(tables):
            true, shown = (get(payload, leaf.path) for payload in (each.answers[0].payload, each.reply.payload))
            rows = arranged(kind, list(true), getattr(fault, "reach", 0), draws.lane(LEAVES + lane)) if struck else []
            arrived = len(rows)
            if struck and not out_of_space:
                rows = (rows + [np.zeros_like(true[0])] * len(true))[: len(true)]
            wanted = np.array(rows, true.dtype) if struck else true
            assert alike(shown, wanted)
            if not alike(wanted, true):
                records.append({"leaf": leaf.name, "before": len(true), "after": arrived})
        assert told(each) == records


def shop(number: int) -> dict[str, Any]:
    """Lists in lists."""
    return {**orders(number), "shelves": [[number, "a", None], [], [[1, 2], [3, number]]]}


def lists_in(payload: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where lists of two or more stand, those further in after those that they stand in."""
    items = payload.items() if isinstance(payload, dict) else enumerate(payload) if isinstance(payload, list) else ()
    here = [path] if isinstance(payload, list) and len(payload) > 1 else []
    return here + [found for key, value in items for found in lists_in(value, (*path, key))]


@pytest.mark.parametrize("targets", ["*", "shelves*"])
@pytest.mark.parametrize("kind", ROWS)
def test_rows_of_plain_json_that_stand_in_one_another(kind: str, targets: str) -> None:
    fault = faults.KINDS[kind](severity=0.9, targets=[targets])  # type: ignore[call-arg]
    for each, draws, struck in played(fault, None, shop, 60):
        wanted, records = copy.deepcopy(each.answers[0].payload), []
        paths = [path for path in lists_in(wanted) if targets == "*" or path[0] == "shelves"] if struck else []
        for lane, path in enumerate(reversed(paths)):
            rows = get(wanted, path)
            after = arranged(kind, rows, getattr(fault, "reach", 0), draws.lane(LEAVES + lane))
            if after != rows:
                records.append({"leaf": "/".join(map(str, path)), "before": len(rows), "after": len(after)})
            rows[:] = copy.deepcopy(after)
        assert alike(each.reply.payload, wanted) and told(each) == records
