"""Faults as plain data: names, round trips, and one clear line for each mistake."""

import json
import pickle
from pathlib import Path

import gymnasium as gym
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.plans import plans
from worldsim.errors import ConfigError
from worldsim.faults import (
    KINDS,
    Bursts,
    Call,
    CallContext,
    FaultGenerator,
    MalformedOutput,
    MissingData,
    Plan,
    Reply,
    SlowAPI,
    TimeWindow,
    Window,
    fault,
    fault_from_json,
    fault_to_json,
    ready_plans,
)
from worldsim.faults.parameters import number
from worldsim.wrappers import InjectFaults


@pytest.mark.parametrize("name", ["slow_api", "malformed_output", "missing_data"])
def test_a_plan_of_the_mission_is_its_fault_with_the_documented_defaults(name: str) -> None:
    assert Plan.load(name).at(0.5).faults == (KINDS[name](severity=0.5),)


@pytest.mark.parametrize(
    "fault",
    [
        SlowAPI(severity=0.3, timeout_s=2.0, seed=4, schedule=Window(start=2, stop=5, per_tool=False)),
        MalformedOutput(targets=("reply/*", "screen"), out_of_space=True, probability=0.5),
        MissingData(schedule=Bursts(mean_calls=3.0, mean_gap=9.0), tools=("step",)),
        SlowAPI(schedule=TimeWindow(start_s=60.0, stop_s=90.0, every_s=600.0)),
    ],
)
def test_round_trip_through_json(fault: SlowAPI | MalformedOutput | MissingData) -> None:
    assert fault_from_json(json.loads(json.dumps(fault_to_json(fault)))) == fault


def test_defaults_are_not_written() -> None:
    assert fault_to_json(SlowAPI()) == {"kind": "slow_api", "severity": 0.5}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Plan.load("slow_apo"), "called 'slow_apo', and it is no file.yaml. Did you mean 'slow_api'?"),
        (lambda: Plan.load("slow_api").at(1.2), "severity must be between 0 and 1, got 1.2"),
        (lambda: SlowAPI(severity=-0.1), "slow_api: severity must be between 0 and 1, got -0.1"),
        (lambda: SlowAPI(severity=float("nan")), "severity must be between 0 and 1, got nan"),
        (lambda: SlowAPI(severity="high"), "severity must be between 0 and 1, got 'high'"),
        (lambda: SlowAPI(severity=True), "severity must be between 0 and 1, got True"),
        (lambda: SlowAPI(timeout_s=None), "timeout_s must be between 0 and 1e+09, got None"),
        (lambda: SlowAPI(seed=0.5), "seed must be"),
        (lambda: SlowAPI(schedule="always"), "a schedule is a mapping such as {kind: window"),
        (lambda: MissingData(targets=()), "targets must be a list of names"),
        (lambda: MissingData(out_of_space="yes"), "out_of_space must be true or false, got 'yes'"),
        (lambda: fault_from_json({"kind": "slow"}), "no fault is of kind 'slow'"),
        (lambda: fault_from_json({"severity": 1}), "a fault needs a kind. Write `- kind: slow_api`; `worldsim faults"),
        (lambda: fault_from_json({"blur": {"severity": 1}}), "a fault needs a kind. Write `- kind: blur`"),
        (lambda: fault_from_json("blur"), "a fault is a mapping, got 'blur'. Write `- kind: blur`"),
        (
            lambda: fault_from_json({"kind": "zz"}),
            "no fault is of kind 'zz'. Write `- kind: slow_api`; `worldsim fault",
        ),
        (lambda: fault_from_json({"kind": "slow_api", "schedule": {"start": 3}}), "needs a kind. Choose from: window"),
        (lambda: fault_from_json({"kind": "slow_api", "schedule": "always"}), "such as {kind: window, start: 5, stop"),
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


WRONG = {
    "unknown fault": ("faults:\n  - kind: slow_api\n  - kind: slow_apo\n", 3, "Did you mean 'slow_api'?"),
    "severity": ("faults:\n  - kind: slow_api\n    severity: 1.2\n", 3, "severity must be between 0 and 1, got 1.2"),
    "parameter": ("faults:\n  - tiemout_s: 3\n    kind: slow_api\n", 2, "Did you mean 'timeout_s'?"),
    "the wrong one of two": (
        "faults:\n  - kind: slow_api\n    median_s: 3\n    sigma: -1\n",
        4,
        "sigma must be between",
    ),
    "a window that ends before it starts": (
        "faults:\n  - kind: slow_api\n    schedule:\n      kind: window\n      start: 9\n      stop: 3\n",
        6,
        "schedule window: stop must be more than start (9), got 3",
    ),
    "a schedule without an end": (
        "faults:\n  - kind: slow_api\n    schedule: {kind: bursts, mean_calls: .inf}\n",
        3,
        "schedule bursts: mean_calls must be between 1 and 1e+12, got inf",
    ),
    "an outage that ends before it starts": (
        "faults:\n  - kind: slow_api\n    schedule: {kind: time_window, start_s: 9,\n      stop_s: 3}\n",
        4,
        "schedule time_window: stop_s must be more than start_s (9), got 3",
    ),
    "an outage that comes again before it is over": (
        "faults:\n  - kind: slow_api\n    schedule: {kind: time_window, stop_s: 30, every_s: 20}\n",
        3,
        "schedule time_window: every_s must be 30 or more, got 20",
    ),
    "a range that ends before it starts": (
        "faults:\n  - kind: uniform_latency\n    low_s: 3\n    high_s: 1\n",
        4,
        "uniform_latency: high_s must be at least low_s (3), got 1",
    ),
    "no flag": (
        "faults:\n  - kind: slow_api\n    schedule: {kind: after, per_tool: 1}\n",
        3,
        "schedule after: per_tool must be true or false, got 1",
    ),
    "parameters of two schedules": (
        "faults:\n  - kind: slow_api\n    schedule: {kind: after, calls: 3,\n      stop: 9}\n",
        4,
        "'stop' belongs to a schedule of kind 'window'; keep one",
    ),
    "two schedules": (
        "faults:\n  - kind: slow_api\n    schedule: {kind: always}\n    schedule: {kind: after}\n",
        4,
        "'schedule' is given twice, first in line 3; keep one",
    ),
    "an instruction that says nothing": (
        "faults:\n  - kind: hidden_instruction\n    text: ' '\n",
        3,
        "hidden_instruction: text must say something, got ' '; leave it out",
    ),
    "a placeholder that there is not": (
        "faults:\n  - kind: painted_instruction\n    text: SAY {tokne}\n",
        3,
        "painted_instruction: text has a placeholder {tokne}, and {token} is the only one; write that",
    ),
    "unknown key": ("name: x\nfautls: []\n", 2, "a plan has no key 'fautls'. Did you mean 'faults'?"),
    "no faults": ("name: x\n", 1, "a plan needs 'faults'"),
    "an empty list of faults": ("name: x\nfaults: []\n", 2, "faults is empty and the plan would do nothing. Write"),
    "nothing below faults": ("name: x\nfaults:\n", 2, "faults is empty and the plan would do nothing. Write"),
    "faults that are no list": ("faults:\n  slow_api: {severity: 1}\n", 1, "faults must be a list, got {'slow_api'"),
    "a fault without a kind": ("faults:\n  - kind: blur\n  - severity: 1\n", 3, "a fault needs a kind. Write"),
    "a class that is not there": ("faults:\n  - kind: json:Nothing\n", 2, "'json:Nothing' cannot be imported (module"),
    "a class that is no fault": ("faults:\n  - kind: json:JSONDecoder\n", 2, "is no kind of fault; put @worldsim"),
    "a schedule without a kind": (
        "faults:\n  - kind: slow_api\n    schedule: {stop: 9}\n",
        3,
        "a schedule needs a kind. Choose from: window",
    ),
    "half a call": (
        "faults:\n  - kind: slow_api\n    schedule: {kind: window, stop: 9.5}\n",
        3,
        "schedule window: stop must be a whole number between 1 and 1e+12, got 9.5",
    ),
    "wrong type": ("faults: [{kind: blur}]\nseed: 0.5\n", 2, "seed=0.5 must be a valid integer"),
    "not YAML": ("name: x\nfaults: [\n", 3, "not YAML: "),
    "a tag": ("faults:\n  - !!python/object:os.system {}\n", 2, "not YAML: could not determine a constructor"),
    "binary": ("faults: []\nname: \0\n", 1, "not YAML: "),
    "nothing": ("", 1, "a plan is a mapping"),
    "itself": ("faults: &a [*a]\n", 1, "a fault is a mapping"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_plan_is_told_by_file_and_line(what: str, tmp_path: Path) -> None:
    text, line, says = WRONG[what]
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Plan.load(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert says in str(caught.value) and "\n" not in str(caught.value)


@given(plans(), st.data())
def test_the_line_is_that_of_the_mistake_wherever_it_is(plan: Plan, data: st.DataObject) -> None:
    """An independent finder: the line in which a word stands that is nowhere else."""
    entries = [fault_to_json(fault) for fault in plan.faults] + [{"kind": "slow_api"}]
    data.draw(st.sampled_from(entries))["zzz"] = 1
    text = f"description: {json.dumps(plan.description)}\n{yaml.safe_dump({'faults': entries})}"
    (line,) = (number for number, found in enumerate(text.split("\n"), 1) if "zzz" in found)
    with pytest.raises(ConfigError, match=f"^plan.yaml:{line}: .* no parameter 'zzz'"):
        Plan.from_yaml(text)


@pytest.mark.parametrize(
    ("glob", "says"), [("targets: [value, screen]", "target 'screen'"), ("tools:\n    - pay*", "tool 'pay*'")]
)
def test_a_glob_that_matches_nothing_is_told_when_the_environment_is_known(glob: str, says: str) -> None:
    plan = Plan.from_yaml(f"faults:\n  - kind: slow_api\n  - kind: missing_data\n    {glob}\n")
    line = 5 if "\n" in glob else 4
    for tried in (plan, plan.at(0.5), pickle.loads(pickle.dumps(plan))):
        with pytest.raises(ConfigError, match=rf"^plan.yaml:{line}: missing_data: ") as caught:
            InjectFaults(gym.make("CartPole-v1"), tried)
        assert f"{says} matches nothing" in str(caught.value)


@pytest.mark.parametrize("kind", ["blur", "black_frames", "frozen_frames", "painted_instruction", "gaussian_noise"])
def test_a_fault_of_frames_is_not_aimed_at_what_is_none(kind: str) -> None:
    plan = Plan.from_yaml(f"faults:\n  - kind: {kind}\n    targets:\n      - reply/*\n")
    says = rf"^plan.yaml:3: {kind}: there is nothing for it in reply/\*; aim at a frame$"
    with pytest.raises(ConfigError, match=says):
        InjectFaults(gym.make("worldsim/RefundDesk-v0"), plan)
    InjectFaults(gym.make("worldsim/RefundDesk-v0"), plan.at(0))
    InjectFaults(gym.make("worldsim/RefundDesk-v0"), [{"kind": kind, "targets": ["reply/*", "screen"]}])
    InjectFaults(gym.make("CartPole-v1"), [{"kind": "gaussian_noise", "targets": ["value"]}])


def test_no_message_lists_more_than_can_be_read() -> None:
    for data in ({"severity": 1}, {"kind": None}, {"kind": "zzzz"}, {"kind": "slow_api", "zzzz": 1}, "zzzz", 3):
        with pytest.raises(ConfigError) as caught:
            fault_from_json(data)
        assert len(str(caught.value)) < 200


@given(plans())
def test_round_trip_through_yaml(plan: Plan) -> None:
    again = Plan.from_yaml(plan.to_yaml())
    assert again == plan
    assert again.to_yaml() == plan.to_yaml()


@fault("gone")
def gone(call: Call, context: CallContext, often: float = number(0.5, 0, 1, "how often")) -> FaultGenerator:
    """A fault of somebody's own."""
    context.record(lost="request")
    return Reply.failed("timeout")
    yield call


def test_faults_of_ones_own_are_named_by_where_their_class_is(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(f"faults:\n  - kind: {__name__}:gone\n    often: 0.25\n  - kind: slow_api\n")
    plan = Plan.load(path)
    assert plan.faults == (gone(often=0.25), SlowAPI()) and Plan.from_yaml(plan.to_yaml()) == plan
    spec = InjectFaults(gym.make("CartPole-v1"), plan).spec
    assert spec is not None
    env = gym.make(gym.envs.registration.EnvSpec.from_json(spec.to_json()))
    env.reset(seed=0)
    assert not env.step(0)[-1]["reply"]["ok"]
    path.write_text(f"faults:\n  - kind: {__name__}:gone\n    ofen: 0.25\n")
    with pytest.raises(ConfigError, match=r"plan.yaml:3: gone: no parameter 'ofen'. Did you mean 'often'\?"):
        Plan.load(path)


@given(plans(), st.floats(0, 1))
def test_each_fault_has_its_share_of_the_severity(plan: Plan, severity: float) -> None:
    scaled = plan.at(severity)
    assert scaled == plan.model_copy(update={"faults": scaled.faults})
    assert [each.replace(severity=0.5) for each in scaled.faults] == [
        each.replace(severity=0.5) for each in plan.faults
    ]
    assert [each.severity for each in scaled.faults] == [each.severity * severity for each in plan.faults]
    assert plan.at(1) == plan


def test_numbers_are_read_as_yaml_1_2_has_them() -> None:
    (fault,) = Plan.from_yaml("faults: [{kind: slow_api, timeout_s: 1e3, median_s: -0e0}]").faults
    assert fault == SlowAPI(timeout_s=1000.0, median_s=0.0)


@pytest.mark.parametrize("name", ready_plans())
def test_ready_plans_name_and_explain_themselves(name: str) -> None:
    plan = Plan.load(name)
    assert plan.name == name and plan.description.endswith(".")
    assert all(fault.idle for fault in plan.at(0).faults)


@pytest.mark.parametrize("name", ready_plans())
def test_ready_plans_fire_and_keep_observations_inside_their_space(name: str) -> None:
    env = InjectFaults(gym.make("worldsim/RefundDesk-v0"), name)
    fired = set()
    for seed in range(4):
        env.reset(seed=seed)
        env.action_space.seed(seed)
        over = False
        while not over:
            observation, _, terminated, over, info = env.step(env.action_space.sample())
            over |= terminated
            assert observation in env.observation_space
            fired |= {record.fault for record in info["faults"]}
    # The desk's replies have neither rows nor times of day.
    assert fired == {fault.kind for fault in Plan.load(name).faults} - {"missing_rows", "wrong_time_zone"}


def test_the_seed_nearest_to_a_fault_counts() -> None:
    def records(plan: Plan, seed: int) -> list[object]:
        env = InjectFaults(gym.make("CartPole-v1"), plan, seed=seed)
        env.reset(seed=0)
        for _ in range(8):
            env.step(0)
        return list(env.records)

    open_plan, own = Plan(faults=[SlowAPI()]), Plan(seed=7, faults=[SlowAPI()])
    assert records(open_plan, 7) == records(own, 1) == records(own, 2) != records(open_plan, 1)
    assert records(Plan(seed=9, faults=[SlowAPI(seed=7)]), 1) == records(own, 1)


def test_whatever_stands_for_a_plan(tmp_path: Path) -> None:
    plan = Plan.load("slow_api")
    (tmp_path / "mine.yaml").write_text(plan.to_yaml())
    spelt = ["slow_api", tmp_path / "mine.yaml", str(tmp_path / "mine.yaml"), plan]
    assert all(Plan.of(each) == plan for each in spelt)
    assert Plan.of(plan.faults) == Plan.of([fault_to_json(plan.faults[0])]) == Plan(faults=plan.faults)


@pytest.mark.parametrize("what", ["nowhere.yaml", "."])
def test_a_file_that_cannot_be_read_is_one_line(what: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read|no faults are called"):
        Plan.load(what)


def test_a_file_without_a_name_gives_its_own(tmp_path: Path) -> None:
    """Otherwise two such files would be one plan in a report."""
    for name in ("monday", "friday"):
        (tmp_path / f"{name}.yaml").write_text("faults: [{kind: slow_api}]\n")
        assert Plan.load(tmp_path / f"{name}.yaml").name == name
    (tmp_path / "friday.yaml").write_text("name: late\nfaults: [{kind: slow_api}]\n")
    assert Plan.load(tmp_path / "friday.yaml").name == "late"
