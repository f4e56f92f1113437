"""The best, the median and the worst reported window, as a strip (PNG) and a film (GIF): real above, learned below."""

import io
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldsim.fidelity.open_loop import WindowDraw
from worldsim.play import frames
from worldsim.play.frames import AMBER, GREEN, GREY, RED, WHITE, Picture
from worldsim.simulator.drawing import draw, side_by_side
from worldsim.simulator.rollout import Rollout, open_loop
from worldsim.simulator.world import World
from worldsim.spaces import leaves

CELL, LABEL, GAP = 96, 76, 4  # of the strip, in pixels
PICTURE = 208  # width of a window in the film, in pixels
COLUMNS = (1, 2, 3, 5, 8, 13, 21, 30, 50, 75, 100)  # steps ahead that the strip shows
FPS, HOLD, MAX_BYTES = 8, 8, 3_000_000


class Films(NamedTuple):
    """Encoded pictures, ready to be written to files."""

    strip: bytes  # PNG
    film: bytes  # GIF
    chosen: dict[str, int]  # best, median or worst -> index of the window


def films(world: World, windows: WindowDraw, errors: NDArray[np.float64]) -> Films:
    """Imagines and draws the best, the median and the worst window.

    errors: (B,) by which windows are ranked. world: calibrated, because its trust is shown.
    """
    order = np.argsort(errors, kind="stable")
    chosen = {"best": int(order[0]), "median": int(order[len(order) // 2]), "worst": int(order[-1])}
    rows = np.array(list(chosen.values()))
    window, context = windows.windows(rows), windows.context
    imagined = open_loop(world, window, context, [windows.seeds[row] for row in rows])
    shown = world, window, imagined, context, list(chosen)
    strip, film = _strip(*shown), _film(*shown)
    return Films(_png(strip), frames.animation(film, FPS, "gif", MAX_BYTES), chosen)


def _strip(world: World, window: dict[str, Any], imagined: Rollout, context: int, names: list[str]) -> Picture:
    """Rows of frames: the last one of the context, and some steps ahead."""
    length = window["mask"].shape[1]
    shown = [step for step in COLUMNS if context + step <= length]
    header = [("", WHITE), ("context", GREY), *((f"+{step}", WHITE) for step in shown)]
    rows = [side_by_side([frames.text([each], CELL if i else LABEL) for i, each in enumerate(header)], GAP)]
    for index, name in enumerate(names):
        places = [context - 1, *(context + step - 1 for step in shown)]
        inside = [bool(window["mask"][index, t]) for t in places]
        real = [
            _cell(world, window["observation"], index, t, CELL, there) for t, there in zip(places, inside, strict=True)
        ]
        drawn = [
            _cell(world, imagined.observation, index, t, CELL, there) for t, there in zip(places, inside, strict=True)
        ]
        trust = [_trust(float(imagined.trust[index, t]), CELL, there) for t, there in zip(places, inside, strict=True)]
        rows.append(side_by_side([frames.text([(name, WHITE), ("real", GREY)], LABEL), *real], GAP))
        rows.append(side_by_side([frames.text([("learned", AMBER)], LABEL), *drawn], GAP))
        rows.append(side_by_side([frames.text([("trust", GREY)], LABEL), *trust], GAP))
    return frames.stack(rows, GAP)


def _film(world: World, window: dict[str, Any], imagined: Rollout, context: int, names: list[str]) -> list[Picture]:
    """The windows side by side; the last frame is repeated for a second, and a window stops where its episode ends."""
    film = []
    for t in range(window["mask"].shape[1]):
        columns = []
        for index, name in enumerate(names):
            last = min(t, int(window["mask"][index].sum()) - 1)
            recorded = last < context
            where = "context" if recorded else f"step {last - context + 1}"
            real = _cell(world, window["observation"], index, last, PICTURE, True)
            drawn = _cell(world, imagined.observation, index, last, PICTURE, True)
            trust = _trust(float(imagined.trust[index, last]), PICTURE, not recorded, "trust ")
            title = frames.text([(f"{name}, {where}", WHITE), ("real", GREY)], PICTURE)
            columns.append(frames.stack([title, real, frames.text([("learned", AMBER)], PICTURE), drawn, trust], GAP))
        film.append(side_by_side(columns, 2 * GAP))
    return film + film[-1:] * HOLD


def _cell(world: World, observation: dict[str, NDArray[Any]], index: int, t: int, width: int, there: bool) -> Picture:
    """One frame, scaled with its aspect ratio, no higher than wide; blank after an episode's end."""
    shown = {name: rows[index, t] for name, rows in observation.items()}
    picture = draw(leaves(world.observation_space), shown, 1, width)
    height = min(width, -(-width * picture.shape[0] // picture.shape[1]))
    return frames.fit(picture, width, height) if there else frames.blank(width, height)


def _trust(trust: float, width: int, there: bool, name: str = "") -> Picture:
    """Trust as a number and as a bar."""
    number = frames.text([(f"{name}{trust:.2f}" if there else "", WHITE)], width)
    return frames.stack([number, frames.bar(width, trust if there else 0, GREEN if trust >= 0.5 else RED)], 0)


def _png(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
