"""The whole job on one environment: collect, train, validate, look, stress, report.

Every step is a verb that also stands alone. out/steps/<name>.json says what a finished step was made from; a step whose
record still holds is not done again, and one that was stopped goes on, because each verb does.
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
from worldsim.models.checkpoint import FOUND_OUT, MANIFEST, STARTS, WEIGHTS
from worldsim.models.config import AnyModelConfig
from worldsim.play.look import LookConfig
from worldsim.rollouts.collect import CollectConfig
from worldsim.rollouts.dataset import MINARI, PROVENANCE
from worldsim.settings import Seed, Settings
from worldsim.sources import files_named, sources
from worldsim.training.config import TrainConfig, TrainerConfig, TrainLoggerConfig


class QuickstartConfig(Settings):
    """The whole job: what all verbs share, and the configuration of each, made from it in configs/quickstart.yaml."""

    env: EnvConfig = Field(description="the real environment")
    model: AnyModelConfig = Field(description="how the world is learned: its family, and how large it is")
    trainer: TrainerConfig = Field(TrainerConfig(), description="how long and how fast")
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
    ppo: PPOConfig  # trained where stress.agents names ppo, and nobody else is called so
    stress: StressConfig

    @property
    def certified(self) -> Path:
        """The folder that validate writes to."""
        return self.fidelity.out or self.fidelity.world

    @property
    def trains_ppo(self) -> bool:
        """Whether an agent is trained in the real environment for the stress test: the one that it calls ppo."""
        return PPO in (self.stress.agents or []) and PPO not in self.stress.env.agents


class JobStep(NamedTuple):
    """One step of the job: a verb."""

    verb: str
    what: str  # what it does, in a few words
    config: BaseModel  # of the verb alone
    makes: tuple[Path, ...]  # files, and folders of files, as which it is done


PPO = "ppo"  # the agent that is trained on the way
BY_THEMSELVES = "look", "ppo"  # verbs whose file lies alone, and says by a mark of its own whose it is
CERTIFICATE = "fidelity.json", "fidelity.html"  # copied to where the report is
RunVerb = Callable[[str, BaseModel], None]  # a verb with its configuration; prints what came of it


def quickstart(config: QuickstartConfig, choices: Mapping[str, str], run: RunVerb) -> None:
    """Does all steps that are not done yet, and says of each which command does it alone."""
    steps = plan(config)
    _check_names(config)
    with alone_in(config.out / "steps"):
        if not any((config.out / "steps").glob("*.json")):
            refuse_foreign((config.out / name for name in CERTIFICATE), "quickstart")
        _do_all(config, steps, choices, run)


def _do_all(config: QuickstartConfig, steps: list[JobStep], choices: Mapping[str, str], run: RunVerb) -> None:
    begun = time.monotonic()
    shown = False  # whether the report has just been printed
    made_from = digest(code_digest(), json.dumps(_made_of(config)))
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
            _make_way(record, step, config.out)
            run(step.verb, step.config)
            took = time.monotonic() - since
            written = {"command": alone, "seconds": round(took, 1), "made_from": made_from}
            written["files"] = hashes_of(step.makes, config.out)
            write_atomically(record, json.dumps(sealed(written), indent=1) + "\n")
            print(f"    done in {took:.0f} s", flush=True)
        else:
            print(f"    was done before, in {took:.0f} s", flush=True)
    _conclude(config, time.monotonic() - begun, shown)


def _made_of(config: QuickstartConfig) -> dict[str, Any]:
    """The code behind the environment and what plays in it to be recorded, what they name, and the packages below."""
    env = config.collect.env
    policy = config.collect.policy or env.policy or "random"
    specs = [policy] if isinstance(policy, str) else list(policy)
    modules = [*env_modules(env), *modules_of(specs, env.agents)]
    named = [env.kwargs, [env.agents.get(spec, spec) for spec in specs]]
    return {**sources(modules).as_json(), "files": files_named(named)}


def plan(config: QuickstartConfig) -> list[JobStep]:
    """The steps, in order, each with the configuration of its verb. Raises ConfigError where these do not fit."""
    rollouts, world, testing = config.collect.out, config.train.out, config.stress
    for part in ("collect", "train", "fidelity", "look", "ppo", "stress"):
        out = getattr(config, part).out
        if out is not None and not lies_in(out, config.out):
            raise ConfigError(f"{part}.out={out} must lie in out={config.out}, where the whole job is kept")
    made = tuple(world / name for name in (MANIFEST, WEIGHTS, STARTS))
    certified = tuple(config.certified / name for name in FOUND_OUT)
    collecting = f"record {config.collect.env.id}"
    steps = [
        JobStep("collect", collecting, config.collect, (rollouts / PROVENANCE, rollouts / MINARI)),
        JobStep("train", "learn a world from what was recorded", config.train, made),
        JobStep("validate", "measure how true the world is", config.fidelity, certified),
        JobStep("look", "draw real above, learned below, same actions", config.look, (config.look.out,)),
    ]
    if config.trains_ppo:
        what = "train a small agent in the real environment"
        steps.append(JobStep("ppo", what, config.ppo, (config.ppo.out,)))
        agents = {**testing.env.agents, PPO: str(config.ppo.out)}
        testing = testing.model_copy(update={"env": testing.env.model_copy(update={"agents": agents})})
    testing.check()
    report = (testing.out / "report.json", testing.out / "report.html")
    return [*steps, JobStep("stress", "break agents in both worlds, on the same seeds", testing, report)]


def _check_names(config: QuickstartConfig) -> None:
    """Makes the environment and the agents to be tested once: a wrong name is reported now, not after the training."""
    agents = config.stress.agents
    if agents is not None and config.trains_ppo:
        agents = [each for each in agents if each != PPO]
    if agents is None or agents:
        StressTest(config.stress.model_copy(update={"agents": agents})).check_names()


def _finished(record: Path, made_from: str, makes: tuple[Path, ...], out: Path) -> float | None:
    """Seconds that the step took, where it was finished from the same beginnings and its files are as they were."""
    try:
        found = read_sealed(record)
        same = found["made_from"] == made_from and found["files"] == hashes_of(makes, out)
        return float(found["seconds"]) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _make_way(record: Path, step: JobStep, out: Path) -> None:
    """Renames a file that this job wrote, and that was changed since, where its verb would take it for a stranger's."""
    if step.verb not in BY_THEMSELVES:
        return
    try:
        found = read_sealed(record)["files"]
    except (OSError, ValueError, KeyError):
        return
    for name, written in found.items():
        if (out / name).is_file() and hash_of(out / name) != written:
            aside = next(path for number in count(1) if not (path := out / f"{name}.damaged-{number}").exists())
            (out / name).rename(aside)
            print(f"    {out / name} is not as it was made: it is made again, and kept as {aside.name}", flush=True)


def _conclude(config: QuickstartConfig, seconds: float, shown: bool) -> None:
    """The certificate beside the report; the last lines: the verdict unless just printed, and where everything is."""
    out = config.out
    with alone_in(out):
        for name in CERTIFICATE:
            write_atomically(out / name, (config.certified / name).read_bytes())
    print(f"\nfinished in {seconds:.0f} s")
    for sentence in [] if shown else json.loads((config.stress.out / "report.json").read_text())["verdict"]:
        print(f"  {sentence}")
    report = config.stress.out / "report.html"
    print(f"film: {config.look.out}   certificate: {out / 'fidelity.html'}   report: {report}")
