"""Texts of many replies, and their sizes, against the text of each reply by itself."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.faults.effects.json_text import plain_payloads, sizes
from worldsim.faults.replies import Replies
from worldsim.faults.trees import as_text, copied, leaves_of, put

from .strategies import observation_spaces

COUNT = 5
ODD = [
    spaces.Text(7, min_length=0, charset='aé"\\\n漢🙂'),
    spaces.Box(-np.inf, np.inf, (2, 3), np.float64),
    spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (3,), np.int64),
    spaces.Box(0, 2**64 - 1, (3,), np.uint64),
    spaces.Box(-np.inf, np.inf, (), np.float16),
    spaces.Box(0, 1, (0,), np.float32),
    spaces.Dict({}),
    spaces.Tuple(()),
    spaces.Dict({'a "b" é': spaces.Discrete(3), "0": spaces.Tuple((spaces.MultiBinary(2),))}),
]
any_space = observation_spaces() | st.sampled_from(ODD) | st.sampled_from(ODD).map(lambda one: spaces.Tuple((one, one)))


def batch_of(space: gym.Space[Any], seed: int) -> tuple[Any, list[Any]]:
    """A batch of payloads and the payloads, with the oddest numbers there are among them."""
    space.seed(seed)
    payloads = [copied(space.sample()) for _ in range(COUNT)]
    rng = np.random.default_rng(seed)
    for position, payload in enumerate(payloads):
        for leaf in leaves_of(space):
            if isinstance(leaf.space, spaces.Box) and leaf.space.dtype.kind in "fiu" and leaf.space.shape != (0,):
                payload = put(payload, leaf.path, odd(leaf.space, rng))
        payloads[position] = payload
    return concatenate(space, payloads, create_empty_array(space, COUNT)), payloads


def odd(space: spaces.Box, rng: np.random.Generator) -> Any:
    if space.dtype.kind == "f":
        known = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-7, 0.1, 1e16, 12345.5, -1e-300])
    else:
        limits = np.iinfo(space.dtype)
        known = np.array([limits.min, limits.max, 0, 9, 10, 99, 100], space.dtype)
    with np.errstate(over="ignore"):
        return np.asarray(rng.choice(known, space.shape)).astype(space.dtype)


def replies_of(space: gym.Space[Any], seed: int, overriding: set[int]) -> tuple[Replies, list[Any]]:
    batch, payloads = batch_of(space, seed)
    replies = Replies(COUNT, space, batch)
    for row in overriding:
        payloads[row] = {"other": payloads[row], "more": ["é", None, 1.5]}
        replies.overrides[row] = payloads[row]
    return replies, payloads


rows_of_them = st.sets(st.integers(0, COUNT - 1))


@settings(max_examples=150, deadline=None)
@given(any_space, st.integers(0, 2**31), rows_of_them, rows_of_them)
def test_sizes_and_texts_are_those_of_each_alone(space: Any, seed: int, chosen: set[int], overriding: set[int]) -> None:
    replies, payloads = replies_of(space, seed, overriding)
    rows = np.array(sorted(chosen), np.int64)
    wanted = [as_text(payloads[row]) for row in rows.tolist()]
    assert sizes(replies, rows).tolist() == [len(text.encode()) for text in wanted]
    assert [*map(as_text, plain_payloads(replies, rows))] == wanted


@settings(max_examples=100, deadline=None)
@given(observation_spaces(), st.integers(0, 2**31), rows_of_them)
def test_changed_leaves_are_in_the_texts_and_nowhere_else(space: Any, seed: int, chosen: set[int]) -> None:
    replies, payloads = replies_of(space, seed, set())
    before = copied(payloads)
    rng, everyone, changes = np.random.default_rng(seed), np.arange(COUNT), []
    for leaf in leaves_of(space):
        touched = np.flatnonzero(rng.random(COUNT) < 0.5)
        values: Any = [None, "é", [1, 2]] * COUNT if rng.random() < 0.5 else rng.random((COUNT, 2)).astype(np.float32)
        values = values[: len(touched)]
        changes.append((leaf, touched, values))
        for row, value in zip(touched.tolist(), values, strict=True):
            payloads[row] = put(payloads[row], leaf.path, value)
    for row in chosen:  # an override changes alike
        replies.overrides[row] = before[row]
    assert [*map(as_text, plain_payloads(replies, everyone, changes))] == [*map(as_text, payloads)]
    after = [as_text(replies.payload(row)) for row in range(COUNT)]
    assert after == [*map(as_text, before)]
