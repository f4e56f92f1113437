"""What is learned does not depend on the units that numbers, actions and rewards are recorded in."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.testing import assert_close

from tests.models.conftest import FAMILIES
from worldsim.models.config import ModelConfig, SSMConfig
from worldsim.models.heads import RewardHead
from worldsim.models.leaves.field import FieldCodec
from worldsim.models.leaves.scale import Scale
from worldsim.models.world_model import Batch, Losses
from worldsim.rollouts.arrays import EpisodeArrays
from worldsim.spaces import Leaf
from worldsim.training.statistics import fit_statistics, reward_range

ROWS, B, T = 240, 4, 6
Change = Callable[[np.ndarray], np.ndarray]
UNITS: dict[str, tuple[Any, Change]] = {
    "offset by 5e6": (np.float64, lambda x: x + 5e6),
    "unix time in seconds": (np.float64, lambda x: x + 1.7e9),
    "unix time in whole milliseconds": (np.int64, lambda x: np.round(1000 * x) + 1.7e12),
    "micro": (np.float32, lambda x: 1e-6 * x),
    "nano, upside down": (np.float32, lambda x: -1e-9 * x),
    "kilo": (np.float32, lambda x: 1e3 * x),
}


def box(shape: tuple[int, ...], dtype: Any) -> spaces.Box:
    whole = np.issubdtype(dtype, np.integer)
    return spaces.Box(*((-(2**60), 2**60) if whole else (-np.inf, np.inf)), shape, dtype)


def losses(config: ModelConfig, dtype: Any, change: Change, action: Change, reward: float) -> Losses:
    """Of an untrained model that knows the statistics of one system, in the units given."""
    rng = np.random.default_rng(0)
    measured = np.round(5 * rng.normal(size=(ROWS, 3)), 3) * [1, 10, 0.2]  # whole in thousandths
    space = spaces.Dict(state=box((3,), dtype), depth=box((9, 9), dtype))
    grid = np.round(rng.normal(size=(ROWS, 9, 9, 1)), 3)
    kept = np.float32 if dtype == np.float32 else np.float64
    observation = {"state": change(measured).astype(kept), "depth": change(grid).astype(kept)}
    acted = {"value": action(rng.normal(size=(ROWS, 2))).astype(np.float32)}
    paid = (reward * rng.integers(-1, 2, ROWS)).astype(np.float32)
    none = np.zeros(ROWS, np.bool_)
    arrays = EpisodeArrays(observation, acted, paid, none, none, np.array([0, ROWS]))
    torch.manual_seed(0)
    span = reward_range(arrays, np.array([0]))
    model = config.build(space, box((2,), np.float32), span)
    fit_statistics(model, arrays, np.array([0]), np.random.default_rng(0))

    def cut(array: np.ndarray) -> np.ndarray:
        return array[: B * T].reshape(B, T, *array.shape[1:])

    first = np.broadcast_to(np.arange(T) == 0, (B, T)).copy()
    batch = Batch.from_numpy(
        {
            "observation": {name: cut(value) for name, value in observation.items()},
            "action": {"value": cut(acted["value"])},
            "reward": cut(paid),
            "terminated": cut(none),
            "first": first,
        }
    )
    return model.losses(batch, torch.Generator().manual_seed(0), model.stages[-1])


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("family", ["ssm", "rssm"])
def test_losses_do_not_depend_on_units(family: str, unit: str) -> None:
    dtype, change = UNITS[unit]
    usual = losses(FAMILIES[family], np.float64, lambda x: x, lambda x: x, 1.0)
    sign = -1 if "upside down" in unit else 1  # what is turned over is another system
    other = losses(FAMILIES[family], dtype, lambda x: change(sign * x), lambda x: 1e-3 * x, 1e-4)
    assert usual.parts.keys() == other.parts.keys()
    for name, loss in usual.parts.items():
        assert_close(other.parts[name], loss, rtol=2e-3, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    ("dtype", "offset", "unit"),
    [
        (np.float64, 1.7e12, 1.0),
        (np.float64, -5e6, 1e-3),
        (np.float64, 0, 1e-9),
        (np.float32, 0, 1e-6),
        (np.float32, 0, 1e6),
    ],
)
def test_numbers_come_back_in_their_units(dtype: Any, offset: float, unit: float) -> None:
    numbers = np.random.default_rng(0).normal(size=(50, 3)) * [1, 10, 1e3]
    values = torch.from_numpy((unit * numbers + offset).astype(dtype))
    scale = Scale(Leaf((), box((3,), dtype)), 3)
    scale.measure([values[:20], values[20:]])
    back = scale.inverse(scale(values))
    assert back.dtype == values.dtype
    assert ((back - values).abs() / values.std(0)).max() < 1e-3


def test_what_never_varies_has_a_deviation_of_one_and_what_is_not_finite_counts_for_nothing() -> None:
    values = torch.tensor([[5e6, 1.0], [5e6, torch.nan], [5e6, 3.0], [5e6, torch.inf]], dtype=torch.float64)
    scale = Scale(Leaf((), box((2,), np.float64)), 2)
    scale.measure([values])
    assert_close(scale.mean, torch.tensor([5e6, 2.0], dtype=torch.float64))
    assert_close(scale.std, torch.tensor([1.0, 1.0], dtype=torch.float64))


def test_a_field_far_from_zero_keeps_its_differences() -> None:
    values = 1.7e9 + torch.rand(6, 9, 11, 1, dtype=torch.float64)
    codec = FieldCodec(Leaf((), box((9, 11), np.float64)), SSMConfig(patch=4, embed=8, hidden=12), features=4)
    codec.measure([values])
    pixels = codec.pixels(values)
    assert (pixels.amin(), pixels.amax()) == (0, 255)
    assert pixels.unique().numel() > 500


@pytest.mark.parametrize("size", [1e-4, 1.0])
def test_small_rewards_have_signs(size: float) -> None:
    head = RewardHead(1, 4, -size, size)
    assert head.sign(size * torch.tensor([-1.0, 0.0, 0.5, 1.0])).tolist() == [0, 1, 2, 2]
    assert_close(head.values[[0, -1]] / size, torch.tensor([-1.1, 1.1]))
