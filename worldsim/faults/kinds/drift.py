"""Malformed, loud: replies that are built otherwise than was agreed."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar

import numpy as np

from worldsim.faults import leafwise
from worldsim.faults.fault import choice, count, number
from worldsim.faults.kinds.changes import BatchChange, Path
from worldsim.faults.kinds.loud import Loud
from worldsim.faults.kinds.texts import plain_payloads
from worldsim.faults.leafwise import as_text
from worldsim.faults.many.replies import Replies
from worldsim.faults.struck import Struck

_DRIFTS = ("renamed", "moved", "nested", "retyped", "added")


@dataclass(frozen=True, kw_only=True)
class SchemaDrift(Loud, BatchChange):
    """The service was released again, and its replies are built otherwise: the same wherever it strikes in an episode.

    renamed: a field has another name (`status` is `statusV2`). moved: it stands one level further up, or under "data".
    nested: it is an object around the value. retyped: a number is a text, a text a list. added: there is one more.

    | severity | share | fields |
    |----------|-------|--------|
    | 0.25     | 25 %  | 1      |
    | 0.5      | 50 %  | 2      |
    | 1        | 100 % | 4      |

    `fields` have changed. A payload that is no object is nested in one or retyped. Records: `schema_drift` (how, path).
    """

    kind: ClassVar[str] = "schema_drift"

    rate: float = number(1.0, 0, 1, "share of the replies that it touches at severity 1")
    how: str = choice("any", ("any", *_DRIFTS), "any, renamed, moved, nested, retyped or added")
    most_fields: int = count(4, 1, 1000, "how many fields have changed at severity 1")

    @property
    def fields(self) -> int:
        """How many fields have changed."""
        return max(1, round(self.severity * self.most_fields))

    def change(self, struck: Struck, replies: Replies) -> None:
        arrives = self.arrives(struck)
        payloads = [*map(replies.payload, struck.rows.tolist())] if arrives else plain_payloads(replies, struck.rows)
        chance = struck.episode_draws("").random(0, self.fields, 2)
        each = zip(payloads, self._places(payloads, struck, replies), chance.tolist(), strict=True)
        drifted = [self._drifts(*one) for one in each]
        told = [details for _, details in drifted]
        for index in range(max(map(len, told))):
            more = np.array([len(details) > index for details in told])
            struck[more].record(self.kind, partial(_numbered, told, index))
        touched = np.array([bool(details) for details in told])
        after = [payload for payload, details in drifted if details]
        if arrives:
            replies.apart.update(zip(struck.rows[touched].tolist(), after, strict=True))
        else:
            replies.garble(struck.rows[touched], [*map(as_text, after)])

    def _places(self, payloads: list[Any], struck: Struck, replies: Replies) -> list[list[Path]]:
        """Where each payload may drift: everywhere it has a name. Those of a batch are all built alike."""
        replies.settle()
        inside = replies.batched(struck.rows)
        common = self._places_in(payloads[int(inside.argmax())], struck)
        each = zip(payloads, inside.tolist(), strict=True)
        return [common if alike else self._places_in(payload, struck) for payload, alike in each]

    def _places_in(self, payload: Any, struck: Struck) -> list[Path]:
        named = [path for path, _ in leafwise.nodes(payload) if path and isinstance(path[-1], str)]
        return [path for path in named if struck.first.aims_at("/".join(map(str, path)))] or [()]

    def _drifts(self, payload: Any, places: list[Path], chance: list[list[float]]) -> tuple[Any, list[dict[str, str]]]:
        """A payload as it is built now, and what has changed in it: `chance` draws a place and a way for each field."""
        result, told = payload, []
        for place, way in chance:
            path = places[int(place * len(places))]
            how = _DRIFTS[int(way * len(_DRIFTS))] if self.how == "any" else self.how
            drifted = _drifted(result, path, how)
            if drifted is not result:
                told.append({"how": how, "path": "/".join(map(str, path))})
                result = drifted
        return result, told


def _numbered(told: list[list[dict[str, str]]], index: int) -> list[dict[str, str]]:
    """The change of that number of each that has so many."""
    return [details[index] for details in told if len(details) > index]


def _drifted(payload: Any, path: tuple[str | int, ...], how: str) -> Any:
    """A payload in which the value at `path` has drifted; the very same object where it is not there any more."""
    value = leafwise.get(payload, path)
    if value is leafwise.ABSENT:
        return payload
    if how == "retyped":
        return leafwise.put(payload, path, [value] if isinstance(value, str | Mapping) else leafwise.as_text(value))
    if how == "nested" or not path:
        return leafwise.put(payload, path, {"value": value, "version": 2})
    owner, key = leafwise.get(payload, path[:-1]), path[-1]
    if how == "added":
        return leafwise.put(payload, path[:-1], {**owner, f"{key}Info": {"deprecated": True}})
    if how == "renamed":
        renamed = {f"{key}V2" if name == key else name: inner for name, inner in owner.items()}
        return leafwise.put(payload, path[:-1], renamed)
    without = leafwise.put(payload, path[:-1], {name: inner for name, inner in owner.items() if name != key})
    if len(path) > 1 and isinstance(path[-2], str):
        above = leafwise.get(without, path[:-2])
        return leafwise.put(without, path[:-2], {**above, f"{path[-2]}_{key}": value})
    left = leafwise.get(without, path[:-1])
    return leafwise.put(without, path[:-1], {**left, "data": {key: value}})


@dataclass(frozen=True, kw_only=True)
class OversizedReply(Loud, BatchChange):
    """The reply is padded far beyond its size: a debugging dump was left in.

    | severity | share | kib |
    |----------|-------|-----|
    | 0.5      | 20 %  | 128 |
    | 1        | 40 %  | 256 |

    An object gets a field "debug" of so many KiB, everything else an object around it. Records: `oversized_reply`
    (added_bytes).
    """

    kind: ClassVar[str] = "oversized_reply"

    most_kib: int = count(256, 1, 2**20, "KiB that are added at severity 1")

    @property
    def kib(self) -> int:
        """KiB that are added."""
        return max(1, round(self.severity * self.most_kib))

    def change(self, struck: Struck, replies: Replies) -> None:
        padding, rows = _dump(self.kib), struck.rows.tolist()
        struck.record(self.kind, lambda: [{"added_bytes": len(padding)} for _ in rows])
        if self.arrives(struck):
            replies.apart.update((row, {**_object(replies.payload(row)), "debug": padding}) for row in rows)
            return
        end = _written_dump(self.kib)
        begun = [as_text(_object(payload))[:-1] for payload in plain_payloads(replies, struck.rows)]
        replies.garble(struck.rows, [text + (end if text == "{" else f", {end}") for text in begun])


def _object(payload: Any) -> dict[str, Any]:
    """A payload as an object whose "debug", if it has any, is gone."""
    whole = payload if isinstance(payload, Mapping) else {"result": payload}
    return {key: value for key, value in whole.items() if key != "debug"}


@lru_cache(maxsize=4)
def _dump(kib: int) -> str:
    """So many KiB of a log."""
    line = "2026-01-01T00:00:00Z DEBUG retry=0 cache=miss\n"
    return (line * (kib * 1024 // len(line) + 1))[: kib * 1024]


@lru_cache(maxsize=4)
def _written_dump(kib: int) -> str:
    """The same as the last field of an object and its end."""
    return f'"debug": {as_text(_dump(kib))}}}'
