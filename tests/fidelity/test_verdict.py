"""The verdict against certificates whose truth is plain, and the metric against errors put there by hand."""

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from tests.models.test_inputs import ARM
from worldsim.fidelity.curves import baselines, measure, to_curves
from worldsim.fidelity.error_metric import ErrorMetric
from worldsim.fidelity.revisits import same_place
from worldsim.fidelity.verdict import believable, verdict
from worldsim.models.config import SSMConfig
from worldsim.rollouts.arrays import EpisodeArrays
from worldsim.spaces import flatten_batch

ROWS = 200


def detected(hits: int, events: int, predicted: int) -> dict[str, Any]:
    found = {"precision": None, "recall": None, "f1": None, "events": events, "predicted": predicted}
    if events:
        found |= {"precision": hits / predicted if predicted else None, "recall": hits / events}
        found["f1"] = 2 * hits / (events + predicted)
    return found


def certificate(**changed: Any) -> dict[str, Any]:
    """Of a world whose screen holds for 6 steps, whose record holds for 2, that predicts 19 of 20 ends."""
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
        "Believe its endings: it predicted 19 of 20 at exactly their step, and 95% of those that it predicted "
        "happened.",
        "Do not believe its positive rewards: it predicted 3 of 30 at exactly their step, and 75% of those that it "
        "predicted happened.",
        "Its predictions depend on the actions: they are worse under random than under the recorded ones.",
        "Its trust separates right predictions from wrong ones (AUROC 0.90); as a probability it is off by 0.02 on "
        "average.",
    ]


def test_what_a_guess_without_knowledge_gets_right_proves_nothing() -> None:
    held = {"model": [0.95] * 10, "copy": [0.9] * 10, "mean": [0.2] * 10}
    known = {"model": [0.95] * 4 + [0.5] * 6, "copy": [0.9] * 2 + [0.1] * 8, "mean": [0.1] * 10}
    never = {"model": [0.1] * 10, "copy": [0.9] * 10, "mean": [0.9] * 10}
    sentences = verdict(certificate(within_by_leaf={"flag": held, "door": known, "lamp": never}))
    assert sentences[1:4] == [
        "Believe flag up to step 10, door up to step 4.",
        "For flag that proves nothing: copying or guessing the mean is right as far ahead.",
        "Do not believe lamp, not even one step ahead.",
    ]


def test_few_episodes_and_few_events_are_pointed_out() -> None:
    assert (
        verdict(certificate(episodes_reported=3))[0] == "Only 3 episodes were measured: others may give other figures."
    )
    assert verdict(certificate(episodes_reported=1))[0] == "Only 1 episode was measured: others may give other figures."
    heads = {"termination": detected(0, 1, 0), "reward": {"signs": {}}}
    expected = "Do not count on its endings: the data has only 1, and it predicted 0 of 1 at exactly their step."
    assert expected in verdict(certificate(one_step=heads))
    none = {"termination": detected(0, 0, 0), "reward": {"signs": {}}}
    assert "Its endings cannot be judged: the data has none." in verdict(certificate(one_step=none))
    wrongly = {"termination": detected(0, 0, 7), "reward": {"signs": {"none": detected(0, 0, 3)}}}
    assert "Its endings cannot be judged: the data has none, though it predicted 7." in verdict(
        certificate(one_step=wrongly)
    )


def test_a_useless_world_is_called_so() -> None:
    nothing = {"screen": {"model": [0.5, 0.1, None]}}
    heads = {"termination": detected(0, 4, 9), "reward": {"signs": {"positive": detected(0, 0, 5)}}}
    deaf = {"step": 3, "psnr": {"screen": {"recorded": 20.0, "random": 19.9, "delta": 0.1}}}
    sentences = verdict(
        certificate(
            within_by_leaf=nothing,
            within=[0.5, 0.1, None],
            windows_at=[9, 9, 0],
            one_step=heads,
            controllability=deaf,
            trust={"auroc": None, "ece": 0.0},
        )
    )
    assert sentences == [
        "Do not believe screen, not even one step ahead.",
        "Do not count on its endings: the data has only 4, and it predicted 0 of 4 at exactly their step.",
        "Its positive rewards cannot be judged: the data has none, though it predicted 5.",
        "Its predictions hardly depend on the actions: they are as good under random as under the recorded ones.",
        "Its trust cannot be judged: all predictions were right, or all were wrong.",
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
def metric(recorded: dict[str, np.ndarray]) -> ErrorMetric:
    """Of an arm with two cameras, depth, a mask, a stack of maps, joints, a ticket with a text, lamps and a grid."""
    model = SSMConfig(embed=16, hidden=16, width=32).build(ARM, spaces.Discrete(2), (0.0, 1.0))
    model.measure({name: [torch.from_numpy(rows)] for name, rows in recorded.items()}, {"value": []})
    world: Any = SimpleNamespace(model=model, observation_space=ARM)
    none = np.zeros(ROWS, np.bool_)
    action = {"value": np.zeros((ROWS, 1), np.int64)}
    arrays = EpisodeArrays(recorded, action, np.zeros(ROWS, np.float32), none, none, np.array([0, ROWS]))
    return ErrorMetric.of(world, arrays, np.array([0]), 10.0, 0)


def window(recorded: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: rows[:6].reshape(2, 3, *rows.shape[1:]) for name, rows in recorded.items()}


def test_every_leaf_alone_can_put_a_prediction_out_of_tolerance(
    metric: ErrorMetric, recorded: dict[str, np.ndarray]
) -> None:
    """One leaf at one step is replaced by the mean of the data, which is what it takes to be wrong."""
    actual = window(recorded)
    assert metric.within(actual, actual).all() and (metric.distance(actual, actual, np.ones((2, 3))) == 0).all()
    assert {leaf.kind for leaf in metric.leaves} == {"image", "field", "vector", "categorical", "text"}
    for leaf in metric.leaves:
        wrong = {name: rows.copy() for name, rows in actual.items()}
        wrong[leaf.name][1, 2] = metric.mean[leaf.name]
        if leaf.is_discrete:
            wrong[leaf.name][1, 2] = actual[leaf.name][1, 2] + 1
        expected = np.ones((2, 3), bool)
        expected[1, 2] = False
        assert np.array_equal(metric.within(wrong, actual), expected), leaf.name
        by_leaf = metric.within_by_leaf(wrong, actual)
        assert [name for name, each in by_leaf.items() if not each.all()] == [leaf.name]
        near, far = metric.distance(wrong, actual, np.ones((2, 3)))
        assert near == 0 < far < 1 / 3 / len(metric.leaves)  # at most one leaf of one of three steps


def test_errors_are_in_the_unit_of_their_leaf(metric: ErrorMetric, recorded: dict[str, np.ndarray]) -> None:
    """The mean is one variance off, in fields and vectors alike, whatever their unit: nRMSE 1, of copies sqrt(2)."""
    whole = {name: rows[:ROWS].reshape(ROWS, 1, *rows.shape[1:]) for name, rows in recorded.items()}
    before = {name: np.roll(rows, 1, 0) for name, rows in whole.items()}
    found = to_curves(measure(metric, whole, before, baselines(metric, before, whole), np.ones((ROWS, 1), bool)))
    dense = {leaf.name for leaf in metric.leaves if leaf.kind in ("field", "vector")}
    assert set(found["nrmse"]) == dense >= {"depth", "mask", "joints"} and set(found["psnr"]) == {"left", "right"}
    for leaf in dense:
        assert found["nrmse"][leaf]["mean"] == [pytest.approx(1, abs=1e-6)]
        assert found["nrmse"][leaf]["copy"] == [pytest.approx(2**0.5, rel=0.06)]
    assert set(found["within"]) == set(recorded)
    assert all(each["mean"][0] <= 0.6 for each in found["within"].values())


def test_a_tenth_of_what_a_blind_guess_gets_wrong_may_be_wrong(
    metric: ErrorMetric, recorded: dict[str, np.ndarray]
) -> None:
    actual = window(recorded)
    tolerated = int(
        0.1 * (recorded["lamps"] != metric.mean["lamps"]).sum(1).mean()
    )  # of 300 lamps, on or off by chance
    assert 10 <= tolerated <= 15
    for wrong, kept in ((tolerated, True), (tolerated + 1, False)):
        lamps = {**actual, "lamps": actual["lamps"].copy()}
        lamps["lamps"][..., :wrong] ^= 1
        assert (metric.within(lamps, actual) == kept).all()


def of_space(space: spaces.Space, rows: list[Any]) -> tuple[ErrorMetric, dict[str, np.ndarray]]:
    """The metric of what was recorded of a space without images, and the record as one window (1, N, ...)."""
    arrays = {name: np.asarray(each) for name, each in flatten_batch(space, _batched(space, rows)).items()}
    none = np.zeros(len(rows), np.bool_)
    action = {"value": np.zeros((len(rows), 1), np.int64)}
    model = SSMConfig(embed=16, hidden=16, width=32).build(space, spaces.Discrete(2), (0.0, 1.0))
    world: Any = SimpleNamespace(model=model, observation_space=space)
    kept = EpisodeArrays(arrays, action, np.zeros(len(rows), np.float32), none, none, np.array([0, len(rows)]))
    return ErrorMetric.of(world, kept, np.array([0]), 10.0, 0), {name: each[None] for name, each in arrays.items()}


def guess(metric: ErrorMetric, actual: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.broadcast_to(metric.mean[name], each.shape) for name, each in actual.items()}


def test_a_background_buys_no_tolerance() -> None:
    """Boards of 64 squares with three pieces by chance, numbers of which most never change, depth before a still wall.

    In each a blind guess is nearly everywhere right, and right as a whole hardly ever.
    """
    rng, rows = np.random.default_rng(0), 300
    boards = np.zeros((rows, 64), np.int64)
    numbers, depth = np.full((rows, 40), 7.0), np.full((rows, 16, 16), 3.0, np.float32)
    for row in range(rows):
        boards[row, rng.choice(64, 3, replace=False)] = 1 + rng.integers(2, size=3)
        numbers[row, :6] = rng.normal(size=6)
        depth[row, 4:6, 4:6] = 3 * rng.random((2, 2))
    for space, values in (
        (spaces.MultiDiscrete([3] * 64), boards),
        (spaces.Box(-np.inf, np.inf, (40,), np.float64), numbers),
        (spaces.Box(0, 9, (16, 16), np.float32), depth),
    ):
        metric, actual = of_space(space, list(values))
        assert metric.within(actual, actual).all()
        assert metric.within(guess(metric, actual), actual).mean() < 0.05, space


def test_a_text_is_right_when_it_is_the_same_text() -> None:
    letters, rng = "abcdefgh", np.random.default_rng(0)
    texts = ["".join(rng.choice(list(letters), 20)) for _ in range(100)]
    metric, actual = of_space(spaces.Text(40, charset=letters), texts)
    leaf = metric.leaves[0]
    assert (actual["value"][..., 20:] == 0).all()
    wrong = actual["value"].copy()
    wrong[0, :50, 7] = wrong[0, :50, 7] % 8 + 1  # another letter in half of them
    wrong[..., 25:] = 3  # after the end of a text there is nothing
    predicted = {"value": wrong}
    assert metric.within(predicted, actual).tolist() == [[False] * 50 + [True] * 50]
    assert metric.edit_distance(leaf, wrong, actual["value"]).tolist() == [[1 / 20] * 50 + [0.0] * 50]
    assert not metric.within(guess(metric, actual), actual).any()


def test_the_edit_distance_is_that_of_published_pairs() -> None:
    pairs = [
        ("kitten", "sitting", 3 / 7),
        ("saturday", "sunday", 3 / 8),
        ("a", "a", 0.0),
        ("ab", "cd", 1.0),
        ("", "abc", 1.0),
    ]
    space = spaces.Text(12, min_length=0, charset="abcdefghijklmnopqrstuvwxyz")
    metric, actual = of_space(space, [one for one, _, _ in pairs])
    other = flatten_batch(space, [other for _, other, _ in pairs])["value"][None]
    found = metric.edit_distance(metric.leaves[0], actual["value"], np.asarray(other))
    assert found[0].tolist() == pytest.approx([share for *_, share in pairs])


def test_a_place_is_known_by_its_images(metric: ErrorMetric, recorded: dict[str, np.ndarray]) -> None:
    """Two cameras that come back, while everything else has moved on."""
    rows = {name: values[:4].copy() for name, values in recorded.items()}
    for name in ("left", "right"):
        rows[name][3] = rows[name][0]
    expected = np.eye(4, dtype=bool)
    expected[0, 3] = expected[3, 0] = True
    assert np.array_equal(same_place(metric, rows), expected)
    blind_leaves = tuple(leaf for leaf in metric.leaves if leaf.kind != "image")
    unseeing = ErrorMetric(blind_leaves, metric.mean, metric.scale, metric.allowed)
    assert np.array_equal(same_place(unseeing, rows), np.eye(4, dtype=bool))
