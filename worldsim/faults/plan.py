"""Faults by name: as plain mappings (YAML, JSON), and as the ready plans in `worldsim/configs/fault`."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib.resources import files
from typing import Any, TypeVar

from worldsim.errors import ConfigError
from worldsim.faults.catalogue import KINDS
from worldsim.faults.fault import Fault, suggest
from worldsim.faults.schedule import SCHEDULES, Schedule
from worldsim.faults.slow import SlowAPI

T = TypeVar("T")

NAMES = ("slow_api", "malformed_output", "missing_data")
"""The ready plans."""


def named(name: str, severity: float) -> list[Fault]:
    """The faults of a ready plan, outermost first; each with its share (`severity` in the plan) of `severity`.

    Raises ConfigError for an unknown name, with the nearest known one, and for a severity outside [0, 1].
    """
    from omegaconf import OmegaConf

    if name not in NAMES:
        raise ConfigError(f"no faults are called '{name}'. {suggest(name, NAMES)}")
    text = files("worldsim").joinpath("configs", "fault", f"{name}.yaml").read_text(encoding="utf-8")
    plan: Any = OmegaConf.to_container(OmegaConf.create(text))
    whole = SlowAPI(severity=severity).severity  # checked
    return [fault_from_json({**each, "severity": each["severity"] * whole}) for each in plan["faults"]]


def fault_to_json(fault: Fault) -> dict[str, Any]:
    """A fault as plain JSON: its kind and the parameters that are not the defaults."""
    changed = {each.name: getattr(fault, each.name) for each in fields(fault)}
    changed = {key: value for key, value in changed.items() if key == "severity" or value != _default(fault, key)}
    if "schedule" in changed:
        changed["schedule"] = {"kind": fault.schedule.kind, **asdict(fault.schedule)}
    return {"kind": fault.kind, **{key: list(v) if isinstance(v, tuple) else v for key, v in changed.items()}}


def fault_from_json(data: Mapping[str, Any]) -> Fault:
    """The fault that a mapping describes: `kind`, and parameters where they are not the defaults.

    Raises ConfigError for an unknown kind or parameter and for a value out of range, naming it.
    """
    kind = _known("fault", data.get("kind"), KINDS)
    given = {key: value for key, value in data.items() if key != "kind"}
    if isinstance(given.get("schedule"), Mapping):
        given["schedule"] = _schedule(given["schedule"])
    return _built(f"{kind.kind}:", kind, given)


def _schedule(data: Mapping[str, Any]) -> Schedule:
    kind = _known("schedule", data.get("kind"), SCHEDULES)
    return _built(f"schedule {kind.kind}:", kind, {key: value for key, value in data.items() if key != "kind"})


def _known(what: str, kind: object, kinds: Mapping[str, T]) -> T:
    if not isinstance(kind, str) or kind not in kinds:
        raise ConfigError(f"no {what} is of kind {kind!r}. {suggest(kind, list(kinds))}")
    return kinds[kind]


def _built(where: str, kind: type[T], given: Mapping[str, Any]) -> T:
    known = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    for key in given:
        if key not in known:
            raise ConfigError(f"{where} no parameter '{key}'. {suggest(key, known)}")
    return kind(**given)


def _default(fault: Fault, name: str) -> Any:
    return next(each.default for each in fields(fault) if each.name == name)
