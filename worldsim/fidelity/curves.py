"""Curves over the horizon: how like the record predictions are, leaf by leaf. Axes: B windows, T steps."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.fidelity.measures import Bools, Curve, changed_error, psnr, squared_error, weighted_mean
from worldsim.fidelity.similarity import scales_of, similarity
from worldsim.fidelity.yardstick import Observed, Yardstick

Curves = dict[str, dict[str, Curve]]  # leaf -> name of the predictor -> curve


def curves(
    yardstick: Yardstick, actual: Observed, before: Observed, shown: Mapping[str, Observed], mask: Bools
) -> dict[str, Curves]:
    """Measures of several predictors `shown` (name -> leaf -> (B, T, ...)) by name.

    before: (B, 1, ...) a leaf, the last row that was seen; `psnr_changed` counts pixels that differ from it alone.
    mask: (B, T), where the record has a row.
    """
    measures = {"image": _image, "vector": _vector, "categorical": _categorical}
    found: dict[str, Curves] = {}
    for leaf in yardstick.leaves:
        for name, predicted in shown.items():
            parts = predicted[leaf.name], actual[leaf.name], before[leaf.name]
            for measure, curve in measures[leaf.kind](yardstick, leaf.name, *parts, mask).items():
                found.setdefault(measure, {}).setdefault(leaf.name, {})[name] = curve
    return found


def blind(yardstick: Yardstick, before: Observed, actual: Observed) -> dict[str, Observed]:
    """What is easily had: copying the last row that was seen, and the data's mean."""
    copied = {name: np.broadcast_to(before[name], value.shape) for name, value in actual.items()}
    mean = {name: np.broadcast_to(yardstick.mean[name], value.shape) for name, value in actual.items()}
    return {"copy": copied, "mean": mean}


def scales(yardstick: Yardstick) -> dict[str, int]:
    """How many scales MS-SSIM has, an image leaf; one means that it is not told."""
    return {leaf.name: scales_of(*leaf.shape[:2]) for leaf in yardstick.leaves if leaf.kind == "image"}


def _image(
    yardstick: Yardstick, leaf: str, own: NDArray[Any], actual: NDArray[Any], before: NDArray[Any], mask: Bools
) -> dict[str, Curve]:
    error, count = changed_error(own, actual, before)
    found = {"psnr": psnr(squared_error(own, actual), mask)}
    found["psnr_changed"] = psnr(error / np.maximum(count, 1), count * mask)
    alike = similarity(own[mask], actual[mask])
    for name, values in alike._asdict().items():
        if values is not None:
            spread = np.zeros(mask.shape)
            spread[mask] = values
            found[name] = weighted_mean(spread, mask)
    return found


def _vector(
    yardstick: Yardstick, leaf: str, own: NDArray[Any], actual: NDArray[Any], before: NDArray[Any], mask: Bools
) -> dict[str, Curve]:
    mean = weighted_mean(yardstick.vector_error(leaf, own, actual), mask)
    return {"nrmse": [None if x is None else float(np.sqrt(x)) for x in mean]}


def _categorical(
    yardstick: Yardstick, leaf: str, own: NDArray[Any], actual: NDArray[Any], before: NDArray[Any], mask: Bools
) -> dict[str, Curve]:
    return {"accuracy": weighted_mean((own == actual).all(-1), mask)}
