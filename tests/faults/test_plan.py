"""Faults as plain data: names, round trips, and one clear line for each mistake."""

import json

import pytest

from worldsim.errors import ConfigError
from worldsim.faults import (
    KINDS,
    NAMES,
    Bursts,
    MalformedOutput,
    MissingData,
    SlowAPI,
    Window,
    fault_from_json,
    fault_to_json,
    named,
)


@pytest.mark.parametrize("name", NAMES)
def test_a_ready_plan_is_its_fault_with_the_documented_defaults(name: str) -> None:
    assert named(name, 0.5) == [KINDS[name](severity=0.5)]
    assert all(fault.idle for fault in named(name, 0.0))


@pytest.mark.parametrize(
    "fault",
    [
        SlowAPI(severity=0.3, timeout_s=2.0, seed=4, schedule=Window(2, 5)),
        MalformedOutput(targets=("reply/*", "screen"), out_of_space=True, probability=0.5),
        MissingData(schedule=Bursts(3.0, 9.0), tools=("step",)),
    ],
)
def test_round_trip_through_json(fault: SlowAPI | MalformedOutput | MissingData) -> None:
    assert fault_from_json(json.loads(json.dumps(fault_to_json(fault)))) == fault


def test_defaults_are_not_written() -> None:
    assert fault_to_json(SlowAPI()) == {"kind": "slow_api", "severity": 0.5}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: named("slow_apo", 0.5), "no faults are called 'slow_apo'. Did you mean 'slow_api'?"),
        (lambda: named("slow_api", 1.2), "severity must be between 0 and 1, got 1.2"),
        (lambda: SlowAPI(severity=-0.1), "slow_api: severity must be between 0 and 1, got -0.1"),
        (lambda: SlowAPI(severity=float("nan")), "severity must be between 0 and 1, got nan"),
        (lambda: SlowAPI(severity="high"), "severity must be between 0 and 1, got 'high'"),
        (lambda: SlowAPI(severity=True), "severity must be between 0 and 1, got True"),
        (lambda: SlowAPI(timeout_s=None), "timeout_s must be between 0 and 1e+09, got None"),
        (lambda: SlowAPI(seed=0.5), "seed must be"),
        (lambda: SlowAPI(schedule="always"), "schedule must be a schedule such as"),
        (lambda: MissingData(targets=()), "targets must be a list of names"),
        (lambda: MissingData(out_of_space="yes"), "out_of_space must be a bool"),
        (lambda: fault_from_json({"kind": "slow"}), "no fault is of kind 'slow'"),
        (lambda: fault_from_json({"severity": 1}), "no fault is of kind None"),
        (lambda: fault_from_json({"kind": "slow_api", "tiemout_s": 1}), "Did you mean 'timeout_s'?"),
        (lambda: fault_from_json({"kind": "slow_api", "schedule": {"kind": "burst"}}), "Did you mean 'bursts'?"),
        (lambda: fault_from_json({"kind": "slow_api", "schedule": {"kind": "after", "call": 3}}), "'calls'"),
    ],
)
def test_mistakes_get_one_line_with_the_input_and_the_fix(make: object, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()  # type: ignore[operator]
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
