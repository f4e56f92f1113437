"""Environments whose actions name tools and whose answers are texts: faults are aimed, and rebuild what is valid."""

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from worldsim import faults
from worldsim.errors import ConfigError
from worldsim.wrappers import InjectFaults, VectorInjectFaults

from .recording_env import BUILT_IN, KINDS, RecordingEnv
from .shop import ACTIONS, OBSERVATIONS, PAGES, Shop, action_of, called
from .test_conformance import alike
from .test_inject import once_more
from .test_vector import assert_alike

each_form = pytest.mark.parametrize("form", ACTIONS)
COUNT = 3


def calls_of(number: int) -> tuple[str, dict[str, int]]:
    """What is called at a step: of two tools, with arguments that come again."""
    return ("list", {"page": number % PAGES}) if number % 3 else ("refund", {"id": number % 4})


def played(env: gym.Env[Any, Any], form: str, steps: int) -> list[Any]:
    env.reset(seed=3)
    found = []
    for number in range(steps):
        tool, arguments = calls_of(number)
        found.append(env.step(action_of(form, tool, **arguments)))
    return found


@each_form
def test_faults_are_aimed_at_tools_by_their_names(form: str) -> None:
    env = InjectFaults(Shop(form), [faults.Unavailable(severity=1.0, rate=1.0, tools=["ref*"])])
    refused = [not step[-1]["reply"]["ok"] for step in played(env, form, 12)]
    assert refused == [calls_of(number)[0] == "refund" for number in range(12)]
    assert [(record.tool, record.call) for record in env.records] == [("refund", number) for number in range(4)]
    with pytest.raises(ConfigError, match="tool 'pay' matches nothing. Choose from: list, refund, wait"):
        InjectFaults(Shop(form), [faults.Unavailable(tools=["pay"])])


@each_form
@pytest.mark.parametrize("observations", ["json", "box"])
def test_the_next_page_is_fetched_where_there_is_one(form: str, observations: str) -> None:
    below = Shop(form, observations)
    env = InjectFaults(below, [faults.OffByOnePage(severity=1.0, rate=1.0, tools=["list"])])
    env.reset(seed=0)
    for page in range(PAGES):
        *_, info = env.step(action_of(form, "list", page=page))
        tool, arguments = called(below.arrived[-1])
        last = page == PAGES - 1 and form in ("classes", "flat")  # whose space has no page after it
        assert (tool, arguments["page"]) == ("list", page if last else page + 1)
        turned = [record.details for record in info["faults"] if "argument" in record.details]
        assert turned == ([] if last else [{"argument": "page", "before": page, "after": page + 1}])
        json.dumps(turned)
    env.step(action_of(form, "refund", page=1))
    assert called(below.arrived[-1])[1]["page"] == 1


@each_form
@pytest.mark.parametrize(
    "fault",
    [
        faults.DelayedAction(severity=1.0, min_calls=2, max_calls=2),
        faults.StickyAction(severity=1.0, rate=0.5),
        faults.ReorderedDelivery(severity=1.0, rate=0.5),
        faults.DuplicateExecution(severity=1.0, rate=0.5),
    ],
    ids=lambda fault: fault.kind,
)
def test_what_is_done_instead_is_what_was_asked_before_in_the_same_words(form: str, fault: faults.Fault) -> None:
    below = Shop(form)
    env = InjectFaults(below, [fault])
    played(env, form, 30)
    asked = [action_of(form, calls_of(number)[0], **calls_of(number)[1]) for number in range(30)]
    assert all(any(alike(action, each) for each in asked) for action in below.arrived)
    assert not alike(below.arrived, asked)
    if isinstance(fault, faults.DelayedAction):
        assert alike(below.arrived[2:], asked[:-2])


def test_texts_that_name_no_tool_are_steps_and_come_again_as_they_were() -> None:
    below = Shop("json")
    env = InjectFaults(below, [faults.DelayedAction(severity=1.0, min_calls=1, max_calls=1)])
    env.reset(seed=0)
    said = ["hello", action_of("json", "list", page=2), "bye", "[1]", '{"tool": 3}', "{"]
    for each in said:
        env.step(each)
    assert below.arrived == [said[0], *said[:-1]]
    assert env.records and {record.tool for record in env.records} == {"step", "list"}


# --- answers that are texts ---


def fields_of(text: str) -> list[Any]:
    """Everything that an answer of the shop says, once for each part that says it; read without worldsim."""
    said = json.loads(text)
    if "structuredContent" not in said:
        return [said]
    texts = [part["text"] for part in said["content"]]
    assert texts[1] == "done"
    return [said["structuredContent"], json.loads(texts[0])]


@pytest.mark.parametrize("observations", ["json", "mcp"])
@pytest.mark.parametrize("kind", ["wrong_unit", "transposed_digits", "null_fields", "dropped_fields", "clock_skew"])
def test_the_fields_of_a_text_are_changed_and_all_parts_of_it_alike(kind: str, observations: str) -> None:
    below = Shop("json", observations)
    fault = BUILT_IN[kind](severity=1.0, **({} if kind == "clock_skew" else {"rate": 1.0}))
    env = InjectFaults(below, [fault])
    for (seen, *_, info), true in zip(played(env, "json", 20), below.answered[1:], strict=True):
        assert seen in env.observation_space and seen != true
        first, *others = fields_of(seen)
        assert all(other == first for other in others)
        (before, *_) = fields_of(true)
        flat_before, flat = flattened(before), flattened(first)
        changed = {name for name in flat_before if name not in flat or flat[name] != flat_before[name]}
        assert changed == {record.details["leaf"] for record in info["faults"]}


def flattened(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {path: leaf for key, each in items for path, leaf in flattened(each, f"{name}/{key}").items()}
    return {name.removeprefix("/"): value}


def test_a_text_is_spaced_as_it_was() -> None:
    below = Shop("json", "indented")
    env = InjectFaults(below, [faults.WrongUnit(severity=1.0, rate=1.0, targets=["pieces"], factors=[3.0])])
    for (seen, *_), true in zip(played(env, "json", 9), below.answered[1:], strict=True):
        if true.startswith("{"):
            said = json.loads(true)
            assert seen == true.replace(f'"pieces": {said["pieces"]}', f'"pieces": {3 * said["pieces"]}') != true
        else:
            assert seen == true


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_that_is_no_json_stays_in_its_space_as_any_other_leaf_does(kind: str) -> None:
    class Said(Shop):
        """The same text as a part of a Dict."""

        def __init__(self) -> None:
            super().__init__("json", "prose")
            self.observation_space = gym.spaces.Dict({"value": OBSERVATIONS["prose"]})

        def _answer(self, tool: str, arguments: dict[str, Any]) -> Any:
            return {"value": super()._answer(tool, arguments)}

    fault = BUILT_IN[kind](severity=1.0)
    text, part = InjectFaults(Shop("json", "prose"), [fault]), InjectFaults(Said(), [fault])
    for seen, other in zip(played(text, "json", 20), played(part, "json", 20), strict=True):
        assert seen[0] in text.observation_space and seen[1:4] == other[1:4]
        assert seen[0] == other[0]["value"]
        replies = [{**each[-1]["reply"]} for each in (seen, other)]
        if kind in BY_ITS_TEXT:
            continue
        raws = [reply.pop("raw", None) for reply in replies]
        assert replies[0] == replies[1] and (raws[0] is None) == (raws[1] is None)
        assert [record.kind for record in seen[-1]["faults"]] == [record.kind for record in other[-1]["faults"]]


BY_ITS_TEXT = {"schema_drift", "slow_drip", "oversized_reply"}  # what they do depends on the whole reply as JSON


def test_a_text_that_its_space_does_not_hold_is_refused_unless_it_may_arrive() -> None:
    class Short(Shop):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = gym.spaces.Text(len(self._json("refund", {}, 9)) + 60, charset="".join(
                sorted(OBSERVATIONS["json"].character_set)))  # fmt: skip

    fault = {"kind": "oversized_reply", "severity": 1.0, "rate": 1.0}
    env = InjectFaults(Short(), [fault])
    for seen, *_, info in played(env, "json", 4):
        assert info["reply"]["error"] == "malformed" and '"debug": "2026' in info["reply"]["raw"]
        assert seen in env.observation_space
    wide = InjectFaults(Short(), [{**fault, "out_of_space": True}])
    assert all("debug" in json.loads(step[0]) and step[-1]["reply"]["ok"] for step in played(wide, "json", 4))


def test_errors_are_shown_in_a_text_as_the_environment_says() -> None:
    class Telling(Shop):
        def __init__(self) -> None:
            super().__init__()
            self.metadata = {**self.metadata, "on_error": {"timeout": {"value": "ERROR: timed out"}}}

    lost = [faults.LostAnswer(severity=1.0, rate=1.0)]
    assert {step[0] for step in played(InjectFaults(Telling(), lost), "json", 3)} == {"ERROR: timed out"}
    envs = VectorInjectFaults(SyncVectorEnv([Telling] * 2), lost)
    envs.reset(seed=0)
    assert envs.step(("{}", "{}"))[0] == ("ERROR: timed out",) * 2


# --- waiting ---


@each_form
def test_time_passes_while_a_tool_waits(form: str) -> None:
    """Of a service that is down for the first 10 s: whoever waits is served, whoever asks again and again is not."""
    outage = faults.Unavailable(severity=1.0, rate=1.0, schedule=faults.TimeWindow(start_s=0.0, stop_s=10.0))

    def made() -> InjectFaults:
        env = InjectFaults(Shop(form), [outage])
        env.reset(seed=0)
        return env

    hasty = made()
    assert not any(hasty.step(action_of(form, "list"))[-1]["reply"]["ok"] for _ in range(20))
    patient = made()
    replies = [patient.step(action_of(form, tool))[-1]["reply"] for tool in ("list", "wait", "wait", "list")]
    assert [reply["ok"] for reply in replies] == [False, False, True, True] and patient.clock.now() == 14.0
    assert {reply["latency_s"] for reply in replies} == {0.0}  # the wait is the agent's own
    other = made()
    other.wait(9.5)
    assert not other.step(action_of(form, "list"))[-1]["reply"]["ok"]
    other.wait(0.5)
    assert other.step(action_of(form, "list"))[-1]["reply"]["ok"]
    other.reset()  # an outage begins with its session, however late it is on the clock
    assert other.clock.now() == 10.0 and not other.step(action_of(form, "list"))[-1]["reply"]["ok"]
    for seconds in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match="the seconds to wait must be 0 or more"):
            other.wait(seconds)


def test_a_retry_after_that_is_meant_is_heeded_by_waiting() -> None:
    for limited in (
        faults.RateLimited(severity=1.0, rate=1.0, until_retry_after=True, retry_after_s=5.0),
        faults.Throttled(severity=1.0, calls=2, window_s=20.0),
    ):
        env = InjectFaults(Shop("classes"), [limited])
        env.reset(seed=0)
        served = 0
        for _ in range(12):
            reply = env.step(action_of("classes", "list"))[-1]["reply"]
            served += reply["ok"]
            if not reply["ok"]:
                assert 0 < reply["retry_after_s"] <= 20.0
                env.wait(reply["retry_after_s"])
                assert env.step(action_of("classes", "list"))[-1]["reply"]["ok"]
        hasty = InjectFaults(Shop("classes"), [limited])
        hasty.reset(seed=0)
        ok = [hasty.step(action_of("classes", "list"))[-1]["reply"]["ok"] for _ in range(12)]
        assert sum(ok) == (2 if isinstance(limited, faults.Throttled) else 0)


def test_on_a_vector_time_passes_for_those_that_wait() -> None:
    envs = VectorInjectFaults(SyncVectorEnv([lambda: Shop("flat")] * 3), [faults.ConstantLatency(severity=1.0)])
    envs.reset(seed=0)
    envs.step({"name": np.array([0, 2, 2]), "page": np.zeros(3, int), "id": np.zeros(3, int)})
    assert envs.seconds.tolist() == [2.0, 9.0, 9.0]
    envs.wait(1.5)
    assert envs.seconds.tolist() == [3.5, 10.5, 10.5]
    with pytest.raises(ConfigError, match="the seconds to wait must be 0 or more"):
        envs.wait(-0.1)


# --- on a vector ---


def stacked(form: str, number: int) -> Any:
    """What each environment of a vector does at a step, and all that as a batch."""
    each = [action_of(form, calls_of(number + row)[0], **calls_of(number + row)[1]) for row in range(COUNT)]
    if form == "json":
        return each, tuple(each)
    space = ACTIONS[form]
    empty = gym.vector.utils.create_empty_array(space, n=COUNT, fn=np.zeros)
    return each, gym.vector.utils.concatenate(space, each, empty)


def check_vector(form: str, observations: str, plan: Any, steps: int, mode: AutoresetMode) -> list[Any]:
    def make() -> Shop:
        return Shop(form, observations, length=9)

    ours = VectorInjectFaults(SyncVectorEnv([make] * COUNT, autoreset_mode=mode), plan, seed=5)
    theirs = SyncVectorEnv([lambda: InjectFaults(make(), plan, seed=5)] * COUNT, autoreset_mode=mode)
    assert_alike(ours.reset(seed=7), theirs.reset(seed=7))
    records = []
    for number in range(steps):
        _, batch = stacked(form, number)
        mine = ours.step(batch)
        assert_alike(mine, theirs.step(batch))
        records += [record for each in mine[-1]["faults"] for record in each]
    arrived = [[env.unwrapped.arrived for env in envs.envs] for envs in (ours.unwrapped, theirs)]  # type: ignore[attr-defined]
    assert alike(*arrived)
    return records


@pytest.mark.parametrize("kind", KINDS)
def test_environments_of_a_vector_meet_what_they_would_meet_alone(kind: str) -> None:
    plan = [BUILT_IN[kind](severity=0.9)]
    for form, observations in (("classes", "json"), ("texts", "mcp"), ("json", "mixed"), ("flat", "box")):
        check_vector(form, observations, plan, 14, AutoresetMode.NEXT_STEP)


MANY: list[faults.Fault] = [
    faults.LognormalLatency(severity=0.4, tools=["list"]),
    faults.Unavailable(severity=0.9, schedule=faults.TimeWindow(start_s=6.0, stop_s=9.0, every_s=20.0)),
    faults.RateLimited(severity=0.5, until_retried=1, schedule=faults.Bursts(mean_calls=3, mean_gap=3, per_tool=False)),
    faults.DelayedAction(severity=0.5, schedule=faults.After(calls=3, per_tool=False)),
    faults.DuplicateExecution(severity=0.9, tools=["refund"]),
    faults.OffByOnePage(severity=0.9),
    faults.Throttled(severity=1.0, calls=3, window_s=9.0),
    faults.StaleCache(severity=0.5, tools=["list"]),
    faults.WrongUnit(severity=0.9),
    faults.SchemaDrift(severity=0.5),
    faults.TruncatedJSON(severity=0.3),
    faults.MissingData(severity=0.6),
]


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("observations", OBSERVATIONS)
@each_form
def test_a_plan_on_a_vector_is_what_it_is_on_each(form: str, observations: str, mode: AutoresetMode) -> None:
    records = check_vector(form, observations, MANY, 45, mode)
    assert {record.fault for record in records} > {"lognormal_latency", "unavailable", "off_by_one_page", "throttled"}


@each_form
@pytest.mark.parametrize("observations", ["mixed", "mcp", "box"])
def test_nested_wrappers_mean_the_same_as_one_plan(form: str, observations: str) -> None:
    assert len(check_nested(form, observations, MANY)) > 100


def check_nested(form: str, observations: str, plan: Any) -> list[Any]:
    """Each fault in a wrapper of its own, against all in one; gives the records."""
    one, nested = InjectFaults(Shop(form, observations), plan, seed=3), Shop(form, observations)
    for fault in reversed(plan):
        nested = InjectFaults(nested, [fault], seed=3)  # type: ignore[assignment]
    for mine, other in zip(played(one, form, 60), played(nested, form, 60), strict=True):
        assert alike(mine[:4], other[:4])
        assert list(mine[-1]["faults"]) == list(other[-1]["faults"])
        assert mine[-1]["executions"] == other[-1]["executions"]
        assert {**mine[-1]["reply"], "latency_s": pytest.approx(mine[-1]["reply"]["latency_s"])} == other[-1]["reply"]
    assert one.records == nested.records  # type: ignore[attr-defined]
    return one.records


def test_executions_are_told_for_each_call() -> None:
    """None where a call was lost on the way, two where it was carried out twice; a world's own steps are none."""
    plan = [faults.LostRequest(severity=1.0, rate=0.3), once_more(probability=0.5), faults.LostAnswer(severity=0.5)]
    below = RecordingEnv()
    env = InjectFaults(below, plan, seed=1)
    assert env.reset(seed=0)[1]["executions"] == []
    counts = set()
    for action in range(60):
        before = len(below.arrived)
        _, reward, *_, info = env.step(action)
        paid = [float(calls + 1) for calls in range(before, len(below.arrived))]
        assert info["executions"] == paid and reward == sum(paid)
        counts.add(len(paid))
    assert counts == {0, 1, 2}
    slow = InjectFaults(
        RecordingEnv(), [faults.ConstantLatency(severity=1.0, seconds=0.35)], time="virtual", step_s=0.1
    )
    slow.reset(seed=0)
    _, reward, *_, info = slow.step(7)  # three ticks, worth 1, 2 and 3, and then the call
    assert (reward, info["executions"]) == (10.0, [4.0])
    hidden = InjectFaults(InjectFaults(RecordingEnv(), plan), plan, blind=True)
    hidden.reset(seed=0)
    assert not {"executions", "faults"} & set(hidden.step(0)[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_nested_with_others_is_what_it_is_in_one_plan(kind: str) -> None:
    """Further out and further in than others, with calls that never get so far, and schedules that count them all."""
    plan = [
        BUILT_IN[kind](severity=0.9, schedule=faults.Window(start=2, stop=30, per_tool=False)),
        faults.SlowAPI(severity=0.7, tools=["list"]),
        faults.DelayedAction(severity=0.3),
        BUILT_IN[kind](severity=0.7, tools=["re*"], schedule=faults.Bursts(mean_calls=4, mean_gap=2)),
        BUILT_IN[kind](severity=0.6, schedule=faults.TimeWindow(start_s=20.0, stop_s=40.0, every_s=50.0)),
    ]
    for form, observations in (("classes", "json"), ("json", "mixed"), ("flat", "box")):
        check_nested(form, observations, plan)
