"""Animations of episodes: the observations that the agent got, with its actions, rewards and faults as text."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from worldsim.evaluation.runs import Episode
from worldsim.play.frames import Picture

SIDE = 256  # least width of a picture in pixels
MAX_FRAMES = 80  # longer episodes are subsampled evenly
FRAME_MS, LAST_MS = 450, 2000
LINE, PAD = 17, 6  # pixels
INK, MUTED, FAULT, GROUND = (235, 235, 240), (160, 164, 175), (255, 146, 92), (24, 26, 32)


def animate(episodes: Mapping[str, Episode], action_names: Sequence[str] | None = None) -> bytes:
    """Episodes side by side, title -> episode with frames, as an animated lossless WebP that repeats for ever.

    An episode that ends before the others keeps its last frame.
    """
    length = max(len(episode.frames) for episode in episodes.values())
    steps = np.unique(np.linspace(0, length - 1, min(length, MAX_FRAMES)).round().astype(int))
    panels = [
        [_panel(title, e, min(int(t), len(e.frames) - 1), action_names) for t in steps] for title, e in episodes.items()
    ]
    frames = [Image.fromarray(_in_a_row(row)) for row in zip(*panels, strict=True)]
    buffer = io.BytesIO()
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_MS]
    fast = {"lossless": True, "quality": 40, "method": 0}  # ten times faster than the smallest, half as large again
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], duration=durations, loop=0, **fast)
    return buffer.getvalue()


def data_uri(data: bytes, kind: str) -> str:
    """Bytes as a data URI, `kind` being the media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _panel(title: str, episode: Episode, t: int, action_names: Sequence[str] | None) -> Picture:
    """Frame `t` of an episode: title above, picture, and what led to it below."""
    picture = episode.frames[t]
    picture = picture.repeat(max(1, SIDE // picture.shape[1]), axis=1).repeat(max(1, SIDE // picture.shape[1]), axis=0)
    height, width = picture.shape[0] + 5 * LINE + 2 * PAD, max(picture.shape[1], SIDE)
    canvas = Image.new("RGB", (width, height), GROUND)
    canvas.paste(Image.fromarray(picture), ((width - picture.shape[1]) // 2, LINE + PAD))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=12)
    draw.text((PAD, 4), title, INK, font=font)
    for number, (text, colour) in enumerate(_lines(episode, t, action_names)):
        draw.text((PAD, picture.shape[0] + LINE * (number + 1) + 2 * PAD), text, colour, font=font)
    return np.asarray(canvas)


def _lines(episode: Episode, t: int, action_names: Sequence[str] | None) -> list[tuple[str, tuple[int, int, int]]]:
    rows = episode.trace[:t]
    total = sum(row["reward"] for row in rows)
    if not rows:
        return [("start", MUTED)]
    row = rows[-1]
    trust = f"   trust {row['trust']:.2f}" if "trust" in row else ""
    lines = [
        (f"step {t} of {episode.result.steps}{trust}", MUTED),
        (f"action {_action(row['action'], action_names)}", INK),
        (f"reward {row['reward']:+.2f}   return {total:+.2f}", INK),
    ]
    if row["fired"]:
        lines.append((("fault: " + "; ".join(row["fired"]))[:44], FAULT))
    elif t == len(episode.frames) - 1:
        lines.append(("end" if episode.result.crash is None else "the agent crashed", MUTED))
    return lines


def _action(action: Any, names: Sequence[str] | None) -> str:
    if names is not None and isinstance(action, int) and 0 <= action < len(names):
        return names[action]
    if isinstance(action, float):
        return f"{action:.2f}"
    if isinstance(action, Mapping):
        return " ".join(f"{name}={_action(part, None)}" for name, part in action.items())[:36]
    return str(action)[:36]


def _in_a_row(panels: Sequence[Picture]) -> Picture:
    """Panels side by side, tops aligned."""
    height = max(panel.shape[0] for panel in panels)
    gap = np.broadcast_to(np.array(GROUND, np.uint8), (height, 2 * PAD, 3))
    parts: list[Picture] = []
    for panel in panels:
        below = np.broadcast_to(np.array(GROUND, np.uint8), (height - panel.shape[0], panel.shape[1], 3))
        parts += [np.concatenate([panel, below]), gap]
    joined: Picture = np.concatenate(parts[:-1], axis=1)
    return joined
