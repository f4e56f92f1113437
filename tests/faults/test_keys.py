"""Keys and schedules: what call k of a tool draws depends on the seeds, the tool and k alone."""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import groupby, islice
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import kstest

from worldsim.errors import ConfigError
from worldsim.faults import (
    After,
    Always,
    Bursts,
    Call,
    CallContext,
    FaultGenerator,
    Pipeline,
    Reply,
    Schedule,
    TimeWindow,
    VirtualClock,
    WallClock,
    Window,
)
from worldsim.faults.definition import Composition, Fault
from worldsim.faults.effects.base import AffectedCalls, Effect, EffectGenerator, ForwardCalls
from worldsim.faults.generators import fault_from_generator
from worldsim.faults.keys import CallRandom, fold_in, fold_in_one, last_where, new_key, uniforms

keys_of_calls = st.integers(0, 2**64 - 1)


def splitmix64(seed: int) -> Iterator[int]:
    """As Steele, Lea and Flood have it in their paper's figure, in whole numbers without end."""
    while True:
        seed = (seed + 0x9E3779B97F4A7C15) % 2**64
        word = (seed ^ seed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ word >> 27) * 0x94D049BB133111EB % 2**64
        yield word ^ word >> 31


def at(key: int, index: int) -> int:
    """Output `index` of the generator that begins at a key."""
    return next(splitmix64((key + 0x9E3779B97F4A7C15 * index) % 2**64))


def uniform_at(key: int, index: int) -> float:
    return (at(key, index) >> 11) / 2**53


def random_of(*keys: int) -> CallRandom:
    return CallRandom(np.array(keys, np.uint64))


def many(count: int) -> CallRandom:
    """The random numbers of so many calls of one tool."""
    return CallRandom(fold_in(np.array([new_key(1)], np.uint64), np.arange(count)))


# --- keys ---


def test_words_are_those_of_splitmix64() -> None:
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]  # of seed 1234567
    assert list(islice(splitmix64(1234567), 4)) == known == [at(1234567, index) for index in range(4)]
    keys = np.array([1234567, 0, 2**64 - 1], np.uint64)
    for index in range(4):
        words = [at(int(key), index) for key in keys]
        assert fold_in(keys, index).tolist() == words == [fold_in_one(int(key), index) for key in keys]
        assert fold_in(keys, np.full(3, index)).tolist() == words
    assert fold_in(keys[:1], np.arange(4)).tolist() == known
    assert fold_in(keys[:1], np.array([3])).tolist() == fold_in(keys[:1], 3).tolist() == known[3:]


@given(st.lists(keys_of_calls, min_size=1, max_size=5), st.integers(0, 2**40))
def test_one_call_alone_draws_what_it_draws_among_others(keys: list[int], number: int) -> None:
    column = np.array(keys, np.uint64)
    together = uniforms(column, np.full(len(keys), number))
    assert together.tolist() == [uniform_at(key, number) for key in keys]
    assert uniforms(column[:1], np.array([number])).tolist() == together[:1].tolist()


def test_keys_are_hashes_of_their_parts() -> None:
    parts = (1, "slow_api", 0, 7)
    key = int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "little")
    assert new_key(*parts) == key
    others = [(2, "slow_api", 0, 7), (1, "missing_data", 0, 7), (1, "slow_api", 1, 7), (1, "slow_api", 0), (1,)]
    assert len({new_key(*other) for other in [*others, parts]}) == len(others) + 1


def test_streams_give_the_same_whenever_they_are_asked() -> None:
    forward, backward = random_of(3, 4), random_of(3, 4)
    there = {stream: forward.uniform(stream, 2).tolist() for stream in range(5)}
    back = {stream: backward.uniform(stream, 2).tolist() for stream in reversed(range(5))}
    assert there == back
    drawn = [number for rows in there.values() for row in rows for number in row]
    assert len(set(drawn)) == len(drawn)
    assert forward.uniform(2).tolist() == forward.uniform(2, 9)[:, 0].tolist()
    assert forward.uniform(2).tolist() == [uniform_at(3, 2 << 32), uniform_at(4, 2 << 32)]


def test_many_calls_draw_what_each_draws_alone() -> None:
    keys = [new_key(seed) for seed in range(5)]
    together = random_of(*keys)
    for row, key in enumerate(keys):
        alone = random_of(key)
        assert together.uniform(4, 2, 3)[row].tolist() == alone.uniform(4, 2, 3)[0].tolist()
        assert together.permutation(9)[row].tolist() == alone.permutation(9)[0].tolist()
        assert together.integers(np.arange(1, 6))[row] == alone.integers(row + 1)[0]
        assert together[[row]].normal(2, 4).tolist() == alone.normal(2, 4).tolist()
        assert together.generator(row).integers(99, size=9).tolist() == alone.generator().integers(99, size=9).tolist()


def test_streams_together_draw_what_each_draws_by_itself() -> None:
    random = many(5)
    for number, together in enumerate(random.streams(7, 4), 7):
        alone = random.stream(number)
        for shape in ((), (3,), (2, 4), (9, 9)):
            assert np.array_equal(together.uniform(2, *shape), alone.uniform(2, *shape))
        assert np.array_equal(together.normal(1, 4), alone.normal(1, 4))
        assert np.array_equal(together[[3, 1]].permutation(6), alone[[3, 1]].permutation(6))


def test_numbers_have_the_distributions_they_promise() -> None:
    random = many(20000)
    assert np.bincount(random.integers(5)) / 20000 == pytest.approx(np.full(5, 0.2), abs=0.012)
    assert kstest(random.normal(1), "norm").pvalue > 0.01
    assert len({tuple(row) for row in random.permutation(3).tolist()}) == 6
    assert random.permutation(3).mean(0) == pytest.approx(np.ones(3), abs=0.03)


def test_uniforms_are_uniform_and_streams_and_calls_uncorrelated() -> None:
    drawn = np.array([many(20000).uniform(stream) for stream in range(3)])
    assert abs(drawn.mean(axis=1) - 0.5).max() < 0.009
    assert abs(drawn.var(axis=1) - 1 / 12).max() < 0.003
    assert abs(np.corrcoef(drawn) - np.eye(3)).max() < 0.03
    assert abs(np.corrcoef(drawn[0][:-1], drawn[0][1:])[0, 1]) < 0.03


@given(st.lists(st.integers(0, 700), min_size=1, max_size=5), st.sampled_from([0.0, 0.003, 0.05, 0.6, 1.0]), st.data())
def test_the_last_call_that_decided_something_is_found_by_looking_back(
    numbers: list[int], share: float, data: Any
) -> None:
    keys = np.array(data.draw(st.lists(keys_of_calls, min_size=len(numbers), max_size=len(numbers))), np.uint64)

    def decides(rows: NDArray[np.int64], which: NDArray[np.int64]) -> Any:
        return uniforms(keys[rows, None], which) < share

    wanted = []
    for key, number in zip(keys.tolist(), numbers, strict=True):
        while number > 0 and uniform_at(key, number) >= share:
            number -= 1
        wanted.append(number)
    assert last_where(np.array(numbers), decides).tolist() == wanted


# --- what the calls of a fault draw ---


def drawing(call: Call, context: CallContext) -> FaultGenerator:
    """Records what a call draws."""
    context.record(uniform=context.uniform, more=context.rng.random(3).tolist(), number=context.number)
    return (yield call)


def unregistered(function: Any, kind: str) -> Any:
    """A fault that is written as a generator, and is in no catalogue."""
    made = fault_from_generator(function)
    made.kind, made.family = kind, "of a test"
    return made


Drawing = unregistered(drawing, "drawing")
TOOLS = ("pay", "look")


def pipeline_of(*given: Any, tools: Sequence[str] | None = None, clock: Any = None, episode: int = 0) -> Pipeline:
    """A session of its own with these faults, all under seed 0."""
    pipeline = Pipeline([(fault, 0) for fault in given], None, tools, clock or VirtualClock())
    pipeline.start(np.array([0]), [(episode,)])
    return pipeline


def play(pipeline: Pipeline, tools: Sequence[str]) -> list[list[Any]]:
    """The records of one call after another."""
    return [list(pipeline.call(tool, {}, lambda call, context: Reply({}))[1]) for tool in tools]


def test_what_a_call_draws_follows_from_seed_kind_session_tool_and_number() -> None:
    for record in sum(play(pipeline_of(Drawing(), episode=7), ["pay", "look", "pay"] * 2), []):
        session = new_key(0, "drawing", 0, 7)
        tool = at(session, crc32(record.tool.encode()))
        assert record.details["uniform"] == uniform_at(at(tool, 1), record.call)
        call = CallRandom(np.array([at(at(tool, 0), record.call)], np.uint64))
        assert record.details["more"] == call.generator().random(3).tolist()


@pytest.mark.parametrize(
    ("tools", "given", "among"),
    [
        (["pay", "look", "look", "pay", "list", "pay"], [Drawing()], None),  # other calls beside them
        (["pay", "pay", "pay"], [Drawing(), Drawing()], None),  # one more of the kind further out
        (["look", "pay", "pay", "pay"], [Drawing()], TOOLS),  # tools that are known from the beginning
        (["pay", "pay", "pay"], [Drawing(tools=["pay"], schedule=After(calls=1))], ("pay",)),
    ],
)
def test_what_a_tools_calls_draw_does_not_depend_on_anything_beside_them(
    tools: list[str], given: list[Any], among: Any
) -> None:
    alone = [record for (record,) in play(pipeline_of(Drawing()), ["pay"] * 3)]
    found = [each[-1] for each in play(pipeline_of(*given, tools=among), tools) if each and each[-1].tool == "pay"]
    assert found == alone[-len(found) :] and len(found) >= 2


def test_other_seeds_sessions_tools_and_faults_of_a_kind_draw_otherwise() -> None:
    runs = [
        play(pipeline_of(Drawing()), ["pay", "pay", "look"]),
        play(pipeline_of(Drawing(seed=3)), ["pay"]),
        play(pipeline_of(Drawing(), episode=1), ["pay"]),
        play(pipeline_of(Drawing(), Drawing()), ["pay"]),
        play(pipeline_of(unregistered(drawing, "other")()), ["pay"]),
    ]
    drawn = {record.details["uniform"] for run in runs for records in run for record in records}
    assert len(drawn) == 3 + 1 + 1 + 1 + 1  # the inner one of two of a kind is the one that there is alone


class _Lasting(Effect):
    """Records what stays the same for a session."""

    def run(self, batch: AffectedCalls, forward: ForwardCalls) -> EffectGenerator:
        drawn = {name: float(batch.session_random(name).uniform()[0]) for name in ("", "screen", "pose")}
        batch.record("lasting", lambda: [drawn])
        return (yield from forward(batch.calls))


class Lasting(Fault):
    """Draws once a session."""

    def compose(self) -> Composition:
        return Composition(_Lasting())


Lasting.kind, Lasting.family = "lasting", "of a test"


def test_what_stays_for_a_session_is_the_same_at_all_its_calls_and_under_other_names_another() -> None:
    sessions = [play(pipeline_of(Lasting(), episode=episode), ["pay", "look", "pay"]) for episode in range(3)]
    drawn = [[record.details for records in session for record in records] for session in sessions]
    assert all(each == session[0] for session in drawn for each in session)
    assert len({number for session in drawn for number in session[0].values()}) == 9


# --- schedules ---


def active(schedule: Schedule, numbers: Any, key: int = 0, seconds: Any = 0.0) -> list[bool]:
    found: list[bool] = schedule.active(np.array([key], np.uint64), np.asarray(numbers), seconds).tolist()
    return found


def test_simple_schedules() -> None:
    def at_work(schedule: Schedule) -> list[int]:
        return [k for k, on in enumerate(active(schedule, range(8))) if on]

    assert at_work(Always()) == list(range(8))
    assert at_work(After(calls=5)) == [5, 6, 7]
    assert at_work(Window(start=2, stop=4)) == [2, 3]


def test_a_time_window_is_open_from_its_start_up_to_its_end_and_again_every_so_often() -> None:
    times = [0, 9.99, 10, 69.99, 70, 109.99, 110, 169.99, 170, 1015]
    once = active(TimeWindow(start_s=10, stop_s=70), np.zeros(len(times)), seconds=times)
    assert once == [False, False, True, True, False, False, False, False, False, False]
    again = active(TimeWindow(start_s=10, stop_s=70, every_s=100), np.zeros(len(times)), seconds=times)
    assert again == [False, False, True, True, False, False, True, True, False, True]
    assert active(TimeWindow(start_s=0, stop_s=60), [5, 5], seconds=3.0) == [True, True]


def chain(schedule: Bursts, key: int, calls: int) -> list[bool]:
    """Gilbert's two states, from call to call, moved by the uniforms that the calls draw."""
    drawn = [uniform_at(key, number) for number in range(calls)]
    states = [drawn[0] < schedule.mean_calls / (schedule.mean_calls + schedule.mean_gap)]
    for number in drawn[1:]:
        states.append(number < (1 - 1 / schedule.mean_calls if states[-1] else 1 / schedule.mean_gap))
    return states


means = st.sampled_from([1.0, 1.2, 1.5, 1.9, 2.0, 2.1, 3.0, 50.0, 5000.0]) | st.floats(1, 20)


@settings(max_examples=150, deadline=None)
@given(means, means, keys_of_calls, st.lists(st.integers(0, 599), min_size=1, max_size=9))
def test_bursts_are_gilberts_chain_whichever_calls_ask(
    mean_calls: float, mean_gap: float, key: int, asked: list[int]
) -> None:
    schedule = Bursts(mean_calls=mean_calls, mean_gap=mean_gap)
    wanted = chain(schedule, key, 600)
    assert active(schedule, range(600), key) == wanted
    assert active(schedule, asked, key) == [wanted[number] for number in asked]
    other = key ^ 1
    both = schedule.active(np.array([key, other], np.uint64), np.array([asked[0], asked[-1]]), 0.0)
    assert both.tolist() == [wanted[asked[0]], chain(schedule, other, 600)[asked[-1]]]


@pytest.mark.parametrize(("mean_calls", "mean_gap"), [(4, 12), (1.3, 5), (1, 4), (1.5, 1.5), (8, 1), (2, 1.2)])
def test_bursts_have_the_lengths_and_the_share_they_promise(mean_calls: float, mean_gap: float) -> None:
    calls = 30000
    on = np.array(active(Bursts(mean_calls=mean_calls, mean_gap=mean_gap), range(calls), 5))
    share = mean_calls / (mean_calls + mean_gap)
    runs = [(state, len(list(run))) for state, run in groupby(on.tolist())]
    assert on.mean() == pytest.approx(share, abs=0.03)
    assert np.mean([length for state, length in runs if state]) == pytest.approx(mean_calls, rel=0.06)
    assert np.mean([length for state, length in runs if not state]) == pytest.approx(mean_gap, rel=0.06)


@pytest.mark.parametrize(("mean_calls", "mean_gap"), [(5, 20), (1.5, 4), (1.2, 1.3)])
def test_every_call_of_a_session_is_as_likely_in_a_burst_as_any_other(mean_calls: float, mean_gap: float) -> None:
    """The stationary distribution, call by call, over 4000 sessions of six calls; and the chance to go on."""
    schedule, sessions = Bursts(mean_calls=mean_calls, mean_gap=mean_gap), 4000
    keys = np.array([new_key(2, session) for session in range(sessions)], np.uint64)
    on = np.stack([schedule.active(keys, np.full(sessions, number), 0.0) for number in range(6)], 1)
    share, stay = mean_calls / (mean_calls + mean_gap), 1 - 1 / mean_calls
    assert abs(on.mean(0) - share).max() < 4.5 * np.sqrt(share * (1 - share) / sessions)
    before, after = on[:, :-1].ravel(), on[:, 1:].ravel()
    assert after[before].mean() == pytest.approx(stay, abs=4.5 * np.sqrt(stay * (1 - stay) / before.sum()))
    assert after[~before].mean() == pytest.approx(
        1 / mean_gap, abs=4.5 * np.sqrt((1 - 1 / mean_gap) / mean_gap / (~before).sum())
    )


def marking(call: Call, context: CallContext) -> FaultGenerator:
    """Records that it was at work."""
    context.record()
    return (yield call)


Marking = unregistered(marking, "marking")


def at_work(schedule: Schedule, calls: Sequence[str], tools: Sequence[str] = ("*",), clock: Any = None) -> list[bool]:
    """At which calls a fault with this schedule is at work."""
    return [bool(each) for each in play(pipeline_of(Marking(schedule=schedule, tools=tools), clock=clock), calls)]


ORDER = ["pay", "look", "pay", "look", "look", "list", "pay", "look", "pay"]


def test_a_schedule_counts_the_calls_of_each_tool_by_themselves() -> None:
    assert at_work(Window(start=1, stop=3), ORDER) == [
        ORDER[:at].count(tool) in (1, 2) for at, tool in enumerate(ORDER)
    ]
    assert at_work(After(calls=2), ORDER) == [ORDER[:at].count(tool) >= 2 for at, tool in enumerate(ORDER)]


def test_or_the_calls_of_all_tools_that_the_fault_is_aimed_at_together() -> None:
    assert at_work(Window(start=1, stop=3, per_tool=False), ORDER) == [at in (1, 2) for at in range(len(ORDER))]
    aimed = ["pay", "li*"]
    count = 0
    wanted = []
    for tool in ORDER:
        wanted.append(tool in ("pay", "list") and count >= 2)
        count += tool in ("pay", "list")
    assert at_work(After(calls=2, per_tool=False), ORDER, aimed) == wanted


def test_a_window_on_one_tool_opens_at_its_own_fourth_call() -> None:
    """The fourth refund fails, however much is looked up in between."""
    calls = ["look", "look", "refund", "look", "refund", "refund", "look", "refund", "refund"]
    wanted = [at == 7 for at in range(len(calls))]
    assert at_work(Window(start=3, stop=4), calls, ["refund"]) == wanted
    assert at_work(Window(start=3, stop=4, per_tool=False), calls, ["refund"]) == wanted


def test_bursts_are_a_chain_for_each_tool_or_one_for_all() -> None:
    calls = ["pay", "look", "look"] * 150
    session = new_key(0, "marking", 0, 0)
    schedule = Bursts(mean_calls=3, mean_gap=6)
    wanted = {tool: iter(chain(schedule, at(at(session, crc32(tool.encode())), 3), 450)) for tool in ("pay", "look")}
    assert at_work(schedule, calls) == [next(wanted[tool]) for tool in calls]
    joint = schedule.model_copy(update={"per_tool": False})
    assert at_work(joint, calls) == chain(schedule, at(session, 3), 450)


@pytest.mark.parametrize(
    "schedule",
    [
        Bursts(mean_calls=1.5, mean_gap=3),
        Bursts(mean_calls=4, mean_gap=3, per_tool=False),
        Window(start=2, stop=5, per_tool=False),
        After(calls=3),
    ],
)
def test_many_sessions_are_at_work_when_each_of_them_alone_would_be(schedule: Schedule) -> None:
    from gymnasium import spaces

    from worldsim.faults.replies import Replies

    count, rng = 5, np.random.default_rng(0)
    given = Marking(schedule=schedule, tools=["pay", "list"], probability=0.8)
    tools = ["pay", "look", "list"]
    together = Pipeline([(given, 0)], None, tools, count=count, action_space=spaces.Discrete(3))
    together.start(np.arange(count), [(session,) for session in range(count)])
    alone = [pipeline_of(given, tools=tools, episode=session) for session in range(count)]
    for _ in range(60):
        rows, called = np.flatnonzero(rng.random(count) < 0.7), rng.integers(3, size=count)
        _, log = together.batch_call(
            rows, called, called, lambda calls: Replies(count, overrides={row: {} for row in range(count)})
        )
        for row in rows.tolist():
            (wanted,) = play(alone[row], [tools[called[row]]])
            assert log.records[row] == wanted


def test_an_outage_lasts_as_long_on_the_clock_whatever_is_called() -> None:
    clock = VirtualClock()
    pipeline = pipeline_of(Marking(schedule=TimeWindow(start_s=30, stop_s=90)), clock=clock)
    seen = []
    for step_s in [0.0, 29.5, 0.5, 1e-3, 30.0, 29.0, 0.998, 0.001, 500.0]:
        clock.sleep(step_s)
        seen.append((clock.now(), bool(play(pipeline, ["pay"])[0])))
    assert [on for _, on in seen] == [30 <= now_s < 90 for now_s, _ in seen]
    assert sum(on for _, on in seen) == 5


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: After(calls=-1), "schedule after: calls must be a whole number between 0 and 1e[+]12, got -1"),
        (lambda: After(calls="soon"), "schedule after: calls must be a whole number between 0 and 1e[+]12, got 'soon'"),
        (lambda: Window(start=3, stop=3), r"schedule window: stop must be more than start \(3\), got 3"),
        (lambda: Bursts(mean_gap=0.5), "schedule bursts: mean_gap must be between 1 and 1e[+]12, got 0.5"),
        (
            lambda: TimeWindow(start_s=9, stop_s=9),
            r"schedule time_window: stop_s must be more than start_s \(9\), got 9",
        ),
        (lambda: TimeWindow(stop_s=60, every_s=59), "schedule time_window: every_s must be 60 or more, got 59"),
    ],
)
def test_impossible_schedules_are_refused_in_one_line(make: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=f"^{says}$"):
        make()


def test_clocks() -> None:
    virtual, wall = VirtualClock(), WallClock()
    virtual.sleep(3600.0)
    assert virtual.now() == 3600.0
    before = wall.now()
    wall.sleep(0.01)
    assert wall.now() - before >= 0.01
