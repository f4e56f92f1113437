"""Pixel faults against what optics, statistics and another decoder say."""

import io
from typing import Any

import numpy as np
import pytest
import scipy.stats
from gymnasium import spaces
from PIL import Image

from worldsim import faults
from worldsim.faults.conformance import MockService

SPACE = spaces.Box(0, 255, (64, 80, 3), np.uint8)


def smooth() -> Any:
    """A picture as a camera sees one: gradients and a few edges, away from black and white."""
    rows, columns = np.mgrid[0:64, 0:80]
    waves = [110 + 40 * np.sin(rows / 9 + channel) + 30 * ((columns // 16) % 2) for channel in range(3)]
    return np.stack(waves, -1).astype(np.uint8)


def seen(fault: faults.Fault, frame: Any = None, calls: int = 20, space: Any = SPACE) -> list[Any]:
    frame = smooth() if frame is None else frame
    return [each.reply.payload for each in MockService(space, lambda _: frame).run([fault], calls)]


def grey(level: int) -> Any:
    return np.full(SPACE.shape, level, np.uint8)


@pytest.mark.parametrize("severity", [0.25, 1.0])
def test_gaussian_noise_has_the_deviation_it_says(severity: float) -> None:
    difference = np.stack(seen(faults.GaussianNoise(severity=severity, most_std=30), grey(128))) - 128.0
    assert difference.std() == pytest.approx(30 * severity, rel=0.02)
    assert abs(difference.mean()) < 0.2
    assert abs(np.corrcoef(difference[0].ravel(), difference[1].ravel())[0, 1]) < 0.03  # drawn anew for each frame


def test_gaussian_noise_on_a_vector_is_scaled_by_its_range() -> None:
    space = spaces.Box(np.array([-10.0, -np.inf], np.float32), np.array([10.0, np.inf], np.float32))
    values = np.stack(seen(faults.GaussianNoise(severity=1.0, most_std=25.5), np.zeros(2, np.float32), 4000, space))
    assert values.std(0) == pytest.approx([2.0, 0.1], rel=0.05)


@pytest.mark.parametrize("level", [40, 160])
def test_shot_noise_has_a_variance_of_gain_times_brightness(level: int) -> None:
    frames = np.stack(seen(faults.ShotNoise(severity=0.5, most_gain=8), grey(level))).astype(float)
    assert frames.mean() == pytest.approx(level, rel=0.02)
    assert frames.var() == pytest.approx(4 * level, rel=0.05)


@pytest.mark.parametrize(("gain", "level"), [(2.0, 9), (5.0, 40), (0.05, 128)])
def test_shot_noise_counts_photons(gain: float, level: int) -> None:
    frames = np.stack(seen(faults.ShotNoise(severity=1.0, most_gain=gain), grey(level)))
    photons = scipy.stats.poisson(level / gain)
    for quantile in (0.01, 0.1, 0.5, 0.9, 0.99):
        edge = np.rint(photons.ppf(quantile) * gain)
        expected = photons.cdf((edge + 0.5) // gain)  # all counts that are rounded to the edge or less
        assert (frames <= edge).mean() == pytest.approx(expected, abs=0.01)


def test_salt_noise_hits_its_share_half_white_half_black() -> None:
    frames = np.stack(seen(faults.SaltNoise(severity=0.5), grey(100)))
    assert ((frames == 0).mean(), (frames == 255).mean()) == pytest.approx((0.05, 0.05), abs=0.005)
    assert ((frames == 0) | (frames == 255) | (frames == 100)).all()


def test_dead_pixels_stay_where_they_are() -> None:
    fault = faults.DeadPixels(severity=1.0, density=0.1)
    frames = seen(fault, grey(100))
    assert all(np.array_equal(frames[0], frame) for frame in frames)
    assert (frames[0] != 100).any(-1).mean() == pytest.approx(0.1, abs=0.02)
    service = MockService(SPACE, lambda _: grey(100))
    other = service.run([fault], 1, episode=1)[0].reply.payload
    assert not np.array_equal(other, frames[0])


def energy(frame: Any) -> float:
    """Share of the signal in the upper half of the frequencies along the columns."""
    spectrum = np.abs(np.fft.rfft(frame.astype(float) - frame.mean(), axis=1)) ** 2
    return float(spectrum[:, spectrum.shape[1] // 2 :].sum())


def test_blur_keeps_the_mean_and_takes_the_high_frequencies() -> None:
    frame = np.random.default_rng(0).integers(0, 256, SPACE.shape, np.uint8)
    softer = [seen(faults.Blur(severity=severity), frame, 1)[0] for severity in (0.2, 0.5, 1.0)]
    assert all(abs(blurred.mean() - frame.mean()) < 1.0 for blurred in softer)
    energies = [energy(frame), *map(energy, softer)]
    assert all(left > 2 * right for left, right in zip(energies, energies[1:], strict=False))


def test_blur_of_a_point_is_a_gaussian_of_its_sigma() -> None:
    point = grey(0)
    point[32, 40] = 255
    spread = seen(faults.Blur(severity=1.0, most_sigma=2 / 64), point, 1)[0][..., 0].astype(float)
    rows = np.arange(64) - 32
    assert np.sqrt((spread.sum(1) * rows**2).sum() / spread.sum()) == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize("severity", [0.3, 0.9])
def test_compression_is_what_another_jpeg_codec_makes_of_it(severity: float) -> None:
    fault = faults.Compression(severity=severity)
    file = io.BytesIO()
    Image.fromarray(smooth()).save(file, "jpeg", quality=fault.quality)
    theirs = np.asarray(Image.open(file)).astype(float)
    ours = seen(fault, calls=1)[0].astype(float)
    assert np.abs(ours - theirs).mean() < 0.25 * np.abs(smooth() - theirs).mean() + 0.5


def test_brightness_and_contrast_are_linear() -> None:
    brighter = seen(faults.Brightness(severity=0.5, most=40), calls=1)[0]
    assert np.array_equal(brighter, smooth() + 20)
    darker = seen(faults.Brightness(severity=0.5, most=-40), calls=1)[0]
    assert np.array_equal(darker, smooth() - 20)
    flat = seen(faults.Contrast(severity=1.0, lost=0.75), calls=1)[0].astype(float)
    assert flat.std() == pytest.approx(smooth().std() / 4, rel=0.03)
    assert flat.mean() == pytest.approx(smooth().mean(), abs=0.5)


def test_a_colour_cast_is_one_amount_a_channel_for_the_whole_episode() -> None:
    frames = seen(faults.ColourShift(severity=0.5, most=60), grey(128))
    shift = frames[0].astype(int) - 128
    assert all(np.array_equal(frames[0], frame) for frame in frames)
    assert all(len(np.unique(shift[..., channel])) == 1 for channel in range(3))
    assert np.abs(shift).max() == 30 and len(np.unique(shift)) > 1


def test_a_shifted_camera_shows_the_same_picture_elsewhere() -> None:
    frame = smooth()
    for shown in seen(faults.CameraShift(severity=1.0, most=0.2), frame):
        corners = [(down, right) for down in range(-13, 14) for right in range(-16, 17)]
        fits = [(down, right) for down, right in corners if np.array_equal(shown, moved(frame, down, right))]
        assert len(fits) >= 1
        down, right = fits[0]
        assert 6 <= abs(down) <= 13 and 8 <= abs(right) <= 16


def moved(frame: Any, down: int, right: int) -> Any:
    """A frame moved, black where nothing is known."""
    result = np.zeros_like(frame)
    height, width = frame.shape[:2]
    into = (slice(max(down, 0), height + min(down, 0)), slice(max(right, 0), width + min(right, 0)))
    out_of = (slice(max(-down, 0), height + min(-down, 0)), slice(max(-right, 0), width + min(-right, 0)))
    result[into] = frame[out_of]
    return result


def test_a_quarter_turn_is_numpys_and_no_turn_is_none() -> None:
    space = spaces.Box(0, 255, (32, 32, 3), np.uint8)
    frame = np.random.default_rng(1).integers(0, 256, space.shape, np.uint8)
    turned = seen(faults.CameraRotation(severity=0.5, most=180), frame, 1, space)[0]
    assert any(np.abs(turned.astype(int) - np.rot90(frame, k)).max() <= 1 for k in (1, 3))
    assert np.array_equal(seen(faults.CameraRotation(severity=1.0, most=0), frame, 1, space)[0], frame)


def test_a_torn_frame_is_whole_above_the_tear_and_shifted_below() -> None:
    frame = smooth()
    for torn in seen(faults.Tearing(severity=1.0), frame):
        rows = [row for row in range(64) if not np.array_equal(torn[row], frame[row])]
        assert rows == list(range(rows[0], 64)) and rows[0] > 0
        shift = next(s for s in range(1, 80) if np.array_equal(np.roll(frame[-1], s, 0), torn[-1]))
        assert all(np.array_equal(np.roll(frame[row], shift, 0), torn[row]) for row in rows)


@pytest.mark.parametrize("shape", [(24, 20), (24, 20, 1), (24, 20, 4), (3, 24, 20)])
@pytest.mark.parametrize("kind", [each.kind for each in faults.FAMILIES["pixels and sensors"]])
def test_frames_of_any_layout_are_seen_the_same_way_up(shape: tuple[int, ...], kind: str) -> None:
    """A frame and its transposed layout go wrong alike: the axes are the picture's, not the array's."""
    space = spaces.Box(0, 255, shape, np.uint8)
    frame = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    result = seen(faults.KINDS[kind](severity=1.0), frame, 1, space)[0]
    assert result.shape == frame.shape and result.dtype == np.uint8 and result in space
    if shape == (3, 24, 20):
        last = spaces.Box(0, 255, (24, 20, 3), np.uint8)
        other = seen(faults.KINDS[kind](severity=1.0), np.moveaxis(frame, 0, 2), 1, last)[0]
        assert np.array_equal(np.moveaxis(result, 0, 2), other)
