"""Faults as plain data, the way plans write them, and back; what is wrong with it is told with its place."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib import import_module
from operator import attrgetter
from typing import Any, TypeVar

from worldsim.errors import ConfigError
from worldsim.faults.fault import Fault, Mistake, suggest
from worldsim.faults.plans.catalogue import KINDS
from worldsim.faults.schedule import SCHEDULES, Schedule

T = TypeVar("T")


def how_to(word: object = None) -> str:
    """The end of an error message: how a fault is written, of the kind that was meant where that can be seen."""
    kind = word if isinstance(word, str) and word in KINDS else "slow_api"
    return f"Write `- kind: {kind}`; `worldsim faults list` shows all kinds"


def fault_to_json(fault: Fault) -> dict[str, Any]:
    """A fault as plain JSON: its kind, its severity, and the parameters that are not the defaults.

    The kind of one that is not in the catalogue is where its class is: "package.module:Class".
    """
    changed = {each.name: getattr(fault, each.name) for each in fields(fault)}
    changed = {key: value for key, value in changed.items() if key == "severity" or value != _default(fault, key)}
    if "schedule" in changed:
        changed["schedule"] = {"kind": fault.schedule.kind, **asdict(fault.schedule)}
    known = KINDS.get(fault.kind) is type(fault)
    kind = fault.kind if known else f"{type(fault).__module__}:{type(fault).__qualname__}"
    return {"kind": kind, **{key: list(v) if isinstance(v, tuple) else v for key, v in changed.items()}}


def fault_from_json(data: Any) -> Fault:
    """The fault that a mapping describes: `kind`, and parameters where they are not the defaults.

    A kind with a colon is a class of yours, "package.module:Class"; its module is imported.
    Raises ConfigError for an unknown kind or parameter and for a value out of range, naming it.
    """
    if not isinstance(data, Mapping):
        raise Mistake(f"a fault is a mapping, got {data!r}. {how_to(data)}")
    if data.get("kind") is None:
        raise Mistake(f"a fault needs a kind. {how_to(next(iter(data), None))}")
    named = data["kind"]
    kind = _imported(named) if ":" in str(named) else _known("fault", named, KINDS, how_to())
    given = {key: value for key, value in data.items() if key != "kind"}
    if "schedule" in given and not isinstance(given["schedule"], Schedule):
        try:
            given["schedule"] = _schedule(given["schedule"])
        except Mistake as mistake:
            raise mistake.within("schedule") from None
    return _built(f"{kind.kind}:", kind, given)


def _imported(name: str) -> type[Fault]:
    """The class of a fault that is not in the catalogue."""
    module, _, inner = name.partition(":")
    try:
        found = attrgetter(inner)(import_module(module))
    except (ImportError, AttributeError, ValueError) as error:
        raise Mistake(f"the fault '{name}' cannot be imported ({error}); write package.module:Class", "kind") from error
    if not (isinstance(found, type) and issubclass(found, Fault)):
        raise Mistake(f"'{name}' is no class of faults; derive it from worldsim.faults.Fault", "kind")
    return found


def _schedule(data: Any) -> Schedule:
    if not isinstance(data, Mapping):
        raise Mistake(f"a schedule is a mapping such as {{kind: window, start: 5, stop: 9}}, got {data!r}")
    if "kind" not in data:
        fitting = [name for name, each in SCHEDULES.items() if set(data) & _names(each)]
        raise Mistake(f"a schedule needs a kind. Choose from: {', '.join(fitting or SCHEDULES)}")
    kind = _known("schedule", data["kind"], SCHEDULES, f"Choose from: {', '.join(SCHEDULES)}")
    given = {key: value for key, value in data.items() if key != "kind"}
    for key in given:
        others = [name for name, each in SCHEDULES.items() if key in _names(each)]
        if key not in _names(kind) and others:
            raise Mistake(f"schedule {kind.kind}: '{key}' belongs to a schedule of kind '{others[0]}'; keep one", key)
    return _built(f"schedule {kind.kind}:", kind, given)


def _names(kind: type[Any]) -> set[str]:
    return {each.name for each in fields(kind)}


def _known(what: str, kind: object, kinds: Mapping[str, T], otherwise: str) -> T:
    if not isinstance(kind, str) or kind not in kinds:
        raise Mistake(f"no {what} is of kind {kind!r}. {suggest(kind, list(kinds), otherwise)}", "kind")
    return kinds[kind]


def _built(where: str, kind: type[T], given: Mapping[str, Any]) -> T:
    known = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    for key in given:
        if key not in known:
            raise Mistake(f"{where} no parameter '{key}'. {suggest(key, known)}", str(key))
    says = _complaint(kind, given)
    if says:
        blamed = [key for key in given if _complaint(kind, {k: v for k, v in given.items() if k != key}) != says]
        raise Mistake(says, *blamed[-1:])
    return kind(**given)


def _complaint(kind: type[Any], given: Mapping[str, Any]) -> str:
    """What a class says against its arguments."""
    try:
        kind(**given)
    except ConfigError as error:
        return str(error)
    return ""


def _default(fault: Fault, name: str) -> Any:
    return next(each.default for each in fields(fault) if each.name == name)
