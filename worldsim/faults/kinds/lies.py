"""Plausible lies: observations that a learned World draws, valid in every leaf, and not what is there."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.errors import ConfigError, SpaceMismatchError, WorldsimError
from worldsim.faults.arrays import Mask, Rows
from worldsim.faults.columns import within
from worldsim.faults.definition import Composition, Fault, fault
from worldsim.faults.effects.base import AffectedCalls, Effect, EffectGenerator, ForwardCalls
from worldsim.faults.effects.leaves import ChangeReplies
from worldsim.faults.effects.requirements import Requirement
from worldsim.faults.keys import CallRandom, integers_below
from worldsim.faults.parameters import LocatedError, NameGlobs, number, option, out_of_space, scaled, targets
from worldsim.faults.replies import Replies
from worldsim.faults.trees import leaves_of
from worldsim.spaces import Arrays, Leaf, leaves

_OBSERVATIONS = Requirement("observations of a world", lambda leaves: True, in_plain=False)
WRONG_WORLD_HINT = "give the world that was learned from this environment"


@runtime_checkable
class LearnedWorld(Protocol):
    """What a lie asks of a learned World, on flat leaves (B, ...); `worldsim.World` is one."""

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]

    def start_seeds(self, seeds: Sequence[int]) -> Any: ...

    def encode(self, observation: Arrays, seeds: Sequence[int]) -> Any: ...

    def observation(self, state: Any) -> Arrays: ...

    def step(self, state: Any, actions: Arrays) -> tuple[Any, Any]: ...

    def codes(self, observation: Arrays) -> NDArray[np.float32]: ...


@fault("plausible_lie", "plausible lies")
class PlausibleLie(Fault):
    """Some replies show another state of the world than there is: one that a learned World thinks possible.

    The World begins at the true observation and dreams `dreams` futures of `ticks` steps under random actions; as many
    recorded starts join them. Of all these observations the one is shown that lies at quantile `severity` of their
    distances from the true one, measured between the latent codes that the World's decoder draws from. The nearest is
    almost the truth, the farthest another world; each is a whole observation, so its leaves agree with one another as
    far as the World has learned that they do.

    Loads torch when it is put on an environment.

    Records: `plausible_lie` (distance: root mean square between the codes).

    Raises ConfigError where no world is given, CheckpointError where there is none in the folder, SpaceMismatchError
    where the World is one of other observations. Put on an environment, each names the line of the plan.
    """

    world: Any = option("", "folder of a trained world, or (in Python) a loaded World")
    rate: float = scaled(0.3, 0, 1, "share of the replies that lie")
    dreams: int = number(8, 1, 4096, "how many futures the World dreams, and how many recorded starts join them")
    ticks: int = number(6, 1, 1000, "how many steps each future has")
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def values_at_severity(self) -> dict[str, float]:
        return {**super().values_at_severity(), "quantile of the distances": self.severity}

    def compose(self) -> Composition:
        lie = ShowLie(self, ChangeReplies(self._change))
        return Composition(lie, self.scaled("rate"), self.targets, self.out_of_space, _OBSERVATIONS)

    def check(self, leaves: Sequence[Leaf]) -> None:
        here = {leaf.name: leaf.space for leaf in leaves}
        try:
            known = {leaf.name: leaf.space for leaf in leaves_of(self.opened().observation_space)}
        except WorldsimError as error:
            raise LocatedError(str(error), "world") from None
        for name in sorted(set(known) | set(here)):
            if known.get(name) != here.get(name):
                both = f"{name} is {here.get(name, 'nothing')} here and {known.get(name, 'nothing')} there"
                raise LocatedError(f"{self.kind}: another world's observations; {both}; {WRONG_WORLD_HINT}", "world")

    def _change(self, batch: AffectedCalls, replies: Replies) -> None:
        world, at_once = self.opened(), max(1, _AT_ONCE // (self.dreams * (self.ticks + 1)))
        batch = batch[_valid_rows(world, replies, batch.rows)]  # other faults may have been at them
        for start in range(0, len(batch), at_once):
            self._lie(world, batch[start : start + at_once], replies)

    def _lie(self, world: LearnedWorld, batch: AffectedCalls, replies: Replies) -> None:
        true = {leaf.name: _flat(leaf, replies, batch.rows) for leaf in leaves(world.observation_space)}
        candidates = self._candidates(world, true, batch.random)
        distances = _distances(world, true, candidates)
        ranked, place = _by_rank(distances, self.severity)
        left = np.flatnonzero(place < ranked.shape[1])
        while len(left):  # where one shows nothing else than there is, the next farther one is tried
            index = ranked[left, place[left]]
            drawn = {name: rows[left, index] for name, rows in candidates.items()}
            lied = self._show(batch[left], {name: rows[left] for name, rows in true.items()}, drawn, replies)
            batch[left[lied]].record(self.kind, partial(_details, distances[left, index][lied]))
            place[left] += 1
            left = left[~lied & (place[left] < ranked.shape[1])]

    def _show(self, batch: AffectedCalls, true: Arrays, drawn: Arrays, replies: Replies) -> Mask:
        """Show what was drawn, (n, ...), in the leaves that are targets: which replies, (n,), are other ones then."""
        known = {leaf.name: leaf for leaf in leaves(self.opened().observation_space)}
        aims = [leaf for leaf in batch.leaves(replies) if leaf.name in known]
        lied = np.zeros(len(batch), np.bool_)
        for leaf in aims:
            lied |= (true[leaf.name] != drawn[leaf.name]).reshape(len(batch), -1).any(1)
        here = np.flatnonzero(lied)
        for leaf in aims if len(here) else ():
            values = known[leaf.name].unflatten(drawn[leaf.name][here], (len(here),))
            replies.write(leaf, batch.rows[here], list(values) if isinstance(values, tuple) else values)
        return lied

    def opened(self) -> LearnedWorld:
        """The World. Raises ConfigError where none is given."""
        if not self.world:
            raise ConfigError(f"{self.kind}: world must be the folder of a trained world, got nothing")
        if isinstance(self.world, str | Path):
            return _load(str(self.world))
        if not isinstance(self.world, LearnedWorld):
            raise ConfigError(f"{self.kind}: world must be the folder of a trained world, got {self.world!r}")
        return self.world

    def _candidates(self, world: LearnedWorld, true: Arrays, random: CallRandom) -> Arrays:
        """Flat observations (n, (ticks + 1) * dreams, ...): recorded starts, and futures from the n true ones."""
        seeds = integers_below(random.uniform(_SEEDS, self.dreams), 2**62).ravel().tolist()
        state = world.encode({name: np.repeat(rows, self.dreams, 0) for name, rows in true.items()}, seeds)
        observations = [world.observation(world.start_seeds(seeds))]
        for tick in range(self.ticks):
            state, step = world.step(
                state, random_actions(world.action_space, random.stream(_TICKS + tick), self.dreams)
            )
            observations.append(step.observation)
        count = len(random)
        each = {
            name: [one[name].reshape(count, self.dreams, *one[name].shape[1:]) for one in observations] for name in true
        }
        return {name: np.concatenate(rows, 1) for name, rows in each.items()}


@dataclass(frozen=True)
class ShowLie(Effect):
    """Changes replies, of observations that are the World's."""

    lie: PlausibleLie
    change: Effect

    def begin(self, batch: AffectedCalls, initial: Replies) -> None:
        if not _valid_rows(self.lie.opened(), initial, batch.rows).all():
            raise SpaceMismatchError(f"{self.lie.kind}: the observations are none of this world's; {WRONG_WORLD_HINT}")

    def run(self, batch: AffectedCalls, forward: ForwardCalls) -> EffectGenerator:
        return (yield from self.change.run(batch, forward))


_SEEDS, _TICKS = 0, 16  # streams: of the dreams' seeds, and of the actions at the first tick
_AT_ONCE = 2048  # candidates that the World looks at together; many more take memory, and no less time


def _flat(leaf: Leaf, replies: Replies, rows: Rows) -> NDArray[Any]:
    return leaf.flatten(replies.values(leaf, rows), (len(rows),))


def _valid_rows(world: LearnedWorld, replies: Replies, rows: Rows) -> Mask:
    """Which payloads are observations of this world."""
    found = [within(leaf.space, replies.values(leaf, rows)) for leaf in leaves_of(world.observation_space)]
    return np.asarray(np.all(found, 0))


def _details(distances: NDArray[np.float64]) -> list[dict[str, float]]:
    return [{"distance": distance} for distance in distances.tolist()]


def random_actions(space: spaces.Space[Any], random: CallRandom, count: int) -> Arrays:
    """Flat actions (n * count, ...), drawn as evenly as `space.sample` draws them."""
    found = {}
    for stream, leaf in enumerate(leaves(space)):
        batch = (len(random) * count,)
        if isinstance(leaf.space, spaces.Box):
            numbers = _evenly(leaf.space, random.stream(stream), count)
            found[leaf.name] = leaf.flatten(numbers.reshape(*batch, *leaf.space.shape), batch)
        else:
            found[leaf.name] = integers_below(random.uniform(stream, count, *leaf.shape), leaf.nvec).reshape(
                *batch, *leaf.shape
            )
    return found


def _evenly(space: spaces.Box, random: CallRandom, count: int) -> NDArray[Any]:
    """Numbers (n, count, ...) of a box: even between two bounds, exponential from one, normal where there is none."""
    low, high = (bound.astype(np.float64) for bound in (space.low, space.high))
    chance, normal = random.uniform(0, count, *space.shape), random.normal(1, count, *space.shape)
    if space.dtype.kind != "f":
        return np.asarray(np.floor(low + chance * (high - low + 1)))
    tail = -np.log1p(-chance)
    with np.errstate(invalid="ignore", over="ignore"):
        one_bound = np.where(np.isfinite(low), low + tail, np.where(np.isfinite(high), high - tail, normal))
        return np.where(np.isfinite(high - low), low + chance * (high - low), one_bound)


def _distances(world: LearnedWorld, true: Arrays, candidates: Arrays) -> NDArray[np.float64]:
    """Root mean square between the codes of candidates and those of the true observations, (n, candidates)."""
    count, among = next(iter(candidates.values())).shape[:2]
    both = {
        name: np.concatenate([true[name][:, None], rows.astype(true[name].dtype)], 1).reshape(-1, *rows.shape[2:])
        for name, rows in candidates.items()
    }
    codes = world.codes(both).astype(np.float64).reshape(count, among + 1, -1)
    return np.asarray(np.sqrt(np.square(codes[:, 1:] - codes[:, :1]).mean(2)))


def _by_rank(distances: NDArray[np.float64], quantile: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Candidates (n, c), the nearest first, and at which place, (n,), is the first one to show.

    It is at the quantile of those that are elsewhere than the truth; where there are none, its place is c.
    """
    ranked = np.argsort(distances, 1, kind="stable")
    elsewhere = (distances > 0).sum(1)
    first = distances.shape[1] - elsewhere + np.rint(quantile * np.maximum(elsewhere - 1, 0)).astype(np.int64)
    return ranked, first


@lru_cache(maxsize=4)
def _load(folder: str) -> LearnedWorld:
    import worldsim  # by its public function: faults may not import the simulator

    return worldsim.load(folder)
