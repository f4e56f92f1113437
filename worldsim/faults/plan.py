"""Plans: faults in a row under one name, as values, as YAML, and ready-made in `worldsim/configs/fault`."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, PrivateAttr, ValidationError
from pydantic import WithJsonSchema as JsonSchema

from worldsim.errors import ConfigError
from worldsim.faults.catalogue import KINDS
from worldsim.faults.fault import Fault, require_match, suggest
from worldsim.faults.schedule import SCHEDULES, Schedule
from worldsim.faults.written import Mistake, Source, read_yaml

T = TypeVar("T")


def fault_to_json(fault: Fault) -> dict[str, Any]:
    """A fault as plain JSON: its kind, its severity, and the parameters that are not the defaults."""
    changed = {each.name: getattr(fault, each.name) for each in fields(fault)}
    changed = {key: value for key, value in changed.items() if key == "severity" or value != _default(fault, key)}
    if "schedule" in changed:
        changed["schedule"] = {"kind": fault.schedule.kind, **asdict(fault.schedule)}
    return {"kind": fault.kind, **{key: list(v) if isinstance(v, tuple) else v for key, v in changed.items()}}


def fault_from_json(data: Any) -> Fault:
    """The fault that a mapping describes: `kind`, and parameters where they are not the defaults.

    Raises ConfigError for an unknown kind or parameter and for a value out of range, naming it.
    """
    if not isinstance(data, Mapping):
        raise Mistake(f"a fault is a mapping such as {{kind: slow_api, severity: 0.5}}, got {data!r}")
    kind = _known("fault", data, KINDS)
    given = {key: value for key, value in data.items() if key != "kind"}
    if isinstance(given.get("schedule"), Mapping):
        try:
            given["schedule"] = _schedule(given["schedule"])
        except Mistake as mistake:
            raise mistake.within("schedule") from None
    return _built(f"{kind.kind}:", kind, given)


PlannedFault = Annotated[
    Fault,
    PlainValidator(lambda given: given if isinstance(given, Fault) else fault_from_json(given)),
    PlainSerializer(fault_to_json),
    JsonSchema({"type": "object"}),  # `worldsim.faults.schema` knows better
]


class Plan(BaseModel):
    """Faults in a row, outermost first: the first gets a call first and its reply last.

    What a plan says of severity are shares: `plan.at(s)` is the plan in which each fault has its share of `s`. The seed
    closest to a fault counts: its own, else that of the plan, else that of whoever runs the plan.

    Raises ConfigError for what is unknown or out of range; one line, with file and line where it was read from a file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("plan", description="what reports call it")
    description: str = Field("", description="what it stands for, in a sentence or two")
    seed: int | None = Field(
        None, ge=0, lt=2**63, strict=True, description="of the faults that have none; null: that of whoever runs it"
    )
    faults: tuple[PlannedFault, ...] = Field(description="what goes wrong, outermost first")
    _source: Source = PrivateAttr(default_factory=Source)

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _explained(error) from error

    @classmethod
    def of(cls, given: "Plan | str | Path | Fault | Sequence[Fault | Mapping[str, Any]]") -> "Plan":
        """A plan from whatever stands for one: itself, a ready one's name, a file's path, its faults, or one fault."""
        if isinstance(given, Plan):
            return given
        if isinstance(given, Fault):
            return cls(faults=[given])
        return cls.load(given) if isinstance(given, str | Path) else cls(faults=given)

    @classmethod
    def load(cls, what: str | Path) -> "Plan":
        """The ready plan of this name, or the one in this YAML file."""
        path = Path(what)
        if str(what) in ready_plans():
            path = Path(str(files("worldsim"))) / "configs" / "fault" / f"{what}.yaml"
        elif path.suffix not in (".yaml", ".yml") and os.sep not in str(what):
            if str(what) in KINDS:
                raise ConfigError(f"'{what}' is a kind of fault and no plan; write a plan.yaml with `- kind: {what}`")
            raise ConfigError(f"no faults are called '{what}', and it is no file.yaml. {suggest(what, ready_plans())}")
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"the plan {what} cannot be read ({error.strerror}); check the path") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"the plan {what} is not text in UTF-8; save it as that") from error
        return cls.from_yaml(text, str(what))

    @classmethod
    def from_yaml(cls, text: str, name: str = "plan.yaml") -> "Plan":
        """The plan that a YAML text holds. `name` stands for the text in messages: `plan.yaml:12: ...`."""
        data, source = read_yaml(text, name)
        try:
            if not isinstance(data, dict):
                raise Mistake("a plan is a mapping with the keys name and faults; see docs/faults.md")
            plan = cls(**{str(key): value for key, value in data.items()})
        except Mistake as mistake:
            raise source.located(mistake) from None
        plan._source = source
        return plan

    def to_yaml(self) -> str:
        """The plan as YAML, without what is the default."""
        import yaml

        data = self.model_dump(mode="json", exclude_defaults=True)
        return str(yaml.safe_dump({"name": self.name, **data}, sort_keys=False, allow_unicode=True, width=120))

    def at(self, severity: float) -> "Plan":
        """This plan with each fault at its share of `severity`, in [0, 1]."""
        if isinstance(severity, bool) or not isinstance(severity, int | float) or not 0 <= severity <= 1:
            raise ConfigError(f"{self.name}: severity must be between 0 and 1, got {severity!r}")
        return self.model_copy(
            update={"faults": tuple(replace(fault, severity=fault.severity * severity) for fault in self.faults)}
        )

    def check(self, tools: Sequence[str], leaves: Sequence[str]) -> None:
        """Raise ConfigError, with file and line, for globs that match none of these tools or leaves."""
        known = {"tool": ("tools", tools), "target": ("targets", leaves)}
        for number, fault in enumerate(self.faults):
            for what, (key, names) in known.items():
                for position, glob in enumerate(getattr(fault, key, ())):
                    try:
                        require_match(fault, what, [glob], names)
                    except ConfigError as error:
                        mistake = Mistake(str(error), "faults", number, key, position)
                        raise self._source.located(mistake) from None


@cache
def ready_plans() -> tuple[str, ...]:
    """The names of the ready plans."""
    folder = files("worldsim").joinpath("configs", "fault")
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir()))


def _explained(error: ValidationError) -> Mistake:
    """The first of pydantic's findings in one line."""
    first = min(error.errors(), key=lambda each: each["type"] == "missing")  # rather the misspelt key than the missing
    cause = first.get("ctx", {}).get("error")
    at = tuple(first["loc"])
    if isinstance(cause, Mistake):
        return cause.within(*at)
    if cause is not None:
        return Mistake(str(cause), *at)
    key = ".".join(map(str, at))
    if first["type"] == "extra_forbidden":
        return Mistake(f"a plan has no key '{key}'. {suggest(key, list(Plan.model_fields))}", *at)
    if first["type"] == "missing":
        return Mistake(f"a plan needs '{key}'; write {key}: ...")
    says = first["msg"].replace("Input should", "must").replace("tuple", "list")
    return Mistake(f"{key}={first['input']!r} {says}", *at)


def _schedule(data: Mapping[str, Any]) -> Schedule:
    kind = _known("schedule", data, SCHEDULES)
    given = {key: value for key, value in data.items() if key != "kind"}
    own = {each.name for each in fields(kind)}
    for key in given:
        others = [name for name, each in SCHEDULES.items() if key in {field.name for field in fields(each)}]
        if key not in own and others:
            raise Mistake(f"schedule {kind.kind}: '{key}' belongs to a schedule of kind '{others[0]}'; keep one", key)
    return _built(f"schedule {kind.kind}:", kind, given)


def _known(what: str, data: Mapping[str, Any], kinds: Mapping[str, T]) -> T:
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise Mistake(f"no {what} is of kind {kind!r}. {suggest(kind, list(kinds))}", "kind")
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
