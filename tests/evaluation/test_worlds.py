"""The same code in a World: a stub of known draws, in which everything can be checked."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from tests.evaluation.conftest import small
from tests.simulator.stub_world import StubWorld
from worldsim.errors import SpaceMismatchError
from worldsim.evaluation.cells import Cell
from worldsim.evaluation.stress import StressConfig, StressTest, stress
from worldsim.spaces import flatten

BOTH = {"where": ["real", "world"], "faults": ["missing_data"], "severities": [1.0], "agents": ["balance", "push"]}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StressConfig:
    """A stress test in both worlds; the World stands still and never ends by itself."""
    env = gym.make("CartPole-v1")
    stub = StubWorld(env.observation_space, env.action_space, ending=0.05, horizon=12)
    monkeypatch.setattr("worldsim.simulator.world.load", lambda path, device: stub)
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "world.json").write_text("{}")
    return small(tmp_path / "out", world=tmp_path / "world", **BOTH)


def test_the_world_starts_where_the_real_environment_does(config: StressConfig) -> None:
    test = StressTest(config)
    env = test.make_env(Cell("push", "none", 0.0, "world"))
    assert test.starts is not None
    for seed in config.seeds()[:2]:
        real = gym.make("CartPole-v1").reset(seed=seed)[0]
        assert np.array_equal(test.starts[seed], real)
        started = env.reset(seed=seed, options={"observation": test.starts[seed]})[0]
        assert np.array_equal(flatten(env.observation_space, started)["value"], real)
    recorded = StressTest(config.model_copy(update={"starts": "recorded"}))
    assert recorded.starts is None


def test_both_worlds_side_by_side(config: StressConfig) -> None:
    report = stress(config, progress=False)
    assert [(row["agent"], row["where"]) for row in report.results[:4]] == [
        ("balance", "real"),
        ("balance", "world"),
        ("push", "real"),
        ("push", "world"),
    ]
    for row in report.results:
        assert (row["trust_mean"] is None) == (row["where"] == "real")
    assert len(report.data["comparisons"]["worlds"]) == 4
    assert all("tau_b" in row["by_means"] for row in report.data["ranking"])
    assert all(worst["where"] == ["real", "world"] and worst["replayed"] for worst in report.data["worst"])
    page = report.html()
    assert "How far the World can be believed" in page and "Both worlds start from the same observation" in page
    again = stress(config.model_copy(update={"out": config.out.with_name("again")}), progress=False)
    assert again.data == report.data and again.html() == page


def test_a_changed_world_is_run_again(config: StressConfig) -> None:
    def paths() -> list[Path]:
        test = StressTest(config)
        return [test.store.path(cell, test.cache_key(cell)) for cell in test.cells]

    before, cells = paths(), StressTest(config).cells
    assert config.world is not None
    (config.world / "fidelity.json").write_text('{"horizons": [1]}')
    assert paths() == before, "a certificate changes no figure"
    (config.world / "calibration.json").write_text("{}")
    changed = [old != new for old, new in zip(before, paths(), strict=True)]
    assert changed == [cell.where == "world" for cell in cells]


def test_a_world_of_another_environment_is_refused(config: StressConfig) -> None:
    other = config.model_copy(update={"env": config.env.model_copy(update={"id": "Acrobot-v1", "agents": {}})})
    with pytest.raises(SpaceMismatchError, match="not learned from Acrobot-v1"):
        stress(other.model_copy(update={"agents": ["random"], "where": ["world"]}), progress=False)
