"""Where sequences begin when that is not uniform: frequencies and weights against what they are defined to be."""

import json

import numpy as np
import pytest
from scipy.stats import chisquare

from tests.rollouts.test_sampling import numbered
from worldsim.errors import DatasetError
from worldsim.rollouts.sampling import SequenceSampler
from worldsim.rollouts.segments import Segments

LENGTHS = [4, 9, 2, 30, 5]
EPISODES = np.array([0, 1, 3, 4])


def test_segments_are_a_partition_of_the_rows_cut_from_the_ends() -> None:
    arrays = numbered(LENGTHS)
    segments = Segments(arrays, EPISODES, length=4)
    rows = np.concatenate([np.arange(b, b + n) for b, n in zip(segments.begin, segments.rows, strict=True)])
    assert rows.tolist() == [r for e in EPISODES for r in range(arrays.start[e], arrays.start[e + 1])]
    assert segments.rows.max() == 4
    last = np.isin(segments.begin + segments.rows, arrays.start[1:])
    assert last.sum() == len(EPISODES) and (segments.rows[last] == 4).all()


def test_frequencies_are_the_probabilities_and_weights_undo_them() -> None:
    arrays, rng = numbered(LENGTHS), np.random.default_rng(0)
    segments = Segments(arrays, EPISODES, 4, ends=0.3, alpha=0.7, correction=1.0)
    segments.update_losses(np.arange(len(segments.begin)), rng.uniform(0.5, 2.0, len(segments.begin)))
    starts = segments.draw(200_000, rng)
    counts, p = np.bincount(starts.segment, minlength=len(segments.begin)), segments.probabilities()
    assert p.sum() == pytest.approx(1) and (np.abs(counts - 200_000 * p) < 5 * np.sqrt(200_000 * p)).all()
    uniform = np.concatenate([np.arange(arrays.start[e], arrays.start[e + 1]) for e in EPISODES])
    assert np.average(starts.row, weights=starts.weight) == pytest.approx(uniform.mean(), rel=0.01)
    assert starts.weight.mean() == pytest.approx(1, rel=0.01)
    plain = Segments(arrays, EPISODES, 4).draw(200_000, rng)
    assert (plain.weight == 1).all() and plain.row.mean() == pytest.approx(uniform.mean(), rel=0.01)


def test_rows_are_drawn_as_the_formula_has_it() -> None:
    """Two episodes of 7 and 3 rows, segments of 4: rows 0-2, 3-6 and 7-9, of which only the second closes with an end.

    Half by loss (to the power 1/2: 1, 2, 3 times what uniform sampling gives), half for the end.
    """
    arrays, rng = numbered([6, 2]), np.random.default_rng(0)
    arrays.terminated[9] = False
    segments = Segments(arrays, np.arange(2), 4, ends=0.5, alpha=0.5, correction=0.5)
    segments.update_losses(np.arange(3), np.array([1.0, 4.0, 9.0]))
    by_loss = np.array([3 * 1, 4 * 2, 3 * 3]) / (3 * 1 + 4 * 2 + 3 * 3)
    of_segment = 0.5 * by_loss + 0.5 * np.array([0, 1, 0])
    expected = np.repeat(of_segment / [3, 4, 3], [3, 4, 3])
    starts = segments.draw(100_000, rng)
    assert chisquare(np.bincount(starts.row, minlength=10), 100_000 * expected).pvalue > 1e-3
    assert starts.weight == pytest.approx((np.array([0.3, 0.4, 0.3]) / of_segment)[starts.segment] ** 0.5, rel=1e-6)
    drawn = SequenceSampler(arrays, np.arange(2), 100_000, 1, rng, segments).sample()["reward"][:, 0].astype(int)
    assert chisquare(np.bincount(drawn, minlength=10), 100_000 * expected).pvalue > 1e-3


def test_a_sampler_that_is_resumed_draws_by_the_losses_it_had() -> None:
    arrays = numbered([9, 19, 14])

    def sampler(seed: int) -> SequenceSampler:
        segments = Segments(arrays, np.arange(3), 4, ends=0.2, alpha=0.9)
        return SequenceSampler(arrays, np.arange(3), 8, 4, np.random.default_rng(seed), segments)

    def drawn(one: SequenceSampler) -> list[list[int]]:
        found = []
        for _ in range(5):
            batch = one.sample()
            found.append(batch["reward"].ravel().astype(int).tolist())
            one.segments.update_losses(batch["segment"], batch["reward"].sum(1).astype(float))
        return found

    first = sampler(1)
    drawn(first)
    kept = json.loads(json.dumps(first.state_dict()))
    again = sampler(2)
    again.load_state_dict(kept)
    assert drawn(again) == drawn(first) != drawn(sampler(2))


def test_as_many_sequences_as_asked_hold_an_end() -> None:
    arrays = numbered([99] * 20)
    share = {}
    for ends in (0.0, 0.5):
        segments = Segments(arrays, np.arange(20), 8, ends)
        batch = SequenceSampler(arrays, np.arange(20), 4000, 8, np.random.default_rng(1), segments).sample()
        share[ends] = batch["terminated"].any(1).mean()
    assert share[0.0] == pytest.approx(0.08, abs=0.02)  # 8 of the 100 rows of an episode reach its end
    assert share[0.5] == pytest.approx(0.5 + 0.5 * 0.08, abs=0.03)
    arrays.terminated[:] = False
    with pytest.raises(DatasetError, match="no episode of the data terminates; set trainer.ends=0"):
        Segments(arrays, np.arange(20), 8, 0.5)


def test_what_was_predicted_badly_comes_more_often_and_what_was_not_seen_as_often_as_the_worst() -> None:
    arrays = numbered([7, 7, 7, 7])
    segments = Segments(arrays, np.arange(4), 8, alpha=1.0)
    assert segments.probabilities() == pytest.approx(0.25)
    segments.update_losses(np.array([0, 1, 2]), np.array([1.0, 3.0, 2.0]))
    assert segments.probabilities() == pytest.approx(np.array([1, 3, 2, 3]) / 9)
    again = Segments(arrays, np.arange(4), 8, alpha=1.0)
    again.load_state_dict(json.loads(json.dumps(segments.state_dict())))
    assert np.array_equal(again.probabilities(), segments.probabilities())


def test_weights_of_rows_are_kept_by_segments() -> None:
    arrays = numbered([9, 19])
    segments = Segments(arrays, np.arange(2), 4, weights=np.array([3 / 10, 1 / 20]))
    first = segments.begin < arrays.start[1]
    assert segments.probabilities()[first].sum() == pytest.approx(0.75)
