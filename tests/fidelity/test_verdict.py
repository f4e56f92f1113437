"""The verdict against certificates whose truth is plain, and the yardstick against errors put there by hand."""

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from tests.models.test_inputs import ARM
from worldsim.fidelity.curves import blind, curves
from worldsim.fidelity.loops import together
from worldsim.fidelity.verdict import believable, verdict
from worldsim.fidelity.yardstick import Yardstick
from worldsim.models.config import SSMConfig
from worldsim.models.world_model import WorldModel
from worldsim.rollouts.arrays import Arrays
from worldsim.spaces import flatten_batch

ROWS = 200


def detected(hits: int, events: int, said: int) -> dict[str, Any]:
    found = {"precision": None, "recall": None, "f1": None, "events": events, "foretold": said}
    if events:
        found |= {"precision": hits / said if said else None, "recall": hits / events, "f1": 2 * hits / (events + said)}
    return found


def certificate(**changed: Any) -> dict[str, Any]:
    """Of a world whose screen holds for 6 steps, whose record holds for 2, that foresees 19 of 20 ends."""
    nothing = detected(0, 0, 0)
    found = {
        "episodes_reported": 30,
        "within_by_leaf": {"screen": {"model": [0.9] * 6 + [0.4] * 4}, "record": {"model": [0.95] * 2 + [0.3] * 8}},
        "within": [0.9, 0.85] + [0.2] * 8,
        "windows_at": [64] * 10,
        "one_step": {
            "termination": detected(19, 20, 20),
            "reward": {"signs": {"negative": nothing, "none": detected(90, 90, 90), "positive": detected(3, 30, 4)}},
        },
        "controllability": {"step": 4, "psnr": {"screen": {"recorded": 30.0, "random": 24.0, "delta": 6.0}}},
        "trust": {"auroc": 0.9, "ece": 0.021},
    }
    return copy.deepcopy({**found, **changed})


def test_what_holds_is_believed_and_what_does_not_is_not() -> None:
    assert verdict(certificate()) == [
        "Believe all parts of an observation at once up to step 2.",
        "Believe screen up to step 6, record up to step 2.",
        "Believe its endings: it foresaw 19 of 20 at their very step, and 95% of those that it foretold came.",
        "Do not believe its positive rewards: it foresaw 3 of 30 at their very step, and 75% of those that it "
        "foretold came.",
        "It listens to its actions: under random ones it shows something else.",
        "Its trust tells right from wrong (AUROC 0.90) and is off by 0.02 on average.",
    ]


def test_few_episodes_and_few_events_are_told() -> None:
    assert verdict(certificate(episodes_reported=3))[0] == "Only 3 episodes were looked at: others may go otherwise."
    assert verdict(certificate(episodes_reported=1))[0] == "Only 1 episode was looked at: others may go otherwise."
    heads = {"termination": detected(0, 1, 0), "reward": {"signs": {}}}
    told = "Do not count on its endings: only 1 was seen, and it foresaw 0 of 1 at their very step."
    assert told in verdict(certificate(one_step=heads))
    none = {"termination": detected(0, 0, 0), "reward": {"signs": {}}}
    assert "Its endings cannot be judged: none was seen." in verdict(certificate(one_step=none))
    wrongly = {"termination": detected(0, 0, 7), "reward": {"signs": {"none": detected(0, 0, 3)}}}
    assert "Its endings cannot be judged: none was seen, though it foretold 7." in verdict(
        certificate(one_step=wrongly)
    )


def test_a_useless_world_is_called_so() -> None:
    nothing = {"screen": {"model": [0.5, 0.1, None]}}
    heads = {"termination": detected(0, 4, 9), "reward": {"signs": {"positive": detected(0, 0, 5)}}}
    deaf = {"step": 3, "psnr": {"screen": {"recorded": 20.0, "random": 19.9, "delta": 0.1}}}
    told = verdict(
        certificate(
            within_by_leaf=nothing,
            within=[0.5, 0.1, None],
            windows_at=[9, 9, 0],
            one_step=heads,
            controllability=deaf,
            trust={"auroc": None, "ece": 0.0},
        )
    )
    assert told == [
        "Do not believe screen, not even one step ahead.",
        "Do not count on its endings: only 4 were seen, and it foresaw 0 of 4 at their very step.",
        "Its positive rewards cannot be judged: none was seen, though it foretold 5.",
        "It hardly listens to its actions: under random ones it shows what it shows under the recorded ones.",
        "Its trust cannot be judged: all predictions were alike.",
    ]


def test_chance_neither_ends_nor_prolongs_what_is_believed() -> None:
    windows = [64] * 6
    assert believable([1, 0.95, 0.9, 0.85, 0.8, 0.5], windows) == 5
    assert believable([1, 0.95, 0.79, 0.85, 0.8, 0.5], windows) == 5  # one dip below, in passing
    assert believable([0.7, 0.6, 0.9, 0.4, 0.4, 0.4], windows) == 0  # one rise above, in passing
    assert believable([1, 1, 1, None, None, None], [9, 9, 9, 0, 0, 0]) == 3


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    ARM.seed(0)
    rows = [ARM.sample() for _ in range(ROWS)]
    return {k: np.asarray(v) for k, v in flatten_batch(ARM, _batched(ARM, rows)).items()}


def _batched(space: spaces.Space, values: list[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {name: _batched(inner, [value[name] for value in values]) for name, inner in space.spaces.items()}
    return values if isinstance(space, spaces.Text) else np.stack(values)


@pytest.fixture(scope="module")
def yardstick(recorded: dict[str, np.ndarray]) -> Yardstick:
    """Of an arm with two cameras, depth, a mask, a stack of maps, joints, a ticket with a text, lamps and a grid."""
    model = WorldModel(SSMConfig(embed=16, hidden=16, width=32), ARM, spaces.Discrete(2), (0.0, 1.0))
    for leaf, codec in model.codec.dense_codecs():
        if leaf.kind == "image":
            codec.mean.copy_(torch.from_numpy(recorded[leaf.name].mean(0) / 255))
    world: Any = SimpleNamespace(model=model, observation_space=ARM)
    none = np.zeros(ROWS, np.bool_)
    action = {"value": np.zeros((ROWS, 1), np.int64)}
    arrays = Arrays(recorded, action, np.zeros(ROWS, np.float32), none, none, np.array([0, ROWS]))
    return Yardstick.of(world, arrays, np.array([0]), 10.0, 0)


def window(recorded: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: rows[:6].reshape(2, 3, *rows.shape[1:]) for name, rows in recorded.items()}


def test_every_leaf_alone_can_put_a_prediction_out_of_tolerance(
    yardstick: Yardstick, recorded: dict[str, np.ndarray]
) -> None:
    """One leaf at one step is replaced by the mean of the data, which is what it takes to be wrong."""
    actual = window(recorded)
    assert yardstick.within(actual, actual).all() and (yardstick.distance(actual, actual, np.ones((2, 3))) == 0).all()
    assert {leaf.kind for leaf in yardstick.leaves} == {"image", "field", "vector", "categorical"}
    for leaf in yardstick.leaves:
        wrong = {name: rows.copy() for name, rows in actual.items()}
        wrong[leaf.name][1, 2] = yardstick.mean[leaf.name]
        if leaf.kind == "categorical":
            wrong[leaf.name][1, 2] = actual[leaf.name][1, 2] + 1
        expected = np.ones((2, 3), bool)
        expected[1, 2] = False
        assert np.array_equal(yardstick.within(wrong, actual), expected), leaf.name
        by_leaf = yardstick.within_by_leaf(wrong, actual)
        assert [name for name, each in by_leaf.items() if not each.all()] == [leaf.name]
        near, far = yardstick.distance(wrong, actual, np.ones((2, 3)))
        assert near == 0 < far < 1 / 3 / len(yardstick.leaves)  # at most one leaf of one of three steps


def test_errors_are_in_the_unit_of_their_leaf(yardstick: Yardstick, recorded: dict[str, np.ndarray]) -> None:
    """The mean is one variance off, in fields and vectors alike, whatever their unit: nRMSE 1, of copies sqrt(2)."""
    whole = {name: rows[:ROWS].reshape(ROWS, 1, *rows.shape[1:]) for name, rows in recorded.items()}
    before = {name: np.roll(rows, 1, 0) for name, rows in whole.items()}
    found = curves(yardstick, whole, before, blind(yardstick, before, whole), np.ones((ROWS, 1), bool))
    dense = {leaf.name for leaf in yardstick.leaves if leaf.kind in ("field", "vector")}
    assert set(found["nrmse"]) == dense >= {"depth", "mask", "joints"} and set(found["psnr"]) == {"left", "right"}
    for leaf in dense:
        assert found["nrmse"][leaf]["mean"] == [pytest.approx(1, abs=1e-6)]
        assert found["nrmse"][leaf]["copy"] == [pytest.approx(2**0.5, rel=0.06)]
    assert set(found["within"]) == set(recorded)
    assert all(each["mean"][0] <= 0.6 for each in found["within"].values())


def test_a_tenth_of_many_variables_may_be_wrong_and_none_of_one(
    yardstick: Yardstick, recorded: dict[str, np.ndarray]
) -> None:
    actual = window(recorded)
    for wrong, kept in ((30, True), (31, False)):
        lamps = {**actual, "lamps": actual["lamps"].copy()}
        lamps["lamps"][..., :wrong] ^= 1  # of 300
        assert (yardstick.within(lamps, actual) == kept).all()


def test_a_place_is_known_by_its_images(yardstick: Yardstick, recorded: dict[str, np.ndarray]) -> None:
    """Two cameras that come back, while everything else has moved on."""
    rows = {name: values[:4].copy() for name, values in recorded.items()}
    for name in ("left", "right"):
        rows[name][3] = rows[name][0]
    expected = np.eye(4, dtype=bool)
    expected[0, 3] = expected[3, 0] = True
    assert np.array_equal(together(yardstick, rows), expected)
    blind_leaves = tuple(leaf for leaf in yardstick.leaves if leaf.kind != "image")
    unseeing = Yardstick(blind_leaves, yardstick.mean, yardstick.scale, yardstick.allowed)
    assert np.array_equal(together(unseeing, rows), np.eye(4, dtype=bool))
