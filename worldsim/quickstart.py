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
from worldsim.evaluation.cells import code_digest, digest
from worldsim.evaluation.ppo import PPOConfig
from worldsim.evaluation.stress import StressConfig, StressTest
from worldsim.fidelity.validate import ValidateConfig
from worldsim.files import alone_in, hash_of, hashes_of, read_sealed, refuse_foreign, sealed, write_atomically
from worldsim.models.checkpoint import FOUND_OUT, MANIFEST, STARTS, WEIGHTS
from worldsim.models.config import AnyModelConfig
from worldsim.play.look import LookConfig
from worldsim.rollouts.collect import CollectConfig
from worldsim.rollouts.dataset import MINARI, PROVENANCE
from worldsim.settings import MOST_ENVS, Context, Envs, Seed, Settings, Steps
from worldsim.sources import files_named, sources
from worldsim.training.config import LoggerConfig, TrainConfig, TrainerConfig


class Collecting(Settings):
    """How much is recorded."""

    steps: Steps = 80_000
    num_envs: Envs = 4
    workers: int = Field(0, ge=0, le=MOST_ENVS)


class Learning(Settings):
    """The agent that is trained for the stress test."""

    steps: int = Field(0, ge=0, le=10**9)
    at_most: Steps | None = None


class Looking(Settings):
    """The GIF."""

    context: Context = 5
    length: int = Field(40, ge=1, le=10_000)
    count: int = Field(4, ge=1, le=1000)


class Measuring(Settings):
    """What validation imagines."""

    context: Context = 5
    horizon: int = Field(30, ge=1, le=10_000)
    windows: int = Field(64, ge=2, le=10_000)


class Stressing(Settings):
    """What the stress test runs."""

    agents: list[str] | None = None
    faults: list[str] = ["slow_api", "malformed_output", "missing_data"]
    severities: list[float] = [0.5]
    episodes: int = Field(48, ge=1, le=100_000)
    max_steps: Steps | None = None
    worst: int = Field(4, ge=0, le=100)


class QuickstartConfig(Settings):
    """The whole job. Every key is explained in configs/quickstart.yaml."""

    env: EnvConfig
    model: AnyModelConfig
    trainer: TrainerConfig
    logger: LoggerConfig = LoggerConfig()
    collect: Collecting = Collecting()
    ppo: Learning = Learning()
    look: Looking = Looking()
    fidelity: Measuring = Measuring()
    stress: Stressing = Stressing()
    seed: Seed = 0
    device: Device = "auto"
    out: Path = Path("runs/quickstart")


class Step(NamedTuple):
    """One step of the job."""

    verb: str
    what: str  # what it does, in a few words
    config: BaseModel  # of the verb alone
    makes: tuple[Path, ...]  # files, and folders of files, as which it is done


BY_THEMSELVES = "look", "ppo"  # verbs whose file lies alone, and says by a mark of its own whose it is
CERTIFICATE = "fidelity.json", "fidelity.html"  # copied to where the report is
Run = Callable[[str, BaseModel], None]  # a verb with its configuration; prints what came of it


def quickstart(config: QuickstartConfig, choices: Mapping[str, str], run: Run) -> None:
    """Does all steps that are not done yet, and says of each which command does it alone."""
    steps = plan(config)
    _check_names(config)
    with alone_in(config.out / "steps"):
        if not any((config.out / "steps").glob("*.json")):
            refuse_foreign((config.out / name for name in CERTIFICATE), "quickstart")
        _do_all(config, steps, choices, run)


def _do_all(config: QuickstartConfig, steps: list[Step], choices: Mapping[str, str], run: Run) -> None:
    begun = time.monotonic()
    told = False  # whether the report has just been shown
    made_from = digest(code_digest(), json.dumps(_made_of(config)))
    for number, step in enumerate(steps, 1):
        alone = grammar.command(step.verb, step.config, choices)
        print(f"{number}/{len(steps)} {step.verb}: {step.what}\n    {alone}", flush=True)
        made_from = digest(made_from, step.verb, step.config.model_dump_json())
        if isinstance(step.config, StressConfig):
            made_from = digest(made_from, StressTest(step.config).definition())
        record = config.out / "steps" / f"{step.verb}.json"
        took = _finished(record, made_from, step.makes, config.out)
        told = took is None
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
    _conclude(config.out, time.monotonic() - begun, told)


def _made_of(config: QuickstartConfig) -> dict[str, Any]:
    """The code behind the environment and what plays in it to be recorded, what they name, and the packages below."""
    env = config.env
    policy = env.policy or "random"
    specs = [policy] if isinstance(policy, str) else list(policy)
    modules = [*env_modules(env), *modules_of(specs, env.agents)]
    named = [env.kwargs, [env.agents.get(spec, spec) for spec in specs]]
    return {**sources(modules).as_json(), "files": files_named(named)}


def plan(config: QuickstartConfig) -> list[Step]:
    """The steps, in order, each with the configuration that its verb takes."""
    out, env, seed = config.out, config.env, config.seed
    rollouts, world, gif, agent = out / "rollouts", out / "world", out / "real_vs_world.gif", out / "ppo.zip"
    collecting = CollectConfig(env=env, seed=seed, out=rollouts, **config.collect.model_dump())
    kept = {key: getattr(config, key) for key in ("env", "model", "trainer", "logger", "seed")}
    training = grammar.check(TrainConfig, {"data": rollouts, "out": world, **kept})
    learned = {"world": world, "device": config.device, "seed": seed}
    looking = LookConfig(**learned, data=rollouts, out=gif, **config.look.model_dump())
    measuring = ValidateConfig(**learned, data=rollouts, **config.fidelity.model_dump())
    certified = tuple(world / name for name in FOUND_OUT)
    steps = [
        Step("collect", f"record {env.id}", collecting, (rollouts / PROVENANCE, rollouts / MINARI)),
        Step(
            "train",
            "learn a world from what was recorded",
            training,
            tuple(world / n for n in (MANIFEST, WEIGHTS, STARTS)),
        ),
        Step("validate", "measure how true the world is", measuring, certified),
        Step("look", "draw real above, learned below, same actions", looking, (gif,)),
    ]
    if config.ppo.steps:
        enough = min(config.ppo.steps, config.ppo.at_most or config.ppo.steps)
        learning = PPOConfig(env=env, steps=enough, seed=seed, out=agent)
        steps.append(Step("ppo", "train a small agent in the real environment", learning, (agent,)))
        env = env.model_copy(update={"agents": {**env.agents, "ppo": str(agent)}})
    testing = StressConfig(**learned, env=env, out=out, **config.stress.model_dump())
    testing.check()
    report = (out / "report.json", out / "report.html")
    return [*steps, Step("stress", "break agents in both worlds, on the same seeds", testing, report)]


def _check_names(config: QuickstartConfig) -> None:
    """Makes the environment and the agents to be tested once: a wrong name is told now, not after the training."""
    agents = config.stress.agents
    made_here = {"ppo"} if config.ppo.steps else set()
    stress = config.stress.model_copy(update={"agents": agents and [a for a in agents if a not in made_here]})
    if agents is None or stress.agents:
        StressTest(StressConfig(env=config.env, world=config.out / "world", **stress.model_dump())).check_names()


def _finished(record: Path, made_from: str, makes: tuple[Path, ...], out: Path) -> float | None:
    """Seconds that the step took, where it was finished from the same beginnings and its files are as they were."""
    try:
        found = read_sealed(record)
        same = found["made_from"] == made_from and found["files"] == hashes_of(makes, out)
        return float(found["seconds"]) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _make_way(record: Path, step: Step, out: Path) -> None:
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


def _conclude(out: Path, seconds: float, told: bool) -> None:
    """The certificate beside the report; the last lines: the verdict unless just told, and where everything is."""
    with alone_in(out):
        for name in CERTIFICATE:
            write_atomically(out / name, (out / "world" / name).read_bytes())
    print(f"\nfinished in {seconds:.0f} s")
    for sentence in [] if told else json.loads((out / "report.json").read_text())["verdict"]:
        print(f"  {sentence}")
    print(f"film: {out / 'real_vs_world.gif'}   certificate: {out / 'fidelity.html'}   report: {out / 'report.html'}")
