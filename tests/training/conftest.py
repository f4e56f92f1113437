"""Recorded walks in the ring, and configurations of runs that take a second."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.models.toy import ENV, ring_rollouts
from worldsim.models.config import RSSMConfig, SSMConfig
from worldsim.rollouts.dataset import Rollouts
from worldsim.training.config import TrainConfig, TrainerConfig

SMALL = {"embed": 8, "hidden": 8, "width": 16, "ensemble": 2, "head_hidden": 8}
MODELS = {
    "ssm": SSMConfig(**SMALL, variables=2, layers=1, code_width=4),
    "rssm": RSSMConfig(**SMALL, latents=3, latent_classes=4, slot_features=4),
}
SIZES = {"steps": 6, "codec_steps": 5, "codec_frames": 8, "batch": 3, "length": 5, "warmup": 2, "learning_rate": 1e-3}
TRAINER = TrainerConfig(**SIZES, checkpoint_every=4, log_every=1, accelerator="cpu", precision="32-true")
Make = Callable[..., TrainConfig]


@pytest.fixture(scope="session")
def rollouts(tmp_path_factory: pytest.TempPathFactory) -> Rollouts:
    """Not to be changed."""
    return ring_rollouts(tmp_path_factory.mktemp("ring") / "rollouts")


@pytest.fixture
def make(rollouts: Rollouts, tmp_path: Path) -> Make:
    """make(family, out name, seed=..., trainer keys...) -> TrainConfig."""

    def config(family: str = "ssm", out: str = "world", seed: int = 0, **trainer: object) -> TrainConfig:
        loop = TRAINER.model_copy(update=trainer)
        return TrainConfig(
            env=ENV, model=MODELS[family], trainer=loop, data=rollouts.path, out=tmp_path / out, seed=seed
        )

    return config
