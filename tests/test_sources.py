"""Nothing that was worked out with other code is used again: changes of every kind, each in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import invalidate_caches, metadata, reload
from pathlib import Path
from typing import NamedTuple

import pytest

from worldsim import sources as module
from worldsim.sources import files_named, own_code, sources, versions

ENV = """
import gymnasium as gym
import numpy as np

class Env(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        from my_rewards import REWARD  # not before it is needed
        self.steps += 1
        return np.zeros(2, np.float32), REWARD * float(action), self.steps == 10, False, {}
"""
AGENT = """
import json
from pathlib import Path
from my_parts.choice import choose

class Agent:
    def __init__(self, observation_space, action_space):
        self.table = json.loads(Path(__file__).with_name("table.json").read_text())

    def reset(self, seed): ...

    def act(self, observation, info):
        return choose(self.table)
"""
FAULT = """
from worldsim.faults import Reply, fault

@fault("closed")
def closed(call, context):
    if context.number >= AFTER * context.severity:
        context.record(lost="request")
        return Reply.failed("unavailable")
    return (yield call)
"""
FILES = {
    "my_env.py": "import gymnasium\ngymnasium.register('Mine-v0', 'my_world:Env')\n",
    "my_world.py": ENV,
    "my_rewards.py": "REWARD = 1.0\n",
    "my_agent.py": AGENT,
    "my_parts/__init__.py": "",
    "my_parts/choice.py": "from . import inner\n\ndef choose(table):\n    return inner.look_up(table)\n",
    "my_parts/inner.py": "def look_up(table):\n    return table['action']\n",
    "table.json": '{"action": 1}',
    "my_fault.py": FAULT.replace("AFTER", "8"),
    "plan.yaml": "name: own\nfaults:\n  - kind: my_fault:closed\n",
    "other.py": "SOMETHING = 1\n",
}
STRESS = "stress env=my_env:Mine-v0 where=[real] agents=[my_agent:Agent] faults=[plan.yaml] severities=[1.0] episodes=2"


# Runs commands that it is sent, each in a process of its own, which begins as a copy of this one: importing torch takes
# longer than all that the commands do.
FORKING = """
import json, os, sys, traceback
import worldsim.evaluation.stress, worldsim.fidelity.validate, worldsim.play.look, worldsim.training.loop
from worldsim.cli import main

for line in sys.stdin:
    folder, words, out, err = json.loads(line)
    child = os.fork()
    if not child:
        os.chdir(folder)
        sys.path.insert(0, folder)
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        code = 1
        try:
            code = main(words)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Ran(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


Run = Callable[[Path, str], Ran]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs a command of worldsim in a folder, in a process of its own."""
    shown = tmp_path_factory.mktemp("shown")
    environment = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[1])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    forking = subprocess.Popen([sys.executable, "-c", FORKING], **pipes)  # type: ignore[call-overload]

    def run(folder: Path, typed: str) -> Ran:
        out, err = shown / "out", shown / "err"
        forking.stdin.write(json.dumps([str(folder), typed.split(), str(out), str(err)]) + "\n")
        forking.stdin.flush()
        return Ran(int(forking.stdout.readline()), out.read_text(), err.read_text())

    yield run
    forking.stdin.close()
    assert forking.wait(60) == 0


def returns(run: Run, folder: Path) -> list[float]:
    """Clean and under the fault, from the same command in the same folder."""
    ran = run(folder, f"{STRESS} max_steps=10 worst=0 out=out")
    assert ran.returncode == 0, ran.stderr
    return [row["return_mean"] for row in json.loads((folder / "out" / "report.json").read_text())["results"]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_report_is_of_the_code_that_is_there(run: Run, project: Path) -> None:
    assert returns(run, project) == [10.0, 4.0]
    cells = {path: path.stat().st_mtime_ns for path in (project / "out" / "cells").iterdir()}
    (project / "other.py").write_text("SOMETHING = 2\n")  # which nothing here imports
    assert returns(run, project) == [10.0, 4.0]
    assert {path: path.stat().st_mtime_ns for path in (project / "out" / "cells").iterdir()} == cells
    for name, text, found in (
        ("my_rewards.py", "REWARD = -5.0\n", [-50.0, -20.0]),
        ("my_fault.py", FAULT.replace("AFTER", "12"), [-50.0, -30.0]),
        ("my_parts/inner.py", "def look_up(table):\n    return 1 - table['action']\n", [0.0, 0.0]),
        ("table.json", '{"action": 0}', [-50.0, -30.0]),
    ):
        (project / name).write_text(text)
        assert returns(run, project) == found, name


def test_rollouts_of_changed_code_are_refused(run: Run, project: Path) -> None:
    typed = "collect env=my_env:Mine-v0 steps=20 out=data"
    assert run(project, typed).returncode == 0
    (project / "my_agent.py").write_text(AGENT + "\n# which has nothing to do with it\n")
    assert run(project, typed).returncode == 0
    (project / "my_rewards.py").write_text("REWARD = -5.0\n")
    refused = run(project, typed)
    assert refused.returncode == 2 and refused.stderr.count("worldsim: ") == 1
    assert "my_rewards.py of the environment or the policy has changed; choose another out=" in refused.stderr


def test_quickstart_looks_at_the_code_behind_every_step(run: Run, project: Path) -> None:
    typed = "quickstart env=my_env:Mine-v0 experiment=debug stress.agents=[my_agent:Agent] stress.faults=[plan.yaml]"
    typed += " collect.steps=200 out=quick"
    done = run(project, typed)
    assert done.returncode == 0, done.stderr
    assert run(project, typed).stdout.count("already done") == 5
    (project / "my_parts" / "inner.py").write_text("def look_up(table):\n    return 1 - table['action']\n")
    again = run(project, typed)
    assert again.returncode == 0 and again.stdout.count("already done") == 4
    rows = json.loads((project / "quick" / "report.json").read_text())["results"]
    assert {row["return_mean"] for row in rows if row["where"] == "real"} == {0.0}
    (project / "my_rewards.py").write_text("REWARD = -5.0\n")
    refused = run(project, typed)
    assert refused.returncode == 2 and "my_rewards.py of the environment" in refused.stderr


def test_what_is_followed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(project)
    before = set(sys.modules)
    found = sources(["my_env", "my_agent"])
    code = ["my_env", "my_world", "my_rewards", "my_agent", "my_parts/__init__", "my_parts/choice", "my_parts/inner"]
    assert set(found.code) == {str(project / f"{name}.py") for name in code}
    assert [Path(path).name for path in found.data] == ["table.json"]
    assert found.packages == {"gymnasium", "numpy"}
    assert not {name for name in sys.modules.keys() - before if name.startswith("my_")}, "nothing was imported"
    assert own_code(["gymnasium.envs.classic_control", "worldsim.envs", "json", "nowhere", ""]) == []
    (project / "my_broken.py").write_text("def (")
    assert len(own_code(["my_broken"])) == 1


def test_a_loaded_module_counts_as_what_runs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(project)
    invalidate_caches()
    import my_rewards  # type: ignore[import-not-found]

    try:
        before = own_code(["my_rewards"])
        (project / "my_rewards.py").write_text("REWARD = -555.0\n")
        assert my_rewards.REWARD == 1.0 and own_code(["my_rewards"]) == before
        reload(my_rewards)
        assert my_rewards.REWARD == -555.0 and own_code(["my_rewards"]) != before
    finally:
        del sys.modules["my_rewards"]


def test_a_package_is_its_version_and_its_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(name: str, version: str, record: str, requires: str = "") -> None:
        about = tmp_path / f"{name}.dist-info"
        about.mkdir(exist_ok=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}")
        (about / "RECORD").write_text(record)
        (about / "top_level.txt").write_text(f"{name}\n")

    def found_versions() -> dict[str, str]:
        invalidate_caches()
        versions.cache_clear()
        return versions(frozenset({"my_pack"}))

    monkeypatch.syspath_prepend(tmp_path)
    installed("my_base", "1.0", "my_base.py,sha256=a,1\n")
    needs = "Requires-Dist: my-base (>=1)\nRequires-Dist: absent; extra == 'more'\nRequires-Dist: nowhere\n"
    seen = []
    for pack, base in ((("1.0", "a"), "a"), (("1.1", "a"), "a"), (("1.1", "b"), "a"), (("1.1", "b"), "c")):
        installed("my_pack", pack[0], f"my_pack.py,sha256={pack[1]},1\n", needs)
        installed("my_base", "1.0", f"my_base.py,sha256={base},1\n")
        seen.append(found_versions())
    assert all(one != other for number, one in enumerate(seen) for other in seen[:number])
    assert seen[0]["my-pack"].startswith("1.0 ") and "absent" not in seen[0] and "nowhere" not in seen[0]
    assert seen[0]["numpy"].startswith(metadata.version("numpy")) and "python" in seen[0]
    versions.cache_clear()


def test_files_that_arguments_name_count(tmp_path: Path) -> None:
    file = tmp_path / "map.txt"
    file.write_text("a")
    values = {"map": str(file), "size": 3, "deep": [{"again": "nowhere.txt"}, None]}
    before = files_named(values)
    file.write_text("b")
    assert list(before) == [str(file)] and files_named(values) != before
    assert files_named(["", "a\0b", "x" * 1000, 1.5]) == {}
