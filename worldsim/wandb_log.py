"""Weights & Biases: losses, and now and then an open-loop video of held-out rollouts with its PSNR."""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.errors import ConfigError, DatasetError
from worldsim.files import read_sealed, sealed, write_atomically
from worldsim.models.checkpoint import WorldManifest
from worldsim.models.world_model import WorldModel
from worldsim.play.look import look
from worldsim.rollouts.mix import Mix
from worldsim.rollouts.sampling import windows
from worldsim.simulator.rollout import open_loop
from worldsim.simulator.world import World
from worldsim.training.config import TrainConfig
from worldsim.training.loop import Watch

CONTEXT, WINDOWS = 5, 8  # recorded rows seen first, and stretches imagined, for a logged PSNR
HORIZONS = (1, 5, 15)  # steps after the context at which it is logged


@contextmanager
def watching(config: TrainConfig) -> Iterator[Watch | None]:
    """What `train` calls after each logged step; None where logging is disabled. A resumed run keeps its log."""
    if config.logger.mode == "disabled":
        yield None
        return
    import wandb

    folder = config.out / "wandb"
    folder.mkdir(parents=True, exist_ok=True)
    kept = config.out / "training" / "wandb.json"
    try:
        identity = str(read_sealed(kept)["id"])
    except (OSError, ValueError, KeyError):  # none yet, or damaged: a run of its own
        identity = secrets.token_hex(4)
    logger = config.logger
    try:
        run = wandb.init(
            mode=logger.mode,
            project=logger.project,
            name=logger.name,
            dir=str(config.out),
            id=identity,
            resume="allow" if logger.mode == "online" else None,
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(silent=True),
        )
    except wandb.errors.Error as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"logger={logger.mode}: wandb could not start ({reason}); try logger=offline") from error
    write_atomically(kept, json.dumps(sealed({"id": identity})))
    try:
        yield _Watcher(config, run)
    finally:
        run.finish()


class _Watcher:
    """Logs losses each time it is called and looks every `video_every` updates."""

    def __init__(self, config: TrainConfig, run: Any):
        self.config, self.run = config, run
        data = Mix(config.data)
        self.arrays = data.arrays
        train_episodes, held_out = data.split(config.trainer.holdout, config.seed)
        self.episodes = held_out if len(held_out) else train_episodes
        self.looked = 0

    def __call__(self, step: int, losses: dict[str, float], model: WorldModel, manifest: WorldManifest) -> None:
        figures: dict[str, Any] = {f"loss/{name}": value for name, value in losses.items()}
        if step // self.config.logger.video_every > self.looked:
            self.looked = step // self.config.logger.video_every
            figures |= self._look(step, model, manifest)
        self.run.log(figures, step=step)

    def _look(self, step: int, model: WorldModel, manifest: WorldManifest) -> dict[str, Any]:
        import wandb

        world = World(manifest, model, {})
        try:
            path = self.config.out / "training" / f"look-{step:08d}.gif"
            look(world, self.arrays, self.episodes, path, count=2)
            return {"open_loop": wandb.Video(str(path), format="gif"), **self._psnr(world)}
        except DatasetError:  # every held-out episode is shorter than the context: nothing to show
            return {}
        finally:
            model.train()

    def _psnr(self, world: World) -> dict[str, float]:
        rng = np.random.default_rng(self.config.seed)
        window = windows(self.arrays, self.episodes, CONTEXT + max(HORIZONS), WINDOWS, rng)
        imagined = open_loop(world, window, CONTEXT, list(range(WINDOWS)))
        found = {}
        for name, real in window["observation"].items():
            if real.dtype != np.uint8:
                continue
            for horizon in HORIZONS:
                t = CONTEXT + horizon - 1
                there = window["mask"][:, t]
                if there.any():
                    found[f"psnr/{name}/{horizon}"] = psnr(real[there, t], imagined.observation[name][there, t])
        return found


def psnr(real: NDArray[np.uint8], drawn: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio over all pixels, in dB; 100 where they are the same."""
    error = float(np.mean((real.astype(np.float64) - drawn) ** 2))
    return min(100.0, 10 * float(np.log10(255**2 / max(error, 1e-9))))
