"""Pictures for people, as pure functions: scaling, labels, bars, layouts, and animations as files or data URIs.

Every picture is (H, W, 3) uint8.
"""

import base64
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from worldsim.files import write_atomically
from worldsim.simulator.drawing import BACKGROUND, Font, elided

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]
Format = Literal["gif", "png"]  # png: an animated PNG, every colour kept
MARK = b"worldsim look"  # a comment in files that worldsim wrote and may overwrite
ENDINGS: dict[str, Format] = {".gif": "gif", ".png": "png"}

WHITE: Colour = (240, 240, 240)
GREY: Colour = (150, 150, 150)
DIM: Colour = (70, 70, 70)
GREEN: Colour = (104, 176, 92)
AMBER: Colour = (224, 164, 56)
RED: Colour = (214, 82, 72)
COLOURS = (256, 128, 64, 32, 16)  # palettes that a GIF of limited size may fall back to


def blank(width: int, height: int) -> Picture:
    """An empty picture in the background's grey."""
    return np.full((height, width, 3), BACKGROUND, dtype=np.uint8)


def fit(picture: Picture, width: int, height: int) -> Picture:
    """The picture scaled (nearest neighbour) to fit into width x height with its aspect ratio, centred."""
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = [max(1, int(scale * side)) for side in picture.shape[:2]]
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, picture.shape, strict=False))
    canvas = blank(width, height)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    canvas[top : top + size[0], left : left + size[1]] = picture[rows][:, columns]
    return canvas


def stack(pictures: Sequence[Picture], gap: int = 4) -> Picture:
    """Pictures one below another, left aligned: (sum H + gaps, max W, 3)."""
    canvas = blank(max(p.shape[1] for p in pictures), sum(p.shape[0] for p in pictures) + gap * (len(pictures) - 1))
    top = 0
    for picture in pictures:
        canvas[top : top + picture.shape[0], : picture.shape[1]] = picture
        top += picture.shape[0] + gap
    return canvas


def text(lines: Sequence[tuple[str, Colour]], width: int, size: int = 13) -> Picture:
    """Lines of text in their colours, cut with an ellipsis where too long. size in pixels."""
    image = Image.fromarray(blank(width, len(lines) * (size + 4)))
    pen = ImageDraw.Draw(image)
    for row, (line, colour) in enumerate(lines):
        pen.text((2, row * (size + 4)), elided(line, width - 2, _font(size)), fill=colour, font=_font(size))
    return np.array(image)


def bar(width: int, share: float, colour: Colour, height: int = 8, mark: float | None = None) -> Picture:
    """A bar filled from the left to `share` in [0, 1]; `mark` in [0, 1] draws a white line there."""
    canvas = np.full((height, width, 3), DIM, dtype=np.uint8)
    canvas[:, : round(np.clip(share, 0, 1) * width)] = colour
    if mark is not None:
        at = min(width - 2, round(mark * width))
        canvas[:, at : at + 2] = WHITE
    return canvas


def same_size(frames: Sequence[Picture]) -> list[Picture]:
    """The frames on canvases of one size, the largest height and width among them."""
    height, width = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))
    canvases = [blank(width, height) for _ in frames]
    for canvas, frame in zip(canvases, frames, strict=True):
        canvas[: frame.shape[0], : frame.shape[1]] = frame
    return canvases


def animation(frames: Sequence[Picture], fps: float, form: Format = "gif", max_bytes: int | None = None) -> bytes:
    """Frames of any sizes as an endless GIF or animated PNG.

    max_bytes: a GIF that would be larger gets fewer colours, then every second frame, and so on until it fits; a PNG
    only loses frames. Raises ValueError where even two frames do not fit.
    """
    for kept, colours, speed in _attempts(same_size(frames), fps, form):
        data = _encode(kept, colours, speed, form)
        if max_bytes is None or len(data) <= max_bytes:
            return data
    raise ValueError(f"{len(frames)} frames do not fit into {max_bytes} bytes: make them smaller")


def _attempts(frames: list[Picture], fps: float, form: Format) -> Iterator[tuple[list[Picture], int | None, float]]:
    stride = 1
    while True:
        kept = frames[::stride]
        for colours in COLOURS if form == "gif" else (None,):
            yield kept, colours, fps / stride
        if len(kept) <= 2:
            return
        stride *= 2


def data_uri(frames: Sequence[Picture], fps: float, form: Format = "gif", max_bytes: int | None = None) -> str:
    """An animation as a data URI, to embed in an HTML page."""
    data = animation(frames, fps, form, max_bytes)
    return f"data:image/{form};base64,{base64.b64encode(data).decode('ascii')}"


def write_animation(path: Path, frames: Sequence[Picture], fps: float, max_bytes: int | None = None) -> Path:
    """Write a .gif or an animated .png, by the path's ending; whole or not at all. Returns the path.

    A comment at its end says that it is worldsim's, for `is_marked`.
    """
    data = animation(frames, fps, ENDINGS[path.suffix], max_bytes)
    if path.suffix == ".png":  # before the last chunk, which is empty: length, name, checksum
        text = b"tEXtComment\0" + MARK
        chunk = (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
        data = data[:-12] + chunk + data[-12:]
    else:  # an extension before the last byte
        data = data[:-1] + b"\x21\xfe" + bytes([len(MARK)]) + MARK + b"\0" + data[-1:]
    write_atomically(path, data)
    return path


def is_marked(path: Path) -> bool:
    """Whether `write_animation` wrote the file."""
    try:
        return MARK in path.read_bytes()[-64:]
    except OSError:
        return False


def _encode(frames: list[Picture], colours: int | None, fps: float, form: Format) -> bytes:
    if colours is not None:
        frames = _reduce(frames, colours)
    options: dict[str, Any] = {"extension": f".{form}", "plugin": "pillow", "duration": 1000 / fps, "loop": 0}
    if len(frames) == 1:
        options = {"extension": f".{form}", "plugin": "pillow"}
    return bytes(iio.imwrite("<bytes>", np.stack(frames) if len(frames) > 1 else frames[0], **options))


def _reduce(frames: list[Picture], colours: int) -> list[Picture]:
    """All frames in one palette, so that colours do not flicker and still areas compress well."""
    sample = np.concatenate([frame[::2, ::2] for frame in frames[:: max(1, len(frames) // 16)]])
    palette = Image.fromarray(sample).quantize(colours, dither=Image.Dither.NONE)
    return [
        np.array(Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE).convert("RGB"))
        for frame in frames
    ]


@lru_cache(maxsize=8)
def _font(size: int) -> Font:
    return ImageFont.load_default(size=size)
