"""Real-time control: worlds that move on while their agents wait, by a step for every `step_s` on the clock."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import concatenate, create_empty_array
from numpy.typing import NDArray

from worldsim.errors import ConfigError
from worldsim.faults import WallClock
from worldsim.faults.arrays import Mask
from worldsim.faults.batch_rows import where_rows
from worldsim.spaces import leaves, unflatten

STEP_TOLERANCE = 1 - 1e-6  # share of a step after which it counts as over: clocks are sums of rounded numbers


class RealTimeWorlds:
    """How far each of N worlds has come, and the actions under which they move on.

    seconds: (N,) on each one's clock; written to when time passes. wall: whether real time passes on all of them. hold,
    space: as for `InjectFaults`, and of one action.
    """

    def __init__(
        self, seconds: NDArray[np.float64], step_s: float, wall: bool, hold: Any, space: gym.Space[Any]
    ) -> None:
        self.step_s, self._seconds = step_s, seconds
        self._wall = WallClock() if wall else None
        self._repeats_last = repeats_last(hold)
        self._world_s = np.zeros(len(seconds))  # on the clocks: when the last step of each ended
        self._space, count = space, len(seconds)
        empty: Any = create_empty_array(space, n=count, fn=np.zeros)
        self._idle_actions = concatenate(space, [idle_action(hold, space)] * count, empty)
        self._last_actions = self._idle_actions  # the last that were executed

    def begin(self, rows: NDArray[np.int64]) -> None:
        """Episodes begin, now."""
        self._world_s[rows] = self._seconds[rows]
        begun = np.zeros(len(self._seconds), np.bool_)
        begun[rows] = True
        self._remember(begun, self._idle_actions)

    @property
    def behind(self) -> Mask:
        """Which worlds are a step or more behind the present."""
        return self._seconds - self._world_s >= self.step_s * STEP_TOLERANCE

    @property
    def hold_actions(self) -> Any:
        """The actions under which the worlds move on, as a batch."""
        return self._last_actions if self._repeats_last else self._idle_actions

    def stepped(self, mask: Mask) -> None:
        """These worlds have taken a step."""
        self._world_s[mask] += self.step_s

    def executed(self, mask: Mask, actions: Any) -> None:
        """Calls were executed: each took one step of its world."""
        self._remember(mask, actions)
        self.stepped(mask)
        self._seconds[mask] += np.maximum(0.0, self._world_s[mask] - self._seconds[mask])

    def _remember(self, mask: Mask, actions: Any) -> None:
        if self._repeats_last:
            self._last_actions = where_rows(self._space, mask, actions, self._last_actions)

    def sync_to_wall_clock(self) -> None:
        """In real time no clock is behind the wall clock; those whose replies come later are ahead of it."""
        if self._wall:
            np.maximum(self._seconds, self._wall.now(), out=self._seconds)

    def wait(self) -> None:
        """In real time: until the last reply has come."""
        if self._wall:
            self._wall.sleep(max(0.0, float(self._seconds.max()) - self._wall.now()))
            self.sync_to_wall_clock()

    def snapshot(self) -> Any:
        """How far all have come, as a value for `restore`."""
        return self._world_s - self._seconds, self._last_actions

    def restore(self, snapshot: Any) -> None:
        """Go back (or forth) to where a snapshot was taken, after the clocks. Real time stays what it is."""
        if self._wall:
            self._seconds[:] = self._wall.now()
        ahead_s, last = snapshot
        self._world_s, self._last_actions = self._seconds + ahead_s, last


def step_seconds(metadata: Mapping[str, Any], time: str | None, given_s: float | None) -> float | None:
    """Seconds that a step of the world takes; None where it stands still while the agent waits. Raises ConfigError."""
    if time is None:
        return None
    if time not in ("virtual", "wall"):
        raise ConfigError(f"time must be 'virtual', 'wall' or left out, got {time!r}")
    frames_a_second = metadata.get("render_fps")
    step_s = 1 / frames_a_second if given_s is None and frames_a_second else given_s
    if step_s is None or not step_s > 0:
        raise ConfigError(f"step_s must be the seconds that a step of the world takes, more than 0; got {given_s!r}")
    return step_s


def repeats_last(hold: Any) -> bool:
    """Whether a world moves on under the last action that was executed."""
    return isinstance(hold, str) and hold == "last"


def idle_action(hold: Any, space: gym.Space[Any]) -> Any:
    """The action under which a world moves on before any was executed: by default the one nearest to zero."""
    return _zero_action(space) if hold is None or repeats_last(hold) else hold


def _zero_action(space: gym.Space[Any]) -> Any:
    """The action of a space that is nearest to zero, and of classes the first."""
    return unflatten(space, {leaf.name: np.zeros(leaf.shape, leaf.dtype) for leaf in leaves(space)})
