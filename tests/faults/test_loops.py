"""Faults that work with arrays against plain loops over payloads, leaves and rows; both make the same draws."""

import copy
from collections.abc import Iterator
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from worldsim import faults
from worldsim.faults.entry_points import CallOutcome, MockService
from worldsim.faults.keys import CallRandom, fold_in_one, new_key
from worldsim.faults.trees import ABSENT, alike, get, leaves_of

from .payloads import RICH, orders

ROWS = ["missing_rows", "partial_page", "duplicated_rows", "reordered_rows", "off_by_one_page"]
TRIGGER, ORDER, LEAVES, LEAF_NAMES = 1, 1, 16, 2**20  # of a tool's keys, and streams of a call's draws
LEAVES_OF_RICH = leaves_of(RICH)


def draws_of(fault: Any, tool: str, number: int) -> tuple[CallRandom, float]:
    """What a call of a service draws, and the number that decides whether the fault is triggered."""
    key = fold_in_one(new_key(0, fault.kind, 0, "0"), crc32(tool.encode()))
    call = np.array([fold_in_one(fold_in_one(key, 0), number)], np.uint64)
    return CallRandom(call), (fold_in_one(fold_in_one(key, TRIGGER), number) >> 11) / 2**53


def played(
    fault: Any, space: Any, payloads: Any = None, calls: int = 120
) -> Iterator[tuple[CallOutcome, CallRandom, bool]]:
    """Each call with what it draws, and whether it is among the share of those on which the fault triggers."""
    for each in MockService(space, payloads).run([fault], calls):
        random, uniform = draws_of(fault, each.call.tool, each.call.number)
        yield each, random, uniform < fault.compose().trigger_probability


def details(each: CallOutcome) -> list[Any]:
    return [dict(record.details) for record in each.records]


class SpellsByLoop:
    """Leaves that fail for spells of calls of a tool, as states that go on from call to call."""

    def __init__(self, begins: float, mean_calls: float) -> None:
        self._begins, self._stays = begins, 1 - 1 / mean_calls
        self._out: set[tuple[str, str]] = set()

    def now(self, names: list[str], tool: str, random: CallRandom) -> set[str]:
        """Which leaves are out, after one more call of a tool."""
        for name in names:
            drawn = random.uniform(LEAF_NAMES + crc32(name.encode()) % LEAF_NAMES)[0]
            if drawn < (self._stays if (tool, name) in self._out else self._begins):
                self._out.add((tool, name))
            else:
                self._out.discard((tool, name))
        return {name for name in names if (tool, name) in self._out}


# --- rows ---


def arranged(kind: str, rows: list[Any], spread: float, draws: CallRandom) -> list[Any]:
    """Rows as they arrive, one after another."""
    count, gone = len(rows), min(len(rows) - 1, max(1, round(spread * len(rows))))
    if kind == "missing_rows":
        lost = draws.permutation(count)[0].tolist()[:gone]
        return [row for place, row in enumerate(rows) if place not in lost]
    if kind == "duplicated_rows":
        place = int(draws.integers(count)[0])
        return rows[: place + 1] + rows[place:]
    if kind == "reordered_rows":
        return [rows[place] for place in draws.permutation(count)[0].tolist()]
    return rows[: count - gone] if kind == "partial_page" else [*rows[1:], rows[-1]]


def spread_of(fault: Any) -> float:
    return fault.scaled("spread") if "spread" in type(fault).model_fields else 0.0


@pytest.mark.parametrize("out_of_space", [False, True])
@pytest.mark.parametrize("severity", [0.3, 1.0])
@pytest.mark.parametrize("kind", ROWS)
def test_rows_of_a_space(kind: str, severity: float, out_of_space: bool) -> None:
    fault = faults.KINDS[kind](severity=severity, out_of_space=out_of_space)  # type: ignore[call-arg]
    tables = [leaf for leaf in LEAVES_OF_RICH if leaf.name in ("rows", "pose/0", "pose/1")]
    for each, draws, hit in played(fault, RICH):
        records = []
        for place, leaf in enumerate(tables):
            true, shown = (get(payload, leaf.path) for payload in (each.answers[0].payload, each.reply.payload))
            rows = arranged(kind, list(true), spread_of(fault), draws.stream(LEAVES + place)) if hit else []
            arrived = len(rows)
            if hit and not out_of_space:
                rows = (rows + [np.zeros_like(true[0])] * len(true))[: len(true)]
            wanted = np.array(rows, true.dtype) if hit else true
            assert alike(shown, wanted)
            if not alike(wanted, true):
                records.append({"leaf": leaf.name, "before": len(true), "after": arrived})
        assert details(each) == records


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
    for each, draws, hit in played(fault, None, shop, 60):
        wanted, records = copy.deepcopy(each.answers[0].payload), []
        paths = [path for path in lists_in(wanted) if targets == "*" or path[0] == "shelves"] if hit else []
        for place, path in enumerate(reversed(paths)):
            rows = get(wanted, path)
            after = arranged(kind, rows, spread_of(fault), draws.stream(LEAVES + place))
            if after != rows:
                records.append({"leaf": "/".join(map(str, path)), "before": len(rows), "after": len(after)})
            rows[:] = copy.deepcopy(after)
        assert alike(each.reply.payload, wanted) and details(each) == records


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


def check_gone(each: CallOutcome, gone: set[str], nothing: Any) -> list[dict[str, Any]]:
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
    for each, draws, hit in played(fault, RICH):
        order = draws.permutation(count, ORDER)[0].tolist()[: round(0.45 * count)] if hit else []
        assert details(each) == check_gone(each, {LEAVES_OF_RICH[place].name for place in order}, nothing)


def leaves_in(payload: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where flags, numbers and strings stand in plain JSON."""
    if isinstance(payload, dict | list):
        items = payload.items() if isinstance(payload, dict) else enumerate(payload)
        return [found for key, value in items for found in leaves_in(value, (*path, key))]
    return [] if payload is None else [path]


def test_fields_dropped_from_plain_json() -> None:
    for each, draws, hit in played(faults.DroppedFields(severity=0.9), None, shop):
        wanted = copy.deepcopy(each.answers[0].payload)
        paths = leaves_in(wanted)
        places = draws.permutation(len(paths), ORDER)[0].tolist()[: round(0.45 * len(paths))] if hit else []
        for place in places:
            *above, last = paths[place]
            owner = get(wanted, tuple(above))
            owner[last] = None
            if isinstance(owner, dict):
                del owner[last]
        assert alike(each.reply.payload, wanted)
        assert details(each) == [{"leaf": "/".join(map(str, paths[place]))} for place in sorted(places)]


def test_an_empty_result() -> None:
    for each, _, hit in played(faults.EmptyResult(severity=0.9), RICH):
        check_gone(each, set(NOTHING) if hit else set(), NOTHING)
        assert details(each) == [{}] * hit
    for each, _, hit in played(faults.EmptyResult(severity=0.9), None, shop):
        true = each.answers[0].payload
        assert each.reply.payload == ({**true, "orders": [], "shelves": []} if hit else true)
        assert details(each) == [{}] * hit


# --- spells ---


def test_sensors_of_a_space_that_die() -> None:
    fault, spells = faults.DeadSensors(severity=1.0, rate=0.1, mean_calls=4), SpellsByLoop(0.1, 4)
    names = [leaf.name for leaf in LEAVES_OF_RICH]
    for each, draws, _ in played(fault, RICH, calls=240):
        assert details(each) == check_gone(each, spells.now(names, each.call.tool, draws), NOTHING)


def test_sensors_of_plain_json_that_come_and_go_while_they_are_dead() -> None:
    def payload(number: int) -> Any:
        return {f"field{k}": number for k in range(6) if number % (k + 1) == 0}

    fault, spells, seen = faults.DeadSensors(severity=1.0, rate=0.3, mean_calls=4), SpellsByLoop(0.3, 4), set[str]()
    every = [f"field{k}" for k in range(6)]
    for each, draws, _ in played(fault, None, payload):
        out = spells.now(every, each.call.tool, draws)
        names = list(each.answers[0].payload)
        assert [name for name, value in each.reply.payload.items() if value is None] == [n for n in names if n in out]
        seen |= out - set(names)
    assert seen, "none was away while it was dead"


def test_a_frozen_frame_is_the_last_one_that_came_through() -> None:
    fault, spells = faults.FrozenFrames(severity=1.0, rate=0.3, mean_calls=4), SpellsByLoop(0.3, 4)
    last = MockService(RICH).answer(-1)["screen"]
    for each, draws, _ in played(fault, RICH):
        frozen = spells.now(["screen"], each.call.tool, draws)
        last = last if frozen else each.answers[0].payload["screen"]
        assert check_gone(each, frozen, {"screen": last}) == details(each)


@pytest.mark.parametrize("kind", [*ROWS, "dropped_fields", "empty_result", "dead_sensors", "frozen_frames"])
def test_a_graver_one_acts_wherever_a_milder_one_did_and_more(kind: str) -> None:
    def acted(severity: float) -> set[tuple[int, Any]]:
        outcomes = MockService(RICH).run([faults.KINDS[kind](severity=severity)], 150)
        return {(each.at, record.details.get("leaf")) for each in outcomes for record in each.records}

    mild, middle, grave = map(acted, (0.2, 0.5, 0.9))
    assert mild < middle < grave
