"""Plans: faults in a row under one name, as values, as YAML, and ready-made in `worldsim/configs/fault`."""

import os
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, PrivateAttr, ValidationError
from pydantic import WithJsonSchema as JsonSchema

from worldsim.errors import ConfigError
from worldsim.faults.definition import KINDS, Fault
from worldsim.faults.parameters import LocatedError, suggest
from worldsim.faults.plans.serialization import fault_from_json, fault_to_json, usage_hint
from worldsim.faults.plans.yaml_source import YAMLSource, read_yaml, write_yaml
from worldsim.faults.stage import require_match
from worldsim.spaces import Leaf

AS_PLAN = 'write a plan.yaml with `- kind: {0}`, or in Python [{{"kind": "{0}"}}]'

PlannedFault = Annotated[
    Fault,
    PlainValidator(lambda given: given if isinstance(given, Fault) else fault_from_json(given)),
    PlainSerializer(fault_to_json),
    JsonSchema({"type": "object"}),  # `worldsim.faults.plans.schema` knows better
]


class Plan(BaseModel):
    """Faults in a row, outermost first: the first gets a call first and its reply last.

    What a plan says of severity are shares: `plan.at(s)` is the plan in which each fault has its share of `s`. The seed
    closest to a fault counts: its own, else that of the plan, else that of the caller.

    Raises ConfigError for what is unknown or out of range; one line, with file and line where it was read from a file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("plan", description="what reports call it")
    description: str = Field("", description="what it stands for, in a sentence or two")
    seed: int | None = Field(
        None, ge=0, lt=2**63, strict=True, description="of the faults that have none; null: that of the caller"
    )
    faults: tuple[PlannedFault, ...] = Field(description="what goes wrong, outermost first")
    _source: YAMLSource = PrivateAttr(default_factory=YAMLSource)

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
                raise ConfigError(f"'{what}' is a kind of fault and no plan; {AS_PLAN.format(what)}")
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
        """The plan that a YAML text holds, with the name of its file where the text gives none.

        name: of the file, in messages such as `plan.yaml:12: ...`.
        """
        data, source = read_yaml(text, name)
        try:
            if not isinstance(data, dict):
                raise LocatedError(
                    f"a plan is a mapping with the key faults and a list below it, got {type(data).__name__}"
                )
            if data.get("faults", ()) in (None, []):
                raise LocatedError(f"faults is empty and the plan would do nothing. {usage_hint()}", "faults")
            plan = cls(**{"name": Path(name).stem} | {str(key): value for key, value in data.items()})
        except LocatedError as mistake:
            raise source.located(mistake) from None
        plan._source = source
        return plan

    def to_yaml(self) -> str:
        """The plan as YAML, without what is the default."""
        return write_yaml({"name": self.name, **self.model_dump(mode="json", exclude_defaults=True)})

    def at(self, severity: float) -> "Plan":
        """This plan with each fault at its share of `severity`, in [0, 1]."""
        if isinstance(severity, bool) or not isinstance(severity, int | float) or not 0 <= severity <= 1:
            raise ConfigError(f"{self.name}: severity must be between 0 and 1, got {severity!r}")
        return self.model_copy(
            update={"faults": tuple(fault.replace(severity=fault.severity * severity) for fault in self.faults)}
        )

    def check(self, tools: Sequence[str] | None, leaves: Sequence[Leaf] | None) -> None:
        """Raise ConfigError, with file and line, for what cannot work on these tools and these leaves of replies:
        globs that match none, and what a fault itself does not find (`Fault.check`). None: they are not known.
        """
        for number, fault in enumerate(self.faults):
            try:
                _check(fault, tools, leaves)
            except LocatedError as mistake:
                raise self._source.located(mistake.within("faults", number)) from None

    def idle_reasons(self, tools: Sequence[str] | None, leaves: Sequence[Leaf] | None) -> list[str]:
        """A line for each fault that can never do anything there, with the reason: "black_frames: there are no frames".

        tools: the names of all there are, None where they are not known. leaves: of replies, None for plain JSON.
        """
        reasons = [(fault.kind, fault.idle_reason(tools, leaves)) for fault in self.faults]
        return [f"{kind}: {reason}" for kind, reason in reasons if reason is not None]


@cache
def ready_plans() -> tuple[str, ...]:
    """The names of the ready plans."""
    folder = files("worldsim").joinpath("configs", "fault")
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir()))


def _explained(error: ValidationError) -> LocatedError:
    """The first of pydantic's findings in one line."""
    first = min(error.errors(), key=lambda each: each["type"] == "missing")  # rather the misspelt key than the missing
    cause = first.get("ctx", {}).get("error")
    at = tuple(first["loc"])
    if isinstance(cause, LocatedError):
        return cause.within(*at)
    if cause is not None:
        return LocatedError(str(cause), *at)
    key = ".".join(map(str, at))
    if first["type"] == "extra_forbidden":
        return LocatedError(f"a plan has no key '{key}'. {suggest(key, list(Plan.model_fields))}", *at)
    if first["type"] == "missing":
        return LocatedError(f"a plan needs '{key}'. {usage_hint()}")
    if key == "faults":
        return LocatedError(f"faults must be a list, got {first['input']!r}. {usage_hint()}", *at)
    message = first["msg"].replace("Input should", "must").replace("tuple", "list")
    return LocatedError(f"{key}={first['input']!r} {message}", *at)


def _check(fault: Fault, tools: Sequence[str] | None, leaves: Sequence[Leaf] | None) -> None:
    """Raise a Mistake for what cannot work, at the parameter that is to blame."""
    targets = None if leaves is None else [leaf.name for leaf in leaves]
    for what, key, names in (("tool", "tools", tools), ("target", "targets", targets)):
        for position, glob in enumerate(getattr(fault, key, ()) if names is not None else ()):
            try:
                require_match(fault, what, [glob], names or ())
            except ConfigError as error:
                raise LocatedError(str(error), key, position) from None
    if not fault.idle and leaves is not None:
        fault.check(leaves)
