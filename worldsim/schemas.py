"""Reads pydantic models of configurations: keys, defaults, and mappings with arbitrary keys."""

import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

MISSING = "???"  # Hydra's mark of a value that must be given


def filled(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values merged over the defaults of the model, in its order; MISSING where there is no default.

    Keys that the model does not have come last. Interpolations such as "${env}" are kept.
    """
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        value = values[name] if name in values else default(field)
        part = model_of(field, value)
        found[name] = filled(part, value) if part is not None and isinstance(value, Mapping) else value
    return found | {key: value for key, value in values.items() if key not in found}


def default(field: FieldInfo) -> Any:
    """A field's default as a plain value: {} for a required model, MISSING for another required field."""
    if not field.is_required():
        return to_jsonable_python(field.get_default(call_default_factory=True))
    return {} if len(models_in(field.annotation)) == 1 else MISSING


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models in an annotation: none, one, or several of a union."""
    return [part for part in members(annotation) if isinstance(part, type) and issubclass(part, BaseModel)]


def model_of(field: FieldInfo, value: Any) -> type[BaseModel] | None:
    """The model of a field's value, by the discriminator if there are several; None where there is none."""
    kinds = models_in(field.annotation)
    if field.discriminator is None or not isinstance(value, Mapping):
        return kinds[0] if kinds else None
    key = str(field.discriminator)
    return next((kind for kind in kinds if kind.model_fields[key].default == value.get(key)), None)


def unknown(model: type[BaseModel], values: Mapping[str, Any]) -> Iterator[str]:
    """The keys, with dots, that the model does not have."""
    for key, value in values.items():
        field = model.model_fields.get(key)
        part = model_of(field, value) if field else None
        if field is None:
            yield key
        elif part is not None and isinstance(value, Mapping):
            yield from (f"{key}.{each}" for each in unknown(part, value))


def is_open(model: type[BaseModel], key: str) -> bool:
    """Whether the key is inside a mapping with arbitrary keys, such as env.kwargs."""
    first, _, rest = key.partition(".")
    field = model.model_fields.get(first)
    if field is None or not rest:
        return False
    if any(typing.get_origin(part) is dict for part in members(field.annotation)):
        return True
    return any(is_open(kind, rest) for kind in models_in(field.annotation))


def members(annotation: Any) -> Iterator[Any]:
    """The members of a union, through Annotated."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        for part in typing.get_args(annotation):
            yield from members(part)
    else:
        yield annotation


def lists_of_one(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """faults=plan.yaml means faults=[plan.yaml]: single values are wrapped where nothing but a list is wanted."""
    found = dict(values)
    for name, field in model.model_fields.items():
        value, parts = found.get(name), list(members(field.annotation))
        if isinstance(value, Mapping):
            kind = model_of(field, value)
            found[name] = value if kind is None else lists_of_one(kind, value)
        elif isinstance(value, str | int | float) and {typing.get_origin(p) or p for p in parts} <= {list, type(None)}:
            found[name] = [value]
    return found


def leaves_of(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Leaves of nested mappings as (("trainer", "steps"), 1000)."""
    if isinstance(values, Mapping) and (values or not path):
        for key, value in values.items():
            yield from leaves_of(value, (*path, str(key)))
    else:
        yield path, values


def dotted(values: Any) -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings as ("trainer.steps", 1000)."""
    return ((".".join(path), value) for path, value in leaves_of(values))
