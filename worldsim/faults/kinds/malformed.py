"""Malformed output: replies that cannot be read, and replies that can and are wrong."""

from dataclasses import dataclass
from typing import Any, ClassVar

from worldsim.faults.chance import Draws
from worldsim.faults.fault import number
from worldsim.faults.kinds.changes import SomeLeaves
from worldsim.faults.kinds.wrong import wrong_values
from worldsim.faults.leafwise import Values
from worldsim.faults.many.replies import Replies
from worldsim.faults.struck import Mask, Struck
from worldsim.spaces import Leaf


@dataclass(frozen=True, kw_only=True)
class MalformedOutput(SomeLeaves):
    """Some replies cannot be parsed (loud); some are valid and wrong (silent). The call itself is always carried out.

    Wrong, and inside the space: another class, transposed digits, swapped entries or letters, a wrong unit or sign, an
    offset; in frames shifted rows, swapped channels, a torn block. With `out_of_space=True` half of the wrong leaves
    arrive as NaN, infinity, null, out of range, or in a wrong type or shape instead.

    | severity | malformed replies | of these loud | leaves wrong in a silent one |
    |----------|-------------------|---------------|------------------------------|
    | 0        | 0 %               | -             | -                            |
    | 0.25     | 10 %              | half          | 1/8, at least 1              |
    | 0.5      | 20 %              | half          | 1/4, at least 1              |
    | 1        | 40 %              | half          | 1/2, at least 1              |

    Shares: `severity * rate` of the replies, `severity * spread` of the leaves. Blocks and bands in frames have sides
    of `severity / 2`.

    Records: `unparsable`, or one `wrong_value` a leaf (leaf, how, before, after).
    """

    kind: ClassVar[str] = "malformed_output"

    rate: float = number(0.4, 0, 1, "share of the replies that are malformed at severity 1")
    loud: float = number(0.5, 0, 1, "share of the malformed replies that cannot be parsed at all")
    spread: float = number(0.5, 0, 1, "share of the leaves that are wrong in a silently malformed reply at severity 1")

    @property
    def record_kind(self) -> str:
        return "wrong_value"

    def change(self, struck: Struck, replies: Replies) -> None:
        loud = struck.draws.random(_LOUD) < self.loud
        struck[loud].record("unparsable", lambda: [{} for _ in struck.rows[loud]])
        replies.lose(struck.rows[loud], "malformed")
        if not loud.all():
            super().change(struck[~loud], replies)

    def values_changed(self, leaf: Leaf, values: Values, draws: Draws, struck: Struck) -> Values:
        changed, struck.kept[leaf.name] = wrong_values(leaf, values, self.severity / 2, draws, self.out_of_space)
        return changed

    def details(self, leaf: Leaf, before: Values, after: Values, hit: Mask, struck: Struck) -> list[dict[str, Any]]:
        told = super().details(leaf, before, after, hit, struck)
        return [{"how": how, **each} for how, each in zip(struck.kept[leaf.name][hit], told, strict=True)]


_LOUD = 0  # lane: whether a reply cannot be parsed at all
