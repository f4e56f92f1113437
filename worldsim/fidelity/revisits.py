"""Loop closure, a test of memory: where a recorded episode returns to a place, does the imagination return there, too?

Benchmarks of memory walk in loops and compare the frames on the way back with those on the way there (LoopNav,
arXiv:2505.22976; WorldMem, arXiv:2504.12369). Here the returns are those that happen in recorded episodes, so that it
works on every environment. Axes: B windows, T steps.
"""

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from worldsim.fidelity.error_metric import ErrorMetric
from worldsim.spaces import Bools, Leaf


class Revisits(NamedTuple):
    """Counts of returns to a place."""

    recorded: int = 0  # recorded returns: moments within tolerance of an earlier one, but not throughout in between
    left: int = 0  # of these, the imagination has left its own earlier moment in between, too
    returned: int = 0  # of these, it is then back within tolerance of that moment

    def plus(self, more: Self) -> "Revisits":
        return Revisits(*(a + b for a, b in zip(self, more, strict=True)))

    def as_json(self) -> dict[str, Any]:
        """The counts, and `return_rate` = returned / left, null where left is 0."""
        return {**self._asdict(), "return_rate": self.returned / self.left if self.left else None}


def loop_closure(
    metric: ErrorMetric, actual: dict[str, NDArray[Any]], imagined: dict[str, NDArray[Any]], mask: Bools
) -> Revisits:
    """Counts the returns in recorded windows, and how many of them the imagined windows show.

    actual, imagined: rows (B, T, ...) a leaf that begin with the last observed row, which both share. Of several
    earlier moments to which one moment returns, the latest counts.
    """
    recorded, left, returned = 0, 0, 0
    for window in range(len(mask)):
        length = int(mask[window].sum())
        same, same_imagined = (
            same_place(metric, {name: rows[window, :length] for name, rows in each.items()})
            for each in (actual, imagined)
        )
        for begin, end in revisited(same):
            recorded += 1
            if not same_imagined[begin, begin:end].all():  # else a frozen picture would count as a return
                left += 1
                returned += int(same_imagined[begin, end])
    return Revisits(recorded, left, returned)


def revisited(same: Bools) -> list[tuple[int, int]]:
    """Returns (s, t) in a symmetric (T, T): same[s, t], but not throughout in between; for each t the latest s."""
    found = []
    for t in range(2, len(same)):
        for s in range(t - 2, -1, -1):
            if same[s, t] and not same[s, s:t].all():
                found.append((s, t))
                break
    return found


def same_place(metric: ErrorMetric, rows: dict[str, NDArray[Any]]) -> Bools:
    """(T, T): which moments of one window (T, ...) a leaf show the same place: are within tolerance of each other.

    Only images are compared, because clocks and counters never return; without images, all leaves.
    """
    images = [leaf for leaf in metric.leaves if leaf.kind == "image"]
    return np.asarray(np.logical_and.reduce([_same(metric, leaf, rows[leaf.name]) for leaf in images or metric.leaves]))


def _same(metric: ErrorMetric, leaf: Leaf, values: NDArray[Any]) -> Bools:
    if leaf.is_discrete:
        error = metric.error(leaf, values[:, None], values[None])
    else:
        scale = 255.0 if leaf.kind == "image" else metric.scale[leaf.name]
        flat = ((values - metric.mean[leaf.name].astype(np.float32)) / scale).reshape(len(values), -1)
        flat = flat.astype(np.float32)
        squares = np.square(flat).sum(-1)
        error = (squares[:, None] + squares[None] - 2 * flat @ flat.T) / flat.shape[1]
    return np.asarray(error <= metric.allowed[leaf.name])
