"""Any space in and out, in every family: losses are finite, and what is imagined lies in the space."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from tests.models.conftest import FAMILIES, built
from tests.test_spaces import nested, samples
from worldsim.errors import SpaceMismatchError
from worldsim.models.config import ModelConfig, SSMConfig
from worldsim.models.leaves.field import FieldCodec
from worldsim.models.world_model import Batch, WorldModel
from worldsim.spaces import Leaf, flatten, leaves, unflatten, unflatten_batch

Space = spaces.Space[Any]
B, T = 2, 3
ARM = spaces.Dict(
    left=spaces.Box(0, 255, (64, 96, 3), np.uint8),
    right=spaces.Box(0, 255, (3, 48, 40), np.uint8),  # channels first
    depth=spaces.Box(0, np.inf, (33, 20), np.float32),
    mask=spaces.Box(0, 1, (16, 16), np.uint8),
    stack=spaces.Box(0, 1, (16, 24, 6), np.float32),
    joints=spaces.Box(-np.inf, np.inf, (7,), np.float64),
    ticket=spaces.Dict(record=spaces.Box(-1, 1, (2,), np.float32), status=spaces.Discrete(4), note=spaces.Text(6)),
    lamps=spaces.MultiBinary(300),
    story=spaces.Text(40, min_length=20),
    grid=spaces.MultiDiscrete([[2, 3], [4, 5]]),
)
ACTS = spaces.Dict(
    button=spaces.Discrete(3, start=-1),
    keys=spaces.MultiBinary((2, 3)),
    gears=spaces.MultiDiscrete([[2, 3], [4, 1]]),
    stick=spaces.Box(-1, 1, (2, 2), np.float32),
    heat=spaces.Box(0, 1, (8, 8), np.float32),
    said=spaces.Text(3),
)


def recorded(space: Space, seed: int) -> dict[str, torch.Tensor]:
    """B sequences of T samples, flat."""
    rows = [flatten(space, value) for value in samples(space, seed, B * T)]
    return {
        leaf.name: torch.from_numpy(np.stack([row[leaf.name] for row in rows])).unflatten(0, (B, T))
        for leaf in leaves(space)
    }


def imagined_in_the_space(config: ModelConfig, observed: Space, acted: Space, seed: int) -> None:
    model = built(config, observed, acted)
    first = torch.zeros(B, T, dtype=torch.bool)
    batch = Batch(recorded(observed, seed), recorded(acted, seed), torch.zeros(B, T), first, first)
    measure(model, batch)
    for stage in model.stages:
        losses = model.losses(batch, torch.Generator().manual_seed(0), stage)
        assert all(loss.isfinite() for loss in losses.parts.values()), losses.parts
        losses.total.backward()
    with torch.no_grad():
        state = model.observe(batch.observation, batch.action, batch.first).state
        action = {name: value[:, 0] for name, value in batch.action.items()}
        drawn = model.decode(model.step(state, action, torch.rand(B, model.noise_size))[0])
    arrays = {name: value.numpy() for name, value in drawn.items()}
    for leaf in leaves(observed):
        assert (arrays[leaf.name].shape[1:], arrays[leaf.name].dtype) == (leaf.shape, leaf.dtype), leaf.name
    for row in range(B):
        assert observed.contains(unflatten(observed, {name: array[row] for name, array in arrays.items()}))
    unflatten_batch(observed, arrays)


def measure(model: WorldModel, batch: Batch) -> None:
    samples = [{name: [values.flatten(0, 1)] for name, values in part.items()} for part in batch[:2]]
    model.measure(*samples)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_arm_with_cameras_and_a_ticket(family: str) -> None:
    imagined_in_the_space(FAMILIES[family], ARM, ACTS, seed=0)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["ssm", "transformer", "rssm", "diffusion"]), nested(), nested(), st.integers(0, 99))
def test_any_space(family: str, observed: Space, acted: Space, seed: int) -> None:
    imagined_in_the_space(FAMILIES[family], observed, acted, seed)


@pytest.mark.parametrize("family", ["ssm", "transformer", "rssm", "diffusion"])
@pytest.mark.parametrize("shape", [(64, 64, 3), (210, 160, 3), (256, 192), (3, 96, 128)])
def test_frames_of_any_size(family: str, shape: tuple[int, ...]) -> None:
    imagined_in_the_space(FAMILIES[family], spaces.Box(0, 255, shape, np.uint8), spaces.Discrete(3), seed=1)


def test_a_leaf_that_is_called_categorical_is_trained_beside_those_that_are() -> None:
    space = spaces.Dict(categorical=spaces.Box(-1, 1, (2,), np.float32), status=spaces.Discrete(4))
    model = built(FAMILIES["ssm"], space, spaces.Discrete(2))
    flat = {name: value.flatten(0, 1) for name, value in recorded(space, 0).items()}
    slots = model.dynamics.recode(model.codec.encode(flat), model.codec.categorical.indices(flat))
    ((_, vector),) = model.codec.dense_codecs()
    status = model.codec.categorical.loss(slots.categorical, flat["status"])
    both = status + vector.loss(slots.dense, flat["categorical"])
    assert_close(model.codec.loss(slots, flat), {"categorical": both})


def test_two_leaves_of_one_name_are_refused() -> None:
    with pytest.raises(SpaceMismatchError, match="two leaves of the space have the name 'a/b'"):
        leaves(spaces.Dict({"a/b": spaces.Discrete(2), "a": spaces.Dict(b=spaces.Discrete(2))}))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 4e4])
def test_a_field_is_drawn_in_the_units_of_the_data(scale: float) -> None:
    leaf = Leaf((), spaces.Box(-np.inf, np.inf, (9, 11), np.float32))
    codec = FieldCodec(leaf, SSMConfig(patch=4, embed=8, hidden=12), features=4)
    values = scale * torch.rand(5, 9, 11, 1)
    values[0, 0, 0] = torch.inf
    codec.measure([values[:2], values[2:]])
    pixels = codec.pixels(values)
    assert (pixels >= 0).all() and (pixels <= 255).all() and pixels[0, 0, 0] == 255 and pixels.min() == 0
    codec.mean.copy_(pixels[1] / 255)
    slots = torch.randn(1, codec.slots, 4)  # an untaught decoder draws the mean
    assert_close(codec.decode(slots)[0], values[1], rtol=1e-3, atol=1e-4 * scale)


def test_channels_come_last_whatever_the_space_has() -> None:
    space = spaces.Box(0, 255, (3, 12, 10), np.uint8)
    (leaf,) = leaves(space)
    assert (leaf.kind, leaf.shape) == ("image", (12, 10, 3))
    value = samples(space, 0, 1)[0]
    flat = flatten(space, value)["value"]
    assert np.array_equal(flat[2, 5], value[:, 2, 5]) and np.array_equal(unflatten(space, {"value": flat}), value)
