"""What every family must hold to, whatever it is inside. B worlds, T moments."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from tests.models.conftest import FAMILIES, NESTED, built, part, random_batch
from worldsim.models.world_model import Batch, Observed, Predicted, State, WorldModel
from worldsim.spaces import leaves, unflatten

B, T = 3, 7
ALL = slice(None)


def observed(model: WorldModel, batch: Batch, state: State | None = None) -> Observed:
    with torch.no_grad():
        return model.observe(batch.observation, batch.action, batch.first, state)


def stepped(
    model: WorldModel, state: State, batch: Batch, t: int, noise: Tensor | None
) -> tuple[State, Predicted, dict[str, Tensor]]:
    """The state, what was predicted, and what is seen."""
    with torch.no_grad():
        following, predicted = model.step(state, {name: value[:, t] for name, value in batch.action.items()}, noise)
        return following, predicted, model.decode(following)


def uniform(model: WorldModel, rows: int = B, seed: int = 0) -> Tensor:
    return torch.rand(rows, model.noise_size, generator=torch.Generator().manual_seed(seed))


def same(one: object, other: object) -> None:
    """But for the rounding of sums in another order."""
    assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_shapes_are_those_of_the_contract(model: WorldModel) -> None:
    batch = random_batch(B, T)
    seen = observed(model, batch)
    width = seen.features.shape[-1]
    assert seen.features.shape == (B, T, width)
    assert model.reward.mean(seen.features).shape == model.termination(seen.features).shape == (B, T)
    state, predicted, drawn = stepped(model, seen.state, batch, 0, uniform(model))
    assert predicted.features.shape == (B, width)
    for signal in (predicted.entropy, predicted.disagreement):
        assert signal.shape == (B,) and (signal >= 0).all()
    for name, tensor in model.initial(B).items():
        assert tensor.shape == seen.state[name].shape == state[name].shape and len(tensor) == B, name
        assert tensor.dtype == seen.state[name].dtype == state[name].dtype, name
    encoded = model.encode({name: value[:, 0] for name, value in batch.observation.items()})
    assert encoded.shape[:-1] == (B,) and encoded.dtype == torch.float32
    assert {name: (v.shape, v.dtype) for name, v in drawn.items()} == {
        name: (v[:, 0].shape, v.dtype) for name, v in batch.observation.items()
    }


def test_what_is_drawn_lies_in_the_space(model: WorldModel) -> None:
    batch = random_batch(B, T)
    _, _, drawn = stepped(model, observed(model, batch).state, batch, 0, uniform(model))
    for row in range(B):
        value = unflatten(NESTED, {name: each[row].numpy() for name, each in drawn.items()})
        assert NESTED.contains(value), value


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(FAMILIES)), st.integers(1, T - 1), st.booleans(), st.integers(0, 99))
def test_in_one_go_or_in_two_pieces(family: str, cut: int, first: bool, seed: int) -> None:
    model = built(FAMILIES[family])
    batch = random_batch(B, T, seed, first)
    whole = observed(model, batch)
    one = observed(model, part(batch, ALL, slice(0, cut)))
    two = observed(model, part(batch, ALL, slice(cut, T)), one.state)
    same(torch.cat([one.features, two.features], 1), whole.features)
    same(two.state, whole.state)


def test_an_episode_that_begins_forgets_everything(model: WorldModel) -> None:
    batch, begin = random_batch(B, T), 3
    batch.first[:, begin] = True
    later = part(batch, ALL, slice(begin, T))
    whole, alone = observed(model, batch), observed(model, later)
    elsewhere = observed(model, random_batch(B, T, seed=5)).state
    after_another = observed(model, later, elsewhere)
    same(whole.features[:, begin:], alone.features)
    same(after_another.features, alone.features)
    assert_close(whole.state, alone.state)
    assert_close(after_another.state, alone.state)
    batch.action["button"][:, begin] = 2 - batch.action["button"][:, begin]
    batch.action["stick"][:, begin] += 1
    same(observed(model, batch).features, whole.features)  # nothing led to an episode's first observation


def test_the_past_matters_where_no_episode_begins(model: WorldModel) -> None:
    batch = random_batch(B, T)
    whole, alone = observed(model, batch), observed(model, part(batch, ALL, slice(3, T)))
    assert not torch.allclose(whole.features[:, 3:], alone.features, atol=1e-3)


def test_a_moment_knows_itself_and_its_past_alone(model: WorldModel) -> None:
    batch, t = random_batch(B, T), 4
    before = observed(model, batch).features
    for leaf, other in random_batch(B, T, seed=9).observation.items():
        batch.observation[leaf][:, t] = other[:, t]
    after = observed(model, batch).features
    same(before[:, :t], after[:, :t])
    assert not torch.allclose(before[:, t], after[:, t]) and not torch.allclose(before[:, t + 1], after[:, t + 1])


@pytest.mark.parametrize("leaf", ["button", "stick"])
def test_an_action_leads_to_its_own_moment(model: WorldModel, leaf: str) -> None:
    batch, t = random_batch(B, T), 4
    before = observed(model, batch).features
    batch.action[leaf][:, t] = (batch.action[leaf][:, t] + 1) % 3
    after = observed(model, batch).features
    assert_close(before[:, :t], after[:, :t])
    assert not torch.allclose(before[:, t], after[:, t])


def test_rows_of_a_batch_do_not_meet(model: WorldModel) -> None:
    batch = random_batch(B, T, first=True)
    together = observed(model, batch)
    noise = uniform(model)
    following, now, drawn = stepped(model, together.state, batch, 1, noise)
    for row in range(B):
        one = slice(row, row + 1)
        alone = observed(model, part(batch, one, ALL))
        same(together.features[one], alone.features)
        same({k: v[one] for k, v in together.state.items()}, alone.state)
        state, predicted, seen = stepped(model, alone.state, part(batch, one, ALL), 1, noise[one])
        same(now.features[one], predicted.features)
        same({k: v[one] for k, v in following.items()}, state)
        same({k: v[one] for k, v in drawn.items()}, seen)


def test_a_step_is_a_function_of_state_action_and_noise(model: WorldModel) -> None:
    batch = random_batch(B, T)
    state = observed(model, batch).state
    kept = {name: tensor.clone() for name, tensor in state.items()}
    one = stepped(model, state, batch, 0, uniform(model))
    assert_close(one, stepped(model, state, batch, 0, uniform(model)), atol=0, rtol=0)
    assert_close(stepped(model, state, batch, 0, None), stepped(model, state, batch, 0, None), atol=0, rtol=0)
    other = stepped(model, state, batch, 0, uniform(model, seed=1))
    assert not torch.equal(one[1].features, other[1].features)
    assert_close(state, kept, atol=0, rtol=0)


def test_losses_draw_from_the_generator_alone(model: WorldModel) -> None:
    batch = random_batch(B, T)

    def losses(ambient: int, seed: int) -> list[dict[str, Tensor]]:
        torch.manual_seed(ambient)
        return [model.losses(batch, torch.Generator().manual_seed(seed), stage).parts for stage in model.stages]

    assert_close(losses(0, 0), losses(1, 0), atol=0, rtol=0)
    assert losses(0, 0) != losses(0, 1)


def test_every_parameter_is_trained_in_some_stage(model: WorldModel) -> None:
    for stage in model.stages:
        losses = model.losses(random_batch(B, T, first=True), torch.Generator().manual_seed(0), stage)
        assert all(loss.isfinite() for loss in losses.parts.values())
        losses.total.backward()
    if len(model.stages) > 1:  # codes that depend on no network need no encoder
        del model.codec.categorical.in_proj
    untrained = [name for name, p in model.named_parameters() if p.numel() and (p.grad is None or not p.grad.any())]
    assert not untrained


def test_surprise_is_of_each_sequence(model: WorldModel) -> None:
    """Another observation or reward in one of them leaves the others' as it was."""
    batch = random_batch(4, T)
    before = model.losses(batch, torch.Generator().manual_seed(0), model.stages[-1]).surprise
    batch.reward[2] += 1.5
    for leaf, other in random_batch(4, T, seed=9).observation.items():
        batch.observation[leaf][2] = other[2]
    after = model.losses(batch, torch.Generator().manual_seed(0), model.stages[-1]).surprise
    assert before is not None and after is not None and before.shape == (4,)
    rows = [0, 3] if len(model.stages) > 1 else [0, 1, 3]  # row 1 is corrupted with codes of row 2
    assert_close(before[rows], after[rows])
    assert before[2] != after[2]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "space", [spaces.Discrete(4), spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.Box(-1, 1, (3,), np.float32)]
)
def test_observations_of_one_leaf(family: str, space: spaces.Space) -> None:
    model = built(FAMILIES[family], space, spaces.Discrete(2))
    (leaf,) = leaves(space)
    value = torch.from_numpy(np.zeros((2, 3, *leaf.shape), leaf.dtype))
    flags = torch.zeros(2, 3, dtype=torch.bool)
    batch = Batch({"value": value}, {"value": torch.zeros(2, 3, 1, dtype=torch.long)}, torch.zeros(2, 3), flags, flags)
    for stage in model.stages:
        assert model.losses(batch, torch.Generator().manual_seed(0), stage).total.isfinite()
    _, _, drawn = stepped(model, observed(model, batch).state, batch, 0, uniform(model, rows=2))
    assert (drawn["value"].shape, drawn["value"].dtype) == (value[:, 0].shape, value.dtype)
