"""Imports plain arrays as a data set: one pass to infer spaces and episodes, one to convert, an episode at a time.

Where the observation after an episode's last action is missing, the last one is repeated, so that the action, its
reward and the termination are kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from worldsim.errors import DatasetError
from worldsim.rollouts.array_files import NUMBERS, ArrayColumn, array_files, opened
from worldsim.rollouts.array_roles import ArrayRole, check_finite
from worldsim.rollouts.arrays import repeat_last
from worldsim.rollouts.conventions import ArrayKeys, EpisodeSpan, KeyPath, Layout, Timing, layout
from worldsim.rollouts.progress import Bar
from worldsim.rollouts.recording import Raw
from worldsim.spaces import Space


@dataclass
class ArrayImport:
    """The arrays in `place`, inspected: spaces and lengths are known, and `episodes` converts them."""

    place: Path
    keys: ArrayKeys
    observation: ArrayRole = field(default_factory=lambda: ArrayRole("observation"))
    action: ArrayRole = field(default_factory=lambda: ArrayRole("action"))
    lengths: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    timing: Timing = "after"
    observation_space: Space = field(init=False)
    action_space: Space = field(init=False)

    @classmethod
    def of(
        cls, place: Path, keys: ArrayKeys, env: gym.Env[Any, Any] | None, name: str, progress: bool
    ) -> "ArrayImport":
        """Inspects all files. env: the environment whose spaces the arrays must fit, called `name`; None: infer them.

        Raises DatasetError, naming file, key and index, where the arrays do not fit together, and SpaceMismatchError
        where they do not fit the environment.
        """
        # One pass gathers all that must be known before the first row is written, because the files may be large.
        self = cls(place, keys)
        missing = empty = 0
        acting = arriving = False
        with Bar("inspect", len(array_files(place)), progress) as bar:
            for found in self._layouts(bar):
                if not self.lengths:
                    self.notes.append(_roles_taken(found))
                acting, arriving = acting or found.acting_first, found.arriving
                rows = len(found.edges)
                self.observation.inspect(found.observation, np.zeros(0, np.bool_))
                self.action.inspect(found.action, found.edges)
                _rewards(found.reward, slice(0, rows), rows)  # raises now, before anything is written
                kept = _kept(found)
                self.lengths += [span.steps for span in kept]
                self.notes += [note for note in found.notes if note not in self.notes]
                missing += len(kept) * (found.last_observation == "missing")
                empty += len(found.spans) - len(kept)
        if not self.lengths:
            raise DatasetError(f"arrays={place} has no episode of a step or more; give rows of actions")
        # One timing for all files: by itself, a file whose first action happens to be 0 would be misread.
        self.timing = keys.timing or ("after" if not arriving else "mixed" if acting else "before")
        self.observation_space = self.observation.space(env.observation_space if env else None, name)
        self.action_space = self.action.space(env.action_space if env else None, name)
        for role in (self.observation, self.action):
            noted = ((place, conversion.note) for place, conversion in role.conversions.items() if conversion.note)
            self.notes += [f"{role.named[place]}: {note}" for place, note in noted]
        if arriving:
            self.notes.append(TIMING_NOTES[self.timing])
        if missing:
            self.notes.append(
                f"{missing} of {len(self.lengths)} episodes have no last observation: the one before is repeated"
            )
        if empty:
            self.notes.append(f"{empty} episodes without a step were left out")
        return self

    def episodes(self) -> Iterator[Raw]:
        """All episodes, in order. Raises DatasetError, naming file, key and index, where a value cannot be used."""
        for found in self._layouts():
            yield from (self._episode(found, span) for span in _kept(found))

    def _layouts(self, bar: Bar | None = None) -> Iterator[Layout]:
        """All groups of arrays, each used before the next file is opened."""
        files = array_files(self.place)
        for file in bar.each(files) if bar else files:
            with opened(file) as groups:
                for group in groups:
                    yield layout(group, self.keys, alone=len(files) == len(groups) == 1)

    def _episode(self, found: Layout, span: EpisodeSpan) -> Raw:
        observed, acted, rewarded = found.rows(span, self.timing)
        raw: Raw = {"policy": np.asarray("arrays")}
        for place, column in found.observation.items():
            rows = self.observation.values(place, column, observed)
            if found.last_observation == "next":
                after = found.next_observation.get(place)
                if after is None:
                    raise column.error("has no next observation", "leave keys.next_observation out")
                last = slice(observed.stop - 1, observed.stop)
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
    """Size and modification time of each file of the arrays, by its path, to notice changes."""
    files = [file for each in array_files(place) for file in (sorted(each.glob("*.npy")) if each.is_dir() else [each])]
    found = {str(file.relative_to(place)) if file != place else file.name: file.stat() for file in files}
    return {name: [about.st_size, about.st_mtime_ns] for name, about in found.items()}


TIMING_NOTES: dict[Timing, str] = {
    "before": "the action of row t led to observation t (keys.timing=mixed: it follows)",
    "mixed": "the action of row t follows observation t (keys.timing=before: it led there)",
    "after": "action and reward of row t follow observation t",
}


def _roles_taken(found: Layout) -> str:
    """One line: which array was taken for which role."""
    groups = {"observation": found.observation, "action": found.action}
    groups |= {"reward": {(): found.reward}} if found.reward else {}
    parts = [f"{role} is {', '.join(_key(column) for column in each.values())}" for role, each in groups.items()]
    parts += [] if found.reward else ["there are no rewards, so all are 0"]
    parts += [f"unused: {', '.join(found.unused[:8])}{' and more' * (len(found.unused) > 8)}"] if found.unused else []
    return "; ".join(parts)


def _key(column: ArrayColumn) -> str:
    return column.where.rpartition(": ")[2]


def _kept(found: Layout) -> list[EpisodeSpan]:
    return [span for span in found.spans if span.steps > 0]


def _rewards(column: ArrayColumn | None, rows: slice, steps: int) -> NDArray[np.float64]:
    if column is None:
        return np.zeros(steps)
    values = column.rows(rows.start, rows.stop)
    if values.dtype.kind not in NUMBERS or values.size != steps:
        raise column.error(f"has {values.dtype} of shape {column.shape}", "give one number for each row")
    check_finite(column, values, rows.start)
    return values.reshape(steps).astype(np.float64)


def _leaf(place: KeyPath) -> str:
    return "/".join(place) or "value"
