"""The codec of spaces against Gymnasium's own batching, JSON and an independent JSON Schema validator."""

import json
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jsonschema import Draft202012Validator

from worldsim.errors import SpaceMismatchError
from worldsim.spaces import (
    Leaf,
    flatten,
    flatten_batch,
    json_schema,
    leaves,
    space_from_json,
    space_to_json,
    unflatten,
    unflatten_batch,
)

FLOATS, INTEGERS = (np.float16, np.float32, np.float64), (np.int8, np.uint8, np.int32, np.uint32, np.int64)
EXACT = 2**53  # integers up to here are exact in float64


@st.composite
def boxes(draw: st.DrawFn) -> spaces.Box:
    dtype = draw(st.sampled_from([*FLOATS, *INTEGERS]))
    shape = draw(
        st.sampled_from(
            [(), (3,), (2, 2), (8, 9), (9, 8, 3), (8, 8, 1), (4, 8, 8), (8, 8, 5), (2, 8, 9, 3), (2, 3, 9, 8)]
        )
    )
    if dtype in FLOATS:
        numbers = st.floats(-1000, 1000, width=16)
        below, above = st.one_of(numbers, st.just(-np.inf)), st.one_of(numbers, st.just(np.inf))
    else:
        numbers = st.integers(max(np.iinfo(dtype).min, -EXACT), min(np.iinfo(dtype).max, EXACT))
        below = above = numbers
    if draw(st.booleans()):
        ends = [np.full(shape, draw(below), dtype), np.full(shape, draw(above), dtype)]
    else:
        ends = [draw(hnp.arrays(dtype, shape, elements=end)) for end in (below, above)]
    return spaces.Box(np.minimum(*ends), np.maximum(*ends), shape, dtype)


def classes() -> st.SearchStrategy[spaces.Space[Any]]:
    sizes = st.lists(st.integers(1, 9), min_size=1, max_size=4)
    starts = st.integers(-50, 50)
    letters = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=5)
    texts = st.tuples(letters.map(lambda s: "".join(sorted(set(s)))), st.integers(0, 3), st.integers(1, 6))
    return st.one_of(
        st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 1000), starts),
        st.builds(lambda nvec, start: spaces.MultiDiscrete(nvec, start=[start] * len(nvec)), sizes, starts),
        st.just(spaces.MultiDiscrete([[2, 3], [4, 1]], start=[[0, 1], [-5, 9]])),
        st.integers(1, 5).map(spaces.MultiBinary),
        st.just(spaces.MultiBinary((2, 3))),
        texts.map(lambda t: spaces.Text(t[1] + t[2], min_length=t[1], charset=t[0])),
    )


def nested() -> st.SearchStrategy[spaces.Space[Any]]:
    keys = st.text("abc_é 1", min_size=1, max_size=3)
    return st.recursive(
        st.one_of(boxes(), classes()),
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
            st.dictionaries(keys, inner, min_size=1, max_size=3).map(spaces.Dict),
        ),
        max_leaves=5,
    )


def samples(space: spaces.Space[Any], seed: int, count: int) -> list[Any]:
    space.seed(seed)
    return [space.sample() for _ in range(count)]


def plain(value: Any) -> Any:
    """A value of a space as JSON gives it back."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, tuple):
        return [plain(part) for part in value]
    return value if isinstance(value, str) else np.asarray(value).tolist()


def same(a: Any, b: Any) -> bool:
    """Equal values of equal types; a scalar and an array without axes are one."""
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, str):
        return isinstance(b, str) and a == b
    return np.asarray(a).dtype == np.asarray(b).dtype and np.array_equal(a, b)


@settings(max_examples=150, deadline=None)
@given(nested(), st.integers(0, 2**31))
def test_flatten_and_unflatten_are_inverse(space: spaces.Space[Any], seed: int) -> None:
    for value in samples(space, seed, 3):
        arrays = flatten(space, value)
        for leaf in leaves(space):
            array = arrays[leaf.name]
            assert (array.shape, array.dtype) == (leaf.shape, leaf.dtype)
            if leaf.is_discrete:
                assert ((array >= 0) & (array < leaf.nvec)).all()
        back = unflatten(space, arrays)
        assert space.contains(back)
        assert same(value, back)


@settings(max_examples=60, deadline=None)
@given(nested(), st.integers(0, 2**31), st.integers(1, 4))
def test_batches_are_what_gymnasium_batches(space: spaces.Space[Any], seed: int, count: int) -> None:
    rows = samples(space, seed, count)
    batched = concatenate(space, rows, create_empty_array(space, count))
    arrays = flatten_batch(space, batched)
    alone = [flatten(space, row) for row in rows]
    assert all(np.array_equal(arrays[name], np.stack([row[name] for row in alone])) for name in arrays)
    whole = batch_space(space, count)
    back = unflatten_batch(space, arrays)
    assert whole.contains(back)
    for row, again in zip(rows, iterate(whole, back), strict=True):
        assert plain(row) == plain(again)


@settings(max_examples=100, deadline=None)
@given(nested())
def test_json_gives_an_equal_space_back(space: spaces.Space[Any]) -> None:
    text = json.dumps(space_to_json(space), allow_nan=False)
    again = space_from_json(json.loads(text))
    assert again == space
    assert space_to_json(again) == json.loads(text)
    assert [leaf.name for leaf in leaves(again)] == [leaf.name for leaf in leaves(space)]


@settings(max_examples=100, deadline=None)
@given(nested(), st.integers(0, 2**31))
def test_the_schema_takes_samples_and_refuses_others(space: spaces.Space[Any], seed: int) -> None:
    schema = json.loads(json.dumps(json_schema(space), allow_nan=False))
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    for value in samples(space, seed, 3):
        validator.validate(json.loads(json.dumps(plain(value))))
    for wrong in (None, {"nobody": 1}, [[[[[0]]]]], 1.5e300 if not isinstance(space, spaces.Box) else "x"):
        assert not validator.is_valid(wrong)


@pytest.mark.parametrize(
    ("space", "wrong"),
    [
        (spaces.Discrete(3, start=5), [4, 8, 5.5]),
        (spaces.MultiDiscrete([2, 3]), [[0], [0, 3], [0, -1], [0, 1, 1]]),
        (spaces.MultiBinary(2), [[0, 2], [1]]),
        (spaces.Box(0.0, 1.0, (2,), np.float32), [[0.5, 1.5], [0.5], ["0", "1"]]),
        (spaces.Box(0, 1, (2,), np.bool_), [[0, 1], [True]]),
        (spaces.Text(3, min_length=2), ["a", "abcd", 7]),
        (spaces.Tuple([spaces.Discrete(2)]), [[2], [0, 0], []]),
        (spaces.Dict(a=spaces.Discrete(2)), [{}, {"a": 0, "b": 0}, {"a": 2}]),
    ],
)
def test_the_schema_refuses_what_is_not_in_the_space(space: spaces.Space[Any], wrong: list[Any]) -> None:
    validator = Draft202012Validator(json_schema(space))
    assert validator.is_valid(plain(samples(space, 0, 1)[0]))
    assert [value for value in wrong if validator.is_valid(value)] == []


@settings(max_examples=80, deadline=None)
@given(nested(), st.data())
def test_whatever_a_model_predicts_becomes_a_member(space: spaces.Space[Any], data: st.DataObject) -> None:
    arrays = {}
    for leaf in leaves(space):
        if leaf.is_discrete:
            share = data.draw(hnp.arrays(np.float64, leaf.shape, elements=st.floats(0, 0.99)))
            arrays[leaf.name] = (share * leaf.nvec).astype(np.int64)
        else:
            numbers = st.integers(0, 255) if leaf.kind == "image" else st.floats(-1e6, 1e6, width=32)
            arrays[leaf.name] = data.draw(hnp.arrays(leaf.dtype, leaf.shape, elements=numbers))
    assert space.contains(unflatten(space, arrays))


def test_kinds_and_names_are_as_documented() -> None:
    space = spaces.Dict(
        screen=spaces.Box(0, 255, (16, 12), np.uint8),
        reply=spaces.Dict(status=spaces.Discrete(3), text=spaces.Text(4, charset="xy")),
        joints=spaces.Tuple([spaces.Box(-1, 1, (2, 3), np.float32), spaces.MultiBinary((2, 2))]),
    )
    found = {leaf.name: (leaf.kind, leaf.shape) for leaf in leaves(space)}
    assert found == {
        "screen": ("image", (16, 12, 1)),
        "reply/status": ("categorical", (1,)),
        "reply/text": ("text", (4,)),
        "joints/0": ("vector", (6,)),
        "joints/1": ("categorical", (4,)),
    }
    assert leaves(spaces.Discrete(2))[0].name == "value"
    assert leaves(space["reply"])[1].nvec.tolist() == [3, 3, 3, 3]  # two letters and the end


@pytest.mark.parametrize(
    ("shape", "flat", "channels"),
    [
        ((4, 10, 12, 3), (10, 12, 12), 3),  # Gymnasium's FrameStackObservation on colours
        ((4, 3, 10, 12), (10, 12, 12), 3),  # the same with channels first
        ((4, 10, 12, 1), (10, 12, 4), 1),
        ((4, 10, 12), (10, 12, 4), 4),  # on grey frames: as channels first
        ((10, 12, 4), (10, 12, 4), 4),
    ],
)
def test_a_stack_of_frames_is_an_image_whose_last_channels_are_the_newest(
    shape: tuple[int, ...], flat: tuple[int, ...], channels: int
) -> None:
    space = spaces.Box(0, 255, shape, np.uint8)
    (leaf,) = leaves(space)
    assert (leaf.kind, leaf.shape, leaf.channels) == ("image", flat, channels)
    stack = samples(space, 0, 1)[0]
    newest = stack[..., -1] if shape == (10, 12, 4) else stack[-1]
    shown = leaf.flatten(stack)[..., -1] if newest.ndim == 2 else leaf.flatten(stack)[..., -channels:]
    assert np.array_equal(shown, np.moveaxis(newest, 0, -1) if newest.shape[0] == 3 else newest)
    assert np.array_equal(leaf.unflatten(leaf.flatten(stack)), stack)


@pytest.mark.parametrize("shape", [(4, 10, 12, 6), (4, 6, 10, 12), (4, 5, 12, 3), (2, 4, 10, 12, 3)])
def test_other_boxes_of_many_axes_are_vectors(shape: tuple[int, ...]) -> None:
    assert leaves(spaces.Box(0, 255, shape, np.uint8))[0].kind == "vector"


def test_a_text_ends_at_its_first_end() -> None:
    space = spaces.Text(5, min_length=0, charset="ab")
    letters = {letter: space.character_index(letter) + 1 for letter in "ab"}
    codes = np.array([letters["b"], letters["a"], 0, letters["b"], 0])
    assert unflatten(space, {"value": codes}) == "ba"


def test_predictions_of_whole_numbers_are_rounded_not_cut() -> None:
    assert unflatten(spaces.Box(0, 9, (3,), np.int32), {"value": np.array([1.6, 1.4, 12.0])}).tolist() == [2, 1, 9]
    assert unflatten(spaces.Box(0, 1, (2,), np.bool_), {"value": np.array([0.3, 0.7])}).tolist() == [False, True]


@pytest.mark.parametrize("space", [spaces.Sequence(spaces.Discrete(2)), spaces.Graph(spaces.Discrete(2), None)])
def test_other_spaces_are_refused_in_one_line(space: spaces.Space[Any]) -> None:
    for use in (leaves, space_to_json, json_schema, lambda space: Leaf((), space).kind):
        with pytest.raises(SpaceMismatchError, match=type(space).__name__) as error:
            use(space)
        assert "\n" not in str(error.value)
    with pytest.raises(SpaceMismatchError, match="things is a .*use Box"):
        leaves(spaces.Dict(things=space))
