"""Every family on every real environment from one command, in debug size: a World is trained, measured and checked."""

import json
import os
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import families
from worldsim.fidelity import validate
from worldsim.models.checkpoint import hash_of
from worldsim.training import loop, pace

WORDS = ["env.max_episode_steps=12", "collect.steps=60", "trainer.holdout=0.5", "fidelity.horizon=5"]
WORDS += ["fidelity.windows=2", "trainer.batch=2", "trainer.length=4", "trainer.codec_frames=4", "seconds=0.05"]
WORDS += ["model/size=xs", "model.ensemble=2"]
FAMILIES = {"ssm", "transformer", "rssm", "diffusion"}
STAGES = {"rssm": {"whole"}, "diffusion": {"denoise"}}  # of the others: codec, dynamics
CHECKS = {"gymnasium", "stable_baselines3", "seeds", "snapshots", "vector"}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No pictures for people, a pace of three updates; and this process keeps its cores."""
    monkeypatch.chdir(tmp_path)  # ViZDoom writes its settings into the current folder
    monkeypatch.setattr(validate, "page", lambda *_: "")
    for module in (loop, pace):
        monkeypatch.setattr(module, "TRIAL_UPDATES", 3)
    monkeypatch.setattr(pace, "WARMUP_UPDATES", 1)
    monkeypatch.setattr(families, "limit_cores", lambda threads: 1)


def raced(out: Path, *words: str) -> int:
    return families.main([*WORDS, f"out={out}", *words])


def result(out: Path, name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((out / "results" / f"{name}.json").read_text())
    return read


# Every family once, and every environment once.
RACED = dict(zip(families.RACES, (FAMILIES, {"ssm"}, {"rssm"}, {"diffusion"}), strict=True))


@pytest.mark.parametrize("env", families.RACES)
def test_every_family_trains_and_its_world_passes_every_check(
    env: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert raced(out, f"envs=[{env}]", f"families=[{','.join(sorted(RACED[env]))}]") == 0
    printed = capsys.readouterr().out
    for family in RACED[env]:
        found = result(out, f"{families.short_name(env)}-{family}-0")
        assert found["checks"] == dict.fromkeys(CHECKS, "passed")
        training = found["training"]
        assert training["frames_per_second"] == pytest.approx(training["frames"] / training["seconds"])
        assert set(training["updates"]) == STAGES.get(family, {"codec", "dynamics"})
        measured = found["certificate"]
        (leaf,) = measured["psnr_by_leaf"]
        curves = [measured[name][leaf]["model"] for name in ("psnr_by_leaf", "psnr_changed_by_leaf", "ssim_by_leaf")]
        five = f"{curves[0][4]:.1f} / {curves[1][4]:.1f} / {curves[2][4]:.3f} |"
        (row,) = (line for line in printed.splitlines() if line.startswith(f"| {family} | ") and " / " in line)
        assert row.endswith(five) and f"{found['parameters'] / 1e6:.2f} M" in row
    assert "| copy |" in printed and "| mean |" in printed and "passed by every World" in printed
    assert ("`reply/clock`" in printed) == (env == "refund_desk")


def test_what_is_finished_is_printed_again_and_not_done_again(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After the runs above; where one result was lost, its World is there still and is only measured again."""
    name = "breakout-ssm-0"
    typed = "envs=[atari/breakout]", "families=[ssm]"
    raced(out, "--table", *typed)
    before, weights = capsys.readouterr().out, out / name / "world" / "weights.safetensors"
    kept, when, digest = result(out, name), weights.stat().st_mtime_ns, hash_of(weights)
    (out / "results" / f"{name}.json").unlink()
    assert raced(out, *typed) == 0
    assert capsys.readouterr().out.endswith(before)
    assert result(out, name) == kept and (weights.stat().st_mtime_ns, hash_of(weights)) == (when, digest)


def test_results_of_another_race_are_not_mixed_in(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert raced(out, "envs=[atari/breakout]", "families=[ssm]", "trainer.clip=3") == 1
    assert "choose another out=" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["envs=[pong]"], "pong: each must be one of refund_desk, atari/breakout"),
        (["families=[ssm,lstm]"], "each must be one of ssm, transformer, rssm"),
        (["second=3"], "second: .* keys are envs, families, seeds, seconds"),
        (["seconds=0"], "seconds: .*greater than 0"),
    ],
)
def test_what_it_cannot_take_is_a_line(words: list[str], said: str) -> None:
    with pytest.raises(SystemExit, match=said) as end:
        families.main(words)
    assert "\n" not in str(end.value)


def test_seeds_are_summarised_as_mean_std() -> None:
    values = [41.0, 44.0, 42.5]
    assert families.mean_std(values, ".2f") == f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
    assert families.mean_std([41.0, None], ".1f") == "41.0" and families.mean_std([None], ".1f") == "–"


def test_a_process_keeps_to_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    asked: list[Any] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: asked.append(list(cores)), raising=False)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    assert families.limit_cores(1) == 1 and families.limit_cores(None) == 2
    assert asked == [[3], 1, [3, 5], 2]
    with pytest.raises(SystemExit, match="threads=3, but there are 2 cores"):
        families.limit_cores(3)
