"""Loop closure: where the record comes back to what it has shown before, does the imagination?

Benchmarks of a world model's memory walk loops and compare what is shown on the way back with what was shown on the way
there (LoopNav, arXiv:2505.22976; WorldMem, arXiv:2504.12369). Here the loops are those that the recorded episodes
happen to make, so that it works on every environment. Axes: B windows, T steps.
"""

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from worldsim.fidelity.error_metric import ErrorMetric
from worldsim.fidelity.measures import Bools
from worldsim.spaces import Leaf


class Loops(NamedTuple):
    """How many loops there were."""

    revisits: int = 0  # moments within tolerance of an earlier one, with a moment that is not between them
    left: int = 0  # those of them for which the imagination, too, had left in between
    closed: int = 0  # those of these after which it is back within tolerance of its own earlier moment

    def plus(self, more: Self) -> "Loops":
        return Loops(*(a + b for a, b in zip(self, more, strict=True)))

    def told(self) -> dict[str, Any]:
        """`left` as a share of the revisits and `closed` as one of those; null where nothing can be counted."""
        left = self.left / self.revisits if self.revisits else None
        return {"revisits": self.revisits, "left": left, "closed": self.closed / self.left if self.left else None}


def loop_closure(
    metric: ErrorMetric, actual: dict[str, NDArray[Any]], own: dict[str, NDArray[Any]], mask: Bools
) -> Loops:
    """Revisits in the record, and what the imagination makes of them; rows (B, T, ...) begin with the last one seen.

    Of several earlier moments that one comes back to, the latest counts.
    """
    revisits, left, closed = 0, 0, 0
    for window in range(len(mask)):
        length = int(mask[window].sum())
        alike, own_alike = (
            together(metric, {name: rows[window, :length] for name, rows in each.items()}) for each in (actual, own)
        )
        for begin, end in revisited(alike):
            revisits += 1
            if not own_alike[begin, begin:end].all():
                left += 1
                closed += int(own_alike[begin, end])
    return Loops(revisits, left, closed)


def revisited(alike: Bools) -> list[tuple[int, int]]:
    """Pairs (s, t) of a symmetric (T, T): alike, and not so all the way between; the latest s for each t."""
    found = []
    for t in range(2, len(alike)):
        for s in range(t - 2, -1, -1):
            if alike[s, t] and not alike[s, s:t].all():
                found.append((s, t))
                break
    return found


def together(metric: ErrorMetric, rows: dict[str, NDArray[Any]]) -> Bools:
    """(T, T): which moments of one window (T, ...) a leaf are the same place, within tolerance of each other.

    A place is known by what is seen of it, its images; without images by every leaf. Clocks would never come back.
    """
    seen = [leaf for leaf in metric.leaves if leaf.kind == "image"] or metric.leaves
    return np.asarray(np.logical_and.reduce([_alike(metric, leaf, rows[leaf.name]) for leaf in seen]))


def _alike(metric: ErrorMetric, leaf: Leaf, values: NDArray[Any]) -> Bools:
    if leaf.is_discrete:
        error = metric.error(leaf, values[:, None], values[None])
    else:
        scale = 255.0 if leaf.kind == "image" else metric.scale[leaf.name]
        flat = ((values - metric.mean[leaf.name].astype(np.float32)) / scale).reshape(len(values), -1)
        flat = flat.astype(np.float32)
        squares = np.square(flat).sum(-1)
        error = (squares[:, None] + squares[None] - 2 * flat @ flat.T) / flat.shape[1]
    return np.asarray(error <= metric.allowed[leaf.name])
