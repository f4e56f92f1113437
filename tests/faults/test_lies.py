"""Plausible lies of a real World with fresh weights: right in form, held against distances measured from outside."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.simulator.conftest import one_thread, world_folder  # noqa: F401  (fixtures)
from tests.simulator.stub_world import IMAGE_SPACE
from worldsim import faults
from worldsim.errors import ConfigError, SpaceMismatchError
from worldsim.faults.conformance import Bench, Outcome, check_fault
from worldsim.simulator.world import load
from worldsim.spaces import flatten


def lies(folder: Any, severity: float, calls: int = 5, **settings: Any) -> list[Outcome]:
    fault = faults.PlausibleLie(severity=severity, world=folder, rate=1.0, **settings)
    return Bench(IMAGE_SPACE).run([fault], calls)


def distances(folder: Path, outcomes: list[Outcome]) -> list[float]:
    """Latent distances between what was shown and what was there, by the model itself."""
    world = load(folder)
    shown, true = ([flatten(IMAGE_SPACE, payload) for payload in payloads] for payloads in _pairs(outcomes))
    codes = [world.codes({name: np.stack([row[name] for row in rows]) for name in rows[0]}) for rows in (shown, true)]
    return np.sqrt(np.square(codes[0].astype(float) - codes[1]).mean(1)).tolist()


def _pairs(outcomes: list[Outcome]) -> tuple[list[Any], list[Any]]:
    return [each.reply.payload for each in outcomes], [each.answers[0].payload for each in outcomes]


def test_it_keeps_what_every_fault_keeps(world_folder: Path) -> None:  # noqa: F811
    build = partial(faults.PlausibleLie, world=str(world_folder), dreams=3, ticks=2)
    check_fault(build, IMAGE_SPACE, calls=6, statistic=lambda outcomes: sum(map(_told, outcomes)))


def _told(each: Outcome) -> float:
    return sum(record.details["distance"] for record in each.records)


def test_a_lie_is_valid_in_every_leaf_and_never_the_truth(world_folder: Path) -> None:  # noqa: F811
    for severity in (0.01, 0.5, 1.0):
        for each in lies(str(world_folder), severity):
            assert each.records and each.reply.payload in IMAGE_SPACE
            assert not np.array_equal(each.reply.payload["screen"], each.answers[0].payload["screen"])


def test_severity_is_distance_in_latent_space(world_folder: Path) -> None:  # noqa: F811
    far = []
    for severity in (0.05, 0.35, 0.65, 1.0):
        outcomes = lies(str(world_folder), severity)
        measured = distances(world_folder, outcomes)
        assert measured == pytest.approx([_told(each) for each in outcomes], rel=1e-4)
        far.append(measured)
    table = np.array(far)
    assert (np.diff(table, axis=0) >= -1e-6).all() and (table[-1] > table[0]).all()


def test_codes_are_a_function_of_the_observation_alone(world_folder: Path) -> None:  # noqa: F811
    world = load(world_folder)
    rows = [flatten(IMAGE_SPACE, IMAGE_SPACE.sample()) for _ in range(3)]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    together = world.codes(batch)
    alone = np.concatenate([world.codes({name: value[i : i + 1] for name, value in batch.items()}) for i in range(3)])
    assert together.shape[0] == 3 and np.allclose(together, alone, atol=1e-5)
    assert np.array_equal(together, world.codes(batch))


def test_only_targets_lie(world_folder: Path) -> None:  # noqa: F811
    for each in lies(load(world_folder), 1.0, targets=["screen"]):
        assert each.reply.payload["mode"] == each.answers[0].payload["mode"]
        assert not np.array_equal(each.reply.payload["screen"], each.answers[0].payload["screen"])


def test_without_a_world_or_with_another_ones_observations_it_says_so(world_folder: Path) -> None:  # noqa: F811
    with pytest.raises(ConfigError, match="plausible_lie: world must be the folder of a trained world"):
        Bench(IMAGE_SPACE).run([faults.PlausibleLie()], 1)
    with pytest.raises(SpaceMismatchError, match="give the world of this environment"):
        Bench(None, lambda _: {"total": 1}).run([faults.PlausibleLie(world=str(world_folder))], 1)
