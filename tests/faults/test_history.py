"""What is remembered of N sessions, against a list for each line of payloads."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.faults import payload_history
from worldsim.faults.arrays import Rows
from worldsim.faults.payload_history import PayloadHistory, replace_whole
from worldsim.faults.payloads import Payloads
from worldsim.faults.trees import alike, copied, leaves_of

from .strategies import observation_spaces

COUNT, DEPTH = 4, 3
BufferNames = list[str] | None  # of the lines, one a session; None: the one that each session has


class Truth:
    """The last payloads of each line as lists, and beside them a `PayloadHistory` of the same."""

    def __init__(self, space: spaces.Space[Any], seed: int) -> None:
        self.space, self.batches = copy.deepcopy(space), batch_space(space, COUNT)
        self.batches.seed(seed)
        self.space.seed(seed)
        self.leaves = leaves_of(space)
        self.history = PayloadHistory(COUNT, DEPTH)
        self.lists: dict[tuple[int, str | None], list[Any]] = {}

    def payloads(self, overriding: set[int]) -> Payloads:
        """New ones, some of them overrides with something that is in no space."""
        others = {row: {"odd": self.space.sample(), "row": row} for row in overriding}
        return Payloads(COUNT, self.space, self.batches.sample(), overrides=others)

    def list_of(self, row: int, names: BufferNames) -> list[Any]:
        return self.lists.setdefault((row, None if names is None else names[row]), [])

    def buffers(self, rows: Rows, names: BufferNames) -> Rows:
        return self.history.buffers(rows, None if names is None else [names[row] for row in rows.tolist()])

    def begin(self, rows: Rows) -> None:
        self.history.begin(rows)
        self.lists = {key: known for key, known in self.lists.items() if key[0] not in rows.tolist()}

    def add(self, rows: Rows, payloads: Payloads, names: BufferNames = None) -> None:
        self.history.add(self.buffers(rows, names), rows, payloads, self.leaves)
        for row in rows.tolist():
            self.list_of(row, names).append(copied(payloads.payload(row)))

    def check(self, ages: list[int], names: BufferNames = None) -> None:
        """What was there so long ago in the line comes back in the place of what is there now."""
        known = [len(self.list_of(row, names)) for row in range(COUNT)]
        buffers = self.buffers(np.arange(COUNT), names)
        assert self.history.counts[buffers].tolist() == known
        rows = np.array([row for row in range(COUNT) if ages[row] < min(DEPTH, known[row])], np.int64)
        now, back = self.payloads({0}), [ages[row] for row in rows.tolist()]
        before = [copied(now.payload(row)) for row in range(COUNT)]
        then = [self.list_of(row, names)[-1 - ages[row]] for row in rows.tolist()]
        buffers = self.buffers(rows, names)
        old = self.history.look_back(buffers, rows, now, np.array(back, np.int64), replace_whole)
        differ = old.differ(now)
        assert differ.tolist() == [not alike(before[row], one) for row, one in zip(rows.tolist(), then, strict=True)]
        others = self.history.differing_from(buffers, rows, now, replace_whole)
        for at, row in enumerate(rows.tolist()):
            newest_first = self.list_of(row, names)[: -DEPTH - 1 : -1]
            wanted = [not alike(before[row], one) for one in newest_first]
            assert others[at].tolist() == wanted + [False] * (DEPTH - len(wanted))
        old.write(differ, now)
        for row in range(COUNT):
            assert alike(now.payload(row), then[rows.tolist().index(row)] if row in rows else before[row])


some_rows = st.sets(st.integers(0, COUNT - 1))
names_of_lines = st.none() | st.lists(st.sampled_from("ab"), min_size=COUNT, max_size=COUNT)


@settings(max_examples=60, deadline=None)
@given(space=observation_spaces(), seed=st.integers(0, 1000), data=st.data())
def test_payloads_come_back_as_they_were(space: Any, seed: int, data: Any) -> None:
    truth = Truth(space, seed)
    for _ in range(6):
        truth.begin(np.array(sorted(data.draw(some_rows)), np.int64))
        rows = np.array(sorted(data.draw(some_rows)), np.int64)
        truth.add(rows, truth.payloads(data.draw(some_rows)), data.draw(names_of_lines))
        if data.draw(st.booleans()):
            truth.history = copy.deepcopy(truth.history)
        ages = data.draw(st.lists(st.integers(0, DEPTH - 1), min_size=COUNT, max_size=COUNT))
        truth.check(ages, data.draw(names_of_lines))


def test_what_is_remembered_belongs_to_nobody_else() -> None:
    truth = Truth(spaces.Dict({"screen": spaces.Box(0, 255, (4, 4), np.uint8), "text": spaces.Text(5)}), 0)
    rows, payloads = np.arange(COUNT), truth.payloads({1})
    truth.add(rows, payloads)
    pickled = pickle.loads(pickle.dumps(truth.history))
    payloads.batch["screen"][:] = 0
    payloads.overrides[1]["odd"]["screen"][:] = 0
    truth.check([0] * COUNT)
    copied_history = copy.deepcopy(truth.history)
    truth.begin(rows)
    truth.add(rows, truth.payloads(set()), ["a"] * COUNT)
    assert copied_history.counts.tolist() == pickled.counts.tolist() == [1] * COUNT


def test_of_too_many_buffers_the_oldest_are_forgotten_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload_history, "MIN_BUFFERS", 10)
    known, most = PayloadHistory(1, 1), 64
    row, columns = np.zeros(1, np.int64), 0
    for number in range(3 * most):
        payload = Payloads(1, overrides={0: {"number": number}})
        known.add(known.buffers(row, [f"request {number}"]), row, payload, ())
        columns = max(columns, len(known.counts))
    assert columns == 1 + most  # one that every session has, and those with names
    for number in reversed(range(3 * most)):  # those that are there first, for asking opens lines
        line = known.buffers(row, [f"request {number}"])
        there = number >= 2 * most
        assert known.counts[line].tolist() == [int(there)]
        if there:
            now = Payloads(1, overrides={0: {}})
            known.write_last(line, row, now)
            assert now.payload(0) == {"number": number}
