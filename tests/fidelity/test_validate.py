"""Validation of a small world: what it covers, what it refuses, and figures whose truth is known."""

import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces

import worldsim
from tests.models.toy import ENV, ring_rollouts
from tests.training.conftest import MODELS, TRAINER
from worldsim.cli import main
from worldsim.envs.make import EnvConfig
from worldsim.errors import ConfigError, DatasetError
from worldsim.fidelity import films, one_step, open_loop
from worldsim.fidelity.curves import baselines, measure, to_curves
from worldsim.fidelity.error_metric import ErrorMetric
from worldsim.fidelity.held_out import halves, held_out
from worldsim.fidelity.revisits import loop_closure
from worldsim.fidelity.table import share, worse
from worldsim.fidelity.validate import ValidateConfig, validate
from worldsim.models.checkpoint import read_manifest, save_world
from worldsim.rollouts.arrays import EpisodeArrays
from worldsim.rollouts.collect import CollectConfig, collect
from worldsim.rollouts.dataset import Rollouts
from worldsim.rollouts.mix import Mix
from worldsim.rollouts.sampling import split
from worldsim.simulator.calibration import Calibration
from worldsim.simulator.rollout import imagine
from worldsim.simulator.world import Tick, World, WorldState
from worldsim.training.config import TrainConfig
from worldsim.training.loop import train

SMALL = {"context": 2, "horizon": 6, "windows": 5}


def config(folder: Path, rollouts: Rollouts, out: Path, **changed: int) -> ValidateConfig:
    return ValidateConfig(world=folder, data=rollouts.path, out=out, **{**SMALL, **changed})


@pytest.fixture
def world(folder: Path) -> World:
    return worldsim.load(folder)


@pytest.fixture
def metric(world: World, rollouts: Rollouts) -> ErrorMetric:
    return ErrorMetric.of(world, rollouts.arrays(), np.arange(4), 10.0, 0)


def test_writes_one_certificate_the_same_each_time(folder: Path, rollouts: Rollouts, tmp_path: Path) -> None:
    certificate = validate(config(folder, rollouts, tmp_path / "a"), progress=False)
    validate(config(folder, rollouts, tmp_path / "b"), progress=False)
    names = {"fidelity.json", "fidelity.html", "fidelity.png", "fidelity.gif", "calibration.json"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert json.loads((tmp_path / "a" / "fidelity.json").read_text()) == certificate
    assert Calibration.read(tmp_path / "a") is not None
    held = len(split(rollouts.arrays(), 0.4, 0)[1])
    assert certificate["episodes_calibrating"] + certificate["episodes_reported"] == held
    assert set(certificate["psnr_by_leaf"]["frame"]) == {"model", "copy", "mean", "shuffled"}
    curves_ = [*certificate["psnr_by_leaf"]["frame"].values(), *certificate["accuracy"]["count"].values()]
    assert {len(curve) for curve in curves_} == {SMALL["horizon"]}
    forced = certificate["teacher_forced"]
    for curve in (*(key for key in certificate if key.endswith("_by_leaf")), "accuracy"):
        assert {leaf: set(each) for leaf, each in forced[curve].items()} == {
            leaf: {"model", "copy", "mean", "shuffled"} for leaf in certificate[curve]
        }


def test_the_page_stands_alone(folder: Path, rollouts: Rollouts, tmp_path: Path) -> None:
    validate(config(folder, rollouts, tmp_path), progress=False)
    page = (tmp_path / "fidelity.html").read_text()
    assert "http" not in page.replace("http-equiv", "") and 'src="data:image/png' in page
    assert page.count("<svg") >= 3 + 2 * 3  # three diagrams of reliability, and twice the curves of the frame
    forced = page[page.index("Always one step ahead") : page.index("Are its probabilities calibrated")]
    tables = [forced.count(f"<td>{name}</td>") for name in ("model", "copy", "mean", "shuffled", "one step")]
    assert tables == [5, 5, 5, 5, 0]  # four measures of the frame, and the count


def test_every_transition_is_predicted_once_from_all_that_was_before(world: World, rollouts: Rollouts) -> None:
    arrays, episodes = rollouts.arrays(), np.arange(5)
    cut = one_step.pieces(world, arrays, episodes, length=4)
    behind = np.concatenate([np.arange(b + 1, min(b + 4, e) + 1) for b, e in zip(cut.begin, cut.end, strict=True)])
    rows = np.arange(arrays.start[5])
    assert np.array_equal(np.sort(behind), rows[~arrays.first[: arrays.start[5]]])
    for index in range(len(cut.begin)):
        first = arrays.start[np.searchsorted(arrays.start, cut.begin[index], side="right") - 1]
        seen = np.arange(first, cut.begin[index] + 1)[None]
        expected = one_step._observed(world, arrays, seen, None)
        for name, value in expected.items():
            torch.testing.assert_close(cut.latent[name][index : index + 1], value, atol=1e-5, rtol=1e-4)


def test_the_predictions_of_pieces_lie_beside_the_actual_rewards_and_ends(
    world: World, metric: ErrorMetric, rollouts: Rollouts
) -> None:
    arrays = rollouts.arrays()
    cut = one_step.pieces(world, arrays, np.arange(5), length=4)
    reported = np.arange(len(cut.begin)) % 2 == 0
    others, rng = np.arange(arrays.rows), np.random.default_rng(0)
    found = one_step.predict(world, arrays, cut, reported, 4, metric, others, rng)
    inside = slice(0, arrays.start[5])
    assert found.heads.ended.sum() == arrays.terminated[inside].sum()
    assert found.heads.actual_reward.sum() == arrays.reward[inside].sum()
    assert sum(found.counts) == found.heads.reported.sum() < len(found.heads.ended)


def test_one_step_stands_beside_the_row_before_the_mean_and_the_actions_of_others(
    world: World, metric: ErrorMetric, rollouts: Rollouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the baselines every figure by hand; of the exchanged actions what the world was given."""
    arrays, length = rollouts.arrays(), 4
    cut = one_step.pieces(world, arrays, np.arange(6), length)
    reported = np.arange(len(cut.begin)) % 3 > 0
    given, predict = [], world.predict

    def watched(state: WorldState, action: dict[str, np.ndarray]) -> Tick:
        given.append(action["value"])
        return predict(state, action)

    monkeypatch.setattr(world, "predict", watched)
    others = one_step.shuffled_rows(arrays, np.arange(6), np.random.default_rng(1))
    generator = np.random.default_rng(0)
    found = one_step.predict(world, arrays, cut, reported, length, metric, others, generator).curves()
    frame, count = arrays.observation["frame"].astype(float), arrays.observation["count"]
    for step in range(1, length + 1):
        rows = cut.begin[reported] + step
        rows = rows[rows <= cut.end[reported]]
        for name, guess in (("copy", frame[rows - 1]), ("mean", metric.mean["frame"].astype(float))):
            error = (((frame[rows] - guess) / 255) ** 2).mean()
            assert found["psnr"]["frame"][name][step - 1] == pytest.approx(-10 * np.log10(max(error, 1e-10)), abs=1e-4)
        copied = found["accuracy"]["count"]["copy"][step - 1]
        assert copied == pytest.approx((count[rows] == count[rows - 1]).mean())
        at = np.minimum(cut.begin + step, cut.end)
        assert np.array_equal(given[2 * step - 2], arrays.action["value"][at])
        assert np.array_equal(given[2 * step - 1], arrays.action["value"][others[at]])
    every = np.flatnonzero(~arrays.first[: arrays.start[6]])
    assert np.array_equal(np.sort(others[every]), every) and (others[every] != every).all()


def test_a_perfect_prediction_is_perfect_and_copying_what_stays(metric: ErrorMetric, rollouts: Rollouts) -> None:
    arrays = rollouts.arrays()
    actual = {name: rows[:12].reshape(2, 6, *rows.shape[1:]) for name, rows in arrays.observation.items()}
    before = {name: rows[:, :1] for name, rows in actual.items()}
    predictors = {"perfect": actual, **baselines(metric, before, actual)}
    found = to_curves(measure(metric, actual, before, predictors, np.ones((2, 6), bool)))
    assert found["psnr"]["frame"]["perfect"] == pytest.approx([100] * 6)
    assert found["psnr"]["frame"]["copy"][0] == pytest.approx(100)  # the first row is what is copied
    assert found["psnr_changed"]["frame"]["copy"][0] is None  # where nothing has changed yet
    assert found["ssim"]["frame"]["perfect"] == pytest.approx([1] * 6, abs=1e-5)
    assert found["accuracy"]["count"]["perfect"] == [1] * 6


def test_a_world_that_is_deaf_to_actions_cannot_be_controlled(
    world: World, metric: ErrorMetric, rollouts: Rollouts
) -> None:
    episodes = np.arange(rollouts.episodes)
    model, arrays = world.model, rollouts.arrays()
    model.act.forward = lambda actions: torch.zeros(*next(iter(actions.values())).shape[:-1], model.act.width)
    (cut,) = open_loop.batches(world, open_loop.WindowDraw.of(arrays, episodes, 2, 6, 5, seed=0))
    own = imagine(world, cut.state, cut.action)
    actions = open_loop.seeded_action_space(world, 0)
    found = open_loop.controllability(
        open_loop.under_random_actions(world, metric, cut, own.observation, actions), horizon=6
    )
    assert found["step"] == 4 and found["psnr"]["frame"]["delta"] == 0 == found["accuracy"]["count"]["delta"]
    forced = one_step.predict_all(world, arrays, (episodes[:2], episodes[2:]), 6, metric, 0).curves()
    for key, leaf in (("psnr", "frame"), ("accuracy", "count")):
        assert forced[key][leaf]["shuffled"] == pytest.approx(forced[key][leaf]["model"])
        assert forced[key][leaf]["copy"] != forced[key][leaf]["model"]


def test_places_are_revisited_by_the_record_and_never_left_by_a_still(metric: ErrorMetric, rollouts: Rollouts) -> None:
    arrays = rollouts.arrays()
    rows = arrays.start[:1] + np.arange(min(12, int(np.diff(arrays.start)[0])))
    real = {name: values[rows][None] for name, values in arrays.observation.items()}
    still = {name: np.broadcast_to(values[:, :1], values.shape) for name, values in real.items()}
    mask = np.ones((1, len(rows)), bool)
    found = loop_closure(metric, real, real, mask)
    assert found.recorded == found.left == found.returned > 0 and found.as_json()["return_rate"] == 1
    still_there = loop_closure(metric, real, still, mask).as_json()
    assert still_there == {"recorded": found.recorded, "left": 0, "returned": 0, "return_rate": None}


def test_only_what_was_held_out_is_used(folder: Path, rollouts: Rollouts) -> None:
    trained, held = split(rollouts.arrays(), 0.4, 0)
    found = halves(read_manifest(folder), Mix(rollouts.path))
    assert sorted(np.concatenate(found)) == held.tolist() and not set(trained) & set(np.concatenate(found))


def test_other_data_is_used_whole_unless_the_world_has_learned_from_it(
    folder: Path, rollouts: Rollouts, tmp_path: Path
) -> None:
    manifest = read_manifest(folder)
    longer = ring_rollouts(tmp_path / "longer", steps=600)  # the same seed: begins with the same episodes
    assert longer.content_hash != rollouts.content_hash
    with pytest.raises(DatasetError, match="were used to train") as error:
        held_out(manifest, longer, longer.arrays())
    assert str(longer.path) in str(error.value) and "\n" not in str(error.value)
    fresh = collect(CollectConfig(env=ENV, steps=100, seed=99, out=tmp_path / "fresh"), progress=False)
    assert len(held_out(manifest, fresh, fresh.arrays())) == fresh.episodes
    nothing = manifest.model_copy(update={"data": {**manifest.data, "holdout": 0.0}})
    with pytest.raises(DatasetError, match="holdout=0"):
        held_out(nothing, rollouts, rollouts.arrays())


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Rollouts:
    """Of the same ring, from other seeds."""
    out = tmp_path_factory.mktemp("other") / "rollouts"
    return collect(CollectConfig(env=ENV, steps=150, seed=50, out=out), progress=False)


def mixed_world(parts: list[Rollouts], out: Path) -> Path:
    trainer, data = TRAINER.model_copy(update={"holdout": 0.4}), [part.path for part in parts]
    train(TrainConfig(env=ENV, model=MODELS["ssm"], trainer=trainer, data=data, out=out), progress=False)
    return out


def contents(arrays: EpisodeArrays, episodes: Iterable[int]) -> list[bytes]:
    """Everything that was seen and done in each of the episodes."""
    leaves = [*arrays.observation.values(), *arrays.action.values(), arrays.reward]
    rows = [np.arange(arrays.start[episode], arrays.start[episode + 1]) for episode in episodes]
    return [b"".join(leaf[each].tobytes() for leaf in leaves) for each in rows]


def test_a_world_of_a_mix_is_measured_on_what_each_of_its_parts_held_out(
    rollouts: Rollouts, other: Rollouts, tmp_path: Path
) -> None:
    parts = [rollouts, other]
    world = mixed_world(parts, tmp_path / "world")
    data = f"data=[{rollouts.path},{other.path}]"
    assert main(["validate", f"world={world}", data, "context=2", "horizon=3", "windows=20"]) == 0
    certificate = json.loads((world / "fidelity.json").read_text())
    assert certificate["parts"] == [part.content_hash for part in parts] == read_manifest(world).data["parts"]
    assert certificate["data"] == read_manifest(world).data["hash"]
    assert all(part.content_hash in (world / "fidelity.html").read_text() for part in parts)
    held = [split(part.arrays(), 0.4, 0)[1] for part in parts]
    expected = [*held[0], *(rollouts.episodes + held[1])]
    calibrating, reported = halves(read_manifest(world), Mix([part.path for part in parts]))
    assert sorted([*calibrating, *reported]) == expected
    assert (certificate["episodes_calibrating"], certificate["episodes_reported"]) == (len(calibrating), len(reported))
    look = ["look", f"world={world}", data, "context=2", "length=3", "count=2", f"out={tmp_path / 'look.gif'}"]
    assert main(look) == 0 and (tmp_path / "look.gif").stat().st_size


def test_each_window_of_each_data_set_is_as_likely(rollouts: Rollouts, other: Rollouts) -> None:
    mix, expected = Mix([rollouts.path, other.path]), []
    for part in (rollouts, other):
        arrays = part.arrays()
        for begin, end in zip(arrays.start, arrays.start[1:], strict=False):
            places = range(begin, end - 4) if end - begin >= 5 else ()
            expected += [arrays.observation["frame"][at : at + 5].tobytes() for at in places]
    long = np.flatnonzero(np.diff(mix.arrays.start) >= 5)
    draw = open_loop.WindowDraw.of(mix.arrays, long, 2, 3, 10**6, 0)
    found = draw.windows(np.arange(len(draw.places)))["observation"]["frame"]
    assert sorted(window.tobytes() for window in found) == sorted(expected)


def test_no_episode_is_used_that_another_data_set_has_trained_on_or_holds_as_well(
    rollouts: Rollouts, tmp_path: Path
) -> None:
    """Recorded with the same seed, and longer: it begins with the same episodes and is split otherwise."""
    longer = ring_rollouts(tmp_path / "longer", steps=600)
    manifest = read_manifest(mixed_world([rollouts, longer], tmp_path / "world"))
    trained, held = set[bytes](), set[bytes]()
    for part in (rollouts, longer):
        for found, episodes in zip((trained, held), split(part.arrays(), 0.4, 0), strict=True):
            found.update(contents(part.arrays(), episodes))
    assert trained & held
    mix = Mix([rollouts.path, longer.path, rollouts.path])
    calibrating, reported = (contents(mix.arrays, half) for half in halves(manifest, mix))
    assert sorted([*calibrating, *reported]) == sorted(held - trained)  # each once
    alone = contents(rollouts.arrays(), held_out(manifest, rollouts, rollouts.arrays()))
    assert alone and held - trained > set(alone)


def test_a_mix_with_data_that_the_world_has_learned_whole_is_refused(
    folder: Path, rollouts: Rollouts, other: Rollouts, tmp_path: Path
) -> None:
    manifest, mix = read_manifest(folder), Mix([other.path, rollouts.path])
    assert len(np.concatenate(halves(manifest, mix))) == other.episodes + len(split(rollouts.arrays(), 0.4, 0)[1])
    nothing = manifest.model_copy(update={"data": {**manifest.data, "holdout": 0.0}})
    with pytest.raises(DatasetError, match=f"trained on all of {rollouts.path}"):
        halves(nothing, mix)
    longer = ring_rollouts(tmp_path / "longer", steps=600)
    with pytest.raises(DatasetError, match=f"episodes in {longer.path} were used to train"):
        halves(manifest, Mix([rollouts.path, longer.path]))
    one = collect(CollectConfig(env=ENV, steps=1, seed=77, out=tmp_path / "one"), progress=False)
    with pytest.raises(DatasetError, match=f"^1 episode of data={one.path} is new to the world, 2 are needed"):
        halves(manifest, Mix(one.path))


def test_horizons_end_with_the_longest_episode_and_a_long_context_is_refused(
    folder: Path, rollouts: Rollouts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [f"world={folder}", f"data={rollouts.path}", "context=2", "windows=8", "horizon=100", f"out={tmp_path}"]
    assert main(["validate", *typed]) == 0
    certificate = json.loads((tmp_path / "fidelity.json").read_text())
    reported = held_out(worldsim.load(folder).manifest, rollouts, rollouts.arrays())[1::2]
    longest = max(rollouts.lengths[episode] for episode in reported) + 1 - 2
    assert certificate["horizons"] == list(range(1, longest + 1)) and certificate["horizon"] == 100
    assert len(certificate["psnr"]["model"]) == longest and certificate["psnr"]["model"][0] is not None
    assert f"no episode has horizon=100 steps after its context; {longest} are reported" in capsys.readouterr().out
    assert f"{longest} steps under the recorded actions, which is all" in (tmp_path / "fidelity.html").read_text()
    with pytest.raises(DatasetError, match="context=50"):
        validate(config(folder, rollouts, tmp_path, context=50), progress=False)


def test_a_strip_wastes_no_room_on_wide_frames() -> None:
    observed = spaces.Box(0, 255, (16, 64, 1), np.uint8)
    world = SimpleNamespace(observation_space=observed)
    rows = {"value": np.zeros((1, 1, 16, 64, 1), np.uint8)}
    assert films._cell(world, rows, 0, 0, 96, True).shape == films._cell(world, rows, 0, 0, 96, False).shape
    assert films._cell(world, rows, 0, 0, 96, True).shape == (24, 96, 3)


def test_the_table_shows_no_shares_of_nothing_and_no_minus_nothing() -> None:
    assert [share(None), share(0.0), share(0.456)] == ["–", "0.00", "0.46"]
    assert [worse(-0.0015), worse(0.04), worse(2.25), worse(-1)] == [
        "0.0 dB worse",
        "0.0 dB worse",
        "2.2 dB worse",
        "1.0 dB better",
    ]


def test_nothing_has_no_f1_in_the_certificate_on_the_page_and_in_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pendulum never ends and is never paid; its world predicts an end at no step, and then at every one."""
    env, world, data = EnvConfig(id="Pendulum-v1", max_episode_steps=9), tmp_path / "world", tmp_path / "rollouts"
    collect(CollectConfig(env=env, steps=90, out=data), progress=False)
    trainer = TRAINER.model_copy(update={"holdout": 0.5})
    train(TrainConfig(env=env, model=MODELS["ssm"], trainer=trainer, data=data, out=world), progress=False)
    for logit in (-50, 50):
        opened = worldsim.load(world)
        opened.model.termination.net[-1].bias.data[:] = logit
        save_world(world, opened.manifest, opened.model, opened.starts)
        assert main(["validate", f"world={world}", f"data={data}", "context=2", "horizon=3", "windows=4"]) == 0
        step = json.loads((world / "fidelity.json").read_text())["one_step"]
        nothing = {"precision": None, "recall": None, "f1": None, "events": 0}
        assert nothing.items() <= step["termination"].items()
        assert nothing.items() <= step["reward"]["signs"]["positive"].items()
        assert step["termination"]["predicted"] == (step["transitions"] if logit > 0 else 0)
        printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert "ends of episodes F1 – (precision –, recall –, 0 events)" in printed
        page, dashes = (world / "fidelity.html").read_text(), "<td>–</td><td>–</td><td>–</td><td>0</td>"
        for what in ("end of the episode", "reward: positive"):
            assert f"<tr><td>{what}</td>{dashes}" in page


def test_memory_that_runs_out_is_a_line_with_the_knob(
    folder: Path, rollouts: Rollouts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starve(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(open_loop, "observe_context", starve)
    with pytest.raises(ConfigError, match=r"^out of memory with horizon=6; lower it$"):
        validate(config(folder, rollouts, tmp_path), progress=False)
    assert not (tmp_path / "fidelity.json").exists()


def test_there_are_no_more_windows_than_the_reported_episodes_have(
    folder: Path, rollouts: Rollouts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [f"world={folder}", f"data={rollouts.path}", "context=2", "horizon=3", f"out={tmp_path}"]
    assert main(["validate", *typed, "windows=10000"]) == 0
    reported = held_out(worldsim.load(folder).manifest, rollouts, rollouts.arrays())[1::2]
    rows = [rollouts.lengths[episode] + 1 for episode in reported]
    there = sum(max(1, length - 4) for length in rows if length > 2)  # one after another until the episode ends
    assert json.loads((tmp_path / "fidelity.json").read_text())["windows"] == there
    assert f"have only {there} different windows, not windows=10000; all were imagined" in capsys.readouterr().out
    assert main(["validate", *typed, "windows=2"]) == 0
    assert "windows=" not in capsys.readouterr().out


def test_windows_in_small_batches_are_the_windows_at_once(
    folder: Path, rollouts: Rollouts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(folder, rollouts, tmp_path, windows=7)
    whole = validate(settings, progress=False)
    largest, observe_context = [], open_loop.observe_context

    def watched(world: World, window, context: int, seeds: list[int]):
        largest.append(len(seeds))
        return observe_context(world, window, context, seeds)

    monkeypatch.setattr(open_loop, "observe_context", watched)
    monkeypatch.setattr(open_loop, "WINDOWS_AT_ONCE", 3)
    parts = validate(settings, progress=False)
    assert max(largest) == 3 and len(largest) > 5
    alike(parts, whole)


def test_pieces_in_small_groups_are_the_pieces_at_once(
    folder: Path, rollouts: Rollouts, metric: ErrorMetric, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = worldsim.load(folder, sample=False)
    halves = np.arange(0, 8, 2), np.arange(1, 8, 2)
    whole = one_step.predict_all(world, rollouts.arrays(), halves, 4, metric, 0)
    monkeypatch.setattr(one_step, "PIECES_AT_ONCE", 2)
    parts = one_step.predict_all(world, rollouts.arrays(), halves, 4, metric, 0)
    assert parts.counts == whole.counts and sum(whole.counts) == whole.heads.reported.sum()
    alike(parts.curves(), whole.curves())
    for a, b in zip(parts.heads, whole.heads, strict=True):
        assert np.sort(np.asarray(a).ravel()) == pytest.approx(np.sort(np.asarray(b).ravel()), abs=1e-4)


def alike(a: object, b: object, where: str = "") -> None:
    """Equal but for the rounding of a batch's size."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            alike(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for index, pair in enumerate(zip(a, b, strict=True)):
            alike(*pair, f"{where}/{index}")
    else:
        assert a == (pytest.approx(b, rel=1e-3, abs=1e-4) if isinstance(b, float) else b), where


def test_the_certificate_has_every_leaf_and_a_verdict(folder: Path, rollouts: Rollouts, tmp_path: Path) -> None:
    certificate = validate(config(folder, rollouts, tmp_path), progress=False)
    assert set(certificate["within_by_leaf"]) == {"frame", "count"} == set(certificate["trust"]["auroc_by_leaf"])
    share = certificate["within"]
    for found in certificate["within_by_leaf"].values():
        assert all(all_ <= each for all_, each in zip(share, found["model"], strict=True))
    windows = np.array(certificate["windows_at"])
    assert certificate["trust"]["share"] == pytest.approx((np.array(share) * windows).sum() / windows.sum())
    page = (tmp_path / "fidelity.html").read_text()
    for sentence in certificate["verdict"]:
        assert sentence.removeprefix("Do not") in page


def test_a_damaged_calibration_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text("{}")
    with pytest.raises(worldsim.errors.CheckpointError, match="validate again"):
        Calibration.read(tmp_path)
    assert Calibration.read(tmp_path / "nowhere") is None
