"""What the diffusion family denoises, and from which scales."""

import numpy as np
import pytest
import torch

from tests.models.conftest import ACTIONS, FAMILIES, NESTED, random_batch
from worldsim.models.config import DiffusionConfig
from worldsim.models.diffusion import DiffusionWorldModel
from worldsim.models.diffusion.canvas import LEAST_CHANGE, Canvas
from worldsim.models.diffusion.denoiser import SIGMA_MAX, SIGMA_MIN, Scaling, noise_levels, trained_levels
from worldsim.spaces import leaves


def untrained() -> DiffusionWorldModel:
    config = FAMILIES["diffusion"]
    assert isinstance(config, DiffusionConfig)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DiffusionWorldModel(config, NESTED, ACTIONS, (-1.0, 2.0))


def test_an_untrained_model_says_that_nothing_changes() -> None:
    model, batch = untrained().eval(), random_batch(3, 6)
    with torch.no_grad():
        state = model.observe(batch.observation, batch.action, batch.first).state
        following, _ = model.step(state, {name: value[:, -1] for name, value in batch.action.items()}, None)
    for name, value in model.decode(following).items():
        last = batch.observation[name][:, -1]
        if value.dtype.is_floating_point:
            inside = (last - last.mean()).abs() < 0.5  # far outside of what was measured it is clipped
            assert torch.allclose(value[inside], last[inside], atol=1e-4) or not inside.any()
        else:
            assert torch.equal(value, last)


def test_where_more_changes_the_deviation_is_greater() -> None:
    """Against a plain loop: the root of the mean square of changes, around a pixel, in [-1, 1]."""
    space = NESTED["grey"]
    canvas, rng = Canvas(leaves(space), 1), np.random.default_rng(0)
    name = canvas.names[0]
    before = rng.integers(0, 200, (20, 11, 18, 1), dtype=np.uint8)
    after = before.copy()
    after[:, 4, 7] += 50
    pairs = [{name: [torch.from_numpy(part) for part in np.split(rows, 4)]} for rows in (before, after)]
    canvas.measure_changes(*pairs)
    change = 2 * 50 / 255
    for y in range(11):
        for x in range(18):
            near = [(j, i) for j in range(y - 2, y + 3) for i in range(x - 2, x + 3) if 0 <= j < 11 and 0 <= i < 18]
            mean = sum(change**2 * (place == (4, 7)) for place in near) / len(near)
            expected = max(LEAST_CHANGE, mean**0.5)
            assert canvas.grids[0].deviation[y, x].item() == pytest.approx(expected, rel=1e-4)


def test_what_the_network_sees_and_should_give_has_unit_variance() -> None:
    canvas = untrained().canvas
    generator = torch.Generator().manual_seed(0)
    noise, other = (canvas.noise(torch.rand(400, canvas.count, generator=generator)) for _ in range(2))
    for sigma in (SIGMA_MIN, 0.3, SIGMA_MAX):
        clean = other.with_each(canvas.deviations(), torch.mul)
        noisy = clean.with_each(noise, lambda x, e: x + sigma * e)  # noqa: B023
        scaling = Scaling.at(torch.full((400,), sigma), canvas.deviations(), noisy)
        target = clean.with_each(noisy.with_each(scaling.skip, torch.mul), torch.sub)
        for seen in (noisy.with_each(scaling.input, torch.mul), target.with_each(scaling.out, torch.div)):
            for tensor in seen.tensors():
                assert tensor.std().item() == pytest.approx(1, abs=0.02)


def test_levels_that_are_trained_on_are_those_sampled_through() -> None:
    levels = noise_levels(5)
    assert levels[0] == pytest.approx(SIGMA_MAX) and levels[-2] == pytest.approx(SIGMA_MIN) and levels[-1] == 0
    assert levels == sorted(levels, reverse=True)
    trained = trained_levels(torch.linspace(0, 1 - 1e-7, 1001))
    assert trained.max().item() == pytest.approx(SIGMA_MAX) and trained.min().item() == pytest.approx(
        SIGMA_MIN, rel=0.01
    )
    assert (trained == SIGMA_MAX).float().mean().item() == pytest.approx(0.5, abs=0.01)
