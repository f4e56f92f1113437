"""Pixels and sensors: what optics, sensors and codecs do to a frame. Every frame is touched; severity is how much.

Use `probability` or a schedule to touch only some frames. Grey levels are 0 to 255.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from worldsim.faults import frames, leafwise
from worldsim.faults.changes import FrameChange
from worldsim.faults.fault import Context, choice, number
from worldsim.spaces import Leaf


@dataclass(frozen=True, kw_only=True)
class _Lasting(FrameChange):
    """What it draws for a leaf is the same for the whole episode."""

    def leaf_changed(self, leaf: Leaf, value: Any, rng: np.random.Generator, context: Context) -> Any:
        return super().leaf_changed(leaf, value, context.episode_rng(leaf.name), context)


def _specked(image: frames.Frame, share: float, rng: np.random.Generator) -> frames.Frame:
    """A `share` of the pixels black or white, half of them each."""
    chance, white = rng.random(image.shape[:2]), rng.random(image.shape[:2]) < 0.5
    return np.where((chance < share)[..., None], 255 * white[..., None], image)


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

    def drawn(self, image: frames.Frame, rng: np.random.Generator) -> frames.Frame:
        noise: frames.Frame = self.std * rng.standard_normal(image.shape, np.float32)
        return image + noise

    def suits(self, leaf: Leaf, value: Any) -> bool:
        is_vector = isinstance(leaf.space, spaces.Box) and leaf.space.dtype.kind == "f"
        return is_vector and leafwise.usual(leaf, value) or super().suits(leaf, value)

    def leaf_changed(self, leaf: Leaf, value: Any, rng: np.random.Generator, context: Context) -> Any:
        space = leaf.space
        assert isinstance(space, spaces.Box), f"{leaf.name} is neither frame nor vector"
        if space.dtype.kind != "f":
            return super().leaf_changed(leaf, value, rng, context)
        with np.errstate(over="ignore"):
            span = np.asarray(space.high, np.float64) - np.asarray(space.low, np.float64)
        scale = np.where(np.isfinite(span) & (span < 1e30), span, 1.0)
        noisy = value + self.std / 255 * scale * rng.standard_normal(value.shape)
        return leafwise.clipped(noisy, space).astype(value.dtype)


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

    def drawn(self, image: frames.Frame, rng: np.random.Generator) -> frames.Frame:
        gain = max(self.gain, 1e-3)
        return rng.poisson(image / gain) * gain


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

    def drawn(self, image: frames.Frame, rng: np.random.Generator) -> frames.Frame:
        return _specked(image, self.pixels, rng)


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

    def drawn(self, image: frames.Frame, rng: np.random.Generator) -> frames.Frame:
        return _specked(image, self.pixels, rng)


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

    def drawn(self, image: frames.Frame, rng: np.random.Generator) -> frames.Frame:
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

    def drawn(self, image: frames.Frame, rng: np.random.Generator) -> frames.Frame:
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

    def drawn(self, image: frames.Frame, rng: np.random.Generator) -> frames.Frame:
        return image + np.float32(self.levels)


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

    def drawn(self, image: frames.Frame, rng: np.random.Generator) -> frames.Frame:
        mean = image.mean(dtype=np.float32)
        flat: frames.Frame = mean + np.float32(self.kept) * (image - mean)
        return flat


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

    def drawn(self, image: frames.Frame, rng: np.random.Generator) -> frames.Frame:
        cast = rng.uniform(-1, 1, image.shape[2])
        shift: frames.Frame = (self.levels * cast / np.abs(cast).max()).astype(np.float32)
        return image + shift


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

    def drawn(self, image: frames.Frame, rng: np.random.Generator) -> frames.Frame:
        import cv2

        size = np.array(image.shape[1::-1])  # width, height
        sign, part = rng.choice([-1, 1], 2), rng.uniform(0.5, 1, 2)
        right, down = np.rint(sign * part * self.share_of_side * size)
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

    def drawn(self, image: frames.Frame, rng: np.random.Generator) -> frames.Frame:
        import cv2

        height, width = image.shape[:2]
        middle = ((width - 1) / 2, (height - 1) / 2)
        turn = cv2.getRotationMatrix2D(middle, self.degrees * (1 if rng.random() < 0.5 else -1), 1.0)
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

    def drawn(self, image: frames.Frame, rng: np.random.Generator) -> frames.Frame:
        height, width = image.shape[:2]
        row, part = int(rng.integers(1, height)), rng.uniform(0.5, 1)
        torn = image.copy()
        torn[row:] = np.roll(image[row:], max(1, round(part * self.share_of_side * width)), axis=1)
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
