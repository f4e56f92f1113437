"""Several data sets as one, Minari's own, and data that cannot be learned from."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from worldsim.cli import main
from worldsim.errors import DatasetError, MissingExtraError, SpaceMismatchError
from worldsim.rollouts import offline
from worldsim.rollouts.arrays import EpisodeArrays, concatenated
from worldsim.rollouts.collect import CollectConfig, collect
from worldsim.rollouts.dataset import Rollouts
from worldsim.rollouts.mix import Mix, unseen
from worldsim.rollouts.sampling import SequenceSampler, gather, split
from worldsim.spaces import leaves


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Rollouts:
    out = tmp_path_factory.mktemp("other") / "cartpole"
    return collect(CollectConfig(env={"id": "CartPole-v1"}, steps=90, seed=8, out=out), progress=False)


def test_a_mix_is_its_parts_one_after_another(cartpole: Rollouts, other: Rollouts) -> None:
    mix, (a, b) = Mix([cartpole.path, other.path]), (cartpole.arrays(), other.arrays())
    arrays = mix.arrays
    rows = np.random.default_rng(0).permutation(arrays.rows).reshape(2, -1)[:, :50]
    both = {k: np.concatenate([a.observation[k], b.observation[k]])[rows] for k in a.observation}
    found = gather(arrays, rows)
    assert all(np.array_equal(found["observation"][k], value) for k, value in both.items())
    assert np.array_equal(found["first"], np.concatenate([a.first, b.first])[rows])
    assert np.array_equal(arrays.start, np.concatenate([a.start, a.rows + b.start[1:]]))
    assert mix.steps == cartpole.steps + other.steps
    assert mix.content_hash not in (cartpole.content_hash, other.content_hash)
    assert Mix(cartpole.path).content_hash == cartpole.content_hash and concatenated([a]) is a


def test_each_data_set_is_split_as_it_would_be_alone(cartpole: Rollouts, other: Rollouts) -> None:
    training, held_out = Mix([cartpole.path, other.path]).split(0.3, seed=5)
    for here, alone in ((training, 0), (held_out, 1)):
        mine = here[here < cartpole.episodes], here[here >= cartpole.episodes] - cartpole.episodes
        for part, rollouts in zip(mine, (cartpole, other), strict=True):
            assert np.array_equal(part, split(rollouts.arrays(), 0.3, 5)[alone])


def test_episodes_of_a_mix_that_were_held_out_are_known_in_each_part(cartpole: Rollouts, other: Rollouts) -> None:
    mix = Mix([cartpole.path, other.path])
    about = {"hash": mix.content_hash, "parts": mix.hashes, "holdout": 0.3, "seed": 5}
    for part in (cartpole, other):
        assert np.array_equal(unseen(part, about), split(part.arrays(), 0.3, 5)[1])
        assert len(unseen(part, about | {"parts": []})) == part.episodes


def test_weights_say_how_often_each_data_set_is_drawn_from(cartpole: Rollouts, other: Rollouts) -> None:
    from worldsim.rollouts.segments import Segments

    mix = Mix([cartpole.path, other.path], [1.0, 3.0])
    training, _ = mix.split(0.0, 0)
    segments = Segments(mix.arrays, training, 8, weights=mix.row_weights(training))
    starts = segments.draw(20_000, np.random.default_rng(0))
    assert (starts.row >= cartpole.arrays().rows).mean() == pytest.approx(0.75, abs=0.02)
    assert Mix([cartpole.path, other.path]).row_weights(training) is None


def test_mixed_spaces_are_named(cartpole: Rollouts, tmp_path: Path) -> None:
    pendulum = collect(CollectConfig(env={"id": "Pendulum-v1"}, steps=20, out=tmp_path / "p"), progress=False)
    with pytest.raises(
        SpaceMismatchError, match=r"p does not go with data=.*: observation 'value' is Box\(.*same spaces"
    ):
        Mix([cartpole.path, pendulum.path])


@pytest.mark.parametrize("verb", ["train", "validate", "look"])
def test_no_data_sets_are_none(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "data=[]"]) == 2
    assert capsys.readouterr().err == "worldsim: data=[]: names no data set; give at least one\n"


@pytest.mark.parametrize(("group", "name"), [("observation", "value"), ("", "reward")])
def test_nan_is_found_where_it_is(cartpole: Rollouts, group: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = cartpole.arrays()
    spoilt = np.array(arrays.observation["value"] if group else arrays.reward)
    row = arrays.start[2] + 4
    spoilt[row] = np.nan
    fields = {k: getattr(arrays, k) for k in ("observation", "action", "reward", "terminated", "truncated", "start")}
    fields |= {"observation": {"value": spoilt}} if group else {"reward": spoilt}
    monkeypatch.setattr(Rollouts, "arrays", lambda self: EpisodeArrays(**fields))
    with pytest.raises(DatasetError, match=f"{group} ?{name} has NaN or an infinity in episode 2, step 4") as error:
        Mix(cartpole.path).arrays  # noqa: B018
    assert "\n" not in str(error.value)


@pytest.fixture
def downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> minari.MinariDataset:
    """A data set that Minari itself has written, in its own store."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    env = gym.make("CartPole-v1")
    buffers = []
    for seed in range(3):
        columns: dict[str, list] = {"observations": [env.reset(seed=seed)[0]]}
        env.action_space.seed(seed)
        ended = False
        while not ended:
            action = env.action_space.sample()
            observation, *judged, _ = env.step(action)
            ended = judged[1] or judged[2]
            values = (observation, action, *judged)
            for name, value in zip(
                ("observations", "actions", "rewards", "terminations", "truncations"), values, strict=True
            ):
                columns.setdefault(name, []).append(value)
        buffers.append(EpisodeBuffer(**{name: np.array(column) for name, column in columns.items()}))
    return minari.create_dataset_from_buffers("cartpole/random-v0", buffers, env=env)


def test_a_minari_data_set_is_read_by_id_and_by_folder(downloaded: minari.MinariDataset, tmp_path: Path) -> None:
    by_id = Rollouts("cartpole/random-v0")
    arrays = by_id.arrays()
    for number, episode in enumerate(downloaded.iterate_episodes()):
        rows = slice(arrays.start[number], arrays.start[number + 1])
        assert np.array_equal(arrays.observation["value"][rows], episode.observations)
        assert np.array_equal(arrays.action["value"][rows][1:, 0], episode.actions)
    folder = tmp_path / "store" / "cartpole" / "random-v0"
    assert Rollouts(folder).content_hash == Rollouts(folder / "data").content_hash == by_id.content_hash
    sampler = SequenceSampler(arrays, np.arange(3), 2, 5, np.random.default_rng(0))
    assert sampler.sample()["observation"]["value"].shape == (2, 5, 4)
    assert minari.load_dataset("cartpole/random-v0").total_episodes == 3  # Minari is not in our way, nor we in its


@pytest.mark.parametrize(
    "change",
    [
        lambda metadata: metadata.pop("env_spec"),
        lambda metadata: metadata.update(env_spec=metadata["env_spec"].replace("CartPole-v1", "nobody_has_it:Arm-v3")),
        lambda metadata: metadata.update(env_spec='{"id": "Arm-v3", "from": "before"}'),
        lambda metadata: metadata.pop("dataset_id"),
        lambda metadata: metadata.update(minari_version=">=0.1,<0.2"),
    ],
)
def test_no_environment_and_no_name_are_needed(
    change: Callable[[dict], Any], downloaded: minari.MinariDataset, tmp_path: Path
) -> None:
    data = tmp_path / "store" / "cartpole" / "random-v0" / "data"
    before = Rollouts(data).content_hash
    metadata = json.loads((data / "metadata.json").read_text())
    change(metadata)
    (data / "metadata.json").write_text(json.dumps(metadata))
    assert Rollouts(data).content_hash == before
    short = ["trainer=quick", "trainer.steps=1", "trainer.codec_steps=1", "trainer.holdout=0.5", "model/size=xs"]
    assert main(["train", f"data={data}", f"out={tmp_path / 'world'}", *short]) == 0


def test_spaces_that_are_unknown_are_an_error_and_the_arrays_can_still_be_read(
    downloaded: minari.MinariDataset, tmp_path: Path
) -> None:
    data = tmp_path / "store" / "cartpole" / "random-v0" / "data"
    before = Rollouts(data).arrays()
    metadata = json.loads((data / "metadata.json").read_text())
    for name in ("observation_space", "action_space"):
        del metadata[name]
    metadata["env_spec"] = metadata["env_spec"].replace("gymnasium.envs.classic_control", "nobody.has.it")
    (data / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(
        DatasetError, match=r"has no spaces, and its environment \(CartPole-v1\) cannot .* arrays="
    ) as error:
        Rollouts(data)
    assert "\n" not in str(error.value)
    assert main(["collect", f"arrays={data}", f"out={tmp_path / 'read'}"]) == 0
    after = Rollouts(tmp_path / "read").arrays()
    assert np.array_equal(after.observation["value"], before.observation["value"])
    assert np.array_equal(after.action["value"], before.action["value"])


def test_jpeg_is_named_before_the_training_and_in_the_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    rng = np.random.default_rng(0)
    buffers = [
        EpisodeBuffer(
            observations={
                "screen": rng.integers(0, 256, (7, 40, 40, 3), np.uint8),
                "map": np.zeros((7, 9, 9), np.uint8),
            },
            actions=np.ones(6, int),
            rewards=np.ones(6),
            terminations=np.arange(6) == 5,
            truncations=np.zeros(6, bool),
            infos={},
        )
        for _ in range(4)
    ]
    seen = spaces.Dict(screen=spaces.Box(0, 255, (40, 40, 3), np.uint8), map=spaces.Box(0, 255, (9, 9), np.uint8))
    for name, jpeg in (("lossy", True), ("exact", False)):
        minari.create_dataset_from_buffers(
            f"mine/{name}-v0", buffers, observation_space=seen, action_space=spaces.Discrete(2), jpeg_encoding=jpeg
        )
    assert np.array_equal(
        Rollouts("mine/exact-v0").arrays().observation["screen"][:7], buffers[0].observations["screen"]
    )
    short = ["trainer=quick", "trainer.steps=1", "trainer.codec_steps=1", "trainer.holdout=0.5", "model/size=xs"]
    message = "observation 'screen' of data=mine/lossy-v0 was stored as JPEG"
    for name in ("exact", "lossy"):
        world = tmp_path / f"world-{name}"
        assert main(["train", f"data=mine/{name}-v0", f"out={world}", *short]) == 0
        assert (f"note: {message}" in capsys.readouterr().out) is (name == "lossy")
        assert main(["validate", f"world={world}", f"data=mine/{name}-v0", "context=1", "horizon=2", "windows=2"]) == 0
        certificate = json.loads((world / "fidelity.json").read_text())
        assert any(message in line for line in certificate["verdict"]) is ("lossy" in certificate) is (name == "lossy")


def test_an_empty_or_damaged_minari_data_set_is_a_line(downloaded: minari.MinariDataset, tmp_path: Path) -> None:
    folder = tmp_path / "store" / "cartpole" / "random-v0" / "data"
    empty = Path(shutil.copytree(folder, tmp_path / "empty"))
    metadata = (empty / "metadata.json").read_text()
    steps = str(downloaded.total_steps)
    (empty / "metadata.json").write_text(
        metadata.replace('"total_episodes": 3', '"total_episodes": 0').replace(steps, "0")
    )
    with pytest.raises(DatasetError, match="empty has no episodes") as error:
        Rollouts(empty)
    assert "\n" not in str(error.value)
    (folder / "main_data.hdf5").write_bytes(b"")
    with pytest.raises(DatasetError, match="damaged or cut short"):
        Rollouts(folder)
    with pytest.raises(DatasetError, match="there is no data set at cartpole/nothing-v0"):
        Rollouts("cartpole/nothing-v0")


NOTED = spaces.Dict(
    note=spaces.Text(5, charset="abc", min_length=0), x=spaces.Box(-1, 1, (2,), np.float32), turn=spaces.Discrete(2)
)
GOOD = {"note": ["ab", "c", "", "a"], "x": np.arange(8, dtype=np.float32).reshape(4, 2), "turn": np.array([0, 1, 0, 1])}


def noted(name: str, *episodes: dict) -> None:
    """A Minari data set of episodes of three steps that no environment is known of."""
    judged = {"rewards": np.ones(3), "terminations": np.arange(3) == 2, "truncations": np.zeros(3, bool)}
    judged |= {"actions": np.zeros(3, int)}
    buffers = [
        EpisodeBuffer(
            observations={key: value for key, value in each.items() if key in NOTED.spaces},
            **judged | {key: value for key, value in each.items() if key in judged},
            infos={},
        )
        for each in episodes
    ]
    minari.create_dataset_from_buffers(
        name, buffers, observation_space=NOTED, action_space=spaces.Discrete(2), data_format="hdf5"
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"note": ["ab", "é", "", "a"]}, r"episode 1: 'note' is 'é', and 'é' is not in its charset"),
        ({"note": ["ab", "c", "aaaaaaa", "a"]}, r"episode 1: 'note' is 'aaaaaaa', longer than its max_length=5"),
        ({"note": ["ab", "c", "a"]}, r"episode 1: observation 'note' has 3 rows where 3 steps need 4; .* T\+1 observ"),
        ({"x": np.zeros((4, 3), np.float32)}, r"episode 1: observation 'x' has rows of shape \(3,\), not of Box"),
        ({"turn": np.array([0, 1, 7, 1])}, r"episode 1: observation 'turn' is 7 in step 2, not in Discrete\(2\)"),
        ({"actions": np.array([0, -1, 0])}, r"episode 1: action 'value' is -1 in step 1, not in Discrete\(2\)"),
        ({"rewards": np.ones((3, 2))}, r"episode 1: rewards are of shape \(3, 2\), not one number a step"),
        ({"x": np.zeros((3, 2), np.float32)}, r"episode 1: observation 'x' has 3 rows where 3 steps need 4"),
        ({"x": np.zeros((5, 2), np.float32)}, r"episode 1: observation 'x' has 5 rows where 3 steps need 4"),
    ],
)
def test_an_episode_that_cannot_be_used_is_reported_with_its_key(
    wrong: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    noted("mine/good-v0", GOOD, GOOD)
    arrays = Rollouts("mine/good-v0").arrays()
    assert arrays.observation["note"][:2].tolist() == [[1, 2, 0, 0, 0], [3, 0, 0, 0, 0]]
    noted("mine/wrong-v0", GOOD, GOOD | wrong)
    with pytest.raises(DatasetError, match=message) as error:
        Rollouts("mine/wrong-v0")
    assert "wrong-v0" in str(error.value) and "\n" not in str(error.value)


def test_last_actions_are_kept_where_there_is_no_last_observation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    noted("mine/short-v0", GOOD, {key: value[:-1] for key, value in GOOD.items()})
    arrays = Rollouts("mine/short-v0").arrays()
    assert "1 of 2 episodes have no last observation: the one before is repeated" in capsys.readouterr().err
    assert arrays.observation["x"][4:].tolist() == [*GOOD["x"][:3].tolist(), GOOD["x"][2].tolist()]
    assert arrays.observation["note"][4:, 0].tolist() == [1, 3, 0, 0] and arrays.terminated.nonzero()[0].tolist() == [
        3,
        7,
    ]
    assert arrays.action["value"].shape == (8, 1)


def test_a_data_set_that_was_written_again_is_read_again(downloaded: minari.MinariDataset, tmp_path: Path) -> None:
    folder = tmp_path / "store" / "cartpole" / "random-v0"
    before = Rollouts(folder)
    assert before.arrays().reward[1] == 1.0
    with h5py.File(folder / "data" / "main_data.hdf5", "r+") as file:  # as many episodes and steps as before
        file["episode_0/rewards"][0] = 7.0
    after = Rollouts(folder)
    assert after.content_hash != before.content_hash and after.arrays().reward[1] == 7.0
    os.utime(folder / "data" / "main_data.hdf5", ns=(0, 1))  # another time, the same content
    assert Rollouts(folder).content_hash == after.content_hash


def test_a_format_that_needs_another_package_says_which(
    downloaded: minari.MinariDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "minari.dataset._storages.arrow_storage", raising=False)
    metadata = tmp_path / "store" / "cartpole" / "random-v0" / "data" / "metadata.json"
    metadata.write_text(metadata.read_text().replace('"data_format": "hdf5"', '"data_format": "arrow"'))
    with pytest.raises(MissingExtraError, match=r"random-v0: pyarrow is not installed.*minari\[arrow\]") as error:
        Rollouts("cartpole/random-v0")
    assert "\n" not in str(error.value)


def test_spaces_that_cannot_be_used_are_no_damage(
    downloaded: minari.MinariDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = spaces.Dict({"a/b": spaces.Discrete(2), "a": spaces.Dict({"b": spaces.Discrete(2)})})
    monkeypatch.setattr(offline, "write_provenance", lambda place: leaves(twice))
    with pytest.raises(SpaceMismatchError, match="^two leaves of the space have the name 'a/b'"):
        Rollouts("cartpole/random-v0")
