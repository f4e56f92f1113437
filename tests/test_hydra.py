"""Hydra's own ways, typed as its users type them: what is composed, where it is written, what is said of a mistake."""

import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import worldsim
from worldsim.cli import VERBS, main

CONF = {  # a user's own folder of configurations
    "conf/env/mine.yaml": "id: CartPole-v1\nmax_episode_steps: 7\n",
    "conf/env/deeper/other.yaml": "defaults: [/env/mine@_here_]\nepsilon: 0.5\n",
    "conf/model/small.yaml": "defaults: [ssm]\nwidth: 32\n",
    "conf/trainer/short.yaml": "steps: 3\nlearning_rate: ${oc.decode:${oc.env:WORLDSIM_TEST_RATE,0.25}}\n",
    "conf/experiment/mine.yaml": "# @package _global_\ndefaults: [override /env: mine]\nseed: 5\n",
    "conf/mine.yaml": "defaults: [train, override env: mine, override trainer: short, _self_]\ntrainer: {length: 9}\n",
    "conf/alone.yaml": "defaults: [env: mine, model: small, _self_]\nseed: 6\n",
    "conf/sweep.yaml": "defaults: [collect, _self_]\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,2'}}}\n",
    "conf/wrong.yaml": "defaults: [train, _self_]\ntrainer: {stpes: 3}\n",
    "conf/broken.yaml": "defaults: [train\n",
}


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in CONF.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


def shown(typed: str, capsys: pytest.CaptureFixture[str]) -> Any:
    """What is printed, read as YAML."""
    assert main(shlex.split(typed)) == 0, capsys.readouterr().err
    return yaml.safe_load(capsys.readouterr().out)


def at(values: Any, key: str) -> Any:
    for name in key.split("."):
        values = values[name]
    return values


COMPOSED: dict[str, dict[str, Any]] = {
    "train": {"trainer.steps": 3600, "seed": 0, "out": "runs/world", "model.width": 256},
    "train env=conf/env/mine.yaml": {"env.id": "CartPole-v1", "env.max_episode_steps": 7, "env.epsilon": 0.0},
    "train env=./conf/env/mine.yaml env.max_episode_steps=8": {"env.max_episode_steps": 8},
    "train trainer=conf/trainer/short.yaml": {"trainer.steps": 3, "trainer.learning_rate": 0.25, "trainer.batch": 4},
    "train --config-dir conf env=mine": {"env.id": "CartPole-v1"},
    "train env=mine --config-dir=conf": {"env.id": "CartPole-v1"},
    "train -cd conf env=deeper/other": {"env.id": "CartPole-v1", "env.epsilon": 0.5},
    "train 'hydra.searchpath=[file://conf]' env=mine model=small": {"model.width": 32, "model.layers": 1},
    "train --config-dir conf experiment=mine": {"seed": 5, "env.id": "CartPole-v1"},
    "train --config-dir conf +experiment=mine seed=6": {"seed": 6, "env.id": "CartPole-v1"},
    "stress --config-dir conf experiment=mine": {"seed": 5, "env.id": "CartPole-v1"},
    "quickstart --config-dir conf experiment=mine": {"seed": 5, "env.max_episode_steps": 7, "collect.seed": 5},
    "train --config-dir conf --config-name mine": {"env.id": "CartPole-v1", "trainer.steps": 3, "trainer.length": 9},
    "train -cd conf -cn alone": {"seed": 6, "model.width": 32, "trainer.steps": 3600, "out": "runs/world"},
    "train --config-path conf --config-name alone model=rssm": {"model.family": "rssm", "env.id": "CartPole-v1"},
    "validate --config-dir conf horizon=7": {"horizon": 7, "windows": 64},
    "train ~logger": {"logger.mode": "disabled"},
    "train '+env.kwargs.sutton_barto_reward=true' env=CartPole-v1": {"env.kwargs.sutton_barto_reward": True},
    "train ++seed=3": {"seed": 3},
    "collect 'out=runs/${env.id}'": {"out": "runs/worldsim/RefundDesk-v0"},
}


@pytest.mark.parametrize("typed", COMPOSED)
def test_what_is_composed(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    verb, _, rest = typed.partition(" ")
    found = shown(f"{verb} --cfg job --resolve {rest}", capsys)
    assert {key: at(found, key) for key in COMPOSED[typed]} == COMPOSED[typed]
    assert "hydra" not in found


REQUIRED = {"faults fit": " traces=t"}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_its_configuration_and_where_it_comes_from(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = shown(f"{verb} --cfg all --config-dir conf", capsys)
    assert whole.keys() - {"hydra"} == shown(f"{verb} --cfg job", capsys).keys()
    assert shown(f"{verb} --cfg hydra -p hydra.run", capsys) == {"dir": "."}
    assert shown(f"{verb} --cfg job --resolve{REQUIRED.get(verb, '')}", capsys)
    assert main([*verb.split(), "--info", "searchpath", "hydra.searchpath=[file://conf]"]) == 0
    assert "file://conf" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["defaults-tree", "config", "all"])
def test_info_is_hydras(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", f"--info={what}", "model=rssm"]) == 0
    assert {"config": "latents: 24", "defaults-tree": "model: rssm"}.get(what, "model/rssm") in capsys.readouterr().out
    assert main(["train", "--hydra-help"]) == 0
    assert "hydra/launcher" in capsys.readouterr().out


def test_a_part_is_shown_by_its_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "-c", "job", "--package", "model", "model=rssm"]) == 0
    message = capsys.readouterr().out
    assert message.startswith("# @package model\n") and yaml.safe_load(message)["latents"] == 24


def test_what_a_job_is_made_of_is_shown_as_it_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown("quickstart --cfg job -p train", capsys)["data"] == "${collect.out}"
    assert shown("quickstart --cfg job -p train --resolve out=x", capsys)["data"] == "x/rollouts"


COLLECT = "collect env=CartPole-v1 steps=8"


def made() -> list[str]:
    return sorted(str(path.parent) for path in Path().rglob("provenance.json"))


WRITTEN = {
    f"{COLLECT} out=o": ["o"],
    f"{COLLECT} hydra.run.dir=here": ["here"],
    f"{COLLECT} hydra.run.dir=here out=there": ["there"],
    f"{COLLECT} --multirun seed=3 policy=random,sticky:0.5 out=m": ["m/policy=random", "m/policy=sticky:0.5"],
    f"{COLLECT} -m 'seed=range(1,3)' hydra.sweep.dir=s": ["s/0", "s/1"],
    f"{COLLECT} -m seed=1,2 hydra.sweep.dir=s 'hydra.sweep.subdir=${{hydra.job.override_dirname}}'": [
        f"s/env.id=CartPole-v1,env=gymnasium,seed={seed},steps=8" for seed in (1, 2)
    ],
    f"{COLLECT} -m seed=1,2 'hydra.sweep.subdir=job-${{hydra.job.num}}' out=m": ["m/job-0", "m/job-1"],
    f"{COLLECT} -m out=a,b": ["a", "b"],
    f"{COLLECT} --config-dir conf --config-name sweep out=m": ["m/seed=1", "m/seed=2"],
    f"{COLLECT} --config-dir conf -m env=deeper/other,conf/env/mine.yaml out=m": [
        "m/env=conf/env/mine.yaml",
        "m/env=deeper/other",
    ],
    f"{COLLECT} hydra.run.dir=here hydra.job.chdir=true": ["here"],
}


@pytest.mark.parametrize("typed", WRITTEN)
def test_where_a_run_writes(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(typed)) == 0, capsys.readouterr().err
    assert made() == WRITTEN[typed]
    left = {path.name for path in Path().iterdir()} - {name.split("/")[0] for name in WRITTEN[typed]}
    assert left <= {"conf", "here", "multirun"}


def test_hydras_own_files_are_written_where_they_are_asked_for() -> None:
    typed = "schema faults hydra.run.dir=r hydra.output_subdir=.hydra hydra/job_logging=default out=plan.json"
    assert main(shlex.split(typed)) == 0
    assert yaml.safe_load(Path("r/.hydra/config.yaml").read_text()) == {"out": "plan.json"}
    assert Path("plan.json").is_file()


def test_jobs_of_a_verb_that_writes_a_file_get_a_folder_each() -> None:
    assert main(shlex.split("ppo env=CartPole-v1 steps=1 num_envs=1 -m seed=1,2 out=a/agent.zip")) == 0
    assert sorted(map(str, Path("a").rglob("*.zip"))) == ["a/seed=1/agent.zip", "a/seed=2/agent.zip"]


def test_train_py_takes_them_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script = Path(worldsim.__file__).parent.parent / "train.py"
    monkeypatch.setattr(sys, "argv", shlex.split("train.py --config-dir conf --config-name mine --cfg job seed=4"))
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(script), run_name="__main__")
    assert left.value.code == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert (found["env"]["id"], found["trainer"]["steps"], found["seed"]) == ("CartPole-v1", 3, 4)


MISTAKES = {
    "train ~model": "~model: worldsim train needs it; choose another option, model=<option>",
    "collect ~env": "~env: worldsim collect needs it",
    "train ~colour": "~colour: worldsim train has no such group or key to remove",
    "train --config-dir nowhere": "--config-dir nowhere is not a folder",
    "train --config-path nowhere": "--config-path nowhere is not a folder",
    "train --config-dir conf --config-name nothing": "there is no configuration 'nothing' in the folders",
    "train --config-dir conf trainer=shrot": "there is no trainer=shrot. Did you mean short?",
    "train --config-dir conf experiment=other": "worldsim train has no key 'experiment'; worldsim quickstart has",
    "train --config-dir conf --config-name wrong": "a configuration file has the key 'trainer.stpes'",
    "train --config-dir conf --config-name broken": "cannot be read",
    "train env=missing.yaml": "env=missing.yaml cannot be read: there is no such file",
    "train trainer=conf/broken.yaml": "cannot be read",
    "train 'hydra.searchpath=[file://nowhere]' seed=1": "file://nowhere",
    "train --cfg": "expected one argument",
    "train --cfg=both": "invalid choice: 'both'",
    "train --cfg job --package nothing": "--package nothing is no part of --cfg job",
    "train --package model": "--package needs --cfg",
    "train --resolve": "--resolve needs --cfg",
    "train --cfg job --multirun": "--multirun and --cfg exclude each other",
    "train --experimental-rerun x": "--experimental-rerun is not supported",
    "train --shell-completion": "--shell-completion is not supported",
    "train +seed=3": "seed",
    "train 'seed=${oc.env:WORLDSIM_NOT_THERE}'": "seed: ",
    "quickstart collect=3": "train.data: ",
    "train 'trainer={steps:3}'": "trainer is a group; give its keys one by one, trainer.<key>=<value>",
    "train model.width=[1] --cfg job --resolve model.width=${nothing}": "nothing",
    "train hydra.launcher.n_jobs=2": "n_jobs",
    "train hydra.mode=OFTEN": "hydra.mode",
    "validate -m horizon=1,2": "give out=..., a folder in which each of the runs gets a folder of its own",
    "quickstart collect.env.resize=9": "collect.env.resize",
    "quickstart train.out=elsewhere out=here": "train.out=elsewhere must be inside out=here",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_a_line(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(typed)) == 2
    message = capsys.readouterr().err
    assert message.startswith("worldsim: ") and message.count("\n") == 1, message
    assert MISTAKES[typed] in message
    assert {path.name for path in Path().iterdir()} == {"conf"}
