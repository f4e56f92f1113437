"""Faults that work with arrays against plain loops over payloads, leaves and rows; both make the same draws."""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from worldsim import faults
from worldsim.faults.chance import Dice, Draws
from worldsim.faults.conformance import Bench, Outcome
from worldsim.faults.leafwise import ABSENT, alike, get, leaves_of
from worldsim.faults.struck import ArrayFault

from .payloads import RICH, orders

ROWS = ["missing_rows", "partial_page", "duplicated_rows", "reordered_rows", "off_by_one_page"]
ORDER, BEGINS, ENDS, LEAVES = 1, 2, 3, 16  # lanes of draws
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


# --- leaves that are gone ---

LETTER = RICH["reply"]["order"].character_list[0]  # type: ignore[index]
NOTHING: dict[str, Any] = {
    "reply/status": np.int64(0),
    "reply/amount": np.int64(10),
    "reply/paid": np.int64(10),
    "reply/order": 20 * LETTER,
    "reply/made_at": np.zeros((), np.float64),
    "screen": np.zeros((16, 12, 3), np.uint8),
    "pose/0": np.zeros(3, np.float32),
    "pose/1": np.zeros(3, np.int64),
    "rows": np.zeros((6, 2), np.float32),
}


def check_gone(each: Outcome, gone: set[str], nothing: Any) -> list[dict[str, Any]]:
    """Those leaves, and no others, are as in `nothing`; gives a record for each where that is something else."""
    records = []
    for leaf in LEAVES_OF_RICH:
        true, shown = (get(payload, leaf.path) for payload in (each.answers[0].payload, each.reply.payload))
        assert alike(shown, nothing[leaf.name] if leaf.name in gone else true), leaf.name
        if not alike(shown, true):
            records.append({"leaf": leaf.name})
    return records


@pytest.mark.parametrize("out_of_space", [False, True])
def test_fields_dropped_from_a_space(out_of_space: bool) -> None:
    fault, count = faults.DroppedFields(severity=0.9, out_of_space=out_of_space), len(LEAVES_OF_RICH)
    nothing = NOTHING
    if out_of_space:  # only what has no key is filled in
        nothing = {**dict.fromkeys(NOTHING, ABSENT), "pose/0": np.full(3, np.nan, np.float32), "pose/1": None}
    for each, draws, struck in played(fault, RICH):
        order = draws.permutation(count, ORDER)[0].tolist()[: round(0.45 * count)] if struck else []
        assert told(each) == check_gone(each, {LEAVES_OF_RICH[place].name for place in order}, nothing)


def leaves_in(payload: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where flags, numbers and strings stand in plain JSON."""
    if isinstance(payload, dict | list):
        items = payload.items() if isinstance(payload, dict) else enumerate(payload)
        return [found for key, value in items for found in leaves_in(value, (*path, key))]
    return [] if payload is None else [path]


def test_fields_dropped_from_plain_json() -> None:
    for each, draws, struck in played(faults.DroppedFields(severity=0.9), None, shop):
        wanted = copy.deepcopy(each.answers[0].payload)
        paths = leaves_in(wanted)
        places = draws.permutation(len(paths), ORDER)[0].tolist()[: round(0.45 * len(paths))] if struck else []
        for place in places:
            *above, last = paths[place]
            owner = get(wanted, tuple(above))
            owner[last] = None
            if isinstance(owner, dict):
                del owner[last]
        assert alike(each.reply.payload, wanted)
        assert told(each) == [{"leaf": "/".join(map(str, paths[place]))} for place in sorted(places)]


def test_an_empty_result() -> None:
    for each, _, struck in played(faults.EmptyResult(severity=0.9), RICH):
        check_gone(each, set(NOTHING) if struck else set(), NOTHING)
        assert told(each) == [{}] * struck
    for each, _, struck in played(faults.EmptyResult(severity=0.9), None, shop):
        true = each.answers[0].payload
        assert each.reply.payload == ({**true, "orders": [], "shelves": []} if struck else true)
        assert told(each) == [{}] * struck


# --- spells ---


def test_sensors_of_a_space_that_die() -> None:
    fault, out = faults.DeadSensors(severity=1.0, mean_calls=4), set[str]()
    for each, draws, _ in played(fault, RICH):
        begins, ends = (draws.random(lane, len(LEAVES_OF_RICH))[0] for lane in (BEGINS, ENDS))
        for leaf, begin, end in zip(LEAVES_OF_RICH, begins, ends, strict=True):
            if begin < 0.1:
                out.add(leaf.name)
            elif end < 1 / 4:
                out.discard(leaf.name)
        assert told(each) == check_gone(each, out, NOTHING)


def test_sensors_of_plain_json_that_come_and_go_while_they_are_dead() -> None:
    def payload(number: int) -> Any:
        return {f"field{k}": number for k in range(6) if number % (k + 1) == 0}

    fault, out, seen = faults.DeadSensors(severity=1.0, rate=0.3, mean_calls=4), set[str](), set[str]()
    for each, draws, _ in played(fault, None, payload):
        names = list(each.answers[0].payload)
        begins, ends = (draws.random(lane, len(names))[0] for lane in (BEGINS, ENDS))
        for name, begin, end in zip(names, begins, ends, strict=True):
            if begin < 0.3:
                out.add(name)
            elif end < 1 / 4:
                out.discard(name)
        assert [name for name, value in each.reply.payload.items() if value is None] == [n for n in names if n in out]
        seen |= out - set(names)
    assert seen, "none was away while it was dead"


def test_a_frozen_frame_is_the_last_one_that_came_through() -> None:
    fault = faults.FrozenFrames(severity=1.0, rate=0.3, mean_calls=4)
    last, frozen = Bench(RICH).answer(-1)["screen"], False
    for each, draws, _ in played(fault, RICH):
        begin, end = (float(draws.random(lane)[0]) for lane in (BEGINS, ENDS))
        frozen = begin < 0.3 or (frozen and end >= 1 / 4)
        last = last if frozen else each.answers[0].payload["screen"]
        assert check_gone(each, {"screen"} if frozen else set(), {"screen": last}) == told(each)


@pytest.mark.parametrize("kind", [*ROWS, "dropped_fields", "empty_result", "dead_sensors", "frozen_frames"])
def test_a_graver_one_strikes_wherever_a_milder_one_did_and_more(kind: str) -> None:
    def struck(severity: float) -> set[tuple[int, Any]]:
        outcomes = Bench(RICH).run([faults.KINDS[kind](severity=severity)], 150)
        return {(record.call, record.details.get("leaf")) for each in outcomes for record in each.records}

    mild, middle, grave = map(struck, (0.2, 0.5, 0.9))
    assert mild < middle < grave
