from pathlib import Path

import pytest

from worldsim.rollouts.collect import CollectConfig, collect
from worldsim.rollouts.dataset import Rollouts


@pytest.fixture(scope="session")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Rollouts:
    """300 steps of CartPole; not to be changed."""
    out: Path = tmp_path_factory.mktemp("rollouts") / "cartpole"
    return collect(CollectConfig(env={"id": "CartPole-v1"}, steps=300, seed=7, out=out), progress=False)
