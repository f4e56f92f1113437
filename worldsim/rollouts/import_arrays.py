"""Plain arrays of others as a data set, one episode in memory at a time: read once to see what they are, once to keep.

An episode of T actions whose last observation was not kept keeps its last action, reward and ending all the same: the
observation before stands a second time, as what came of it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.errors import DatasetError, SpaceMismatchError
from worldsim.rollouts import forms
from worldsim.rollouts.array_files import NUMBERS, Column, array_files, opened
from worldsim.rollouts.arrays import repeat_last
from worldsim.rollouts.conventions import ArrayKeys, Layout, Span, Timing, chunks, layout
from worldsim.rollouts.conventions import Path as Place
from worldsim.rollouts.forms import Form, Statistics
from worldsim.rollouts.progress import Bar
from worldsim.rollouts.recording import Raw
from worldsim.spaces import leaves

Space = gym.Space[Any]


@dataclass
class Group:
    """The observation or the action of all parts: what was seen of its arrays, and the space that they make."""

    name: str  # "observation" or "action"
    found: dict[Place, Statistics] = field(default_factory=dict)
    named: dict[Place, str] = field(default_factory=dict)  # where each array was first found
    forms: dict[Place, Form] = field(default_factory=dict)

    def look(self, columns: Mapping[Place, Column], edges: NDArray[np.bool_]) -> None:
        """Sees what the columns of another part hold. edges: rows that count for nothing where they are all zeros.

        Raises DatasetError where arrays are missing, no numbers, or not of the shape and type of those before.
        """
        first = not self.found
        for place, column in columns.items():
            if column.dtype.kind not in NUMBERS:
                raise column.refuse(f"is of type {column.dtype}", "numbers are needed; save it as an array of numbers")
            if not first and place not in self.found:
                raise column.refuse(f"is in no file before, such as {self._example()}", "give files of the same arrays")
            found = self.found.setdefault(place, Statistics(column.shape[1:], column.dtype))
            self.named.setdefault(place, column.where)
            if (column.shape[1:], column.dtype) != (found.shape, found.dtype):
                raise column.refuse(
                    f"has rows of {column.dtype} {column.shape[1:]}, and {self.named[place]} has "
                    f"{found.dtype} {found.shape}",
                    "give files of the same arrays",
                )
            if self._matters(found):
                for begin, end in chunks(column):
                    rows = column.rows(begin, end)
                    check_finite(column, rows, begin)
                    found.add(rows[~(edges[begin:end] & _zeros(rows))] if edges.any() else rows)
        for place, where in self.named.items():
            if place not in columns:
                raise DatasetError(
                    f"{next(iter(columns.values())).where} stands alone, without {where.split(': ')[-1]}"
                )

    def _example(self) -> str:
        return next(iter(self.named.values()))

    def _matters(self, found: Statistics) -> bool:
        """Whether the space hangs on the values: of floats that may be pictures, single whole numbers, and actions."""
        floats = found.dtype.kind == "f" and forms.may_be_picture(found.shape)
        return self.name == "action" or floats or (found.dtype.kind in "iu" and not found.shape)

    def space(self, given: Space | None, env: str) -> Space:
        """The space of values. given: that of the environment `env`, which then is the space.

        Raises SpaceMismatchError where it is none of these arrays.
        """
        make = forms.observation_form if self.name == "observation" else forms.action_form
        self.forms = {place: make(found) for place, found in self.found.items()}
        if given is None:
            return _nested({place: form.space for place, form in self.forms.items()})
        wanted = {tuple(map(str, leaf.path)): leaf.space for leaf in leaves(given)}
        if wanted.keys() != self.found.keys():
            names = [" and ".join("/".join(place) or "one array" for place in each) for each in (wanted, self.found)]
            raise SpaceMismatchError(
                f"the {self.name} of env {env} has {names[0]}, the arrays have {names[1]}; name those that it has: "
                f"keys.{self.name}=..., or spaces=arrays"
            )
        for place, found in self.found.items():
            fitting = forms.form_for(wanted[place], self.forms[place], found)
            if fitting is None:
                raise SpaceMismatchError(
                    f"{self.named[place]} has rows of {found.dtype} {found.shape}, and env {env} has {wanted[place]} "
                    "there; give the env of these arrays with its env.resize and env.kwargs, or spaces=arrays"
                )
            self.forms[place] = fitting
        return given

    def values(self, place: Place, column: Column, rows: slice) -> NDArray[Any]:
        """Rows of a column as values of the space. Raises DatasetError, naming the index, where they are none."""
        read = column.rows(rows.start, rows.stop)
        check_finite(column, read, rows.start)
        form = self.forms[place]
        made = form.change(read)
        low, high = _bounds(form.space)
        if low is not None:
            outside = ((made < low) | (made > high)).reshape(len(made), -1).any(1)
            if outside.any():
                index = rows.start + int(outside.argmax())
                raise column.refuse(f"is outside {form.space} at index {index}", "mend the data, or give spaces=arrays")
        return made


@dataclass
class Import:
    """What `place` holds, understood; `episodes` reads it."""

    place: Path
    keys: ArrayKeys
    observation: Group = field(default_factory=lambda: Group("observation"))
    action: Group = field(default_factory=lambda: Group("action"))
    lengths: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    timing: Timing = "after"
    observation_space: Space = field(init=False)
    action_space: Space = field(init=False)

    @classmethod
    def of(cls, place: Path, keys: ArrayKeys, env: gym.Env[Any, Any] | None, name: str, progress: bool) -> "Import":
        """Looks at all files. env: whose spaces the arrays are to have, called `name`; None: those that they make.

        Raises DatasetError, naming file, key and index, where the arrays do not fit together, and SpaceMismatchError
        where they do not fit the environment.
        """
        self, files = cls(place, keys), array_files(place)
        missing = empty = 0
        acting = arriving = False
        with Bar("look", len(files), progress) as bar:
            for file in bar.each(files):
                with opened(file) as parts:
                    for part in parts:
                        found = layout(part, keys, alone=len(files) == len(parts) == 1)
                        if not self.lengths:
                            self.notes.append(_taken(found))
                        acting, arriving = acting or found.acting_first, found.arriving
                        self.observation.look(found.observation, np.zeros(0, np.bool_))
                        self.action.look(found.action, found.edges)
                        _rewards(found.reward, slice(0, len(found.edges)), len(found.edges))
                        kept = _kept(found)
                        self.lengths += [span.steps for span in kept]
                        self.notes += [note for note in found.notes if note not in self.notes]
                        missing += len(kept) * (found.last_observation == "missing")
                        empty += len(found.spans) - len(kept)
        if not self.lengths:
            raise DatasetError(f"arrays={place} has no episode of a step or more; give rows of actions")
        self.timing = keys.timing or ("after" if not arriving else "mixed" if acting else "before")
        self.observation_space = self.observation.space(env.observation_space if env else None, name)
        self.action_space = self.action.space(env.action_space if env else None, name)
        for group in (self.observation, self.action):
            self.notes += [f"{group.named[place]}: {form.note}" for place, form in group.forms.items() if form.note]
        if arriving:
            self.notes.append(TIMINGS[self.timing])
        if missing:
            self.notes.append(
                f"{missing} of {len(self.lengths)} episodes have no last observation: the one before stands twice"
            )
        if empty:
            self.notes.append(f"{empty} episodes without a step were left out")
        return self

    def episodes(self) -> Iterator[Raw]:
        """All episodes, in order. Raises DatasetError, naming file, key and index, where a value cannot be used."""
        files = array_files(self.place)
        for file in files:
            with opened(file) as parts:
                for part in parts:
                    found = layout(part, self.keys, alone=len(files) == len(parts) == 1)
                    yield from (self._episode(found, span) for span in _kept(found))

    def _episode(self, found: Layout, span: Span) -> Raw:
        seen, acted, rewarded = found.rows(span, self.timing)
        raw: Raw = {"policy": np.asarray("arrays")}
        for place, column in found.observation.items():
            rows = self.observation.values(place, column, seen)
            if found.last_observation == "next" and found.next_observation is not None:
                after = found.next_observation.get(place)
                if after is None:
                    raise column.refuse("has no next observation", "leave keys.next_observation out")
                last = slice(seen.stop - 1, seen.stop)
                rows = np.concatenate([rows, self.observation.values(place, after, last)])
            elif found.last_observation == "missing":
                rows = repeat_last(rows)
            raw[f"observation/{_leaf(place)}"] = rows
        for place, column in found.action.items():
            raw[f"action/{_leaf(place)}"] = self.action.values(place, column, acted)
        raw["reward"] = _rewards(found.reward, rewarded, span.steps)
        raw["terminated"], raw["truncated"] = (np.zeros(span.steps, np.bool_) for _ in range(2))
        raw["terminated"][-1], raw["truncated"][-1] = span.terminated, not span.terminated
        return raw


def sizes_of(place: Path) -> dict[str, list[int]]:
    """Size and time of change of each file of the arrays, by its path: what says that they are as they were."""
    files = [file for each in array_files(place) for file in (sorted(each.glob("*.npy")) if each.is_dir() else [each])]
    found = {str(file.relative_to(place)) if file != place else file.name: file.stat() for file in files}
    return {name: [about.st_size, about.st_mtime_ns] for name, about in found.items()}


TIMINGS: dict[Timing, str] = {
    "before": "the action of row t led to observation t (keys.timing=mixed: it follows)",
    "mixed": "the action of row t follows observation t (keys.timing=before: it led there)",
    "after": "action and reward of row t follow observation t",
}


def check_finite(column: Column, rows: NDArray[Any], begin: int) -> None:
    """Raises DatasetError with the first row of NaN or an infinity. begin: the index of the first row."""
    if rows.dtype.kind == "f":
        bad = ~np.isfinite(rows).reshape(len(rows), -1).all(1)
        if bad.any():
            raise column.refuse(f"has NaN or an infinity at index {begin + int(bad.argmax())}", "mend the data")


def _taken(found: Layout) -> str:
    """Which array was taken for what, in a line."""
    groups = {"observation": found.observation, "action": found.action}
    groups |= {"reward": {(): found.reward}} if found.reward else {}
    said = [f"{role} is {', '.join(_key(column) for column in each.values())}" for role, each in groups.items()]
    said += [] if found.reward else ["there are no rewards, so all are 0"]
    said += [f"left aside: {', '.join(found.aside[:8])}{' and more' * (len(found.aside) > 8)}"] if found.aside else []
    return "; ".join(said)


def _key(column: Column) -> str:
    return column.where.rpartition(": ")[2]


def _kept(found: Layout) -> list[Span]:
    return [span for span in found.spans if span.steps > 0]


def _rewards(column: Column | None, rows: slice, steps: int) -> NDArray[np.float64]:
    if column is None:
        return np.zeros(steps)
    values = column.rows(rows.start, rows.stop)
    if values.dtype.kind not in NUMBERS or values.size != steps:
        raise column.refuse(f"has {values.dtype} of shape {column.shape}", "give one number for each row")
    check_finite(column, values, rows.start)
    return values.reshape(steps).astype(np.float64)


def _zeros(rows: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray((rows.reshape(len(rows), -1) == 0).all(1))


def _bounds(space: Space) -> tuple[Any, Any]:
    """Least and greatest values of a space that could be passed; None where every value of its type is one."""
    if isinstance(space, spaces.Box):
        every = space.dtype == np.uint8 and space.low.min() == 0 and space.high.max() == 255
        return (None, None) if every else (space.low, space.high)
    if isinstance(space, spaces.Discrete):
        return space.start, space.start + space.n - 1
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    return 0, 1


def _leaf(place: Place) -> str:
    return "/".join(place) or "value"


def _nested(parts: Mapping[Place, Space]) -> Space:
    """Dicts of dicts of the spaces, by their places; a single one without a place is the space itself."""
    if () in parts:
        return parts[()]
    inner: dict[str, dict[Place, Space]] = {}
    for place, space in parts.items():
        inner.setdefault(place[0], {})[place[1:]] = space
    return spaces.Dict([(key, _nested(each)) for key, each in inner.items()])
