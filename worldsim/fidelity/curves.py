"""Curves over the horizon: how like the record predictions are, leaf by leaf. Axes: B windows, T steps."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.fidelity.error_metric import ErrorMetric, Observed, is_text
from worldsim.fidelity.measures import Bools, Curve, Sum, changed_error, decibels
from worldsim.fidelity.similarity import scales_of, similarity

Curves = dict[str, dict[str, Curve]]  # leaf -> name of the predictor -> curve
Sums = dict[str, dict[str, dict[str, Sum]]]  # measure -> leaf -> name of the predictor -> what the curve is made of


def curves(
    metric: ErrorMetric, actual: Observed, before: Observed, shown: Mapping[str, Observed], mask: Bools
) -> dict[str, Curves]:
    """Measure -> curves, of all windows at once; see `sums`."""
    return told(sums(metric, actual, before, shown, mask))


def told(found: Sums) -> dict[str, Curves]:
    """The curves that sums over windows come to."""
    return {
        measure: {
            leaf: {name: _unit(measure, each.mean()) for name, each in predictors.items()}
            for leaf, predictors in leaves.items()
        }
        for measure, leaves in found.items()
    }


def _unit(measure: str, mean: Curve) -> Curve:
    if measure.startswith("psnr"):
        return decibels(mean)
    return [None if x is None else float(np.sqrt(x)) for x in mean] if measure == "nrmse" else mean


def added(parts: Sequence[Any]) -> Any:
    """Sums, or trees of them such as `Sums`, over the windows of all parts."""
    first = parts[0]
    if isinstance(first, Sum):
        return reduce(Sum.plus, parts)
    return {key: added([part[key] for part in parts]) for key in first}


def sums(metric: ErrorMetric, actual: Observed, before: Observed, shown: Mapping[str, Observed], mask: Bools) -> Sums:
    """Measures of several predictors `shown` (name -> leaf -> (B, T, ...)) by name.

    before: (B, 1, ...) a leaf, the last row that was seen; `psnr_changed` counts pixels that differ from it alone.
    mask: (B, T), where the record has a row.
    """
    found: Sums = {}
    for leaf in metric.leaves:
        for name, predicted in shown.items():
            parts = predicted[leaf.name], actual[leaf.name]
            error = metric.error(leaf, *parts)
            measured = {"within": Sum.of(error <= metric.allowed[leaf.name], mask)}
            if leaf.kind == "image":
                measured |= {"psnr": Sum.of(error, mask)} | _image(*parts, before[leaf.name], mask)
            elif leaf.is_discrete:
                measured["accuracy"] = Sum.of(error == 0, mask)
                if is_text(leaf):
                    measured["edit_distance"] = Sum.of(metric.edit_distance(leaf, *parts), mask)
            else:
                measured["nrmse"] = Sum.of(error, mask)
            for measure, each in measured.items():
                found.setdefault(measure, {}).setdefault(leaf.name, {})[name] = each
    return found


def blind(metric: ErrorMetric, before: Observed, actual: Observed) -> dict[str, Observed]:
    """What is easily had: copying the last row that was seen, and the data's mean."""
    copied = {name: np.broadcast_to(before[name], value.shape) for name, value in actual.items()}
    mean = {name: np.broadcast_to(metric.mean[name], value.shape) for name, value in actual.items()}
    return {"copy": copied, "mean": mean}


def measured(
    metric: ErrorMetric, actual: Observed, before: Observed, model: Observed, shuffled: Observed, mask: Bools
) -> Sums:
    """Of the model beside copying, the mean, and the model under actions that are not those of the record."""
    shown = {"model": model, **blind(metric, before, actual), "shuffled": shuffled}
    return sums(metric, actual, before, shown, mask)


def scales(metric: ErrorMetric) -> dict[str, int]:
    """How many scales MS-SSIM has, an image leaf; one means that it is not told."""
    return {leaf.name: scales_of(*leaf.shape[:2]) for leaf in metric.leaves if leaf.kind == "image"}


def _image(own: NDArray[Any], actual: NDArray[Any], before: NDArray[Any], mask: Bools) -> dict[str, Sum]:
    error, count = changed_error(own, actual, before)
    found = {"psnr_changed": Sum.of(error / np.maximum(count, 1), count * mask)}
    alike = similarity(own[mask], actual[mask])
    for name, values in alike._asdict().items():
        if values is not None:
            spread = np.zeros(mask.shape)
            spread[mask] = values
            found[name] = Sum.of(spread, mask)
    return found
