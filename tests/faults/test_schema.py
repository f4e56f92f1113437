"""The schema of plans, held by a validator of its own against what the loader takes and refuses."""

import json
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.plans import plans
from tests.faults.test_plan import WRONG
from worldsim.errors import ConfigError
from worldsim.faults import FAMILIES, KINDS, Plan, ready_plans
from worldsim.faults.plans.schema import plan_schema

SCHEMA = plan_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
BEYOND = {  # what no schema can see
    "a window that ends before it starts",
    "an outage that ends before it starts",
    "an outage that comes again before it is over",
    "a range that ends before it starts",
    "two schedules",
    "a class that is not there",
    "a class that is no fault",
    "an instruction that says nothing",
    "a placeholder that there is not",
    "a schedule without an end",  # JSON has no infinity
}

CHECKS_BESIDES = {"uniform_latency", "empirical_latency", "hidden_instruction", "painted_instruction"}


def loads(data: Any) -> bool:
    try:
        Plan.from_yaml(yaml.safe_dump(data))
    except ConfigError:
        return False
    return True


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


@pytest.mark.parametrize("name", ready_plans())
def test_ready_plans_are_valid(name: str) -> None:
    VALIDATOR.validate(yaml.safe_load(Plan.load(name).to_yaml()))


@pytest.mark.parametrize("what", [what for what in WRONG if what not in BEYOND])
def test_wrong_plans_are_not(what: str) -> None:
    try:
        data = yaml.safe_load(WRONG[what][0])
    except (yaml.YAMLError, RecursionError):
        return
    assert what == "itself" or not VALIDATOR.is_valid(data)


@settings(max_examples=30, deadline=None)
@given(plans())
def test_all_that_a_plan_writes_is_valid(plan: Plan) -> None:
    VALIDATOR.validate(yaml.safe_load(plan.to_yaml()))


@pytest.mark.parametrize("kind", [kind.kind for family in FAMILIES.values() for kind in family])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_schema_and_loader_agree_on_every_parameter(kind: str, data: st.DataObject) -> None:
    """Any value for any parameter by itself. What a class checks besides, in Python, no schema can see."""
    known = SCHEMA["$defs"][f"fault.{kind}"]["properties"]
    name = data.draw(st.sampled_from(sorted(set(KINDS[kind].model_fields) - {"schedule"})))
    ends = [known[name][end] for end in ("minimum", "maximum") if end in known[name]]
    near = [end + step for end in ends for step in (-1, 0, 1)]
    strange = [None, True, "x", "*", 0, 0.5, 1, [], ["a"], [1.5], [1, "a"], {}, *known[name].get("enum", [])]
    value = data.draw(st.sampled_from(strange + near))
    plan = {"faults": [{"kind": kind, name: value}]}
    assert VALIDATOR.is_valid(plan) == loads(plan) or kind in CHECKS_BESIDES, plan
    assert VALIDATOR.is_valid(plan) or not loads(plan), plan


def test_what_an_editor_shows() -> None:
    slow = SCHEMA["$defs"]["fault.slow_api"]
    assert slow["description"].startswith("Every call takes log-normal time")
    assert slow["properties"]["lose_answer"] == {
        "type": "number",
        "minimum": 0,
        "maximum": 1,
        "default": 0.5,
        "description": "share of the time-outs that lose only the answer, not the request",
    }
    assert all(
        "description" in described
        for name, definition in SCHEMA["$defs"].items()
        if name.startswith("fault.")
        for described in definition["properties"].values()
    )
