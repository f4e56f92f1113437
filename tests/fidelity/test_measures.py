"""Measures against hand-counted cases, torchmetrics, and heads whose miscalibration is known."""

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from torchmetrics.functional.classification import binary_auroc, binary_calibration_error
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from worldsim.fidelity.heads import end_temperature, reward_temperature
from worldsim.fidelity.measures import (
    WeightedSum,
    auroc,
    calibration_error,
    changed_error,
    detection,
    psnr,
    reliability,
    squared_error,
    trust_curve,
)
from worldsim.fidelity.revisits import revisited
from worldsim.fidelity.similarity import SCALES, scales_of, similarity
from worldsim.models.heads import RewardHead


def frames(seed: int, count: int = 5, height: int = 64, width: int = 48, channels: int = 3) -> np.ndarray:
    """Smooth pictures with a little noise, which is where SSIM is neither 0 nor 1."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 9
    smooth = 128 + 80 * np.sin(x + y)[None, ..., None] * rng.uniform(0.3, 1, (count, 1, 1, channels))
    return np.clip(smooth + rng.normal(0, 12, (count, height, width, channels)), 0, 255).astype(np.uint8)


def tensor(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()).double() / 255


def by_the_papers(a: np.ndarray, b: np.ndarray, weights: tuple[float, ...]) -> tuple[float, float]:
    """SSIM and MS-SSIM of one pair (H, W, C) in double precision, as the papers have it: an 11-pixel Gaussian window
    (sigma 1.5) slid over all places where it fits, one channel at a time, frames halved between scales.
    """
    side = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    kernel = np.outer(side, side) / side.sum() ** 2
    a, b, found = a / 255, b / 255, []
    for _ in weights:
        whole, part = [], []
        for x, y in zip(a.transpose(2, 0, 1), b.transpose(2, 0, 1), strict=True):
            mean_x, mean_y, xx, yy, xy = (convolve2d(z, kernel, "valid") for z in (x, y, x * x, y * y, x * y))
            contrast = 2 * (xy - mean_x * mean_y) + 0.03**2
            contrast /= xx - mean_x**2 + yy - mean_y**2 + 0.03**2
            part.append(contrast.mean())
            whole.append((contrast * (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)).mean())
        found.append((np.mean(whole), np.mean(part)))
        a, b = (z[: len(z) // 2 * 2, : z.shape[1] // 2 * 2] for z in (a, b))
        a, b = (z.reshape(len(z) // 2, 2, z.shape[1] // 2, 2, -1).mean((1, 3)) for z in (a, b))
    values = [*(part for _, part in found[:-1]), found[-1][0]]
    return found[0][0], float(np.prod([value**weight for value, weight in zip(values, weights, strict=True)]))


@pytest.mark.parametrize(("height", "width", "scales"), [(64, 64, 3), (64, 48, 3), (33, 70, 2), (176, 180, 5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_and_ms_ssim_are_those_of_the_papers(height: int, width: int, scales: int, channels: int) -> None:
    """With fewer scales than five, the published weights of those that fit, scaled to a sum of one."""
    a, b = (frames(seed, 2, height, width, channels) for seed in (0, 1))
    published = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])[:scales]
    mine = similarity(a, b)
    expected = [by_the_papers(x, y, tuple(published / published.sum())) for x, y in zip(a, b, strict=True)]
    assert np.stack([mine.ssim, mine.ms_ssim], 1) == pytest.approx(np.array(expected), abs=2e-5)
    assert mine.ssim.min() > 0.2 and mine.ms_ssim.max() < 0.99  # where neither is trivial
    same = similarity(a, a)
    assert same.ssim == pytest.approx([1, 1], abs=1e-5) and same.ms_ssim == pytest.approx([1, 1], abs=1e-5)


def test_ms_ssim_is_near_that_of_torchmetrics() -> None:
    """The library pads at its borders; on large frames that makes no difference in the second decimal."""
    a, b = frames(0, 2, 256, 256), frames(1, 2, 256, 256)
    expected = multiscale_structural_similarity_index_measure(tensor(a), tensor(b), data_range=1.0, betas=SCALES)
    assert similarity(a, b).ms_ssim.mean() == pytest.approx(float(expected), abs=0.02)


def test_small_frames_get_fewer_scales_and_a_smaller_window() -> None:
    assert [scales_of(side, 256) for side in (8, 16, 64, 96, 176, 255)] == [1, 1, 3, 4, 5, 5]
    tiny = similarity(frames(0, height=8, width=9), frames(1, height=8, width=9))
    assert tiny.ms_ssim is None and ((tiny.ssim > -1) & (tiny.ssim < 1)).all()
    assert similarity(frames(0)[:0], frames(1)[:0]).ssim.shape == (0,)


def test_psnr_by_hand() -> None:
    black, grey = np.zeros((2, 1, 8, 8, 3), np.uint8), np.full((2, 1, 8, 8, 3), 51, np.uint8)
    error = squared_error(black, grey)
    assert error == pytest.approx(np.full((2, 1), 0.04))
    assert psnr(WeightedSum.of(error, np.array([[1], [0]])).mean()) == pytest.approx([-10 * np.log10(0.04)])
    assert psnr(WeightedSum.of(np.zeros((1, 2)), np.array([[True, False]])).mean()) == [pytest.approx(100), None]


def test_changed_pixels_are_those_that_differ_in_any_channel() -> None:
    before, now, guess = (np.zeros((1, 1, 8, 8, 3), np.uint8) for _ in range(3))
    now[0, 0, 2, 3, 1] = 255  # one channel of one pixel
    guess[0, 0, 5, 5] = 200  # wrong elsewhere: does not count
    error, count = changed_error(guess, now, before)
    assert error.tolist() == [[1.0]] and count.tolist() == [[3]]
    assert psnr(WeightedSum.of(error / count, count).mean()) == pytest.approx([10 * np.log10(3)])


def test_detection_by_hand() -> None:
    predicted, actual = np.array([1, 1, 0, 0, 1], bool), np.array([1, 0, 0, 1, 1], bool)
    assert detection(predicted, actual) == pytest.approx((2 / 3, 2 / 3, 2 / 3, 3, 3))
    assert detection(~predicted & False, actual) == (None, 0, 0, 3, 0)
    assert detection(predicted, ~actual & False) == (None, None, None, 0, 3)  # nothing is done neither well
    assert detection(~predicted & False, ~actual & False) == (None, None, None, 0, 0)  # nor badly


def test_auroc_and_calibration_error_are_those_of_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    predicted = np.round(rng.random(3000), 2)  # with ties
    actual = rng.random(3000) < predicted**2
    scores, truth = torch.from_numpy(predicted), torch.from_numpy(actual.astype(np.int64))
    assert auroc(predicted, actual) == pytest.approx(float(binary_auroc(scores, truth)), abs=1e-6)
    expected = float(binary_calibration_error(scores, truth, n_bins=10))
    assert calibration_error(reliability(predicted, actual)) == pytest.approx(expected, abs=2e-3)  # edges of bins
    assert auroc(predicted, np.ones(3000, bool)) is None


def test_a_reliability_diagram_by_hand() -> None:
    bins = reliability(np.array([0.05, 0.05, 0.95, 1.0]), np.array([True, False, True, True]))
    assert bins == [{"predicted": 0.05, "observed": 0.5, "count": 2}, {"predicted": 0.975, "observed": 1.0, "count": 2}]
    assert calibration_error(bins) == pytest.approx((2 * 0.45 + 2 * 0.025) / 4)


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_temperature_of_an_overconfident_end_is_found(true: float) -> None:
    rng = np.random.default_rng(0)
    calibrated = rng.normal(-1, 2, 20000)
    ended = rng.random(20000) < 1 / (1 + np.exp(-calibrated))
    assert end_temperature(calibrated * true, ended) == pytest.approx(true, rel=0.06)


@pytest.mark.parametrize("true", [0.5, 2.5])
def test_the_temperature_of_an_overconfident_reward_is_found(true: float) -> None:
    generator = torch.Generator().manual_seed(0)
    head = RewardHead(1, 4, -1.0, 1.0, bins=9)
    calibrated = torch.log_softmax(1.5 * torch.randn(8000, 9, generator=generator), -1)
    drawn = torch.multinomial(calibrated.exp(), 1, generator=generator)[:, 0]
    bins = head.bins.double().numpy()[drawn.numpy()]
    reward = np.sign(bins) * np.expm1(np.abs(bins))
    overconfident = torch.log_softmax(calibrated * true, -1)
    assert reward_temperature(head, overconfident, reward) == pytest.approx(true, rel=0.06)


def test_where_there_is_nothing_to_learn_from_a_temperature_stays_near_one() -> None:
    """Two steps without an end would, without the prior, be as sure as can be."""
    assert 0.5 < end_temperature(np.array([-3.0, -3.0]), np.array([False, False])) < 1.0


def test_trust_recovers_a_falling_chance_and_never_rises() -> None:
    rng = np.random.default_rng(0)
    entropy = rng.exponential(3, 20000)
    places, chance = trust_curve(entropy, rng.random(20000) < np.exp(-entropy / 3))
    assert (np.diff(places) > 0).all() and (np.diff(chance) <= 0).all()
    middle = (places > 0.2) & (places < 8)
    assert chance[middle] == pytest.approx(np.exp(-places[middle] / 3), abs=0.05)


def test_means_weigh_windows() -> None:
    values, weight = np.array([[1.0, 5.0], [4.0, 7.0]]), np.array([[1, 0], [3, 0]])
    parts = [WeightedSum.of(values[row : row + 1], weight[row : row + 1]) for row in (0, 1)]
    assert parts[0].plus(parts[1]).mean() == [pytest.approx(13 / 4), None]
    assert WeightedSum.of(values, weight).mean() == [pytest.approx(13 / 4), None]


def test_a_revisit_needs_a_departure() -> None:
    """a a b a: the last a comes back to the second (and the first), with b between; a a does not."""
    sequence = np.array(list("aabac"))
    assert revisited(sequence[:, None] == sequence) == [(1, 3)]
    assert revisited(np.ones((4, 4), bool)) == []
