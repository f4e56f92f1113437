import errno
import json
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from minari import MinariDataset
from omegaconf import OmegaConf
from pydantic import ValidationError

import worldsim
from tests.envs.others import other
from worldsim.agents import make_policy
from worldsim.cli import main
from worldsim.errors import ConfigError, DatasetError, EnvError, WorldsimError
from worldsim.rollouts import collect as module
from worldsim.rollouts import recording
from worldsim.rollouts.collect import CollectConfig, collect
from worldsim.rollouts.dataset import MINARI, PROVENANCE, Rollouts
from worldsim.rollouts.recorder import episode_seeds


def run(out: Path, **changes: Any) -> Rollouts:
    given = {"env": {"id": "CartPole-v1"}, "steps": 200, "seed": 1, "num_envs": 2, "out": out} | changes
    return collect(CollectConfig(**given), progress=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Rollouts:
    return run(tmp_path_factory.mktemp("whole") / "data")


def test_equals_a_plain_loop_over_the_environment(tmp_path: Path) -> None:
    out = tmp_path / "data"
    mixture = {"random": 1, "sticky": 2}
    run(out, env={"id": "worldsim/RefundDesk-v0"}, steps=150, policy=mixture, epsilon=0.2, num_envs=3)
    env = gym.make("worldsim/RefundDesk-v0")
    policy = make_policy(mixture, env.observation_space, env.action_space, epsilon=0.2)
    dataset = MinariDataset(out / MINARI)
    total = 0
    for k, episode in enumerate(dataset.iterate_episodes()):
        assert total < 150, "no episode more than needed"
        env_seed, policy_seed = episode_seeds(1, k)
        policy.reset(policy_seed)
        observation, info = env.reset(seed=env_seed)
        for t in range(len(episode)):
            assert np.array_equal(episode.observations["screen"][t], observation["screen"])
            assert all(episode.observations["reply"][f][t] == v for f, v in observation["reply"].items())
            action = policy.act(observation, info)
            assert episode.actions[t] == action
            observation, reward, terminated, truncated, info = env.step(action)
            assert episode.rewards[t] == reward
            assert (episode.terminations[t], episode.truncations[t]) == (terminated, truncated)
        assert terminated or truncated
        total += len(episode)
    assert total >= 150


def test_the_data_does_not_depend_on_how_it_is_run(whole: Rollouts, tmp_path: Path) -> None:
    assert run(tmp_path / "five", num_envs=5).content_hash == whole.content_hash
    assert run(tmp_path / "processes", num_envs=2, workers=2).content_hash == whole.content_hash
    assert run(tmp_path / "other", seed=2).content_hash != whole.content_hash


def test_provenance_says_where_the_data_comes_from(whole: Rollouts) -> None:
    facts = json.loads((whole.path / PROVENANCE).read_text())
    assert facts["env"]["id"] == "CartPole-v1"
    assert facts["wrappers"][-1].endswith("CartPoleEnv") and "TimeLimit" in "".join(facts["wrappers"])
    assert facts["collect"]["policy"] == "random" and facts["collect"]["seed"] == 1
    assert facts["policies"] == {"random": whole.episodes}
    assert facts["versions"]["gymnasium"] == gym.__version__
    assert facts["git_sha"] is None or len(facts["git_sha"]) == 40
    assert facts["reward_range"] == [1, 1] and facts["return_mean"] == whole.steps / whole.episodes
    assert facts["content_hash"] == whole.arrays().content_hash
    assert whole.metadata["render_fps"] == 50
    assert (whole.path / PROVENANCE).exists() and not (whole.path / "parts").exists()


KILLED = """
import sys, time
from worldsim.rollouts import collect, recorder
step = recorder.Recorder._step
recorder.Recorder._step = lambda self: (time.sleep(0.01), step(self))[1]
collect.collect(collect.CollectConfig(env={"id": "CartPole-v1"}, steps=200, seed=1, num_envs=2, out=sys.argv[1]))
"""


def test_killed_and_continued_gives_the_same_data(whole: Rollouts, tmp_path: Path) -> None:
    out = tmp_path / "data"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(out)])
    deadline = time.monotonic() + 60
    while len(list(out.glob("parts/*.npz"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {p.name: p.stat().st_mtime_ns for p in out.glob("parts/*.npz")}
    assert len(kept) >= 2 and not (out / PROVENANCE).exists()
    with pytest.raises(DatasetError, match="no finished data set"):
        Rollouts(out)
    saved: list[int] = []
    original = recording.EpisodeFiles.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording.EpisodeFiles, "save", lambda self, k, raw: (saved.append(k), original(self, k, raw))[1])
        assert run(out).content_hash == whole.content_hash
    assert not set(saved) & {int(Path(name).stem) for name in kept}, "recorded episodes are not recorded again"


def test_interrupted_while_the_data_set_is_made(whole: Rollouts, tmp_path: Path) -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.provenance, "versions", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "data")
    assert run(tmp_path / "data").content_hash == whole.content_hash


def test_complete_is_left_alone_and_other_settings_are_refused(whole: Rollouts) -> None:
    before = {p: p.stat().st_mtime_ns for p in whole.path.rglob("*") if p.is_file()}
    assert (
        run(whole.path, num_envs=7, env={"id": "CartPole-v1", "success_return": 9}).content_hash == whole.content_hash
    )
    with pytest.raises(DatasetError, match="steps=200, not steps=300"):
        run(whole.path, steps=300)
    with pytest.raises(DatasetError, match="env.id=CartPole-v1, not env.id=CartPole-v0"):
        run(whole.path, env={"id": "CartPole-v0"})
    assert {p: p.stat().st_mtime_ns for p in whole.path.rglob("*") if p.is_file()} == before


def test_another_environment_is_named_first(whole: Rollouts) -> None:
    with pytest.raises(DatasetError, match=r"with env.id=CartPole-v1, not env.id=worldsim/RefundDesk-v0;"):
        run(whole.path, env={"id": "worldsim/RefundDesk-v0", "agents": {"careful": "x:y"}}, policy="careful")


def test_a_name_that_does_not_exist_leaves_no_folder_behind(tmp_path: Path) -> None:
    for changes in ({"env": {"id": "CartPol-v1"}}, {"policy": "nobody"}):
        with pytest.raises(WorldsimError):
            run(tmp_path / "data", **changes)
        assert not (tmp_path / "data").exists()


def test_a_full_disk_loses_nothing(whole: Rollouts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = np.savez
    calls: list[int] = []

    def full(file: Any, **arrays: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            file.write(b"half an episode")
            raise OSError(errno.ENOSPC, "No space left on device")
        written(file, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(DatasetError, match="disk .* is full; 2 episodes .* are kept; free some space"):
        run(tmp_path / "data")
    assert sorted(p.suffix for p in (tmp_path / "data" / "parts").iterdir()) == [".npz", ".npz"]
    assert run(tmp_path / "data").content_hash == whole.content_hash


def test_a_disk_too_full_for_the_minari_file_loses_nothing(whole: Rollouts, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1 << 20))
        with pytest.raises(DatasetError, match=f"{sum(whole.lengths)} steps.* are kept"):
            run(tmp_path / "data", num_envs=1)
    assert run(tmp_path / "data").content_hash == whole.content_hash


def test_damaged_parts_are_recorded_again(whole: Rollouts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_finish", lambda *args: None)
    with pytest.raises(DatasetError):  # not finished
        run(tmp_path / "data")
    monkeypatch.undo()
    part = tmp_path / "data" / "parts" / "000001.npz"
    part.write_bytes(part.read_bytes()[:-200])
    assert run(tmp_path / "data").content_hash == whole.content_hash


def test_what_the_environment_recommends_is_what_is_collected_unless_something_is_typed() -> None:
    with initialize_config_dir(str(Path(worldsim.__file__).parent / "configs"), version_base=None):
        composed = OmegaConf.to_container(compose("collect"), resolve=True)
    config = CollectConfig(**composed)
    assert config.settings()["policy"] == config.env.policy and config.settings()["epsilon"] == config.env.epsilon
    assert config.settings()["agents"].keys() == {"careful", "blind", "hasty"}


class Wrong:
    def __init__(self, *spaces: gym.Space): ...

    def reset(self, seed: int) -> None: ...

    def act(self, observation: Any, info: Any) -> int:
        return 7


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        run(tmp_path, steps=0)
    with pytest.raises(ValidationError):
        run(tmp_path, stepz=9)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").touch()
    with pytest.raises(DatasetError, match="is a file"):
        run(tmp_path / "letters" / "dear.txt")
    with pytest.raises(DatasetError, match="not empty and holds no rollouts"):
        run(tmp_path / "letters")
    with pytest.raises(ConfigError, match=r"returned the action 7, which is not in Discrete\(2\)"):
        run(tmp_path / "wrong", policy=f"{__name__}:Wrong")
    with pytest.raises(ConfigError, match="Did you mean 'random'"):
        run(tmp_path / "named", policy="randon")
    assert run(tmp_path / "named", policy="random", steps=20).steps >= 20, (
        "a mistake that recorded nothing can be mended"
    )


def test_an_episode_without_end_is_cut_at_the_steps_asked_for(tmp_path: Path) -> None:
    endless = {"id": "Pendulum-v1", "max_episode_steps": 1000}
    rollouts = run(tmp_path / "data", env=endless, steps=30)
    assert (rollouts.steps, rollouts.episodes) == (30, 1)
    assert rollouts.arrays().truncated.nonzero()[0].tolist() == [30]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_environment_that_writes_into_one_array_is_recorded_as_one_that_does_not(
    tmp_path: Path, workers: int
) -> None:
    hashes = {
        run(tmp_path / name, env={"id": other(name)}, steps=60, workers=workers).content_hash
        for name in ("OneArray", "NewArrays")
    }
    assert len(hashes) == 1


class Reads:
    """Acts by what infos hold, and remembers them."""

    infos: list[dict[str, Any]] = []

    def __init__(self, *spaces: gym.Space): ...

    def reset(self, seed: int) -> None: ...

    def act(self, observation: Any, info: Any) -> int:
        self.infos.append(info)
        return len(info["many"]) % 3


def test_policies_read_infos_of_any_size_as_they_were_given(tmp_path: Path) -> None:
    Reads.infos = []
    rollouts = run(tmp_path / "data", env={"id": other("Infos")}, steps=40, policy=f"{__name__}:Reads")
    assert {len(info["many"]) for info in Reads.infos} == {1, 2, 3, 4, 5}
    for info in Reads.infos:
        many = len(info["many"])
        assert (info["n"], info["_n"], info["deep"]) == (
            1 if many % 2 else 2.5,
            "x" * many,
            {"none": None, "all": [many]},
        )
    actions = rollouts.arrays().action["value"]
    assert len(set(np.asarray(actions).ravel().tolist())) == 3


def test_old_interfaces_give_the_data_of_the_current_one(tmp_path: Path) -> None:
    hashes = {
        run(tmp_path / name, env={"id": other(name)}).content_hash for name in ("Walk", "FourValues", "NoOptions")
    }
    assert len(hashes) == 1


def test_what_was_recorded_before_a_wrong_value_is_kept(tmp_path: Path) -> None:
    env = {"id": other("WrongLater")}
    with pytest.raises(EnvError, match="step 2: observation has 9.0 at"):
        run(tmp_path / "data", env=env, num_envs=1)
    assert sorted(path.name for path in tmp_path.glob("data/parts/*")) == ["000000.npz", "000001.npz"]


def test_boolean_grids_are_recorded_as_they_are(tmp_path: Path) -> None:
    rollouts = run(tmp_path / "data", env={"id": other("Board"), "resize": 64}, steps=30)
    boards = np.asarray(rollouts.arrays().observation["value"])
    assert boards.shape[1:] == (10, 10, 2) and (boards.sum((1, 2, 3)) == 1).all()


class Commanding(gym.Env):
    """Its keys, and the names of its actions, are commands to a terminal and to rich."""

    metadata: ClassVar = {"action_names": ["\x1b]0;mine\x07", "[bold red]go[/]"]}
    observation_space = gym.spaces.Dict({"\x1b[2J[link=x]": gym.spaces.Box(0, 255, (64, 48, 3), np.uint8)})
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: int) -> tuple:
        return self.observation_space.sample(), 0.0, False, False, {}


gym.register("WorldsimTestCommanding-v0", Commanding, max_episode_steps=5)


def test_names_are_text_to_the_terminal_and_no_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The desk's own terminal would be cleared by the first key."""
    env, data = "env=tests.rollouts.test_collect:WorldsimTestCommanding-v0", tmp_path / "data"
    assert main(["collect", env, "env.resize=32", "steps=10", f"out={data}"]) == 0
    printed = capsys.readouterr()
    assert "resized \\x1b[2J[link=x] from 64x48 to 32x32 pixels" in printed.err
    assert main(["train", f"data={data}", f"data={tmp_path}/\x1b[31m[red]"]) == 2
    assert main(["collect", "env=\x1b[5m[blink]-v0", f"out={tmp_path / 'b'}"]) == 2
    refused = capsys.readouterr()
    assert "\\x1b[31m[red]" in refused.err and "\\x1b[5m[blink]-v0" in refused.err
    assert not any("\x1b" in text or "\x07" in text for text in (*printed, *refused))
