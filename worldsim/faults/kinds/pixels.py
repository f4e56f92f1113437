"""Pixels and sensors: what optics, sensors and codecs do to a frame. Every frame is touched; severity is how much.

Use `probability` or a schedule to touch only some frames. Grey levels are 0 to 255.
"""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults import columns, trees
from worldsim.faults.definition import Composition, Fault, fault
from worldsim.faults.effects import frames
from worldsim.faults.effects.base import AffectedCalls
from worldsim.faults.effects.frame_edits import by_frame, is_frame, levels, redrawn
from worldsim.faults.effects.leaves import by_column
from worldsim.faults.effects.requirements import FRAMES_OR_FLOATS, is_floats
from worldsim.faults.keys import CallRandom, normal_quantiles
from worldsim.faults.kinds.missing import frames_only
from worldsim.faults.parameters import NameGlobs, number, option, out_of_space, scaled, targets
from worldsim.spaces import Leaf

GRAINS = 2**20  # values of a table of grain, at least
_PIXELS = "pixels and sensors"
_BORDER = "what comes into the picture: black or edge"


def _grain(
    shape: tuple[int, ...], random: CallRandom, table: Callable[[int], frames.FrameArray]
) -> Iterator[frames.FrameArray]:
    """For each of n images a piece of a table of random values, from a place that is drawn.

    As AV1 lays film grain over pictures: a table is drawn once, because drawing a value costs ten times what using one
    does. Two pieces overlap by chance, but hardly ever line up with the same pixels.
    """
    size = int(np.prod(shape[1:]))
    values = table(max(GRAINS, 4 * size))
    for start in (random.integers((len(values) - size) // shape[3] + 1) * shape[3]).tolist():
        yield values[start : start + size].reshape(shape[1:])


@lru_cache(maxsize=8)
def _normal_grain(std: float, size: int) -> frames.FrameArray:
    """Gaussian noise in whole grey levels."""
    drawn = np.random.default_rng(0).standard_normal(size, np.float32) * np.float32(std)
    return np.asarray(np.rint(np.clip(drawn, -32000, 32000)), np.int16)


@lru_cache(maxsize=8)
def _speck_grain(share: float, channels: int, size: int) -> frames.FrameArray:
    """Pixels that are left alone (0), or black (1) or white (2): a `share` of them, half of them each."""
    chance, white = np.random.default_rng(0).random((2, size // channels + 1))
    return np.repeat((chance < share).astype(np.uint8) * (1 + (white < 0.5)), channels).astype(np.uint8)


QUANTILES = 4096  # of the Poisson distribution, at which it is drawn


@lru_cache(maxsize=1)
def _quantile_grain(size: int) -> frames.FrameArray:
    """Positions of quantiles, all equally likely."""
    return np.random.default_rng(0).integers(QUANTILES, size=size, dtype=np.uint16)


@lru_cache(maxsize=8)
def _photons(gain: float) -> frames.FrameArray:
    """(256, QUANTILES) the grey level that a pixel of each grey level is seen at, at each quantile.

    A pixel of level L sends Poisson(L / gain) photons. Where these are 1,000 or more, they are normally distributed.
    """
    at = (np.arange(QUANTILES) + 0.5) / QUANTILES
    normal = normal_quantiles(at)
    counts = np.arange(1500)
    logs = np.array([math.lgamma(count + 1) for count in counts.tolist()])
    photons = np.arange(256) / gain
    detected = photons[:, None] + np.sqrt(photons[:, None]) * normal
    for level in range(min(256, int(1000 * gain))):
        mass = np.exp(counts * math.log(photons[level]) - photons[level] - logs) if level else counts == 0
        detected[level] = np.searchsorted(np.cumsum(mass), at)
    return levels(detected * gain)


def _specked(images: frames.FrameArray, share: float, random: CallRandom) -> frames.FrameArray:
    """A `share` of the pixels black or white, half of them each."""
    changed = images.copy()
    pieces = _grain(images.shape, random, partial(_speck_grain, share, images.shape[3]))
    for image, specks in zip(changed, pieces, strict=True):
        image[specks > 0] = 0
        image[specks > 1] = 255
    return changed


def _each(images: frames.FrameArray, draw: Callable[..., frames.FrameArray], *drawn: Any) -> frames.FrameArray:
    """Every image put through `draw`, with what was drawn for it."""
    rows = [each.tolist() for each in drawn]
    return np.stack([levels(draw(*one)) for one in zip(images, *rows, strict=True)])


@fault("gaussian_noise", _PIXELS)
class GaussianNoise(Fault):
    """Gaussian noise on every pixel, and on every number of a vector of floats.

    In a vector 255 grey levels stand for the range of an entry, or for 1 where it has no bounds.
    Records: `gaussian_noise` (leaf, before, after).
    """

    most_std: float = scaled(40.0, 0, 1e4, "standard deviation, in grey levels")
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        return frames_only(self, by_column(self._noisy, suits=_is_frame_or_floats), needs=FRAMES_OR_FLOATS)

    def _noisy(self, leaf: Leaf, values: NDArray[Any], random: CallRandom, batch: AffectedCalls) -> NDArray[Any]:
        space, std = leaf.space, self.scaled("most_std")
        assert isinstance(space, spaces.Box), f"{leaf.name} is neither frame nor vector"
        if space.dtype.kind != "f":
            return redrawn(leaf, values, lambda images: _with_noise(images, std, random))
        with np.errstate(over="ignore"):
            span = np.asarray(space.high, np.float64) - np.asarray(space.low, np.float64)
        scale = np.where(np.isfinite(span) & (span < 1e30), span, 1.0)
        noisy = values + std / 255 * scale * random.normal(0, *values.shape[1:])
        return columns.bounded(noisy.astype(values.dtype), space)


def _is_frame_or_floats(leaf: Leaf, value: Any) -> bool:
    return (is_floats(leaf) or is_frame(leaf)) and trees.has_leaf_form(leaf, value)


def _with_noise(images: frames.FrameArray, std: float, random: CallRandom) -> frames.FrameArray:
    changed = np.empty_like(images)
    grain = _grain(images.shape, random, partial(_normal_grain, std))
    for image, noise, target in zip(images, grain, changed, strict=True):
        target[...] = np.clip(image + noise, 0, 255)
    return changed


@fault("shot_noise", _PIXELS)
class ShotNoise(Fault):
    """Too little light: every pixel counts photons (Poisson noise), so bright pixels are noisier than dark ones.

    The variance of a pixel is its brightness times what a photon is worth. Records: `shot_noise` (leaf).
    """

    most_gain: float = scaled(16.0, 0, 255, "grey levels that a photon is worth")
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        def draw(images: frames.FrameArray, random: CallRandom) -> frames.FrameArray:
            observed_levels, changed = _photons(max(self.scaled("most_gain"), 1e-3)), np.empty_like(images)
            grain = _grain(images.shape, random, _quantile_grain)
            for image, quantiles, target in zip(images, grain, changed, strict=True):
                target[...] = observed_levels[image, quantiles]
            return changed

        return frames_only(self, by_frame(draw))


@fault("salt_noise", _PIXELS)
class SaltNoise(Fault):
    """Salt-and-pepper noise: single pixels are black or white, half of them each, others in every frame.

    Records: `salt_noise` (leaf).
    """

    density: float = scaled(0.2, 0, 1, "share of the pixels")
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        return frames_only(self, by_frame(lambda images, random: _specked(images, self.scaled("density"), random)))


@fault("dead_pixels", _PIXELS)
class DeadPixels(Fault):
    """Single pixels are always black or always white: the same for the whole session.

    Records: `dead_pixels` (leaf).
    """

    density: float = scaled(0.05, 0, 1, "share of the pixels")
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        edit = by_frame(lambda images, random: _specked(images, self.scaled("density"), random), lasting=True)
        return frames_only(self, edit)


@fault("blur", _PIXELS)
class Blur(Fault):
    """Out of focus: a Gaussian blur, with the picture mirrored at its border.

    Records: `blur` (leaf).
    """

    most_sigma: float = scaled(0.06, 0, 1, "standard deviation of the blur, as a share of the frame's shorter side")
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        return frames_only(self, by_frame(lambda images, random: _each(images, self._blurred)))

    def _blurred(self, image: frames.FrameArray) -> frames.FrameArray:
        import cv2

        sigma = max(self.scaled("most_sigma") * min(image.shape[:2]), 1e-3)
        blurred = cv2.GaussianBlur(_floats(image), (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
        return blurred.reshape(image.shape)


@fault("compression", _PIXELS)
class Compression(Fault):
    """JPEG artefacts: the frame is compressed at a low quality, on libjpeg's scale of 1 to 95.

    Frames of other than 1 or 3 channels are compressed channel by channel. Records: `compression` (leaf).
    """

    best: float = number(93.0, 1, 95, "quality where severity is nearly 0")
    worst: float = number(2.0, 1, 95, "quality at severity 1")
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    @property
    def quality(self) -> int:
        """Quality of the JPEG, 1 to 95."""
        return round(self.best + self.severity * (self.worst - self.best))

    def values_at_severity(self) -> dict[str, float]:
        return {"quality": self.quality}

    def compose(self) -> Composition:
        return frames_only(self, by_frame(lambda images, random: _each(images, self._compressed)))

    def _compressed(self, image: frames.FrameArray) -> frames.FrameArray:
        if image.shape[2] in (1, 3):
            return self._jpeg(image)
        return np.concatenate([self._jpeg(image[..., [channel]]) for channel in range(image.shape[2])], axis=2)

    def _jpeg(self, image: frames.FrameArray) -> frames.FrameArray:
        import cv2

        ordered = np.ascontiguousarray(image[..., ::-1])  # OpenCV thinks in blue, green, red
        _, data = cv2.imencode(".jpg", ordered, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
        decoded: frames.FrameArray = np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED))
        return decoded.reshape(image.shape)[..., ::-1]


@fault("brightness", _PIXELS)
class Brightness(Fault):
    """The picture is too bright, or, with a negative `most`, too dark.

    Records: `brightness` (leaf).
    """

    most: float = scaled(120.0, -255, 255, "grey levels that are added to every pixel")
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        shift = round(self.scaled("most"))

        def draw(images: frames.FrameArray, random: CallRandom) -> frames.FrameArray:
            if shift < 0:
                darker: frames.FrameArray = np.maximum(images, np.uint8(-shift))
                darker -= np.uint8(-shift)
                return darker
            brighter: frames.FrameArray = np.minimum(images, np.uint8(255 - shift))
            brighter += np.uint8(shift)
            return brighter

        return frames_only(self, by_frame(draw))


@fault("contrast", _PIXELS)
class Contrast(Fault):
    """Low contrast: every pixel is nearer to the frame's mean.

    Records: `contrast` (leaf).
    """

    lost: float = scaled(0.9, 0, 1, "share of the difference from the mean that is lost")
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        return frames_only(self, by_frame(lambda images, random: _each(images, self._flat)))

    def _flat(self, image: frames.FrameArray) -> frames.FrameArray:
        mean, grey = float(image.mean()), np.arange(256)
        return levels(mean + (1 - self.scaled("lost")) * (grey - mean))[image]


@fault("colour_shift", _PIXELS)
class ColourShift(Fault):
    """A colour cast: every channel is brighter or darker by an amount of its own, the same for the whole session.

    Records: `colour_shift` (leaf).
    """

    most: float = scaled(80.0, 0, 255, "grey levels by which the channel that is shifted most is")
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        def draw(images: frames.FrameArray, random: CallRandom) -> frames.FrameArray:
            cast = 2 * random.uniform(0, images.shape[3]) - 1
            shifts = np.rint(self.scaled("most") * cast / np.abs(cast).max(1, keepdims=True)).astype(np.int16)
            return levels(images + shifts[:, None, None])

        return frames_only(self, by_frame(draw, lasting=True))


@fault("camera_shift", _PIXELS)
class CameraShift(Fault):
    """The camera shakes: the picture is shifted sideways and up or down, by another amount at each call.

    In both directions by half of the longest shift at least. What comes into the picture is black, or with
    `border="edge"` what was at its edge. Records: `camera_shift` (leaf).
    """

    most: float = scaled(0.2, 0, 1, "longest shift, as a share of each side")
    border: Literal["black", "edge"] = option("black", _BORDER)
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        def draw(images: frames.FrameArray, random: CallRandom) -> frames.FrameArray:
            size = np.array(images.shape[2:0:-1])  # width, height
            sign, part = np.where(random.uniform(0, 2) < 0.5, -1, 1), 0.5 + 0.5 * random.uniform(1, 2)
            return _each(images, self._moved, np.rint(sign * part * self.scaled("most") * size))

        return frames_only(self, by_frame(draw))

    def _moved(self, image: frames.FrameArray, by: tuple[float, float]) -> frames.FrameArray:
        import cv2

        right, down = by
        return _warped(image, np.array([[1, 0, right], [0, 1, down]]), cv2.INTER_NEAREST, self.border)


@fault("camera_rotation", _PIXELS)
class CameraRotation(Fault):
    """The camera is mounted at an angle: the picture is rotated about its centre, the same way for the whole session.

    Which way is drawn for each session. What comes into the picture is black, or with `border="edge"` what was at its
    edge. Records: `camera_rotation` (leaf).
    """

    most: float = scaled(30.0, 0, 180, "degrees by which the picture is turned")
    border: Literal["black", "edge"] = option("black", _BORDER)
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        def draw(images: frames.FrameArray, random: CallRandom) -> frames.FrameArray:
            degrees = self.scaled("most")
            return _each(images, self._turned, np.where(random.uniform() < 0.5, degrees, -degrees))

        return frames_only(self, by_frame(draw, lasting=True))

    def _turned(self, image: frames.FrameArray, degrees: float) -> frames.FrameArray:
        import cv2

        height, width = image.shape[:2]
        turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
        return _warped(image, turn, cv2.INTER_LINEAR, self.border)


@fault("tearing", _PIXELS)
class Tearing(Fault):
    """Screen tearing: from some row on, the rows are shifted sideways; what goes out on the right comes in on the left.

    The row is drawn at each call, and so is the shift, which is half of the longest one at least, and at least one
    pixel. Records: `tearing` (leaf).
    """

    most: float = scaled(0.5, 0, 1, "longest shift, as a share of the width")
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        def draw(images: frames.FrameArray, random: CallRandom) -> frames.FrameArray:
            height, width = images.shape[1:3]
            steps = np.maximum(1, np.rint((0.5 + 0.5 * random.uniform(1)) * self.scaled("most") * width)).astype(
                np.int64
            )
            return _each(images, _torn, 1 + random.integers(height - 1), steps)

        return frames_only(self, by_frame(draw))


def _torn(image: frames.FrameArray, row: int, step: int) -> frames.FrameArray:
    torn = image.copy()
    torn[row:] = np.roll(image[row:], step, axis=1)
    return torn


def _floats(image: frames.FrameArray) -> frames.FrameArray:
    return np.ascontiguousarray(image, np.float32)


def _warped(image: frames.FrameArray, matrix: Any, how: int, border: str) -> frames.FrameArray:
    """An image under an affine map of its coordinates, any number of channels."""
    import cv2

    mode = cv2.BORDER_REPLICATE if border == "edge" else cv2.BORDER_CONSTANT
    size = image.shape[1::-1]
    planes = [
        cv2.warpAffine(_floats(image[..., channel]), matrix.astype(np.float64), size, flags=how, borderMode=mode)
        for channel in range(image.shape[2])
    ]
    return np.stack(planes, axis=2)
