"""What latent dynamics must hold to beside what every family must (test_families). B worlds, T timesteps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from tests.models.conftest import LATENT, built, random_batch
from worldsim.models.conformance import part
from worldsim.models.dynamics import SequenceOutput, StepOutput
from worldsim.models.latent import CODEC, DYNAMICS, WHOLE, LatentWorldModel
from worldsim.models.world_model import Batch, Stage, State

B, T = 3, 7
ALL = slice(None)


def followed(model: LatentWorldModel, batch: Batch, state: State | None = None) -> SequenceOutput:
    flat = {name: value.flatten(0, 1) for name, value in batch.observation.items()}
    with torch.no_grad():
        embeds = model.codec.encode(flat)
        embeds = type(embeds)(*(each.unflatten(0, batch.first.shape) for each in embeds))
        categorical = model.codec.categorical.indices(flat).unflatten(0, batch.first.shape)
        start = model.initial(len(batch.first)) if state is None else state
        return model.dynamics.observe(start, embeds, categorical, model.act(batch.action), batch.first, None)


def stepped(
    model: LatentWorldModel, state: State, batch: Batch, t: int, noise: Tensor | None, min_p: float = 0.0
) -> tuple[State, StepOutput]:
    with torch.no_grad():
        action = model.act({name: value[:, t] for name, value in batch.action.items()})
        return model.dynamics.step(state, action, noise, min_p)


def past(model: LatentWorldModel, features: Tensor) -> Tensor:
    return features[..., : model.dynamics.past_width]


def uniform(model: LatentWorldModel) -> Tensor:
    return torch.rand(B, model.noise_size, generator=torch.Generator().manual_seed(0))


def test_slots_are_those_that_the_decoder_takes(latent_model: LatentWorldModel) -> None:
    dynamics, codec = latent_model.dynamics, latent_model.codec
    seen = followed(latent_model, random_batch(B, T))
    variables, slots = codec.categorical.slots, sum(codec.sizes)
    assert (variables, slots) == (5, 2 * 3 + 1 + 1)
    width = dynamics.categorical_features or codec.categorical.classes
    with torch.no_grad():
        sequence, last = dynamics.slots_of(seen), dynamics.for_decoder(seen.state)
    assert sequence.categorical.shape == (B, T, variables, width)
    assert sequence.dense.shape == (B, T, slots, dynamics.dense_features)
    assert_close([part[:, -1].float() for part in sequence], [part.float() for part in last])
    assert seen.losses and all(loss.shape == (B, T) and loss.isfinite().all() for loss in seen.losses.values())


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(LATENT)), st.integers(1, T - 1), st.booleans(), st.integers(0, 99))
def test_losses_in_one_go_or_in_two_pieces(family: str, cut: int, first: bool, seed: int) -> None:
    model = built(LATENT[family])
    assert isinstance(model, LatentWorldModel)
    batch = random_batch(B, T, seed, first)
    whole = followed(model, batch)
    one = followed(model, part(batch, ALL, slice(0, cut)))
    two = followed(model, part(batch, ALL, slice(cut, T)), one.state)
    for name, loss in whole.losses.items():
        assert_close(torch.cat([one.losses[name], two.losses[name]], 1), loss, atol=1e-4, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(LATENT)), st.integers(1, T - 1), st.booleans(), st.integers(0, 99))
def test_a_step_remembers_what_observing_remembers(family: str, cut: int, first: bool, seed: int) -> None:
    model = built(LATENT[family])
    assert isinstance(model, LatentWorldModel)
    batch = random_batch(B, T, seed, first)
    batch.first[:, cut] = False
    whole = followed(model, batch)
    before = followed(model, part(batch, ALL, slice(0, cut))).state
    _, now = stepped(model, before, batch, cut, uniform(model))
    assert_close(past(model, now.features), past(model, whole.features[:, cut]), atol=1e-5, rtol=1e-4)


def test_nothing_predicts_an_episodes_first_moment(latent_model: LatentWorldModel) -> None:
    batch, begin = random_batch(B, T), 3
    batch.first[:, begin] = True
    assert all((loss[:, begin] == 0).all() for loss in followed(latent_model, batch).losses.values())


def test_the_past_does_not_know_the_present(latent_model: LatentWorldModel) -> None:
    batch, t = random_batch(B, T), 4
    before = followed(latent_model, batch)
    for leaf, other in random_batch(B, T, seed=9).observation.items():
        batch.observation[leaf][:, t] = other[:, t]
    after = followed(latent_model, batch)
    assert_close(*(past(latent_model, seen.features[:, : t + 1]) for seen in (before, after)))
    assert not torch.allclose(before.features[:, t], after.features[:, t])  # but the features do


def test_without_noise_the_most_probable_future(latent_model: LatentWorldModel) -> None:
    batch = random_batch(B, T)
    state = followed(latent_model, batch).state
    mode, likely = stepped(latent_model, state, batch, 0, None)
    strict, only = stepped(latent_model, state, batch, 0, uniform(latent_model), min_p=0.999999)
    assert_close((mode, likely), (strict, only._replace(entropy=likely.entropy)), atol=0, rtol=0)
    assert only.entropy.tolist() == pytest.approx([0] * B, abs=1e-5)  # nothing was left open


def gradients(model: LatentWorldModel, stage: Stage) -> dict[str, float]:
    """Size of the gradient in each part of the model."""
    model.zero_grad()
    model.losses(random_batch(B, T, first=True), torch.Generator().manual_seed(0), stage).total.backward()
    return {
        name: sum(p.grad.abs().sum().item() for p in module.parameters() if p.grad is not None)
        for name, module in [*model.named_children(), ("encoder", model.codec.dense[0].in_proj)]
    }


def test_gradients_reach_what_a_stage_trains(latent_model: LatentWorldModel) -> None:
    every = ("codec", "encoder", "dynamics", "reward", "termination", "ensemble")
    if latent_model.stages == (WHOLE,):
        whole = gradients(latent_model, WHOLE)
        assert all(whole[name] > 0 for name in every), whole
        with pytest.raises(TypeError, match="not trained in two stages"):
            gradients(latent_model, CODEC)
        return
    codec, dynamics = gradients(latent_model, CODEC), gradients(latent_model, DYNAMICS)
    assert codec["encoder"] > 0 and codec["reward"] == codec["termination"] == codec["ensemble"] == 0
    assert dynamics["codec"] == 0
    assert min(dynamics[name] for name in ("dynamics", "reward", "termination", "ensemble")) > 0


def test_predicting_does_not_move_the_codes_that_are_predicted(latent_model: LatentWorldModel) -> None:
    """The target of the dynamics loss is taken as it is; DreamerV3's representation loss alone moves the posterior."""
    model, batch, t = latent_model, random_batch(B, T), 4
    flat = {name: value.flatten(0, 1) for name, value in batch.observation.items()}
    embeds = model.codec.encode(flat)
    embeds = type(embeds)(*(e.detach().float().unflatten(0, (B, T)).requires_grad_() for e in embeds))
    categorical = model.codec.categorical.indices(flat).unflatten(0, (B, T))
    seen = model.dynamics.observe(
        model.initial(B), embeds, categorical, model.act(batch.action), batch.first, torch.Generator().manual_seed(0)
    )
    for name, loss in seen.losses.items():
        if not loss.requires_grad:
            continue
        grads = torch.autograd.grad(loss[:, t].sum(), embeds, retain_graph=True, allow_unused=True)
        present = sum(g[:, t].abs().sum().item() for g in grads if g is not None)
        assert (present > 0) == (name == "representation"), name
    grads = torch.autograd.grad(model.dynamics.slots_of(seen).dense[:, t].sum(), embeds, allow_unused=True)
    assert sum(g[:, t].abs().sum().item() for g in grads if g is not None) > 0
