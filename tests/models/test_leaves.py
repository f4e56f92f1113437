"""Observations to slots and back: exact where it is only a change of shape, and learned where it is not."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from tests.models.conftest import FAMILIES, NESTED, built, random_batch
from worldsim.models.config import SSMConfig
from worldsim.models.conformance import part
from worldsim.models.leaves import Slots
from worldsim.models.leaves.action import ActionEncoder
from worldsim.models.leaves.categorical import CategoricalCodec
from worldsim.models.leaves.image import ImageCodec
from worldsim.spaces import Leaf, leaves, unflatten


def image(height: int, width: int, channels: int, patch: int, local: bool = False) -> ImageCodec:
    leaf = Leaf((), spaces.Box(0, 255, (height, width, channels), np.uint8))
    return ImageCodec(leaf, SSMConfig(patch=patch, embed=8, hidden=12, local=local), features=4)


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 40), st.integers(8, 40), st.sampled_from([1, 3, 4]), st.integers(2, 12))
def test_patches_are_cut_and_joined_exactly(height: int, width: int, channels: int, patch: int) -> None:
    codec = image(height, width, channels, patch)
    frames = torch.rand(2, height, width, channels)
    patches = codec.patches(frames)
    assert patches.shape == (codec.slots, 2, patch * patch * channels)
    assert torch.equal(codec.frames(patches), frames)
    top_left = patches[0, 0].view(patch, patch, channels)[: min(patch, height), : min(patch, width)]
    assert torch.equal(top_left, frames[0, :patch, :patch])


@pytest.mark.parametrize("local", [False, True])
def test_a_frame_is_seen_relative_to_the_mean_image(local: bool) -> None:
    codec = image(9, 11, 3, 4, local)
    codec.mean.copy_(torch.randint(0, 256, (9, 11, 3)) / 255)
    frames = torch.randint(0, 256, (2, 9, 11, 3), dtype=torch.uint8)
    centred = 2 * (codec.patches(frames / 255) - codec.mean_patches())
    expected = codec.out_proj(torch.nn.functional.silu(codec.in_proj(centred) + codec.position))
    assert_close(codec.encode(frames), expected.transpose(0, 1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("local", [False, True])
def test_only_a_local_codec_treats_places_differently(local: bool) -> None:
    """Told the same of their place and given the same codes, places differ by their weights alone."""
    codec = image(16, 16, 3, 8, local)
    torch.nn.init.normal_(codec.decoder[-1].weight)
    for parameter in (codec.position, codec.decoder_in_proj, codec.decoder_position):
        parameter.data.copy_(parameter.data[:1].expand_as(parameter))
    frames = torch.randint(0, 256, (1, 8, 8, 3), dtype=torch.uint8).repeat(1, 2, 2, 1)
    seen, drawn = codec.encode(frames)[0], codec.residual(torch.randn(1, 1, 4).expand(-1, 4, -1))[:, 0]
    for places in (seen, drawn):
        assert ((places - places[:1]).abs().amax(1)[1:] < 1e-5).all() != local


def test_an_untaught_decoder_draws_the_mean_image() -> None:
    codec = image(9, 11, 1, 8)
    codec.mean.copy_(torch.rand(9, 11, 1))
    drawn = codec.decode(torch.randn(2, codec.slots, 4))
    assert torch.equal(drawn, (codec.mean * 255).round().to(torch.uint8).expand(2, -1, -1, -1))


@pytest.mark.parametrize("local", [False, True])
def test_the_loss_of_a_frame_is_what_it_says_and_so_is_its_gradient(local: bool) -> None:
    codec = image(9, 11, 3, 4, local).double()
    torch.nn.init.normal_(codec.decoder[-1].weight)
    codec.mean.copy_(torch.full((9, 11, 3), 0.4))
    frames = torch.randint(0, 256, (40, 9, 11, 3), dtype=torch.uint8)
    slots = torch.randn(40, codec.slots, 4, dtype=torch.float64, requires_grad=True)
    target = codec.patches(frames / 255).double() - codec.mean_patches()
    weight = 1 + 9 * (target.abs() > 0.05)
    expected = (weight * (codec.residual(slots) - target).square()).sum((0, 2))
    loss = codec.loss(slots, frames)
    assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    (grad,), (reference,) = (torch.autograd.grad(x.sum(), slots, retain_graph=True) for x in (loss, expected))
    assert_close(grad, reference, rtol=1e-5, atol=1e-5)


def test_classes_that_a_variable_does_not_have_are_never_drawn() -> None:
    leaf = Leaf((), spaces.MultiDiscrete([2, 7, 1, 4]))
    codec = CategoricalCodec((leaf,), embed=4, features=7)
    logits = torch.zeros(50, 4, 7)
    logits[..., -1] = 100.0  # what none but the second has
    with torch.no_grad():
        codec.out_proj.weight.copy_(torch.eye(7))
    log_probs = codec.possible(codec.out_proj(logits))
    assert_close(log_probs.exp().sum(-1), torch.ones(50, 4))
    for variable, count in enumerate(leaf.nvec):
        assert (log_probs[:, variable, count:].exp() == 0).all()
    assert (codec.decode(logits)["value"] < torch.from_numpy(leaf.nvec)).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_imagination_stays_in_the_space(family: str) -> None:
    """Random weights, random states, every quantile of the noise: what comes out is a member of the space."""
    model = built(FAMILIES[family])
    batch = random_batch(12, 2)
    with torch.no_grad():
        state = model.observe(batch.observation, batch.action, batch.first).state
        noise = torch.rand(12, model.noise_size)
        noise[0], noise[1] = 0.0, 1 - 2**-24
        action = {name: value[:, 0] for name, value in batch.action.items()}
        flat = model.decode(model.step(state, action, noise)[0])
    for row in range(12):
        arrays = {name: value[row].numpy() for name, value in flat.items()}
        assert [arrays[leaf.name].dtype for leaf in leaves(NESTED)] == [leaf.dtype for leaf in leaves(NESTED)]
        for leaf in leaves(NESTED):
            assert not leaf.is_discrete or (arrays[leaf.name] < leaf.nvec).all()
        assert NESTED.contains(unflatten(NESTED, arrays))


def test_a_codec_learns_to_give_back_what_it_was_shown() -> None:
    torch.manual_seed(0)
    model = FAMILIES["ssm"].model_copy(update={"variables": 6}).build(NESTED, spaces.Discrete(2), (0.0, 1.0))
    shown = part(random_batch(8, 1), slice(None), slice(0, 1)).observation
    flat = {name: value.flatten(0, 1) for name, value in shown.items()}
    for name in ("grey", "scene/0"):  # patches of one colour each
        flat[name] = flat[name][:, :1, :1].expand_as(flat[name]).contiguous()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, fused=True)

    def drawn() -> Slots:
        return model.dynamics.recode(model.codec.encode(flat), model.codec.categorical.indices(flat))

    for _ in range(400):
        optimizer.zero_grad()
        torch.stack([loss.mean() for loss in model.codec.loss(drawn(), flat).values()]).sum().backward()
        optimizer.step()
    with torch.no_grad():
        again = model.codec.decode(drawn())
    assert again.keys() == flat.keys()
    for name in ("mode", "note"):
        assert torch.equal(again[name], flat[name])
    for name in ("grey", "scene/0"):
        assert (again[name].float() - flat[name].float()).abs().mean() < 8
    assert (again["scene/1"] - flat["scene/1"]).abs().mean() < 0.15


def test_actions_are_onehots_and_symlogs() -> None:
    space = spaces.Dict(a=spaces.MultiDiscrete([2, 3]), b=spaces.Box(-9, 9, (2,), np.float32))
    encode = ActionEncoder(leaves(space), width=8)
    encoded = encode({"a": torch.tensor([[1, 2]]), "b": torch.tensor([[-1.0, 0.0]])})
    assert_close(encoded, torch.tensor([[0, 1, 0, 0, 1, -np.log(2), 0]], dtype=torch.float32))
    assert encode.width == 7
