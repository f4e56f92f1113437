"""What the loop does with data, rates and metrics."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import worldsim
from tests.models.toy import COUNTS, ENV, SIZE
from tests.training.conftest import MODELS, Make
from tests.training.test_resume import Stop, equal, stop_at
from worldsim.envs.make import EnvConfig
from worldsim.errors import ConfigError, SpaceMismatchError
from worldsim.models.latent import CODEC, DYNAMICS, WHOLE
from worldsim.rollouts.arrays import EpisodeArrays
from worldsim.rollouts.collect import CollectConfig, collect
from worldsim.rollouts.dataset import MINARI, Rollouts
from worldsim.rollouts.sampling import split
from worldsim.training import loop
from worldsim.training.config import TrainerConfig
from worldsim.training.loop import train
from worldsim.training.memory import keep_freed_memory
from worldsim.training.phases import learning_rate, phases
from worldsim.training.statistics import fit_statistics, reward_range, rows_of


def test_data_of_another_env_is_refused_in_a_line(make: Make) -> None:
    config = make().model_copy(update={"env": EnvConfig(id="CartPole-v1")})
    with pytest.raises(SpaceMismatchError, match="Ring-v0, but env is CartPole-v1; give the env=") as error:
        train(config, progress=False)
    assert "\n" not in str(error.value) and not config.out.exists()


@pytest.fixture
def nameless(rollouts: Rollouts, tmp_path: Path) -> Path:
    """The ring's rollouts as a Minari data set that does not say which environment it is of."""
    folder = tmp_path / "nameless"
    shutil.copytree(rollouts.path / MINARI, folder)
    about = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps({k: v for k, v in about.items() if k != "env_spec"}))
    assert Rollouts(folder).provenance["collect"]["env"]["id"] is None
    return folder


def test_data_without_a_name_is_of_an_env_with_its_spaces(make: Make, nameless: Path) -> None:
    config = make().model_copy(update={"data": nameless})
    wrong = config.model_copy(update={"env": EnvConfig(id="CartPole-v1")})
    with pytest.raises(
        SpaceMismatchError, match="is not of env CartPole-v1 as configured: observation 'value' is absent"
    ) as error:
        train(wrong, progress=False)
    assert "\n" not in str(error.value) and not wrong.out.exists()
    assert train(config, progress=False).env["id"] == config.env.id
    unknown = config.model_copy(update={"env": EnvConfig(id="arm-in-the-lab"), "out": config.out.with_name("arm")})
    assert train(unknown, progress=False).env["id"] == "arm-in-the-lab"


class Screen(gym.Env):
    """A frame; `side` is its size, `speed` changes no space."""

    metadata: ClassVar = {"render_modes": []}
    made = 0

    def __init__(self, side: int = 32, speed: float = 1.0, render_mode: str | None = None):
        type(self).made += 1
        self.observation_space = gym.spaces.Box(0, 255, (side, side, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        return np.zeros(self.observation_space.shape, np.uint8), {}

    def step(self, action: int):
        return np.full(self.observation_space.shape, 40 * action, np.uint8), 0.0, False, False, {}


gym.register("WorldsimTestShades-v0", Screen, max_episode_steps=8)
SCREEN = {"id": "tests.training.test_loop:WorldsimTestShades-v0"}


@pytest.fixture(scope="module")
def screens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("screens") / "rollouts"
    env = EnvConfig(**SCREEN, resize=16, kwargs={"speed": 2.0})
    return collect(CollectConfig(env=env, steps=40, out=out), progress=False).path


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"resize": 24}, "it was recorded with env.resize=16, env.kwargs={'speed': 2.0}"),
        ({}, "it was recorded with env.resize=16, env.kwargs={'speed': 2.0}"),
        ({"resize": 24, "kwargs": {"speed": 2.0}}, "it was recorded with env.resize=16"),
    ],
)
def test_frames_of_another_size_are_refused_before_the_training(
    make: Make, screens: Path, asked: dict, says: str
) -> None:
    config = make().model_copy(update={"data": screens, "env": EnvConfig(**SCREEN, **asked)})
    side = asked.get("resize", 32)
    found = rf"observation 'value' is Box\(0, 255, \(16, 16, 3\), uint8\), not .*\({side}, {side}, 3\), uint8\); "
    with pytest.raises(SpaceMismatchError, match=f"{found}{re.escape(says)}$") as error:
        train(config, progress=False)
    assert "\n" not in str(error.value) and not config.out.exists()


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ({"resize": 16, "kwargs": {"speed": 2.0}, "max_episode_steps": 5, "success_return": 1.0}, 0),
        ({"resize": 16, "kwargs": {"speed": 3.0}}, 1),  # looked at, and found the same
        ({"resize": (16, 16), "kwargs": {"speed": 2.0}}, 1),
        ({"kwargs": {"side": 16}}, 1),
    ],
)
def test_settings_that_change_no_space_are_not_held_against_anyone(
    make: Make, screens: Path, asked: dict, made: int
) -> None:
    config = make().model_copy(update={"data": screens, "env": EnvConfig(**SCREEN, **asked)})
    before = Screen.made
    assert train(config, progress=False).env["kwargs"] == asked["kwargs"]
    assert Screen.made - before == made


def test_data_that_says_its_env_but_no_settings_has_the_defaults(make: Make, rollouts: Rollouts) -> None:
    """As a Minari data set does."""
    own = {"id": ENV.id}
    assert not loop._recorded_with(own, ENV)
    assert loop._recorded_with(own, ENV.model_copy(update={"resize": 8})) == "env.resize=None"


def test_a_sequence_longer_than_every_episode_is_noted_before_the_training(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    printed: list[str] = []
    train(make(length=40), lambda *_: printed.append(capsys.readouterr().out))
    assert (
        printed[0].startswith("note: no episode fills a sequence of trainer.length=40") and printed[0].count("\n") == 1
    )
    assert not any(printed[1:]) and not capsys.readouterr().out
    train(make(out="short"))
    assert not capsys.readouterr().out


def test_a_loss_that_is_no_number_ends_the_run_in_a_line(make: Make) -> None:
    with pytest.raises(ConfigError, match="not finite at step .*learning_rate") as error:
        train(make(codec_learning_rate=1e30), progress=False)
    assert "\n" not in str(error.value)


def test_a_run_that_diverges_stops_and_keeps_the_last_good_state(make: Make) -> None:
    """Its loss grows without ever being no number; and states are saved between two looks at the losses."""
    config = make(steps=40, learning_rate=50.0, warmup=0, checkpoint_every=2, log_every=1000, precision="32-true")
    with pytest.raises(ConfigError, match=r"diverges \(.*\) at step \d+ \(last good state: step-") as error:
        train(config, progress=False)
    assert "\n" not in str(error.value) and "lower trainer.learning_rate" in str(error.value)
    (state,) = (config.out / "training").glob("step-*")
    assert state.name in str(error.value) and not (config.out / "world.json").exists()
    weights = load_file(state / "weights.safetensors")
    assert all(value.float().isfinite().all() for value in weights.values())


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_that_runs_out_is_a_line_with_the_knobs(make: Make, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(make("rssm", batch=50_000).model_dump_json())
    command = [sys.executable, "-m", "tests.training.starved", str(tmp_path / "config.json"), str(200 << 20)]
    done = subprocess.run(command, cwd=Path(worldsim.__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    message = done.stderr.splitlines()[-1]
    assert "out of memory with trainer.batch=50000, trainer.length=5 and" in message and "lower one" in message


def test_a_model_that_does_not_fit_is_a_line_with_the_knobs(make: Make) -> None:
    """Nobody has memory for so wide a recurrence."""
    config = make()
    wide = config.model_copy(update={"model": config.model.model_copy(update={"width": 10**7})})
    with pytest.raises(ConfigError, match="weights of this model take more than .* GB are free; lower model.width"):
        train(wide, progress=False)


@pytest.mark.parametrize("sampling", [{"sampling": "prioritised"}, {"ends": 0.5}])
def test_sequences_may_be_drawn_by_loss_or_for_their_ends_and_stopped(make: Make, sampling: dict) -> None:
    whole, cut = make("rssm", "whole", **sampling), make("rssm", "cut", checkpoint_every=1, **sampling)
    train(whole, progress=False)
    for stop in (2, 3, 5):
        with pytest.raises(Stop):
            train(cut, stop_at(stop), progress=False)
    train(cut, progress=False)
    train(make("rssm", "uniform"), progress=False)
    ends = [load_file(tmp / "weights.safetensors") for tmp in (whole.out, cut.out, whole.out.parent / "uniform")]
    assert equal(ends[0], ends[1]) and not equal(ends[0], ends[2])


def test_a_mix_is_trained_on_and_described(make: Make, rollouts: Rollouts) -> None:
    config = make().model_copy(update={"data": [rollouts.path, rollouts.path], "weights": [1.0, 3.0]})
    manifest = train(config, progress=False)
    assert manifest.data["parts"] == [rollouts.content_hash] * 2 and manifest.data["hash"] != rollouts.content_hash
    assert manifest.data["steps"] == 2 * rollouts.steps


def test_the_rate_rises_and_falls_once_a_phase() -> None:
    from tests.models.conftest import FAMILIES, built

    trainer = TrainerConfig(steps=40, codec_steps=30, warmup=10, learning_rate=2.0, codec_learning_rate=3.0)
    drawing, dynamics = phases(trainer, built(FAMILIES["ssm"]))
    assert (drawing.stage, drawing.steps, drawing.length) == (CODEC, 30, 1)
    assert (dynamics.stage, dynamics.steps, dynamics.length) == (DYNAMICS, 40, trainer.length)
    (everything,) = phases(trainer, built(FAMILIES["rssm"]))
    assert (everything.stage, everything.steps, everything.batch) == (WHOLE, 40, trainer.batch)
    for phase, peak in ((drawing, 3.0), (dynamics, 2.0)):
        rates = np.array([learning_rate(step, phase, trainer.warmup) for step in range(phase.steps)])
        assert rates[0] == pytest.approx(peak / 10)
        assert (np.diff(rates[:8]) > 0).all() and (np.diff(rates[10:]) < 0).all()
        assert rates.max() < peak and 0 < rates[-1] < 0.02 * peak
        middle = phase.steps // 2
        assert rates[middle] == pytest.approx(peak / 2)
        assert rates[middle + 5] + rates[middle - 5] == pytest.approx(peak)  # half a cosine, about its middle
    assert learning_rate(0, dynamics, 0) == 2.0 and not math.isnan(learning_rate(0, dynamics._replace(steps=1), 50))


def test_statistics_are_numpys(rollouts: Rollouts, make: Make) -> None:
    arrays = rollouts.arrays()
    train_episodes, held_out = split(arrays, 0.3, 0)
    rows = np.concatenate([np.arange(arrays.start[e], arrays.start[e + 1]) for e in train_episodes])
    assert (
        np.array_equal(rows_of(arrays, train_episodes), rows)
        and len(rows) + len(rows_of(arrays, held_out)) == arrays.rows
    )
    assert reward_range(arrays, train_episodes) == (arrays.reward[rows].min(), arrays.reward[rows].max()) == (0.0, 1.0)
    model = MODELS["ssm"].build(rollouts.observation_space, rollouts.action_space, (0.0, 1.0))
    fit_statistics(model, arrays, train_episodes, np.random.default_rng(0))
    expected = arrays.observation["frame"][rows].mean(0) / 255
    np.testing.assert_allclose(model.codec.dense[0].mean, expected, atol=1e-6)


def test_vectors_are_symlogs_of_deviations_from_their_means() -> None:
    from gymnasium import spaces

    rng = np.random.default_rng(0)
    values = rng.normal([0, 50, -3], [1, 200, 0], (5000, 3)).astype(np.float32)
    none = np.zeros(5000, np.bool_)
    action = {"value": np.zeros((5000, 1), np.int64)}
    arrays = EpisodeArrays({"value": values}, action, np.zeros(5000, np.float32), none, none, np.array([0, 5000]))
    space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    model = MODELS["ssm"].build(space, spaces.Discrete(2), (0.0, 0.0))
    fit_statistics(model, arrays, np.array([0]), rng)
    scale = model.codec.dense[0].scale
    np.testing.assert_allclose(scale.mean, values.mean(0), atol=10)  # 4000 of the 5000 rows
    np.testing.assert_allclose(scale.std[:2], values.std(0)[:2], rtol=0.05)
    assert scale.std[2] == 1  # a constant must not divide by zero
    apart = (values - values.mean(0)) / [*values.std(0)[:2], 1]
    np.testing.assert_allclose(scale(torch.from_numpy(values)), np.sign(apart) * np.log1p(np.abs(apart)), atol=0.05)


def test_the_manifest_says_what_the_world_is(make: Make, rollouts: Rollouts) -> None:
    config = make()
    manifest = train(config, progress=False)
    assert manifest.horizon == max(rollouts.lengths) == 16
    assert manifest.reward_range == (0.0, 1.0)
    assert manifest.data["hash"] == rollouts.content_hash
    assert manifest.env["id"] == config.env.id
    model = manifest.build()
    assert model.codec.dense[0].mean.shape == (SIZE, SIZE, 1) and model.codec.categorical.digits.nvec.tolist() == [
        COUNTS
    ]


def test_freed_memory_may_be_kept(tmp_path: Path) -> None:
    assert keep_freed_memory() in (True, False)
    assert keep_freed_memory() is keep_freed_memory()  # as often as one likes
