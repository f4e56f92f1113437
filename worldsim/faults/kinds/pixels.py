"""Pixels and sensors: what optics, sensors and codecs do to a frame. Every frame is touched; severity is how much.

Use `probability` or a schedule to touch only some frames. Grey levels are 0 to 255.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults import leafwise
from worldsim.faults.chance import Draws
from worldsim.faults.fault import choice, number
from worldsim.faults.kinds import frames
from worldsim.faults.kinds.changes import FrameChange, levels
from worldsim.faults.struck import Struck
from worldsim.spaces import Leaf

GRAINS = 2**20  # values of a table of grain, at least


@dataclass(frozen=True, kw_only=True)
class _Lasting(FrameChange):
    """What it draws for a leaf is the same for the whole episode."""

    def draws(self, draws: Draws, leaf: Leaf, struck: Struck) -> Draws:
        return struck.episode_draws(leaf.name)


def _grain(shape: tuple[int, ...], draws: Draws, table: Callable[[int], frames.Frame]) -> Iterator[frames.Frame]:
    """For each of n images a piece of a table of random values, from a place that is drawn.

    As AV1 lays film grain over pictures: a table is drawn once, because drawing a value costs ten times what using one
    does. Two pieces overlap by chance, but hardly ever line up with the same pixels.
    """
    size = int(np.prod(shape[1:]))
    values = table(max(GRAINS, 4 * size))
    for start in (draws.integers((len(values) - size) // shape[3] + 1) * shape[3]).tolist():
        yield values[start : start + size].reshape(shape[1:])


@lru_cache(maxsize=8)
def _normal_grain(std: float, size: int) -> frames.Frame:
    """Gaussian noise in whole grey levels."""
    drawn = np.random.default_rng(0).standard_normal(size, np.float32) * np.float32(std)
    return np.asarray(np.rint(np.clip(drawn, -32000, 32000)), np.int16)


@lru_cache(maxsize=8)
def _speck_grain(share: float, channels: int, size: int) -> frames.Frame:
    """Pixels that are left alone (0), or black (1) or white (2): a `share` of them, half of them each."""
    chance, white = np.random.default_rng(0).random((2, size // channels + 1))
    return np.repeat((chance < share).astype(np.uint8) * (1 + (white < 0.5)), channels).astype(np.uint8)


QUANTILES = 4096  # of the Poisson distribution, at which it is drawn


@lru_cache(maxsize=1)
def _quantile_grain(size: int) -> frames.Frame:
    """Positions of quantiles, all equally likely."""
    return np.random.default_rng(0).integers(QUANTILES, size=size, dtype=np.uint16)


@lru_cache(maxsize=8)
def _photons(gain: float) -> frames.Frame:
    """(256, QUANTILES) the grey level that a pixel of each grey level is seen at, at each quantile.

    A pixel of level L sends Poisson(L / gain) photons. Where these are 1,000 or more, they are normally distributed.
    """
    at = (np.arange(QUANTILES) + 0.5) / QUANTILES
    normal = np.array([NormalDist().inv_cdf(each) for each in at.tolist()])
    counts = np.arange(1500)
    logs = np.array([math.lgamma(count + 1) for count in counts.tolist()])
    photons = np.arange(256) / gain
    seen = photons[:, None] + np.sqrt(photons[:, None]) * normal
    for level in range(min(256, int(1000 * gain))):
        mass = np.exp(counts * math.log(photons[level]) - photons[level] - logs) if level else counts == 0
        seen[level] = np.searchsorted(np.cumsum(mass), at)
    return levels(seen * gain)


def _specked(images: frames.Frame, share: float, draws: Draws) -> frames.Frame:
    """A `share` of the pixels black or white, half of them each."""
    changed = images.copy()
    pieces = _grain(images.shape, draws, partial(_speck_grain, share, images.shape[3]))
    for image, specks in zip(changed, pieces, strict=True):
        image[specks > 0] = 0
        image[specks > 1] = 255
    return changed


def _each(images: frames.Frame, draw: Callable[..., frames.Frame], *drawn: Any) -> frames.Frame:
    """Every image put through `draw`, with what was drawn for it."""
    rows = [each.tolist() for each in drawn]
    return np.stack([levels(draw(*one)) for one in zip(images, *rows, strict=True)])


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(FrameChange):
    """Gaussian noise on every pixel, and on every number of a vector of floats.

    | severity | std |
    |----------|-----|
    | 0.5      | 20  |
    | 1        | 40  |

    `std` is in grey levels; in a vector it is `std / 255` of the range of each entry, or of 1 where it has none.
    Records: `gaussian_noise` (leaf, before, after).
    """

    kind: ClassVar[str] = "gaussian_noise"

    most_std: float = number(40.0, 0, 1e4, "standard deviation at severity 1, in grey levels")

    @property
    def std(self) -> float:
        """Standard deviation of the noise, in grey levels."""
        return self.severity * self.most_std

    def drawn(self, images: frames.Frame, draws: Draws) -> frames.Frame:
        changed = np.empty_like(images)
        for image, noise, target in zip(
            images, _grain(images.shape, draws, partial(_normal_grain, self.std)), changed, strict=True
        ):
            target[...] = np.clip(image + noise, 0, 255)
        return changed

    def suits(self, leaf: Leaf, value: Any) -> bool:
        is_vector = isinstance(leaf.space, spaces.Box) and leaf.space.dtype.kind == "f"
        return is_vector and leafwise.usual(leaf, value) or super().suits(leaf, value)

    def column_changed(self, leaf: Leaf, values: NDArray[Any], draws: Draws, struck: Struck) -> NDArray[Any]:
        space = leaf.space
        assert isinstance(space, spaces.Box), f"{leaf.name} is neither frame nor vector"
        if space.dtype.kind != "f":
            return super().column_changed(leaf, values, draws, struck)
        with np.errstate(over="ignore"):
            span = np.asarray(space.high, np.float64) - np.asarray(space.low, np.float64)
        scale = np.where(np.isfinite(span) & (span < 1e30), span, 1.0)
        noisy = values + self.std / 255 * scale * draws.normal(0, *values.shape[1:])
        return leafwise.bounded(noisy.astype(values.dtype), space)


@dataclass(frozen=True, kw_only=True)
class ShotNoise(FrameChange):
    """Too little light: every pixel counts photons (Poisson noise), so bright pixels are noisier than dark ones.

    | severity | gain |
    |----------|------|
    | 0.5      | 8    |
    | 1        | 16   |

    A photon is worth `gain` grey levels: the variance of a pixel is `gain` times its brightness.
    Records: `shot_noise` (leaf).
    """

    kind: ClassVar[str] = "shot_noise"

    most_gain: float = number(16.0, 0, 255, "grey levels a photon at severity 1")

    @property
    def gain(self) -> float:
        """Grey levels a photon is worth."""
        return self.severity * self.most_gain

    def drawn(self, images: frames.Frame, draws: Draws) -> frames.Frame:
        seen, changed = _photons(max(self.gain, 1e-3)), np.empty_like(images)
        for image, quantiles, target in zip(images, _grain(images.shape, draws, _quantile_grain), changed, strict=True):
            target[...] = seen[image, quantiles]
        return changed


@dataclass(frozen=True, kw_only=True)
class SaltNoise(FrameChange):
    """Single pixels are black or white, half of them each, others in every frame.

    | severity | pixels |
    |----------|--------|
    | 0.5      | 10 %   |
    | 1        | 20 %   |

    Records: `salt_noise` (leaf).
    """

    kind: ClassVar[str] = "salt_noise"

    density: float = number(0.2, 0, 1, "share of the pixels at severity 1")

    @property
    def pixels(self) -> float:
        """Share of the pixels that are black or white."""
        return self.severity * self.density

    def drawn(self, images: frames.Frame, draws: Draws) -> frames.Frame:
        return _specked(images, self.pixels, draws)


@dataclass(frozen=True, kw_only=True)
class DeadPixels(_Lasting):
    """Single pixels are always black or always white: the same for the whole episode.

    | severity | pixels |
    |----------|--------|
    | 0.5      | 2.5 %  |
    | 1        | 5 %    |

    Records: `dead_pixels` (leaf).
    """

    kind: ClassVar[str] = "dead_pixels"

    density: float = number(0.05, 0, 1, "share of the pixels at severity 1")

    @property
    def pixels(self) -> float:
        """Share of the pixels that are black or white."""
        return self.severity * self.density

    def drawn(self, images: frames.Frame, draws: Draws) -> frames.Frame:
        return _specked(images, self.pixels, draws)


@dataclass(frozen=True, kw_only=True)
class Blur(FrameChange):
    """Out of focus: a Gaussian blur.

    | severity | sigma |
    |----------|-------|
    | 0.5      | 3 %   |
    | 1        | 6 %   |

    `sigma` is the blur's standard deviation, as a share of the frame's shorter side. The border is mirrored.
    Records: `blur` (leaf).
    """

    kind: ClassVar[str] = "blur"

    most_sigma: float = number(
        0.06, 0, 1, "standard deviation of the blur at severity 1, as a share of the shorter side"
    )

    @property
    def sigma(self) -> float:
        """Standard deviation of the blur, as a share of the frame's shorter side."""
        return self.severity * self.most_sigma

    def drawn(self, images: frames.Frame, draws: Draws) -> frames.Frame:
        return _each(images, self._blurred)

    def _blurred(self, image: frames.Frame) -> frames.Frame:
        import cv2

        sigma = max(self.sigma * min(image.shape[:2]), 1e-3)
        blurred = cv2.GaussianBlur(_floats(image), (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
        return blurred.reshape(image.shape)


@dataclass(frozen=True, kw_only=True)
class Compression(FrameChange):
    """A JPEG of low quality.

    | severity | quality |
    |----------|---------|
    | 0.25     | 70      |
    | 0.5      | 48      |
    | 1        | 2       |

    `quality` as libjpeg means it, 1 to 95. Frames of other than 1 or 3 channels are compressed channel by channel.
    Records: `compression` (leaf).
    """

    kind: ClassVar[str] = "compression"

    best: float = number(93.0, 1, 95, "quality where severity is nearly 0")
    worst: float = number(2.0, 1, 95, "quality at severity 1")

    @property
    def quality(self) -> int:
        """Quality of the JPEG, 1 to 95."""
        return round(self.best + self.severity * (self.worst - self.best))

    def drawn(self, images: frames.Frame, draws: Draws) -> frames.Frame:
        return _each(images, self._compressed)

    def _compressed(self, image: frames.Frame) -> frames.Frame:
        if image.shape[2] in (1, 3):
            return self._jpeg(image)
        return np.concatenate([self._jpeg(image[..., [channel]]) for channel in range(image.shape[2])], axis=2)

    def _jpeg(self, image: frames.Frame) -> frames.Frame:
        import cv2

        ordered = np.ascontiguousarray(image[..., ::-1])  # OpenCV thinks in blue, green, red
        _, data = cv2.imencode(".jpg", ordered, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
        decoded: frames.Frame = np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED))
        return decoded.reshape(image.shape)[..., ::-1]


@dataclass(frozen=True, kw_only=True)
class Brightness(FrameChange):
    """The picture is too bright, or, with a negative `most`, too dark.

    | severity | levels |
    |----------|--------|
    | 0.5      | 60     |
    | 1        | 120    |

    `levels` are added to every pixel. Records: `brightness` (leaf).
    """

    kind: ClassVar[str] = "brightness"

    most: float = number(120.0, -255, 255, "grey levels added at severity 1")

    @property
    def levels(self) -> float:
        """Grey levels that are added."""
        return self.severity * self.most

    def drawn(self, images: frames.Frame, draws: Draws) -> frames.Frame:
        shift = round(self.levels)
        if shift < 0:
            darker: frames.Frame = np.maximum(images, np.uint8(-shift))
            darker -= np.uint8(-shift)
            return darker
        brighter: frames.Frame = np.minimum(images, np.uint8(255 - shift))
        brighter += np.uint8(shift)
        return brighter


@dataclass(frozen=True, kw_only=True)
class Contrast(FrameChange):
    """The picture is flat: every pixel is nearer to the frame's mean.

    | severity | kept |
    |----------|------|
    | 0.5      | 55 % |
    | 1        | 10 % |

    `kept` is the share of the difference from the mean that is left. Records: `contrast` (leaf).
    """

    kind: ClassVar[str] = "contrast"

    lost: float = number(0.9, 0, 1, "share of the difference from the mean that is lost at severity 1")

    @property
    def kept(self) -> float:
        """Share of the difference from the frame's mean that is left."""
        return 1 - self.severity * self.lost

    def drawn(self, images: frames.Frame, draws: Draws) -> frames.Frame:
        return _each(images, self._flat)

    def _flat(self, image: frames.Frame) -> frames.Frame:
        mean = float(image.mean())
        grey = np.arange(256)
        return levels(mean + self.kept * (grey - mean))[image]


@dataclass(frozen=True, kw_only=True)
class ColourShift(_Lasting):
    """A colour cast: every channel is brighter or darker by an amount of its own, the same for the whole episode.

    | severity | levels |
    |----------|--------|
    | 0.5      | 40     |
    | 1        | 80     |

    The channel that shifts most does by `levels`. Records: `colour_shift` (leaf).
    """

    kind: ClassVar[str] = "colour_shift"

    most: float = number(80.0, 0, 255, "grey levels of the largest shift at severity 1")

    @property
    def levels(self) -> float:
        """Grey levels of the largest shift."""
        return self.severity * self.most

    def drawn(self, images: frames.Frame, draws: Draws) -> frames.Frame:
        cast = 2 * draws.random(0, images.shape[3]) - 1
        shifts = np.rint(self.levels * cast / np.abs(cast).max(1, keepdims=True)).astype(np.int16)
        return levels(images + shifts[:, None, None])


@dataclass(frozen=True, kw_only=True)
class CameraShift(FrameChange):
    """The camera was knocked: the picture is shifted sideways and up or down.

    | severity | share_of_side |
    |----------|---------------|
    | 0.5      | 10 %          |
    | 1        | 20 %          |

    Half of it at least in each direction, which are drawn anew at each call. What comes into the picture is black, or
    with `border="edge"` what was at its edge. Records: `camera_shift` (leaf).
    """

    kind: ClassVar[str] = "camera_shift"

    most: float = number(0.2, 0, 1, "shift at severity 1, as a share of each side")
    border: str = choice("black", ("black", "edge"), "what comes into the picture: black or edge")

    @property
    def share_of_side(self) -> float:
        """The longest shift, as a share of each side."""
        return self.severity * self.most

    def drawn(self, images: frames.Frame, draws: Draws) -> frames.Frame:
        size = np.array(images.shape[2:0:-1])  # width, height
        sign, part = np.where(draws.random(0, 2) < 0.5, -1, 1), 0.5 + 0.5 * draws.random(1, 2)
        return _each(images, self._moved, np.rint(sign * part * self.share_of_side * size))

    def _moved(self, image: frames.Frame, by: tuple[float, float]) -> frames.Frame:
        import cv2

        right, down = by
        return _warped(image, np.array([[1, 0, right], [0, 1, down]]), cv2.INTER_NEAREST, self.border)


@dataclass(frozen=True, kw_only=True)
class CameraRotation(_Lasting):
    """The camera hangs askew: the picture is turned about its middle, the same way for the whole episode.

    | severity | degrees |
    |----------|---------|
    | 0.5      | 15      |
    | 1        | 30      |

    Which way is drawn for each episode. What comes into the picture is black, or with `border="edge"` what was at its
    edge. Records: `camera_rotation` (leaf).
    """

    kind: ClassVar[str] = "camera_rotation"

    most: float = number(30.0, 0, 180, "degrees at severity 1")
    border: str = choice("black", ("black", "edge"), "what comes into the picture: black or edge")

    @property
    def degrees(self) -> float:
        """By how much the picture is turned."""
        return self.severity * self.most

    def drawn(self, images: frames.Frame, draws: Draws) -> frames.Frame:
        return _each(images, self._turned, np.where(draws.random() < 0.5, self.degrees, -self.degrees))

    def _turned(self, image: frames.Frame, degrees: float) -> frames.Frame:
        import cv2

        height, width = image.shape[:2]
        middle = ((width - 1) / 2, (height - 1) / 2)
        turn = cv2.getRotationMatrix2D(middle, degrees, 1.0)
        return _warped(image, turn, cv2.INTER_LINEAR, self.border)


@dataclass(frozen=True, kw_only=True)
class Tearing(FrameChange):
    """Half an update: from some row on, the rows are shifted sideways.

    | severity | share_of_side |
    |----------|---------------|
    | 0.5      | 25 %          |
    | 1        | 50 %          |

    The row is drawn at each call; the shift is up to `share_of_side` of the width, half of it at least, and at least
    one pixel. Records: `tearing` (leaf).
    """

    kind: ClassVar[str] = "tearing"

    most: float = number(0.5, 0, 1, "longest shift at severity 1, as a share of the width")

    @property
    def share_of_side(self) -> float:
        """The longest shift, as a share of the width."""
        return self.severity * self.most

    def drawn(self, images: frames.Frame, draws: Draws) -> frames.Frame:
        height, width = images.shape[1:3]
        steps = np.maximum(1, np.rint((0.5 + 0.5 * draws.random(1)) * self.share_of_side * width)).astype(np.int64)
        return _each(images, _torn, 1 + draws.integers(height - 1), steps)


def _torn(image: frames.Frame, row: int, step: int) -> frames.Frame:
    torn = image.copy()
    torn[row:] = np.roll(image[row:], step, axis=1)
    return torn


def _floats(image: frames.Frame) -> frames.Frame:
    return np.ascontiguousarray(image, np.float32)


def _warped(image: frames.Frame, matrix: Any, how: int, border: str) -> frames.Frame:
    """An image under an affine map of its coordinates, any number of channels."""
    import cv2

    mode = cv2.BORDER_REPLICATE if border == "edge" else cv2.BORDER_CONSTANT
    size = image.shape[1::-1]
    planes = [
        cv2.warpAffine(_floats(image[..., channel]), matrix.astype(np.float64), size, flags=how, borderMode=mode)
        for channel in range(image.shape[2])
    ]
    return np.stack(planes, axis=2)
