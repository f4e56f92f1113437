"""What every fault must keep, as checks to run on your own: `check_fault(MyFault)`.

    from worldsim.faults.conformance import check_fault

    def test_my_fault() -> None:
        check_fault(MyFault, space=env.observation_space)

Each check raises AssertionError naming the fault and what it broke. None needs an environment: replies come from a
`MockService`, which knows its calls and its answers.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from worldsim.faults import entry_points
from worldsim.faults.calls import ERRORS, LOST
from worldsim.faults.definition import KINDS, Composition, Fault
from worldsim.faults.effects.base import AffectedCalls, Effect, EffectGenerator, ForwardCalls, Scope
from worldsim.faults.entry_points import TOOLS, CallOutcome, MockService, PayloadFunction, PipelineCall, script
from worldsim.faults.plans.plan import Plan
from worldsim.faults.plans.serialization import fault_from_json, fault_to_json
from worldsim.faults.schedule import After
from worldsim.faults.trees import alike, get, leaves_of, nodes

Build = Callable[..., Fault]
Statistic = Callable[[Sequence[CallOutcome]], float]

TIES_TOOLS = frozenset(
    {
        "cascade",
        "delayed_action",
        "eventual_consistency",
        "expired_token",
        "frozen_frames",
        "missing_data",
        "other_record",
        "quota_exceeded",
        "reordered_delivery",
        "sticky_action",
    }
)
"""Kinds that tie tools together by design: what they do to a call depends on those of other tools before it."""


def harm(outcomes: Sequence[CallOutcome], space: spaces.Space[Any] | None = None) -> float:
    """The default statistic of a fault's effect: seconds, failures, calls carried out otherwise, payloads changed."""
    total = 0.0
    for each in outcomes:
        total += each.waited_s + 10 * (not each.reply.ok) + (each.executed != [each.call])
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
    return sum(_gap(get(left, leaf.path), get(right, leaf.path)) for leaf in leaves_of(space))


def _gap(left: Any, right: Any) -> float:
    if alike(left, right):
        return 0.0
    arrays = isinstance(left, np.ndarray) and isinstance(right, np.ndarray) and left.shape == right.shape
    if not arrays or left.dtype.kind not in "iuf" or right.dtype.kind not in "iuf":
        return 1.0
    gap = np.abs(np.nan_to_num(left.astype(np.float64)) - np.nan_to_num(right.astype(np.float64)))
    return float(np.minimum(gap / 255 if left.dtype == np.uint8 else gap, 1).mean())


# --- the checks ---


def check_fault(
    kind: Build | str,
    space: spaces.Space[Any] | None = None,
    payloads: PayloadFunction | None = None,
    calls: int = 60,
    seed: int = 0,
    statistic: Statistic | None = None,
    acts: bool = True,
    ties_tools: bool | None = None,
) -> None:
    """Runs every check on a kind of fault.

    kind: its name, its class, or a function that gives the fault for `severity=` and the base parameters (`schedule=`,
    `seed=`), such as a partial of the class.
    space, payloads: of the replies; `space` None means plain JSON, for which `payloads` gives the answer to call k.
    statistic: what grows with severity; by default `harm`.
    acts: whether the fault can do anything to such replies, so that doing nothing is an error.
    ties_tools: whether what it does to a call depends by design on calls of other tools; by default `TIES_TOOLS`.
    """
    build = KINDS[kind] if isinstance(kind, str) else kind
    service = MockService(space, payloads, seed)
    for check in CHECKS:
        check(build, service, calls)
    if not (build(severity=0.5).kind in TIES_TOOLS if ties_tools is None else ties_tools):
        check_interleaving(build, service, calls)
    check_yaml(build)
    if acts:
        check_growth(build, service, calls, statistic or partial(harm, space=space))


def check_identity(build: Build, service: MockService, calls: int) -> None:
    """Severity 0 does nothing at all."""
    for each in service.run([build(severity=0.0)], calls):
        assert not each.changed and not each.records, f"{_name(build)}: severity 0 did something to {each.place}"


def check_determinism(build: Build, service: MockService, calls: int) -> None:
    """The same seeds do the same again."""
    first, again = (service.run([build(severity=0.8)], calls) for _ in range(2))
    _same(build, first, again, "went otherwise the second time under the same seeds")


def check_independence(build: Build, service: MockService, calls: int) -> None:
    """What happens to a call is the same whichever other faults there are and whether or not they could do anything."""
    alone = service.run([build(severity=0.8)], calls)
    never = _Bystander(severity=1.0, schedule=After(calls=10**9))
    among = service.run([_Bystander(severity=0.5), build(severity=0.8), never], calls)
    _same(build, alone, among, "depends on other faults that did nothing to it")


def check_interleaving(build: Build, service: MockService, calls: int) -> None:
    """What happens to call k of a tool is the same whether or not other tools are called beside it."""
    together = service.run([build(severity=0.8)], calls)
    for tool in TOOLS:
        alone = service.play([build(severity=0.8)], [each for each in script(calls) if each.tool == tool])
        beside = [each for each in together if each.call.tool == tool]
        _same(build, beside, alone, "depends on calls of other tools (`ties_tools=True` if it is meant to)")


class _Watch(Effect):
    """Draws and does nothing."""

    def needs_all_calls(self, scope: Scope) -> bool:
        return True

    def run(self, batch: AffectedCalls, forward: ForwardCalls) -> EffectGenerator:
        batch.uniforms, batch.random.generator().random()
        return (yield from forward(batch.calls))


class _Bystander(Fault):
    """Another fault, which does nothing."""

    kind: ClassVar[str] = "bystander"

    def compose(self) -> Composition:
        return Composition(_Watch())


def check_records(build: Build, service: MockService, calls: int) -> None:
    """Something is recorded exactly where something happened, as plain JSON, and the record is true."""
    for each in service.run([build(severity=0.8)], calls):
        where, reply = f"{_name(build)}: {each.place}", each.reply
        assert bool(each.records) == each.changed, (
            f"{where} {'went otherwise' if each.changed else 'was left alone'} and the records are {each.records}"
        )
        json.dumps([record.to_json() for record in each.records], allow_nan=False)
        assert all((record.tool, record.call) == (each.call.tool, each.call.number) for record in each.records), (
            f"{where} has records of other calls: {each.records}"
        )
        assert reply.ok == (reply.error is None), f"{where}: error {reply.error!r} with ok={reply.ok}"
        assert reply.ok == (reply.payload is not LOST), f"{where}: a lost payload is ok, or a failed call has one"
        assert reply.error is None or reply.error in ERRORS, f"{where}: no error is called {reply.error!r}"
        assert abs(each.waited_s - reply.latency_s) < 1e-9, f"{where}: latency_s is not what was waited"
        lost = [record.details["lost"] for record in each.records if "lost" in record.details]
        assert all(bool(each.executed) == (what == "answer") for what in lost), (
            f"{where}: lost {lost[0]}, and yet {each.executed}"
        )
        assert lost or each.executed, f"{where} was not carried out, and no record says that the request was lost"


def check_promises(build: Build, service: MockService, calls: int) -> None:
    """The effect's promises are true: whether it may drop a call, or have it carried out more than once."""
    fault = build(severity=0.8)
    effect = fault.compose().effect
    for each in service.run([fault], calls):
        where, sent = f"{_name(build)}: {each.place}", each.executed
        assert sent or effect.may_drop, f"{where} was dropped, and may_drop is false"
        assert len(sent) < 2 or effect.may_repeat, f"{where} was carried out as {sent}, and may_repeat is false"


def check_no_mutation(build: Build, service: MockService, calls: int) -> None:
    """What was handed in or out is not written to later, and its owners may write to it without any effect."""
    for fault in _variants(build, service):
        watched = replace(service, watch=True, given=[], replied=[])
        outcomes = watched.run([fault], calls)
        for payload, before in watched.given:
            assert alike(payload, before), f"{_name(build)}: wrote into what it was given"
        for payload, before in watched.replied:
            assert alike(payload, before), f"{_name(build)}: wrote into a reply that it had given"
        owners_write = replace(service, scribble=True, replied=[]).run([fault], calls)
        _same(build, outcomes, owners_write, "holds on to what others own, and they have written to it")


def check_space(build: Build, service: MockService, calls: int) -> None:
    """Replies that arrive stay inside their space, without `out_of_space`."""
    if service.space is None:
        return
    for each in service.run([build(severity=0.8)], calls):
        inside = not each.reply.ok or each.reply.payload in service.space
        assert inside, f"{_name(build)}: the reply to {each.place} is not in the space: {each.reply.payload}"


def check_snapshot(build: Build, service: MockService, calls: int) -> None:
    """From a snapshot everything goes on as it did, as often as one likes."""
    calls_of_script = script(calls)
    with PipelineCall(service, [build(severity=0.8)]) as entry_point:
        for each in calls_of_script[: calls // 2]:
            entry_point.call(each)
        snapshot = entry_point.snapshot()
        first = [entry_point.call(each) for each in calls_of_script[calls // 2 :]]
        for _ in range(2):
            entry_point.restore(snapshot)
            again = [entry_point.call(each) for each in calls_of_script[calls // 2 :]]
            _same(build, first, again, "went otherwise after a snapshot was restored")


def check_entry_points(build: Build, service: MockService, calls: int) -> None:
    """The same calls have the same outcomes whichever way they come."""
    for fault in _variants(build, service):
        entry_points.check_entry_points(service, [fault], calls, _name(build))


def check_yaml(build: Build) -> None:
    """Written into a plan and read again it is the same fault, also when it is written by hand as plain JSON."""
    for fault in (build(severity=0.3, schedule=After(calls=3), seed=5, probability=0.9), build(severity=0.7)):
        text = Plan(faults=[fault]).to_yaml()
        (read,) = Plan.from_yaml(text).faults
        data = json.loads(json.dumps(fault_to_json(fault)))
        same = read == fault == fault_from_json(data) and type(read) is type(fault)
        assert same, f"{_name(build)}: {text!r} reads as another fault: {read!r}"


def check_growth(build: Build, service: MockService, calls: int, statistic: Statistic) -> None:
    """The statistic never falls with severity, and is greater in the end than in the beginning."""
    sizes = [statistic(service.run([build(severity=severity)], calls)) for severity in (0.0, 0.1, 0.4, 0.7, 1.0)]
    slack = [size * 1.02 + 1e-9 for size in sizes[1:]]  # rounding and clipping cost a little
    grows = all(left <= right for left, right in zip(sizes, slack, strict=False)) and sizes[-1] > sizes[0]
    assert grows and sizes[-1] > sizes[1], f"{_name(build)}: its effect does not grow with severity: {sizes}"


CHECKS = (
    check_identity,
    check_determinism,
    check_independence,
    check_records,
    check_promises,
    check_no_mutation,
    check_space,
    check_snapshot,
    check_entry_points,
)
"""Those that hold for every fault on every kind of reply."""


def _same(build: Build, left: Sequence[CallOutcome], right: Sequence[CallOutcome], message: str) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        found = one.difference_from(other)
        assert not found, f"{_name(build)}: {one.place} {message}: {found}"


def _variants(build: Build, service: MockService) -> list[Fault]:
    """The fault as it is, and where it could leave the space of replies also doing so."""
    fault = build(severity=0.8)
    if service.space is None or "out_of_space" not in type(fault).model_fields:
        return [fault]
    return [fault, fault.replace(out_of_space=True)]


def _name(build: Build) -> str:
    return build(severity=0.5).kind
