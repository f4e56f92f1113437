"""A small stress test on CartPole, run once: no World is needed for most of what a report promises."""

from pathlib import Path
from typing import Any

import pytest

from worldsim.envs.make import EnvConfig
from worldsim.evaluation.report import Report
from worldsim.evaluation.stress import StressConfig, stress

AGENTS = {name: f"tests.evaluation.agents:{name.title()}" for name in ("balance", "push", "brittle")}
CARTPOLE = EnvConfig(id="CartPole-v1", max_episode_steps=40, agents=AGENTS, success_return=40.0, violation_reward=-1.0)


def small(out: Path, **changes: Any) -> StressConfig:
    """The test's configuration, with changes."""
    settings = {"env": CARTPOLE, "where": ["real"], "episodes": 6, "severities": [0.5, 1.0], "worst": 2, "out": out}
    settings["faults"] = ["slow_api", "missing_data"]
    return StressConfig.model_validate({**settings, **changes})


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stress")


@pytest.fixture(scope="session")
def report(out: Path) -> Report:
    return stress(small(out), progress=False)
