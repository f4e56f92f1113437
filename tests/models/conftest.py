"""Every family in a small model of a nested space, and random sequences of that space."""

from collections.abc import Iterator

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from worldsim.models import conformance
from worldsim.models.config import DiffusionConfig, ModelConfig, RSSMConfig, SSMConfig, TransformerConfig
from worldsim.models.conformance import fresh
from worldsim.models.latent import LatentWorldModel
from worldsim.models.world_model import Batch, WorldModel

LEAST = {"width": 32, "ensemble": 3, "head_hidden": 16}
SMALL = {**LEAST, "embed": 16, "hidden": 24}
RECURRENT = {"latents": 6, "latent_classes": 5, "units": 24, "slot_features": 12, "free_nats": 0}
LATENT: dict[str, ModelConfig] = {
    "ssm": SSMConfig(**SMALL, variables=3, layers=2, code_width=8),
    "transformer": TransformerConfig(**SMALL, variables=3, code_width=8, heads=2, window=16),
    "transformer, short window": TransformerConfig(**SMALL, variables=3, code_width=8, heads=2, window=3),
    "rssm": RSSMConfig(**SMALL, **RECURRENT),
    "rssm in blocks": RSSMConfig(**SMALL, **RECURRENT, blocks=4),
}
DENOISER = {"channels": 8, "condition": 16, "targets": 3}
FAMILIES: dict[str, ModelConfig] = LATENT | {
    "diffusion": DiffusionConfig(**LEAST, **DENOISER, context=3),
    "diffusion, one timestep, Heun": DiffusionConfig(**LEAST, **DENOISER, context=1, levels=1, order=2),
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


@pytest.fixture(params=LATENT)
def latent_model(request: pytest.FixtureRequest) -> LatentWorldModel:
    found = built(LATENT[request.param])
    assert isinstance(found, LatentWorldModel)
    return found


def built(config: ModelConfig, observed: gym.Space = NESTED, acted: gym.Space = ACTIONS) -> WorldModel:
    return fresh(config, observed, acted)


def random_batch(rows: int, length: int, seed: int = 0, first: bool = False) -> Batch:
    """Sequences of noise. first: episodes begin at row 0 and now and then later."""
    return conformance.random_batch(NESTED, ACTIONS, rows, length, seed, 0.2 * first)
