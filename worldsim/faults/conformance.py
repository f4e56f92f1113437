"""What every fault must keep, as checks to run on your own: `check_fault(MyFault)`.

    from worldsim.faults.conformance import check_fault

    def test_my_fault() -> None:
        check_fault(MyFault, space=env.observation_space)

Each check raises AssertionError naming the fault and what it broke. None needs an environment: replies come from a
`Bench`, which knows what it was asked and what it answered.
"""

import copy
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces

from worldsim.faults.chance import Dice
from worldsim.faults.clock import VirtualClock
from worldsim.faults.definition import Fault, LeafFault
from worldsim.faults.exchange import ERRORS, LOST, Call, Passing, Record, Reply
from worldsim.faults.leafwise import alike, copied, get, leaves_of, nodes
from worldsim.faults.pipeline import Pipeline
from worldsim.faults.plans.plain import fault_from_json, fault_to_json
from worldsim.faults.plans.plan import Plan
from worldsim.faults.schedule import After

Build = Callable[..., Fault]
Payloads = Callable[[int], Any]  # what call k answers; -1: what is seen before the first call
TOOLS = ("search", "read", "write")


@dataclass
class Outcome:
    """One call as it went: what was asked and got, what was really carried out, and what the fault says of it."""

    asked: Call
    reply: Reply
    carried_out: list[Call]
    answers: list[Reply]  # as they came from behind the fault
    waited_s: float
    records: list[Record]

    @property
    def struck(self) -> bool:
        """Whether anything at all was otherwise than without the fault."""
        untouched = len(self.answers) == 1 and self.carried_out == [self.asked] and not self.waited_s
        return not (untouched and same_reply(self.reply, self.answers[0]))


@dataclass
class Bench:
    """Faults between a caller and a service whose answers are known: call k goes to one of `TOOLS` in turn.

    payloads: by default members of `space` drawn for each call; needed where `space` is None (plain JSON).
    """

    space: spaces.Space[Any] | None
    payloads: Payloads | None = None
    seed: int = 0
    given: list[Any] = field(default_factory=list)  # the very objects that were handed to the fault, and copies of them
    replied: list[Any] = field(default_factory=list)  # those that the caller got, with copies of what they were then
    known: dict[int, Any] = field(default_factory=dict)

    def answer(self, number: int) -> Any:
        """What call `number` answers: equal each time, and never the same object."""
        if number not in self.known:
            self.known[number] = self.payloads(number) if self.payloads is not None else self._sample(number)
        return copied(self.known[number])

    def _sample(self, number: int) -> Any:
        assert self.space is not None, "plain JSON needs payloads"
        space = copy.deepcopy(self.space)
        space.seed(self.seed + 1 + number)
        return space.sample()

    def run(self, faults: Sequence[Fault], calls: int, first: int = 0, episode: int = 0) -> list[Outcome]:
        """An episode of so many calls; those before `first` are made, too, and left out of the result."""
        leaves = None if self.space is None else leaves_of(self.space)
        pipeline = Pipeline(faults, self.seed, VirtualClock(), leaves, TOOLS)
        pipeline.start((episode,), self._handed(-1))
        return [self._call(pipeline, number) for number in range(calls)][first:]

    def _call(self, pipeline: Pipeline, number: int) -> Outcome:
        carried_out: list[Call] = []
        answers: list[Reply] = []

        def forward(call: Call) -> Reply:
            carried_out.append(call)
            answers.append(Reply(self._handed(number)))
            return answers[-1]

        asked = Call(TOOLS[number % len(TOOLS)], {"action": number % 7}, number)
        before = pipeline.clock.now()
        reply = pipeline.exchange(asked.tool, asked.arguments, forward)
        self.replied.append((reply.payload, copied(reply.payload)))
        return Outcome(asked, reply, carried_out, answers, pipeline.clock.now() - before, list(pipeline.now))

    def _handed(self, number: int) -> Any:
        payload = self.answer(number)
        self.given.append((payload, copied(payload)))
        return payload


def same_reply(left: Reply, right: Reply) -> bool:
    """Whether two replies are alike in everything, to the bit."""
    return left[1:] == right[1:] and alike(left.payload, right.payload)


def harm(outcomes: Sequence[Outcome], space: spaces.Space[Any] | None = None) -> float:
    """The default statistic of a fault's effect: seconds, failures, calls carried out otherwise, payloads changed."""
    total = 0.0
    for each in outcomes:
        total += each.waited_s + 10 * (not each.reply.ok) + (each.carried_out != [each.asked])
        if each.reply.ok and each.answers:
            total += distance(each.reply.payload, each.answers[-1].payload, space)
        elif each.reply.ok:
            total += 1
    return total


def distance(left: Any, right: Any, space: spaces.Space[Any] | None = None) -> float:
    """How far apart two payloads are: 0 where they are alike; every leaf that differs counts 1, an array up to 1."""
    if space is None:
        here, there = (
            {path: value for path, value in nodes(each) if not isinstance(value, dict | list)} for each in (left, right)
        )
        size = abs(len(json.dumps(left, default=str)) - len(json.dumps(right, default=str))) / 1000
        return size + sum(not alike(here.get(path, LOST), there.get(path, LOST)) for path in {**here, **there})
    return sum(_apart(get(left, leaf.path), get(right, leaf.path)) for leaf in leaves_of(space))


def _apart(left: Any, right: Any) -> float:
    if alike(left, right):
        return 0.0
    arrays = isinstance(left, np.ndarray) and isinstance(right, np.ndarray) and left.shape == right.shape
    if not arrays or left.dtype.kind not in "iuf" or right.dtype.kind not in "iuf":
        return 1.0
    gap = np.abs(np.nan_to_num(left.astype(np.float64)) - np.nan_to_num(right.astype(np.float64)))
    return float(np.minimum(gap / 255 if left.dtype == np.uint8 else gap, 1).mean())


# --- the checks ---


def check_fault(
    build: Build,
    space: spaces.Space[Any] | None = None,
    payloads: Payloads | None = None,
    calls: int = 60,
    seed: int = 0,
    statistic: Callable[[Sequence[Outcome]], float] | None = None,
    strikes: bool = True,
) -> None:
    """Runs every check on a kind of fault.

    build: gives the fault for `severity=` and the base parameters (`schedule=`, `seed=`): a class, or a partial of one.
    space, payloads: of the replies; `space` None means plain JSON.
    statistic: what grows with severity; by default `harm`.
    strikes: whether the fault can do anything to such replies, so that doing nothing is an error.
    """
    bench = Bench(space, payloads, seed)
    for check in (check_identity, check_determinism, check_independence, check_records, check_no_mutation, check_space):
        check(build, bench, calls)
    check_promises(build, bench, calls)
    check_yaml(build)
    check_table(build)
    if strikes:
        check_growth(build, bench, calls, statistic or partial(harm, space=space))


def check_identity(build: Build, bench: Bench, calls: int) -> None:
    """Severity 0 hands the very call and the very reply through."""
    for each in bench.run([build(severity=0.0)], calls):
        untouched = each.reply is each.answers[0] and each.carried_out[0] is each.asked or not each.struck
        assert untouched and not each.records, f"{_name(build)}: severity 0 did something to call {each.asked.number}"


def check_determinism(build: Build, bench: Bench, calls: int) -> None:
    """The same seeds do the same again."""
    first, again = (bench.run([build(severity=0.8)], calls) for _ in range(2))
    for left, right in zip(first, again, strict=True):
        same = same_reply(left.reply, right.reply) and left.records == right.records
        same = same and alike(left.carried_out, right.carried_out) and left.waited_s == right.waited_s
        assert same, f"{_name(build)}: call {left.asked.number} went otherwise the second time under the same seeds"


def check_independence(build: Build, bench: Bench, calls: int) -> None:
    """What happens to a call is the same whichever other faults there are and whether or not they could have struck."""
    alone = bench.run([build(severity=0.8)], calls)
    never = _Bystander(severity=1.0, schedule=After(10**9))
    among = bench.run([_Bystander(severity=0.5), build(severity=0.8), never], calls)
    for left, right in zip(alone, among, strict=True):
        same = same_reply(left.reply, right.reply) and left.records == right.records
        assert same, f"{_name(build)}: call {left.asked.number} depends on other faults that did nothing to it"


@dataclass(frozen=True, kw_only=True)
class _Bystander(Fault):
    """Draws and does nothing."""

    kind = "bystander"

    def exchange(self, call: Call, forward: Any, context: Any) -> Reply:
        context.uniform(), context.rng().random()
        reply: Reply = forward(call)
        return reply


def check_records(build: Build, bench: Bench, calls: int) -> None:
    """Something is recorded exactly where something happened, as plain JSON, and says what happened."""
    for each in bench.run([build(severity=0.8)], calls):
        where = f"{_name(build)}: call {each.asked.number}"
        assert bool(each.records) == each.struck, (
            f"{where} {'went otherwise' if each.struck else 'was left alone'} and the records are {each.records}"
        )
        json.dumps([record.to_json() for record in each.records], allow_nan=False)
        assert all(record.call == each.asked.number for record in each.records), f"{where} has records of other calls"
        assert each.reply.ok == (each.reply.error is None), (
            f"{where}: error {each.reply.error!r} with ok={each.reply.ok}"
        )
        assert each.reply.ok == (each.reply.payload is not LOST), (
            f"{where}: a lost payload is ok, or a failed call has one"
        )
        assert each.reply.error is None or each.reply.error in ERRORS, (
            f"{where}: no error is called {each.reply.error!r}"
        )
        assert abs(each.waited_s - each.reply.latency_s) < 1e-9, f"{where}: latency_s is not what was waited"
        lost = [record.details["lost"] for record in each.records if "lost" in record.details]
        assert not lost or bool(each.carried_out) == (lost[0] == "answer"), (
            f"{where}: lost {lost[0]}, and yet {each.carried_out}"
        )


def check_promises(build: Build, bench: Bench, calls: int) -> None:
    """What it says of itself for many environments at a time is true: `passing` and `strikes`."""
    fault = build(severity=0.8)
    dice = Dice(bench.seed if fault.seed is None else fault.seed, fault.kind, 0, 0)
    uniforms = np.array([dice.uniform(number) for number in range(calls)])
    strikes = fault.strikes(uniforms, None if bench.space is None else leaves_of(bench.space))
    for number, each in enumerate(bench.run([fault], calls)):
        where, sent = f"{_name(build)}: call {number}", each.carried_out
        promised = {Passing.AS_IS: sent == [each.asked], Passing.CHANGED: len(sent) == 1}
        promised[Passing.AT_MOST_ONCE] = len(sent) <= 1
        assert promised.get(fault.passing, True), f"{where} was passed on as {sent}, and passing is {fault.passing!r}"
        assert strikes[number] or not each.struck, f"{where} was struck, which `strikes` rules out"


def check_no_mutation(build: Build, bench: Bench, calls: int) -> None:
    """Neither what the service handed out nor a reply that the caller has is written to later."""
    for fault in _variants(build, 0.8):
        bench.run([fault], calls)
        for payload, before in bench.given:
            assert alike(payload, before), f"{_name(build)}: wrote into a payload that it was given"
        for payload, before in bench.replied:
            assert alike(payload, before), f"{_name(build)}: wrote into a reply that it had given"


def check_space(build: Build, bench: Bench, calls: int) -> None:
    """Replies that arrive stay inside their space unless asked otherwise."""
    if bench.space is None:
        return
    for each in bench.run([build(severity=0.8)], calls):
        inside = not each.reply.ok or each.reply.payload in bench.space
        assert inside, (
            f"{_name(build)}: the reply to call {each.asked.number} is not in the space: {each.reply.payload}"
        )


def check_yaml(build: Build) -> None:
    """Written into a plan and read again it is the same fault, also when it is written by hand as plain JSON."""
    for fault in (build(severity=0.3, schedule=After(3), seed=5, probability=0.9), build(severity=0.7)):
        text = Plan(faults=[fault]).to_yaml()
        (read,) = Plan.from_yaml(text).faults
        data = json.loads(json.dumps(fault_to_json(fault)))
        same = read == fault == fault_from_json(data) and type(read) is type(fault)
        assert same, f"{_name(build)}: {text!r} reads as another fault: {read}"


def check_growth(build: Build, bench: Bench, calls: int, statistic: Callable[[Sequence[Outcome]], float]) -> None:
    """The statistic never falls with severity, and is greater in the end than in the beginning."""
    sizes = [statistic(bench.run([build(severity=severity)], calls)) for severity in (0.0, 0.1, 0.4, 0.7, 1.0)]
    slack = [size * 1.02 + 1e-9 for size in sizes[1:]]  # rounding and clipping cost a little
    grows = all(left <= right for left, right in zip(sizes, slack, strict=False)) and sizes[-1] > sizes[0]
    assert grows and sizes[-1] > sizes[1], f"{_name(build)}: its effect does not grow with severity: {sizes}"


def check_table(build: Build) -> None:
    """Where the headings of the docstring's table are attributes of the fault, they have the values that it says."""
    rows = table(type(build(severity=0.5)))
    for row in rows[1:]:
        fault = build(severity=float(row[0]))
        for name, says in zip(rows[0][1:], row[1:], strict=True):
            if name.isidentifier() and hasattr(fault, name):
                wanted = float(says.rstrip(" %")) / (100 if says.endswith("%") else 1)
                got = float(getattr(fault, name))
                assert abs(got - wanted) <= 0.005 * max(1e-9, abs(wanted)), (
                    f"{_name(build)}: the docstring says that {name} is {says} at severity {row[0]}; it is {got:g}"
                )


def table(kind: type[Fault]) -> list[list[str]]:
    """The table in a fault's docstring, which says what a severity means: headings and rows, without the rule."""
    lines = re.findall(r"^\s*\|(.*)\|\s*$", kind.__doc__ or "", re.MULTILINE)
    assert len(lines) > 2, f"{kind.kind}: the docstring has no table of what a severity means"
    return [[cell.strip() for cell in line.split("|")] for line in lines if not set(line) <= set("-|: ")]


def _variants(build: Build, severity: float) -> list[Fault]:
    fault = build(severity=severity)
    return [fault, build(severity=severity, out_of_space=True)] if isinstance(fault, LeafFault) else [fault]


def _name(build: Build) -> str:
    return build(severity=0.5).kind
