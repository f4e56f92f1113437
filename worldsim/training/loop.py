"""The training loop: read it top to bottom."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric

import worldsim
from worldsim.errors import DatasetError, SpaceMismatchError
from worldsim.models.checkpoint import FORMAT, WorldManifest, is_whole, save_world
from worldsim.models.world_model import Batch, Part, WorldModel
from worldsim.rollouts.arrays import Arrays
from worldsim.rollouts.dataset import Rollouts
from worldsim.rollouts.fingerprints import fingerprints
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
    raw_optimizer = torch.optim.AdamW(raw.parameters(), betas=betas, weight_decay=trainer.weight_decay, fused=True)
    model, optimizer = fabric.setup(raw.train(), raw_optimizer)
    model.mark_forward_method("losses")
    plan = phases(trainer, raw)
    samplers = [SequenceSampler(arrays, taught, phase.batch, phase.length, rng) for phase in plan]
    generator = torch.Generator(fabric.device).manual_seed(config.seed)
    state = TrainingState(config.out / "training", raw, raw_optimizer, samplers[0], generator)
    settings = {**config.model_dump(mode="json", include={"model", "seed"}), "data": rollouts.content_hash}
    settings["trainer"] = trainer.model_dump(mode="json", exclude={"checkpoint_every", "log_every", "accelerator"})
    done, total = state.restore(settings), sum(phase.steps for phase in plan)
    with Bar("train", total, progress) as bar:
        bar.at(done)
        for step in range(done, total):
            phase, sampler, within = _phase_at(step, plan, samplers)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(within, phase, trainer.warmup)
            batch = Batch.from_numpy(_trimmed(sampler.sample()), fabric.device)
            with fabric.autocast():
                losses = model.losses(batch, generator, phase.part)
            fabric.backward(losses.total)
            for part in raw.children():
                torch.nn.utils.clip_grad_norm_(list(part.parameters()), trainer.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            bar.at(step + 1)
            if (step + 1) % trainer.log_every == 0 or step + 1 == total:
                figures = {name: value.item() for name, value in losses.parts.items()}
                _check_finite(figures, step + 1, state)
                if watch is not None:
                    watch(step + 1, figures, raw, manifest)
            if (step + 1) % trainer.checkpoint_every == 0 or step + 1 == total:
                state.save(step + 1, settings)
    if done < total or not is_whole(config.out, manifest):  # a finished world keeps its certificate
        save_world(config.out, manifest, raw, recorded_starts(arrays, taught))
    return manifest


class Phase(NamedTuple):
    """A stretch of updates that teach one part of the model, with a learning-rate schedule of its own."""

    part: Part
    steps: int
    batch: int  # sequences in an update
    length: int  # rows in a sequence
    learning_rate: float  # at its highest


def phases(trainer: TrainerConfig, model: WorldModel) -> list[Phase]:
    """All at once; or, where the family's codes depend on the codec alone, first to draw and then to foresee.

    Learning to draw wants many small updates on single frames, and then stands still under what is learned on top.
    """
    size = trainer.batch, trainer.length, trainer.learning_rate
    if not model.dynamics.separable:
        return [Phase("all", trainer.steps, *size)]
    drawing = Phase("codec", trainer.codec_steps, trainer.codec_frames, 1, trainer.codec_learning_rate)
    return [drawing, Phase("rest", trainer.steps, *size)]


def _phase_at(step: int, plan: list[Phase], samplers: list[SequenceSampler]) -> tuple[Phase, SequenceSampler, int]:
    for phase, sampler in zip(plan, samplers, strict=True):
        if step < phase.steps:
            return phase, sampler, step
        step -= phase.steps
    raise AssertionError(f"{step} steps beyond the plan")


def learning_rate(step: int, phase: Phase, warmup: int) -> float:
    """Linear warm-up, then half a cosine down to nothing at the phase's end."""
    rise = min(1.0, (step + 1) / max(1, warmup))
    return phase.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / phase.steps))


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
            "episodes": fingerprints(arrays, taught),
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
