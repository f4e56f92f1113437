"""The one loop that looks ahead, beside the World's own steps and what it makes of whole recorded prefixes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import worldsim
from worldsim.simulator.calibration import Calibration, Trust
from worldsim.simulator.rollout import imagine, observe_context, open_loop, predictions
from worldsim.simulator.world import World
from worldsim.spaces import flatten

WORLDS, STEPS, CONTEXT, SEEDS = 3, 9, 4, [5, 6, 7]


@pytest.fixture(scope="module")
def world(world_folder: Path) -> World:
    opened = worldsim.load(world_folder)
    curve = Trust(np.array([0.0, 2000.0]), np.array([1.0, 0.0]))  # random weights are unsure of everything
    return World(opened.manifest, opened.model, opened.starts, Calibration(curve))


@pytest.fixture(scope="module")
def window(world: World) -> dict[str, Any]:
    """Of the shape of a recording, drawn at random: (B, T, ...)."""
    generator = np.random.default_rng(0)
    world.observation_space.seed(1)
    rows = [flatten(world.observation_space, world.observation_space.sample()) for _ in range(WORLDS * STEPS)]
    first = np.zeros((WORLDS, STEPS), np.bool_)
    first[:, 0] = True
    return {
        "observation": {k: np.stack([r[k] for r in rows]).reshape(WORLDS, STEPS, *rows[0][k].shape) for k in rows[0]},
        "action": {"value": generator.integers(0, 3, (WORLDS, STEPS, 1))},
        "reward": generator.normal(size=(WORLDS, STEPS)).astype(np.float32),
        "terminated": np.zeros((WORLDS, STEPS), np.bool_),
        "first": first,
    }


def at(rows: dict[str, Any], t: Any) -> dict[str, Any]:
    return {name: values[:, t] for name, values in rows.items()}


def test_imagining_is_stepping_on_from_what_was_imagined(world: World, window: dict[str, Any]) -> None:
    state = observe_context(world, window, CONTEXT, SEEDS)
    own = imagine(world, state, window["action"])
    for t in range(STEPS):
        state, step = world.step(state, at(window["action"], t))
        for name, values in step.observation.items():
            assert np.array_equal(own.observation[name][:, t], values)
        for name in ("reward", "terminated", "trust"):
            assert np.array_equal(getattr(own, name)[:, t], getattr(step, name))
        for name in ("cumulative_entropy", "disagreement"):
            assert np.array_equal(getattr(own, name)[:, t], getattr(state, name).numpy())
    assert (np.diff(own.cumulative_entropy, axis=1) > 0).all() and own.trust.min() < own.trust.max()


def test_open_loop_is_the_record_and_then_the_worlds_own(world: World, window: dict[str, Any]) -> None:
    whole = open_loop(world, window, CONTEXT, SEEDS)
    own = imagine(world, observe_context(world, window, CONTEXT, SEEDS), at(window["action"], slice(CONTEXT, None)))
    for name, values in whole.observation.items():
        assert np.array_equal(values[:, :CONTEXT], window["observation"][name][:, :CONTEXT])
        assert (
            np.array_equal(values[:, CONTEXT:], own.observation[name]) and values.dtype == own.observation[name].dtype
        )
    for name in ("reward", "terminated"):
        assert np.array_equal(getattr(whole, name)[:, :CONTEXT], window[name][:, :CONTEXT])
    for name, before in (("cumulative_entropy", 0), ("disagreement", 0), ("trust", 1)):
        assert (getattr(whole, name)[:, :CONTEXT] == before).all()
    for name in ("reward", "terminated", "cumulative_entropy", "disagreement", "trust"):
        assert np.array_equal(getattr(whole, name)[:, CONTEXT:], getattr(own, name))


def test_teacher_forced_each_prediction_begins_with_the_whole_record_before_it(
    world_folder: Path, window: dict[str, Any]
) -> None:
    """The truth is what the World makes of the prefix when it sees it at once."""
    world = worldsim.load(world_folder, sample=False)
    rows = [{key: at(window[key], t) for key in ("observation", "action")} for t in range(1, STEPS)]
    start = observe_context(world, window, 1, SEEDS)
    made = list(predictions(world, start, rows, teacher_forced=True))
    free = list(predictions(world, start, rows))
    assert [each.row for each in made] == rows
    for t, each in enumerate(made, start=1):
        expected = world.predict(observe_context(world, window, t, SEEDS), at(window["action"], t))
        assert np.allclose(each.tick.features, expected.features, atol=1e-5)
    apart = [not np.allclose(a.tick.features, b.tick.features, atol=1e-3) for a, b in zip(made, free, strict=True)]
    assert apart == [False] + [True] * (STEPS - 2)  # random frames are not what the world would have imagined


def test_nothing_is_predicted_before_it_is_asked_for(world: World, window: dict[str, Any]) -> None:
    taken = []

    def rows() -> Any:
        for t in range(STEPS):
            taken.append(t)
            yield {"action": at(window["action"], t)}

    ahead = predictions(world, world.start(WORLDS), rows())
    assert taken == [] and next(ahead).before.tick.tolist() == [0, 0, 0]
    assert taken == [0] and next(ahead).before.tick.tolist() == [1, 1, 1]


def test_a_world_without_calibration_trusts_nothing_that_it_imagines(world: World, window: dict[str, Any]) -> None:
    bare = World(world.manifest, world.model, world.starts)
    trust = open_loop(bare, window, CONTEXT, SEEDS).trust
    assert (trust[:, :CONTEXT] == 1).all() and (trust[:, CONTEXT:] == 0).all()
