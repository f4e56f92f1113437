"""Every kind on replies of real environments: a refund desk, an Atari game, ViZDoom and MiniGrid with its text."""

import importlib
import json
from functools import lru_cache
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from worldsim import faults
from worldsim.faults import Fault, VirtualClock
from worldsim.faults.conformance import CallOutcome, MockService, check_records, check_space
from worldsim.faults.trees import alike, as_text, copied
from worldsim.wrappers import InjectFaults

from .recording_env import KINDS

DESK, ATARI = "worldsim/RefundDesk-v0", "ALE/Breakout-v5"
DOOM, GRID = "VizdoomBasic-v1", "MiniGrid-DoorKey-5x5-v0"
PACKAGES = {DESK: "worldsim", ATARI: "ale_py", DOOM: "vizdoom.gymnasium_wrapper", GRID: "minigrid"}


def made(name: str) -> gym.Env[Any, Any]:
    importlib.import_module(PACKAGES[name])  # registers its environments
    return gym.make(name)


@lru_cache
def recorded(name: str) -> tuple[Any, list[Any]]:
    """Observation space and 25 real observations."""
    env = made(name)
    env.action_space.seed(0)
    replies = [copied(env.reset(seed=0)[0])]
    while len(replies) < 25:
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        replies.append(copied(observation))
        if terminated or truncated:
            replies.append(copied(env.reset()[0]))
    env.close()
    return env.observation_space, replies


def service_of(name: str) -> MockService:
    space, replies = recorded(name)
    return MockService(space, lambda number: replies[(number + 1) % len(replies)])


@pytest.mark.parametrize("name", [DESK, ATARI, DOOM, GRID])
@pytest.mark.parametrize("kind", KINDS)
def test_records_tell_what_happened_to_real_replies(kind: str, name: str) -> None:
    fault = faults.KINDS[kind]
    check_records(fault, service_of(name), 6)
    check_space(fault, service_of(name), 6)


def struck(name: str, fault: Fault, calls: int = 24) -> list[CallOutcome]:
    return [each for each in service_of(name).run([fault], calls) if each.records]


def test_a_desks_reply_with_other_digits_fields_and_units() -> None:
    for kind in ("transposed_digits", "swapped_fields", "wrong_unit"):
        found = struck(DESK, faults.KINDS[kind](severity=1.0, rate=1.0, targets=["reply/*"]))  # type: ignore[call-arg]
        assert found, kind
        for each in found:
            shown, true = each.reply.payload["reply"], each.answers[0].payload["reply"]
            details = [record.details for record in each.records]
            told = {each[key] for each in details for key in ("leaf", "other") if key in each}
            assert {f"reply/{name}" for name in shown if shown[name] != true[name]} == told
            assert each.reply.payload["screen"] is each.answers[0].payload["screen"]


def test_a_desks_skewed_clock_is_fast() -> None:
    for each in struck(DESK, faults.ClockSkew(severity=1.0, most=3)):
        assert each.reply.payload["reply"]["clock"] == each.answers[0].payload["reply"]["clock"] + 3


def test_loud_replies_of_a_desk_are_refused_with_the_text_of_the_real_one() -> None:
    env = InjectFaults(make_desk(), [faults.TruncatedJSON(severity=1.0, rate=1.0)])
    first = copied(env.reset(seed=3)[0])
    observation, _, _, _, info = env.step(0)
    assert info["reply"]["error"] == "malformed" and '"reply": {"age"' in info["reply"]["raw"][:40]
    assert observation["reply"]["status"] == 4  # what the desk shows for a reply that cannot be read
    assert np.array_equal(observation["screen"], first["screen"])


def make_desk() -> gym.Env[Any, Any]:
    return gym.make(DESK)


def test_false_success_and_duplicates_show_in_the_desks_database() -> None:
    """Refund two tickets under each fault and count what was really paid out after each."""

    def paid_out(fault: Fault) -> tuple[list[int], int]:
        env = InjectFaults(make_desk(), [fault])
        env.reset(seed=0)
        paid = []
        for ticket in (0, 1):
            env.step(7 + ticket), env.step(0)
            *_, info = env.step(1)
            assert info["reply"]["ok"]
            counts = env.unwrapped.database.counts()  # type: ignore[attr-defined]
            paid.append(counts.refunded_eur)
        return paid, counts.double_refunds

    refund = {"severity": 1.0, "rate": 1.0, "tools": ["refund"]}
    (first, both), _ = paid_out(faults.SlowAPI(severity=0.0))
    assert 0 < first < both
    assert paid_out(faults.FalseSuccess(**refund))[0] == [first, first]  # there is nothing to pretend at the first
    twice, doubles = paid_out(faults.DuplicateExecution(**refund))
    assert twice == [2 * first, 2 * both] and doubles == 2


def test_faults_can_be_aimed_at_a_tool_of_the_desk() -> None:
    env = InjectFaults(make_desk(), [faults.Unavailable(severity=1.0, rate=1.0, tools=("refund", "open_*"))])
    env.reset(seed=0)
    names = env.metadata["action_names"]
    ok = {names[action]: env.step(action)[-1]["reply"]["ok"] for action in range(len(names))}
    assert {name for name, good in ok.items() if not good} == {"refund", *(n for n in names if n.startswith("open_"))}


def test_rows_of_the_desks_tickets_as_plain_json() -> None:
    """What a tool that lists the tickets would answer, from the desk's real database."""
    env = make_desk()
    env.reset(seed=1)
    rows = [{"ticket": i + 1, **form._asdict()} for i, form in enumerate(env.unwrapped.database.forms())]  # type: ignore[attr-defined]
    listed = json.loads(json.dumps({"tickets": rows}, default=int))
    for kind in ("partial_page", "missing_rows", "duplicated_rows", "reordered_rows", "off_by_one_page"):
        pipeline = faults.Pipeline([(faults.KINDS[kind](severity=1.0, rate=1.0), 0)], None, ("list",), VirtualClock())  # type: ignore[call-arg]
        pipeline.start(np.zeros(1, np.int64), [(0,)])
        reply, _ = pipeline.call("list", {}, lambda call, trip: faults.Reply(copied(listed)))
        shown = reply.payload["tickets"]
        assert shown != listed["tickets"] and all(row in listed["tickets"] for row in shown)


@pytest.mark.parametrize("name", [ATARI, DOOM])
def test_pixels_of_games(name: str) -> None:
    """Statistics of real frames under faults whose effect is known."""

    def screens(fault: Fault) -> list[tuple[Any, Any]]:
        def screen(payload: Any) -> Any:
            return payload["screen"] if isinstance(payload, dict) else payload

        return [(screen(each.answers[0].payload), screen(each.reply.payload)) for each in struck(name, fault, 8)]

    for true, shown in screens(faults.GaussianNoise(severity=0.5, most_std=20)):
        middle = (true > 60) & (true < 195)
        if middle.sum() > 500:
            assert (shown[middle] - true[middle].astype(float)).std() == pytest.approx(10, rel=0.1)
    for true, shown in screens(faults.Blur(severity=0.5)):
        assert (
            abs(shown.mean() - true.mean()) < 1
            and np.abs(np.diff(shown.astype(float), axis=0)).sum() < np.abs(np.diff(true.astype(float), axis=0)).sum()
        )
    for true, shown in screens(faults.Contrast(severity=1.0, lost=0.5)):
        assert shown.std() == pytest.approx(true.std() / 2, rel=0.05)
    for _, shown in screens(faults.BlackFrames(severity=1.0, rate=1.0)):
        assert not shown.any()
    for true, shown in screens(faults.PaintedInstruction(severity=1.0)):
        rows = np.any((shown != true).reshape(len(true), -1), axis=1)
        assert 0 < rows.sum() < len(true) / 2


def test_a_game_frozen_or_delayed_shows_real_frames_of_before() -> None:
    env = InjectFaults(made(ATARI), [faults.DelayedObservation(severity=1.0, min_calls=3, max_calls=3)])
    bare = made(ATARI)
    true = [bare.reset(seed=0)[0]]
    shown = [copied(env.reset(seed=0)[0])]
    for action in (1, 2, 2, 3, 0, 2, 3, 3, 1, 0):
        true.append(bare.step(action)[0])
        shown.append(copied(env.step(action)[0]))
    for number in range(1, len(true)):
        assert np.array_equal(shown[number], true[max(0, number - 3)])


def test_sticky_actions_repeat_what_was_done() -> None:
    asked, done = [], []

    class Counting(gym.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            done.append(action)
            return self.env.step(action)

    env = InjectFaults(Counting(gym.make("CartPole-v1")), [faults.StickyAction(severity=1.0, rate=0.25)])
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(2000):
        asked.append(int(rng.integers(2)))
        if env.step(asked[-1])[2]:
            env.reset()
    differ = np.mean(np.array(asked) != np.array(done))
    assert differ == pytest.approx(0.25 / 2, abs=0.03)  # a repeated action is another one half of the times


def test_a_mission_of_minigrid_carries_an_instruction_where_it_is_let_through() -> None:
    inside = struck(GRID, faults.HiddenInstruction(severity=1.0, rate=1.0))
    assert not inside  # the mission's space knows its sentences and no others
    for each in struck(GRID, faults.HiddenInstruction(severity=1.0, rate=1.0, out_of_space=True)):
        mission, true = each.reply.payload["mission"], each.answers[0].payload["mission"]
        assert mission.startswith(true) and each.records[0].details["token"] in mission
        assert faults.obeyed(each.records, mission)


def test_minigrids_mission_can_be_missing_or_garbled() -> None:
    missing = struck(GRID, faults.NullForRequired(severity=1.0, rate=1.0, out_of_space=True, targets=["mission"]))
    assert missing and all(each.reply.payload["mission"] is None for each in missing)
    drift = struck(GRID, faults.SchemaDrift(severity=1.0, how="renamed", targets=["mission"], out_of_space=True))
    assert drift and all("missionV2" in each.reply.payload and "mission" not in each.reply.payload for each in drift)


# What each kind does to a reply, written down by hand: who waits, who is refused and how, what is carried out.
WAITS = {
    *("constant_latency", "uniform_latency", "lognormal_latency", "pareto_latency", "empirical_latency", "jitter"),
    *("slow_start", "slow_drip"),
}
UNREADABLE = ("truncated_json", "invalid_json", "html_error_page", "wrong_encoding")
ERRORS = {
    "lost_request": "timeout",
    "lost_answer": "timeout",
    "rate_limited": "rate_limited",
    "server_error": "server_error",
    "bad_gateway": "bad_gateway",
    "unavailable": "unavailable",
    "dropped_connection": "connection",
    "expired_token": "unauthorized",
    "lost_permission": "forbidden",
    "quota_exceeded": "quota",
    "throttled": "rate_limited",
    "cascade": "unavailable",
    "false_failure": "server_error",
    **dict.fromkeys([*UNREADABLE, "wrong_type", "wrong_shape", "non_finite", "out_of_range"], "malformed"),
    **dict.fromkeys(["unknown_value", "null_for_required", "schema_drift", "oversized_reply"], "malformed"),
}
NOT_CARRIED_OUT = {"lost_request", "false_success"}
DONE_OTHERWISE = {"delayed_action", "sticky_action", "duplicate_execution", "reordered_delivery"}
MIXED = {"slow_api", "malformed_output", "missing_data"}  # several of these at once: see test_conformance.py
EVERYWHERE = {DESK, ATARI, DOOM, GRID}
NOTHING_FOR_IT = {  # a reply must have what a fault acts on
    "non_finite": {DESK, ATARI, GRID},  # numbers that are no pixels and no classes
    "unknown_value": {ATARI, DOOM},  # classes
    "transposed_digits": {ATARI, GRID},  # numbers of two digits
    "swapped_fields": {ATARI, DOOM, GRID},  # two fields of one kind
    "wrong_unit": {ATARI},  # numbers
    "clock_skew": EVERYWHERE,  # times of day; the desk's clock counts calls, see above
    "wrong_time_zone": EVERYWHERE,
    "hidden_instruction": EVERYWHERE,  # free text; MiniGrid's missions are a closed set
    **dict.fromkeys(["off_by_one_page", "duplicated_rows", "reordered_rows"], EVERYWHERE),  # rows; see the desk's above
    **dict.fromkeys(["partial_page", "missing_rows"], EVERYWHERE),
}


@pytest.mark.parametrize("name", [DESK, ATARI, DOOM, GRID])
@pytest.mark.parametrize("kind", sorted(set(KINDS) - MIXED))
def test_each_kind_has_its_effect_on_real_replies(kind: str, name: str) -> None:
    built = faults.KINDS[kind]
    often = {"slow_drip": {"patience_s": 1e6}, "throttled": {"calls": 1}}.get(kind, {})
    often |= {"rate": 1.0} if "rate" in set(built.model_fields) else {}
    found = struck(name, built(severity=1.0, **often), 10)  # type: ignore[arg-type]
    assert bool(found) == (name not in NOTHING_FOR_IT.get(kind, ()))
    space = recorded(name)[0]
    for each in found:
        true, reply = service_of(name).answer(each.at), each.reply
        assert (each.waited_s > 0) == (kind in WAITS or reply.error == "timeout")
        assert (reply.ok, reply.error) == (kind not in ERRORS, ERRORS.get(kind))
        assert not (each.executed and kind in NOT_CARRIED_OUT)
        if kind in DONE_OTHERWISE:
            assert each.executed != [each.call]
        elif reply.ok and kind not in NOT_CARRIED_OUT:
            assert reply.payload in space and alike(reply.payload, true) == (kind in WAITS)
        if kind in UNREADABLE:
            with pytest.raises(ValueError):
                json.loads(reply.raw or "")
        elif reply.error == "malformed":
            assert json.loads(reply.raw or "") != json.loads(as_text(true))
