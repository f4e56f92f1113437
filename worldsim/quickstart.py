"""The whole job on one environment: collect, train, validate, look, stress, report.

Every step is a verb that can also be run by itself. out/steps/<name>.json records the inputs of a finished step; it is
skipped while these are unchanged. A step that was stopped resumes, because each verb does.
"""

import json
import time
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, Field

from worldsim import grammar
from worldsim.agents import modules_of
from worldsim.devices import Device
from worldsim.envs.make import EnvConfig, env_modules
from worldsim.errors import ConfigError
from worldsim.evaluation.cells import code_digest, digest
from worldsim.evaluation.ppo import PPOConfig
from worldsim.evaluation.stress import StressConfig, StressTest
from worldsim.fidelity.validate import ValidateConfig
from worldsim.files import (
    alone_in,
    hash_of,
    hashes_of,
    lies_in,
    read_sealed,
    refuse_foreign,
    sealed,
    write_atomically,
)
from worldsim.models.checkpoint import MANIFEST, STARTS, VALIDATION_FILES, WEIGHTS
from worldsim.models.config import AnyModelConfig
from worldsim.play.look import LookConfig
from worldsim.rollouts.collect import CollectConfig
from worldsim.rollouts.dataset import MINARI, PROVENANCE
from worldsim.settings import Seed, Settings
from worldsim.sources import files_named, sources
from worldsim.training.config import TrainConfig, TrainerConfig, TrainLoggerConfig


class QuickstartConfig(Settings):
    """The whole job: keys that verbs share, and each verb's configuration, interpolated in configs/quickstart.yaml."""

    env: EnvConfig = Field(description="the real environment")
    model: AnyModelConfig = Field(description="the world model: its family and its size")
    trainer: TrainerConfig = Field(TrainerConfig(), description="the training loop")
    logger: TrainLoggerConfig = Field(TrainLoggerConfig(), description="Weights & Biases")
    seed: Seed = Field(0, description="of everything: same seed and settings, same figures")
    device: Device = Field(
        "auto",
        description="where the world runs once it is trained; auto: a GPU where torch sees one. trainer.accelerator is "
        "for the training",
    )
    out: Path = Field(
        Path("runs/quickstart"),
        description="folder of rollouts/, world/, real_vs_world.gif, fidelity.json, report.json and report.html",
    )
    collect: CollectConfig
    train: TrainConfig
    fidelity: ValidateConfig
    look: LookConfig
    ppo: PPOConfig  # run if stress.agents names ppo and the env has no agent of that name
    stress: StressConfig

    @property
    def certified(self) -> Path:
        """The folder that validate writes to."""
        return self.fidelity.out or self.fidelity.world

    @property
    def trains_ppo(self) -> bool:
        """Whether a PPO agent is trained for the stress test: it tests `ppo`, and the env has no agent of that name."""
        return PPO in (self.stress.agents or []) and PPO not in self.stress.env.agents


class JobStep(NamedTuple):
    """One step of the job: a verb with its configuration."""

    verb: str
    what: str  # description to print
    config: BaseModel  # of the verb
    makes: tuple[Path, ...]  # files and folders that it writes


PPO = "ppo"  # name of the agent that is trained
SINGLE_FILE_VERBS = "look", "ppo"  # verbs that write one file, which they overwrite only if it has their mark
CERTIFICATE = "fidelity.json", "fidelity.html"  # copied to where the report is
RunVerb = Callable[[str, BaseModel], None]  # runs a verb with its configuration, and prints its results


def quickstart(config: QuickstartConfig, choices: Mapping[str, str], run: RunVerb) -> None:
    """Runs all steps that are not finished yet, and prints for each the command that runs it alone."""
    steps = plan(config)
    _check_names(config)
    with alone_in(config.out / "steps"):
        if not any((config.out / "steps").glob("*.json")):
            refuse_foreign((config.out / name for name in CERTIFICATE), "quickstart")
        _run_steps(config, steps, choices, run)


def _run_steps(config: QuickstartConfig, steps: list[JobStep], choices: Mapping[str, str], run: RunVerb) -> None:
    begun = time.monotonic()
    shown = False  # whether the report has just been printed
    made_from = digest(code_digest(), json.dumps(_dependencies(config)))
    for number, step in enumerate(steps, 1):
        alone = grammar.command(step.verb, step.config, choices)
        print(f"{number}/{len(steps)} {step.verb}: {step.what}\n    {alone}", flush=True)
        made_from = digest(made_from, step.verb, step.config.model_dump_json())
        if isinstance(step.config, StressConfig):
            made_from = digest(made_from, StressTest(step.config).definition())
        record = config.out / "steps" / f"{step.verb}.json"
        took = _finished(record, made_from, step.makes, config.out)
        shown = took is None
        if took is None:
            since = time.monotonic()
            _set_aside_changed_files(record, step, config.out)
            run(step.verb, step.config)
            took = time.monotonic() - since
            written = {"command": alone, "seconds": round(took, 1), "made_from": made_from}
            written["files"] = hashes_of(step.makes, config.out)
            write_atomically(record, json.dumps(sealed(written), indent=1) + "\n")
            print(f"    done in {took:.0f} s", flush=True)
        else:
            print(f"    already done, in {took:.0f} s", flush=True)
    _copy_certificate_and_summarise(config, time.monotonic() - begun, shown)


def _dependencies(config: QuickstartConfig) -> dict[str, Any]:
    """Hashes of the user's code of environment and policies and of files that they name, and versions of packages."""
    env = config.collect.env
    policy = config.collect.policy or env.policy or "random"
    specs = [policy] if isinstance(policy, str) else list(policy)
    modules = [*env_modules(env), *modules_of(specs, env.agents)]
    named = [env.kwargs, [env.agents.get(spec, spec) for spec in specs]]
    return {**sources(modules).as_json(), "files": files_named(named)}


def plan(config: QuickstartConfig) -> list[JobStep]:
    """The steps in order. Raises ConfigError where configurations of verbs are inconsistent."""
    rollouts, world, testing = config.collect.out, config.train.out, config.stress
    for part in ("collect", "train", "fidelity", "look", "ppo", "stress"):
        out = getattr(config, part).out
        if out is not None and not lies_in(out, config.out):
            raise ConfigError(f"{part}.out={out} must be inside out={config.out}, the folder of the whole job")
    made = tuple(world / name for name in (MANIFEST, WEIGHTS, STARTS))
    certified = tuple(config.certified / name for name in VALIDATION_FILES)
    collecting = f"record {config.collect.env.id}"
    steps = [
        JobStep("collect", collecting, config.collect, (rollouts / PROVENANCE, rollouts / MINARI)),
        JobStep("train", "train a world model on the recorded rollouts", config.train, made),
        JobStep("validate", "measure the fidelity of the world", config.fidelity, certified),
        JobStep("look", "draw a film, real above and learned below, same actions", config.look, (config.look.out,)),
    ]
    if config.trains_ppo:
        what = "train a small agent in the real environment"
        steps.append(JobStep("ppo", what, config.ppo, (config.ppo.out,)))
        agents = {**testing.env.agents, PPO: str(config.ppo.out)}
        testing = testing.model_copy(update={"env": testing.env.model_copy(update={"agents": agents})})
    testing.check()
    report = (testing.out / "report.json", testing.out / "report.html")
    return [
        *steps,
        JobStep("stress", "test agents under faults, real and in the world, on the same seeds", testing, report),
    ]


def _check_names(config: QuickstartConfig) -> None:
    """Makes the environment and the agents to test once, so that a wrong name is reported before training."""
    agents = config.stress.agents
    if agents is not None and config.trains_ppo:
        agents = [each for each in agents if each != PPO]
    if agents is None or agents:
        StressTest(config.stress.model_copy(update={"agents": agents})).preflight()


def _finished(record: Path, made_from: str, makes: tuple[Path, ...], out: Path) -> float | None:
    """Seconds that a finished step took; None if it is not finished, or its inputs or files have changed."""
    try:
        found = read_sealed(record)
        same = found["made_from"] == made_from and found["files"] == hashes_of(makes, out)
        return float(found["seconds"]) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _set_aside_changed_files(record: Path, step: JobStep, out: Path) -> None:
    """Renames files of this job that were changed since, because their verb would refuse to overwrite them."""
    if step.verb not in SINGLE_FILE_VERBS:
        return
    try:
        found = read_sealed(record)["files"]
    except (OSError, ValueError, KeyError):
        return
    for name, written in found.items():
        if (out / name).is_file() and hash_of(out / name) != written:
            aside = next(path for number in count(1) if not (path := out / f"{name}.damaged-{number}").exists())
            (out / name).rename(aside)
            print(
                f"    {out / name} was changed: it is made again, and the changed one is kept as {aside.name}",
                flush=True,
            )


def _copy_certificate_and_summarise(config: QuickstartConfig, seconds: float, shown: bool) -> None:
    """Copies the certificate beside the report; prints the verdict, unless just shown, and the paths of all results."""
    out = config.out
    with alone_in(out):
        for name in CERTIFICATE:
            write_atomically(out / name, (config.certified / name).read_bytes())
    print(f"\nfinished in {seconds:.0f} s")
    for sentence in [] if shown else json.loads((config.stress.out / "report.json").read_text())["verdict"]:
        print(f"  {sentence}")
    report = config.stress.out / "report.html"
    print(f"film: {config.look.out}   certificate: {out / 'fidelity.html'}   report: {report}")
