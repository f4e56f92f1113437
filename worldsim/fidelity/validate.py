"""`worldsim validate`: measures a world on rollouts it has not seen, calibrates its trust, writes the certificate.

Open loop: the world sees `context` recorded rows and then imagines `horizon` steps under the recorded actions. One
step: at every row of every held-out episode it foresees the next one. Held-out episodes are dealt in two: even ones
calibrate trust, odd ones are what the certificate reports.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from worldsim.errors import DatasetError, SpaceMismatchError
from worldsim.fidelity.measures import detection, judged, psnr, right, squared_error, ssim, trust_curve
from worldsim.files import write_atomically
from worldsim.play.look import Imagined, imagine
from worldsim.rollouts.arrays import Arrays
from worldsim.rollouts.dataset import Rollouts
from worldsim.rollouts.mix import unseen
from worldsim.rollouts.progress import Bar
from worldsim.rollouts.sampling import gather, windows
from worldsim.simulator.world import Trust, World, load
from worldsim.spaces import leaves

Ints = NDArray[np.int64]
RIGHT_SHARE = 0.9  # of the categorical variables, for a prediction to be within tolerance


class ValidateConfig(BaseModel):
    """What is measured. `configs/validate.yaml` explains every key."""

    model_config = ConfigDict(extra="forbid")

    world: Path
    data: Path
    context: int = Field(5, ge=1)
    horizon: int = Field(30, ge=1)
    windows: int = Field(64, ge=2)
    tolerance_db: float = Field(10.0, gt=0)
    seed: int = Field(0, ge=0)
    out: Path | None = None


class OpenLoop(NamedTuple):
    """Imagined and recorded windows, the context cut off."""

    actual: dict[str, Any]  # as `windows` gives it, T = horizon
    before: dict[str, NDArray[Any]]  # the last row of the context, leaf -> (B, 1, ...)
    imagined: Imagined
    mask: NDArray[np.bool_]  # (B, T): inside the episode


def validate(config: ValidateConfig, progress: bool = True) -> dict[str, Any]:
    """The certificate, also written to fidelity.json, with trust.json beside it.

    Raises DatasetError where nothing was held out, SpaceMismatchError where data and world have other spaces.
    """
    world, rollouts = load(config.world), Rollouts(config.data)
    arrays = rollouts.arrays()
    calibrating, reporting = held_out(world, rollouts, arrays)
    raw = World(world.manifest, world.model, world.starts, Trust(np.array([0.0, 1e9]), np.array([0.0, 1e9])))
    with Bar("validate", 4, progress) as bar:
        first = open_loop(raw, arrays, calibrating, config, config.seed)
        bar.at(1)
        tolerances = _tolerances(world, first, config.tolerance_db)
        curve = trust_curve(*_doubts(world, first, tolerances))
        certificate: dict[str, Any] = {"kind": "fidelity", "worldsim": world.manifest.worldsim}
        certificate |= {"data": rollouts.content_hash}
        certificate |= {"episodes_calibrating": len(calibrating), "episodes_reported": len(reporting)}
        loop = open_loop(raw, arrays, reporting, config, config.seed + 1)
        bar.at(2)
        mean = {name: part.cpu().numpy() for name, part in _mean_images(world).items()}
        certificate |= curves(world, loop, mean, config)
        doubt, within = _doubts(world, loop, tolerances)
        trust = Trust(np.array(curve["doubt"]), np.array(curve["probability"])).of(doubt)
        certificate["trust"] = judged(trust.astype(np.float64), within)
        bar.at(3)
        certificate["one_step"] = one_step(world, arrays, reporting, config.seed)
    out = config.out or config.world
    write_atomically(out / "trust.json", json.dumps(curve, indent=1).encode())
    write_atomically(out / "fidelity.json", json.dumps(certificate, indent=1).encode())
    return certificate


def held_out(world: World, rollouts: Rollouts, arrays: Arrays) -> tuple[Ints, Ints]:
    """Episodes to calibrate with and to report on; never any that the world was trained on."""
    same = (world.observation_space, world.action_space) == (rollouts.observation_space, rollouts.action_space)
    if not same:
        raise SpaceMismatchError(
            f"{rollouts.path} and the world have different spaces; validate on rollouts of the same env"
        )
    episodes = unseen(rollouts, world.manifest.data)
    if len(episodes) < 2:
        raise DatasetError(
            f"{rollouts.path} has {len(episodes)} episodes the world has not seen, 2 are needed; collect more steps"
        )
    return episodes[::2], episodes[1::2]


def open_loop(world: World, arrays: Arrays, episodes: Ints, config: ValidateConfig, seed: int) -> OpenLoop:
    """Imagine recorded windows; the longest that fit where episodes are shorter than context and horizon."""
    long = episodes[np.diff(arrays.start)[episodes] > config.context]
    if not len(long):
        raise DatasetError(f"no held-out episode is longer than context={config.context}; give less context")
    rng = np.random.default_rng(seed)
    window = windows(arrays, long, config.context + config.horizon, config.windows, rng)
    imagined = imagine(world, window, config.context, rng.integers(2**62, size=config.windows).tolist())
    cut = config.context
    actual = {key: window[key][:, cut:] for key in ("reward", "terminated")}
    actual["observation"] = {name: value[:, cut:] for name, value in window["observation"].items()}
    before = {name: value[:, cut - 1 : cut] for name, value in window["observation"].items()}
    own = {name: value[:, cut:] for name, value in imagined.observation.items()}
    rest = Imagined(own, imagined.reward[:, cut:], imagined.terminated[:, cut:], imagined.trust[:, cut:])
    return OpenLoop(actual, before, rest, window["mask"][:, cut:])


def curves(world: World, loop: OpenLoop, mean: dict[str, Any], config: ValidateConfig) -> dict[str, Any]:
    """Per horizon: PSNR of every image leaf, accuracy of every categorical one; beside copying and the mean image."""
    out: dict[str, Any] = {
        "horizons": list(range(1, config.horizon + 1)),
        "context": config.context,
        "windows": config.windows,
    }
    psnrs, similar, accuracy = {}, {}, {}
    for leaf in leaves(world.observation_space):
        actual, own = loop.actual["observation"][leaf.name], loop.imagined.observation[leaf.name]
        copied = np.broadcast_to(loop.before[leaf.name], actual.shape)
        if leaf.kind == "image":
            average = np.broadcast_to((mean[leaf.name] * 255).round().astype(np.uint8), actual.shape)
            shown = {"model": own, "copy": copied, "mean": average}
            psnrs[leaf.name] = {name: psnr(squared_error(frames, actual), loop.mask) for name, frames in shown.items()}
            inside = [loop.mask[:, t] for t in range(config.horizon)]
            similar[leaf.name] = [
                ssim(own[:, t][m], actual[:, t][m]) if m.any() else None for t, m in enumerate(inside)
            ]
        elif leaf.kind == "categorical":
            both = {"model": own, "copy": copied}
            accuracy[leaf.name] = {
                name: _masked_mean(right({"": value}, {"": actual}, ""), loop.mask) for name, value in both.items()
            }
    if psnrs:
        out["psnr"] = next(iter(psnrs.values()))
    return out | {"psnr_by_leaf": psnrs, "ssim": similar, "accuracy": accuracy}


def one_step(world: World, arrays: Arrays, episodes: Ints, seed: int) -> dict[str, Any]:
    """Foresee every row of every episode from all rows before it: accuracy a leaf, reward error, termination."""
    lengths = np.diff(arrays.start)[episodes]
    rows = arrays.start[episodes][:, None] + np.minimum(np.arange(lengths.max()), lengths[:, None] - 1)
    mask = np.arange(lengths.max()) < lengths[:, None]
    seeds = np.random.default_rng(seed).integers(2**62, size=len(episodes)).tolist()
    steps: list[dict[str, Any]] = []
    row = gather(arrays, rows[:, :1])
    state = world.encode({name: value[:, 0] for name, value in row["observation"].items()}, seeds)
    for t in range(1, rows.shape[1]):
        row = gather(arrays, rows[:, t : t + 1])
        seen, action = ({k: v[:, 0] for k, v in row[key].items()} for key in ("observation", "action"))
        _, step = world.step(state, action)
        exact = {leaf.name: (step.observation[leaf.name] == seen[leaf.name]).all(-1) for leaf in _categorical(world)}
        error = np.abs(step.reward - row["reward"][:, 0])
        ends = {"foretold": step.terminated, "ended": row["terminated"][:, 0]}
        steps.append({"exact": exact, "error": error, **ends})
        state = world.follow(state, seen, action)
    inside = mask[:, 1:]
    stacked = {key: np.stack([step[key] for step in steps], 1) for key in ("error", "foretold", "ended")}
    found = detection(stacked["foretold"] & inside, stacked["ended"] & inside)
    accuracy = {
        leaf.name: float(np.stack([step["exact"][leaf.name] for step in steps], 1)[inside].mean())
        for leaf in _categorical(world)
    }
    return {
        "transitions": int(inside.sum()),
        "accuracy": accuracy,
        "reward_error": float(stacked["error"][inside].mean()),
        "termination": found._asdict(),
    }


def _categorical(world: World) -> list[Any]:
    return [leaf for leaf in leaves(world.observation_space) if leaf.kind == "categorical"]


def _mean_images(world: World) -> dict[str, Any]:
    return {leaf.name: codec.mean for leaf, codec in world.model.codec.dense_codecs() if leaf.kind == "image"}


def _tolerances(world: World, loop: OpenLoop, gain_db: float) -> dict[str, float]:
    """Squared error up to which a frame is within tolerance, a leaf: so many dB below what the mean image makes."""
    allowed = {}
    for name, mean in _mean_images(world).items():
        actual = loop.actual["observation"][name]
        average = np.broadcast_to((mean.cpu().numpy() * 255).round().astype(np.uint8), actual.shape)
        allowed[name] = float(squared_error(average, actual)[loop.mask].mean() * 10 ** (-gain_db / 10))
    return allowed


def _doubts(
    world: World, loop: OpenLoop, tolerances: dict[str, float]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Doubt and whether the prediction was within tolerance, for every step inside an episode, flat."""
    within = np.ones(loop.mask.shape, np.bool_)
    for name, allowed in tolerances.items():
        within &= squared_error(loop.imagined.observation[name], loop.actual["observation"][name]) <= allowed
    shares = [
        loop.imagined.observation[leaf.name] == loop.actual["observation"][leaf.name] for leaf in _categorical(world)
    ]
    if shares:
        within &= np.concatenate(shares, -1).mean(-1) >= RIGHT_SHARE
    return loop.imagined.trust[loop.mask].astype(np.float64), within[loop.mask]


def _masked_mean(values: NDArray[np.bool_], mask: NDArray[np.bool_]) -> list[float]:
    return [float(x) for x in (values & mask).sum(0) / np.maximum(mask.sum(0), 1)]
