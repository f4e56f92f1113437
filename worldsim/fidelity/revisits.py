"""Loop closure: where the record revisits a place that it has shown before, does the imagination show it again?

Benchmarks of a world model's memory walk loops and compare what is shown on the way back with what was shown on the way
there (LoopNav, arXiv:2505.22976; WorldMem, arXiv:2504.12369). Here the loops are those that the recorded episodes
happen to make, so that it works on every environment. Axes: B windows, T steps.
"""

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from worldsim.fidelity.error_metric import ErrorMetric
from worldsim.spaces import Bools, Leaf


class Revisits(NamedTuple):
    """How often a place was revisited."""

    recorded: int = 0  # moments within tolerance of an earlier one, with a moment that is not between them
    left: int = 0  # those of them for which the imagination, too, had left the place in between
    returned: int = 0  # those of these after which it is back within tolerance of its own earlier moment

    def plus(self, more: Self) -> "Revisits":
        return Revisits(*(a + b for a, b in zip(self, more, strict=True)))

    def as_json(self) -> dict[str, Any]:
        """The counts, and `return_rate`: the share of `left` that returned, null where there is nothing to count."""
        return {**self._asdict(), "return_rate": self.returned / self.left if self.left else None}


def loop_closure(
    metric: ErrorMetric, actual: dict[str, NDArray[Any]], imagined: dict[str, NDArray[Any]], mask: Bools
) -> Revisits:
    """Revisits in the record, and what the imagination makes of them; rows (B, T, ...) begin with the last one seen.

    Of several earlier moments that one comes back to, the latest counts.
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
            if not same_imagined[begin, begin:end].all():  # a still picture would return to all that it never left
                left += 1
                returned += int(same_imagined[begin, end])
    return Revisits(recorded, left, returned)


def revisited(same: Bools) -> list[tuple[int, int]]:
    """Pairs (s, t) of a symmetric (T, T): the same place, and left in between; the latest s for each t."""
    found = []
    for t in range(2, len(same)):
        for s in range(t - 2, -1, -1):
            if same[s, t] and not same[s, s:t].all():
                found.append((s, t))
                break
    return found


def same_place(metric: ErrorMetric, rows: dict[str, NDArray[Any]]) -> Bools:
    """(T, T): which moments of one window (T, ...) a leaf are the same place, within tolerance of each other.

    A place is known by what is seen of it, its images; without images by every leaf. Clocks would never come back.
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
