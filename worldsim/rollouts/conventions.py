"""How other programs lay out arrays of episodes: names of the arrays, ends of episodes, and what a row holds.

| written by                    | arrays                                                        | row t          |
|-------------------------------|---------------------------------------------------------------|----------------|
| D4RL, most replay buffers     | observations, actions, rewards, terminals, timeouts           | o_t, a_t, r_t+1|
| DreamerV3, an episode a file  | image, action, reward, is_first, is_last, is_terminal         | o_t, a_t-1, r_t|
| DreamerV3's replay            | the same                                                      | o_t, a_t, r_t  |
| robomimic, Minari             | a group an episode: obs/... or observations, actions, rewards | o_t, a_t, r_t+1|
| imitation, Stable-Baselines   | obs, actions, rewards, episode_starts                         | o_t, a_t, r_t+1|

a_t is the action taken in o_t, r_t the reward that arrived with o_t.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from worldsim.errors import DatasetError
from worldsim.rollouts.array_files import NUMBERS, ArrayColumn, ArrayGroup
from worldsim.settings import Settings
from worldsim.spaces import Bools, Ints

KeyPath = tuple[str, ...]
Timing = Literal["after", "before", "mixed"]
LastObservation = Literal[
    "there", "next", "missing"
]  # where an episode's last observation is: among the observations, in `next_observation`, nowhere
NAMES = {  # of arrays, or of groups of them, by role; the first that exists is taken
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
UNSORTED = 0.5  # rows are not in order of time if this share of them is not followed by its next observation


class ArrayKeys(Settings):
    """Names of the arrays, where they are not among `NAMES`.

    Groups in HDF5 are written with /, as in obs/image.
    """

    observation: str | list[str] | None = Field(None, description="one name, or several: [obs/image,obs/joints]")
    next_observation: str | None = Field(
        None, description="the observation after each row's action; only that of each episode's last row is used"
    )
    action: str | list[str] | None = Field(None, description="one name, or several")
    reward: str | None = Field(None, description="one number a row; without it all rewards are 0")
    terminated: str | None = Field(None, description="true where an episode terminated")
    truncated: str | None = Field(None, description="true where it was truncated, e.g. by a time limit")
    ends: str | None = Field(
        None, description="true where an episode ended for either reason; or the number of the row after each episode"
    )
    first: str | None = Field(None, description="true where an episode begins")
    lengths: str | None = Field(None, description="rows of each episode")
    timing: Timing | None = Field(
        None,
        description="after: action and reward of row t follow observation t (D4RL); before: they led to it "
        "(DreamerV3's episodes); mixed: the action follows, the reward arrived with it (DreamerV3's replay); null: "
        "inferred from is_first and the first actions",
    )


class EpisodeSpan(NamedTuple):
    """One episode of a group of arrays: T steps."""

    begin: int  # the first of its rows
    steps: int
    number: int  # among the episodes of the group
    terminated: bool


@dataclass(frozen=True)
class Layout:
    """The arrays of a group by role, and its episodes."""

    observation: Mapping[KeyPath, ArrayColumn]
    next_observation: Mapping[KeyPath, ArrayColumn]  # empty where there is none
    action: Mapping[KeyPath, ArrayColumn]
    reward: ArrayColumn | None
    spans: list[EpisodeSpan]
    arriving: bool  # rewards and ends of row t arrived with observation t, as Dreamer stores them
    last_observation: LastObservation
    edges: Bools  # (N,) first and last rows of Dreamer's episodes, of which one holds a dummy action of zeros
    acting_first: bool  # whether any action in an episode's first row is not zero
    unused: list[str]  # names of arrays without a role
    notes: list[str]

    def rows(self, span: EpisodeSpan, timing: Timing) -> tuple[slice, slice, slice]:
        """The rows of the episode's observations (T+1 or T), of its actions and of its rewards."""
        extra = span.number if self.last_observation == "there" and not self.arriving else 0
        begin = span.begin + extra
        observed = span.steps + (self.last_observation == "there")
        moved = span.begin + 1
        acted = moved if timing == "before" else span.begin
        rewarded = moved if self.arriving else span.begin
        return slice(begin, begin + observed), slice(acted, acted + span.steps), slice(rewarded, rewarded + span.steps)


def layout(group: ArrayGroup, keys: ArrayKeys, alone: bool) -> Layout:
    """Finds the roles of a group's arrays and its episodes.

    alone: it is the only group, so it is not taken for a single episode unless its arrays say so.

    Raises DatasetError, naming file, key and index, where arrays are missing, of different lengths or contradict each
    other.
    """
    # Not split: where episodes end, what the rows are and when rewards arrive are inferred from one another.
    found = _arrays_by_role(group, keys)
    observation, following, action = (found[role] for role in ("observation", "next_observation", "action"))
    reward = next(iter(found["reward"].values()), None)
    rows = len(next(iter(action.values())))
    for column in (*action.values(), *found["reward"].values(), *following.values()):
        _check_rows(column, rows, f"there are {rows} actions")
    for path in following.keys() & observation.keys():
        shapes = [columns[path].shape[1:] for columns in (following, observation)]
        if shapes[0] != shapes[1]:
            raise following[path].error(f"has rows of {shapes[0]}", f"the observations have {shapes[1]}")
    # Only Dreamer stores rewards and ends in the row of the observation that they arrived with.
    arriving = keys.timing != "after" if keys.timing else any(name in group.columns for name in DREAMER)
    as_many = all(len(column) == rows for column in observation.values())
    ends = _EpisodeEnds(group, found, rows, alone and as_many)
    if following and as_many and not ends.complete:
        ends.cuts |= _discontinuities(observation, following, ends.cuts)
    stops = np.flatnonzero(ends.cuts)
    begins = np.concatenate([[0], stops[:-1] + 1])
    last: LastObservation = "next" if following else "missing"
    if arriving or all(len(column) == rows + len(stops) for column in observation.values()):
        last = "there"
    wanted = rows + len(stops) if last == "there" and not arriving else rows
    for column in observation.values():
        _check_rows(column, wanted, f"{rows} actions in {len(stops)} episodes need {rows}, or {rows + len(stops)}")
    spans = [
        EpisodeSpan(int(begin), int(stop - begin + (not arriving)), number, bool(ends.terminated[stop]))
        for number, (begin, stop) in enumerate(zip(begins, stops, strict=True))
    ]
    edges = np.zeros(rows, np.bool_)
    if arriving:
        edges[begins] = edges[stops] = True
    # Dreamer's episodes begin with a dummy action of zeros; in its replay buffer that row holds the first action.
    first = next(iter(action.values()))
    acting = arriving and any(np.any(first.rows(int(begin), int(begin) + 1)) for begin in begins)
    used = {id(column) for columns in found.values() for column in columns.values()}
    unused = [name for name, column in group.columns.items() if id(column) not in used]
    return Layout(observation, following, action, reward, spans, arriving, last, edges, acting, unused, ends.notes)


def _arrays_by_role(group: ArrayGroup, keys: ArrayKeys) -> dict[str, dict[KeyPath, ArrayColumn]]:
    """The group's arrays by role and key path. Raises DatasetError where there are no observations or no actions."""
    found = {role: _named(group, role, getattr(keys, role)) for role in NAMES}
    if found["action"] and keys.observation is None and any(name in group.columns for name in DREAMER):
        taken = {id(column) for role in found.keys() - {"observation"} for column in found[role].values()}
        rows = len(next(iter(found["action"].values())))
        found["observation"] = _remaining_arrays(group, taken, rows) or found["observation"]
    for role in ("action", "observation"):
        if not found[role]:
            raise DatasetError(f"{group.where} has no {role}s, only {_listed(group)}; name them: keys.{role}=...")
    return found


def _named(group: ArrayGroup, role: str, key: str | list[str] | None) -> dict[KeyPath, ArrayColumn]:
    """The arrays of a role by key path: {(): array}, or several of a group or of several names."""
    if isinstance(key, list):
        several = {name: _named(group, role, name) for name in key}
        return {(*_place(name, key), *path): column for name, each in several.items() for path, column in each.items()}
    for name in (key,) if key else NAMES[role]:
        if name in group.columns:
            return {(): group.columns[name]}
        inside = {n.removeprefix(f"{name}/"): c for n, c in group.columns.items() if n.startswith(f"{name}/")}
        if inside:
            return {tuple(path.split("/")): column for path, column in inside.items()}
    if key:
        raise DatasetError(f"{group.where} has no array '{key}' for keys.{role}; there are {_listed(group)}")
    return {}


def _place(name: str, names: list[str]) -> KeyPath:
    """Key path of one of several arrays: the last part of its name if that is unique, else all parts."""
    ends = [each.rpartition("/")[2] for each in names]
    return (ends[names.index(name)],) if len(set(ends)) == len(ends) else tuple(name.split("/"))


def _remaining_arrays(group: ArrayGroup, taken: set[int], rows: int) -> dict[KeyPath, ArrayColumn]:
    """Dreamer's observations may have any name: all arrays with a row for each step that are not bookkeeping."""
    left = {
        name: column
        for name, column in group.columns.items()
        if id(column) not in taken and len(column) == rows and column.dtype.kind in NUMBERS
        if "/" not in name and not name.startswith("log_") and name not in BOOKKEEPING
    }
    return {(): next(iter(left.values()))} if len(left) == 1 else {(name,): column for name, column in left.items()}


class _EpisodeEnds:
    """Where episodes end, from all arrays that mark it.

    cuts, (N,): True in the last row of each episode. terminated, (N,): True where it terminated. complete: whether
    truncations are marked, too. notes: assumptions that the user should know.
    """

    def __init__(
        self, group: ArrayGroup, found: Mapping[str, Mapping[KeyPath, ArrayColumn]], rows: int, must_say: bool
    ):
        """must_say: without any mark of ends, raise DatasetError; else all rows are one episode."""
        self.group, self.count = group, rows
        self.column = {role: next(iter(found[role].values()), None) for role in NAMES}
        self.cuts, self.terminated = (np.zeros(rows, np.bool_) for _ in range(2))
        self.notes: list[str] = []
        terminated, truncated, first = (self._flags(role) for role in ("terminated", "truncated", "first"))
        ends, places = self._ends()
        places = self._sums() if self.column["lengths"] is not None else places
        # Any of the flags ends an episode: ignoring one would join two episodes.
        for each in (terminated, truncated, ends):
            if each is not None:
                self.cuts |= each
        if first is not None:
            self.cuts[:-1] |= first[1:]
        # A truncation must not be learned as a termination: it says nothing about the environment.
        if terminated is not None:
            self.terminated = terminated
        elif ends is not None:
            self.terminated = ends if truncated is None else ends & ~truncated
            if truncated is None:
                name = self._name("ends")
                self.notes.append(
                    f"every end in '{name}' is taken for a termination; name time limits with keys.truncated=..."
                )
        elif first is not None:
            self.notes.append("no array marks terminations: every end is taken for a time limit")
        self.complete = truncated is not None or first is not None or places is not None
        if places is not None:
            self._check_inside(places)
            self.cuts[:] = False
            self.cuts[places] = True
        elif must_say and not self.complete and ends is None and terminated is None:
            raise DatasetError(
                f"{group.where} does not say where episodes end: there are {_listed(group)}; name what does: "
                "keys.terminated=, keys.truncated=, keys.ends=, keys.first= or keys.lengths="
            )
        self.cuts[-1:] = True

    def _name(self, role: str) -> str:
        return next(name for name, column in self.group.columns.items() if column is self.column[role])

    def _flags(self, role: str) -> Bools | None:
        column = self.column[role]
        if column is None:
            return None
        _check_rows(column, self.count, f"there are {self.count} actions")
        return _as_flags(column)

    def _ends(self) -> tuple[Bools | None, Ints | None]:
        """Flags, one for each row; or, from numbers of the row after each episode, each episode's last row."""
        column = self.column["ends"]
        if column is None:
            return None, None
        if len(column) == self.count and (column.dtype.kind in "bf" or _is_flags(column)):
            return _as_flags(column), None
        after = _integers(column)
        if not len(after) or after[-1] != self.count or after[0] < 1 or (np.diff(after) < 1).any():
            raise column.error(
                f"ends at {after[-1] if len(after) else 'nothing'} where there are {self.count} actions",
                "give a flag for each row, or the row after each episode, rising",
            )
        return None, after - 1

    def _sums(self) -> Ints:
        """The last row of each episode from the lengths."""
        lengths = self.column["lengths"]
        assert lengths is not None
        steps = _integers(lengths)
        if (steps < 1).any() or steps.sum() != self.count:
            raise lengths.error(f"sums up to {steps.sum()} rows, not {self.count}", "give each episode's, 1 or more")
        return np.asarray(np.cumsum(steps) - 1)

    def _check_inside(self, places: Ints) -> None:
        """Raises DatasetError where a flag ends an episode inside one that lengths or row numbers delimit."""
        inside = self.cuts.copy()
        inside[places] = False
        if inside.any():
            row = int(inside.argmax())
            role = next(r for r in ("terminated", "truncated", "ends", "first") if self.column[r] is not None)
            column = self.column[role]
            assert column is not None
            raise column.error(
                f"ends an episode at index {row}, which lies inside episode {int(np.searchsorted(places, row))}",
                "its lengths say otherwise: leave one of them out",
            )


def _discontinuities(
    observation: Mapping[KeyPath, ArrayColumn], following: Mapping[KeyPath, ArrayColumn], cuts: Bools
) -> Bools:
    """(N,) True where a row's next observation is not the observation of the next row: there, an episode was truncated.

    For data that does not mark time limits. Raises DatasetError where that is so in most rows.
    """
    breaks = np.zeros(len(cuts), np.bool_)
    for path, after in following.items():
        if path not in observation:
            continue
        for begin, end in chunks(after):
            end = min(end, len(cuts) - 1)
            if begin < end:
                following_rows, next_rows = after.rows(begin, end), observation[path].rows(begin + 1, end + 1)
                breaks[begin:end] |= (following_rows != next_rows).reshape(end - begin, -1).any(1)
    # Where frames stand still, nothing is noticed: two such episodes become one, unless a flag separates them.
    breaks &= ~cuts
    if breaks.sum() > UNSORTED * max(1, len(cuts)):
        first = next(iter(following.values()))
        raise first.error(
            f"at index {int(breaks.argmax())} is not the observation of the next row, as in most rows",
            "sort the rows by time, or give keys.lengths=...",
        )
    return breaks


def chunks(column: ArrayColumn, size: int = 32 << 20) -> Iterator[tuple[int, int]]:
    """Ranges of rows (begin, end) of about `size` bytes each."""
    rows = max(1, size // max(1, int(np.prod(column.shape[1:])) * column.dtype.itemsize))
    for begin in range(0, len(column), rows):
        yield begin, min(begin + rows, len(column))


def _check_rows(column: ArrayColumn, wanted: int, why: str) -> None:
    if len(column) != wanted:
        raise column.error(f"has {len(column)} rows", f"{why}: give as many")


def _is_flags(column: ArrayColumn) -> bool:
    return bool(np.isin(column.rows(0, len(column)), (0, 1)).all())


def _as_flags(column: ArrayColumn) -> Bools:
    values = column.rows(0, len(column))
    if values.dtype.kind not in NUMBERS or values.size != len(values):
        raise column.error(f"has {values.dtype} of shape {values.shape}", "give true or false for each row")
    values = values.reshape(len(values))
    wrong = ~np.isin(values, (0, 1))
    if wrong.any():
        row = int(wrong.argmax())
        raise column.error(f"is {values[row]} at index {row}", "give true or false for each row")
    return np.asarray(values, np.bool_)


def _integers(column: ArrayColumn) -> Ints:
    values = column.rows(0, len(column)).reshape(-1)
    if values.dtype.kind not in NUMBERS or (values != np.rint(values)).any():
        raise column.error("has values that are no whole numbers", "give rows or lengths of episodes")
    return np.asarray(values, np.int64)


def _listed(group: ArrayGroup) -> str:
    names = list(group.columns)
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "") if names else "nothing"
