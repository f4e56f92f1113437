"""Parameters of faults and schedules: pydantic fields with bounds and a meaning, and mistakes in one line.

The same fields are what plans in YAML hold, what the JSON Schema and the documentation are made from, and what error
messages name.
"""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from worldsim.errors import ConfigError
from worldsim.faults.trees import TreePath

MAX_CHOICES = 12  # words that an error message lists


class LocatedError(ConfigError):
    """An error in plain data, and its location there."""

    def __init__(self, description: str, *at: str | int) -> None:
        super().__init__(description)
        self.at: TreePath = at

    def within(self, *outer: str | int) -> "LocatedError":
        """The same error, located in a larger structure."""
        return LocatedError(str(self), *outer, *self.at)


def matches(name: str, globs: Iterable[str]) -> bool:
    """Whether one of the globs fits the name; `*` goes over slashes, too."""
    return any(fnmatchcase(name, glob) for glob in globs)


def suggest(name: object, choices: Sequence[str], fallback: str = "") -> str:
    """The end of an error message: the nearest of the words; where none is near, `fallback` or the words."""
    from difflib import get_close_matches

    near = get_close_matches(str(name), choices, n=1)
    if near:
        return f"Did you mean '{near[0]}'?"
    more = f", ... ({len(choices)} in all)" if len(choices) > MAX_CHOICES else ""
    return fallback or f"Choose from: {', '.join(choices[:MAX_CHOICES])}{more}"


# --- fields ---


def _listed(given: Any) -> Any:
    """A list, or a single value, as the tuple that is kept."""
    if isinstance(given, list):
        return tuple(given)
    return (given,) if isinstance(given, str | int | float) and not isinstance(given, bool) else given


NameGlobs = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_listed)]
"""One or more names or globs over names; a single one may stand without a list."""

NumberTuple = Annotated[
    tuple[Annotated[float, Field(allow_inf_nan=False)], ...], Field(min_length=1), BeforeValidator(_listed)
]
"""One or more numbers; a single one may stand without a list."""

EVERYTHING = ("*",)


def number(default: float | None, low: float, high: float, description: str) -> Any:
    """A field: a number in [low, high] and what it means. Annotate it `float`, or `int` for whole numbers."""
    return Field(default=default, ge=low, le=high, description=description, allow_inf_nan=False)


def scaled(default: float, low: float, high: float, description: str) -> Any:
    """A field whose value at severity 1 this is: elsewhere it is multiplied by the severity (`Fault.at`)."""
    extra: dict[str, Any] = {"scaled": True}
    return Field(
        default=default, ge=low, le=high, description=description, allow_inf_nan=False, json_schema_extra=extra
    )


def option(default: Any, description: str) -> Any:
    """A field that is not a number, and what it means."""
    return Field(default=default, description=description)


def targets(default: tuple[str, ...] = EVERYTHING) -> Any:
    """The field `targets` of faults that change replies."""
    return Field(default=default, description='globs over the leaves that it may change, such as "reply/*"')


def out_of_space() -> Any:
    """The field `out_of_space` of faults that change replies."""
    return Field(
        default=False, description="let values outside the observation space through, as they would really arrive"
    )


def is_scaled(field: FieldInfo) -> bool:
    """Whether a field is multiplied by the severity."""
    return isinstance(field.json_schema_extra, dict) and "scaled" in field.json_schema_extra


# --- models ---


STRICT_AND_FROZEN = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)
"""The configuration of models that are values. Validators are built when one is made: few programs use all 79 kinds."""


def checked_init(model: Any, name: str, values: dict[str, Any]) -> None:
    """Make a model out of values. Whatever is wrong with them is one ConfigError that names the field and the fix."""
    try:
        BaseModel.__init__(model, **values)
    except ValidationError as error:
        raise located_error_from(error, name, type(model).model_fields) from None


def located_error_from(error: ValidationError, name: str, fields: Mapping[str, FieldInfo]) -> LocatedError:
    """The first of pydantic's findings in one line."""
    found = error.errors()[0]
    at = tuple(found["loc"])
    cause = found.get("ctx", {}).get("error")
    if isinstance(cause, LocatedError):  # raised by a nested model, which has worded it already
        return cause.within(*at)
    if cause is not None:
        return LocatedError(f"{name}: {cause}", *at)
    key = str(at[0]) if at else ""
    if found["type"] == "extra_forbidden":
        return LocatedError(f"{name}: no parameter '{key}'. {suggest(key, list(fields))}", *at)
    if found["type"] == "missing":
        return LocatedError(f"{name}: needs '{key}'", *at)
    given = found["input"]
    return LocatedError(f"{name}: {key} must be {_expected(found, fields.get(key))}, got {given!r}", *at[:1])


def bounds(field: FieldInfo) -> tuple[float, float] | None:
    """The least and the greatest value of a field, None where it has no bounds."""
    low = next((each.ge for each in field.metadata if hasattr(each, "ge")), None)
    high = next((each.le for each in field.metadata if hasattr(each, "le")), None)
    return None if low is None or high is None else (low, high)


def _expected(found: Any, field: FieldInfo | None) -> str:
    """What a field takes, in words."""
    limits = bounds(field) if field else None
    if limits:
        whole = "a whole number between" if field and "int" in str(field.annotation) else "between"
        return f"{whole} {limits[0]:g} and {limits[1]:g}"
    if found["type"] == "literal_error":
        return f"one of {found['ctx']['expected']}"
    kind = str(field.annotation) if field else ""
    if "tuple" in kind:
        return f"a list of {'names' if 'str' in kind else 'numbers'}"
    if "bool" in kind:
        return "true or false"
    description = found["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{description[0].lower()}{description[1:]}"
