"""Places that one process at a time writes to, and files that are somebody else's: with real processes and kills."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.cli import main
from worldsim.errors import ConfigError
from worldsim.files import SEAL, alone_at, alone_in, is_broken, sealed, write_atomically
from worldsim.rollouts.dataset import Rollouts

HOLD = """
import sys, time
from pathlib import Path
from worldsim.files import alone_in, alone_at
with {how}(Path(sys.argv[1])):
    print("held", flush=True)
    {then}
"""
STRAY = "0123456789abcdef" * 2


def holder(place: Path, how: str = "alone_in", then: str = "time.sleep(60)") -> "subprocess.Popen[str]":
    """A process that has the place to itself until it is killed."""
    code = HOLD.format(how=how, then=then)
    process = subprocess.Popen([sys.executable, "-c", code, str(place)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def end(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("how", [alone_in, alone_at])
def test_a_second_process_gets_an_error_of_one_line_and_a_killed_one_is_no_obstacle(how, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    place = tmp_path / "place"
    process = holder(place, how.__name__)
    try:
        with pytest.raises(ConfigError, match="place is in use by .* choose another out=") as error, how(place):
            pass
        assert "\n" not in str(error.value)
    finally:
        end(process)
    left = [path.name for path in tmp_path.rglob("*.lock")]
    assert left, "whoever is killed leaves the file"
    with how(place):
        pass
    assert not list(tmp_path.rglob("*.lock"))


def test_two_threads_of_one_process_are_two(tmp_path: Path) -> None:
    with alone_in(tmp_path), pytest.raises(ConfigError, match="is in use"), alone_in(tmp_path):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is inherited there")
def test_a_child_does_not_keep_the_lock_of_a_parent_that_was_killed(tmp_path: Path) -> None:
    process = holder(tmp_path, then=r"import os; os.write(1, b'%d\n' % os.fork()); time.sleep(60)")
    assert process.stdout is not None
    children = sorted(int(process.stdout.readline()) for _ in range(2))
    end(process)
    try:
        with alone_in(tmp_path):
            pass
    finally:
        os.kill(children[1], signal.SIGKILL)


def _count(folder: Path, times: int) -> None:
    for _ in range(times):
        while True:
            try:
                with alone_in(folder / "lock"):
                    number = int((folder / "number").read_text())
                    time.sleep(0.001)
                    (folder / "number").write_text(str(number + 1))
                break
            except ConfigError:
                time.sleep(0.0005)


def test_there_is_never_more_than_one_whoever_comes_and_goes(tmp_path: Path) -> None:
    """The lock file and its folder come and go with whoever has them, and still nobody slips in between."""
    (tmp_path / "number").write_text("0")
    context = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")
    processes = [context.Process(target=_count, args=(tmp_path, 25)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "number").read_text() == "100"
    assert not list(tmp_path.rglob("*.lock"))


def test_what_killed_writers_left_goes_and_nothing_else(tmp_path: Path) -> None:
    strays = [tmp_path / f".a.json.{STRAY}", tmp_path / "cells" / f".b.{STRAY}"]
    kept = [tmp_path / ".gitignore", tmp_path / "else" / f".c.{STRAY}", tmp_path / f"d.{STRAY}", tmp_path / ".e.12ab"]
    for path in (*strays, *kept):
        write_atomically(path, "x")
    with alone_in(tmp_path, "cells"):
        pass
    assert not any(path.exists() for path in strays) and all(path.exists() for path in kept)
    one, other = tmp_path / f".plan.yaml.{STRAY}", tmp_path / f".mine.yaml.{STRAY}"
    for path in (one, other):
        path.write_text("x")
    with alone_at(tmp_path / "plan.yaml"):
        pass
    assert not one.exists() and other.exists()


def test_a_folder_that_nothing_was_written_to_is_gone_again(tmp_path: Path) -> None:
    with pytest.raises(KeyError), alone_in(tmp_path / "a" / "b"):
        raise KeyError
    assert not list(tmp_path.iterdir())
    with alone_in(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "kept").touch()
    assert (tmp_path / "a" / "b" / "kept").exists()


def test_a_write_that_is_killed_leaves_the_old_file_and_a_stray_that_goes(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    code = """
import os, sys
from pathlib import Path
from worldsim import files
files.os.fsync = lambda _: os.kill(os.getpid(), 9)
files.write_atomically(Path(sys.argv[1]), "new")
"""
    assert subprocess.run([sys.executable, "-c", code, str(file)]).returncode == -signal.SIGKILL
    assert file.read_text() == "old" and len(list(tmp_path.iterdir())) == 2
    with alone_at(file):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "typed",
    [
        "collect env=CartPole-v1 steps=20 out={0}",
        "stress env=CartPole-v1 where=[real] agents=[random] episodes=1 worst=0 out={0}",
        "quickstart experiment=debug out={1}",
        "schema faults out={2}",
    ],
)
def test_every_verb_reports_it_in_a_line(typed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = tmp_path / "a", tmp_path / "q", tmp_path / "s.json"
    with alone_in(places[0]), alone_in(places[1] / "steps"), alone_at(places[2]):
        assert main(typed.format(*places).split()) == 2
    said = capsys.readouterr().err
    assert "is in use" in said and said.count("\n") == 1


def test_two_collections_at_once_give_the_data_of_one(tmp_path: Path) -> None:
    typed = [sys.executable, "-m", "worldsim", "collect", "env=CartPole-v1", "steps=2000"]
    assert subprocess.run([*typed, f"out={tmp_path / 'alone'}"]).returncode == 0
    both = [subprocess.Popen([*typed, f"out={tmp_path / 'both'}"], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    codes = [process.returncode for process in both]
    assert set(codes) <= {0, 2} and 0 in codes  # 0, 0: the second came when the first had ended
    for code, each in zip(codes, said, strict=True):
        assert code == 0 or ("is in use" in each and each.count("worldsim: ") == 1)
    alone, found = Rollouts(tmp_path / "alone"), Rollouts(tmp_path / "both")
    assert (found.steps, found.content_hash) == (alone.steps, alone.content_hash)
    assert found.arrays().content_hash == alone.content_hash


TRACES = [{"tool": "look_up", "start_s": float(i), "latency_s": 0.1 + 0.001 * i} for i in range(40)]


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with work of somebody else, under the names that worldsim gives its own."""
    monkeypatch.chdir(tmp_path)
    assert main(["collect", "env=CartPole-v1", "steps=60", "out=data"]) == 0
    Path("traces.jsonl").write_text("".join(json.dumps(line) + "\n" for line in TRACES))
    folder = Path("other")
    names = (
        "weights.safetensors starts.safetensors world.json calibration.json fidelity.json fidelity.html fidelity.png"
    )
    names += (
        " fidelity.gif fidelity.odt report.json report.html ppo.zip plan.yaml look.gif schema.json config-stress.yaml"
    )
    for name in names.split():
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f"mine: {name}")
    with zipfile.ZipFile(folder / "ppo.zip", "w") as archive:
        archive.writestr("data", "an agent of somebody else")
    (folder / "training" / "step-00000001").mkdir(parents=True)
    (folder / "training" / "step-00000001" / "notes").write_text("mine")
    yield folder


TRAIN = "train env=CartPole-v1 trainer=quick trainer.steps=2 trainer.codec_steps=2 data=data"
STRESS = "stress env=CartPole-v1 where=[real] agents=[random] episodes=1 worst=0 faults=[]"


@pytest.mark.parametrize(
    "typed, named",
    [
        (f"{TRAIN} out=other", "world.json"),
        (f"{STRESS} out=other", "config-stress.yaml"),
        ("ppo env=CartPole-v1 steps=1 out=other/ppo.zip", "ppo.zip"),
        ("faults fit traces.jsonl out=other/plan.yaml", "plan.yaml"),
        ("look world=world data=data out=other/look.gif", "look.gif"),
        ("validate world=world data=data out=other", "calibration.json"),
        ("schema faults out=other/schema.json", "schema.json"),
        ("quickstart experiment=debug out=other", "fidelity.json"),
    ],
)
def test_files_of_somebody_else_are_never_touched(
    typed: str, named: str, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in (*other.rglob("*"), Path("traces.jsonl")) if path.is_file()}
    assert main(typed.split()) == 2
    said = capsys.readouterr().err
    assert f"{named} exists and was not written by worldsim" in said and said.count("\n") == 1
    after = {path: path.read_bytes() for path in (*other.rglob("*"), Path("traces.jsonl")) if path.is_file()}
    assert after == before


@pytest.mark.parametrize("name", ["report.json", "report.html"])
def test_each_file_of_a_report_is_looked_at(name: str, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in other.glob("*.*"):
        if path.name != name:
            path.unlink()
    assert main(f"{STRESS} out=other".split()) == 2
    assert f"{name} exists and was not" in capsys.readouterr().err


def test_what_worldsim_wrote_is_written_again(other: Path) -> None:
    """The same commands twice, and once more after other settings."""
    for typed, key in (
        (f"{STRESS} out=new", "seed"),
        (f"{TRAIN} out=world", ""),
        ("look world=world data=data context=1 length=2 count=1 out=new.gif", "seed"),
        ("look world=world data=data context=1 length=2 count=1 out=new.png", "seed"),
        ("ppo env=CartPole-v1 steps=1 out=new.zip", "seed"),
        ("faults fit traces.jsonl out=new.yaml", "seed"),
        ("schema faults out=new.json", ""),
    ):
        assert main(typed.split()) == 0
        assert main(typed.split()) == 0
        assert not key or main([*typed.split(), f"{key}=3"]) == 0
    assert not list(Path().rglob(".*.lock"))


def test_only_what_belongs_to_a_world_goes_when_it_is_learned_anew(other: Path) -> None:
    assert main(f"{TRAIN} out=world".split()) == 0
    (Path("world") / "fidelity.odt").write_text("mine")
    (Path("world") / "training" / "step-00000001").mkdir()
    (Path("world") / "training" / "step-00000001" / "notes").write_text("mine")
    (Path("world") / "weights.safetensors").write_bytes(b"cut")
    assert main(f"{TRAIN} out=world".split()) == 0
    assert (Path("world") / "fidelity.odt").read_text() == "mine"
    assert (Path("world") / "training" / "step-00000001" / "notes").read_text() == "mine"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4), st.text(max_size=5), json_values)
@settings(deadline=None, derandomize=True, max_examples=100)
def test_a_seal_detects_any_change_and_survives_being_stored(data: dict, key: str, value: object) -> None:
    read = json.loads(json.dumps(sealed(data), indent=1))
    assert not is_broken(read) and {k: v for k, v in read.items() if k != SEAL} == {
        k: v for k, v in json.loads(json.dumps(data)).items() if k != SEAL
    }
    changed = {**read, key: value}
    assert key == SEAL or is_broken(changed) == (
        json.dumps(changed, sort_keys=True) != json.dumps(read, sort_keys=True)
    )
