"""The lowest versions that pyproject.toml states are enough: on demand, WORLDSIM_LOWEST=1 pytest <this file>.

It takes some minutes and a gigabyte: an environment of its own, in which the whole quickstart runs once.
"""

import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BOUND = re.compile(r"(?P<package>[\w.-]+(\[[\w,]+\])?)>=(?P<version>[\d.]+)")


def lowest() -> list[str]:
    """Requirements: of each dependency the newest release of the lowest series that is stated."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = [BOUND.fullmatch(each) for each in project["dependencies"]]
    assert None not in stated, "every dependency states a lowest version, and nothing else"
    return [f"{each['package']}=={each['version']}.*" for each in stated if each and each["package"] != "torch"]


def test_every_dependency_states_a_lowest_version() -> None:
    assert len(lowest()) > 15


@pytest.mark.skipif("WORLDSIM_LOWEST" not in os.environ, reason="on demand: WORLDSIM_LOWEST=1")
@pytest.mark.timeout(1800)
def test_the_quickstart_runs_on_the_lowest_versions(tmp_path: Path) -> None:
    """torch is the one of constraints.txt: of others the packages bring gigabytes for GPUs."""
    torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", torch, *lowest()], check=True)
    out = tmp_path / "quickstart"
    done = subprocess.run(
        [python, "-m", "worldsim", "quickstart", "experiment=debug", f"out={out}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (out / "report.html").stat().st_size > 10_000 and (out / "fidelity.html").is_file()
