"""`worldsim validate`: measures a world on held-out rollouts, calibrates it, writes the certificate.

The held-out episodes are split in two halves, one to calibrate with and one to report on. Open loop: the world observes
`context` recorded rows and then imagines `horizon` steps. Teacher-forced: it predicts each row from all rows before it.
"""

import copy
import json
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from worldsim.devices import Device, device_of
from worldsim.fidelity import heads, one_step, open_loop
from worldsim.fidelity.curves import Sums, add_up, measure_beside_baselines, scales, to_curves
from worldsim.fidelity.error_metric import ErrorMetric
from worldsim.fidelity.films import films
from worldsim.fidelity.held_out import halves
from worldsim.fidelity.measures import WeightedSum, auroc, calibration_error, reliability, trust_curve
from worldsim.fidelity.page import page
from worldsim.fidelity.revisits import Revisits, loop_closure
from worldsim.fidelity.verdict import verdict
from worldsim.files import alone_in, refuse_foreign, sealed, write_atomically
from worldsim.models.checkpoint import VALIDATION_FILES, looks_like_a_world, open_world
from worldsim.rollouts.arrays import EpisodeArrays
from worldsim.rollouts.mix import DataSets, Mix
from worldsim.rollouts.progress import Bar
from worldsim.settings import ContextSteps, LoggerConfig, Seed, Settings
from worldsim.simulator.calibration import CERTIFICATE, CERTIFICATE_FORMAT, FILE, Calibration, Trust
from worldsim.simulator.rollout import imagine
from worldsim.simulator.world import World
from worldsim.spaces import Bools, Ints
from worldsim.training.memory import explain_out_of_memory, keep_freed_memory

CALIBRATING_PER_WINDOW = 2  # windows to calibrate trust with, for each that is reported
PIECES_PER_WINDOW = 4  # teacher-forced pieces for each window that is reported: a sample of a large data set


class ValidateConfig(Settings):
    """The world to validate, and the rollouts to measure it on."""

    world: Path = Field(Path("runs/world"), description="folder of the world")
    data: DataSets = Field(
        Path("runs/rollouts"),
        description="the data that it was trained on, of which only held-out episodes are used, or other rollouts: one "
        "data set, or several: [a,b]",
    )
    context: ContextSteps = Field(5, description="recorded steps that the world observes first")
    horizon: int = Field(
        30, ge=1, le=10_000, description="steps that it then imagines; try 100 where episodes are that long"
    )
    windows: int = Field(
        64,
        ge=2,  # each is also imagined under the actions of another
        le=10_000,
        description="windows of held-out episodes that are imagined and reported; twice as many are used to calibrate",
    )
    tolerance_db: float = Field(
        10.0,
        gt=0,
        le=1000,
        description="tolerance of predictions: the error of every leaf must be this many dB below that of guessing "
        "its mean, or its most frequent class (10: a tenth of it); texts must be right. Trust is the probability of it",
    )
    seed: Seed = Field(0, description="of the choice of windows and of the world's random numbers")
    device: Device = Field("auto", description="where the world runs; auto: a GPU where torch sees one")
    logger: LoggerConfig = Field(LoggerConfig(), description="Weights & Biases: the curves over the horizon")
    out: Path | None = Field(None, description="folder of what is written; null: the world's")


class Job(NamedTuple):
    """Inputs that all measurements share."""

    config: ValidateConfig
    world: World
    arrays: EpisodeArrays
    calibrating: Ints  # indices of the episodes to calibrate with
    reporting: Ints  # and of those to report on
    metric: ErrorMetric


def validate(config: ValidateConfig, progress: bool = True) -> dict[str, Any]:
    """Measures and calibrates a world. Returns the certificate and writes it, with calibration and films, to a folder.

    The horizon is cut to that of the longest reported episode. Raises DatasetError where no episode was held out or
    the world was trained on the data, SpaceMismatchError where data and world have different spaces, and ConfigError
    where `out` is inside the data, memory runs out, or files of something else would be overwritten.
    """
    keep_freed_memory()
    out = config.out or config.world
    if config.out is not None:
        Mix(config.data).check_outside(out)
    with alone_in(out):
        if not looks_like_a_world(out) and not _is_certificate(out / CERTIFICATE):
            refuse_foreign((out / name for name in VALIDATION_FILES), "validate")
        return _validate(config, progress)


def _is_certificate(file: Path) -> bool:
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and data.get("kind") == "fidelity"


def _validate(config: ValidateConfig, progress: bool) -> dict[str, Any]:
    # In one function, because the certificate's keys are written in the order in which they are computed here.
    # An earlier calibration or certificate is not read: it is replaced here, and may be damaged.
    world, data = World(*open_world(config.world, device_of(config.device))), Mix(config.data)
    arrays, episodes = data.arrays, halves(world.manifest, data)
    longest = int((np.diff(arrays.start)[episodes[1]] - config.context).max())
    asked, config = config.horizon, config.model_copy(update={"horizon": min(config.horizon, max(1, longest))})
    metric = ErrorMetric.of(world, arrays, episodes[0], config.tolerance_db, config.seed)
    job = Job(config, world, arrays, *episodes, metric)
    certificate: dict[str, Any] = {
        "kind": "fidelity",
        "format": CERTIFICATE_FORMAT,
        "worldsim": world.manifest.worldsim,
        "env": _env(world),
    }
    certificate |= {"data": data.content_hash, **({"parts": data.hashes} if len(data.hashes) > 1 else {})}
    certificate |= {"lossy": data.lossy} if data.lossy else {}
    certificate |= {"context": config.context}
    certificate |= {"episodes_calibrating": len(episodes[0]), "episodes_reported": len(episodes[1])}
    certificate |= {"horizon": asked, "horizons": list(range(1, config.horizon + 1))}
    certificate |= {"tolerance_db": config.tolerance_db}
    # A seed for each half: with the same one, windows with the same index would share their random numbers.
    draws = [
        open_loop.WindowDraw.of(arrays, half, config.context, config.horizon, count, config.seed + number)
        for number, (half, count) in enumerate(
            zip(episodes, (CALIBRATING_PER_WINDOW * config.windows, config.windows), strict=True)
        )
    ]
    certificate["windows"] = len(draws[1].places)
    remedy = f"horizon={config.horizon}; lower it"
    with Bar("validate", 5, progress) as bar, explain_out_of_memory(remedy):
        forced, temperatures = _teacher_forced(job)
        certificate |= forced
        bar.at(1)
        trust = _fit_trust(job, draws[0])
        bar.at(2)
        metrics, errors = _open_loop(job, draws[1], trust)
        certificate |= metrics
        certificate["verdict"] = verdict(certificate)
        bar.at(4)
        calibration = Calibration(trust, *temperatures)
        # Only the films need a calibrated world: all metrics come from logits and entropies before calibration.
        calibrated = World(world.manifest, world.model, world.starts, calibration)
        shown = films(calibrated, draws[1], errors)
    out, certificate = config.out or config.world, sealed(certificate)
    write_atomically(out / FILE, calibration.to_json())
    write_atomically(out / "fidelity.png", shown.strip)
    write_atomically(out / "fidelity.gif", shown.film)
    write_atomically(out / "fidelity.html", page(certificate, shown))
    write_atomically(out / CERTIFICATE, json.dumps(certificate, indent=1, allow_nan=False))
    return certificate


def _env(world: World) -> str:
    return str(world.manifest.env.get("id", "unknown"))


def _teacher_forced(job: Job) -> tuple[dict[str, Any], tuple[float, float]]:
    """Figures of teacher-forced prediction, and the fitted temperatures of reward and termination."""
    config, world = job.config, job.world
    limit, length = PIECES_PER_WINDOW * config.windows, config.horizon
    chosen = [
        _sample_episodes(job.arrays, each, length, limit, config.seed) for each in (job.calibrating, job.reporting)
    ]
    found = one_step.predict_all(world, job.arrays, chosen, length, job.metric, config.seed)
    calibrating, reported = (found.heads.where(found.heads.reported == which) for which in (False, True))
    head = copy.deepcopy(world.model.reward).cpu()  # where the predictions are
    temperatures = (
        heads.reward_temperature(head, calibrating.reward, calibrating.actual_reward),
        heads.end_temperature(calibrating.end, calibrating.ended),
    )
    reward = heads.reward_metrics(head, reported, temperatures[0])
    curves = found.curves()
    accuracy = {leaf: _overall(each["model"], found.counts) for leaf, each in curves.get("accuracy", {}).items()}
    metrics = {"transitions": len(reported.ended), "accuracy": accuracy, "reward_error": reward["error"]}
    metrics |= {"termination": heads.end_metrics(reported, temperatures[1]), "reward": reward}
    return {"one_step": metrics, "teacher_forced": _by_leaf(curves)}, temperatures


def _fit_trust(job: Job, draw: open_loop.WindowDraw) -> Trust:
    """Fits trust as a function of cumulative entropy on the windows of the calibrating half."""
    entropy, right, disagreement = [], [], []
    for cut in open_loop.batches(job.world, draw):
        imagined = imagine(job.world, cut.state, cut.action)
        right.append(job.metric.within(imagined.observation, cut.observation)[cut.mask])
        entropy.append(imagined.cumulative_entropy[cut.mask].astype(np.float64))
        disagreement.append(float(imagined.disagreement[cut.mask].max()))
    return Trust(*trust_curve(np.concatenate(entropy), np.concatenate(right)), max_disagreement=max(disagreement))


class WindowFigures(NamedTuple):
    """Measures of one batch of imagined windows. Axes: B windows, T steps, N steps inside their episodes."""

    curves: Sums
    random: Sums  # under random actions
    revisits: Revisits
    all_leaves: WeightedSum  # whether every leaf is within tolerance
    trusted: NDArray[np.float64]  # (N,)
    within: dict[str, Bools]  # leaf -> (N,)
    distance: NDArray[np.float64]  # (B,) in [0, 1), between record and imagination


def _measure_windows(job: Job, cut: open_loop.Windows, trust: Trust, actions: gym.Space[Any]) -> WindowFigures:
    world, metric = job.world, job.metric
    model, shuffled = imagine(world, cut.state, cut.action), imagine(world, cut.state, cut.others)
    curves = measure_beside_baselines(
        metric, cut.observation, cut.before, model.observation, shuffled.observation, cut.mask
    )
    random = open_loop.under_random_actions(world, metric, cut, model.observation, actions)
    real, imagined = (
        {name: np.concatenate([cut.before[name], rows], 1) for name, rows in each.items()}
        for each in (cut.observation, model.observation)
    )
    # The last row of the context is included as the first moment, because a window may return to it.
    revisits = loop_closure(metric, real, imagined, np.pad(cut.mask, ((0, 0), (1, 0)), constant_values=True))
    uncertainty = (each.astype(np.float64) for each in (model.cumulative_entropy, model.disagreement))
    trusted = trust.of(*uncertainty)[cut.mask].astype(np.float64)
    within = metric.within_by_leaf(model.observation, cut.observation)
    whole = WeightedSum.of(np.logical_and.reduce(list(within.values())), cut.mask)
    distance = metric.distance(model.observation, cut.observation, cut.mask)
    inside = {leaf: each[cut.mask] for leaf, each in within.items()}
    return WindowFigures(curves, random, revisits, whole, trusted, inside, distance)


def _open_loop(job: Job, draw: open_loop.WindowDraw, trust: Trust) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Figures of the windows of the reporting half, and the error of each window, (B,)."""
    actions = open_loop.seeded_action_space(job.world, job.config.seed)
    parts = [_measure_windows(job, cut, trust, actions) for cut in open_loop.batches(job.world, draw)]
    found = _by_leaf(to_curves(add_up([part.curves for part in parts])))
    if of_images := found.get("psnr_by_leaf"):
        found["psnr"] = next(iter(of_images.values()))  # of the first image alone
    found["ssim"] = {leaf: each["model"] for leaf, each in found.get("ssim_by_leaf", {}).items()}
    found["ms_ssim_scales"] = scales(job.metric)
    found["controllability"] = open_loop.controllability(add_up([part.random for part in parts]), draw.horizon)
    found["loop_closure"] = reduce(Revisits.plus, (part.revisits for part in parts)).as_json()
    whole = add_up([part.all_leaves for part in parts])
    found["within"], found["windows_at"] = whole.mean(), whole.weight.astype(int).tolist()
    trusted = np.concatenate([part.trusted for part in parts])
    within = {leaf: np.concatenate([part.within[leaf] for part in parts]) for leaf in parts[0].within}
    found["trust"] = _trust_metrics(trusted, np.logical_and.reduce(list(within.values())))
    found["trust"]["auroc_by_leaf"] = {leaf: auroc(trusted, each) for leaf, each in within.items()}
    return found, np.concatenate([part.distance for part in parts])


def _trust_metrics(trust: NDArray[np.float64], within: Bools) -> dict[str, Any]:
    """How well trust separates right from wrong predictions (AUROC), and its calibration error."""
    bins = reliability(trust, within)
    share = float(within.mean())
    return {"auroc": auroc(trust, within), "ece": calibration_error(bins), "share": share, "reliability": bins}


def _sample_episodes(arrays: EpisodeArrays, episodes: Ints, length: int, limit: int, seed: int) -> Ints:
    """A random sample of the episodes that makes up at most `limit` pieces; at least one episode."""
    order = np.random.default_rng(seed).permutation(episodes)
    pieces = np.cumsum(-(-(np.diff(arrays.start)[order] - 1) // length))
    return np.sort(order[: max(1, int((pieces <= limit).sum()))])


def _overall(curve: list[float | None], counts: list[int]) -> float:
    return sum(x * n for x, n in zip(curve, counts, strict=True) if x is not None) / max(1, sum(counts))


def _by_leaf(curves: dict[str, Any]) -> dict[str, Any]:
    return {name if name == "accuracy" else f"{name}_by_leaf": value for name, value in curves.items()}
