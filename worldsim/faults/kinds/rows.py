"""What faults of rows have in common: what has rows, and how other rows come to stand in it."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults import leafwise
from worldsim.faults.chance import Draws
from worldsim.faults.kinds import frames
from worldsim.faults.kinds.changes import LEAVES, LeafChange, SomeReplies, Tried, same_for_each
from worldsim.faults.leafwise import Values
from worldsim.faults.many.replies import Replies
from worldsim.faults.struck import Mask, Struck
from worldsim.spaces import Leaf


@dataclass(frozen=True, kw_only=True)
class RowChange(SomeReplies, LeafChange):
    """Replies with other rows than there are. What stands in a row is left alone.

    Rows are the items of a list in plain JSON, and the entries along the first axis of a vector or matrix of numbers or
    classes. A leaf keeps its shape: rows that are gone leave zeros (or what is nearest to them) at the end, those that
    are too many fall off it; with `out_of_space=True` it arrives with as many as there are.
    """

    @abstractmethod
    def chosen(self, count: int, draws: Draws) -> NDArray[np.int64]:
        """Which of `count` rows arrive, and in what order: (n, rows that arrive), or (1, ...) where it is always so."""

    def change(self, struck: Struck, replies: Replies) -> None:
        leaves = self.leaves(struck, replies)
        lanes = struck.draws.lanes(LEAVES, len(leaves))
        if not struck.first.plain:
            return self.change_leaves(leaves, lanes, struck, replies)
        for leaf, draws in zip(leaves, lanes, strict=True):  # inner lists have changed when outer ones are looked at
            self.change_leaves([leaf], [draws], struck, replies)

    def leaves(self, struck: Struck, replies: Replies) -> tuple[Leaf, ...]:
        """Everything that has two rows or more; in plain JSON, where they stand in one another, innermost first."""
        if not struck.first.plain:
            return tuple(leaf for leaf in struck.leaves(replies) if _has_rows(leaf.space))
        payload = replies.payload(int(struck.rows[0]))
        paths = [path for path, value in leafwise.nodes(payload) if isinstance(value, list) and len(value) > 1]
        lists = [Leaf(path, leafwise.ANY) for path in reversed(paths)]
        return tuple(leaf for leaf in lists if struck.first.aims_at(leaf.name))

    def values_changed(self, leaf: Leaf, values: Values, draws: Draws, struck: Struck) -> Values:
        if isinstance(values, np.ndarray):
            return self._column_changed(leaf, values, draws, struck)
        changed = list(values)
        for position, value in enumerate(values):
            one = draws[[position]]
            if struck.first.plain:
                chosen = self._told(leaf, len(value), one, struck)[0]
                changed[position] = leafwise.copied([value[row] for row in chosen.tolist()])
            elif leafwise.usual(leaf, value):
                changed[position] = self._column_changed(leaf, value[None], one, struck)[0]
        return changed

    def _column_changed(self, leaf: Leaf, values: NDArray[Any], draws: Draws, struck: Struck) -> NDArray[Any]:
        count = values.shape[1]
        chosen = self._told(leaf, count, draws, struck)
        arrived: NDArray[Any] = values[np.arange(len(values))[:, None], chosen]
        if self.out_of_space:
            return arrived
        kept: NDArray[Any] = leafwise.nothing(leaf.space, values)
        kept[:, : chosen.shape[1]] = arrived[:, :count]
        return kept

    def _told(self, leaf: Leaf, count: int, draws: Draws, struck: Struck) -> NDArray[np.int64]:
        """The rows that arrive, whose number is kept for the records."""
        chosen = self.chosen(count, draws)
        struck.kept[leaf.name] = {"before": count, "after": chosen.shape[1]}
        return chosen

    def note(self, leaf: Leaf, tried: Tried, hit: Mask, struck: Struck) -> None:
        struck[hit].record(self.kind, same_for_each(leaf, int(hit.sum()), **struck.kept[leaf.name]))


def _has_rows(space: spaces.Space[Any]) -> bool:
    rows = isinstance(space, _WITH_ROWS) and len(space.shape or ()) > 0 and space.shape[0] > 1
    return rows and not frames.frame_axes(space)


_WITH_ROWS = spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary
