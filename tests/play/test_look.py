"""The GIF of real above and learned below, with the frames that the world is known to imagine."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image, ImageSequence

import worldsim
from tests.simulator.conftest import save_tiny_world
from tests.simulator.stub_world import IMAGE_SPACE
from worldsim.errors import DatasetError
from worldsim.play.look import HOLD, MAX_BYTES, PICTURE, WIDTH, action_name, look
from worldsim.rollouts.arrays import EpisodeArrays
from worldsim.rollouts.sampling import windows
from worldsim.simulator.rollout import open_loop
from worldsim.simulator.world import World
from worldsim.spaces import flatten, leaves

SMALL = spaces.Box(0, 255, (8, 8, 3), np.uint8)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """A tiny world with random weights, of the space that the test names."""
    save_tiny_world(tmp_path / "world", getattr(request, "param", SMALL))
    return worldsim.load(tmp_path / "world")


def recorded(world: World, lengths: list[int]) -> EpisodeArrays:
    """Episodes of T + 1 rows, drawn at random."""
    generator = np.random.default_rng(0)
    rows, start = sum(lengths) + len(lengths), np.cumsum([0, *(length + 1 for length in lengths)])
    drawn = [flatten(world.observation_space, world.observation_space.sample()) for _ in range(rows)]
    observation = {name: np.stack([row[name] for row in drawn]) for name in drawn[0]}
    action = {leaf.name: generator.integers(0, leaf.nvec, (rows, 1)) for leaf in leaves(world.action_space)}
    terminated = np.zeros(rows, bool)
    terminated[start[1:] - 1] = True
    return EpisodeArrays(
        observation, action, generator.normal(size=rows).astype(np.float32), terminated, ~terminated, start
    )


def read(path: Path) -> list[np.ndarray]:
    return [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(Image.open(path))]


def test_the_gif_shows_the_record_above_and_the_world_below(world: World, tmp_path: Path) -> None:
    world.model.termination.net[-1].bias.data[:] = -50  # an end would stay on show
    arrays = recorded(world, [30])
    path = look(world, arrays, np.array([0]), tmp_path / "look.gif", context=3, length=5, count=2, seed=1, fps=4)
    shown = read(path)
    assert path.stat().st_size < MAX_BYTES
    assert all(frame.shape[1] == WIDTH for frame in shown)
    rng = np.random.default_rng(1)
    window = windows(arrays, np.array([0]), 8, 2, rng)
    imagined = open_loop(world, window, 3, rng.integers(2**63, size=2).tolist())
    middle = slice(PICTURE // 16, PICTURE, PICTURE // 8)
    for t in (0, 3, 6):
        upper, lower = (shown[t][-2 * PICTURE - 4 :], shown[t][-PICTURE:])
        for picture, truth in ((upper, window["observation"]), (lower, imagined.observation)):
            difference = picture[middle, middle].astype(int) - truth["value"][0, t]
            assert np.abs(difference).mean() < 24, t  # a palette of 256 for noise of all colours
    assert len(shown) in (2 * 8, 2 * (8 + HOLD))  # held frames are one frame shown longer


def test_the_same_seed_gives_the_same_file(world: World, tmp_path: Path) -> None:
    arrays = recorded(world, [6, 9])
    made = [look(world, arrays, np.arange(2), tmp_path / f"{i}.gif", length=6, count=2, seed=3) for i in range(2)]
    assert made[0].read_bytes() == made[1].read_bytes()


@pytest.mark.parametrize("world", [IMAGE_SPACE, spaces.Box(-1, 1, (4,), np.float32), spaces.Discrete(3)], indirect=True)
def test_every_space_can_be_looked_at_and_windows_end_with_the_episode(world: World, tmp_path: Path) -> None:
    path = look(world, recorded(world, [5, 7]), np.arange(2), tmp_path / "look.png", context=3, length=9, count=3)
    assert 3 * 3 <= len(read(path)) <= 3 * (8 + HOLD)


def test_episodes_shorter_than_the_context_are_a_clear_error(world: World, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="context=5"):
        look(world, recorded(world, [4, 3]), np.arange(2), tmp_path / "look.gif")


def test_actions_have_the_environments_names(world: World) -> None:
    assert action_name(world, {"value": np.array([2])}) == "2"
    world.metadata["action_names"] = ["wait", "refund", "close"]
    assert action_name(world, {"value": np.array([2])}) == "close"
    assert action_name(world, {"a": np.array([0.25, -1.0]), "b": np.array([1])}) == "0.25 -1, 1"
