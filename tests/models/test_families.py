"""Every family holds to what `worldsim.models.conformance` asks, and what breaks it is found."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from tests.models.conftest import ACTIONS, FAMILIES, NESTED, built
from worldsim.models.config import DiffusionConfig
from worldsim.models.conformance import CHECKS, Sample, check_family, fresh, observed, stepped
from worldsim.models.world_model import WorldModel


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_family_holds_to_the_interface(model: WorldModel, check: Callable[[Sample], None]) -> None:
    check(Sample(model, NESTED, ACTIONS))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "space", [spaces.Discrete(4), spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.Box(-1, 1, (3,), np.float32)]
)
def test_observations_of_one_leaf(family: str, space: spaces.Space) -> None:
    check_family(FAMILIES[family], space, spaces.Discrete(5))


def forgets_nothing(model: Any) -> None:
    observe = model.observe
    model.observe = lambda o, a, first, state=None: observe(o, a, torch.zeros_like(first), state)


def mixes_rows(model: Any) -> None:
    observe = model.observe

    def mixed(*given: Any) -> Any:
        seen = observe(*given)
        return seen._replace(features=seen.features + seen.features.mean(0))

    model.observe = mixed


def ignores_actions(model: Any) -> None:
    model.act.forward = lambda actions: torch.zeros(*next(iter(actions.values())).shape[:-1], model.act.width)


def sees_ahead(model: Any) -> None:
    observe = model.observe

    def ahead(*given: Any) -> Any:
        seen = observe(*given)
        return seen._replace(features=seen.features + seen.features.roll(-1, 1))

    model.observe = ahead


def draws_from_the_ambient_generator(model: Any) -> None:
    losses = model.losses

    def noisy(*given: Any) -> Any:
        found = losses(*given)
        return found._replace(parts={name: loss + torch.rand(()) for name, loss in found.parts.items()})

    model.losses = noisy


def keeps_a_hidden_buffer(model: Any) -> None:
    step, count = model.step, [0]

    def counting(*given: Any) -> Any:
        count[0] += 1
        state, predicted = step(*given)
        return state, predicted._replace(features=predicted.features + count[0])

    model.step = counting


def loses_an_axis(model: Any) -> None:
    step = model.step

    def summed(*given: Any) -> Any:
        state, predicted = step(*given)
        return state, predicted._replace(entropy=predicted.entropy.sum())

    model.step = summed


@pytest.mark.parametrize(
    "broken",
    [
        forgets_nothing,
        mixes_rows,
        ignores_actions,
        sees_ahead,
        draws_from_the_ambient_generator,
        keeps_a_hidden_buffer,
        loses_an_axis,
    ],
)
def test_what_breaks_the_interface_is_found(broken: Callable[[Any], None]) -> None:
    model = built(FAMILIES["diffusion"])
    broken(model)
    found = []
    for check in CHECKS:
        try:
            check(Sample(model, NESTED, ACTIONS))
        except AssertionError as error:
            found.append((check.__name__, str(error)))
    assert found


def test_a_diffusion_state_is_what_was_seen() -> None:
    """The last observations, the episode's first repeated where it has had fewer, and the actions between them."""
    config = FAMILIES["diffusion"]
    assert isinstance(config, DiffusionConfig)
    sample = Sample(fresh(config, NESTED, ACTIONS), NESTED, ACTIONS)
    batch, context = sample.batch(), config.context
    batch.first[:, 4] = True
    encoded = sample.model.act(batch.action)
    for length in range(1, 8):
        cut = batch.each(lambda value: value[:, :length])  # noqa: B023
        state = observed(sample.model, cut).state
        begin = 4 if length > 4 else 0
        rows = [max(begin, t) for t in range(length - context, length)]
        for name, value in batch.observation.items():
            assert torch.equal(state[f"past/{name}"], value[:, rows])
        acted = [encoded[:, t] * (t > begin) for t in range(length - context + 1, length)]
        assert torch.equal(state["actions"], torch.stack(acted, 1))
    before = observed(sample.model, batch.each(lambda value: value[:, :4])).state
    following, _, drawn = stepped(sample.model, before, batch, 5, sample.uniform())
    for name, value in drawn.items():
        assert torch.equal(following[f"past/{name}"][:, -1], value)
        assert torch.equal(following[f"past/{name}"][:, :-1], before[f"past/{name}"][:, 1:])
