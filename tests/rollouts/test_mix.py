"""Several data sets as one, Minari's own, and data that cannot be learned from."""

import os
import shutil
import sys
from pathlib import Path

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
from worldsim.rollouts.arrays import Arrays, joined
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
    assert Mix(cartpole.path).content_hash == cartpole.content_hash and joined([a]) is a


def test_each_data_set_is_split_as_it_would_be_alone(cartpole: Rollouts, other: Rollouts) -> None:
    taught, held = Mix([cartpole.path, other.path]).split(0.3, seed=5)
    for here, alone in ((taught, 0), (held, 1)):
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
    taught, _ = mix.split(0.0, 0)
    segments = Segments(mix.arrays, taught, 8, weights=mix.row_weights(taught))
    starts = segments.draw(20_000, np.random.default_rng(0))
    assert (starts.row >= cartpole.arrays().rows).mean() == pytest.approx(0.75, abs=0.02)
    assert Mix([cartpole.path, other.path]).row_weights(taught) is None


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
    monkeypatch.setattr(Rollouts, "arrays", lambda self: Arrays(**fields))
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


NOTED = spaces.Dict({"note": spaces.Text(5, charset="abc", min_length=0), "x": spaces.Box(-1, 1, (2,), np.float32)})
GOOD = {"note": ["ab", "c", "", "a"], "x": np.zeros((4, 2), np.float32)}


def noted(name: str, *episodes: dict) -> None:
    """A Minari data set of episodes of three steps that no environment is known of."""
    judged = {"rewards": np.ones(3), "terminations": np.arange(3) == 2, "truncations": np.zeros(3, bool)}
    buffers = [EpisodeBuffer(observations=each, actions=np.zeros(3, int), **judged, infos={}) for each in episodes]
    minari.create_dataset_from_buffers(
        name, buffers, observation_space=NOTED, action_space=spaces.Discrete(2), data_format="hdf5"
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"note": ["ab", "é", "", "a"]}, r"episode 1: 'note' is 'é', and 'é' is none of its characters"),
        ({"note": ["ab", "c", "aaaaaaa", "a"]}, r"episode 1: 'note' is 'aaaaaaa', longer than the 5"),
        (
            {"note": ["ab", "c", "a"], "x": np.zeros((3, 2), np.float32)},
            r"episode 1: observation 'note' has 3 rows where 3 steps need 4; .* T\+1 observations",
        ),
        ({"x": np.zeros((3, 2), np.float32)}, r"episode 1: observation 'x' has 3 rows where 3 steps need 4"),
        ({"x": np.zeros((5, 2), np.float32)}, r"episode 1: observation 'x' has 5 rows where 3 steps need 4"),
    ],
)
def test_an_episode_that_cannot_be_used_is_told_with_its_key(
    wrong: dict, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    noted("mine/good-v0", GOOD, GOOD)
    arrays = Rollouts("mine/good-v0").arrays()
    assert arrays.observation["note"][:2].tolist() == [[1, 2, 0, 0, 0], [3, 0, 0, 0, 0]]
    noted("mine/wrong-v0", GOOD, GOOD | wrong)
    with pytest.raises(DatasetError, match=said) as error:
        Rollouts("mine/wrong-v0")
    assert "wrong-v0" in str(error.value) and "\n" not in str(error.value)


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
    monkeypatch.setattr(offline, "adopt", lambda place: leaves(twice))
    with pytest.raises(SpaceMismatchError, match="^two parts of the space are called 'a/b'"):
        Rollouts("cartpole/random-v0")
