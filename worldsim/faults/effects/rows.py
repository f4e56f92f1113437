"""Replies with other rows than there are. What stands in a row is left alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults import trees
from worldsim.faults.columns import Values
from worldsim.faults.effects import frames
from worldsim.faults.effects.base import AffectedCalls
from worldsim.faults.effects.leaves import LEAVES, ChangeLeaves, EditResult
from worldsim.faults.keys import CallRandom
from worldsim.faults.replies import Replies
from worldsim.spaces import Leaf

Choose = Callable[[int, CallRandom], NDArray[np.int64]]
"""Which of so many rows arrive, and in what order: (n, rows that arrive), or (1, ...) where it is always so."""


@dataclass(frozen=True)
class ChangeRows:
    """A `Change` of rows.

    Rows are the items of a list in plain JSON, and the entries along the first axis of a vector or matrix of numbers or
    classes. A leaf keeps its shape: rows that are gone leave zeros (or what is nearest to them) at the end, those that
    are too many fall off it; with `out_of_space` it arrives with as many as there are.
    """

    kind: str
    choose: Choose
    out_of_space: bool = False

    def __call__(self, batch: AffectedCalls, replies: Replies) -> None:
        leaves = _leaves(batch, replies)
        randoms = batch.random.streams(LEAVES, len(leaves)) if leaves else []
        change = ChangeLeaves(self.kind, self._edit, out_of_space=self.out_of_space, describe=False)
        if not batch.scope.plain:
            change.change(leaves, randoms, batch, replies)
            return
        for leaf, random in zip(leaves, randoms, strict=True):  # inner lists have changed when outer ones are read
            change.change([leaf], [random], batch, replies)

    def _edit(self, leaf: Leaf, values: Values, random: CallRandom, batch: AffectedCalls) -> EditResult:
        if isinstance(values, np.ndarray):
            after, counts = self._column(leaf, values, random)
            return EditResult(after, lambda chosen: [counts for _ in chosen])
        changed, counts_of = list(values), [dict[str, Any]() for _ in values]
        for position, value in enumerate(values):
            one = random[[position]]
            if batch.scope.plain:
                chosen = self.choose(len(value), one)
                counts_of[position] = {"before": len(value), "after": chosen.shape[1]}
                changed[position] = trees.copied([value[row] for row in chosen[0].tolist()])
            elif trees.has_leaf_form(leaf, value):
                column, counts_of[position] = self._column(leaf, value[None], one)
                changed[position] = column[0]
        return EditResult(changed, lambda chosen: [counts_of[each] for each in chosen.tolist()])

    def _column(self, leaf: Leaf, values: NDArray[Any], random: CallRandom) -> tuple[NDArray[Any], dict[str, Any]]:
        count = values.shape[1]
        chosen = self.choose(count, random)
        counts = {"before": count, "after": chosen.shape[1]}
        arrived: NDArray[Any] = values[np.arange(len(values))[:, None], chosen]
        if self.out_of_space:
            return arrived, counts
        padded: NDArray[Any] = trees.empty_value(leaf.space, values)
        padded[:, : chosen.shape[1]] = arrived[:, :count]
        return padded, counts


def _leaves(batch: AffectedCalls, replies: Replies) -> tuple[Leaf, ...]:
    """Everything that has two rows or more; in plain JSON, where they stand in one another, innermost first."""
    if not batch.scope.plain:
        return tuple(leaf for leaf in batch.leaves(replies) if has_rows(leaf))
    payload = replies.payload(int(batch.rows[0]))
    paths = [path for path, value in trees.nodes(payload) if isinstance(value, list) and len(value) > 1]
    lists = [Leaf(path, trees.ANY) for path in reversed(paths)]
    return tuple(leaf for leaf in lists if batch.scope.aims_at(leaf.name))


def has_rows(leaf: Leaf) -> bool:
    """Whether a leaf of a space has two rows or more."""
    space = leaf.space
    rows = isinstance(space, _WITH_ROWS) and len(space.shape or ()) > 0 and space.shape[0] > 1
    return rows and not frames.frame_axes(space)


_WITH_ROWS = spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary
