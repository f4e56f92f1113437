"""What is logged to Weights & Biases, read back from what wandb itself wrote offline."""

import json
import math
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb.proto.wandb_internal_pb2 import Record

from worldsim.cli import main

TINY = "model.width=16 model.embed=8 model.hidden=8 model.head_hidden=8 model.ensemble=2 trainer.length=8"
TRAIN = f"train env=CartPole-v1 data=data trainer.steps=12 trainer.codec_steps=4 trainer.holdout=0.4 {TINY}"
OFTEN = "trainer.log_every=2 logger.validate_every=4 logger.video_every=100 trainer.warmup=4"


def records(file: Path) -> Iterator[Record]:
    """The records of a .wandb file: LevelDB's log format after a header of seven bytes.

    In blocks of 32 KiB lie parts of records with a checksum (4 bytes), their length (2) and a type (1: 1 a whole
    record, 2 the first part of one, 3 a middle one, 4 the last).
    """
    data, at, begun = file.read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        begun = (b"" if kind in (1, 2) else begun) + data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(begun)
            yield record


class Logged:
    """One run, as wandb has it."""

    def __init__(self, file: Path):
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.exit_code: int | None = None
        for record in records(file):
            which = record.WhichOneof("record_type")
            if which == "run":
                self.group, self.job, self.project = record.run.run_group, record.run.job_type, record.run.project
                self.config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
            elif which == "history":
                self.history.append({_key(item): json.loads(item.value_json) for item in record.history.item})
            elif which == "summary":
                self.summary |= {_key(item): json.loads(item.value_json) for item in record.summary.update}
            elif which == "exit":
                self.exit_code = record.exit.exit_code

    def curve(self, key: str, over: str = "_step") -> dict[int, float]:
        return {row[over]: row[key] for row in self.history if key in row}


def _key(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


def run_in(folder: str) -> Logged:
    """The run, as soon as it is whole: wandb's own process writes the end of it."""
    (file,) = Path(folder).glob("wandb/offline-run-*/*.wandb")
    while (run := Logged(file)).exit_code is None:
        time.sleep(0.05)
    return run


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with data and a world whose training was logged."""
    place = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["collect", "env=CartPole-v1", "steps=400", "out=data"]) == 0
        assert main([*TRAIN.split(), *OFTEN.split(), "out=world", "logger=offline"]) == 0
        yield place


def test_training_logs_losses_rate_pace_and_held_out_losses(workplace: Path) -> None:
    run = run_in("world")
    assert (run.group, run.job, run.project, run.exit_code) == ("world", "train", "worldsim", 0)
    assert run.config["trainer"]["steps"] == 12 and run.config["model"]["family"] == "ssm"
    updates = [2, 4, 6, 8, 10, 12, 14, 16]
    rates = run.curve("learning_rate")
    assert list(rates) == updates
    # codec: 4 updates from 1e-2 after a warm-up of 4; then 12 from 4e-3: a cosine from the first update to the last
    by_hand = {2: 1e-2 * 2 / 4 * 0.5 * (1 + math.cos(math.pi / 4)), 4: 1e-2 * 0.5 * (1 + math.cos(math.pi * 3 / 4))}
    by_hand |= {n: 4e-3 * min(1, (n - 4) / 4) * 0.5 * (1 + math.cos(math.pi * (n - 5) / 12)) for n in updates[2:]}
    assert rates == pytest.approx(by_hand)
    assert all(value > 0 for value in run.curve("throughput/updates_per_s").values())
    frames, pace = run.curve("throughput/env_steps_per_s"), run.curve("throughput/updates_per_s")
    assert frames[4] == pytest.approx(64 * pace[4]) and frames[16] == pytest.approx(4 * 8 * pace[16])
    assert list(run.curve("held_out/reward")) == [8, 12, 16]
    assert {key.removeprefix("held_out/") for key in run.history[-1] if key.startswith("held_out/")} == {
        key.removeprefix("loss/") for key in run.history[-1] if key.startswith("loss/")
    }


def test_held_out_losses_are_of_the_model_alone(workplace: Path) -> None:
    """The same weights, later, have the same: nothing but the model moves the curve. Logged more often, too."""
    assert main([*TRAIN.split(), *OFTEN.split(), "out=again", "logger=offline", "logger.validate_every=2"]) == 0
    first, again = run_in("world").curve("held_out/reward"), run_in("again").curve("held_out/reward")
    assert len(again) > len(first) and first == {step: again[step] for step in first}
    assert Path("again/weights.safetensors").read_bytes() == Path("world/weights.safetensors").read_bytes()


def test_validation_logs_its_curves_over_the_horizon(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = "validate world=world data=data horizon=4 context=2 windows=4 out=certified logger=offline"
    assert main(typed.split()) == 0
    (folder,) = Path("certified").glob("wandb/offline-run-*")
    assert f"wandb: {folder}; to send it: wandb sync {folder}\n" in capsys.readouterr().out
    run, certificate = run_in("certified"), json.loads(Path("certified/fidelity.json").read_text())
    assert (run.group, run.job, run.exit_code) == ("world", "validate", 0)
    for key, measured in (
        ("nrmse_by_leaf/value/model", certificate["nrmse_by_leaf"]["value"]["model"]),
        ("within", certificate["within"]),
    ):
        assert run.curve(key, "horizon") == dict(zip([1, 2, 3, 4], measured, strict=True))
    assert run.summary["verdict"]


def test_a_stress_test_logs_its_results(workplace: Path) -> None:
    typed = "stress env=CartPole-v1 world=world agents=[random] faults=[slow_api] episodes=2 max_steps=5 worst=0"
    assert main([*typed.split(), "out=stressed", "logger=offline"]) == 0
    run, report = run_in("stressed"), json.loads(Path("stressed/report.json").read_text())
    assert (run.group, run.job) == ("world", "stress") and "logger" not in report["config"]
    (path,) = [row["results/path"] for row in run.history if "results/path" in row]
    table = json.loads(next(Path("stressed").glob(f"wandb/offline-run-*/files/{path}")).read_text())
    assert len(table["data"]) == len(report["results"]) == 4
    at = {name: number for number, name in enumerate(table["columns"])}
    assert [row[at["return_mean"]] for row in table["data"]] == [row["return_mean"] for row in report["results"]]
    assert run.summary["return/real/none@0/random"] == report["results"][0]["return_mean"]
    assert all(sentence in run.summary["verdict"] for sentence in report["verdict"])


def test_jobs_of_a_sweep_share_a_group(workplace: Path) -> None:
    assert main([*TRAIN.split(), "--multirun", "seed=1,2", "out=sweep", "logger=offline", "trainer.steps=1"]) == 0
    runs = [run_in(f"sweep/seed={seed}") for seed in (1, 2)]
    assert [(run.group, run.config["seed"]) for run in runs] == [("sweep", 1), ("sweep", 2)]


def test_a_run_that_fails_is_logged_as_failed(workplace: Path) -> None:
    assert main(["validate", "world=data", "data=data", "out=failed", "logger=offline"]) == 2
    assert run_in("failed").exit_code == 1
