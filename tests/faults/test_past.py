"""What is remembered of N environments, against a list for each."""

import copy
import pickle
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.faults.leafwise import alike, copied, leaves_of
from worldsim.faults.many.past import Past, unmixed
from worldsim.faults.many.payloads import Payloads, Rows

from .strategies import observation_spaces

COUNT, DEPTH = 4, 3


class Truth:
    """The last payloads of each environment as lists, and beside them a `Past` of the same."""

    def __init__(self, space: spaces.Space[Any], seed: int) -> None:
        self.space, self.batches = copy.deepcopy(space), batch_space(space, COUNT)
        self.batches.seed(seed)
        self.space.seed(seed)
        self.leaves = leaves_of(space)
        self.past, self.lists = Past(COUNT, DEPTH), [[] for _ in range(COUNT)]

    def payloads(self, apart: set[int]) -> Payloads:
        """New ones, some of them apart and with something that is in no space."""
        others = {row: {"odd": self.space.sample(), "row": row} for row in apart}
        return Payloads(COUNT, self.space, self.batches.sample(), apart=others)

    def begin(self, rows: Rows) -> None:
        self.past.begin(rows)
        for row in rows.tolist():
            self.lists[row] = []

    def add(self, rows: Rows, payloads: Payloads) -> None:
        self.past.add(rows, payloads, self.leaves)
        for row in rows.tolist():
            self.lists[row].append(copied(payloads.payload(row)))

    def check(self, ages: list[int]) -> None:
        """What was there so long ago comes back in the place of what is there now."""
        rows = np.array([row for row in range(COUNT) if ages[row] < min(DEPTH, len(self.lists[row]))], np.int64)
        now, back = self.payloads({0}), [ages[row] for row in rows.tolist()]
        before = [copied(now.payload(row)) for row in range(COUNT)]
        then = [self.lists[row][-1 - ages[row]] for row in rows.tolist()]
        mixed = self.past.back(rows, now, np.array(back, np.int64), unmixed)
        differ = mixed.differ(now)
        assert differ.tolist() == [not alike(before[row], old) for row, old in zip(rows.tolist(), then, strict=True)]
        others = self.past.others(rows, now, unmixed)
        for at, row in enumerate(rows.tolist()):
            newest_first = self.lists[row][: -DEPTH - 1 : -1]
            told = [not alike(before[row], old) for old in newest_first]
            assert others[at].tolist() == told + [False] * (DEPTH - len(told))
        mixed.write(differ, now)
        for row in range(COUNT):
            assert alike(now.payload(row), then[rows.tolist().index(row)] if row in rows else before[row])


@settings(max_examples=60, deadline=None)
@given(space=observation_spaces(), seed=st.integers(0, 1000), data=st.data())
def test_payloads_come_back_as_they_were(space: Any, seed: int, data: Any) -> None:
    truth = Truth(space, seed)
    some = st.sets(st.integers(0, COUNT - 1))
    for _ in range(6):
        truth.begin(np.array(sorted(data.draw(some)), np.int64))
        truth.add(np.array(sorted(data.draw(some)), np.int64), truth.payloads(data.draw(some)))
        if data.draw(st.booleans()):
            truth.past = copy.deepcopy(truth.past)
        truth.check(data.draw(st.lists(st.integers(0, DEPTH - 1), min_size=COUNT, max_size=COUNT)))


def test_what_is_remembered_belongs_to_nobody_else() -> None:
    truth = Truth(spaces.Dict({"screen": spaces.Box(0, 255, (4, 4), np.uint8), "text": spaces.Text(5)}), 0)
    rows, payloads = np.arange(COUNT), truth.payloads({1})
    truth.add(rows, payloads)
    kept = pickle.loads(pickle.dumps(truth.past))
    payloads.batch["screen"][:] = 0
    payloads.apart[1]["odd"]["screen"][:] = 0
    truth.check([0] * COUNT)
    copied_past = copy.deepcopy(truth.past)
    truth.begin(rows)
    truth.add(rows, truth.payloads(set()))
    assert copied_past.known.tolist() == kept.known.tolist() == [1] * COUNT
