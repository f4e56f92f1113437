"""Draws an observation as a picture for people: images and boards scaled up, or bars where there are none."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
from gymnasium import spaces
from PIL import Image, ImageDraw, ImageFont

from worldsim.spaces import Leaf

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

HEIGHT = 256  # approximate height of a picture in pixels
GAP = 4  # pixels between image leaves
BACKGROUND = 24  # grey level
BAR_WIDTH, BAR_HEIGHT, MAX_BARS = 256, 12, 64
NAMED_FROM, NAMES_SHARE, MAX_NAMED = (
    160,
    0.4,
    24,
)  # least width for names of bars, the share of the width that they take, most bars with names
SMALLEST_BOARD = 3  # cells in height and width: smaller grids of classes are drawn as bars
INK = 190  # grey level of the names
COLOURS = np.array([[94, 156, 211], [214, 138, 76]], dtype=np.uint8)  # of bars, alternating from leaf to leaf


def to_rgb(image: np.ndarray) -> np.ndarray:
    """(H, W, C) uint8 as (H, W, 3): three channels as colours, else the last channel in grey."""
    return image if image.shape[-1] == 3 else np.repeat(image[..., -1:], 3, axis=-1)


def scale_up(image: np.ndarray, factor: int) -> np.ndarray:
    """Nearest-neighbour enlargement of (H, W, 3) by a whole factor, so that single pixels stay visible."""
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def side_by_side(images: Sequence[np.ndarray], gap: int = GAP) -> np.ndarray:
    """Pictures (H_i, W_i, 3) in a row, tops aligned: (max H, sum W + gaps, 3)."""
    height = max(image.shape[0] for image in images)
    width = sum(image.shape[1] for image in images) + gap * (len(images) - 1)
    canvas = np.full((height, width, 3), BACKGROUND, dtype=np.uint8)
    left = 0
    for image in images:
        canvas[: image.shape[0], left : left + image.shape[1]] = image
        left += image.shape[1] + gap
    return canvas


def bars(observed: Sequence[Leaf], observation: Mapping[str, np.ndarray], width: int = BAR_WIDTH) -> np.ndarray:
    """One horizontal bar for each value, after its name; its length is the value scaled to its range: (H, width, 3).

    A text is one row of letters. Of many rows only the first are drawn, with a line that says how many more there are.
    Names are left out where the picture is too narrow.
    """
    rows = [(shade, each) for shade, leaf in enumerate(observed) for each in _shown(leaf, observation[leaf.name])]
    most = MAX_BARS if width < NAMED_FROM else MAX_NAMED
    canvas = _names(tuple(_row_names(observed)), most, width).copy()
    left = round(width * NAMES_SHARE) if width >= NAMED_FROM else 0
    for row, (shade, each) in enumerate(rows[:most]):
        top, colour = row * BAR_HEIGHT, COLOURS[shade % len(COLOURS)]
        if isinstance(each, str):
            canvas[top : top + BAR_HEIGHT, left:] = _letters(each, width - left, tuple(colour.tolist()))
        else:
            canvas[top + 2 : top + BAR_HEIGHT - 2, left : left + 2 + round(each * (width - left - 2))] = colour
    return canvas


def draw(
    observed: Sequence[Leaf], observation: Mapping[str, np.ndarray], height: int = HEIGHT, width: int = BAR_WIDTH
) -> np.ndarray:
    """A flat observation (leaf name -> array) as (H, W, 3) uint8.

    Every grid in it is about `height` pixels high; where there is none, bars are `width` pixels wide.
    """
    images = [_pixels(leaf, observation[leaf.name]) for leaf in observed if _grid_shape(leaf)]
    if not images:
        return bars(observed, observation, width)
    return side_by_side([scale_up(image, max(1, round(height / image.shape[0]))) for image in images])


def _shown(leaf: Leaf, values: np.ndarray) -> Iterable[str | float]:
    """The rows of a leaf: a text, or each value scaled to [0, 1]."""
    return [leaf.unflatten(values)] if isinstance(leaf.space, spaces.Text) else _scaled(leaf, values).tolist()


def _row_names(observed: Sequence[Leaf]) -> Iterator[str]:
    """A name for each row: that of its leaf, with an index where the leaf has several values."""
    for leaf in observed:
        size = 1 if isinstance(leaf.space, spaces.Text) else int(np.prod(leaf.shape))
        yield from [leaf.name] if size == 1 else [f"{leaf.name}[{place}]" for place in range(size)]


@lru_cache(maxsize=16)
def _names(names: tuple[str, ...], most: int, width: int) -> np.ndarray:
    """The background of the bars, with names at the left; long names are cut at the beginning."""
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    canvas = Image.new("RGB", (width, max(1, len(names[:most]) + len(more)) * BAR_HEIGHT), (BACKGROUND,) * 3)
    if width >= NAMED_FROM:
        pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=10)
        for row, name in enumerate([*names[:most], *more]):
            while pen.textlength(name, font) > width * NAMES_SHARE - 6:
                name = "…" + name.lstrip("…")[1:]
            pen.text((2, row * BAR_HEIGHT), name, fill=(INK,) * 3, font=font)
    return np.asarray(canvas)


@lru_cache(maxsize=64)
def _letters(text: str, width: int, colour: tuple[int, int, int]) -> np.ndarray:
    """A row of letters; a long text is cut at the end."""
    canvas = Image.new("RGB", (width, BAR_HEIGHT), (BACKGROUND,) * 3)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=10)
    pen.text((2, 0), elided(" ".join(text.split()), width - 4, font), fill=colour, font=font)
    return np.asarray(canvas)


def elided(text: str, width: float, font: Font) -> str:
    """A line of text cut to at most `width` pixels, with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _grid_shape(leaf: Leaf) -> tuple[int, ...] | None:
    """(H, W, C) of a leaf that is drawn as a picture: an image, a field, or a board of classes, one or three a cell."""
    if not leaf.is_discrete:
        return leaf.shape if len(leaf.shape) == 3 else None
    shape = (*(leaf.space.shape or ()), 1)[:3] if isinstance(leaf.space, spaces.MultiDiscrete) else ()
    return shape if len(shape) == 3 and min(shape[:2]) >= SMALLEST_BOARD and shape[2] in (1, 3) else None


def _pixels(leaf: Leaf, values: np.ndarray) -> np.ndarray:
    """An image, a field or a board as (H, W, 3) uint8; of a stack of frames the newest one."""
    if leaf.kind == "categorical":
        return to_rgb((255 * _scaled(leaf, values)).astype(np.uint8).reshape(_grid_shape(leaf)))
    shown = values if leaf.kind == "image" else (255 * _scaled(leaf, values)).astype(np.uint8).reshape(leaf.shape)
    return to_rgb(shown[..., -leaf.channels :])


def _scaled(leaf: Leaf, values: np.ndarray) -> np.ndarray:
    """Each value scaled to [0, 1] by its bounds; unbounded ones by arctan, with 0 in the middle."""
    values = np.asarray(values, dtype=np.float64).ravel()
    if leaf.is_discrete:
        assert leaf.nvec is not None
        return values / np.maximum(np.asarray(leaf.nvec).ravel() - 1, 1)
    assert isinstance(leaf.space, spaces.Box)
    bounds = (leaf.space.low, leaf.space.high)
    low, high = (np.asarray(leaf.flatten(bound), dtype=np.float64).ravel() for bound in bounds)
    bounded = np.isfinite(low) & np.isfinite(high) & (high > low)
    low, span = np.where(bounded, low, 0.0), np.where(bounded, high - low, 1.0)
    return np.clip(np.where(bounded, (values - low) / span, 0.5 + np.arctan(values) / np.pi), 0.0, 1.0)
