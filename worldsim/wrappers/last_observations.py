"""The last observations of the agents of a vector of environments, and how errors are put into them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
import numpy as np

from worldsim.faults import ERRORS
from worldsim.faults.arrays import Mask
from worldsim.faults.batch_rows import copy_into, where_rows
from worldsim.faults.replies import Replies
from worldsim.faults.trees import copied, from_json
from worldsim.spaces import Leaf


@dataclass
class LastObservations:
    """The last observations that reached the agents of N environments, and whose calls failed since.

    space, leaves: of one observation. on_error: error -> leaf name -> what is shown there, as plain JSON.
    in_space: whether observations stay inside their space. keeps: whether any of them may be needed again.
    """

    count: int
    space: gym.Space[Any]
    leaves: Sequence[Leaf]
    on_error: Mapping[str, Mapping[str, Any]]
    in_space: bool
    keeps: bool
    batch: Any = None
    overrides: dict[int, Any] = field(default_factory=dict)  # those that are not in the batch
    errors: dict[int, str] = field(default_factory=dict)  # of those whose last reply was lost

    def begin(self, mask: Mask, observations: Any) -> None:
        """Episodes begin where mask is true, and show `observations`."""
        if not mask.all():
            self.batch = where_rows(self.space, mask, observations, self.batch)
        else:
            self.batch = copied(observations) if self.keeps else observations
        self.overrides = {row: payload for row, payload in self.overrides.items() if not mask[row]}
        self.errors = {row: error for row, error in self.errors.items() if not mask[row]}

    def take(self, replies: Replies) -> Replies:
        """Take new replies, and give the observations of the agents."""
        lost = ~replies.ok
        replies.merge()
        observations = replies.batch
        if lost.any():
            observations = where_rows(self.space, lost, self.batch, observations)
        self.batch = copy_into(self.space, self.batch, observations) if self.keeps else observations
        stayed = {row: payload for row, payload in self.overrides.items() if lost[row]}
        self.overrides = copied({**stayed, **replies.arrived})
        self.errors = dict(zip(np.flatnonzero(lost).tolist(), replies.error[lost].tolist(), strict=True))
        return self.visible(observations)

    def visible(self, observations: Any) -> Replies:
        """What the agents see: these observations, or `overrides` in place of their rows, and after a lost reply the
        values of `on_error`.
        """
        visible = Replies(self.count, self.space, observations, self.in_space, copied(self.overrides))
        if not self.on_error or not self.errors:
            return visible
        rows, errors = np.array(list(self.errors)), np.array(list(self.errors.values()))
        for error in np.unique(errors).tolist():
            values = self.on_error.get(error, self.on_error.get(ERRORS.get(error, ""), {}))
            for leaf in self.leaves:
                if leaf.name in values:
                    those = visible.rows_with_leaf(leaf, rows[errors == error])
                    visible.write(leaf, those, [from_json(leaf, values[leaf.name])] * len(those))
        return visible

    def copy(self) -> "LastObservations":
        """The same, to go on by itself."""
        return replace(self, batch=copied(self.batch), overrides=copied(self.overrides), errors=dict(self.errors))
