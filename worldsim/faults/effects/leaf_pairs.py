"""Leaves that have each other's value, in many replies at once."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults.arrays import Mask
from worldsim.faults.columns import Values, differing, within
from worldsim.spaces import Leaf

Indices = NDArray[np.int64]


class Pairs(NamedTuple):
    """Pairs of leaves, and in which of n replies they could have each other's value."""

    one: Indices  # (pairs,) positions of leaves
    other: Indices  # (pairs,)
    ok: Mask  # (n, pairs)


def exchangeable(leaves: Sequence[Leaf], values: Sequence[Values], anywhere: bool) -> Pairs:
    """The pairs of leaves whose values, (n, ...) of one form a leaf, differ and are possible in both places.

    anywhere: whether every value is possible wherever there is one of its form.
    """
    found = [Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((len(values[0]), 0), np.bool_))]
    for positions in _of_one_form(leaves, values):
        count, stacked = len(positions), _joined([values[position] for position in positions])
        fits = np.ones((count, count, len(values[0])), np.bool_)  # [a, b]: whether a's values are possible in b
        if not anywhere:
            among = [within(leaves[position].space, stacked) for position in positions]
            fits = np.stack(among, 1).reshape(count, -1, count).swapaxes(1, 2)
        one = np.arange(count)
        for step in range(1, count // 2 + 1):  # round the circle: every two of them are met
            other = (one + step) % count
            turned = _joined([values[positions[position]] for position in other.tolist()])
            ok = differing(stacked, turned).reshape(count, -1) & fits[one, other] & fits[other, one]
            found.append(Pairs(positions[one], positions[other], ok.T))
    return Pairs(*(np.concatenate(parts, -1) for parts in zip(*found, strict=True)))


def first_of(pairs: Pairs, order: Indices) -> tuple[Indices, Indices, Mask]:
    """Of each reply the first pair in an order of its leaves, (n, leaves), (n,) each; and where there is any."""
    rank = np.argsort(order, 1)
    ranks = np.sort(np.stack([rank[:, pairs.one], rank[:, pairs.other]]), 0)  # (2, n, pairs)
    place = np.where(pairs.ok, ranks[0] * order.shape[1] + ranks[1], order.shape[1] ** 2).argmin(1)
    rows = np.arange(len(order))
    one, other = (order[rows, each[rows, place]] for each in ranks)
    return one, other, pairs.ok[rows, place]


def exchanged(values: Sequence[Values], sources: Indices, rows: Indices) -> Values:
    """The values that stand in leaf `sources[i]` of reply `rows[i]`, all of one form."""
    if not isinstance(values[sources[0]], np.ndarray):
        return [values[source][row] for source, row in zip(sources.tolist(), rows.tolist(), strict=True)]
    picked = np.array(values[sources[0]][rows])
    for source in np.unique(sources).tolist():
        here = sources == source
        picked[here] = values[source][rows[here]]
    return picked


def _of_one_form(leaves: Sequence[Leaf], values: Sequence[Values]) -> list[Indices]:
    """The positions of leaves whose values are of the same type and shape, where there are two or more."""
    found: dict[Any, list[int]] = {}
    for position, (leaf, column) in enumerate(zip(leaves, values, strict=True)):
        first = column[0]
        if isinstance(first, str):
            found.setdefault(str, []).append(position)
        elif isinstance(first, bool | int | float | np.ndarray | np.generic):  # a graph or a sequence has no form
            form = np.asarray(first)
            if form.dtype.kind in "biuf":
                found.setdefault((form.dtype, form.shape, isinstance(leaf.space, spaces.Box)), []).append(position)
    return [np.array(positions) for positions in found.values() if len(positions) > 1]


def _joined(columns: Sequence[Values]) -> Values:
    if isinstance(columns[0], np.ndarray):
        return np.concatenate(columns)
    return [value for column in columns for value in column]
