"""What is measured on recorded and imagined sequences. Axes: B windows, T steps; everything is numpy."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from torchmetrics.functional.classification import binary_auroc, binary_calibration_error
from torchmetrics.functional.image import structural_similarity_index_measure

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def squared_error(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Floats:
    """Mean squared error (B, T) of uint8 frames (B, T, H, W, C), in units of full scale."""
    out = np.empty(a.shape[:2])
    for t in range(a.shape[1]):
        out[:, t] = ((a[:, t].astype(np.float32) - b[:, t]) / 255).astype(np.float64).__pow__(2).mean((1, 2, 3))
    return out


def psnr(error: Floats, mask: Bools) -> list[float]:
    """Peak signal-to-noise ratio in dB a step, of the mean squared error over the windows that are still inside."""
    mean = np.where(mask, error, 0).sum(0) / np.maximum(mask.sum(0), 1)
    return [float(x) for x in -10 * np.log10(np.maximum(mean, 1e-10))]


def ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Structural similarity (Wang et al. 2004) of frames (N, H, W, C), averaged."""
    both = [torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).float() / 255 for x in (a, b)]
    return float(structural_similarity_index_measure(both[0], both[1], data_range=1.0))  # type: ignore[arg-type]


class Detection(NamedTuple):
    """How well events are foreseen, each at its very step."""

    precision: float
    recall: float
    f1: float
    events: int


def detection(predicted: Bools, actual: Bools) -> Detection:
    """1.0 throughout where nothing happened and nothing was foretold."""
    hits = int((predicted & actual).sum())
    if not predicted.any() and not actual.any():
        return Detection(1.0, 1.0, 1.0, 0)
    precision, recall = hits / max(1, int(predicted.sum())), hits / max(1, int(actual.sum()))
    f1 = 2 * hits / max(1, int(predicted.sum() + actual.sum()))
    return Detection(precision, recall, f1, int(actual.sum()))


def trust_curve(doubt: Floats, within: Bools, bins: int = 40) -> dict[str, list[float]]:
    """Probability of being within tolerance as a falling function of doubt: isotonic regression over quantile bins."""
    order = np.argsort(doubt, kind="stable")
    groups = np.array_split(order, min(bins, len(order)))
    middle = np.array([doubt[group].mean() for group in groups])
    share = np.array([within[group].mean() for group in groups])
    weights = np.array([len(group) for group in groups], float)
    fitted = isotonic_regression(share, weights=weights, increasing=False).x
    return {"doubt": middle.tolist(), "probability": np.clip(fitted, 0, 1).tolist()}


def judged(trust: Floats, within: Bools) -> dict[str, float | None]:
    """How well trust tells right from wrong predictions: AUROC (null where all are alike) and calibration error."""
    scores, truth = torch.from_numpy(trust.astype(np.float32)), torch.from_numpy(within.astype(np.int64))
    alike = bool(within.all() or not within.any())
    area = None if alike else float(binary_auroc(scores, truth))
    return {
        "auroc": area,
        "ece": float(binary_calibration_error(scores, truth, n_bins=10)),
        "share": float(within.mean()),
    }


def right(predicted: Mapping[str, NDArray[Any]], actual: Mapping[str, NDArray[Any]], leaf: str) -> Bools:
    """(B, T): every variable of a categorical leaf is right."""
    return np.asarray((predicted[leaf] == actual[leaf]).all(-1))
