"""Every family of dynamics in a small model of a nested space, and random sequences of that space."""

from collections.abc import Iterator

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from worldsim.models.config import ModelConfig, RSSMConfig, SSMConfig, TransformerConfig
from worldsim.models.world_model import Batch, WorldModel
from worldsim.spaces import leaves

SMALL = {"embed": 16, "hidden": 24, "width": 32, "ensemble": 3, "head_hidden": 16}
RECURRENT = {"latents": 6, "latent_classes": 5, "units": 24, "slot_features": 12, "free_nats": 0}
FAMILIES: dict[str, ModelConfig] = {
    "ssm": SSMConfig(**SMALL, variables=3, layers=2, code_width=8),
    "transformer": TransformerConfig(**SMALL, variables=3, code_width=8, heads=2, window=16),
    "transformer, short window": TransformerConfig(**SMALL, variables=3, code_width=8, heads=2, window=3),
    "rssm": RSSMConfig(**SMALL, **RECURRENT),
    "rssm in blocks": RSSMConfig(**SMALL, **RECURRENT, blocks=4),
}
NESTED = spaces.Dict(
    grey=spaces.Box(0, 255, (11, 18), np.uint8),  # whole patches of 8 do not fit
    scene=spaces.Tuple([spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.Box(-np.inf, np.inf, (2, 2), np.float32)]),
    mode=spaces.MultiDiscrete([2, 7], start=[0, -3]),
    note=spaces.Text(3, min_length=0, charset="ab"),
)
ACTIONS = spaces.Dict(button=spaces.Discrete(3, start=1), stick=spaces.Box(-1, 1, (2,), np.float32))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Networks as small as these are slower on two threads."""
    torch.set_num_threads(1)
    yield


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> WorldModel:
    return built(FAMILIES[request.param])


def built(config: ModelConfig, observed: gym.Space = NESTED, acted: gym.Space = ACTIONS, seed: int = 0) -> WorldModel:
    """A model with fresh weights; those that begin at zero are random too, so that every part has a say."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = WorldModel(config, observed, acted, (-1.0, 2.0))
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    return model


def random_batch(rows: int, length: int, seed: int = 0, first: bool = False) -> Batch:
    """Sequences of noise. first: episodes begin at row 0 and now and then later."""
    rng = np.random.default_rng(seed)

    def noise(space: gym.Space) -> dict[str, np.ndarray]:
        made = {}
        for leaf in leaves(space):
            shape = (rows, length, *leaf.shape)
            if leaf.is_discrete:
                made[leaf.name] = rng.integers(leaf.nvec, size=shape)
            elif leaf.kind == "image":
                made[leaf.name] = rng.integers(256, size=shape, dtype=np.uint8)
            else:
                made[leaf.name] = rng.normal(size=shape).astype(np.float32)
        return made

    begins = rng.random((rows, length)) < 0.2 * first
    begins[:, 0] = first
    arrays = {"observation": noise(NESTED), "action": noise(ACTIONS), "first": begins}
    reward = rng.normal(size=(rows, length)).astype(np.float32)
    return Batch.from_numpy({**arrays, "reward": reward, "terminated": rng.random((rows, length)) < 0.1})


def part(batch: Batch, rows: slice, times: slice) -> Batch:
    """Some rows and moments of a batch."""
    return batch.each(lambda item: item[rows, times])
