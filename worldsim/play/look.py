"""Look: the real environment above, the learned one below, the same actions in both.

A few recorded steps are context; from there on the learned world gets only the recorded actions (open loop).
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from worldsim.devices import Device
from worldsim.errors import ConfigError, DatasetError, SpaceMismatchError
from worldsim.files import alone_at, refuse_foreign
from worldsim.play import frames
from worldsim.play.frames import AMBER, GREEN, GREY, RED, WHITE, Picture
from worldsim.rollouts.arrays import EpisodeArrays
from worldsim.rollouts.mix import DataSets, Mix
from worldsim.rollouts.sampling import windows
from worldsim.settings import ContextSteps, Seed, Settings
from worldsim.simulator.drawing import draw, side_by_side
from worldsim.simulator.rollout import Rollout, open_loop
from worldsim.simulator.world import World, load
from worldsim.spaces import leaves

PICTURE, COLUMN = 256, 140  # widths of a picture and of the text beside it, in pixels
GAP = 4
WIDTH = PICTURE + GAP + COLUMN
MOST_FRAMES = 1000  # two minutes; more would not fit into MAX_BYTES
HOLD = 6  # times that the last frame of a window is repeated
MAX_BYTES = 3_000_000


class LookConfig(Settings):
    """The world and the rollouts to show."""

    world: Path = Field(Path("runs/world"), description="folder of the world")
    data: DataSets = Field(
        Path("runs/rollouts"),
        description="rollouts, one data set or several: [a,b]; of those that the world was trained on, only the "
        "held-out ones are shown",
    )
    out: Path = Field(Path("runs/real_vs_world.gif"), description=".gif, at most 3 MB, or .png for an animated PNG")
    context: ContextSteps = Field(5, description="recorded steps that the world observes first")
    length: int = Field(40, ge=1, le=10_000, description="steps that it then imagines, fewer where an episode ends")
    count: int = Field(4, ge=1, le=1000, description="windows shown, one after another")
    fps: int = Field(8, ge=1, le=50, description="frames per second")
    seed: Seed = Field(0, description="of the choice of windows and of the world's random numbers")
    device: Device = Field("auto", description="where the world runs; auto: a GPU where torch sees one")


class Side(NamedTuple):
    """The real or the learned world at one moment: the observation to draw, and the text beside it."""

    observation: dict[str, NDArray[Any]]  # leaf -> (...)
    lines: list[tuple[str, frames.Colour]]  # the first is the heading
    trust: float | None  # in [0, 1]; None in the context and for a world without calibration


def show(config: LookConfig) -> Path:
    """The verb: opens world and data set, and writes the film with `look`.

    Raises CheckpointError or DatasetError where one cannot be opened, SpaceMismatchError where their spaces differ,
    ConfigError where `out` has another ending or is a file that worldsim did not write.
    """
    if config.out.suffix not in frames.ENDINGS:
        raise ConfigError(
            f"out={config.out} must end in .gif, or in .png for an animated PNG; "
            "other kinds can be made from these: ffmpeg -i look.gif look.mp4"
        )
    with alone_at(config.out):
        if not frames.is_marked(config.out):
            refuse_foreign([config.out], "look")
        return _shown(config)


def _shown(config: LookConfig) -> Path:
    world, data = load(config.world, config.device), Mix(config.data)
    if (world.observation_space, world.action_space) != (data.observation_space, data.action_space):
        raise SpaceMismatchError(
            f"data={data.parts[0].path} does not fit world={config.world}: their spaces differ; "
            "give rollouts of the same env"
        )
    episodes = data.unseen(world.manifest.data)
    if not len(episodes):  # nothing was held out
        episodes = np.arange(data.arrays.episodes)
    settings = config.model_dump(include={"context", "length", "count", "fps", "seed"})
    return look(world, data.arrays, episodes, config.out, **settings)


def look(
    world: World,
    arrays: EpisodeArrays,
    episodes: NDArray[np.int64],
    out: Path,
    *,
    context: int = 5,
    length: int = 40,
    count: int = 4,
    seed: int = 0,
    fps: int = 8,
) -> Path:
    """Write a GIF (at most 3 MB, 400 pixels wide) of `count` windows from `episodes`, real above and learned below.

    context: recorded rows that the world observes first. length: steps that it then imagines, at most to the end.
    out: a path ending in .gif (or .png for an animated PNG). Returns it.
    Raises DatasetError where no episode is longer than the context, ConfigError for more frames than a film can have.
    """
    episodes = np.asarray(episodes)
    long = episodes[np.diff(arrays.start)[episodes] > context]
    if not len(long):
        raise DatasetError(f"none of {len(episodes)} episodes is longer than context={context}: give less context")
    rows = min(context + length, int(np.diff(arrays.start)[long].max()))
    # No longer than the longest episode: beyond it the film would stand still.
    if count * rows > MOST_FRAMES:
        frames_asked = f"count={count} windows of {rows} frames"
        raise ConfigError(f"{frames_asked} are more than the {MOST_FRAMES} of a film; give a lower count or length")
    rng = np.random.default_rng(seed)
    window = windows(arrays, long, rows, count, rng)
    imagined = open_loop(world, window, context, rng.integers(2**63, size=count).tolist())
    film = []
    for index in range(count):
        film += film_window(world, window, imagined, index, context)
    return frames.write_animation(Path(out), film, fps, MAX_BYTES)


def film_window(world: World, window: dict[str, Any], imagined: Rollout, index: int, context: int) -> list[Picture]:
    """The frames of one window, up to the end of the recorded episode; the last one is repeated."""
    length, count = int(window["mask"][index].sum()), len(window["mask"])
    film = []
    for t in range(length):
        where = f"context, {t + 1} of {context}" if t < context else f"imagined, step {t - context + 1}"
        colour = GREY if t < context else AMBER
        header = frames.text([(f"window {index + 1} of {count}: {where}", colour)], WIDTH)
        progress = frames.bar(WIDTH, (t + 1) / length, colour, mark=context / length)
        sides = real_side(world, window, index, t, context), learned_side(world, window, imagined, index, t, context)
        film.append(frames.stack([header, progress, *(side_picture(world, side) for side in sides)], GAP))
    return film + film[-1:] * HOLD


def real_side(world: World, window: dict[str, Any], index: int, t: int, context: int) -> Side:
    """The recorded row t of a window, with the return since the end of the context."""
    lines = [("real", WHITE)]
    if not window["first"][index, t]:
        lines.append((f"action {action_name(world, _at(window['action'], index, t))}", WHITE))
    lines.append((f"return {_signed(window['reward'][index, context : t + 1].sum())}", WHITE))
    if window["terminated"][index, t]:
        lines.append(("episode ends", RED))
    return Side(_at(window["observation"], index, t), lines, None)


def learned_side(world: World, window: dict[str, Any], imagined: Rollout, index: int, t: int, context: int) -> Side:
    """The imagined row t; after the learned world has ended the episode, its last row."""
    if t < context:
        return Side(_at(window["observation"], index, t), [("learned", AMBER), ("watches", GREY)], None)
    ends = np.flatnonzero(imagined.terminated[index, context : t + 1])
    last = context + int(ends[0]) if len(ends) else t
    action = action_name(world, _at(window["action"], index, last))
    rewards = imagined.reward[index, context : last + 1].sum()
    lines = [("learned", AMBER), (f"action {action}", WHITE), (f"return {_signed(rewards)}", WHITE)]
    if len(ends):
        lines.append(("episode ends", RED))
    trust = None if world.trust is None else float(imagined.trust[index, last])
    return Side(_at(imagined.observation, index, last), lines, trust)


def side_picture(world: World, side: Side) -> Picture:
    """A side's picture with its text to the right, WIDTH pixels wide."""
    picture = draw(leaves(world.observation_space), side.observation, height=1, width=PICTURE)
    height = int(np.clip(round(PICTURE * picture.shape[0] / picture.shape[1]), PICTURE // 2, PICTURE * 5 // 4))
    column = [frames.text(side.lines[:1], COLUMN, size=20), frames.text(side.lines[1:], COLUMN)]
    if side.trust is not None:
        column.append(frames.text([(f"trust {side.trust:.2f}", WHITE)], COLUMN, size=17))
        column.append(frames.bar(COLUMN - 2 * GAP, side.trust, GREEN if side.trust >= 0.5 else RED, height=12))
    return side_by_side([frames.fit(picture, PICTURE, height), frames.stack(column)], GAP)


def action_name(world: World, action: dict[str, NDArray[Any]]) -> str:
    """A flat action (leaf -> (n,)) as text: its name in `metadata["action_names"]`, or its numbers."""
    names = world.metadata.get("action_names")
    (first, *others) = action.values()
    if names is not None and not others and first.size == 1 and first.dtype == np.int64:
        return str(names[int(first[0])])
    return ", ".join(" ".join(f"{value:.3g}" for value in values.flat[:4]) for values in action.values())


def _at(arrays: dict[str, NDArray[Any]], index: int, t: int) -> dict[str, NDArray[Any]]:
    return {name: array[index, t] for name, array in arrays.items()}


def _signed(rewards: float) -> str:
    """Two digits with a sign, and 0.00 without one."""
    cents = round(float(rewards), 2)
    return f"{cents:+.2f}" if cents else "0.00"
