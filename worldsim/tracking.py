"""Weights & Biases: logs training, validation and stress tests, each as a run of its own.

Runs of one world share a group named after its folder, jobs of a sweep one named after the sweep's folder.
docs/wandb.md lists what is logged.
"""

import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel

from worldsim.errors import ConfigError, DatasetError
from worldsim.fidelity.measures import psnr, squared_error
from worldsim.files import read_sealed, sealed, write_atomically
from worldsim.models.checkpoint import WorldManifest
from worldsim.models.world_model import Batch, WorldModel
from worldsim.play.look import look
from worldsim.rollouts.mix import Mix
from worldsim.rollouts.sampling import SequenceSampler, windows
from worldsim.settings import LoggerConfig
from worldsim.simulator.rollout import open_loop
from worldsim.simulator.world import World
from worldsim.training.config import TrainConfig, TrainerConfig
from worldsim.training.loop import TrainingCallback
from worldsim.training.phases import learning_rate, phase_at, phases

CONTEXT, WINDOWS = 5, 8  # recorded rows that are observed first, and number of windows, for a logged PSNR
HORIZONS = (1, 5, 15)  # steps after the context at which it is logged
HELD_OUT = 4  # a held-out loss is the mean over this many times the sequences of an update, to reduce its noise

WandbRun = Any  # wandb.Run; wandb has types for some of its parts only


@contextmanager
def watching(config: TrainConfig) -> Iterator[TrainingCallback]:
    """A callback for `train` that logs. A resumed run continues its log."""
    kept = config.out / "training" / "wandb.json"
    try:
        identity = str(read_sealed(kept)["id"])
    except (OSError, ValueError, KeyError):  # none yet, or damaged: a new run
        identity = secrets.token_hex(4)
    with tracked("train", config, config.logger, config.out, config.out, identity) as run:
        write_atomically(kept, json.dumps(sealed({"id": identity})))
        yield _Watcher(config, run)


@contextmanager
def tracked(
    verb: str, config: BaseModel, logger: LoggerConfig, out: Path, about: Path | None, identity: str | None = None
) -> Iterator[WandbRun]:
    """A run of Weights & Biases with its files in `out`/wandb; prints its path or URL at the end.

    about: folder of the world, the default group. identity: id of a run that may be resumed. Raises ConfigError where
    wandb cannot start.
    """
    import wandb

    (out / "wandb").mkdir(parents=True, exist_ok=True)  # else wandb takes a folder for temporary files
    # `dir` is absolute, because wandb's service process keeps the working directory that it was started in.
    try:
        run = wandb.init(
            mode=logger.mode,
            project=logger.project,
            name=logger.name,
            group=logger.group or (str(about) if about else None),
            job_type=verb,
            dir=str(out.absolute()),
            id=identity,
            resume="allow" if identity and logger.mode == "online" else None,
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(silent=True),
        )
    except wandb.errors.Error as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"logger={logger.mode}: wandb could not start ({reason}); try logger=offline") from error
    finished = False
    try:
        yield run
        finished = True
    finally:
        folder, url = out / "wandb" / Path(run.dir).parent.name, run.url if logger.mode == "online" else None
        run.finish(exit_code=0 if finished else 1)
        print(f"wandb: {url}" if url else f"wandb: {folder}; to send it: wandb sync {folder}", flush=True)


def log_certificate(run: WandbRun, certificate: Mapping[str, Any]) -> None:
    """Logs a certificate: the curves over the horizon, one row for each number of steps, and the verdict."""
    curves = dict(_curves(certificate, len(certificate["horizons"])))
    run.define_metric("horizon")
    for name in curves:
        run.define_metric(name, step_metric="horizon")
    for number, horizon in enumerate(certificate["horizons"]):
        row = {name: curve[number] for name, curve in curves.items() if curve[number] is not None}
        run.log({"horizon": horizon, **row})
    trust = {f"trust/{name}": value for name, value in certificate["trust"].items() if isinstance(value, float)}
    run.summary.update({**trust, "verdict": _as_text(certificate["verdict"])})


def log_report(run: WandbRun, data: Mapping[str, Any]) -> None:
    """Logs a stress test, `data` as in report.json: a table, the mean returns, and the verdict."""
    import wandb

    rows = data["results"]
    columns = [key for key, value in rows[0].items() if value is None or isinstance(value, str | int | float)]
    run.log({"results": wandb.Table(columns=columns, data=[[row[key] for key in columns] for row in rows])})
    means = {f"return/{row['where']}/{row['fault']}@{row['severity']:g}/{row['agent']}": row for row in rows}
    run.summary.update({name: row["return_mean"] for name, row in means.items()})
    run.summary["verdict"] = _as_text(data["verdict"])


def _curves(found: Any, length: int, name: str = "") -> Iterator[tuple[str, Sequence[float | None]]]:
    """All lists with a number (or None) for each horizon, by their keys: psnr_by_leaf/screen/model."""
    if isinstance(found, Mapping):
        for key, value in found.items():
            if key not in ("horizons", "teacher_forced", "one_step"):  # the last two are not open loop
                yield from _curves(value, length, f"{name}/{key}" if name else str(key))
    elif isinstance(found, list) and len(found) == length and all(isinstance(x, float | int | None) for x in found):
        yield name, found


def _as_text(verdict: Any) -> str:
    return verdict if isinstance(verdict, str) else " ".join(map(str, verdict))


class _Watcher:
    """Logs losses, learning rate and throughput at each call, and less often held-out losses and a film."""

    def __init__(self, config: TrainConfig, run: WandbRun):
        self.config, self.run = config, run
        data = Mix(config.data)
        self.arrays = data.arrays
        self.trained_on, self.held_out = data.split(config.trainer.holdout, config.seed)
        self.looked = self.validated = 0
        self.last_logged: tuple[int, float] | None = None  # update and time in s at the end of the last call

    def __call__(self, step: int, losses: dict[str, float], model: WorldModel, manifest: WorldManifest) -> None:
        now, logger = time.perf_counter(), self.config.logger
        metrics: dict[str, Any] = {f"loss/{name}": value for name, value in losses.items()}
        trainer = TrainerConfig(
            **{key: manifest.training[key] for key in TrainerConfig.model_fields}
        )  # with the number of updates that fit into trainer.seconds
        plan = phases(trainer, model)
        number, within = phase_at(step - 1, plan)
        phase = plan[number]
        metrics["learning_rate"] = learning_rate(within, phase, trainer.warmup)
        if self.last_logged is not None:
            pace = (step - self.last_logged[0]) / (now - self.last_logged[1])
            metrics["throughput/updates_per_s"] = pace
            metrics["throughput/env_steps_per_s"] = pace * phase.batch * phase.length
        if len(self.held_out) and step // logger.validate_every > self.validated:
            self.validated = step // logger.validate_every
            sampler = SequenceSampler(
                self.arrays, self.held_out, HELD_OUT * phase.batch, phase.length, np.random.default_rng(0)
            )
            device = next(model.parameters()).device
            with torch.no_grad():  # always the same batch and noise, so that only the model changes the curve
                generator = torch.Generator(device).manual_seed(0)
                found = model.losses(Batch.from_numpy(sampler.sample(), device), generator, phase.stage)
            metrics |= {f"held_out/{name}": float(value) for name, value in found.parts.items()}
        if step // logger.video_every > self.looked:
            self.looked = step // logger.video_every
            metrics |= self._look(step, model, manifest)
        self.run.log(metrics, step=step)
        self.last_logged = step, time.perf_counter()

    def _look(self, step: int, model: WorldModel, manifest: WorldManifest) -> dict[str, Any]:
        import wandb

        world = World(manifest, model, {})
        try:
            path = self.config.out / "training" / f"look-{step:08d}.gif"
            look(world, self.arrays, self._shown(), path, count=2)
            return {"open_loop": wandb.Video(str(path), format="gif"), **self._psnr(world)}
        except DatasetError:  # every held-out episode is shorter than the context
            return {}
        finally:
            model.train()

    def _shown(self) -> NDArray[np.int64]:
        return self.held_out if len(self.held_out) else self.trained_on

    def _psnr(self, world: World) -> dict[str, float | None]:
        rng = np.random.default_rng(self.config.seed)
        window = windows(self.arrays, self._shown(), CONTEXT + max(HORIZONS), WINDOWS, rng)
        imagined = open_loop(world, window, CONTEXT, list(range(WINDOWS)))
        found = dict[str, float | None]()
        for name, real in window["observation"].items():
            if real.dtype != np.uint8:
                continue
            for horizon in HORIZONS:
                t = CONTEXT + horizon - 1
                there = window["mask"][:, t]
                if there.any():
                    error = squared_error(real[there, t, None], imagined.observation[name][there, t, None])
                    found[f"psnr/{name}/{horizon}"] = psnr([float(error.mean())])[0]
        return found
