"""The training loop. `train` prepares a run, `TrainingRun.train` loops over updates, `TrainingRun.update` is one."""

import copy
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricOptimizer
from torch import Generator, Tensor
from torch.distributed.tensor import DTensor

import worldsim
from worldsim.envs.make import EnvConfig, make_env
from worldsim.errors import ConfigError, MissingExtraError, SpaceMismatchError, UnknownEnvError
from worldsim.files import alone_in, refuse_foreign
from worldsim.models.checkpoint import FORMAT, WORLD_FILES, WorldManifest, is_whole, looks_like_a_world, save_world
from worldsim.models.config import PRECISIONS, Precision
from worldsim.models.generator import SharedGenerator
from worldsim.models.world_model import Batch, Losses, Stage, WorldModel
from worldsim.printing import printable
from worldsim.rollouts.arrays import EpisodeArrays
from worldsim.rollouts.dataset import Rollouts
from worldsim.rollouts.fingerprints import fingerprints
from worldsim.rollouts.mix import Mix, difference
from worldsim.rollouts.progress import Bar
from worldsim.rollouts.sampling import RankShard, SequenceSampler
from worldsim.rollouts.segments import Segments
from worldsim.spaces import space_from_json
from worldsim.training.captured import Captured, Update, graph_capture
from worldsim.training.config import TrainConfig, TrainerConfig
from worldsim.training.feed import Feed
from worldsim.training.memory import (
    MemoryLimit,
    check_memory,
    explain_out_of_memory,
    free_memory,
    keep_freed_memory,
    memory_need,
)
from worldsim.training.pace import (
    TRIAL_UPDATES,
    faster_precision,
    fitted_to_time,
    resumed_counts,
    resumed_precision,
    seconds_per_update,
)
from worldsim.training.phases import Phase, learning_rate, phase_at, phases
from worldsim.training.processes import (
    Objective,
    is_first,
    launch,
    make_fabric,
    mean_of,
    rank_shard,
    unsharded,
    whole_batch,
)
from worldsim.training.state import STATE, TrainingState, saved_states
from worldsim.training.statistics import fit_statistics, reward_range

# Gets the update's number, its losses, the model as it is then, and the manifest: to log, or to look at the model.
TrainingCallback = Callable[[int, dict[str, float], WorldModel, WorldManifest], None]
STARTS = 256  # recorded first observations that a world keeps, to start episodes from
DIVERGED = 100.0  # times the first loss of its phase, or times 1 where that is less: a loss above that diverges
CHANGES_NO_WEIGHT = {
    "checkpoint_every",
    "log_every",
    "accelerator",
    "devices",
    "num_nodes",
    "strategy",
    "cuda_graphs",
}


def train(config: TrainConfig, callback: TrainingCallback | None = None, progress: bool = True) -> WorldManifest:
    """Trains a world, or resumes a run in `config.out`, and writes it there.

    Same configuration, data, machine and number of threads: same weights, also after any number of interruptions, where
    trainer.precision=auto does not find the other one faster. Several processes give the weights of one up to rounding.
    The first of them writes the files, calls `callback` and shows the progress.
    Raises DatasetError, SpaceMismatchError or CheckpointError where data, model and folder do not fit together, and
    ConfigError where `out` lies in the data, memory runs out or the loss diverges; the last good state is then kept.
    """
    keep_freed_memory()
    data = Mix(config.data, config.weights)
    data.check_outside(config.out)
    config = config.model_copy(update={"env": config.env or recorded_env(data)})
    _check_env(config, data)
    train_episodes, _ = data.split(config.trainer.holdout, config.seed)
    manifest = make_manifest(config, data, train_episodes)
    if progress and is_first():
        for line in data.lossy:
            print(f"note: {printable(line)}", flush=True)
        _note_length(config.trainer.length, manifest.horizon)
    folder = config.out / "training"
    with (
        alone_in(config.out, folder.name) if is_first() else nullcontext(),
        explain_out_of_memory(_memory_settings(config)),
    ):
        if not any((state / STATE).is_file() for state in saved_states(folder)) and not looks_like_a_world(config.out):
            refuse_foreign((config.out / name for name in WORLD_FILES), "train")
        _train(config, data, train_episodes, manifest, callback, progress)
    return manifest


def _train(
    config: TrainConfig,
    data: Mix,
    train_episodes: Any,
    manifest: WorldManifest,
    callback: TrainingCallback | None,
    progress: bool,
) -> None:
    # Precision is decided before `launch`, because the worker processes get it with the configuration.
    model = initial_model(manifest, data.arrays, train_episodes, config.seed)
    plan = phases(config.trainer, model)
    spaces = space_from_json(manifest.observation_space), space_from_json(manifest.action_space)
    need = memory_need(model, spaces, plan, config.trainer)
    check_memory(need, plan, free_memory(make_fabric(config.trainer).device))
    if config.trainer.precision == "auto":
        precision = resumed_precision(config.out / "training")
        if precision is None:
            precision = _precision(config, data, train_episodes, manifest, model, progress)
        trainer = config.trainer.model_copy(update={"precision": precision})
        config = config.model_copy(update={"trainer": trainer})
        manifest.training["precision"] = precision
    with launch(config, staged=len(plan) > 1) as fabric:

        def make_run(trainer: TrainerConfig, model: WorldModel, plan: list[Phase]) -> TrainingRun:
            feed = Feed(plan, make_samplers(config, data, train_episodes, plan, rank_shard(fabric)), fabric.device)
            return TrainingRun(config.model_copy(update={"trainer": trainer}), fabric, manifest, model, feed)

        trainer = config.trainer
        if trainer.seconds is not None:
            trials = (make_run(trainer, copy.deepcopy(model), [phase._replace(steps=TRIAL_UPDATES)]) for phase in plan)
            resumed = resumed_counts(config.out / "training", trainer)
            trainer = resumed or fitted_to_time(trainer, plan, seconds_per_update(fabric, trials))
            manifest.training |= trainer.model_dump(mode="json")
        run = make_run(trainer, model, phases(trainer, model))
        whole = _train_to_end(run, callback, progress and fabric.is_global_zero)
        if whole is not None and fabric.is_global_zero:
            save_world(config.out, manifest, whole, recorded_starts(data.arrays, train_episodes))


def _precision(
    config: TrainConfig, data: Mix, episodes: Any, manifest: WorldManifest, model: WorldModel, progress: bool
) -> Precision:
    """The faster precision on this machine, timed on the real model; for several processes the usual one, untimed."""
    trainer, plan = config.trainer, phases(config.trainer, model)
    if trainer.devices * trainer.num_nodes > 1:
        return "32-true" if trainer.accelerator == "cpu" else "bf16-mixed"

    def trial(phase: Phase, precision: Precision) -> TrainingRun:
        tried = config.model_copy(update={"trainer": trainer.model_copy(update={"precision": precision})})
        fabric = make_fabric(tried.trainer)
        feed = Feed(
            [phase._replace(steps=TRIAL_UPDATES)],
            make_samplers(config, data, episodes, [phase], RankShard()),
            fabric.device,
        )
        return TrainingRun(tried, fabric, manifest, copy.deepcopy(model), feed)

    trials = ({precision: trial(phase, precision) for precision in PRECISIONS} for phase in plan)
    precision, ratio = faster_precision(list(trials), plan)
    other = next(each for each in PRECISIONS if each != precision)
    if progress:
        hardly = ", not enough to be worth its rounding" if ratio < 1 else ""
        print(f"note: training in {precision}; {other} takes {ratio:.2f} times as long here{hardly}", flush=True)
    return precision


def _train_to_end(run: "TrainingRun", callback: TrainingCallback | None, progress: bool) -> WorldModel | None:
    """The trained model, gathered; None where the finished world exists already, so that its certificate is kept.

    All processes must call this together, while their group exists.
    """
    run.train(callback, progress)
    run_trained_it = run.updates_this_run > 0
    return run.whole_model() if run_trained_it or not is_whole(run.out, run.manifest) else None


class TrainingRun:
    """One process of a training run."""

    def __init__(self, config: TrainConfig, fabric: Fabric, manifest: WorldManifest, model: WorldModel, feed: Feed):
        self.trainer, self.fabric, self.manifest, self.model, self.feed = config.trainer, fabric, manifest, model, feed
        self.out = config.out
        self.objective = fabric.setup_module(Objective(model.train()))
        self.capture = graph_capture(fabric, self.trainer.cuda_graphs)
        decay, betas, captured = self.trainer.weight_decay, (0.9, 0.95), self.capture is not None
        rate = torch.zeros((), device=fabric.device) if captured else 0.0  # set at each update
        optimizer = torch.optim.AdamW(
            self.model.parameters(), rate, betas=betas, weight_decay=decay, fused=True, capturable=captured
        )
        self.optimizer = cast(_FabricOptimizer, fabric.setup_optimizers(optimizer))
        self.generator = _generator(fabric).manual_seed(config.seed)
        self.state = TrainingState(config.out / "training", model, optimizer, feed, self.generator)
        settings = {**config.model_dump(mode="json", include={"model", "seed"}), "data": manifest.data["hash"]}
        settings["trainer"] = self.trainer.model_dump(mode="json", exclude=CHANGES_NO_WEIGHT)
        self.settings = settings
        self.phase: int | None = None
        self.first_loss: Tensor | None = None  # of this phase
        self.updates_this_run = 0  # without those of earlier runs, whose saved state is resumed

    def train(self, callback: TrainingCallback | None, progress: bool) -> None:
        """From the last saved state, if there is one, to the end. `callback` is called in the first process only."""
        completed, total = self.state.restore(self.settings), self.feed.total
        begun = time.perf_counter() - self.state.seconds
        with Bar("train", total, progress) as bar, self.feed:
            bar.at(completed)
            loss = ""
            for step in range(completed, total):
                parts = self.update(step)
                self.updates_this_run += 1
                last = step + 1 == total
                if (step + 1) % self.trainer.log_every == 0 or last:
                    loss = f"loss {self.log(step + 1, parts, callback):.3g}"
                bar.at(step + 1, loss)
                if (step + 1) % self.trainer.checkpoint_every == 0 or last:
                    self.reduce_and_check_losses(step + 1, parts)
                    self.state.seconds = time.perf_counter() - begun
                    self.state.save(step + 1, self.settings, self.fabric.is_global_zero)

    def update(self, step: int) -> dict[str, Tensor]:
        """One update; returns the losses before it, without waiting for the device."""
        plan = self.feed.plan
        number, within = phase_at(step, plan)
        begins = number != self.phase
        if begins:
            self.phase, self.apply_update = number, self.make_update(plan[number].stage)
        rate = learning_rate(within, plan[number], self.trainer.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate if self.capture is None else group["lr"].fill_(rate)
        losses = self.apply_update(self.feed.take(step))
        priority = losses.priority  # (B,) the loss of each sequence, by which it is drawn again
        if self.feed.prioritized and priority is not None:
            self.feed.update_priorities(whole_batch(self.fabric, priority))
        if begins:
            self.first_loss = losses.total
        return losses.parts | {"total": losses.total}

    def make_update(self, stage: Stage) -> Update:
        """An update of a stage as a function of the batch, which returns the losses before it.

        It has no reference to the run: in a cycle, a captured graph would outlive the run until garbage is collected.
        """
        objective, model, fabric = self.objective, self.model, self.fabric
        optimizer, generator, clip = self.optimizer, self.generator, self.trainer.clip

        def apply_update(batch: Batch) -> Losses:
            losses: Losses = objective(lambda model: model.losses(batch, generator, stage))
            fabric.backward(losses.total)
            for child in model.children():
                torch.nn.utils.clip_grad_norm_(list(child.parameters()), clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return losses.each(Tensor.detach)

        return apply_update if self.capture is None else Captured(apply_update, generator, self.capture)

    def log(self, step: int, parts: dict[str, Tensor], callback: TrainingCallback | None) -> float:
        """Calls `callback` with the losses; returns their sum."""
        metrics = self.reduce_and_check_losses(step, parts)
        model = self.whole_model()
        if callback is not None and self.fabric.is_global_zero:
            callback(step, {name: value for name, value in metrics.items() if name != "total"}, model, self.manifest)
        return metrics["total"]

    def reduce_and_check_losses(self, step: int, parts: dict[str, Tensor]) -> dict[str, float]:
        """The losses as numbers, averaged over the processes, all of which must call this together.

        Raises ConfigError where a loss or a weight is not finite, or the total loss diverges.
        """
        assert self.first_loss is not None
        weights = torch.stack([_sum(parameter) for parameter in self.model.parameters()]).sum()
        values = mean_of(self.fabric, torch.stack([*parts.values(), self.first_loss, weights]))
        *numbers, first, weight = values.tolist()
        metrics = dict(zip(parts, numbers, strict=True))
        wrong = [name for name, value in metrics.items() if not math.isfinite(value)]
        if wrong or not math.isfinite(weight) or metrics["total"] > DIVERGED * max(1.0, first):
            what = f"the loss {wrong[0]} is not finite" if wrong else f"the loss diverges ({metrics['total']:.3g})"
            states = saved_states(self.state.folder)
            last = states[-1].name if states else "none"
            raise ConfigError(
                f"{what} at step {step} (last good state: {last}); lower trainer.learning_rate or "
                "trainer.codec_learning_rate, and choose another out="
            )
        return metrics

    def whole_model(self) -> WorldModel:
        """The model itself, or a gathered copy where it is sharded; all processes must call this together."""
        weights = self.model.state_dict()
        whole = unsharded(weights)
        if all(whole[name] is value for name, value in weights.items()):
            return self.model
        gathered = self.manifest.build().to(self.fabric.device)
        gathered.load_state_dict(whole)
        return gathered


def _sum(parameter: Tensor) -> Tensor:
    """The sum of all elements; of a sharded parameter, of the local shard."""
    own = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    return own.detach().sum()


def initial_model(manifest: WorldManifest, arrays: EpisodeArrays, train_episodes: Any, seed: int) -> WorldModel:
    """An untrained model with the statistics of its data."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        with MemoryLimit(free_memory(torch.device("cpu"))):
            model = manifest.build()
    fit_statistics(model, arrays, train_episodes, np.random.default_rng([seed, 1]))
    return model


def _generator(fabric: Fabric) -> Generator:
    alone = fabric.world_size == 1
    return Generator(fabric.device) if alone else SharedGenerator(fabric.device, rank_shard(fabric))


def make_samplers(
    config: TrainConfig, data: Mix, train_episodes: Any, plan: list[Phase], shard: RankShard
) -> list[SequenceSampler]:
    """A sampler for each phase, on one generator. Single frames are drawn uniformly from each data set."""
    rng, trainer, made = np.random.default_rng(config.seed), config.trainer, []
    weights = data.row_weights(train_episodes)
    for phase in plan:
        segments = None
        if phase.length > 1 and (trainer.ends or trainer.sampling == "prioritised"):
            alpha = trainer.alpha if trainer.sampling == "prioritised" else 0.0
            chances = trainer.ends, alpha, trainer.correction
            segments = Segments(data.arrays, train_episodes, phase.length, *chances, weights)
        elif weights is not None:
            segments = Segments(data.arrays, train_episodes, trainer.length, weights=weights)
        made.append(SequenceSampler(data.arrays, train_episodes, phase.batch, phase.length, rng, segments, shard))
    return made


def make_manifest(config: TrainConfig, data: Mix, train_episodes: Any) -> WorldManifest:
    """The manifest of the world that this run makes; its spaces are those of the data."""
    provenance, arrays = data.provenance, data.arrays
    lengths = np.diff(arrays.start) - 1
    return WorldManifest(
        format=FORMAT,
        worldsim=worldsim.__version__,
        model=config.model,
        observation_space=provenance["observation_space"],
        action_space=provenance["action_space"],
        reward_range=reward_range(arrays, train_episodes),
        horizon=int(lengths.max()),
        metadata=data.metadata,
        env=config.env.model_dump(mode="json") if config.env else {},
        data={
            "hash": data.content_hash,
            **({"parts": data.hashes} if len(data.hashes) > 1 else {}),
            "holdout": config.trainer.holdout,
            "seed": config.seed,
            "steps": data.steps,
            "episodes": fingerprints(arrays, train_episodes),
        },
        training={**config.trainer.model_dump(mode="json"), "seed": config.seed},
    )


def recorded_starts(arrays: EpisodeArrays, episodes: Any) -> dict[str, torch.Tensor]:
    """First observations of evenly spaced episodes: leaf -> (M, ...)."""
    chosen = episodes[np.unique(np.linspace(0, len(episodes) - 1, STARTS).round().astype(int))]
    rows = arrays.start[chosen]
    return {name: torch.from_numpy(np.ascontiguousarray(array[rows])) for name, array in arrays.observation.items()}


def _check_env(config: TrainConfig, data: Mix) -> None:
    """Each data set must be of the environment: of the id that it was recorded from, and of its spaces.

    The environment is made to see these only where the data does not say that they are the same.
    """
    if config.env is None:  # nobody has named one
        return
    for part in data.parts:
        recorded = part.provenance.get("collect", {}).get("env", {})
        if recorded.get("id") is None:
            _check_spaces(config.env, part, "give the env= of the data, or none where there is none")
        elif recorded["id"] != config.env.id:
            raise SpaceMismatchError(
                f"data={part.path} was recorded from {recorded['id']}, but env is {config.env.id}; "
                "give the env= of the data"
            )
        elif others := _recorded_with(recorded, config.env):
            _check_spaces(config.env, part, f"it was recorded with {others}")


def recorded_env(data: Mix) -> EnvConfig | None:
    """The environment that the first of the data sets that says so was recorded from; None where none does."""
    for part in data.parts:
        recorded = part.provenance.get("env") or part.provenance.get("collect", {}).get("env", {})
        if recorded.get("id") is not None:
            return EnvConfig(**{key: recorded[key] for key in EnvConfig.model_fields.keys() & recorded.keys()})
    return None


def _recorded_with(recorded: Mapping[str, Any], env: EnvConfig) -> str:
    """The recorded settings that differ from those of `env`, of those that spaces may depend on."""
    recorded_with = {**EnvConfig(id=env.id).model_dump(mode="json"), **recorded}
    given = env.model_dump(mode="json")
    return ", ".join(
        f"env.{key}={recorded_with[key]}" for key in ("resize", "images", "kwargs") if recorded_with[key] != given[key]
    )


def _check_spaces(env_config: EnvConfig, part: Rollouts, hint: str) -> None:
    """Raises SpaceMismatchError where the data has other spaces; passes where the environment cannot be made here."""
    try:
        env = make_env(env_config)
    except (UnknownEnvError, MissingExtraError):
        return
    env.close()
    if apart := difference(part, env):
        raise SpaceMismatchError(f"data={part.path} is not of env {env_config.id} as configured: {apart}; {hint}")


def _note_length(length: int, horizon: int) -> None:
    """Printed before the training, so that one may still stop it."""
    if horizon + 1 < length:
        print(
            f"note: no episode fills a sequence of trainer.length={length}, so sequences run on into the next; "
            f"the longest has {horizon + 1} rows: trainer.length={horizon + 1} keeps most of them to one",
            flush=True,
        )


def _memory_settings(config: TrainConfig) -> str:
    sizes = [f"trainer.{name}={getattr(config.trainer, name)}" for name in ("batch", "length", "codec_frames")]
    return f"{sizes[0]}, {sizes[1]} and {sizes[2]}; lower one of them, or model.width"
