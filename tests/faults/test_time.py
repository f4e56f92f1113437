"""Time on a virtual clock: outages that last, services that mean their Retry-After, callers that give up."""

from collections import deque
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim import faults
from worldsim.faults import Fault, Reply, TimeWindow
from worldsim.faults.entry_points import ENTRY_POINTS, EntryPoint, MockService, RowOfVector
from worldsim.faults.keys import fold_in_one, new_key

from .payloads import RICH, orders
from .sessions import PipelineSession

gaps = st.lists(st.sampled_from([0.0, 0.1, 1 / 3, 1.0, 7.7, 20.0]) | st.floats(0, 30), min_size=1, max_size=40)

# --- outages ---


@pytest.mark.parametrize("every_s", [0.7, 10.0, 59.0])
def test_an_outage_of_a_minute_is_over_after_a_minute_however_often_one_tries(every_s: float) -> None:
    outage = faults.Unavailable(severity=1.0, rate=1.0, schedule=TimeWindow(start_s=30, stop_s=90))
    session, seen = PipelineSession(outage), list[tuple[float, bool]]()
    while session.clock.now() < 150:
        seen.append((session.clock.now(), session.call("get").ok))
        session.clock.sleep(every_s)
    assert [ok for _, ok in seen] == [not 30 <= now_s < 90 for now_s, _ in seen]
    assert len(session.executed) == sum(ok for _, ok in seen)


def test_an_outage_passes_while_the_service_works_and_while_other_tools_are_called() -> None:
    outage = faults.Unavailable(severity=1.0, rate=1.0, tools=["pay"], schedule=TimeWindow(start_s=5, stop_s=20))
    session = PipelineSession(outage, lasts_s=4.0)
    tries = [session.call(tool).ok for tool in ["pay", "look", "pay", "look", "pay", "look", "look", "pay"]]
    #   at:    0     4       8      8       12     12     16      20
    assert tries == [True, True, False, True, False, True, True, True]


def test_the_seconds_of_a_schedule_count_from_where_the_session_began() -> None:
    session = PipelineSession(faults.Unavailable(severity=1.0, rate=1.0, schedule=TimeWindow(start_s=10, stop_s=20)))
    session.clock.sleep(100)
    session.pipeline.start(np.array([0]), [("1",)])
    seen = []
    for _ in range(6):
        seen.append(session.call("get").ok)
        session.clock.sleep(5)
    assert seen == [True, True, False, False, True, True]


FITTING = {name: entry_point for name, entry_point in ENTRY_POINTS.items() if entry_point.fits(MockService(RICH))}


@pytest.mark.parametrize("entry_point", FITTING.values(), ids=FITTING)
def test_an_outage_comes_again_every_so_often_through_every_entry_point(entry_point: type[EntryPoint]) -> None:
    schedule = TimeWindow(start_s=4, stop_s=7, every_s=10)
    service = MockService(RICH, every_s=0.5)
    outcomes = service.run([faults.ServerError(severity=1.0, rate=1.0, schedule=schedule)], 60, entry_point=entry_point)
    assert [each.reply.ok for each in outcomes] == [not 4 <= at / 2 % 10 < 7 for at in range(60)]


# --- services that mean it ---


def tries(session: PipelineSession, heeds: bool, tool: str = "get", calls: int = 200) -> tuple[int, int, int]:
    """Of so many calls that are tried again until they are served, at once or after what the service asks for: how many
    there were, how many of them were refused, and how many of the refused ones were refused again.
    """
    made = refused = again = 0
    for _ in range(calls):
        before = False
        while True:
            made += 1
            reply = session.call(tool)
            if reply.ok:
                break
            refused, again, before = refused + 1, again + before, True
            assert reply.error == "rate_limited" and reply.retry_after_s is not None and reply.retry_after_s > 0
            session.clock.sleep(reply.retry_after_s if heeds else 0.5)
        session.clock.sleep(0.1)
    return made, refused, again


def test_who_heeds_retry_after_is_served_at_the_next_try_and_who_hammers_is_refused() -> None:
    throttled = faults.Throttled(severity=1.0, calls=10, window_s=60)
    made, refused, again = tries(PipelineSession(throttled), True)
    assert (made, refused, again) == (219, 19, 0)  # 10 at once, then a wait, in each of 20 windows
    hammered, in_vain, again = tries(PipelineSession(throttled), False)
    assert in_vain > 50 * refused and again == in_vain - 19 and hammered == in_vain + 200


def test_a_milder_throttle_lets_more_calls_through() -> None:
    for severity, allowed in [(1.0, 10), (0.5, 20), (0.3, 34), (1e-9, 200)]:
        session = PipelineSession(faults.Throttled(severity=severity, calls=10, window_s=60))
        assert [session.call("get").ok for _ in range(200)] == [True] * allowed + [False] * (200 - allowed)
    assert not any(
        session.records for session in [PipelineSession(faults.Throttled(severity=0.0))] if session.call("get")
    )


@settings(max_examples=150)
@given(gaps, st.integers(1, 4), st.sampled_from([1.0, 12.5, 60.0]))
def test_a_throttle_lets_so_many_calls_through_in_any_window(steps: list[float], allowed: int, window_s: float) -> None:
    session, through = PipelineSession(faults.Throttled(severity=1.0, calls=allowed, window_s=window_s)), deque[float]()
    for step_s in steps:
        session.clock.sleep(step_s)
        now_s = session.clock.now()
        while through and through[0] <= now_s - window_s + 1e-6:  # as clocks round
            through.popleft()
        reply = session.call("get")
        assert reply.ok == (len(through) < allowed)
        if reply.ok:
            through.append(now_s)
        else:
            assert reply.retry_after_s == pytest.approx(through[0] + window_s - now_s)


@settings(max_examples=150)
@given(gaps, st.sampled_from([1.0, 12.5, 60.0, 0.1]), st.sampled_from(["throttled", "rate_limited"]))
def test_whoever_waits_for_what_retry_after_says_is_served(steps: list[float], wait_s: float, kind: str) -> None:
    """To the second that was said: sums of rounded numbers make nobody come too early."""
    fault: Fault = faults.Throttled(severity=1.0, calls=2, window_s=wait_s)
    if kind == "rate_limited":
        fault = faults.RateLimited(severity=1.0, rate=0.7, until_retry_after=True, retry_after_s=wait_s)
    session = PipelineSession(fault)
    for step_s in steps:
        session.clock.sleep(step_s)
        reply = session.call("get")
        if not reply.ok:
            assert 0 < (reply.retry_after_s or 0) <= wait_s * (1 + 1e-9)
            session.clock.sleep(reply.retry_after_s or 0)
            assert session.call("get").ok


def test_tools_are_throttled_each_by_itself_or_all_together() -> None:
    def let_through(**more: Any) -> list[bool]:
        session = PipelineSession(faults.Throttled(severity=1.0, calls=2, tools=["pay", "look"], **more))
        return [session.call(tool).ok for tool in ["pay", "look", "list"] * 3]

    assert let_through() == [True] * 6 + [False, False, True]
    assert let_through(per_tool=False) == [True] * 3 + [False, False, True] * 2


def test_a_tool_that_has_refused_a_call_refuses_all_until_the_time_that_it_asked_for_is_over() -> None:
    fault = faults.RateLimited(severity=1.0, rate=0.3, until_retry_after=True, retry_after_s=8.0)
    session, ends_s, seen = PipelineSession(fault), dict[str, float](), set[tuple[bool, bool]]()
    rng = np.random.default_rng(0)
    for _ in range(600):
        tool = ["pay", "look"][int(rng.integers(2))]
        now_s, reply = session.clock.now(), session.call(tool)
        held = now_s < ends_s.get(tool, -1.0)
        assert not (held and reply.ok)
        if not reply.ok:
            if not held:
                ends_s[tool] = now_s + 8.0
            assert reply.retry_after_s == pytest.approx(ends_s[tool] - now_s)
            (record,) = session.records
            assert record.details == {"status": 429, "lost": "request"}
        seen.add((held, reply.ok))
        session.clock.sleep(float(rng.exponential(2.0)))
    assert seen == {(False, True), (False, False), (True, False)}


def test_waiting_pays_where_a_service_means_its_retry_after() -> None:
    fault = faults.RateLimited(severity=1.0, rate=0.3, until_retry_after=True, retry_after_s=8.0)
    made, refused, again = tries(PipelineSession(fault), True)
    assert again == 0 and made == 200 + refused and 40 < refused < 80
    hammered, in_vain, again = tries(PipelineSession(fault), False)
    assert in_vain > 10 * refused and again > 0.9 * in_vain and hammered == in_vain + 200


@pytest.mark.parametrize(
    "fault",
    [
        faults.Throttled(severity=1.0, calls=2, window_s=7.5),
        faults.Throttled(severity=1.0, calls=5, window_s=7.5, per_tool=False),
        faults.RateLimited(severity=1.0, rate=0.5, until_retry_after=True, retry_after_s=6.5),
    ],
    ids=str,
)
def test_sessions_of_a_vector_wait_on_clocks_of_their_own(fault: Fault) -> None:
    service = MockService(RICH)
    alone, among = (
        service.run([fault], 90, entry_point=entry_point) for entry_point in (ENTRY_POINTS["call"], RowOfVector)
    )
    assert [one.difference_from(other) for one, other in zip(alone, among, strict=True)] == [""] * 90
    assert {each.reply.ok for each in alone} == {True, False}


# --- callers that give up ---


def waits(
    plan: list[Fault], calls: int = 40, entry_point: type[EntryPoint] | None = None, space: Any = None
) -> list[Any]:
    return MockService(space, None if space else orders, every_s=100.0).run(plan, calls, entry_point=entry_point)


SLOW_INSIDE: dict[str, list[Fault]] = {
    "nothing": [],
    "a constant latency": [faults.ConstantLatency(severity=1.0, seconds=30)],
    "latencies": [faults.ParetoLatency(severity=1.0, minimum_s=1), faults.Jitter(severity=1.0, spread_s=3)],
    "a drip": [faults.SlowDrip(severity=1.0, slowness=20.0, patience_s=50)],
    "a longer time-out": [faults.LostAnswer(severity=1.0, rate=1.0, timeout_s=30)],
    "a longer time-out of the request": [faults.LostRequest(severity=1.0, rate=1.0, timeout_s=30)],
    "a shorter time-out": [faults.LostAnswer(severity=1.0, rate=1.0, timeout_s=1.5)],
    "a slow API": [faults.SlowAPI(severity=1.0, median_s=20.0, timeout_s=30)],
    "two of them": [
        faults.SlowAPI(severity=1.0, median_s=5.0, timeout_s=30),
        faults.SlowAPI(severity=1.0, median_s=5.0, timeout_s=7),
    ],
    "refusals": [faults.ConstantLatency(severity=1.0, seconds=5), faults.Unavailable(severity=1.0, rate=1.0)],
}


@pytest.mark.parametrize("inside", SLOW_INSIDE)
@pytest.mark.parametrize("entry_point", ["call", "acall", "among rows"])
def test_whose_answer_is_lost_waits_for_the_time_out_and_no_longer_whatever_stands_inside(
    inside: str, entry_point: str
) -> None:
    plan = [faults.LostAnswer(severity=1.0, rate=1.0, timeout_s=4.0), *SLOW_INSIDE[inside]]
    for each in waits(plan, entry_point=ENTRY_POINTS[entry_point], space=RICH):
        assert (each.reply.ok, each.reply.error) == (False, "timeout")
        assert each.waited_s == pytest.approx(4.0) and each.reply.latency_s == pytest.approx(4.0)


@pytest.mark.parametrize("inside", SLOW_INSIDE)
@pytest.mark.parametrize("entry_point", ["call", "acall", "among rows"])
def test_a_slow_service_answers_before_the_time_out_or_is_given_up_at_it(inside: str, entry_point: str) -> None:
    plan = [faults.SlowAPI(severity=1.0, median_s=1.0, sigma=1.5, timeout_s=4.0), *SLOW_INSIDE[inside]]
    given_up = 0
    for each in waits(plan, entry_point=ENTRY_POINTS[entry_point], space=RICH):
        late = each.waited_s > 4.0 - 1e-5
        assert each.waited_s <= 4.0 + 1e-5 and each.reply.latency_s == pytest.approx(each.waited_s)
        gave_up = any(record.fault == "slow_api" and record.kind == "timeout" for record in each.records)
        assert not late or (each.reply.error == "timeout" and gave_up)
        lost = [record.details["lost"] for record in each.records if "lost" in record.details]
        assert bool(each.executed) == ("request" not in lost)
        given_up += late
    assert given_up > 0 or inside == "a shorter time-out"


latencies = st.builds(lambda s: faults.ConstantLatency(severity=1.0, seconds=s), st.floats(0, 9))
time_outs = st.builds(
    lambda kind, s: faults.KINDS[kind](severity=1.0, rate=1.0, timeout_s=s),  # type: ignore[call-arg]
    st.sampled_from(["lost_answer", "lost_request"]),
    st.floats(0, 9),
)
slow_apis = st.builds(
    lambda s, median_s, lose: faults.SlowAPI(severity=1.0, median_s=median_s, timeout_s=s, lose_answer=lose),
    st.floats(0.01, 9),
    st.floats(0, 9),
    st.sampled_from([0.0, 0.5, 1.0]),
)


def waited(plan: list[Fault], latencies_s: dict[int, float], place: int = 0) -> float:
    """How long a caller waits, worked out from the inside out; by place, how long each slow API takes by itself."""
    if place == len(plan):
        return 0.0
    fault = plan[place]
    if isinstance(fault, faults.ConstantLatency):
        return fault.seconds + waited(plan, latencies_s, place + 1)
    if isinstance(fault, faults.SlowAPI):
        if latencies_s[place] >= fault.timeout_s:
            return fault.timeout_s
        return min(fault.timeout_s, latencies_s[place] + waited(plan, latencies_s, place + 1))
    return float(fault.timeout_s)  # type: ignore[attr-defined]


@settings(max_examples=60, deadline=None)
@given(st.lists(latencies | time_outs | slow_apis, min_size=1, max_size=5), st.sampled_from(sorted(FITTING)))
def test_a_time_out_is_a_ceiling_wherever_it_stands_among_others(plan: list[Fault], entry_point: str) -> None:
    for each in waits(plan, 3, entry_point=ENTRY_POINTS[entry_point], space=RICH):
        slow = [place for place, fault in enumerate(plan) if isinstance(fault, faults.SlowAPI)]
        took = {}
        for place in slow:
            further_in = sum(isinstance(fault, faults.SlowAPI) for fault in plan[place + 1 :])
            took[place] = own_latency_s(plan[place], further_in, each.call)
        assert each.waited_s == pytest.approx(waited(plan, took), abs=1e-4)
        assert each.reply.latency_s == pytest.approx(each.waited_s, abs=1e-6)


def own_latency_s(fault: Any, further_in: int, asked: Any) -> float:
    """What a slow API takes by itself: a log-normal quantile of what the call draws."""
    tool = fold_in_one(new_key(0, "slow_api", further_in, "0"), crc32(asked.tool.encode()))
    uniform = (fold_in_one(fold_in_one(tool, 1), asked.number) >> 11) / 2**53
    if fault.median_s == 0:
        return 0.0
    return float(scipy.stats.lognorm(fault.sigma * 1.1, scale=fault.median_s).ppf(uniform))


def test_what_a_caller_gave_up_on_is_not_waited_for_any_more() -> None:
    """The next call begins when the time-out is over, and not when the service has done with the one before."""
    plan = [faults.LostAnswer(severity=1.0, rate=1.0, timeout_s=2.0), faults.ConstantLatency(severity=1.0, seconds=60)]
    session = PipelineSession(*plan)
    replies: list[Reply] = [session.call("get") for _ in range(5)]
    assert session.clock.now() == pytest.approx(10.0) and {reply.error for reply in replies} == {"timeout"}
    assert len(session.executed) == 5
