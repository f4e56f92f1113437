"""Dice and schedules: what call k draws depends on the seeds and on k alone."""

from hashlib import blake2b

import numpy as np
import pytest

from worldsim.errors import ConfigError
from worldsim.faults import After, Always, Bursts, VirtualClock, WallClock, Window
from worldsim.faults.chance import Dice


def test_draws_do_not_depend_on_order_or_on_other_draws() -> None:
    forward, backward = Dice(1, "slow_api", 0, 7), Dice(1, "slow_api", 0, 7)
    calls = [0, 1, 255, 256, 257, 5000]
    there = {k: (forward.uniform(k), forward.uniform(k, 1), forward.generator(k).random()) for k in calls}
    back = {k: (backward.uniform(k), backward.uniform(k, 1), backward.generator(k).random()) for k in reversed(calls)}
    assert there == back
    assert len({value for row in there.values() for value in row}) == 3 * len(calls)


def test_draws_are_those_of_philox_under_the_hash_of_the_parts() -> None:
    parts = (1, "slow_api", 0, 7)
    key = int.from_bytes(blake2b(repr(parts).encode(), digest_size=16).digest(), "little")
    for index, lane in [(0, 0), (3, 0), (300, 2)]:
        ours = Dice(*parts).generator(index, lane)
        numpys = np.random.Generator(np.random.Philox(key=key, counter=[0, lane, index, 0]))
        assert ours.random(9).tolist() == numpys.random(9).tolist()
        assert ours.permutation(50).tolist() == numpys.permutation(50).tolist()
    numpys = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 1, 1 + 2]))
    assert Dice(*parts).uniform(256 + 5, lane=2) == numpys.random(256)[5]


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
