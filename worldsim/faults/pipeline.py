"""Faults in a row, from the caller inward. Doors (a Gymnasium wrapper, a server) bring the calls and the payloads."""

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from worldsim.errors import ConfigError
from worldsim.faults.chance import Dice
from worldsim.faults.clock import Clock, VirtualClock
from worldsim.faults.exchange import Call, Forward, Record, Reply
from worldsim.faults.fault import Context, Fault, LeafFault, matches, require_match
from worldsim.spaces import Leaf


class Placed(NamedTuple):
    """A fault in its place."""

    fault: Fault
    seeds: tuple[int, str, int]  # of its dice, but for the episode
    leaves: tuple[Leaf, ...] | None  # that it may change


def checked_seed(seed: int) -> int:
    """The seed of a plan. Raises ConfigError unless it is a whole number, 0 or more."""
    if not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"the seed of faults must be a whole number, 0 or more; got {seed!r}")
    return seed


def placed(
    faults: Sequence[tuple[Fault, int]], leaves: tuple[Leaf, ...] | None, tools: Sequence[str], kinds: Counter[str]
) -> list[Placed]:
    """Faults, outermost first and each with the seed of its plan, less those that can never do anything.

    kinds: how many there are of each kind further in; those that are placed are added.
    Raises ConfigError for tools or targets that match nothing.
    """
    found: list[Placed] = []
    for fault, seed in reversed(faults):
        require_match(fault, "tool", fault.tools, tools)
        seeds = (seed if fault.seed is None else fault.seed, fault.kind, kinds[fault.kind])
        kinds[fault.kind] += 1
        chosen = _chosen(fault, leaves)
        if not fault.idle:
            found.insert(0, Placed(fault, seeds, chosen))
    return found


class Pipeline:
    """Carries calls through faults. The first fault is the outermost: it gets the call first and the reply last.

    Args:
        faults: outermost first. Those that can never do anything are left out.
        seed: of the plan, 0 or more. A fault draws from (seed, its kind, how many of its kind are further in, episode),
            so what it does to call k does not depend on which other faults there are.
        clock: advanced by what the faults delay.
        leaves: of the payload; None for plain JSON, whose leaves are seen reply by reply.
        tools: names of all calls there are.
        missing: leaf name -> what stands for "unknown" there, as plain JSON.
        below: how many faults of each kind are further in, behind another door.

    Raises ConfigError for a negative seed and for tools or targets that match nothing.
    """

    def __init__(
        self,
        faults: Sequence[Fault],
        seed: int,
        clock: Clock,
        leaves: tuple[Leaf, ...] | None,
        tools: Sequence[str],
        missing: Mapping[str, Any] | None = None,
        below: Mapping[str, int] | None = None,
    ) -> None:
        self.clock = clock
        self.number = 0
        self.now: list[Record] = []  # of the present call
        self.records: list[Record] = []  # of the episode
        self.kinds = Counter(below)
        checked_seed(seed)
        places = placed([(fault, seed) for fault in faults], leaves, tools, self.kinds)
        self._contexts = [Context(each.fault, Dice(), clock, each.leaves, dict(missing or {})) for each in places]
        self._seeds = [each.seeds for each in places]

    @property
    def idle(self) -> bool:
        """Whether no fault can ever do anything."""
        return not self._contexts

    def start(self, episode: tuple[int, ...], payload: Any) -> None:
        """Begin the episode named by `episode`; `payload` is what the caller got before its first call."""
        self.number = 0
        self.records = []
        self.now.clear()
        for context, seeds in zip(self._contexts, self._seeds, strict=True):
            context.dice = Dice(*seeds, *episode)
            context.memory = {}
            context.now = self.now
            context.fault.begin(payload, context)

    def exchange(self, tool: str, arguments: Mapping[str, Any], forward: Forward) -> Reply:
        """Carry one call through the faults; `forward` takes it where the last of them passes it on."""
        call = Call(tool, arguments, self.number)
        self.number += 1
        self.now.clear()
        reply = self._pass(0, forward, call)
        self.records += self.now
        return reply

    def _pass(self, position: int, forward: Forward, call: Call) -> Reply:
        for position in range(position, len(self._contexts)):  # noqa: B020
            context = self._contexts[position]
            if context.due(call):
                return context.fault.exchange(call, partial(self._pass, position + 1, forward), context)
        return forward(call)

    def snapshot(self) -> Any:
        """Where the episode stands, as a value for `restore`."""
        inner = [(context.dice, copy.deepcopy(context.memory)) for context in self._contexts]
        return self.number, self.clock.now(), list(self.records), list(self.now), inner

    def restore(self, snapshot: Any) -> None:
        """Go back (or forth) to where a snapshot was taken. Real time stays what it is."""
        self.number, now_s, records, now, inner = snapshot
        self.records = list(records)
        self.now[:] = now
        if isinstance(self.clock, VirtualClock):
            self.clock.set(now_s)
        for context, (dice, memory) in zip(self._contexts, inner, strict=True):
            context.dice, context.memory, context.now = dice, copy.deepcopy(memory), self.now


def _chosen(fault: Fault, leaves: tuple[Leaf, ...] | None) -> tuple[Leaf, ...] | None:
    if leaves is None or not isinstance(fault, LeafFault):
        return leaves
    require_match(fault, "target", fault.targets, [leaf.name for leaf in leaves])
    return tuple(leaf for leaf in leaves if matches(leaf.name, fault.targets))
