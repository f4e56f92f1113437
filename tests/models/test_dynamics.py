"""What every family of dynamics must hold to, whatever it is inside. B worlds, T moments."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from tests.models.conftest import FAMILIES, built, part, random_batch
from worldsim.models.dynamics import Latent, Observed, State
from worldsim.models.world_model import Batch, Part, WorldModel
from worldsim.spaces import leaves

B, T = 3, 7
ALL = slice(None)


def observed(model: WorldModel, batch: Batch, state: State | None = None) -> Observed:
    with torch.no_grad():
        return model.observe(batch.observation, batch.action, batch.first, state)


def stepped(
    model: WorldModel, state: State, batch: Batch, t: int, noise: Tensor | None, min_p: float = 0.0
) -> tuple[State, Latent]:
    with torch.no_grad():
        action = model.act({name: value[:, t] for name, value in batch.action.items()})
        return model.dynamics.step(state, action, noise, min_p)


def past(model: WorldModel, features: Tensor) -> Tensor:
    return features[..., : model.dynamics.past_width]


def uniform(model: WorldModel, rows: int = B, seed: int = 0) -> Tensor:
    return torch.rand(rows, model.dynamics.noise_size, generator=torch.Generator().manual_seed(seed))


def same(model: WorldModel, a: Observed, b: Observed, times: slice = ALL) -> None:
    assert_close(a.latent.features[:, times], b.latent.features[:, times], atol=1e-5, rtol=1e-4)
    drawn_from = (model.dynamics.for_decoder(seen.latent) for seen in (a, b))
    for one, other in zip(*drawn_from, strict=True):
        assert_close(one[:, times], other[:, times], atol=1e-5, rtol=1e-4)


def test_shapes_are_those_of_the_contract(model: WorldModel) -> None:
    dynamics, codec = model.dynamics, model.codec
    seen = observed(model, random_batch(B, T))
    slots_seen = dynamics.for_decoder(seen.latent)
    variables, slots = codec.categorical.slots, sum(codec.sizes)
    assert (variables, slots) == (5, 2 * 3 + 1 + 1)
    assert seen.latent.features.shape == (B, T, dynamics.feature_width)
    width = codec.categorical.features
    assert slots_seen.categorical.shape == (B, T, variables, width)
    assert slots_seen.dense.shape == (B, T, slots, dynamics.dense_features)
    assert seen.losses and all(loss.shape == (B, T) and loss.isfinite().all() for loss in seen.losses.values())
    state, now = stepped(model, seen.state, random_batch(B, T), 0, uniform(model))
    assert now.features.shape == (B, dynamics.feature_width)
    assert now.entropy is not None and now.entropy.shape == (B,) and (now.entropy >= 0).all()
    assert [s.shape for s in dynamics.for_decoder(now)] == [s.shape[:1] + s.shape[2:] for s in slots_seen]
    for name, tensor in dynamics.initial(B).items():
        assert tensor.shape == seen.state[name].shape == state[name].shape and len(tensor) == B, name
        assert tensor.dtype == seen.state[name].dtype == state[name].dtype, name


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(FAMILIES)), st.integers(1, T - 1), st.booleans(), st.integers(0, 99))
def test_in_one_go_or_in_two_pieces(family: str, cut: int, first: bool, seed: int) -> None:
    model = built(FAMILIES[family])
    batch = random_batch(B, T, seed, first)
    whole = observed(model, batch)
    one = observed(model, part(batch, ALL, slice(0, cut)))
    two = observed(model, part(batch, ALL, slice(cut, T)), one.state)
    assert_close(torch.cat([one.latent.features, two.latent.features], 1), whole.latent.features, atol=1e-5, rtol=1e-4)
    for name, loss in whole.losses.items():
        assert_close(torch.cat([one.losses[name], two.losses[name]], 1), loss, atol=1e-4, rtol=1e-4)
    assert_close(two.state, whole.state, atol=1e-5, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(FAMILIES)), st.integers(1, T - 1), st.booleans(), st.integers(0, 99))
def test_a_step_remembers_what_observing_remembers(family: str, cut: int, first: bool, seed: int) -> None:
    model = built(FAMILIES[family])
    batch = random_batch(B, T, seed, first)
    batch.first[:, cut] = False
    whole = observed(model, batch)
    before = observed(model, part(batch, ALL, slice(0, cut))).state
    _, now = stepped(model, before, batch, cut, uniform(model))
    assert_close(past(model, now.features), past(model, whole.latent.features[:, cut]), atol=1e-5, rtol=1e-4)


def test_an_episode_that_begins_forgets_everything(model: WorldModel) -> None:
    batch, begin = random_batch(B, T), 3
    batch.first[:, begin] = True
    later = part(batch, ALL, slice(begin, T))
    whole, alone = observed(model, batch), observed(model, later)
    elsewhere = observed(model, random_batch(B, T, seed=5)).state
    after_another = observed(model, later, elsewhere)
    same(model, alone, after_another)
    assert_close(whole.latent.features[:, begin:], alone.latent.features)
    assert_close(whole.state, alone.state)
    assert_close(after_another.state, alone.state)
    batch.action["button"][:, begin] = 2 - batch.action["button"][:, begin]
    batch.action["stick"][:, begin] += 1
    same(model, observed(model, batch), whole)  # nothing led to an episode's first observation
    assert all((loss[:, begin] == 0).all() for loss in whole.losses.values())  # and nothing could foresee it


def test_the_past_matters_where_no_episode_begins(model: WorldModel) -> None:
    batch = random_batch(B, T)
    whole = observed(model, batch)
    alone = observed(model, part(batch, ALL, slice(3, T)))
    assert not torch.allclose(whole.latent.features[:, 3:], alone.latent.features, atol=1e-3)


def test_the_past_does_not_know_the_present(model: WorldModel) -> None:
    batch, t = random_batch(B, T), 4
    before = observed(model, batch)
    for leaf, other in random_batch(B, T, seed=9).observation.items():
        batch.observation[leaf][:, t] = other[:, t]
    after = observed(model, batch)
    same(model, before, after, slice(0, t))
    known = [past(model, seen.latent.features[:, : t + 1]) for seen in (before, after)]
    assert_close(*known)
    assert not torch.allclose(before.latent.features[:, t], after.latent.features[:, t])  # but the features do
    assert not torch.allclose(before.latent.features[:, t + 1], after.latent.features[:, t + 1])


@pytest.mark.parametrize("leaf", ["button", "stick"])
def test_an_action_leads_to_its_own_moment(model: WorldModel, leaf: str) -> None:
    batch, t = random_batch(B, T), 4
    before = observed(model, batch).latent.features
    batch.action[leaf][:, t] = (batch.action[leaf][:, t] + 1) % 3
    after = observed(model, batch).latent.features
    assert_close(before[:, :t], after[:, :t])
    assert not torch.allclose(past(model, before[:, t]), past(model, after[:, t]))


def test_rows_of_a_batch_do_not_meet(model: WorldModel) -> None:
    batch = random_batch(B, T, first=True)
    together = observed(model, batch)
    noise = uniform(model)
    following, now = stepped(model, together.state, batch, 1, noise)
    for row in range(B):
        one = slice(row, row + 1)
        alone = observed(model, part(batch, one, ALL))
        assert_close(together.latent.features[one], alone.latent.features, atol=1e-5, rtol=1e-4)
        assert_close({k: v[one] for k, v in together.state.items()}, alone.state, atol=1e-5, rtol=1e-4)
        follows, new = stepped(model, alone.state, part(batch, one, ALL), 1, noise[one])
        assert_close(now.features[one], new.features, atol=1e-5, rtol=1e-4)
        assert_close({k: v[one] for k, v in following.items()}, follows, atol=1e-5, rtol=1e-4)


def test_a_step_is_a_function_of_state_action_and_noise(model: WorldModel) -> None:
    batch = random_batch(B, T)
    state = observed(model, batch).state
    kept = {name: tensor.clone() for name, tensor in state.items()}
    one = stepped(model, state, batch, 0, uniform(model))
    again = stepped(model, state, batch, 0, uniform(model))
    other = stepped(model, state, batch, 0, uniform(model, seed=1))
    assert_close(one, again, atol=0, rtol=0)
    assert not torch.equal(one[1].features, other[1].features)
    assert_close(state, kept, atol=0, rtol=0)


def test_without_noise_the_most_probable_future(model: WorldModel) -> None:
    batch = random_batch(B, T)
    state = observed(model, batch).state
    mode, likely = stepped(model, state, batch, 0, None)
    strict, only = stepped(model, state, batch, 0, uniform(model), min_p=0.999999)
    assert_close((mode, likely), (strict, only._replace(entropy=likely.entropy)), atol=0, rtol=0)
    assert only.entropy.tolist() == pytest.approx([0] * B, abs=1e-5)  # nothing was left open


def test_observing_draws_from_the_generator_alone(model: WorldModel) -> None:
    batch = random_batch(B, T)

    def losses(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return model.losses(batch, torch.Generator().manual_seed(0)).parts

    assert_close(losses(0), losses(1), atol=0, rtol=0)
    same(model, observed(model, batch), observed(model, batch))


def gradients(model: WorldModel, what: Part) -> dict[str, float]:
    """Size of the gradient in each part of the model."""
    model.zero_grad()
    model.losses(random_batch(B, T, first=True), torch.Generator().manual_seed(0), what).total.backward()
    return {
        name: sum(p.grad.abs().sum().item() for p in module.parameters() if p.grad is not None)
        for name, module in [*model.named_children(), ("encoder", model.codec.dense[0].in_proj)]
    }


def test_gradients_reach_what_they_teach(model: WorldModel) -> None:
    whole = gradients(model, "all")
    assert all(whole[name] > 0 for name in ("codec", "encoder", "dynamics", "reward", "termination", "ensemble")), whole
    if not model.dynamics.separable:
        with pytest.raises(TypeError, match="not separable"):
            gradients(model, "codec")
        return
    codec, rest = gradients(model, "codec"), gradients(model, "rest")
    assert codec["encoder"] > 0 and codec["reward"] == codec["termination"] == codec["ensemble"] == 0
    assert rest["codec"] == 0 and min(rest[name] for name in ("dynamics", "reward", "termination", "ensemble")) > 0


def test_foreseeing_does_not_move_the_codes_it_foresees(model: WorldModel) -> None:
    """The target of the dynamics loss is taken as it is; DreamerV3's representation loss alone moves the posterior."""
    batch, t = random_batch(B, T), 4
    flat = {name: value.flatten(0, 1) for name, value in batch.observation.items()}
    embeds = model.codec.encode(flat)
    embeds = type(embeds)(*(e.detach().unflatten(0, (B, T)).requires_grad_() for e in embeds))
    record = model.codec.categorical.indices(flat).unflatten(0, (B, T))
    state = model.dynamics.initial(B)
    seen = model.dynamics.observe(
        state, embeds, record, model.act(batch.action), batch.first, torch.Generator().manual_seed(0)
    )
    for name, loss in seen.losses.items():
        if not loss.requires_grad:
            continue
        grads = torch.autograd.grad(loss[:, t].sum(), embeds, retain_graph=True, allow_unused=True)
        present = sum(g[:, t].abs().sum().item() for g in grads if g is not None)
        assert (present > 0) == (name == "representation"), name
    grads = torch.autograd.grad(model.dynamics.for_decoder(seen.latent).dense[:, t].sum(), embeds, allow_unused=True)
    assert sum(g[:, t].abs().sum().item() for g in grads if g is not None) > 0


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
    assert model.losses(batch, torch.Generator().manual_seed(0)).total.isfinite()
    _, now = stepped(model, observed(model, batch).state, batch, 0, uniform(model, rows=2))
    decoded = model.codec.decode(model.dynamics.for_decoder(now))["value"]
    assert (decoded.shape, decoded.dtype) == (value[:, 0].shape, value.dtype)
