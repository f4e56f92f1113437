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

from worldsim.faults.effects import frames
from worldsim.faults.effects.wrong_values import wrong_values
from worldsim.faults.keys import CallRandom
from worldsim.faults.trees import from_json, get, leaves_of, put, to_plain_json
from worldsim.spaces import Leaf, leaves

from .strategies import leaf_spaces, observation_spaces


def draws_of(*seeds: int) -> CallRandom:
    return CallRandom(np.array(seeds, np.uint64))


def wrong_value(space: Any, value: Any, severity: float, seed: int, out_of_space: bool = False) -> Any:
    """How one value went wrong and what it is now, None where nothing different can be made of it."""
    values, hows = wrong_values(Leaf((), space), [value], severity, draws_of(seed), out_of_space)
    return None if hows[0] is None else (hows[0], values[0])


@settings(max_examples=150, deadline=None)
@given(leaf_spaces(), st.integers(0, 2**32 - 1), st.floats(0.01, 1), st.booleans())
def test_a_wrong_value_differs_and_stays_inside(space: Any, seed: int, severity: float, out_of_space: bool) -> None:
    space.seed(seed)
    value = space.sample()
    before = copy.deepcopy(value)
    result = wrong_value(space, value, severity, seed, out_of_space)
    assert data_equivalence(value, before, exact=True)
    if result is None:
        return
    how, changed = result
    json.dumps([how, to_plain_json(changed)], allow_nan=False)
    assert not data_equivalence(changed, before, exact=True)
    if not out_of_space:
        assert changed in space, (how, before, changed)
        assert type(changed) is type(before)
        assert getattr(changed, "dtype", None) == getattr(before, "dtype", None)


@pytest.mark.parametrize("space", [spaces.Discrete(1), spaces.Text(3, min_length=0, charset="x")], ids=str)
def test_where_only_one_value_exists_nothing_is_claimed(space: Any) -> None:
    value = np.int64(0) if isinstance(space, spaces.Discrete) else ""
    assert wrong_value(space, value, 1.0, 0) is None


def test_each_way_of_being_wrong_happens() -> None:
    rng = np.random.default_rng(0)

    def ways(space: Any, value: Any, out_of_space: bool = False) -> set[str]:
        results = [wrong_value(space, value, 0.5, seed, out_of_space) for seed in range(200)]
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
        result = wrong_value(spaces.Discrete(10**6), 120405, 0.5, seed)
        assert result is not None
        if result[0] == "digits_transposed":
            assert sorted(str(result[1]).zfill(6)) == sorted("120405")


@pytest.mark.parametrize("shape", [(12, 10), (12, 10, 3), (3, 12, 10)])
@pytest.mark.parametrize("severity", [0.1, 0.5, 1.0])
def test_frames_change_as_they_say(shape: tuple[int, ...], severity: float) -> None:
    axes = frames.frame_axes(spaces.Box(0, 255, shape, np.uint8))
    assert axes is not None and (shape[axes.rows], shape[axes.columns]) == (12, 10)
    given_frames = np.random.default_rng(1).integers(1, 256, (5, *shape), np.uint8)
    images, chance = frames.as_images(given_frames, axes), draws_of(*range(5)).uniform(0, 4)
    assert np.array_equal(frames.as_frames(images, axes), given_frames)
    shifted = frames.shift_rows(images, severity, chance)
    assert np.array_equal(np.sort(shifted, 2), np.sort(images, 2))
    rows = (shifted != images).any((2, 3)).sum(1)
    assert (rows > 0).all() and (rows <= max(1, round(severity * 12))).all()
    black = frames.occlude(images, severity, chance) == 0
    share = max(1, round(severity * 12)) * max(1, round(severity * 10)) / 120
    assert black.mean((1, 2, 3)) == pytest.approx(np.full(5, share))
    for image, other in zip(images, frames.swap_channels(images, severity, chance), strict=True):
        assert {channel.tobytes() for channel in image.T} == {channel.tobytes() for channel in other.T}
        assert images.shape[3] < 2 or not np.array_equal(image, other)


@settings(max_examples=60, deadline=None)
@given(leaf_spaces(), st.integers(0, 2**32 - 1), st.floats(0.01, 1))
def test_many_go_wrong_as_each_does_alone(space: Any, seed: int, severity: float) -> None:
    space.seed(seed)
    values = [space.sample() for _ in range(4)]
    column = values if isinstance(space, spaces.Text) else np.stack(values)
    many, hows = wrong_values(Leaf((), space), column, severity, draws_of(*range(seed, seed + 4)), False)
    for row, value in enumerate(values):
        alone = wrong_value(space, value, severity, seed + row)
        assert (hows[row] is None) == (alone is None)
        assert alone is None or (hows[row] == alone[0] and np.array_equal(many[row], alone[1]))


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
