"""Plausible lies: observations that a learned World draws, valid in every leaf, and not what is there."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from worldsim.errors import ConfigError, SpaceMismatchError, WorldsimError
from worldsim.faults.changes import PayloadChange
from worldsim.faults.fault import Context, count, number
from worldsim.faults.leafwise import alike, leaves_of
from worldsim.faults.written import Mistake
from worldsim.spaces import Arrays, Leaf, flatten, leaves, unflatten

if TYPE_CHECKING:
    from worldsim.simulator.world import World

GIVE_ITS_OWN = "give the world that was learned from this environment"


@dataclass(frozen=True, kw_only=True)
class PlausibleLie(PayloadChange):
    """Some replies show another state of the world than there is: one that a learned World thinks possible.

    The World begins at the true observation and dreams `dreams` futures of `ticks` steps under random actions; as many
    recorded starts join them. Of all these observations the one is shown that lies at quantile `severity` of their
    distances from the true one, measured between the codes that the World's decoder draws from. The nearest is a slip,
    the farthest another world; each is a whole observation, so its leaves agree with one another as far as the World
    has learned that they do.

    | severity | quantile |
    |----------|----------|
    | 0.5      | 50 %     |
    | 1        | 100 %    |

    `rate` is the share of the replies that lie, at every severity. Loads torch when it is put on an environment.

    Records: `plausible_lie` (distance: root mean square between the codes).

    Raises ConfigError where no world is given, CheckpointError where there is none in the folder, SpaceMismatchError
    where the World is one of other observations; one line of the plan (ConfigError) where it is put on an environment.
    """

    kind: ClassVar[str] = "plausible_lie"

    world: Any = field(default="", metadata={"says": "folder of a trained world, or (in Python) an open World"})
    rate: float = number(0.3, 0, 1, "share of the replies that lie, whatever the severity")
    dreams: int = count(8, 1, 4096, "how many futures the World dreams, and how many recorded starts join them")
    ticks: int = count(6, 1, 1000, "how many steps each future has")

    @property
    def share(self) -> float:
        """Share of the replies that lie."""
        return self.rate

    @property
    def quantile(self) -> float:
        """Of the distances in latent space: the nearest candidate is at 0, the farthest at 1."""
        return self.severity

    def check(self, leaves: Sequence[Leaf]) -> None:
        here = {leaf.name: leaf.space for leaf in leaves}
        try:
            known = {leaf.name: leaf.space for leaf in leaves_of(self._opened().observation_space)}
        except WorldsimError as error:
            raise Mistake(str(error), "world") from None
        for name in sorted(set(known) | set(here)):
            if known.get(name) != here.get(name):
                both = f"{name} is {here.get(name, 'nothing')} here and {known.get(name, 'nothing')} there"
                raise Mistake(f"{self.kind}: another world's observations; {both}; {GIVE_ITS_OWN}", "world")

    def begin(self, payload: Any, context: Context) -> None:
        if payload not in self._opened().observation_space:
            raise SpaceMismatchError(f"{self.kind}: the observations are none of this world's; {GIVE_ITS_OWN}")

    def changed(self, payload: Any, context: Context) -> Any:
        world = self._opened()
        space = world.observation_space
        if payload not in space:  # another fault has been at it
            return payload
        true = flatten(space, payload)
        candidates = self._candidates(world, true, context.rng())
        distances = _distances(world, true, candidates)
        for index in _by_rank(distances, self.quantile):
            drawn = unflatten(space, {name: rows[index] for name, rows in candidates.items()})
            result = context.mixed(payload, drawn)
            if not alike(result, payload):
                context.record(self.kind, distance=float(distances[index]))
                return result
        return payload

    def _opened(self) -> "World":
        if not self.world:
            raise ConfigError(f"{self.kind}: world must be the folder of a trained world, got nothing")
        if isinstance(self.world, str | Path):
            return _load(str(self.world))
        from worldsim.simulator.world import World

        if not isinstance(self.world, World):
            raise ConfigError(f"{self.kind}: world must be the folder of a trained world, got {self.world!r}")
        return self.world

    def _candidates(self, world: "World", true: Arrays, rng: np.random.Generator) -> Arrays:
        """Flat observations (dreams * (ticks + 1), ...): of futures from the true one, and recorded starts."""
        seeds = rng.integers(2**62, size=self.dreams).tolist()
        actions = copy.deepcopy(world.action_space)
        actions.seed(int(rng.integers(2**31)))
        state = world.encode({name: np.repeat(array[None], self.dreams, 0) for name, array in true.items()}, seeds)
        seen = [world.observation(world.start_seeds(seeds))]
        for _ in range(self.ticks):
            flat = [flatten(actions, actions.sample()) for _ in seeds]
            state, step = world.step(
                state, {each.name: np.stack([a[each.name] for a in flat]) for each in leaves(actions)}
            )
            seen.append(step.observation)
        return {name: np.concatenate([each[name] for each in seen]) for name in true}


def _distances(world: "World", true: Arrays, candidates: Arrays) -> NDArray[np.float64]:
    """Root mean square between the codes of candidates and those of the true observation."""
    both = {
        name: np.concatenate([true[name][None], rows.astype(true[name].dtype)]) for name, rows in candidates.items()
    }
    codes = world.codes(both)
    distances: NDArray[np.float64] = np.sqrt(np.square(codes[1:].astype(np.float64) - codes[0]).mean(1))
    return distances


def _by_rank(distances: NDArray[np.float64], quantile: float) -> list[int]:
    """Candidates that are elsewhere than the truth, the one at the quantile first, then ever farther ones."""
    order = [int(index) for index in np.argsort(distances, kind="stable") if distances[index] > 0]
    return order[round(quantile * (len(order) - 1)) :] if order else []


@lru_cache(maxsize=4)
def _load(folder: str) -> "World":
    from worldsim.simulator.world import load

    return load(folder)
