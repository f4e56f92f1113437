"""The training loop: read it top to bottom."""

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
from worldsim.files import alone_in, lies_in, refuse_foreign
from worldsim.models.checkpoint import FORMAT, OF_A_WORLD, WorldManifest, is_whole, looks_like_a_world, save_world
from worldsim.models.share import SharedGenerator
from worldsim.models.world_model import Batch, Losses, Part, WorldModel
from worldsim.rollouts.arrays import Arrays
from worldsim.rollouts.dataset import Rollouts
from worldsim.rollouts.fingerprints import fingerprints
from worldsim.rollouts.mix import Mix, difference
from worldsim.rollouts.progress import Bar
from worldsim.rollouts.sampling import SequenceSampler, Share
from worldsim.rollouts.segments import Segments
from worldsim.training.captured import Captured, Update, recorder
from worldsim.training.config import TrainConfig, TrainerConfig
from worldsim.training.feed import Feed
from worldsim.training.memory import (
    Within,
    enough_memory,
    free_memory,
    keep_freed_memory,
    need_of,
    refuse_what_does_not_fit,
)
from worldsim.training.pace import TRIED, fitted, kept, paces
from worldsim.training.phases import Phase, at, learning_rate, phases
from worldsim.training.processes import Objective, gathered, is_first, mean_of, share, together, whole_batch
from worldsim.training.state import STATE, TrainingState, saved
from worldsim.training.statistics import fit_statistics, reward_range

Watch = Callable[[int, dict[str, float], WorldModel, WorldManifest], None]  # step, losses, model: to log or to look
STARTS = 256  # recorded first observations that a world keeps
FAR = 100.0  # times the loss that a phase began with: it diverges
CHANGES_NO_WEIGHT = {
    "checkpoint_every",
    "log_every",
    "accelerator",
    "devices",
    "num_nodes",
    "strategy",
    "cuda_graphs",
}


def train(config: TrainConfig, watch: Watch | None = None, progress: bool = True) -> WorldManifest:
    """Trains a world, or goes on with what was begun in `config.out`, and writes it there.

    Same configuration, data and machine: same weights, also after any number of interruptions. Several processes give
    the weights of one up to rounding. The first of them writes the files, calls `watch` and shows the progress.
    Raises DatasetError, SpaceMismatchError or CheckpointError where data, model and folder do not fit together, and
    ConfigError where `out` lies in the data, memory runs out or the loss diverges; the last good state is then kept.
    """
    keep_freed_memory()
    data = Mix(config.data, config.weights)
    for part in data.parts:
        if lies_in(config.out, part.folder):
            raise ConfigError(f"out={config.out} lies in the data set data={part.path}; choose another out=")
    _check_env(config, data)
    taught, _ = data.split(config.trainer.holdout, config.seed)
    manifest = describe(config, data, taught)
    if progress and is_first():
        _tell_length(config.trainer.length, manifest.horizon)
    folder = config.out / "training"
    with alone_in(config.out, folder.name) if is_first() else nullcontext(), enough_memory(_appetite(config)):
        if not any((state / STATE).is_file() for state in saved(folder)) and not looks_like_a_world(config.out):
            refuse_foreign((config.out / name for name in OF_A_WORLD), "train")
        _learn(config, data, taught, manifest, watch, progress)
    return manifest


def _learn(
    config: TrainConfig, data: Mix, taught: Any, manifest: WorldManifest, watch: Watch | None, progress: bool
) -> None:
    model = initialised(manifest, data.arrays, taught, config.seed)
    plan = phases(config.trainer, model)
    need = need_of(model, plan, config.trainer)
    with together(config, in_parts=len(plan) > 1) as fabric:
        refuse_what_does_not_fit(need, plan, free_memory(fabric.device))

        def begin(trainer: TrainerConfig, model: WorldModel, plan: list[Phase]) -> Run:
            feed = Feed(plan, samplers(config, data, taught, plan, share(fabric)), fabric.device)
            return Run(config.model_copy(update={"trainer": trainer}), fabric, manifest, model, feed)

        trainer = config.trainer
        if trainer.seconds is not None:
            trials = (begin(trainer, copy.deepcopy(model), [phase._replace(steps=TRIED)]) for phase in plan)
            trainer = kept(config.out / "training", trainer) or fitted(trainer, plan, paces(fabric, trials))
            manifest.training |= trainer.model_dump(mode="json")
        run = begin(trainer, model, phases(trainer, model))
        whole = _trained(run, watch, progress and fabric.is_global_zero)
        if whole is not None and fabric.is_global_zero:
            save_world(config.out, manifest, whole, recorded_starts(data.arrays, taught))


def _trained(run: "Run", watch: Watch | None, progress: bool) -> WorldModel | None:
    """The model, in one piece; None where a finished world is there already, which keeps its certificate.

    The run ends here: what hangs on the group of processes must be gone before the group is.
    """
    run.go(watch, progress)
    return run.whole_model() if run.done or not is_whole(run.out, run.manifest) else None


class Run:
    """One process of a training run."""

    def __init__(self, config: TrainConfig, fabric: Fabric, manifest: WorldManifest, model: WorldModel, feed: Feed):
        self.trainer, self.fabric, self.manifest, self.model, self.feed = config.trainer, fabric, manifest, model, feed
        self.out = config.out
        self.objective = fabric.setup_module(Objective(model.train()))
        self.record = recorder(fabric, self.trainer.cuda_graphs)
        decay, betas, recorded = self.trainer.weight_decay, (0.9, 0.95), self.record is not None
        rate = torch.zeros((), device=fabric.device) if recorded else 0.0  # set at each update
        optimizer = torch.optim.AdamW(
            self.model.parameters(), rate, betas=betas, weight_decay=decay, fused=True, capturable=recorded
        )
        self.optimizer = cast(_FabricOptimizer, fabric.setup_optimizers(optimizer))
        self.generator = _generator(fabric).manual_seed(config.seed)
        self.state = TrainingState(config.out / "training", model, optimizer, feed, self.generator)
        settings = {**config.model_dump(mode="json", include={"model", "seed"}), "data": manifest.data["hash"]}
        settings["trainer"] = self.trainer.model_dump(mode="json", exclude=CHANGES_NO_WEIGHT)
        self.settings = settings
        self.phase: int | None = None
        self.began: Tensor | None = None  # the loss that this phase began with

    def go(self, watch: Watch | None, progress: bool) -> None:
        """From wherever it stands to the end. `watch` is called in the first process only."""
        done, total = self.state.restore(self.settings), self.feed.total
        self.done, begun = total - done, time.perf_counter() - self.state.seconds
        with Bar("train", total, progress) as bar, self.feed:
            bar.at(done)
            loss = ""
            for step in range(done, total):
                parts = self.update(step)
                last = step + 1 == total
                if (step + 1) % self.trainer.log_every == 0 or last:
                    loss = f"loss {self.log(step + 1, parts, watch):.3g}"
                bar.at(step + 1, loss)
                if (step + 1) % self.trainer.checkpoint_every == 0 or last:
                    self.check(step + 1, parts)
                    self.state.seconds = time.perf_counter() - begun
                    self.state.save(step + 1, self.settings, self.fabric.is_global_zero)

    def update(self, step: int) -> dict[str, Tensor]:
        """One update; returns the losses before it, which nothing waits for."""
        plan = self.feed.plan
        number, within = at(step, plan)
        begins = number != self.phase
        if begins:
            self.phase, self.learn = number, self.learning(plan[number].part)
        rate = learning_rate(within, plan[number], self.trainer.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate if self.record is None else group["lr"].fill_(rate)
        losses = self.learn(self.feed.take(step))
        if self.feed.listens and losses.surprise is not None:
            self.feed.tell(whole_batch(self.fabric, losses.surprise))
        if begins:
            self.began = losses.total
        return losses.parts | {"total": losses.total}

    def learning(self, part: Part) -> Update:
        """An update as a function of the batch: it teaches a part of the model and returns the losses before it.

        It does not know the run, which holds it: what was recorded goes with the run, not when cycles are collected.
        """
        objective, model, fabric = self.objective, self.model, self.fabric
        optimizer, generator, clip = self.optimizer, self.generator, self.trainer.clip

        def learn(batch: Batch) -> Losses:
            losses: Losses = objective(lambda model: model.losses(batch, generator, part))
            fabric.backward(losses.total)
            for child in model.children():
                torch.nn.utils.clip_grad_norm_(list(child.parameters()), clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return losses.each(Tensor.detach)

        return learn if self.record is None else Captured(learn, generator, self.record)

    def log(self, step: int, parts: dict[str, Tensor], watch: Watch | None) -> float:
        """Tells `watch` the losses; returns all of them together."""
        figures = self.check(step, parts)
        model = self.whole_model()
        if watch is not None and self.fabric.is_global_zero:
            watch(step, {name: value for name, value in figures.items() if name != "total"}, model, self.manifest)
        return figures["total"]

    def check(self, step: int, parts: dict[str, Tensor]) -> dict[str, float]:
        """The losses as numbers, averaged over the processes. Raises ConfigError where training has gone wrong."""
        assert self.began is not None
        weights = torch.stack([_sum(parameter) for parameter in self.model.parameters()]).sum()
        values = mean_of(self.fabric, torch.stack([*parts.values(), self.began, weights]))
        *numbers, first, weight = values.tolist()
        figures = dict(zip(parts, numbers, strict=True))
        wrong = [name for name, value in figures.items() if not math.isfinite(value)]
        if wrong or not math.isfinite(weight) or figures["total"] > FAR * max(1.0, first):
            what = f"the loss {wrong[0]} is not finite" if wrong else f"the loss diverges ({figures['total']:.3g})"
            states = saved(self.state.folder)
            last = states[-1].name if states else "none"
            raise ConfigError(
                f"{what} at step {step} (last good state: {last}); lower trainer.learning_rate or "
                "trainer.codec_learning_rate, and choose another out="
            )
        return figures

    def whole_model(self) -> WorldModel:
        """The model itself, or where it is sharded a copy put together, which all processes must ask for."""
        weights = self.model.state_dict()
        whole = gathered(weights)
        if all(whole[name] is value for name, value in weights.items()):
            return self.model
        copy = self.manifest.build().to(self.fabric.device)
        copy.load_state_dict(whole)
        return copy


def _sum(parameter: Tensor) -> Tensor:
    """The sum of all its numbers; of a sharded one, of those that this process has."""
    own = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    return own.detach().sum()


def initialised(manifest: WorldManifest, arrays: Arrays, taught: Any, seed: int) -> WorldModel:
    """An untrained model that knows the statistics of its data."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        with Within(free_memory(torch.device("cpu"))):
            model = manifest.build()
    fit_statistics(model, arrays, taught, np.random.default_rng([seed, 1]))
    return model


def _generator(fabric: Fabric) -> Generator:
    alone = fabric.world_size == 1
    return Generator(fabric.device) if alone else SharedGenerator(fabric.device, share(fabric))


def samplers(config: TrainConfig, data: Mix, taught: Any, plan: list[Phase], mine: Share) -> list[SequenceSampler]:
    """A sampler for each phase, on one generator. Single frames are drawn uniformly from each data set."""
    rng, trainer, made = np.random.default_rng(config.seed), config.trainer, []
    weights = data.row_weights(taught)
    for phase in plan:
        segments = None
        if phase.length > 1 and (trainer.ends or trainer.sampling == "prioritised"):
            alpha = trainer.alpha if trainer.sampling == "prioritised" else 0.0
            chances = trainer.ends, alpha, trainer.correction
            segments = Segments(data.arrays, taught, phase.length, *chances, weights)
        elif weights is not None:
            segments = Segments(data.arrays, taught, trainer.length, weights=weights)
        made.append(SequenceSampler(data.arrays, taught, phase.batch, phase.length, rng, segments, mine))
    return made


def describe(config: TrainConfig, data: Mix, taught: Any) -> WorldManifest:
    """The manifest of the world that this run makes; its spaces are those of the data."""
    provenance, arrays = data.provenance, data.arrays
    lengths = np.diff(arrays.start) - 1
    return WorldManifest(
        format=FORMAT,
        worldsim=worldsim.__version__,
        model=config.model,
        observation_space=provenance["observation_space"],
        action_space=provenance["action_space"],
        reward_range=reward_range(arrays, taught),
        horizon=int(lengths.max()),
        metadata=data.metadata,
        env=config.env.model_dump(mode="json"),
        data={
            "hash": data.content_hash,
            **({"parts": data.hashes} if len(data.hashes) > 1 else {}),
            "holdout": config.trainer.holdout,
            "seed": config.seed,
            "steps": data.steps,
            "episodes": fingerprints(arrays, taught),
        },
        training={**config.trainer.model_dump(mode="json"), "seed": config.seed},
    )


def recorded_starts(arrays: Arrays, episodes: Any) -> dict[str, torch.Tensor]:
    """First observations of evenly chosen episodes: leaf -> (M, ...)."""
    chosen = episodes[np.unique(np.linspace(0, len(episodes) - 1, STARTS).round().astype(int))]
    rows = arrays.start[chosen]
    return {name: torch.from_numpy(np.ascontiguousarray(array[rows])) for name, array in arrays.observation.items()}


def _check_env(config: TrainConfig, data: Mix) -> None:
    """Each data set must be of the environment: of the id that it was recorded from, and of its spaces.

    The environment is made to see these only where the data does not say that they are the same.
    """
    for part in data.parts:
        recorded = part.provenance.get("collect", {}).get("env", {})
        if recorded.get("id") is None:
            _check_spaces(config, part, "give the env= of the data, or a name of your own where there is none")
        elif recorded["id"] != config.env.id:
            raise SpaceMismatchError(
                f"data={part.path} was recorded from {recorded['id']}, but env is {config.env.id}; "
                "give the env= of the data"
            )
        elif others := _recorded_with(recorded, config.env):
            _check_spaces(config, part, f"it was recorded with {others}")


def _recorded_with(recorded: Mapping[str, Any], env: EnvConfig) -> str:
    """The settings, of those that spaces may depend on, which `env` has otherwise; the defaults where none are kept."""
    kept = {**EnvConfig(id=env.id).model_dump(mode="json"), **recorded}
    given = env.model_dump(mode="json")
    return ", ".join(f"env.{key}={kept[key]}" for key in ("resize", "images", "kwargs") if kept[key] != given[key])


def _check_spaces(config: TrainConfig, part: Rollouts, hint: str) -> None:
    """Nothing can be compared where the environment cannot be made here: rollouts are then all that there is of it."""
    try:
        env = make_env(config.env)
    except (UnknownEnvError, MissingExtraError):
        return
    env.close()
    if apart := difference(part, env):
        raise SpaceMismatchError(f"data={part.path} is not of env {config.env.id} as configured: {apart}; {hint}")


def _tell_length(length: int, horizon: int) -> None:
    """Said before the training, which one may then think better of."""
    if horizon + 1 < length:
        print(
            f"note: no episode fills a sequence of trainer.length={length}, so sequences run on into the next; "
            f"the longest has {horizon + 1} rows: trainer.length={horizon + 1} keeps most of them to one",
            flush=True,
        )


def _appetite(config: TrainConfig) -> str:
    sizes = [f"trainer.{name}={getattr(config.trainer, name)}" for name in ("batch", "length", "codec_frames")]
    return f"{sizes[0]}, {sizes[1]} and {sizes[2]}; lower one of them, or model.width"
