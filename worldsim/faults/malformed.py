"""Malformed output: replies that cannot be read, and replies that can and are wrong."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from worldsim.faults import leafwise
from worldsim.faults.exchange import LOST, Call, Forward, Passing, Reply
from worldsim.faults.fault import Context, LeafFault, number
from worldsim.faults.wrong import wrong_value
from worldsim.spaces import Leaf


@dataclass(frozen=True, kw_only=True)
class MalformedOutput(LeafFault):
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
    def passing(self) -> Passing:
        return Passing.AS_IS

    def strikes(self, uniforms: NDArray[np.float64], leaves: tuple[Leaf, ...] | None) -> NDArray[np.bool_]:
        return uniforms < self.severity * self.rate

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        reply = forward(call)
        if not reply.ok or context.uniform() >= self.severity * self.rate:
            return reply
        rng = context.rng()
        if rng.random() < self.loud:
            context.record("unparsable")
            return reply._replace(payload=LOST, ok=False, error="malformed")
        leaves = context.leaves_in(reply.payload)
        wanted = max(1, round(self.severity * self.spread * len(leaves)))
        payload: Any = reply.payload
        for position in rng.permutation(len(leaves)):
            leaf = leaves[position]
            before = leafwise.read(reply.payload, leaf)
            wrong = wrong_value(leaf, before, self.severity / 2, rng, self.out_of_space)
            if wrong is None:
                continue
            how, after = wrong
            payload = leafwise.write(payload, leaf, after)
            context.record("wrong_value", leaf=leaf.name, how=how, **leafwise.described(before, after))
            wanted -= 1
            if not wanted:
                break
        return reply._replace(payload=payload)
