"""Two worlds: numpy draws whose every value is known, and a real one with fresh weights in a directory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from tests.simulator.stub_world import IMAGE_SPACE, StubWorld
from worldsim.models.checkpoint import FORMAT, WorldManifest, save_world
from worldsim.models.config import SSMConfig
from worldsim.simulator.calibration import Calibration, Trust
from worldsim.spaces import flatten, space_to_json

TINY = SSMConfig(embed=16, hidden=16, variables=2, width=32, layers=1, code_width=4, ensemble=2, head_hidden=16)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Networks as small as these are slower on two threads, and much slower where other tests run beside them."""
    torch.set_num_threads(1)


@pytest.fixture
def world() -> StubWorld:
    return StubWorld()


def save_tiny_world(folder: Path, observation_space: spaces.Space = IMAGE_SPACE) -> None:
    """A world with random weights and random starts: right in form alone."""
    manifest = WorldManifest(
        format=FORMAT,
        worldsim="test",
        model=TINY,
        observation_space=space_to_json(observation_space),
        action_space=space_to_json(spaces.Discrete(3)),
        reward_range=(-1.0, 1.0),
        horizon=25,
        metadata={"render_modes": ["rgb_array"], "render_fps": 4},
        env={},
        data={},
        training={},
    )
    observation_space.seed(0)
    rows = [flatten(observation_space, observation_space.sample()) for _ in range(8)]
    starts = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_world(folder, manifest, manifest.build(), starts)


@pytest.fixture(scope="session")
def world_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny world with a made-up calibration."""
    folder = tmp_path_factory.mktemp("world")
    save_tiny_world(folder)
    curve = Trust(np.array([0.0, 50.0]), np.array([1.0, 0.0]), max_disagreement=1e9)
    (folder / "calibration.json").write_text(Calibration(curve).to_json())
    return folder
