"""Hypothesis strategies: observation spaces of every kind, nested too."""

from typing import Any

import numpy as np
from gymnasium import spaces
from hypothesis import strategies as st


def boxes() -> st.SearchStrategy[spaces.Space[Any]]:
    return st.sampled_from(
        [
            lambda: spaces.Box(-1.0, 1.0, (3,), np.float32),
            lambda: spaces.Box(-np.inf, np.inf, (4,), np.float64),
            lambda: spaces.Box(2.0, 5.0, (2, 2), np.float32),
            lambda: spaces.Box(np.array([0, -np.inf], np.float32), np.array([np.inf, 0], np.float32)),
            lambda: spaces.Box(-3, 90, (5,), np.int64),
            lambda: spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64),
            lambda: spaces.Box(0, 255, (9, 8, 3), np.uint8),
            lambda: spaces.Box(0, 255, (4, 10, 10), np.uint8),
            lambda: spaces.Box(10, 200, (8, 8), np.uint8),
            lambda: spaces.Box(0, 1, (6,), np.uint8),
            lambda: spaces.Box(0.0, 1.0, (), np.float32),
            lambda: spaces.Box(0, 1, (2,), np.bool_),
        ]
    ).map(lambda make: make())


def classes() -> st.SearchStrategy[spaces.Space[Any]]:
    return st.sampled_from(
        [
            lambda: spaces.Discrete(5),
            lambda: spaces.Discrete(1),
            lambda: spaces.Discrete(900, start=-20),
            lambda: spaces.MultiDiscrete([3, 1, 7]),
            lambda: spaces.MultiDiscrete([[4, 4], [2, 9]], start=[[1, 1], [0, -3]]),
            lambda: spaces.MultiBinary(4),
            lambda: spaces.MultiBinary((2, 2)),
            lambda: spaces.Text(8),
            lambda: spaces.Text(5, min_length=2, charset="ab"),
            lambda: spaces.Text(3, min_length=0, charset="x"),
        ]
    ).map(lambda make: make())


def leaf_spaces() -> st.SearchStrategy[spaces.Space[Any]]:
    return st.one_of(boxes(), classes())


def observation_spaces() -> st.SearchStrategy[spaces.Space[Any]]:
    return st.recursive(
        leaf_spaces(),
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
            st.dictionaries(st.sampled_from(["a", "b", "c d", "e"]), inner, min_size=1, max_size=3).map(spaces.Dict),
        ),
        max_leaves=5,
    )
