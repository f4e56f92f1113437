"""Wrong values are different; inside the space unless asked otherwise; and leave what they were made from alone."""

import copy
import json
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.faults import frames
from worldsim.faults.leafwise import from_json, get, leaves_of, plain, put
from worldsim.faults.wrong import wrong_value
from worldsim.spaces import Leaf, leaves

from .strategies import leaf_spaces, observation_spaces


@settings(max_examples=150, deadline=None)
@given(leaf_spaces(), st.integers(0, 2**32 - 1), st.floats(0.01, 1), st.booleans())
def test_a_wrong_value_differs_and_stays_inside(space: Any, seed: int, severity: float, out_of_space: bool) -> None:
    space.seed(seed)
    value = space.sample()
    before = copy.deepcopy(value)
    result = wrong_value(Leaf((), space), value, severity, np.random.default_rng(seed), out_of_space)
    assert data_equivalence(value, before, exact=True)
    if result is None:
        return
    how, changed = result
    json.dumps([how, plain(changed)], allow_nan=False)
    assert not data_equivalence(changed, before, exact=True)
    if not out_of_space:
        assert changed in space, (how, before, changed)
        assert type(changed) is type(before)
        assert getattr(changed, "dtype", None) == getattr(before, "dtype", None)


@pytest.mark.parametrize("space", [spaces.Discrete(1), spaces.Text(3, min_length=0, charset="x")], ids=str)
def test_where_only_one_value_exists_nothing_is_claimed(space: Any) -> None:
    value = np.int64(0) if isinstance(space, spaces.Discrete) else ""
    assert wrong_value(Leaf((), space), value, 1.0, np.random.default_rng(0), False) is None


def test_each_way_of_being_wrong_happens() -> None:
    rng = np.random.default_rng(0)

    def ways(space: Any, value: Any, out_of_space: bool = False) -> set[str]:
        results = [wrong_value(Leaf((), space), value, 0.5, rng, out_of_space) for _ in range(200)]
        return {result[0] for result in results if result}

    frame = rng.integers(0, 256, (16, 16, 3), np.uint8)
    vector = np.array([1.0, 2.0, 3.0], np.float32)
    assert ways(spaces.Box(0, 255, (16, 16, 3), np.uint8), frame) == {"rows_shifted", "channels_swapped", "block_torn"}
    assert ways(spaces.Box(-9, 9, (3,), np.float32), vector) == {"swapped", "scaled", "offset"}
    assert ways(spaces.Discrete(1000), np.int64(372)) == {"digits_transposed", "other_class"}
    assert ways(spaces.Text(5), "abcde") == {"letters_swapped", "other_letter"}
    loose = {"swapped", "scaled", "offset", "nan", "infinite", "out_of_range", "wrong_type", "wrong_shape"}
    assert ways(spaces.Box(-9, 9, (3,), np.float32), vector, out_of_space=True) == loose


def test_transposed_digits_are_the_same_digits() -> None:
    for seed in range(50):
        result = wrong_value(Leaf((), spaces.Discrete(10**6)), 120405, 0.5, np.random.default_rng(seed), False)
        assert result is not None
        if result[0] == "digits_transposed":
            assert sorted(str(result[1]).zfill(6)) == sorted("120405")


@pytest.mark.parametrize("shape", [(12, 10), (12, 10, 3), (3, 12, 10)])
@pytest.mark.parametrize("severity", [0.1, 0.5, 1.0])
def test_frames_change_as_they_say(shape: tuple[int, ...], severity: float) -> None:
    rng = np.random.default_rng(1)
    space = spaces.Box(0, 255, shape, np.uint8)
    axes = frames.frame_axes(space)
    assert axes is not None and (shape[axes.rows], shape[axes.columns]) == (12, 10)
    frame = rng.integers(1, 256, shape, np.uint8)
    shifted = frames.shift_rows(frame, axes, severity, rng)
    assert np.array_equal(np.sort(shifted, axes.columns), np.sort(frame, axes.columns))
    rows = np.any(np.moveaxis(shifted != frame, axes.rows, 0).reshape(12, -1), axis=1)
    assert 0 < rows.sum() <= max(1, round(severity * 12))
    black = frames.occlude(frame, axes, severity, rng) == 0
    share = max(1, round(severity * 12)) * max(1, round(severity * 10)) / 120
    assert black.mean() == pytest.approx(share)
    if len(shape) == 3:
        swapped = np.moveaxis(frames.swap_channels(frame, axes, severity, rng), axes.channels, 0)
        channels = {channel.tobytes() for channel in np.moveaxis(frame, axes.channels, 0)}
        assert {channel.tobytes() for channel in swapped} == channels


@settings(max_examples=60, deadline=None)
@given(observation_spaces(), st.integers(0, 2**32 - 1))
def test_put_changes_one_leaf_and_not_the_original(space: Any, seed: int) -> None:
    space.seed(seed)
    value, other = space.sample(), space.sample()
    before = copy.deepcopy(value)
    found = leaves_of(space)
    assert [leaf.name for leaf in found] == [leaf.name for leaf in leaves(space)]
    chosen = found[seed % len(found)]
    changed = put(value, chosen.path, get(other, chosen.path))
    assert changed in space
    assert data_equivalence(value, before, exact=True)
    for leaf in found:
        source = other if leaf is chosen else before
        assert data_equivalence(get(changed, leaf.path), get(source, leaf.path), exact=True)


def test_plain_values_become_members_of_their_spaces() -> None:
    cases = [
        (spaces.Discrete(4, start=10), 2, np.int64(12)),
        (spaces.MultiDiscrete([3, 3], start=[1, 1]), [0, 2], np.array([1, 3])),
        (spaces.MultiBinary(3), 1, np.array([1, 1, 1], np.int8)),
        (spaces.Text(4), "none", "none"),
        (spaces.Box(0, 9, (2,), np.float32), 3, np.array([3, 3], np.float32)),
    ]
    for space, given_value, wanted in cases:
        value = from_json(Leaf((), space), given_value)
        assert value in space and data_equivalence(value, wanted, exact=True)
