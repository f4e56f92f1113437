"""Missing data: leaves that do not arrive, and replies that are not there at all."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults import frames, leafwise
from worldsim.faults.exchange import LOST, Call, Forward, Passing, Reply
from worldsim.faults.fault import Context, LeafFault, number
from worldsim.spaces import Leaf


@dataclass(frozen=True, kw_only=True)
class MissingData(LeafFault):
    """Some replies lack leaves; some are not there at all. The call itself is always carried out.

    What stands for a missing leaf, unless the environment says otherwise in `metadata["on_missing"]`: class 0 of a
    Discrete, MultiDiscrete or MultiBinary (by convention "unknown"), zeros of a vector (or the nearest bound), the
    shortest text. A frame is black, frozen (the last that came through), or has a black block. With `out_of_space=True`
    vectors are NaN and classes and texts None.

    | severity | replies that lack something | of these not there at all | leaves missing in the others |
    |----------|-----------------------------|---------------------------|------------------------------|
    | 0        | 0 %                         | -                         | -                            |
    | 0.25     | 15 %                        | a quarter                 | 1/4, at least 1              |
    | 0.5      | 30 %                        | a quarter                 | 1/2, at least 1              |
    | 1        | 60 %                        | a quarter                 | all                          |

    Shares: `severity * rate` of the replies, `severity * spread` of the leaves. An occluding block has sides of
    `severity`.

    Records: `unavailable`, or one `missing` a leaf (leaf, how) that really changed.
    """

    kind: ClassVar[str] = "missing_data"

    rate: float = number(0.6, 0, 1, "share of the replies that lack something at severity 1")
    unavailable: float = number(0.25, 0, 1, "share of these replies that are not there at all")
    spread: float = number(1.0, 0, 1, "share of the leaves missing in the others at severity 1")
    retry_after_s: float = number(1.0, 0, 1e9, "what an unavailable reply says: seconds after which to ask again")

    @property
    def passing(self) -> Passing:
        return Passing.AS_IS

    def strikes(self, uniforms: NDArray[np.float64], leaves: tuple[Leaf, ...] | None) -> NDArray[np.bool_]:
        if any(frames.frame_axes(leaf.space) for leaf in leaves or ()):  # frames are kept, to show again
            return np.ones(uniforms.shape, np.bool_)
        return uniforms < self.severity * self.rate

    def begin(self, payload: Any, context: Context) -> None:
        frame_paths = [leaf.path for leaf in context.leaves or () if frames.frame_axes(leaf.space)]
        context.memory["frames"] = {path: leafwise.copied(leafwise.get(payload, path)) for path in frame_paths}

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        reply = forward(call)
        if not reply.ok:
            return reply
        if context.uniform() < self.severity * self.rate:
            reply = self._bereft(reply, context)
        if reply.ok:
            kept = context.memory["frames"]
            for path in kept:
                value = leafwise.get(reply.payload, path)
                kept[path] = kept[path] if value is leafwise.ABSENT else leafwise.copied(value)
        return reply

    def _bereft(self, reply: Reply, context: Context) -> Reply:
        rng = context.rng()
        if rng.random() < self.unavailable:
            context.record("unavailable", retry_after_s=self.retry_after_s)
            return reply._replace(payload=LOST, ok=False, error="unavailable", retry_after_s=self.retry_after_s)
        leaves = context.leaves_in(reply.payload)
        wanted = max(1, round(self.severity * self.spread * len(leaves)))
        payload: Any = reply.payload
        for position in rng.permutation(len(leaves))[:wanted]:
            leaf = leaves[position]
            before = leafwise.read(reply.payload, leaf)
            if not leafwise.usual(leaf, before):
                continue
            how, after = self._without(leaf, before, context, rng)
            if not leafwise.same(before, after):
                payload = leafwise.write(payload, leaf, after)
                context.record("missing", leaf=leaf.name, how=how)
        return reply._replace(payload=payload)

    def _without(self, leaf: Leaf, value: Any, context: Context, rng: np.random.Generator) -> tuple[str, Any]:
        """How a leaf is missing, and what is there instead."""
        if leaf.name in context.missing:
            return "declared", leafwise.from_json(leaf, context.missing[leaf.name])
        axes = frames.frame_axes(leaf.space)
        if axes is None:
            return "unknown", None if context.plain else leafwise.nothing(leaf.space, value, self.out_of_space)
        how = str(rng.choice(["black", "frozen", "occluded"]))
        if how == "frozen":
            return how, leafwise.copied(context.memory["frames"][leaf.path])
        blackened = np.zeros_like(value) if how == "black" else frames.occlude(value, axes, self.severity, rng)
        assert isinstance(leaf.space, spaces.Box)
        return how, leafwise.clipped(blackened, leaf.space)
