"""Malformed, loud: replies that are built otherwise than was agreed."""

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np

from worldsim.faults import trees
from worldsim.faults.definition import Composition, Fault, fault
from worldsim.faults.effects.base import AffectedCalls, same_details
from worldsim.faults.effects.json_text import plain_payloads
from worldsim.faults.effects.leaves import ChangeReplies, Delivery, arrives
from worldsim.faults.parameters import NameGlobs, number, option, out_of_space, scaled, targets
from worldsim.faults.replies import Replies
from worldsim.faults.trees import TreePath, as_text

_LOUD = "malformed, loud"
_DRIFTS = ("renamed", "moved", "nested", "retyped", "added")


@fault("schema_drift", _LOUD)
class SchemaDrift(Fault):
    """A new release of the service has changed the schema of its replies: in the same way throughout a session.

    renamed: a field has another name (`status` is `statusV2`). moved: it stands one level further up, or under "data".
    nested: it is an object around the value. retyped: a text or object is in a list, and all else is a text. added:
    there is one more.

    A payload that is no object is nested in one or retyped.
    In a space such a reply is refused as "malformed", but for `out_of_space=True`.
    Records: `schema_drift` (how, path).
    """

    rate: float = scaled(1.0, 0, 1, "share of the replies that it touches")
    how: Literal["any", "renamed", "moved", "nested", "retyped", "added"] = option(
        "any", "any, renamed, moved, nested, retyped or added"
    )
    most_fields: int = number(
        4, 1, 1000, "how many fields have changed at severity 1; at others in proportion, at least one"
    )
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    @property
    def fields(self) -> int:
        """How many changes are drawn at this severity, 1 at least; fewer fields differ where two draws meet in one."""
        return max(1, round(self.severity * self.most_fields))

    def values_at_severity(self) -> dict[str, float]:
        return {**super().values_at_severity(), "fields": self.fields}

    def compose(self) -> Composition:
        return Composition(ChangeReplies(self._change), self.scaled("rate"), self.targets, self.out_of_space)

    def _change(self, batch: AffectedCalls, replies: Replies) -> None:
        as_is = arrives(Delivery.REFUSED, self.out_of_space, batch)
        payloads = [*map(replies.payload, batch.rows.tolist())] if as_is else plain_payloads(replies, batch.rows)
        chance = batch.session_random("drift").uniform(0, self.fields, 2)
        each = zip(payloads, self._places(payloads, batch, replies), chance.tolist(), strict=True)
        drifted = [self._drifts(*one) for one in each]
        changes = [details for _, details in drifted]
        for index in range(max(map(len, changes))):
            more = np.array([len(details) > index for details in changes])
            batch[more].record(self.kind, partial(_numbered, changes, index))
        touched = np.array([bool(details) for details in changes])
        after = [payload for payload, details in drifted if details]
        if as_is:
            replies.overrides.update(zip(batch.rows[touched].tolist(), after, strict=True))
        else:
            replies.garble(batch.rows[touched], [*map(as_text, after)])

    def _places(self, payloads: list[Any], batch: AffectedCalls, replies: Replies) -> list[list[TreePath]]:
        """Where each payload may drift: everywhere it has a name. Those of a batch are all built alike."""
        inside = replies.in_batch(batch.rows)
        common = self._places_in(payloads[int(inside.argmax())], batch)
        each = zip(payloads, inside.tolist(), strict=True)
        return [common if alike else self._places_in(payload, batch) for payload, alike in each]

    def _places_in(self, payload: Any, batch: AffectedCalls) -> list[TreePath]:
        named = [path for path, _ in trees.nodes(payload) if path and isinstance(path[-1], str)]
        return [path for path in named if batch.scope.aims_at("/".join(map(str, path)))] or [()]

    def _drifts(
        self, payload: Any, places: list[TreePath], chance: list[list[float]]
    ) -> tuple[Any, list[dict[str, str]]]:
        """A payload as it is built now, and what has changed in it: `chance` draws a place and a way for each field."""
        result, changes = payload, []
        for place, way in chance:
            path = places[int(place * len(places))]
            how = _DRIFTS[int(way * len(_DRIFTS))] if self.how == "any" else self.how
            drifted = _drifted(result, path, how)
            if drifted is not result:
                changes.append({"how": how, "path": "/".join(map(str, path))})
                result = drifted
        return result, changes


def _numbered(changes: list[list[dict[str, str]]], index: int) -> list[dict[str, str]]:
    """The change of that number of each that has so many."""
    return [details[index] for details in changes if len(details) > index]


def _drifted(payload: Any, path: TreePath, how: str) -> Any:
    """A payload in which the value at `path` has drifted; the very same object where it is not there any more."""
    value = trees.get(payload, path)
    if value is trees.ABSENT:
        return payload
    if how == "retyped":
        return trees.put(payload, path, [value] if isinstance(value, str | Mapping) else trees.as_text(value))
    if how == "nested" or not path:
        return trees.put(payload, path, {"value": value, "version": 2})
    owner, key = trees.get(payload, path[:-1]), path[-1]
    if how == "added":
        return trees.put(payload, path[:-1], {**owner, f"{key}Info": {"deprecated": True}})
    if how == "renamed":
        renamed = {f"{key}V2" if name == key else name: inner for name, inner in owner.items()}
        return trees.put(payload, path[:-1], renamed)
    without = trees.put(payload, path[:-1], {name: inner for name, inner in owner.items() if name != key})
    if len(path) > 1 and isinstance(path[-2], str):
        above = trees.get(without, path[:-2])
        return trees.put(without, path[:-2], {**above, f"{path[-2]}_{key}": value})
    left = trees.get(without, path[:-1])
    return trees.put(without, path[:-1], {**left, "data": {key: value}})


@fault("oversized_reply", _LOUD)
class OversizedReply(Fault):
    """The reply is padded far beyond its size: a debug dump was left in.

    An object gets a field "debug" of so many KiB, everything else an object around it.
    In a space such a reply is refused as "malformed", but for `out_of_space=True`.
    Records: `oversized_reply` (added_bytes).
    """

    rate: float = scaled(0.4, 0, 1, "share of the replies that it touches")
    most_kib: int = number(256, 1, 2**20, "KiB that are added at severity 1; at others in proportion, at least one")
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    @property
    def kib(self) -> int:
        """KiB that are added."""
        return max(1, round(self.severity * self.most_kib))

    def values_at_severity(self) -> dict[str, float]:
        return {**super().values_at_severity(), "KiB added": self.kib}

    def compose(self) -> Composition:
        return Composition(ChangeReplies(self._change), self.scaled("rate"), self.targets, self.out_of_space)

    def _change(self, batch: AffectedCalls, replies: Replies) -> None:
        padding, rows = _dump(self.kib), batch.rows.tolist()
        batch.record(self.kind, same_details(batch, added_bytes=len(padding)))
        if arrives(Delivery.REFUSED, self.out_of_space, batch):
            replies.overrides.update((row, {**_object(replies.payload(row)), "debug": padding}) for row in rows)
            return
        end = _written_dump(self.kib)
        begun = [as_text(_object(payload))[:-1] for payload in plain_payloads(replies, batch.rows)]
        replies.garble(batch.rows, [text + (end if text == "{" else f", {end}") for text in begun])


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
