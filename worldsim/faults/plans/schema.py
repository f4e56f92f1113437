"""The JSON Schema of plans (draft 2020-12), for editors; made from what the faults say of themselves."""

import inspect
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from worldsim.faults.fault import Fault
from worldsim.faults.plans.catalogue import KINDS
from worldsim.faults.plans.plan import Plan
from worldsim.faults.schedule import SCHEDULES, Always, Schedule

Json = dict[str, Any]


class SchemaConfig(BaseModel):
    """Where the schema goes. The key is explained in configs/schema-faults.yaml."""

    model_config = ConfigDict(extra="forbid")

    out: Path | None = None


TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", dict: "object"}


def plan_schema() -> Json:
    """What a plan file may hold. What the schema cannot say, such as a window's order, the loader checks besides."""
    schema = Plan.model_json_schema()
    items = _one_of("fault", KINDS)
    own = {"pattern": "^[^:]+:[^:]+$", "description": "a class of yours, package.module:Class"}
    items["properties"]["kind"] = {"anyOf": [items["properties"]["kind"], own]}
    schema["properties"]["faults"] |= {"items": items, "minItems": 1}
    schema["description"] = _first_sentence(Plan)
    definitions = {f"fault.{name}": _fault(kind) for name, kind in KINDS.items()}
    definitions |= {f"schedule.{name}": _schedule(kind) for name, kind in SCHEDULES.items()}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "$defs": definitions}


def _fault(kind: type[Fault]) -> Json:
    return _object(kind, kind.kind, {each.name: _parameter(each) for each in fields(kind)})


def _schedule(kind: type[Schedule]) -> Json:
    known = inspect.signature(kind).parameters
    described = {each.name: {"type": TYPES[known[each.name].annotation], "minimum": 0} for each in fields(kind)}
    return _object(kind, kind.kind, {each.name: described[each.name] | _default(each) for each in fields(kind)})


def _object(kind: type, name: str, properties: Json) -> Json:
    named = {"kind": {"const": name, "description": _first_sentence(kind)}}
    rules = {"required": ["kind"], "additionalProperties": False}
    return {"type": "object", "description": _first_sentence(kind), "properties": named | properties, **rules}


def _parameter(each: Field[Any]) -> Json:
    described = _value(each) | {"description": each.metadata["says"]}
    if each.default is None:
        described["type"] = [described["type"], "null"]
    return described | _default(each)


def _value(each: Field[Any]) -> Json:
    says = each.metadata
    if "low" in says:
        return {
            "type": "integer" if says.get("whole") else "number",
            "minimum": says["low"],
            "maximum": says["high"],
        }
    if "among" in says:
        return {"type": "string", "enum": list(says["among"])}
    wanted = says.get("type", type(each.default))
    if wanted is Always:
        return _one_of("schedule", SCHEDULES)
    if isinstance(each.default, tuple):
        item = {"type": "string" if isinstance(each.default[0], str) else "number"}
        return {"type": ["array", item["type"]], "items": item, "minItems": 1}
    return {"type": TYPES[wanted]}


def _default(each: Field[Any]) -> Json:
    value = each.default
    if value is MISSING or isinstance(value, Schedule):
        return {}
    return {"default": list(value) if isinstance(value, tuple) else value}


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
