"""--multirun through launchers that run jobs in other processes."""

import importlib.util
from pathlib import Path

import pytest

from worldsim.cli import main

TYPED = [
    "collect",
    "--multirun",
    "hydra/launcher=joblib",
    "env=CartPole-v1",
    "steps=20",
    "policy=random,nobody",
    "out=m",
]


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_jobs_of_the_joblib_launcher_report_what_failed(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    assert main([*TYPED, "hydra.launcher.n_jobs=2", "seed=3,4"]) == 2
    made = sorted(path.parent.name for path in Path("m").glob("*/provenance.json"))
    assert made == ["policy=random,seed=3", "policy=random,seed=4"]
    message = capfd.readouterr().err
    last = message.splitlines()[-1]
    assert last.startswith("worldsim: 2 of the runs failed: policy=nobody,seed=3 (there is no agent 'nobody'")
    assert "; policy=nobody,seed=4 (there is no agent 'nobody'" in last and "Traceback" not in message
    assert [path.name for path in Path().iterdir()] == ["m"]


def test_jobs_of_the_submitit_launcher_on_this_machine_do_too(capfd: pytest.CaptureFixture[str]) -> None:
    """What its jobs print is in files: the reason must be reported at the end."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    assert main([*[word.replace("joblib", "submitit_local") for word in TYPED], "hydra.launcher.timeout_min=5"]) == 2
    assert [path.parent.name for path in Path("m").glob("*/provenance.json")] == ["policy=random"]
    assert "1 of the runs failed: policy=nobody (there is no agent 'nobody'" in capfd.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("hydra_plugins") is not None, reason="a launcher is installed")
def test_a_launcher_that_is_not_installed_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(TYPED) == 2
    assert "there is no launcher 'joblib' here; pip install 'worldsim[sweeps]'" in capsys.readouterr().err
