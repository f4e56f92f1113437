"""What plain arrays of others are: which of them is the observation, where episodes end, what stands in which row.

| who writes so                 | arrays                                                        | row t          |
|-------------------------------|---------------------------------------------------------------|----------------|
| D4RL, most replay buffers     | observations, actions, rewards, terminals, timeouts           | o_t, a_t, r_t+1|
| DreamerV3, an episode a file  | image, action, reward, is_first, is_last, is_terminal         | o_t, a_t-1, r_t|
| DreamerV3's replay            | the same                                                      | o_t, a_t, r_t  |
| robomimic, Minari             | a group an episode: obs/... or observations, actions, rewards | o_t, a_t, r_t+1|
| imitation, Stable-Baselines   | obs, actions, rewards, episode_starts                         | o_t, a_t, r_t+1|

a_t is what was done in o_t, r_t the reward that came with o_t.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldsim.errors import DatasetError
from worldsim.rollouts.array_files import NUMBERS, Column, Part
from worldsim.settings import Settings

Bools = NDArray[np.bool_]
Path = tuple[str, ...]
Timing = Literal["after", "before", "mixed"]
NAMES = {  # of arrays, or of groups of them, by what they are; the first that is there is taken
    "observation": ("observations", "observation", "obs", "images", "image", "frames", "states", "state"),
    "next_observation": ("next_observations", "next_observation", "next_obs"),
    "action": ("actions", "action", "acts", "act"),
    "reward": ("rewards", "reward", "rews", "rew"),
    "terminated": ("terminals", "terminations", "terminated", "is_terminal", "terminal"),
    "truncated": ("timeouts", "truncations", "truncated"),
    "ends": ("dones", "done", "ends", "is_last", "episode_ends"),
    "first": ("is_first", "episode_starts"),
    "lengths": ("episode_lengths", "lengths"),
}
DREAMER = ("is_first", "is_last", "is_terminal")  # arrays that only Dreamer's episodes have
BOOKKEEPING = ("step", "stepid", "id", "consec", "seed", "reset", "discount", "logprob", "episode", "index")
UNSORTED = 0.5  # share of rows that do not go on in the next one, from which on they are in no order of time


class ArrayKeys(Settings):
    """Names of the arrays, where they are not to be found by themselves. null: as `NAMES` has them."""

    observation: str | list[str] | None = None
    next_observation: str | None = None
    action: str | list[str] | None = None
    reward: str | None = None
    terminated: str | None = None
    truncated: str | None = None
    ends: str | None = None
    first: str | None = None
    lengths: str | None = None
    timing: Timing | None = None


class Span(NamedTuple):
    """One episode of a part: T steps."""

    begin: int  # the first of its rows
    steps: int
    number: int  # among the episodes of the part
    terminated: bool


@dataclass(frozen=True)
class Layout:
    """The arrays of a part by what they are, and its episodes."""

    where: str
    observation: Mapping[Path, Column]
    next_observation: Mapping[Path, Column] | None
    action: Mapping[Path, Column]
    reward: Column | None
    spans: list[Span]
    arriving: bool  # rewards and ends of row t came with observation t
    last_observation: Literal["there", "next", "missing"]
    edges: Bools  # (N,) rows of Dreamer's that begin or end an episode: one of both has an action of zeros
    acting_first: bool  # some action in an episode's first row is not zero
    aside: list[str]  # arrays that were not taken
    notes: list[str]

    def rows(self, span: Span, timing: Timing) -> tuple[slice, slice, slice]:
        """Where the episode's observations, T+1 or T of them, its actions and its rewards stand."""
        extra = span.number if self.last_observation == "there" and not self.arriving else 0
        begin = span.begin + extra
        seen = span.steps + (self.last_observation == "there")
        moved = span.begin + 1
        acted = moved if timing == "before" else span.begin
        rewarded = moved if self.arriving else span.begin
        return slice(begin, begin + seen), slice(acted, acted + span.steps), slice(rewarded, rewarded + span.steps)


def layout(part: Part, keys: ArrayKeys, alone: bool) -> Layout:
    """The part, understood. alone: it is all there is, so that it is no single episode unless it says so.

    Raises DatasetError, naming file, key and index, where arrays are missing, of different lengths or contradict each
    other.
    """
    found = {role: _named(part, role, getattr(keys, role)) for role in NAMES}
    dreamer = any(name in part.columns for name in DREAMER)
    action = found["action"]
    if not action:
        raise DatasetError(f"{part.where} has no actions, only {_listed(part)}; name them: keys.action=...")
    rows = len(next(iter(action.values())))
    observation = found["observation"]
    if dreamer and keys.observation is None:
        taken = {id(column) for role, columns in found.items() if role != "observation" for column in columns.values()}
        observation = _all_that_is_left(part, taken, rows) or observation
    if not observation:
        raise DatasetError(f"{part.where} has no observations, only {_listed(part)}; name them: keys.observation=...")
    arriving = keys.timing != "after" if keys.timing else dreamer
    single = {role: next(iter(found[role].values()), None) for role in ("reward", "lengths")}
    reward = single["reward"]
    for column in (*action.values(), *([reward] if reward else [])):
        _check_rows(column, rows, f"there are {rows} actions")
    ends = _Ends(part, found, rows, arriving)
    single_file = alone and all(len(column) == rows for column in observation.values())
    cuts, notes = ends.cuts(single["lengths"], single_file)
    following = found["next_observation"] or None
    if following and not ends.complete:
        cuts |= _torn(observation, following, cuts)
    stops = np.flatnonzero(cuts)
    begins = np.concatenate([[0], stops[:-1] + 1])
    seen = {len(column) for column in observation.values()}
    if arriving or seen == {rows + len(stops)}:
        last: Literal["there", "next", "missing"] = "there"
    else:
        last = "next" if following else "missing"
    wanted = rows + len(stops) if last == "there" and not arriving else rows
    for column in observation.values():
        _check_rows(column, wanted, f"{rows} actions in {len(stops)} episodes need {rows}, or {rows + len(stops)}")
    for column in (following or {}).values():
        _check_rows(column, rows, f"there are {rows} actions")
    spans = [
        Span(int(begin), int(stop - begin + (not arriving)), number, bool(ends.terminated[stop]))
        for number, (begin, stop) in enumerate(zip(begins, stops, strict=True))
    ]
    edges = np.zeros(rows, np.bool_)
    if arriving:
        edges[begins] = edges[stops] = True
    one = next(iter(action.values()))
    acting = arriving and any(np.any(one.rows(int(begin), int(begin) + 1)) for begin in begins)
    used = {id(column) for group in (*found.values(), observation) for column in group.values()}
    aside = [name for name, column in part.columns.items() if id(column) not in used]
    return Layout(
        part.where, observation, following, action, reward, spans, arriving, last, edges, acting, aside, notes
    )


def _named(part: Part, role: str, key: str | list[str] | None) -> dict[Path, Column]:
    """The arrays of a role by their place in it: {(): array}, or several where a group or several names are meant."""
    if isinstance(key, list):
        several = {name: _named(part, role, name) for name in key}
        return {(*_place(name, key), *path): column for name, each in several.items() for path, column in each.items()}
    for name in (key,) if key else NAMES[role]:
        if name in part.columns:
            return {(): part.columns[name]}
        inside = {n.removeprefix(f"{name}/"): c for n, c in part.columns.items() if n.startswith(f"{name}/")}
        if inside:
            return {tuple(path.split("/")): column for path, column in inside.items()}
    if key:
        raise DatasetError(f"{part.where} has no array '{key}' for keys.{role}; there are {_listed(part)}")
    return {}


def _place(name: str, names: list[str]) -> Path:
    """Where one of several arrays stands in the observation: by the end of its name, if no other ends so."""
    ends = [each.rpartition("/")[2] for each in names]
    return (ends[names.index(name)],) if len(set(ends)) == len(ends) else tuple(name.split("/"))


def _all_that_is_left(part: Part, taken: set[int], rows: int) -> dict[Path, Column]:
    """Dreamer's observations have any names: what is no bookkeeping and has a row a step."""
    left = {
        name: column
        for name, column in part.columns.items()
        if id(column) not in taken and len(column) == rows and column.dtype.kind in NUMBERS
        if "/" not in name and not name.startswith("log_") and name not in BOOKKEEPING
    }
    return {(): next(iter(left.values()))} if len(left) == 1 else {(name,): column for name, column in left.items()}


class _Ends:
    """Where episodes end, from whatever says so."""

    def __init__(self, part: Part, found: Mapping[str, Mapping[Path, Column]], rows: int, arriving: bool):
        self.part, self.count, self.arriving = part, rows, arriving
        self.column = {role: next(iter(found[role].values()), None) for role in NAMES}
        self.complete = False  # whether a time limit would be known
        self.terminated: Bools = np.zeros(rows, np.bool_)

    def cuts(self, lengths: Column | None, alone: bool) -> tuple[Bools, list[str]]:
        """(N,) True in the last row of each episode, and what a reader of the data should know of them."""
        flags = {role: self._flags(role) for role in ("terminated", "truncated", "first")}
        ends, places = self._ends()
        places = places if lengths is None else self._sums(lengths)
        notes: list[str] = []
        cut: Bools = np.zeros(self.count, np.bool_)
        for each in (flags["terminated"], flags["truncated"], ends):
            if each is not None:
                cut |= each
        if flags["first"] is not None:
            cut[:-1] |= flags["first"][1:]
        if flags["terminated"] is not None:
            self.terminated = flags["terminated"]
        elif ends is not None:
            self.terminated = ends if flags["truncated"] is None else ends & ~flags["truncated"]
            if flags["truncated"] is None:
                name = self._name("ends")
                notes.append(f"every end in '{name}' is taken for a termination; keys.truncated=... names time limits")
        elif flags["first"] is not None:
            notes.append("nothing says that an episode terminated: every end is taken for a time limit")
        self.complete = any(flags[role] is not None for role in ("truncated", "first")) or places is not None
        if places is not None:
            self._check_inside(cut, places)
            cut[:] = False
            cut[places] = True
        elif not self.complete and ends is None and flags["terminated"] is None and alone:
            raise DatasetError(
                f"{self.part.where} does not say where episodes end: there are {_listed(self.part)}; name what does: "
                "keys.terminated=, keys.truncated=, keys.ends=, keys.first= or keys.lengths="
            )
        if self.count:
            cut[-1] = True
        return cut, notes

    def _name(self, role: str) -> str:
        return next(name for name, column in self.part.columns.items() if column is self.column[role])

    def _flags(self, role: str) -> Bools | None:
        column = self.column[role]
        if column is None:
            return None
        _check_rows(column, self.count, f"there are {self.count} actions")
        return _as_flags(column)

    def _ends(self) -> tuple[Bools | None, NDArray[np.int64] | None]:
        """Flags, one a row, or the last row of each episode from numbers that say where the next one begins."""
        column = self.column["ends"]
        if column is None:
            return None, None
        if len(column) == self.count and (column.dtype.kind in "bf" or _is_flags(column)):
            return _as_flags(column), None
        after = _whole(column)
        if not len(after) or after[-1] != self.count or after[0] < 1 or (np.diff(after) < 1).any():
            raise column.refuse(
                f"ends at {after[-1] if len(after) else 'nothing'} where there are {self.count} actions",
                "give a flag for each row, or the row after each episode, rising",
            )
        return None, after - 1

    def _sums(self, lengths: Column) -> NDArray[np.int64]:
        steps = _whole(lengths)
        if (steps < 1).any() or steps.sum() != self.count:
            raise lengths.refuse(f"sums up to {steps.sum()} rows, not {self.count}", "give each episode's, 1 or more")
        return np.asarray(np.cumsum(steps) - 1)

    def _check_inside(self, cut: Bools, places: NDArray[np.int64]) -> None:
        inside = cut.copy()
        inside[places] = False
        if inside.any():
            row = int(inside.argmax())
            role = next(r for r in ("terminated", "truncated", "ends", "first") if self.column[r] is not None)
            column = self.column[role]
            assert column is not None
            raise column.refuse(
                f"ends an episode at index {row}, which lies inside episode {int(np.searchsorted(places, row))}",
                "its lengths say otherwise: leave one of them out",
            )


def _torn(observation: Mapping[Path, Column], following: Mapping[Path, Column], cuts: Bools) -> Bools:
    """Rows after which another episode begins, because the observation that followed is not that of the next row.

    Data without time limits has its episodes cut there. Raises DatasetError where hardly any row goes on in the next.
    """
    torn = np.zeros(len(cuts), np.bool_)
    for path, after in following.items():
        if path not in observation:
            continue
        for begin, end in chunks(after):
            end = min(end, len(cuts) - 1)
            if begin < end:
                own, others = after.rows(begin, end), observation[path].rows(begin + 1, end + 1)
                torn[begin:end] |= (own != others).reshape(end - begin, -1).any(1)
    torn &= ~cuts
    if torn.sum() > UNSORTED * max(1, len(cuts)):
        first = next(iter(following.values()))
        raise first.refuse(
            f"at index {int(torn.argmax())} is not the observation of the next row, as in most rows",
            "sort the rows by time, or give keys.lengths=...",
        )
    return torn


def chunks(column: Column, size: int = 32 << 20) -> Iterator[tuple[int, int]]:
    """Stretches of rows of about `size` bytes."""
    rows = max(1, size // max(1, int(np.prod(column.shape[1:])) * column.dtype.itemsize))
    for begin in range(0, len(column), rows):
        yield begin, min(begin + rows, len(column))


def _check_rows(column: Column, wanted: int, why: str) -> None:
    if len(column) != wanted:
        raise column.refuse(f"has {len(column)} rows", f"{why}: give as many")


def _is_flags(column: Column) -> bool:
    return bool(np.isin(column.rows(0, len(column)), (0, 1)).all())


def _as_flags(column: Column) -> Bools:
    values = column.rows(0, len(column))
    if values.dtype.kind not in NUMBERS or values.size != len(values):
        raise column.refuse(f"has {values.dtype} of shape {values.shape}", "give true or false for each row")
    values = values.reshape(len(values))
    wrong = ~np.isin(values, (0, 1))
    if wrong.any():
        row = int(wrong.argmax())
        raise column.refuse(f"is {values[row]} at index {row}", "give true or false for each row")
    return np.asarray(values, np.bool_)


def _whole(column: Column) -> NDArray[np.int64]:
    values = column.rows(0, len(column)).reshape(-1)
    if values.dtype.kind not in NUMBERS or (values != np.rint(values)).any():
        raise column.refuse("has values that are no whole numbers", "give rows or lengths of episodes")
    return np.asarray(values, np.int64)


def _listed(part: Part) -> str:
    names = list(part.columns)
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "") if names else "nothing"
