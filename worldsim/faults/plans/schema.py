"""The JSON Schema of plans (draft 2020-12), for editors; made from the parameters of the faults."""

import inspect
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from worldsim.faults.definition import Fault
from worldsim.faults.parameters import is_scaled
from worldsim.faults.plans.catalogue import FAMILIES
from worldsim.faults.plans.plan import Plan
from worldsim.faults.schedule import SCHEDULES, Schedule
from worldsim.settings import Settings

Json = dict[str, Any]


class SchemaConfig(Settings):
    """Where the schema goes."""

    out: Path | None = Field(None, description="file to write it to; null: print it")


def is_schema(file: Path) -> bool:
    """Whether a file holds a schema of plans, of any version of worldsim."""
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and any(name.startswith("fault.") for name in data.get("$defs", ()))


def plan_schema() -> Json:
    """What a plan file may hold. The loader checks what a schema cannot express, such as a window's order.

    Kinds are told apart by if/then: with 79 kinds anyOf would make validating a plan many times slower.
    """
    kinds = {kind.kind: kind for family in FAMILIES.values() for kind in family}
    schema = Plan.model_json_schema()
    items = _one_of("fault", kinds)
    custom = {"pattern": "^[^:]+:[^:]+$", "description": "a fault of yours, package.module:name"}
    items["properties"]["kind"] = {"anyOf": [items["properties"]["kind"], custom]}
    schema["properties"]["faults"] |= {"items": items, "minItems": 1}
    schema["description"] = _first_sentence(Plan)
    definitions = {f"fault.{name}": _object(kind) for name, kind in kinds.items()}
    definitions |= {f"schedule.{name}": _object(kind) for name, kind in SCHEDULES.items()}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "$defs": definitions}


def _object(kind: type[Fault] | type[Schedule]) -> Json:
    description = _first_sentence(kind)
    described = kind.model_json_schema()["properties"] if kind.model_fields else {}
    properties = {name: _parameter(name, each, kind) for name, each in described.items()}
    named = {"kind": {"const": kind.kind, "description": description}}
    rules = {"required": ["kind"], "additionalProperties": False}
    return {"type": "object", "description": description, "properties": named | properties, **rules}


def _parameter(name: str, described: Json, kind: type[BaseModel]) -> Json:
    """pydantic's description of a field, in the words that plans use."""
    if name == "schedule":
        return _one_of("schedule", SCHEDULES) | {"description": described["description"]}
    found = {key: value for key, value in described.items() if key not in ("title", "scaled", "anyOf")}
    for choice in described.get("anyOf", ()):  # a number or null
        types = [*found.get("type", []), choice["type"]]
        found |= {key: value for key, value in choice.items() if key != "type"} | {"type": types}
    if found.get("type") == "array":  # a single value may stand without a list
        found["type"] = ["array", found["items"]["type"]]
    if is_scaled(kind.model_fields[name]):
        found["description"] = f"{found['description']}, at severity 1"
    return found


def _one_of(what: str, kinds: Any) -> Json:
    kind = {"enum": list(kinds), "description": f"which {what}"}
    rules = [
        {
            "if": {"properties": {"kind": {"const": name}}, "required": ["kind"]},
            "then": {"$ref": f"#/$defs/{what}.{name}"},
        }
        for name in kinds
    ]
    return {"type": "object", "properties": {"kind": kind}, "required": ["kind"], "allOf": rules}


def _first_sentence(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].replace("`", "").split())
