"""Each family learns a small deterministic world, of which every future is known."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.models.toy import Ring, ring_arrays
from worldsim.models.config import DiffusionConfig, ModelConfig, RSSMConfig, SSMConfig, TransformerConfig
from worldsim.models.world_model import Batch, Predicted, WorldModel
from worldsim.rollouts.arrays import EpisodeArrays
from worldsim.rollouts.sampling import SequenceSampler, windows
from worldsim.training.statistics import fit_statistics

SEEN, HORIZON = 4, 10
LEAST = {"width": 64, "ensemble": 2, "head_hidden": 32}
SMALL = {**LEAST, "embed": 16, "hidden": 32}
DENOISER = {"context": 2, "channels": 16, "levels": 1, "condition": 64, "targets": 6}


class Recipe(NamedTuple):
    """What a family needs to learn the ring."""

    config: ModelConfig
    learning_rate: float  # at its highest
    drawing: int  # updates of the codec alone
    steps: int
    length: int


CODES = {"variables": 3, "code_width": 12}
LATENTS = {"latents": 16, "latent_classes": 8, "units": 64, "blocks": 8, "slot_features": 16, "free_nats": 0.3}
RECIPES = {
    "ssm": Recipe(SSMConfig(**SMALL, **CODES, layers=1), 1e-2, 150, 200, 6),
    "transformer": Recipe(TransformerConfig(**SMALL, **CODES, window=6), 1e-2, 150, 200, 6),
    "rssm": Recipe(RSSMConfig(**SMALL, **LATENTS), 5e-3, 0, 700, 8),
    "diffusion": Recipe(DiffusionConfig(**LEAST, **DENOISER), 3e-3, 0, 500, 6),
}


def learned(recipe: Recipe) -> WorldModel:
    env, arrays = Ring(), ring_arrays(64, 20, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = recipe.config.build(env.observation_space, env.action_space, (0.0, 1.0))
    return trained(model, arrays, recipe)


def trained(model: WorldModel, arrays: EpisodeArrays, recipe: Recipe) -> WorldModel:
    """The model after the recipe's updates on 64 episodes."""
    fit_statistics(model, arrays, np.arange(64), np.random.default_rng(0))
    sampler = SequenceSampler(arrays, np.arange(64), 16, recipe.length, np.random.default_rng(0))
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), fused=True)
    for step in range(-recipe.drawing, recipe.steps):
        done, stage = (step / recipe.steps, -1) if step >= 0 else (1 + step / recipe.drawing, 0)
        rise = min(1.0, (step % max(1, recipe.steps) + 1) / 10) if step >= 0 else 1.0
        optimizer.param_groups[0]["lr"] = recipe.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * done))
        rows = Batch.from_numpy(sampler.sample())
        model.losses(rows, generator, model.stages[stage]).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def imagined(model: WorldModel, batch: Batch) -> Iterator[tuple[int, Predicted, dict[str, Tensor]]]:
    """The most probable future after SEEN timesteps of a batch: row, what is predicted, what is seen."""
    seen = batch.each(lambda value: value[:, :SEEN])
    state = model.observe(seen.observation, seen.action, torch.arange(SEEN).expand(len(seen.first), -1) == 0).state
    for t in range(SEEN, SEEN + HORIZON):
        state, now = model.step(state, {name: value[:, t] for name, value in batch.action.items()}, None)
        yield t, now, model.decode(state)


@pytest.mark.parametrize("family", RECIPES)
def test_learns_the_ring(family: str) -> None:
    model = learned(RECIPES[family])
    held = windows(ring_arrays(40, 20, seed=1), np.arange(40), SEEN + HORIZON, 40, np.random.default_rng(0))
    batch = Batch.from_numpy(held)
    with torch.inference_mode():
        for t, now, drawn in imagined(model, batch):
            right = (drawn["count"] == batch.observation["count"][:, t]).float().mean()
            assert right == 1, (t, right)
            error = (drawn["frame"].float() - batch.observation["frame"][:, t].float()) / 255
            psnr = -10 * torch.log10(error.square().mean((1, 2, 3)) + 1e-9)
            assert psnr.min() > 25, (t, psnr)  # a place off is 9 dB
            assert (model.reward.mean(now.features) - batch.reward[:, t]).abs().max() < 0.2, t
