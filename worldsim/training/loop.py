"""The training loop: read it top to bottom."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

import worldsim
from worldsim.errors import DatasetError, SpaceMismatchError
from worldsim.models.checkpoint import FORMAT, WorldManifest, save_world
from worldsim.models.world_model import Batch, Part, WorldModel
from worldsim.rollouts.arrays import Arrays
from worldsim.rollouts.dataset import Rollouts
from worldsim.rollouts.progress import Bar
from worldsim.rollouts.sampling import SequenceSampler, split
from worldsim.training.config import TrainConfig, TrainerConfig
from worldsim.training.memory import keep_freed_memory
from worldsim.training.state import TrainingState
from worldsim.training.statistics import fit_statistics, reward_range

Watch = Callable[[int, dict[str, float], WorldModel, WorldManifest], None]  # step, losses, model: to log or to look
STARTS = 256  # recorded first observations that a world keeps


def train(config: TrainConfig, watch: Watch | None = None, progress: bool = True) -> WorldManifest:
    """Trains a world, or goes on with what was begun in `config.out`, and writes it there.

    Same configuration, data and machine: same weights, also after any number of interruptions. Raises DatasetError,
    SpaceMismatchError or CheckpointError where data, model and folder do not fit together.
    """
    keep_freed_memory()
    trainer = config.trainer
    rollouts = Rollouts(config.data)
    arrays = rollouts.arrays()
    _check_env(config, rollouts)
    taught, _ = split(arrays, trainer.holdout, config.seed)
    rng = np.random.default_rng(config.seed)
    fabric = Fabric(accelerator=trainer.accelerator, devices=1, precision=trainer.precision)
    manifest = describe(config, rollouts, arrays, taught)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        raw = manifest.build()
    fit_statistics(raw, arrays, taught, np.random.default_rng([config.seed, 1]))
    betas = (0.9, 0.95)
    raw_optimizer = torch.optim.AdamW(raw.parameters(), trainer.learning_rate, betas, weight_decay=trainer.weight_decay)
    model, optimizer = fabric.setup(raw.train(), raw_optimizer)
    model.mark_forward_method("losses")
    sampler = SequenceSampler(arrays, taught, trainer.batch, trainer.length, rng)
    generator = torch.Generator(fabric.device).manual_seed(config.seed)
    state = TrainingState(config.out / "training", raw, raw_optimizer, sampler, generator)
    settings = {**config.model_dump(mode="json", include={"model", "seed"}), "data": rollouts.content_hash}
    settings["trainer"] = trainer.model_dump(mode="json", exclude={"checkpoint_every", "log_every", "accelerator"})
    done = state.restore(settings)
    with Bar("train", trainer.steps, progress) as bar:
        bar.at(done)
        for step in range(done, trainer.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, trainer, raw)
            batch = Batch.from_numpy(_trimmed(sampler.sample()), fabric.device)
            losses = model.losses(batch, generator, part_of(step, trainer, raw))
            fabric.backward(losses.total)
            for part in raw.children():
                torch.nn.utils.clip_grad_norm_(part.parameters(), trainer.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            bar.at(step + 1)
            if (step + 1) % trainer.log_every == 0 or step + 1 == trainer.steps:
                figures = {name: value.item() for name, value in losses.parts.items()}
                _check_finite(figures, step + 1, state)
                if watch is not None:
                    watch(step + 1, figures, raw, manifest)
            if (step + 1) % trainer.checkpoint_every == 0 or step + 1 == trainer.steps:
                state.save(step + 1, settings)
    save_world(config.out, manifest, raw, recorded_starts(arrays, taught))
    return manifest


def part_of(step: int, trainer: TrainerConfig, model: WorldModel) -> Part:
    """What this step teaches: the codec first and then the rest, where the family allows it."""
    if not model.dynamics.separable:
        return "all"
    return "codec" if step < codec_steps(trainer) else "rest"


def codec_steps(trainer: TrainerConfig) -> int:
    return round(trainer.codec_share * trainer.steps)


def learning_rate(step: int, trainer: TrainerConfig, model: WorldModel) -> float:
    """Linear warm-up, then half a cosine down to nothing; once for each part that is taught."""
    first = codec_steps(trainer) if model.dynamics.separable else 0
    begun, steps = (0, first) if step < first else (first, trainer.steps - first)
    rise = min(1.0, (step - begun + 1) / max(1, trainer.warmup))
    return trainer.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * (step - begun) / steps))


def describe(config: TrainConfig, rollouts: Rollouts, arrays: Arrays, taught: Any) -> WorldManifest:
    """The manifest of the world that this run makes; its spaces are those of the data."""
    provenance = rollouts.provenance
    lengths = np.diff(arrays.start) - 1
    return WorldManifest(
        format=FORMAT,
        worldsim=worldsim.__version__,
        model=config.model,
        observation_space=provenance["observation_space"],
        action_space=provenance["action_space"],
        reward_range=reward_range(arrays, taught),
        horizon=int(lengths.max()),
        metadata=rollouts.metadata,
        env=config.env.model_dump(mode="json"),
        data={
            "hash": rollouts.content_hash,
            "holdout": config.trainer.holdout,
            "seed": config.seed,
            "steps": rollouts.steps,
        },
        training={**config.trainer.model_dump(mode="json"), "seed": config.seed},
    )


def recorded_starts(arrays: Arrays, episodes: Any) -> dict[str, torch.Tensor]:
    """First observations of evenly chosen episodes: leaf -> (M, ...)."""
    chosen = episodes[np.unique(np.linspace(0, len(episodes) - 1, STARTS).round().astype(int))]
    rows = arrays.start[chosen]
    return {name: torch.from_numpy(np.ascontiguousarray(array[rows])) for name, array in arrays.observation.items()}


def _check_env(config: TrainConfig, rollouts: Rollouts) -> None:
    recorded = rollouts.provenance.get("collect", {}).get("env", {})
    if recorded.get("id") != config.env.id:
        raise SpaceMismatchError(
            f"data={config.data} was recorded from {recorded.get('id')}, but env is {config.env.id}; "
            "give the env= of the data"
        )


def _check_finite(figures: dict[str, float], step: int, state: TrainingState) -> None:
    bad = [name for name, value in figures.items() if not math.isfinite(value)]
    if bad:
        last = state.saved()[-1].name if state.saved() else "none"
        raise DatasetError(
            f"the loss {bad[0]} is not finite at step {step} (last good state: {last}); "
            "lower trainer.learning_rate or look for NaN in the data"
        )


def _trimmed(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: batch[name] for name in Batch._fields}
