"""Arrays as others write them, made here by hand from what a plain loop over an environment saw, read back as that."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import h5py
import numpy as np
import pytest

from worldsim.cli import main
from worldsim.errors import DatasetError, SpaceMismatchError
from worldsim.rollouts.collect import CollectConfig, collect
from worldsim.rollouts.dataset import Rollouts

NO_ENV = {"id": "nobody has it"}
N_STEPS = (9, 4, 12, 1)  # steps of the episodes; the second and the last are cut, the others terminate


class Episode(NamedTuple):
    observations: np.ndarray  # (T+1, ...)
    actions: np.ndarray  # (T,)
    rewards: np.ndarray
    terminated: bool


def recorded(shape: tuple[int, ...], seed: int = 0) -> list[Episode]:
    """Frames, choices and rewards of no pattern: any row that is taken for another is noticed."""
    rng = np.random.default_rng(seed)
    return [
        Episode(
            rng.integers(0, 256, (steps + 1, *shape)).astype(np.uint8),
            np.concatenate([[2], rng.integers(1, 4, steps - 1)]),  # none is 0, which Dreamer's first rows have
            rng.normal(size=steps).astype(np.float32),
            number % 2 == 0,
        )
        for number, steps in enumerate(N_STEPS)
    ]


FRAMES = recorded((32, 36, 3))


def joined(episodes: list[Episode], name: str, stop: int | None = None) -> np.ndarray:
    return np.concatenate([getattr(each, name)[:stop] for each in episodes])


def flags(episodes: list[Episode], terminated: bool) -> np.ndarray:
    """(N,) True in the last row of episodes that terminated, or that were cut."""
    last = [np.arange(len(e.actions)) == len(e.actions) - 1 for e in episodes]
    return np.concatenate([each & (e.terminated == terminated) for each, e in zip(last, episodes, strict=True)])


def after(episodes: list[Episode]) -> dict[str, np.ndarray]:
    """Rows in which action and reward follow the observation, without the last observations."""
    return {
        "observations": joined(episodes, "observations", -1),
        "actions": joined(episodes, "actions"),
        "rewards": joined(episodes, "rewards"),
    }


def hdf5(file: Path, arrays: dict[str, np.ndarray]) -> Path:
    with h5py.File(file, "w") as opened:
        for name, array in arrays.items():
            opened[name] = array
    return file


def d4rl(folder: Path) -> Path:
    following = {"next_observations": np.concatenate([e.observations[1:] for e in FRAMES])}
    ends = {"terminals": flags(FRAMES, True), "timeouts": flags(FRAMES, False)}
    facts = {"infos/qpos": np.zeros((sum(N_STEPS), 2)), "metadata/algorithm": np.bytes_("SAC")}
    return hdf5(folder / "d4rl.hdf5", after(FRAMES) | ends | following | facts)


def torn(folder: Path) -> Path:
    """Nothing says where time limits were: only that the observation which followed is not the next row's."""
    following = {"next_observations": np.concatenate([e.observations[1:] for e in FRAMES])}
    return hdf5(folder / "torn.h5", after(FRAMES) | {"terminals": flags(FRAMES, True)} | following)


def dreamer(folder: Path, mixed: bool = False) -> Path:
    """An episode a file; the action in its first row is none."""
    place = folder / "episodes"
    place.mkdir()
    for number, e in enumerate(FRAMES):
        steps = len(e.actions)
        hot, rows = np.eye(4, dtype=np.float32)[e.actions], np.arange(steps + 1)
        none = np.zeros((1, 4), np.float32)
        arrays = {
            "image": e.observations,
            "action": np.concatenate([hot, none] if mixed else [none, hot]),
            "reward": np.concatenate([[0], e.rewards]).astype(np.float32),
            "is_first": rows == 0,
            "is_last": rows == steps,
            "is_terminal": (rows == steps) & e.terminated,
            "log_speed": np.zeros(steps + 1),
        }
        np.savez_compressed(place / f"2026-{number + 8}.npz", **arrays)  # 8, 9, 10, 11: in the order of numbers
    return place


def replay(folder: Path) -> Path:
    return dreamer(folder, mixed=True)


def flat_npz(folder: Path) -> Path:
    arrays = after(FRAMES) | {"observations": joined(FRAMES, "observations")}  # the last ones too
    np.savez(folder / "flat.npz", **arrays, episode_lengths=np.array(N_STEPS), terminals=flags(FRAMES, True))
    return folder / "flat.npz"


def npy(folder: Path) -> Path:
    place = folder / "npy"
    place.mkdir()
    arrays = after(FRAMES) | {"observations": joined(FRAMES, "observations")}
    arrays |= {"terminated": flags(FRAMES, True), "episode_ends": np.cumsum(N_STEPS)}
    for name, array in arrays.items():
        np.save(place / f"{name}.npy", array)
    return place


def robomimic(folder: Path) -> Path:
    arrays = {}
    for number, e in enumerate(FRAMES):
        group = f"data/demo_{number + 8}"
        arrays |= {f"{group}/obs/image": e.observations[:-1], f"{group}/next_obs/image": e.observations[1:]}
        arrays |= {f"{group}/actions": e.actions, f"{group}/rewards": e.rewards, f"{group}/states": np.zeros((1, 3))}
        ends = (np.arange(len(e.actions)) == len(e.actions) - 1) & e.terminated
        arrays |= {f"{group}/dones": ends.astype(np.int64)}
    return hdf5(folder / "robomimic.hdf5", arrays | {"mask/train": np.array([b"demo_8"])})


def same_episodes(rollouts: Rollouts, episodes: list[Episode], name: str = "value") -> None:
    """Whether rows are laid out as documented in `arrays`: each with what led to it."""
    arrays = rollouts.arrays()
    assert rollouts.lengths == [len(e.actions) for e in episodes]
    for number, e in enumerate(episodes):
        rows = slice(arrays.start[number], arrays.start[number + 1])
        assert np.array_equal(arrays.observation[name][rows], e.observations)
        assert arrays.action["value"][rows][1:, 0].tolist() == e.actions.tolist()
        assert np.array_equal(arrays.reward[rows][1:], e.rewards.astype(np.float32))
        ends = np.arange(len(e.actions)) == len(e.actions) - 1
        assert np.array_equal(arrays.terminated[rows][1:], ends & e.terminated)
        assert np.array_equal(arrays.truncated[rows][1:], ends & (not e.terminated))


def read(place: Path, **settings: Any) -> Rollouts:
    settings = {"env": NO_ENV} | settings
    return collect(CollectConfig(arrays=place, out=place.parent / "out", **settings), progress=False)


@pytest.mark.parametrize("write", [d4rl, torn, dreamer, replay, flat_npz, npy, robomimic])
def test_arrays_as_others_write_them_are_read_as_they_were(write: Callable[[Path], Path], tmp_path: Path) -> None:
    rollouts = read(write(tmp_path))
    same_episodes(rollouts, FRAMES, "image" if write is robomimic else "value")
    assert rollouts.action_space == gym.spaces.Discrete(4)
    assert rollouts.storage.total_steps == sum(N_STEPS)


@pytest.mark.parametrize("ends", ["terminals", "dones"])
def test_without_last_observations_the_last_actions_and_endings_are_kept(
    ends: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = after(FRAMES)
    ends_of = {"terminals": flags(FRAMES, True), "timeouts": flags(FRAMES, False)}
    if ends == "dones":
        ends_of = {"dones": ends_of["terminals"] | ends_of["timeouts"], "timeouts": ends_of["timeouts"]}
    np.savez(tmp_path / "a.npz", **arrays, **ends_of)
    rollouts = collect(CollectConfig(env=NO_ENV, arrays=tmp_path / "a.npz", out=tmp_path / "out"))
    twice = [e._replace(observations=np.concatenate([e.observations[:-1], e.observations[-2:-1]])) for e in FRAMES]
    same_episodes(rollouts, twice)
    assert "4 of 4 episodes have no last observation: the one before is repeated" in capsys.readouterr().err


FLOATS = recorded((40, 33, 3), seed=1)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda frames: np.moveaxis(frames, -1, 1), "channels first became last, (3, 40, 33) is now (40, 33, 3)"),
        (lambda frames: frames / np.float32(255), "floats of 0 to 1 became uint8 of 0 to 255\n"),
        (lambda frames: frames.astype(np.float64), "whole numbers in floats became uint8\n"),
        (lambda frames: np.moveaxis(frames / 255, -1, 1), "uint8 of 0 to 255; channels first became last"),
    ],
)
def test_pictures_become_uint8_with_channels_last_and_it_is_said(
    change: Callable[[np.ndarray], np.ndarray], note: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = after(FLOATS) | {"obs": change(joined(FLOATS, "observations")), "episode_ends": np.cumsum(N_STEPS)}
    del arrays["observations"]
    np.savez(tmp_path / "a.npz", **arrays, terminated=flags(FLOATS, True))
    rollouts = collect(CollectConfig(env=NO_ENV, arrays=tmp_path / "a.npz", out=tmp_path / "out"))
    same_episodes(rollouts, FLOATS)
    assert rollouts.observation_space == gym.spaces.Box(0, 255, (40, 33, 3), np.uint8)
    assert note in capsys.readouterr().err


def test_floats_between_the_levels_are_rounded_and_depth_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    arrays = {"observations/rgb": rng.random((9, 32, 32, 3)), "observations/depth": rng.random((9, 32, 32, 1))}
    arrays |= {"observations/speed": rng.normal(size=9), "observations/tile": rng.integers(0, 5, 9)}
    arrays |= {"actions": rng.uniform(-1, 1, (9, 2)).astype(np.float32), "rewards": np.zeros(9)}
    file = hdf5(tmp_path / "a.hdf5", arrays | {"dones": np.arange(9) % 3 == 2})
    rollouts = collect(CollectConfig(env=NO_ENV, arrays=file, out=tmp_path / "out"))
    assert rollouts.observation_space == gym.spaces.Dict(
        depth=gym.spaces.Box(-np.inf, np.inf, (32, 32, 1), np.float64),
        rgb=gym.spaces.Box(0, 255, (32, 32, 3), np.uint8),
        speed=gym.spaces.Box(-np.inf, np.inf, (), np.float64),
        tile=gym.spaces.Discrete(5),
    )
    assert rollouts.action_space == gym.spaces.Box(-1, 1, (2,), np.float32)
    seen = rollouts.arrays().observation
    assert np.abs(seen["rgb"][:3] / 255 - arrays["observations/rgb"][:3]).max() <= 0.5 / 255 + 1e-9
    assert np.array_equal(seen["depth"][:3], arrays["observations/depth"][:3])
    message = capsys.readouterr().err
    assert "to the nearest of 256 levels" in message and "every end in 'dones' is taken for a termination" in message
    assert not any(line for line in message.splitlines() if not line.startswith(str(file)))


def without(name: str) -> Callable[[dict], dict]:
    return lambda arrays: {key: array for key, array in arrays.items() if key != name}


WRONG = {
    "rewards": (lambda a: a | {"rewards": a["rewards"][:-1]}, "'rewards' has 25 rows; there are 26 actions"),
    "observations": (
        lambda a: a | {"observations": a["observations"][:-2]},
        "'observations' has 24 rows; 26 actions in 3 episodes need 26, or 29",
    ),
    "nan": (lambda a: a | {"rewards": np.where(np.arange(26) == 17, np.nan, 0)}, "'rewards' .* at index 17; mend"),
    "frame": (
        lambda a: a | {"observations": np.where(np.arange(26) == 20, np.nan, 0.5)[:, None]},
        "'observations' has NaN or an infinity at index 20",
    ),
    "flag": (
        lambda a: a | {"terminals": np.where(np.arange(26) == 5, 3, 0)},
        "'terminals' is 3 at index 5; give true or false",
    ),
    "lengths": (lambda a: a | {"lengths": np.array([20, 5])}, "'lengths' sums up to 25 rows, not 26"),
    "inside": (
        lambda a: a | {"lengths": np.array([20, 6])},
        "'terminals' ends an episode at index 8, which lies inside episode 0",
    ),
    "endless": (without("terminals"), "does not say where episodes end: .*keys.truncated=, keys.ends="),
    "objects": (lambda a: a | {"actions": a["actions"].astype("U3")}, "'actions' is of type <U3; numbers are needed"),
    "shape": (lambda a: a | {"rewards": np.zeros((26, 2))}, r"'rewards' has float64 of shape \(26, 2\); give one"),
    "actions": (without("actions"), "no actions, only observations, rewards, terminals; name them: keys.action="),
    "seen": (without("observations"), "no observations, only actions, .*; name them: keys.observation="),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_together_is_one_line_with_file_key_and_index(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = WRONG[what]
    np.savez(tmp_path / "a.npz", **change(after(FRAMES) | {"terminals": flags(FRAMES, True)}))
    with pytest.raises(DatasetError, match=message) as error:
        read(tmp_path / "a.npz")
    assert str(error.value).startswith(str(tmp_path / "a.npz")) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("[!.]*"))
    assert main(["collect", f"arrays={tmp_path / 'a.npz'}", f"out={tmp_path / 'b'}"]) == 2
    *notes, line = capsys.readouterr().err.splitlines()
    assert line == f"worldsim: {error.value}" and all(note.startswith(str(tmp_path / "a.npz")) for note in notes)


def test_shuffled_rows_other_files_and_damage_are_lines(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(sum(N_STEPS))
    arrays = after(FRAMES) | {"next_observations": np.concatenate([e.observations[1:] for e in FRAMES])}
    arrays |= {"terminals": flags(FRAMES, True)}
    np.savez(tmp_path / "a.npz", **{name: array[order] for name, array in arrays.items()})
    with pytest.raises(DatasetError, match="is not the observation of the next row, as in most rows; sort the rows"):
        read(tmp_path / "a.npz")
    place = dreamer(tmp_path)
    with np.load(place / "2026-9.npz") as file:
        np.savez(place / "2026-9.npz", **{**file, "image": file["image"][:, :30]})
    with pytest.raises(DatasetError, match=r"2026-9.npz: 'image' has rows of uint8 \(30, 36, 3\), and .*2026-8.npz"):
        read(place)
    (place / "2026-9.npz").write_bytes((place / "2026-8.npz").read_bytes()[:5000])
    with pytest.raises(DatasetError, match="2026-9.npz cannot be read"):
        read(place)
    np.save(tmp_path / "one.npy", np.array([{}], object))
    for name, message in (("one.npy", "cannot be read"), ("nothing", "no file or folder"), ("x.csv", "none of")):
        (tmp_path / "x.csv").touch()
        with pytest.raises(DatasetError, match=message):
            read(tmp_path / name)
    with pytest.raises(DatasetError, match="no array 'frames' for keys.observation; there are image, action"):
        read(place, keys={"observation": "frames"})


def test_names_are_given_where_they_are_not_found(tmp_path: Path) -> None:
    arrays = {"what/camera": joined(FRAMES, "observations", -1), "what/arm": joined(FRAMES, "rewards")}
    arrays |= {"did": joined(FRAMES, "actions"), "got": joined(FRAMES, "rewards"), "over": flags(FRAMES, True)}
    file = hdf5(tmp_path / "a.h5", arrays | {"cut": flags(FRAMES, False)})
    keys = {"observation": ["what/camera", "what/arm"], "action": "did", "reward": "got", "terminated": "over"}
    rollouts = read(file, keys=keys | {"truncated": "cut"})
    assert list(rollouts.observation_space) == ["camera", "arm"] and rollouts.lengths == list(N_STEPS)
    assert np.array_equal(rollouts.arrays().observation["arm"][:9, 0], FRAMES[0].rewards)


def test_an_environment_gives_its_spaces_where_the_arrays_fit(tmp_path: Path) -> None:
    env = gym.make("CartPole-v1")
    arrays: dict[str, list] = {"obs": [], "acts": [], "rewards": [], "dones": [], "next_obs": []}
    for seed in range(3):
        observation, ended = env.reset(seed=seed)[0], False
        env.action_space.seed(seed)
        while not ended:
            action = env.action_space.sample()
            following, reward, ended, _, _ = env.step(action)
            for name, value in zip(arrays, (observation, action, reward, ended, following), strict=True):
                arrays[name].append(value)
            observation = following
    np.savez(tmp_path / "a.npz", **{name: np.array(rows) for name, rows in arrays.items()})
    rollouts = read(tmp_path / "a.npz", env={"id": "CartPole-v1"}, spaces="env")
    assert rollouts.observation_space == env.observation_space and rollouts.action_space == env.action_space
    recorded_there = collect(CollectConfig(env={"id": "CartPole-v1"}, steps=9, out=tmp_path / "c"), progress=False)
    assert rollouts.observation_space == recorded_there.observation_space
    with pytest.raises(SpaceMismatchError, match=r"'obs' has rows of float32 \(4,\), and env Pendulum-v1 has Box"):
        collect(CollectConfig(env={"id": "Pendulum-v1"}, arrays=tmp_path / "a.npz", spaces="env", out=tmp_path / "d"))
    far = np.array(arrays["obs"])
    far[7] = 1e6
    np.savez(tmp_path / "b.npz", **{name: np.array(rows) for name, rows in arrays.items()} | {"obs": far})
    with pytest.raises(DatasetError, match=r"'obs' is outside Box.* at index 7; mend the data"):
        collect(CollectConfig(env={"id": "CartPole-v1"}, arrays=tmp_path / "b.npz", spaces="env", out=tmp_path / "e"))


def test_the_same_command_again_does_nothing_and_another_source_is_refused(tmp_path: Path) -> None:
    file = d4rl(tmp_path)
    first = read(file)
    before = {path: path.stat().st_mtime_ns for path in first.path.rglob("*")}
    assert read(file).content_hash == first.content_hash
    assert {path: path.stat().st_mtime_ns for path in first.path.rglob("*")} == before
    with h5py.File(file, "r+") as opened:
        opened["rewards"][0] = 7.0
    with pytest.raises(DatasetError, match="was imported from d4rl.hdf5, which has changed"):
        read(file)
    with pytest.raises(DatasetError, match="holds rollouts with keys.timing=None, not keys.timing=after"):
        read(file, keys={"timing": "after"})
    assert main(["collect", "keys.action=x", f"out={tmp_path / 'none'}"]) == 2


def test_worlds_are_learned_from_arrays_without_any_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, world = f"data={tmp_path / 'out'}", tmp_path / "world"
    assert main(["collect", f"arrays={dreamer(tmp_path)}", f"out={tmp_path / 'out'}"]) == 0
    short = ["trainer=quick", "trainer.steps=2", "trainer.codec_steps=2", "trainer.holdout=0.5", "model/size=xs"]
    assert main(["train", data, f"out={world}", *short]) == 0
    assert main(["validate", f"world={world}", data, "context=1", "horizon=2", "windows=2"]) == 0
    assert main(["look", f"world={world}", data, f"out={tmp_path / 'a.gif'}", "context=1", "length=3", "count=1"]) == 0
    assert (tmp_path / "a.gif").stat().st_size > 0 and "env" not in capsys.readouterr().err
