"""A finished job one file of which was damaged: it is made again as it was, or named in a line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import worldsim
from worldsim.cli import main
from worldsim.files import hash_of, sealed

FILES = (
    "rollouts/provenance.json",
    "rollouts/minari-data/main_data.hdf5",
    "rollouts/minari-data/metadata.json",
    "world/world.json",
    "world/weights.safetensors",
    "world/starts.safetensors",
    "world/calibration.json",
    "world/fidelity.json",
    "world/fidelity.html",
    "real_vs_world.gif",
    "fidelity.html",
    "fidelity.json",
    "report.json",
    "report.html",
    "steps/train.json",
)
DATED = {"rollouts/provenance.json", "rollouts/minari-data/main_data.hdf5", "steps/train.json"}  # not the same twice


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    """One bit of the middle, or of the first digit after it where it is a text."""
    middle = len(data) // 2
    digits = [at for at in range(middle, len(data)) if data[at : at + 1] in b"2345678"] if data[:1] in b"{<" else []
    at = digits[0] if digits else middle
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("damage") / "run"
    assert main(["quickstart", "experiment=debug", f"out={out}"]) == 0
    return out


def check_mended(finished: Path, damage: Callable[[bytes], bytes], *names: str) -> None:
    """The same command makes damaged files again, as they were."""
    before = {each: hash_of(finished / each) for each in FILES}
    damaged = {name: damage((finished / name).read_bytes()) for name in names}
    for name, data in damaged.items():
        assert data != (finished / name).read_bytes()
        (finished / name).write_bytes(data)
    assert main(["quickstart", "experiment=debug", f"out={finished}"]) == 0
    after = {each: hash_of(finished / each) for each in FILES}
    assert {each for each in FILES if after[each] != before[each]} <= DATED
    assert all((finished / name).read_bytes() != data for name, data in damaged.items())
    assert main(["info", f"world={finished / 'world'}"]) == 0


# Alone what says what a step made, or is read by later steps; the rest two by two, of steps apart.
FLIPPED = [
    ["rollouts/provenance.json", "fidelity.html"],
    ["rollouts/minari-data/main_data.hdf5"],
    ["rollouts/minari-data/metadata.json", "real_vs_world.gif"],
    ["world/world.json"],
    ["world/weights.safetensors"],
    ["world/starts.safetensors", "report.html"],
    ["world/calibration.json"],
    ["world/fidelity.json"],
    ["world/fidelity.html", "report.json"],
    ["fidelity.json"],
    ["steps/train.json"],
]


@pytest.mark.parametrize("names", FLIPPED, ids=" ".join)
def test_a_flipped_bit_is_mended(names: list[str], finished: Path) -> None:
    check_mended(finished, flipped, *names)


@pytest.mark.parametrize("folder", ["rollouts/", "world/", ""])
def test_files_that_were_cut_off_are_mended_together(folder: str, finished: Path) -> None:
    check_mended(finished, cut, *(name for name in FILES if name.startswith(folder) and (folder or "/" not in name)))


@pytest.mark.parametrize("damage", [cut, flipped])
@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_training_state_is_named_where_it_is_needed(
    file: str, damage: Callable[[bytes], bytes], finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(finished, out)
    (state,) = (out / "world" / "training").glob("step-*")
    (state / file).write_bytes(damage((state / file).read_bytes()))
    (out / "world" / "weights.safetensors").unlink()
    capsys.readouterr()
    assert main(["quickstart", "experiment=debug", f"out={out}"]) == 2
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("worldsim: ")]
    assert len(lines) == 1 and f"{state} is damaged" in lines[0] and "delete it" in lines[0]
    assert "Traceback" not in said


def test_a_digit_of_a_cell_changes_no_report(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(finished, out)
    before = json.loads((out / "report.json").read_text())["results"]
    for cell in (out / "cells").glob("*.json"):
        text = cell.read_text()
        at = text.index('"episode_return": ') + len('"episode_return": ') + 1
        cell.write_text(text[:at] + "7" + text[at + 1 :] if text[at] != "7" else text[:at] + "8" + text[at + 1 :])
    (out / "report.json").unlink()
    assert main(["quickstart", "experiment=debug", f"out={out}"]) == 0
    assert json.loads((out / "report.json").read_text())["results"] == before


OLDER = json.dumps(sealed({"kind": "fidelity", "loop_closure": {"closed": 0.9}}))  # of before format 2


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"kind": "fidelity"}', "\x00", OLDER])
def test_a_damaged_certificate_does_not_stop_the_world(
    text: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "world"
    shutil.copytree(finished / "world", out)
    (out / "fidelity.json").write_text(text)
    with pytest.warns(UserWarning, match="fidelity.json is damaged, .*; run worldsim validate again"):
        assert worldsim.load(out).certificate is None
    (out / "calibration.json").write_text(text)
    capsys.readouterr()
    assert main(["info", f"world={out}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("text", ["{", OLDER])
def test_validate_writes_a_damaged_certificate_anew(text: str, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "world"
    shutil.copytree(finished / "world", out)
    whole = (out / "fidelity.json").read_bytes()
    for name in ("fidelity.json", "calibration.json"):
        (out / name).write_text(text)
    command = json.loads((finished / "steps" / "validate.json").read_text())["command"]
    words = command.replace(str(finished / "world"), str(out)).split()
    assert main(words[1:]) == 0
    assert (out / "fidelity.json").read_bytes() == whole
    assert worldsim.load(out).certificate == json.loads(whole)


def test_a_file_that_was_replaced_is_kept_beside_the_new_one(finished: Path) -> None:
    film, mine = finished / "real_vs_world.gif", b"mine"
    before = hash_of(film)
    film.write_bytes(mine)
    assert main(["quickstart", "experiment=debug", f"out={finished}"]) == 0
    assert hash_of(film) == before
    assert mine in [kept.read_bytes() for kept in finished.glob("real_vs_world.gif.damaged-*")]
