import json
import os
import shutil
import tempfile
from pathlib import Path

import gymnasium as gym
import minari
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from minari import MinariDataset
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

import worldsim
from worldsim import spaces
from worldsim.agents import make_policy
from worldsim.errors import DatasetError
from worldsim.files import sealed
from worldsim.rollouts.arrays import EpisodeArrays, write_arrays
from worldsim.rollouts.collect import CollectConfig, collect
from worldsim.rollouts.dataset import MINARI, PROVENANCE, Rollouts
from worldsim.rollouts.recorder import Recorder, episode_seeds
from worldsim.rollouts.recording import EpisodeFiles, flat, write_minari

BOXES = st.sampled_from(
    [
        gym.spaces.Box(0, 255, (9, 10, 3), np.uint8),
        gym.spaces.Box(0, 255, (33, 34), np.uint8),  # large enough for Minari to think of JPEG
        gym.spaces.Box(-np.inf, np.inf, (), np.float64),
        gym.spaces.Box(np.float32([-1, 0]), np.float32([1, 5]), dtype=np.float32),
        gym.spaces.Box(-5, 5, (2, 1), np.int16),
    ]
)
LEAVES = st.one_of(
    BOXES,
    st.builds(gym.spaces.Discrete, st.integers(1, 5), start=st.integers(-3, 3)),
    st.just(gym.spaces.MultiDiscrete([2, 3])),
    st.just(gym.spaces.MultiBinary(3)),
    st.just(gym.spaces.Text(4, min_length=0, charset="abé ")),
)
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(["a", "b c", "é", "d.e", "0"]), inner, min_size=1, max_size=3).map(
            gym.spaces.Dict
        ),
        st.lists(inner, min_size=1, max_size=2).map(lambda s: gym.spaces.Tuple(tuple(s))),
    ),
    max_leaves=4,
)


class Anything(gym.Env):
    """Emits whatever its observation space holds, for a random number of steps."""

    def __init__(self, observation_space: gym.Space, action_space: gym.Space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: object) -> tuple:
        assert self.action_space.contains(action)
        reward, end = self.np_random.normal(), self.np_random.random(2) < 0.3
        return self.observation_space.sample(), reward, bool(end[0]), bool(end[1]), {}


def same(a: object, b: object) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return np.array_equal(a, b)


def at(batched: object, t: int) -> object:
    """Row t of what Minari gives for an episode."""
    if isinstance(batched, dict):
        return {k: at(v, t) for k, v in batched.items()}
    return tuple(at(v, t) for v in batched) if isinstance(batched, tuple) else batched[t]


@settings(max_examples=25, deadline=None)
@given(observation_space=NESTED, action_space=NESTED, num_envs=st.integers(1, 3))
def test_minari_reads_back_what_a_plain_loop_sees(
    tmp_path_factory: pytest.TempPathFactory, observation_space: gym.Space, action_space: gym.Space, num_envs: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    copies = [spaces.space_from_json(spaces.space_to_json(observation_space)) for _ in range(num_envs + 1)]
    envs = gym.vector.SyncVectorEnv([lambda s=s: Anything(s, action_space) for s in copies[1:]])
    policies = [make_policy("sticky", observation_space, action_space) for _ in range(num_envs)]
    parts = EpisodeFiles(folder / "parts")
    count = Recorder(envs, policies, parts, seed=4, steps=9).run(lambda steps: None)
    recorded = [parts.lengths[k] for k in range(count)]
    write_minari(folder / "minari", parts.read(count), recorded, observation_space, action_space, None, "sticky")

    dataset = MinariDataset(folder / "minari")
    assert dataset.total_episodes == count and dataset.total_steps == sum(parts.lengths[k] for k in range(count))
    env, policy = Anything(copies[0], action_space), make_policy("sticky", observation_space, action_space)
    for k, episode in enumerate(dataset.iterate_episodes()):
        env_seed, policy_seed = episode_seeds(4, k)
        policy.reset(policy_seed)
        observation, info = env.reset(seed=env_seed)
        assert same(at(episode.observations, 0), observation)
        for t in range(len(episode)):
            action = policy.act(observation, info)
            observation, *rest, info = env.step(action)
            assert same(at(episode.actions, t), action)
            assert same(at(episode.observations, t + 1), observation)
            stored = [episode.rewards[t], episode.terminations[t], episode.truncations[t]]
            assert stored == rest or (t + 1 == 9 and stored[:2] == rest[:2])  # cut at the steps asked for
        assert episode.terminations[-1] or episode.truncations[-1]

    episodes = (flat(observation_space, action_space, raw) for raw in parts.read(count))
    lengths = [parts.lengths[k] for k in range(count)]
    (folder / "arrays").mkdir()
    assert write_arrays(folder / "arrays", episodes, lengths) == write_arrays(
        None, (flat(observation_space, action_space, raw) for raw in parts.read(count)), lengths
    )
    shutil.rmtree(folder)


def test_arrays_are_laid_out_as_documented(cartpole: Rollouts) -> None:
    arrays = cartpole.arrays()
    assert arrays.episodes == cartpole.episodes and arrays.rows == cartpole.steps + cartpole.episodes
    for k, episode in enumerate(MinariDataset(cartpole.path / MINARI).iterate_episodes()):
        rows = slice(arrays.start[k], arrays.start[k + 1])
        assert np.array_equal(arrays.observation["value"][rows], episode.observations)
        assert np.array_equal(arrays.action["value"][rows][1:, 0], episode.actions)
        assert np.array_equal(arrays.reward[rows][1:], episode.rewards.astype(np.float32))
        assert np.array_equal(arrays.terminated[rows][1:], episode.terminations)
        assert np.array_equal(arrays.truncated[rows][1:], episode.truncations)
        zeros = [arrays.action["value"][rows][0], arrays.reward[rows][0], arrays.terminated[rows][0]]
        assert not np.any([np.any(z) for z in zeros])
    assert arrays.first.nonzero()[0].tolist() == arrays.start[:-1].tolist()
    assert isinstance(arrays.reward.base, np.memmap) and not arrays.reward.flags.writeable


@pytest.fixture
def copied(cartpole: Rollouts, tmp_path: Path) -> Path:
    cartpole.arrays()
    return Path(shutil.copytree(cartpole.path, tmp_path / "copy"))


@pytest.mark.parametrize("damage", ["cut", "flip", "remove", "empty"])
def test_a_damaged_cache_is_built_again(copied: Path, cartpole: Rollouts, damage: str) -> None:
    file = next((copied / "arrays").glob("*/reward.npy"))
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[-1] ^= 255
    file.unlink() if damage == "remove" else file.write_bytes(data[: {"cut": -4, "empty": 0}.get(damage)])
    arrays = Rollouts(copied).arrays()
    assert arrays.content_hash == cartpole.content_hash
    assert np.array_equal(arrays.reward, cartpole.arrays().reward)
    assert len(list((copied / "arrays").iterdir())) == 1


def test_arrays_are_read_whole_only_after_a_change(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    whole = EpisodeArrays._digest
    monkeypatch.setattr(EpisodeArrays, "_digest", lambda self, array: read.append(1) or whole(self, array))
    Rollouts(copied).arrays()
    assert not read
    file = next((copied / "arrays").glob("*/reward.npy"))
    os.utime(file, ns=(0, 1))
    Rollouts(copied).arrays()
    verified = len(read)
    Rollouts(copied).arrays()
    assert verified > 0 and len(read) == verified


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(6)), st.lists(st.integers(1, 9), min_size=6, max_size=6), st.integers(1, 60))
def test_episodes_are_enough_once_the_first_ones_are_there(order: list[int], lengths: list[int], steps: int) -> None:
    """Whatever order they end in, and whatever was asked before."""
    with tempfile.TemporaryDirectory() as folder:
        parts, there = EpisodeFiles(Path(folder)), set[int]()
        for index in order:
            parts.save(index, {"reward": np.zeros(lengths[index])})
            there.add(index)
            first = next(i for i in range(7) if i not in there)
            enough = [n for n in range(1, first + 1) if sum(lengths[:n]) >= steps]
            assert parts.count_holding(1000) is None and parts.count_holding(steps) == (enough[0] if enough else None)
        assert parts.steps == sum(lengths) and EpisodeFiles(Path(folder)).count_holding(steps) == parts.count_holding(
            steps
        )


def test_damaged_data_is_one_line(copied: Path, tmp_path: Path) -> None:
    def fails(message: str, path: Path = copied) -> None:
        with pytest.raises(DatasetError, match=message) as caught:
            Rollouts(path).arrays()
        assert "\n" not in str(caught.value) and str(path.name) in str(caught.value)

    fails("no data set", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    fails("no finished data set", tmp_path / "empty")
    shutil.rmtree(copied / "arrays")
    main = copied / MINARI / "main_data.hdf5"
    data = main.read_bytes()
    main.write_bytes(data[: len(data) // 2])
    fails("damaged or cut short")
    main.write_bytes(b"")
    fails("damaged or cut short")
    main.unlink()
    fails("damaged or cut short")
    main.write_bytes(data)
    facts = json.loads((copied / PROVENANCE).read_text())
    (copied / PROVENANCE).write_text(json.dumps(sealed(facts | {"content_hash": "0" * 64})))
    fails("holds other data")
    for text in ("{", "[]", json.dumps(facts | {"steps": 1})):
        (copied / PROVENANCE).write_text(text)
        fails("provenance.json is damaged .*; delete .* and collect again")
    (copied / PROVENANCE).write_text(json.dumps(sealed({k: v for k, v in facts.items() if k != "metadata"})))
    fails("metadata")


def test_frames_are_stored_once_and_compressed(tmp_path: Path) -> None:
    """What Minari itself writes of the same episodes takes more room than the frames do."""
    ready = Path(worldsim.__file__).parent / "configs" / "env" / "refund_desk.yaml"
    desk = CollectConfig(env=yaml.safe_load(ready.read_text()), steps=300, out=tmp_path / "desk")
    rollouts = collect(desk, progress=False)
    frames = 64 * 64 * 3 * (rollouts.steps + rollouts.episodes)
    stored = sum(file.stat().st_size for file in rollouts.path.rglob("*") if file.is_file())
    assert stored < frames / 4 and not (rollouts.path / "arrays").exists()
    buffers = [
        EpisodeBuffer(
            observations=e.observations,
            actions=e.actions,
            rewards=e.rewards,
            terminations=e.terminations,
            truncations=e.truncations,
            infos={},
        )
        for e in MinariDataset(rollouts.path / MINARI).iterate_episodes()
    ]
    plain = MinariStorage.new(
        tmp_path / "plain", rollouts.observation_space, rollouts.action_space, jpeg_encoding=False
    )
    plain.update_episodes(buffers)
    assert (tmp_path / "plain" / "main_data.hdf5").stat().st_size > frames
    assert Rollouts(tmp_path / "plain").content_hash == rollouts.content_hash  # as earlier versions stored it


def test_minari_says_what_it_needs(cartpole: Rollouts) -> None:
    dataset = MinariDataset(cartpole.path / MINARI)
    assert dataset.minari_version == minari.__version__
    assert dataset.id.startswith("worldsim/CartPole")
    assert dataset.recover_environment().spec.id == "CartPole-v1"
    assert dataset.observation_space == cartpole.observation_space == gym.make("CartPole-v1").observation_space
    seeds = [m["seed"] for m in dataset.storage.get_episode_metadata(range(cartpole.episodes))]
    assert seeds == [episode_seeds(7, k)[0] for k in range(cartpole.episodes)]
