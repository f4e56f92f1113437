"""Non-uniform sampling of where sequences begin: segments of episodes, drawn by weight, by loss or for terminations.

All three are one distribution over segments. Of R rows in all, segment i has n_i:

    p_i = (1 - ends) * b_i l_i^alpha / sum_j b_j l_j^alpha + ends * e_i

b_i is its share under uniform sampling (n_i / R, or scaled by the weight of its data set), l_i the last loss of a
sequence that began in it, as in prioritised experience replay (arXiv:1511.05952), e_i is uniform over the segments
that end with a termination. Losses are then weighted by (b_i / p_i)^correction (importance sampling).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldsim.errors import DatasetError
from worldsim.rollouts.arrays import EpisodeArrays
from worldsim.spaces import Floats, Ints


class Starts(NamedTuple):
    """Where B sequences begin."""

    row: Ints  # (B,)
    segment: Ints  # (B,)
    weight: NDArray[np.float32]  # (B,)


class Segments:
    """Segments of up to `length` rows, cut from each episode's end backwards. So the last segment of an episode has
    `length` rows unless the episode is shorter, and a sequence of `length` rows that begins in it reaches the end.
    """

    def __init__(
        self,
        arrays: EpisodeArrays,
        episodes: Ints,
        length: int,
        ends: float = 0.0,
        alpha: float = 0.0,
        correction: float = 1.0,
        weights: Floats | None = None,
    ):
        """ends, alpha, correction: as in the formula of the module; with their defaults all rows are equally likely.

        weights: sampling weight of a row in each of `episodes`; None: all the same.

        Raises DatasetError where ends are asked for and none of the episodes terminates.
        """
        begin, end = arrays.start[episodes], arrays.start[np.asarray(episodes) + 1]
        count = -(-(end - begin) // length)
        self._owner = np.repeat(np.arange(len(begin)), count)
        back = np.concatenate([np.arange(c, 0, -1) for c in count]) * length
        self.begin: Ints = np.maximum(end[self._owner] - back, begin[self._owner])
        self.rows: Ints = end[self._owner] - back + length - self.begin
        base = self.rows * (1.0 if weights is None else weights[self._owner])
        self.base: Floats = base / base.sum()
        closing = arrays.terminated[self.begin + self.rows - 1]
        if ends and not closing.any():
            raise DatasetError("trainer.ends: no episode of the data terminates; set trainer.ends=0")
        self.ends, self.alpha, self.correction = ends, alpha, correction
        self._closing: Floats = closing / max(1, closing.sum())
        self.loss: Floats = np.full(len(self.begin), np.inf)  # inf: no sequence has begun there yet

    def probabilities(self) -> Floats:
        """(S,) the probability p_i of each segment, as the module has it; they add up to 1.

        With alpha = 0 losses do not count. Else a segment without a loss yet has the greatest that is known. With
        `ends` the result is a mixture: that share of the sequences begins in a segment that ends with a termination.
        """
        weight = self.base
        if self.alpha:
            known = np.isfinite(self.loss)
            worst = self.loss.max(where=known, initial=0.0) or 1.0
            weight = self.base * np.where(known, self.loss, worst) ** self.alpha
        p: Floats = (1 - self.ends) * weight / weight.sum() + self.ends * self._closing
        return p

    def draw(self, batch: int, rng: np.random.Generator) -> Starts:
        """Starts for B sequences: a segment each, and a row of it uniformly."""
        p = self.probabilities()
        total = p.cumsum()
        segment = np.searchsorted(total, rng.random(batch) * total[-1], side="right")
        row = self.begin[segment] + rng.integers(self.rows[segment])
        return Starts(row, segment, ((self.base[segment] / p[segment]) ** self.correction).astype(np.float32))

    def update_losses(self, segment: Ints, loss: Floats) -> None:
        """Store the losses of sequences that began in these segments; of two in one segment, the latter."""
        self.loss[segment] = np.maximum(loss, 1e-3)

    def state_dict(self) -> dict[str, Any]:
        """As plain JSON; the losses as a hexadecimal string, which is fast enough to make for every batch."""
        return {"loss": self.loss.astype("<f8").tobytes().hex()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.loss = np.frombuffer(bytes.fromhex(state["loss"]), "<f8").astype(np.float64)
