"""Dice and schedules: what call k draws depends on the seeds and on k alone."""

from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice

import numpy as np
import pytest
from scipy.stats import kstest

from worldsim.errors import ConfigError
from worldsim.faults import After, Always, Bursts, Context, Jitter, VirtualClock, WallClock, Window
from worldsim.faults.chance import Dice, Draws, addresses, splitmix, splitmix_one, uniforms


def test_draws_do_not_depend_on_order_or_on_other_draws() -> None:
    forward, backward = Dice(1, "slow_api", 0, 7), Dice(1, "slow_api", 0, 7)
    calls = [0, 1, 255, 256, 257, 5000]
    there = {k: (forward.uniform(k), forward.uniform(k, 1), forward.generator(k).random()) for k in calls}
    back = {k: (backward.uniform(k), backward.uniform(k, 1), backward.generator(k).random()) for k in reversed(calls)}
    assert there == back
    assert len({value for row in there.values() for value in row}) == 3 * len(calls)


def splitmix64(seed: int) -> Iterator[int]:
    """As Steele, Lea and Flood have it in their paper's figure, in whole numbers without end."""
    while True:
        seed = (seed + 0x9E3779B97F4A7C15) % 2**64
        word = (seed ^ seed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ word >> 27) * 0x94D049BB133111EB % 2**64
        yield word ^ word >> 31


def test_words_are_those_of_splitmix64() -> None:
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]  # of seed 1234567
    assert list(islice(splitmix64(1234567), 4)) == known
    seeds = np.array([1234567, 0, 2**64 - 1], np.uint64)
    for index in range(4):
        words = [next(islice(splitmix64(int(seed)), index, None)) for seed in seeds]
        assert splitmix(seeds, index).tolist() == words == [splitmix_one(int(seed), index) for seed in seeds]
    assert splitmix(seeds[:1], np.arange(4)).tolist() == known


def test_keys_are_hashes_of_the_parts_and_draws_have_addresses() -> None:
    parts = (1, "slow_api", 0, 7)
    key = int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "little")

    def at(word: int, index: int) -> int:
        return next(splitmix64(word + 0x9E3779B97F4A7C15 * index))

    dice = Dice(*parts)
    for call, lane in [(0, 0), (3, 0), (300, 2)]:
        assert dice.uniform(call, lane) == (at(at(key, 1 + lane), call) >> 11) / 2**53
        address = at(at(key, 0), call)
        assert dice.draws(call).random(lane)[0] == dice.draw(call, lane) == (at(address, lane << 32) >> 11) / 2**53
        assert dice.through("half", lambda drawn: drawn / 2, call) == dice.uniform(call) / 2
        ours, theirs = dice.generator(call, lane), dice.draws(call).lane(lane).generator()
        assert ours.random(9).tolist() == theirs.random(9).tolist()


def test_many_calls_draw_what_each_draws_alone() -> None:
    dice, calls = [Dice(seed) for seed in range(5)], np.array([0, 7, 7, 300, 2])
    keys = np.concatenate([each.key for each in dice])
    many = Draws(addresses(keys, calls))
    for row, (own, call) in enumerate(zip(dice, calls.tolist(), strict=True)):
        alone = own.draws(call)
        assert uniforms(keys, calls, 3)[row] == own.uniform(call, 3)
        assert many.random(4, 2, 3)[row].tolist() == alone.random(4, 2, 3)[0].tolist()
        assert many.permutation(9)[row].tolist() == alone.permutation(9)[0].tolist()
        assert many.integers(np.arange(1, 6))[row] == alone.integers(row + 1)[0]
        assert many[[row]].normal(2, 4).tolist() == alone.normal(2, 4).tolist()
        assert many.generator(row).integers(99, size=9).tolist() == alone.generator().integers(99, size=9).tolist()


def test_lanes_together_draw_what_each_draws_by_itself() -> None:
    draws = Draws(addresses(Dice(1).key, np.arange(5)))
    for lane, together in enumerate(draws.lanes(7, 4), 7):
        alone = draws.lane(lane)
        for shape in ((), (3,), (2, 4), (9, 9)):
            assert np.array_equal(together.random(2, *shape), alone.random(2, *shape))
        assert np.array_equal(together.normal(1, 4), alone.normal(1, 4))
        assert np.array_equal(together[[3, 1]].permutation(6), alone[[3, 1]].permutation(6))


def test_what_stays_for_an_episode_is_the_same_at_all_its_calls_and_under_other_names_another() -> None:
    def drawn(episode: int, call: int, name: str = "") -> float:
        context = Context(Jitter(), Dice(0, "jitter", 0, episode), VirtualClock(), None, {})
        context.number = call
        return float(context.episode_rng(name).random())

    assert drawn(0, 0) == drawn(0, 5) == drawn(0, 99)
    assert len({drawn(episode, 0, name) for episode in range(3) for name in ("", "screen", "pose")}) == 9


def test_numbers_have_the_distributions_they_promise() -> None:
    draws = Draws(addresses(Dice(1).key, np.arange(20000)))
    assert np.bincount(draws.integers(5)) / 20000 == pytest.approx(np.full(5, 0.2), abs=0.012)
    assert kstest(draws.normal(1), "norm").pvalue > 0.01
    orders = {tuple(row): 0 for row in draws.permutation(3).tolist()}
    assert len(orders) == 6
    assert draws.permutation(3).mean(0) == pytest.approx(np.ones(3), abs=0.03)


@pytest.mark.parametrize(
    "parts", [(2, "slow_api", 0, 7), (1, "missing_data", 0, 7), (1, "slow_api", 1, 7), (1, "slow_api", 0)]
)
def test_every_part_of_the_key_counts(parts: tuple[int | str, ...]) -> None:
    assert Dice(*parts).uniform(0) != Dice(1, "slow_api", 0, 7).uniform(0)


def test_uniforms_are_uniform_and_lanes_and_calls_uncorrelated() -> None:
    dice = Dice(3)
    draws = np.array([[dice.uniform(k, lane) for k in range(4000)] for lane in range(3)])
    assert abs(draws.mean(axis=1) - 0.5).max() < 0.02
    assert abs(draws.var(axis=1) - 1 / 12).max() < 0.005
    assert abs(np.corrcoef(draws) - np.eye(3)).max() < 0.05
    assert abs(np.corrcoef(draws[0][:-1], draws[0][1:])[0, 1]) < 0.05


def test_simple_schedules() -> None:
    dice = Dice(0)

    def due(schedule: Always | After | Window) -> list[int]:
        return [k for k in range(8) if schedule.due(k, dice, {})]

    assert due(Always()) == list(range(8))
    assert due(After(calls=5)) == [5, 6, 7]
    assert due(Window(start=2, stop=4)) == [2, 3]


def test_bursts_have_the_lengths_they_promise_whichever_calls_ask() -> None:
    schedule, dice = Bursts(mean_calls=4, mean_gap=12), Dice(5)
    memory: dict[str, object] = {}
    on = np.array([schedule.due(k, dice, memory) for k in range(20000)])
    starts = (~on[:-1] & on[1:]).sum()
    assert on.mean() == pytest.approx(4 / 16, abs=0.02)
    assert on.sum() / starts == pytest.approx(4, rel=0.1)
    seldom: dict[str, object] = {}
    assert [schedule.due(k, dice, seldom) for k in range(0, 500, 7)] == on[:500:7].tolist()


def test_every_call_of_an_episode_is_as_likely_in_a_burst_as_any_other() -> None:
    """The stationary distribution, call by call, over 4000 episodes of six calls; and neighbours are alike."""
    schedule = Bursts(mean_calls=5, mean_gap=20)
    episodes = []
    for episode in range(4000):
        dice, memory = Dice(2, episode), dict[str, object]()
        episodes.append([schedule.due(call, dice, memory) for call in range(6)])
    on = np.array(episodes)
    assert abs(on.mean(0) - 0.2).max() < 4 * np.sqrt(0.2 * 0.8 / 4000)
    assert on[on[:, 0], 1].mean() == pytest.approx(4 / 5, abs=4 * np.sqrt(0.2 * 0.8 / 800))


@pytest.mark.parametrize(
    "make",
    [lambda: After(-1), lambda: Window(3, 3), lambda: Bursts(mean_gap=0.5), lambda: After("soon")],  # type: ignore[arg-type]
)
def test_impossible_schedules_are_refused_in_one_line(make: object) -> None:
    with pytest.raises(ConfigError, match="at least") as caught:
        make()  # type: ignore[operator]
    assert "\n" not in str(caught.value)


def test_clocks() -> None:
    virtual, wall = VirtualClock(), WallClock()
    virtual.sleep(3600.0)
    assert virtual.now() == 3600.0
    before = wall.now()
    wall.sleep(0.01)
    assert wall.now() - before >= 0.01
