"""Batches row by row: what is done to many rows at once against one row after another."""

import numpy as np
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from worldsim.faults.batch_rows import copy_rows, where_rows
from worldsim.faults.trees import alike


@given(count=st.integers(1, 9), rows=st.sets(st.integers(0, 8)), seed=st.integers(0, 99))
def test_rows_are_copied_and_chosen_as_one_by_one(count: int, rows: set[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, 99, (2, count, 2))
    wanted, picked = other.copy(), np.zeros(count, np.bool_)
    for row in rows & set(range(count)):
        wanted[row], picked[row] = one[row], True
    before = one.copy(), other.copy()
    space = spaces.Box(0, 99, (2,), np.int64)
    assert alike(where_rows(space, picked, one, other), wanted)
    assert alike(before, (one, other))
    copy_rows(one, np.flatnonzero(picked), other)
    assert alike(other, wanted) and alike(before[0], one)
