"""Compares the families on four environments: same data, about as many parameters, same training time.

python benchmarks/families.py                       # 4 environments, 4 families, ten minutes each: three hours
python benchmarks/families.py envs=[atari/breakout] families=[ssm,rssm] seeds=[0,1] seconds=60 threads=1
python benchmarks/families.py --table               # the tables again, of what is there

A run is the experiment of its environment, `worldsim quickstart experiment=breakout_race model=<family>`, up to its
certificate: collect (once for each environment), train for `seconds`, validate on held-out episodes; then the
conformance checks of the World. Keys with a dot are overrides of the quickstart for all runs, e.g. trainer.batch=8.
Finished runs are kept in out/results and skipped; stopped ones are resumed.
"""

import json
import logging
import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import worldsim
from worldsim import grammar
from worldsim.errors import ConfigError, WorldsimError
from worldsim.fidelity.table import SHOWN
from worldsim.fidelity.validate import ValidateConfig, validate
from worldsim.files import write_atomically
from worldsim.models.checkpoint import WorldManifest
from worldsim.quickstart import QuickstartConfig, plan
from worldsim.rollouts.collect import CollectConfig, collect
from worldsim.simulator.conformance import checks_of
from worldsim.simulator.world import World, load
from worldsim.training.config import TrainConfig, TrainerConfig
from worldsim.training.loop import train
from worldsim.training.phases import phases
from worldsim.training.state import read_state, saved_states

RACES = {
    "refund_desk": "refund_desk_race",
    "atari/breakout": "breakout_race",
    "vizdoom/defend_center": "vizdoom_race",
    "box2d/car_racing": "car_racing_race",
}
FAMILIES = ("ssm", "transformer", "rssm", "diffusion")
BASELINES = ("copy", "mean")
Result = dict[str, Any]


class Race(BaseModel):
    """What is compared."""

    model_config = ConfigDict(extra="forbid")

    envs: list[str] = list(RACES)
    families: list[str] = list(FAMILIES)
    seeds: list[int] = [0]  # of weights, batches and the held-out split; the data are the same for all
    seconds: float = Field(600, gt=0)  # of training, set-up not counted
    threads: int | None = Field(None, ge=1)  # cores, and threads of torch; None: all cores
    out: Path = Path("runs/families")


def main(arguments: Sequence[str]) -> int:
    """Runs everything that is not finished yet and prints the tables; returns 1 if something failed."""
    race, extra, only_table = parse_arguments(arguments)
    failed = False
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    if not only_table:
        threads = limit_cores(race.threads)
        for env, seed, family in product(race.envs, race.seeds, race.families):
            failed |= not run_if_missing(race, env, family, seed, extra, threads)
    found = [read(path) for path in sorted((race.out / "results").glob("*.json"))]
    print(tables(race, [result for result in found if result is not None]))
    return int(failed)


def parse_arguments(arguments: Sequence[str]) -> tuple[Race, list[str], bool]:
    """The race, overrides for the quickstart, and whether only tables are asked for. Exits with a message on errors."""
    extra = [word for word in arguments if "." in word.partition("=")[0] or "/" in word.partition("=")[0]]
    own = [word for word in arguments if word not in extra and word != "--table"]
    try:
        race = Race.model_validate(OmegaConf.to_container(OmegaConf.from_dotlist(own)))
    except ValidationError as error:
        first = error.errors()[0]
        sys.exit(f"benchmarks/families.py: {first['loc'][0]}: {first['msg']}; keys are {', '.join(Race.model_fields)}")
    for given, known in ((race.envs, RACES), (race.families, FAMILIES)):
        if set(given) - set(known):
            sys.exit(f"benchmarks/families.py: {', '.join(given)}: each must be one of {', '.join(known)}")
    return race, extra, "--table" in arguments


def limit_cores(threads: int | None) -> int:
    """Limits this process, with all its threads, to so many cores; returns their number."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    count = threads or len(cores)
    if count > len(cores):
        sys.exit(f"benchmarks/families.py: threads={count}, but there are {len(cores)} cores")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores[:count])
    torch.set_num_threads(count)
    return count


def run_if_missing(race: Race, env: str, family: str, seed: int, extra: list[str], threads: int) -> bool:
    """One run, unless it is finished; False if it failed, which does not stop the others."""
    name = f"{short_name(env)}-{family}-{seed}"
    path = race.out / "results" / f"{name}.json"
    words = [f"experiment={RACES[env]}", f"model={family}", f"seed={seed}", f"trainer.seconds={race.seconds:g}", *extra]
    print(f"{name}: worldsim quickstart {' '.join(words)}", flush=True)
    try:
        composed = grammar.compose("quickstart", QuickstartConfig, [*words, f"out={race.out / name}"])
        result = read(path)
        if result is None:
            result = {"env": env, "family": family, "seed": seed, "words": words, "threads": threads}
            result |= run(composed.config, race.out / f"data-{short_name(env)}") | {"machine": machine()}
            write_atomically(path, json.dumps(result, indent=1, allow_nan=False))
        if (result["words"], result["threads"]) != (words, threads):
            was = f"{' '.join(result['words'])} on {result['threads']} cores"
            raise ConfigError(f"{path} is of {was}; choose another out=, or delete it")
    except WorldsimError as error:
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        return False
    print(f"{name}: {summary_line(result)}", flush=True)
    return True


def run(config: QuickstartConfig, data: Path) -> Result:
    """Collects, trains, validates and checks one World."""
    steps: dict[str, Any] = {step.verb: step.config for step in plan(config)}
    collecting: CollectConfig = steps["collect"].model_copy(update={"out": data, "seed": 0})
    training: TrainConfig = steps["train"].model_copy(update={"data": data})
    validating: ValidateConfig = steps["validate"].model_copy(update={"data": data})
    collect(collecting)
    manifest = train(training)
    certificate = validate(validating)
    world = load(training.out)
    parameters = sum(parameter.numel() for parameter in world.model.parameters())
    metrics = {"parameters": parameters, "training": trained(training.out, manifest, world)}
    checks = {name: outcome(check, world) for name, check in checks_of(world).items()}
    return metrics | {"checks": checks, "certificate": certificate}


def trained(out: Path, manifest: WorldManifest, world: World) -> Result:
    """Seconds, updates of each part, and frames a second."""
    seconds = read_state(saved_states(out / "training")[-1])["seconds"]
    values = {key: value for key, value in manifest.training.items() if key in TrainerConfig.model_fields}
    parts = phases(TrainerConfig.model_validate(values), world.model)
    frames = sum(part.steps * part.batch * part.length for part in parts)
    updates = {phase.stage.name: phase.steps for phase in parts}
    return {"seconds": seconds, "updates": updates, "frames": frames, "frames_per_second": frames / seconds}


def outcome(check: Callable[[World], None], world: World) -> str:
    try:
        check(world)
    except Exception as error:  # whatever a checker raises
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return "passed"


def read(path: Path) -> Result | None:
    try:
        found: Result = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found


def short_name(env: str) -> str:
    return env.rpartition("/")[2]


def machine() -> Result:
    """CPU and versions."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    versions = {"python": platform.python_version(), "torch": torch.__version__, "worldsim": worldsim.__version__}
    return {"cpu": cpu, **versions, "numpy": np.__version__}


def summary_line(result: Result) -> str:
    """The result of one run in a line."""
    training, wrong = result["training"], {k: v for k, v in result["checks"].items() if v != "passed"}
    checks = f"checks failed: {wrong}" if wrong else f"checks passed: {', '.join(result['checks'])}"
    return f"trained {training['seconds']:.0f} s, {training['frames_per_second']:,.0f} frames/s; {checks}"


def tables(race: Race, results: list[Result]) -> str:
    """Markdown tables for each environment, from the results that exist."""
    parts = []
    for env in race.envs:
        runs = [r for r in results if r["env"] == env and r["family"] in race.families and r["seed"] in race.seeds]
        if runs:
            parts += [
                heading(env, runs),
                image_tables(runs),
                discrete_and_vector_tables(runs),
                calibration_table(runs),
                conformance(runs),
            ]
    return "\n\n".join(part for part in parts if part) or f"no results in {race.out / 'results'}"


def heading(env: str, runs: list[Result]) -> str:
    first = runs[0]
    machines = {json.dumps([r["machine"], r["threads"]]) for r in runs}
    versions = ", ".join(f"{key} {value}" for key, value in first["machine"].items() if key != "cpu")
    other = "" if len(machines) == 1 else "; NOT ALL ON THE SAME MACHINE"
    seeds = ", ".join(map(str, sorted({r["seed"] for r in runs})))
    where = f"{first['machine']['cpu']}, {first['threads']} cores; {versions}; seeds {seeds}{other}"
    command = " ".join(word for word in first["words"] if not word.startswith(("model=", "seed=")))
    return f"### {env}\n\n    worldsim quickstart {command} model=...\n\n{where}"


def image_tables(runs: list[Result]) -> str:
    """PSNR of all and of changed pixels, and SSIM, of every image leaf."""
    parts = []
    for leaf in runs[0]["certificate"].get("psnr_by_leaf", {}):
        places = shown_places(runs[0])
        rows = [["family", "parameters", "trained, s", "updates", "frames/s", *(f"h={h}" for h in places)]]
        for family, own in by_family(runs):
            training = [r["training"] for r in own]
            rows.append(
                [
                    family,
                    f"{own[0]['parameters'] / 1e6:.2f} M",
                    mean_std([t["seconds"] for t in training], ".0f"),
                ]
            )
            rows[-1].append(
                " + ".join(mean_std([t["updates"][part] for t in training], ".0f") for part in training[0]["updates"])
            )
            rows[-1].append(mean_std([t["frames_per_second"] for t in training], ",.0f"))
            rows[-1] += [image_cells(own, leaf, "model", place) for place in places.values()]
        for name in BASELINES:
            rows.append(
                [name, "", "", "", "", *(image_cells(by_seed(runs), leaf, name, place) for place in places.values())]
            )
        parts.append(f"`{leaf}`: PSNR in dB of all pixels / of changed pixels / SSIM\n\n{markdown(rows)}")
    return "\n\n".join(parts)


def image_cells(runs: list[Result], leaf: str, name: str, place: int) -> str:
    measures = (("psnr_by_leaf", ".1f"), ("psnr_changed_by_leaf", ".1f"), ("ssim_by_leaf", ".3f"))
    return " / ".join(mean_std([r["certificate"][m][leaf][name][place] for r in runs], form) for m, form in measures)


def discrete_and_vector_tables(runs: list[Result]) -> str:
    """Accuracy of categorical leaves and normalised error of vectors, open loop and one step ahead."""
    places = shown_places(runs[0])
    families = by_family(runs)
    kinds = {"accuracy": ("share of the fields right", ".1%"), "nrmse_by_leaf": ("error / deviation", ".2f")}
    parts = []
    for measure, (words, form) in kinds.items():
        leaves = runs[0]["certificate"].get(measure, {})
        names = [*(family for family, _ in families), *BASELINES]
        rows = [["leaf", *names]]
        for leaf in leaves:
            sources = [*((own, "model") for _, own in families), *((by_seed(runs), name) for name in BASELINES)]
            rows.append([f"`{leaf}`", *(horizon_cells(own, measure, leaf, name, form) for own, name in sources)])
        if leaves:
            horizons = " / ".join(map(str, places))
            parts.append(f"Open loop, {words}, {horizons} steps ahead\n\n{markdown(rows)}")
    if runs[0]["certificate"]["one_step"]["accuracy"]:
        rows = [["leaf", *(family for family, _ in families)]]
        for leaf in runs[0]["certificate"]["one_step"]["accuracy"]:
            rights = [[r["certificate"]["one_step"]["accuracy"][leaf] for r in own] for _, own in families]
            rows.append([f"`{leaf}`", *(mean_std(values, ".1%") for values in rights)])
        parts.append(f"One step ahead of everything before, share of the fields right\n\n{markdown(rows)}")
    return "\n\n".join(parts)


def horizon_cells(runs: list[Result], measure: str, leaf: str, name: str, form: str) -> str:
    curves = [r["certificate"][measure][leaf][name] for r in runs]
    return " / ".join(mean_std([curve[place] for curve in curves], form) for place in shown_places(runs[0]).values())


def calibration_table(runs: list[Result]) -> str:
    """Calibration of trust, rewards and terminations."""
    rows = [["family", "trust AUROC", "ECE", "reward sign ECE", "termination F1", "ECE", "terminations"]]
    for family, own in by_family(runs):
        metrics = [(r["certificate"]["trust"], r["certificate"]["one_step"]) for r in own]
        rows.append([family, mean_std([trust["auroc"] for trust, _ in metrics], ".3f")])
        rows[-1].append(mean_std([trust["ece"] for trust, _ in metrics], ".3f"))
        rows[-1].append(mean_std([step["reward"]["ece"] for _, step in metrics], ".4f"))
        rows[-1] += [mean_std([step["termination"][key] for _, step in metrics], form) for key, form in ENDS.items()]
    return markdown(rows)


ENDS = {"f1": ".2f", "ece": ".4f", "events": ".0f"}


def conformance(runs: list[Result]) -> str:
    wrong = [
        f"{r['family']}, seed {r['seed']}: {k}: {v}" for r in runs for k, v in r["checks"].items() if v != "passed"
    ]
    names = ", ".join(runs[0]["checks"])
    return f"Checks ({names}): " + ("; ".join(wrong) if wrong else "passed by every World.")


def by_family(runs: list[Result]) -> list[tuple[str, list[Result]]]:
    found = {r["family"]: [other for other in runs if other["family"] == r["family"]] for r in runs}
    return sorted(found.items(), key=lambda item: FAMILIES.index(item[0]))


def by_seed(runs: list[Result]) -> list[Result]:
    """One run for each seed, for metrics that do not depend on the family."""
    return list({r["seed"]: r for r in runs}.values())


def shown_places(result: Result) -> dict[int, int]:
    """Horizons of the tables -> their indices in a curve."""
    horizons = result["certificate"]["horizons"]
    return {h: horizons.index(h) for h in SHOWN if h in horizons} or {horizons[-1]: -1}


def mean_std(values: Sequence[float | None], form: str) -> str:
    """The mean over seeds, with the standard deviation if there are several."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    spread = f" ± {statistics.stdev(known):{form}}" if len(known) > 1 else ""
    return f"{statistics.fmean(known):{form}}{spread}"


def markdown(rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
