"""A barely trained world of the ring, and what it learned from."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.models.toy import ENV, ring_rollouts
from tests.training.conftest import MODELS, TRAINER
from worldsim.rollouts.dataset import Rollouts
from worldsim.training.config import TrainConfig
from worldsim.training.loop import train


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Networks as small as these are slower on two threads."""
    torch.set_num_threads(1)
    yield


@pytest.fixture(scope="session")
def rollouts(tmp_path_factory: pytest.TempPathFactory) -> Rollouts:
    """Not to be changed."""
    return ring_rollouts(tmp_path_factory.mktemp("fidelity") / "rollouts")


@pytest.fixture(scope="session", params=MODELS)
def folder(request: pytest.FixtureRequest, rollouts: Rollouts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world's folder. Nothing may be written there."""
    out = tmp_path_factory.mktemp(request.param) / "world"
    trainer = TRAINER.model_copy(update={"holdout": 0.4})
    train(
        TrainConfig(env=ENV, model=MODELS[request.param], trainer=trainer, data=rollouts.path, out=out), progress=False
    )
    return out
