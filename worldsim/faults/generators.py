"""Faults written as generators: what happens to one call, from top to bottom.

    @fault("maintenance")
    def maintenance(call: Call, context: CallContext, rate: float = 0.2) -> FaultGenerator:
        'Some calls are told to come back in an hour, and not carried out.'
        if context.uniform >= context.severity * rate:
            return (yield call)
        context.record(lost="request")
        return Reply.failed("unavailable", retry_after_s=3600.0)

`reply = yield call` passes a call on, this one or another, as often as it likes; `yield Sleep(2.0)` lets time pass. The
parameters after the first two are the fault's, with their defaults; annotate them with `worldsim.faults.parameters`.
"""

import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cached_property
from inspect import Parameter, isgeneratorfunction, signature
from typing import Any, NamedTuple, get_type_hints

import numpy as np

from worldsim.errors import ConfigError
from worldsim.faults.calls import Call, Reply
from worldsim.faults.definition import Composition, Fault
from worldsim.faults.effects.base import AffectedCalls, Effect, EffectGenerator, ForwardCalls, Wait


class Sleep(NamedTuple):
    """Yielded by a fault to let time pass."""

    seconds: float


FaultGenerator = Generator[Call | Sleep, Reply, Reply]
"""What happens to one call: yields the call to forward it, or a `Sleep`, and returns the reply."""


class CallContext:
    """What a fault written as a generator knows of one call, and its random numbers.

    severity: of the fault. number: of the call among those of its tool. memory: a dict that lasts for the session.
    """

    def __init__(self, fault: Fault, batch: AffectedCalls, position: int) -> None:
        self.severity, self._kind, self._batch = fault.severity, fault.kind, batch[[position]]
        row = int(batch.rows[position])
        self.memory: dict[str, Any] = batch.memory.objects("memory", dict[str, Any])[row]
        self.number = int(self._batch.numbers[0])

    @property
    def uniform(self) -> float:
        """A number in [0, 1), always the same one for this call: for deciding whether anything happens."""
        return float(self._batch.uniforms[0])

    @cached_property
    def rng(self) -> np.random.Generator:
        """A generator for how it happens, the same one for this call whatever else there is."""
        return self._batch.random.generator()

    @property
    def now_s(self) -> float:
        """The time on the session's clock, in seconds."""
        return float(self._batch.now_s[0])

    def record(self, kind: str | None = None, **details: Any) -> None:
        """Note what was really done to this call, as plain JSON; by default under the kind of the fault.

        Give `lost="request"` where the call was not executed, and `lost="answer"` where only its reply is lost.
        """
        self._batch.record(kind or self._kind, lambda: [details])


@dataclass(frozen=True)
class GeneratorEffect(Effect):
    """What a generator does to each call."""

    fault: Fault
    generator: Callable[..., FaultGenerator]
    parameters: dict[str, Any]

    @property
    def may_drop(self) -> bool:
        return True

    @property
    def may_repeat(self) -> bool:
        return True

    def run(self, batch: AffectedCalls, forward: ForwardCalls) -> EffectGenerator:
        running = {
            row: self.generator(batch.calls.call(row), CallContext(self.fault, batch, position), **self.parameters)
            for position, row in enumerate(batch.rows.tolist())
        }
        answers: dict[int, Reply | None] = dict.fromkeys(running)
        finished: dict[int, Reply] = {}
        forwarded = yield from self._advance_until_forwarded(running, answers, finished, batch)
        dropped = np.array([row for row in batch.rows.tolist() if row not in forwarded], np.int64)
        replies = yield from forward(batch.calls.without(dropped).with_calls(forwarded))
        arrived = replies
        while forwarded:
            answers = {row: arrived.reply(row) for row in forwarded}
            forwarded = yield from self._advance_until_forwarded(running, answers, finished, batch)
            if forwarded:
                again = batch.calls.only(np.array(sorted(forwarded), np.int64)).with_calls(forwarded)
                arrived = yield from forward(again)
        for row, reply in finished.items():
            replies.put(row, reply)
        return replies

    def _advance_until_forwarded(
        self,
        running: dict[int, FaultGenerator],
        answers: dict[int, Reply | None],
        finished: dict[int, Reply],
        batch: AffectedCalls,
    ) -> Generator[Any, Any, dict[int, Call]]:
        """Resume every generator until it forwards a call or returns; gives the calls to forward, by row.

        Generators sleep side by side: one `Wait` lets time pass for all that sleep at the same moment.
        """
        forwarded: dict[int, Call] = {}
        awake = list(answers)
        while awake:
            sleeping: dict[int, float] = {}
            for row in awake:
                try:
                    yielded = running[row].send(answers[row])  # type: ignore[arg-type]
                except StopIteration as end:
                    if not isinstance(end.value, Reply):
                        raise ConfigError(f"{self.fault.kind}: returns a Reply, not {end.value!r}") from None
                    finished[row] = end.value
                    continue
                if isinstance(yielded, Sleep):
                    sleeping[row] = yielded.seconds
                elif isinstance(yielded, Call):
                    forwarded[row] = yielded
                else:
                    raise ConfigError(f"{self.fault.kind}: yields a Call to pass it on or a Sleep, not {yielded!r}")
                answers[row] = None
            if sleeping:
                yield Wait(batch.calls, np.array(list(sleeping)), np.array(list(sleeping.values())))
            awake = list(sleeping)
        return forwarded


def fault_from_generator(function: Callable[..., FaultGenerator]) -> type[Fault]:
    """The class of parameters of a fault that is written as a generator.

    Raises ConfigError for what is no generator, and for a parameter without a default: plans must be able to leave it
    out.
    """
    if not isgeneratorfunction(function):
        raise ConfigError(f"{function.__name__}: a fault is a generator: write `reply = yield call` in it")
    parameters_of_fault = list(signature(function).parameters.values())[2:]
    for each in parameters_of_fault:
        if each.default is Parameter.empty:
            raise ConfigError(f"{function.__name__}: parameter '{each.name}' needs a default; give it one")
    hints = get_type_hints(function, include_extras=True)
    names = [each.name for each in parameters_of_fault]

    def compose(self: Fault) -> Composition:
        return Composition(GeneratorEffect(self, function, {name: getattr(self, name) for name in names}))

    namespace: dict[str, Any] = {
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
        "__doc__": function.__doc__,
        "__annotations__": {name: hints.get(name, Any) for name in names},
        "compose": compose,
        **{each.name: each.default for each in parameters_of_fault},
    }
    camel = re.sub(r"(?:^|_)([a-z0-9])", lambda match: match[1].upper(), function.__name__)
    made: type[Fault] = type(Fault)(camel, (Fault,), namespace)  # type: ignore[misc]
    return made
