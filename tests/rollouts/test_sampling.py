import json

import numpy as np
import pytest

from worldsim.errors import DatasetError
from worldsim.rollouts.arrays import EpisodeArrays
from worldsim.rollouts.sampling import SequenceSampler, gather, split, windows


def numbered(lengths: list[int]) -> EpisodeArrays:
    """Episodes whose rows carry their own row number and their episode's number."""
    start = np.concatenate([[0], np.cumsum(np.array(lengths) + 1)]).astype(np.int64)
    rows = np.arange(start[-1])
    episode = np.repeat(np.arange(len(lengths)), np.array(lengths) + 1)
    ends = np.isin(rows, start[1:] - 1)
    frame = np.broadcast_to(rows.astype(np.uint8)[:, None, None, None], (len(rows), 8, 8, 3)).copy()
    return EpisodeArrays(
        observation={"row": rows[:, None].astype(np.float32), "screen": frame},
        action={"value": episode[:, None]},
        reward=rows.astype(np.float32),
        terminated=ends,
        truncated=np.zeros(len(rows), bool),
        start=start,
    )


def test_split_is_disjoint_complete_and_repeatable() -> None:
    arrays = numbered([3] * 23)
    train, held_out = split(arrays, holdout=0.1, seed=5)
    assert len(held_out) == 2
    assert sorted([*train, *held_out]) == list(range(23))
    assert np.array_equal(split(arrays, 0.1, 5)[1], held_out)
    assert not np.array_equal(split(arrays, 0.1, 6)[1], held_out)
    assert len(split(numbered([3, 3]), holdout=0.01)[1]) == 1
    assert len(split(arrays, holdout=0)[1]) == 0
    with pytest.raises(DatasetError, match="too few"):
        split(numbered([9]))


def test_sequences_follow_episodes_and_run_on_into_the_beginning_of_others() -> None:
    arrays = numbered([4, 9, 2, 30, 5])
    allowed = np.array([0, 1, 2, 4])
    sampler = SequenceSampler(arrays, allowed, batch=64, length=20, rng=np.random.default_rng(0))
    for batch in (sampler.sample(), sampler.sample()):
        rows = batch["observation"]["row"][..., 0].astype(int)
        assert set(batch["action"]["value"].ravel()) == set(allowed)
        for sequence, first in zip(rows, batch["first"], strict=True):
            for before, now, begins in zip(sequence, sequence[1:], first[1:], strict=False):
                assert begins == (before in arrays.start[1:] - 1)
                assert now in arrays.start[allowed] if begins else now == before + 1
        assert batch["mask"].all()
        assert np.array_equal(batch["terminated"], arrays.terminated[rows])
        assert np.array_equal(batch["reward"], rows)
        screen = batch["observation"]["screen"]
        assert screen.dtype == np.uint8 and screen.shape == (64, 20, 8, 8, 3) and screen.flags.c_contiguous
        assert np.array_equal(screen[..., 0, 0, 0], rows)


def test_starts_are_uniform_over_all_rows() -> None:
    arrays = numbered([1, 3, 8])
    sampler = SequenceSampler(arrays, np.array([0, 2]), batch=4000, length=1, rng=np.random.default_rng(1))
    counts = np.bincount(sampler.sample()["observation"]["row"].astype(int).ravel(), minlength=15)
    assert counts[2:6].sum() == 0  # the rows of episode 1
    used = np.concatenate([counts[:2], counts[6:]])
    assert (np.abs(used - 4000 / 11) < 5 * np.sqrt(4000 / 11)).all()


def test_a_resumed_sampler_draws_the_same_batches() -> None:
    arrays = numbered([5, 6, 7])
    sampler = SequenceSampler(arrays, np.arange(3), 4, 6, np.random.default_rng(2))
    sampler.sample()
    saved = json.loads(json.dumps(sampler.state_dict()))
    expected = [sampler.sample()["reward"] for _ in range(3)]
    resumed = SequenceSampler(arrays, np.arange(3), 4, 6, np.random.default_rng(99))
    resumed.load_state_dict(saved)
    assert all(np.array_equal(resumed.sample()["reward"], e) for e in expected)


def test_windows_stay_inside_one_episode() -> None:
    arrays = numbered([3, 20, 12])
    batch = windows(arrays, np.array([0, 1, 2]), length=8, count=500, rng=np.random.default_rng(3))
    assert (batch["action"]["value"] == batch["action"]["value"][:, :1]).all()
    short = batch["action"]["value"][:, 0, 0] == 0
    assert short.any() and (batch["mask"][short].sum(1) == 4).all() and batch["mask"][~short].all()
    assert not batch["first"][:, 1:].any()
    whole = batch["observation"]["row"][~short][..., 0]
    assert (np.diff(whole) == 1).all()
    begins = set(whole[:, 0].astype(int))
    assert begins == {*range(4, 4 + 14), *range(25, 25 + 6)}  # every place where one fits


def test_no_episodes_is_an_error_and_gather_takes_rows() -> None:
    arrays = numbered([3, 3])
    none = np.array([], np.int64)
    with pytest.raises(DatasetError, match="no episodes"):
        SequenceSampler(arrays, none, 1, 1, np.random.default_rng(0))
    with pytest.raises(DatasetError, match="no episodes"):
        windows(arrays, none, 1, 1, np.random.default_rng(0))
    assert gather(arrays, np.array([[4, 5]]))["first"].tolist() == [[True, False]]
