"""Faults as plain data, the way plans write them, and back; errors name the place in the data."""

from collections.abc import Mapping
from importlib import import_module
from operator import attrgetter
from typing import Any

from worldsim.faults.definition import KINDS, Fault
from worldsim.faults.parameters import LocatedError, suggest
from worldsim.faults.plans import catalogue  # its kinds are known from here on
from worldsim.faults.schedule import Schedule

assert catalogue.MODULES, "the catalogue defines kinds"


def usage_hint(given_kind: object = None) -> str:
    """The end of an error message: how a fault is written, of the given kind if that is one."""
    kind = given_kind if isinstance(given_kind, str) and given_kind in KINDS else "slow_api"
    return f"Write `- kind: {kind}`; `worldsim faults list` shows all kinds"


def fault_to_json(fault: Fault) -> dict[str, Any]:
    """A fault as plain JSON: its kind, its severity, and the parameters that are not the defaults.

    The kind of one that is not built in is where it is defined: "package.module:name".
    """
    defaults = {name: field.default for name, field in type(fault).model_fields.items()}
    changed = {name: value for name, value in fault.values().items() if name == "severity" or value != defaults[name]}
    built_in = type(fault).__module__.startswith("worldsim.faults.")
    kind = fault.kind if built_in else f"{type(fault).__module__}:{type(fault).__qualname__}"
    return {"kind": kind, **{name: _plain(value) for name, value in changed.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, Schedule):
        return {"kind": value.kind, **dict(value)}
    return list(value) if isinstance(value, tuple) else value


def fault_from_json(data: Any) -> Fault:
    """The fault that a mapping describes: `kind`, and parameters where they are not the defaults.

    A kind with a colon is one of yours, "package.module:name"; its module is imported.
    Raises ConfigError for an unknown kind or parameter and for a value out of range, naming it.
    """
    if not isinstance(data, Mapping):
        raise LocatedError(f"a fault is a mapping, got {data!r}. {usage_hint(data)}")
    if data.get("kind") is None:
        raise LocatedError(f"a fault needs a kind. {usage_hint(next(iter(data), None))}")
    named = data["kind"]
    kind = _imported(named) if ":" in str(named) else KINDS.get(named) if isinstance(named, str) else None
    if kind is None:
        raise LocatedError(f"no fault is of kind {named!r}. {suggest(named, list(KINDS), usage_hint())}", "kind")
    return kind(**{str(key): value for key, value in data.items() if key != "kind"})


def _imported(name: str) -> type[Fault]:
    """The class of a fault that is not built in."""
    module, _, inner = name.partition(":")
    try:
        found = attrgetter(inner)(import_module(module))
    except (ImportError, AttributeError, ValueError) as error:
        raise LocatedError(
            f"the fault '{name}' cannot be imported ({error}); write package.module:name", "kind"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Fault) and hasattr(found, "kind")):
        raise LocatedError(f"'{name}' is no kind of fault; put @worldsim.faults.fault(...) before it", "kind")
    return found
