"""Curves over the horizon: each measure of predictions against the record, leaf by leaf. Axes: B windows, T steps."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.fidelity.error_metric import ErrorMetric, is_text
from worldsim.fidelity.measures import Curve, WeightedSum, changed_error, psnr
from worldsim.fidelity.similarity import scales_of, similarity
from worldsim.spaces import Arrays, Bools

Curves = dict[str, dict[str, Curve]]  # leaf -> name of the predictor -> curve
Sums = dict[str, dict[str, dict[str, WeightedSum]]]  # measure -> leaf -> name of the predictor


def to_curves(sums: Sums) -> dict[str, Curves]:
    """Measure -> curves, from sums over windows."""
    return {
        measure: {
            leaf: {name: _in_its_unit(measure, each.mean()) for name, each in predictors.items()}
            for leaf, predictors in leaves.items()
        }
        for measure, leaves in sums.items()
    }


def _in_its_unit(measure: str, mean: Curve) -> Curve:
    """Decibels, and roots, of mean squared errors; all other measures as they are."""
    if measure.startswith("psnr"):
        return psnr(mean)
    return [None if x is None else float(np.sqrt(x)) for x in mean] if measure == "nrmse" else mean


def add_up(parts: Sequence[Any]) -> Any:
    """Adds `WeightedSum`s, or trees of them such as `Sums`, of several batches of windows."""
    first = parts[0]
    if isinstance(first, WeightedSum):
        return reduce(WeightedSum.plus, parts)
    return {key: add_up([part[key] for part in parts]) for key in first}


def measure(metric: ErrorMetric, actual: Arrays, before: Arrays, predictors: Mapping[str, Arrays], mask: Bools) -> Sums:
    """Every measure of what several predictors (name -> leaf -> (B, T, ...)) predicted.

    `psnr` and `nrmse` are sums of squared errors until `to_curves` takes their means.

    before: (B, 1, ...) a leaf, the last observed row; `psnr_changed` counts only pixels that differ from it.
    mask: (B, T), True where the record has a row.
    """
    found: Sums = {}
    for leaf in metric.leaves:
        for name, predicted in predictors.items():
            parts = predicted[leaf.name], actual[leaf.name]
            error = metric.error(leaf, *parts)
            measured = {"within": WeightedSum.of(error <= metric.allowed[leaf.name], mask)}
            if leaf.kind == "image":
                measured |= {"psnr": WeightedSum.of(error, mask)} | _image(*parts, before[leaf.name], mask)
            elif leaf.is_discrete:
                measured["accuracy"] = WeightedSum.of(error == 0, mask)
                if is_text(leaf):  # accuracy does not say how close a wrong text is
                    measured["edit_distance"] = WeightedSum.of(metric.edit_distance(leaf, *parts), mask)
            else:
                measured["nrmse"] = WeightedSum.of(error, mask)
            for key, each in measured.items():
                found.setdefault(key, {}).setdefault(leaf.name, {})[name] = each
    return found


def baselines(metric: ErrorMetric, before: Arrays, actual: Arrays) -> dict[str, Arrays]:
    """The baseline predictors: a copy of the last observed row, and the mean of the data."""
    copied = {name: np.broadcast_to(before[name], value.shape) for name, value in actual.items()}
    mean = {name: np.broadcast_to(metric.mean[name], value.shape) for name, value in actual.items()}
    return {"copy": copied, "mean": mean}


def measure_beside_baselines(
    metric: ErrorMetric, actual: Arrays, before: Arrays, model: Arrays, shuffled: Arrays, mask: Bools
) -> Sums:
    """The measures of the model, of both baselines, and of the model under shuffled actions."""
    predictors = {"model": model, **baselines(metric, before, actual), "shuffled": shuffled}
    return measure(metric, actual, before, predictors, mask)


def scales(metric: ErrorMetric) -> dict[str, int]:
    """Image leaf -> number of scales of its MS-SSIM; with one scale there is no MS-SSIM."""
    return {leaf.name: scales_of(*leaf.shape[:2]) for leaf in metric.leaves if leaf.kind == "image"}


def _image(predicted: NDArray[Any], actual: NDArray[Any], before: NDArray[Any], mask: Bools) -> dict[str, WeightedSum]:
    error, count = changed_error(predicted, actual, before)
    found = {"psnr_changed": WeightedSum.of(error / np.maximum(count, 1), count * mask)}
    for name, values in similarity(predicted[mask], actual[mask])._asdict().items():
        if values is not None:
            spread = np.zeros(mask.shape)
            spread[mask] = values
            found[name] = WeightedSum.of(spread, mask)
    return found
