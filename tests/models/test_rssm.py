"""The rssm family against DreamerV3's equations, written down once more, one block and one timestep at a time."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence
from torch.nn.functional import cosine_similarity, one_hot, rms_norm, silu
from torch.testing import assert_close

from tests.models.conftest import FAMILIES, built, random_batch
from tests.models.test_dynamics import followed
from worldsim.models.dynamics.recurrence import UnrolledStates, cell, follow, limits
from worldsim.models.dynamics.rssm import RSSM, BlockGRU
from worldsim.models.layers import sample

FREE, SCALE, UNIMIX = 0.6, 0.1, 0.01


def activated(x: Tensor, weight: Tensor) -> Tensor:
    return silu(rms_norm(x, x.shape[-1:], weight, 1e-4))


def recurrence(gru: BlockGRU, h: Tensor, z: Tensor, action: Tensor) -> Tensor:
    """One world's next h (W,): every block reads its own part of h and all three inputs (paper, v2)."""
    read_h = activated(gru.in_h.weight @ h + gru.in_bias[0], gru.in_norm[0])
    read_z = activated(gru.in_z.weight @ z + gru.in_bias[1], gru.in_norm[1])
    enter, norm = gru.action_hidden[0], gru.action_hidden[1]
    read_action = activated(enter.weight @ action + enter.bias, norm.weight)
    inputs = torch.cat([read_h, read_z, read_action])
    dense = torch.cat([gru.cell_in.weight, gru.action_in.weight], 1)
    blocks = len(gru.block_weight)
    size = len(h) // blocks
    parts = [slice(block * size, (block + 1) * size) for block in range(blocks)]
    joint = [
        torch.cat([gru.block_weight[block].T, dense[part]], 1) @ torch.cat([h[part], inputs]) + gru.action_in.bias[part]
        for block, part in enumerate(parts)
    ]
    inner = activated(torch.cat(joint), gru.norm)
    following = []
    for block, part in enumerate(parts):
        reset, update, value = (inner[part] @ gru.gates.weight[block] + gru.gates.bias[block]).chunk(3)
        share = torch.sigmoid(update)
        following.append(share * torch.tanh(torch.sigmoid(reset) * value) + (1 - share) * h[part])
    return torch.cat(following)


def posterior(gru: BlockGRU, h: Tensor, shown: Tensor) -> Tensor:
    return gru.logits_proj(activated(shown + gru.posterior_h(h), gru.posterior_norm))  # type: ignore[no-any-return]


def random_gru(blocks: int, codes: int = 6) -> BlockGRU:
    torch.manual_seed(blocks)
    gru = BlockGRU(width=16, codes=codes, actions=3, units=5, blocks=blocks)
    for parameter in gru.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return gru


@torch.no_grad()
@pytest.mark.parametrize("blocks", [1, 4])
def test_the_recurrence_is_the_papers(blocks: int) -> None:
    gru, h, z, action = random_gru(blocks), torch.randn(7, 16), torch.randn(7, 6), torch.randn(7, 3)
    expected = torch.stack([recurrence(gru, *row) for row in zip(h, z, action, strict=True)])
    assert_close(cell(gru.weights(torch.float32), h, z, gru.from_action(action)).h, expected, atol=1e-5, rtol=1e-4)


def test_the_update_gate_begins_a_logit_below_even() -> None:
    """The paper subtracts 1 from it; here that is where its bias begins."""
    bias = BlockGRU(width=16, codes=6, actions=3, units=5, blocks=4).gates.bias
    assert bias.tolist() == [[0.0] * 4 + [-1.0] * 4 + [0.0] * 4] * 4


ROWS, LENGTH, LATENTS, CLASSES = 3, 5, 4, 3


class Sequence:
    """Random inputs of the loop, that autograd may ask about."""

    def __init__(self, blocks: int, kind: torch.dtype):
        self.gru = random_gru(blocks, LATENTS * CLASSES).to(kind)
        self.h = torch.randn(ROWS, 16, dtype=kind, requires_grad=True)
        self.z = torch.randn(ROWS, LATENTS * CLASSES, dtype=kind, requires_grad=True)
        self.shown = torch.randn(ROWS, LENGTH, 5, dtype=kind, requires_grad=True)
        self.actions = torch.randn(ROWS, LENGTH, 3, dtype=kind)
        self.keep = (torch.rand(ROWS, LENGTH, 1) > 0.3).to(kind)
        self.keep[:2, 0] = torch.tensor([[0.0], [1.0]])
        self.uniform = torch.rand(ROWS, LENGTH, LATENTS, dtype=kind)
        self.asked = {"h": self.h, "z": self.z, "shown": self.shown, **dict(self.gru.named_parameters())}
        self.weighing = [torch.randn(ROWS, LENGTH, size, dtype=kind) for size in (16, 12, 12)]

    def loop(self, kind: torch.dtype) -> UnrolledStates:
        drive, limited = self.gru.from_action(self.actions).to(kind), limits(self.uniform, CLASSES, UNIMIX)
        shown = self.shown.to(kind)
        return follow(self.gru.weights(kind), (self.h, self.z), self.keep, drive, shown, limited, LATENTS, UNIMIX)

    def plainly(self) -> UnrolledStates:
        h, z, timesteps = self.h, self.z, []
        for t in range(LENGTH):
            rows = zip(h * self.keep[:, t], z * self.keep[:, t], self.actions[:, t], strict=True)
            h = torch.stack([recurrence(self.gru, *row) for row in rows])
            scores = posterior(self.gru, h, self.shown[:, t])
            probs = mixed(scores, LATENTS).probs
            z = one_hot(sample(probs.detach().log(), self.uniform[:, t]), CLASSES) + (probs - probs.detach())
            z = z.flatten(1)
            timesteps.append((h, z, scores))
        return UnrolledStates(*(torch.stack(parts, 1) for parts in zip(*timesteps, strict=True)))

    def gradients(self, timesteps: UnrolledStates) -> dict[str, Tensor]:
        loss = sum((part * weight).sum() for part, weight in zip(timesteps, self.weighing, strict=True))
        return dict(zip(self.asked, torch.autograd.grad(loss, list(self.asked.values())), strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("blocks", [1, 4])
def test_the_way_back_is_autograds_through_the_plain_loop(blocks: int) -> None:
    """Values and gradients by everything that goes in, where timesteps draw, forget and follow."""
    given = Sequence(blocks, torch.float64)
    found, expected = given.loop(torch.float64), given.plainly()
    assert_close(found, expected)
    assert_close(given.gradients(found), given.gradients(expected))


def test_in_bf16_the_loop_teaches_about_the_same() -> None:
    given = Sequence(4, torch.float32)
    plain = given.gradients(given.plainly())
    for name, gradient in given.gradients(given.loop(torch.bfloat16)).items():
        assert gradient.dtype == torch.float32
        assert cosine_similarity(gradient.flatten(), plain[name].flatten(), 0) > 0.99, name


def mixed(scores: Tensor, latents: int) -> Categorical:
    logits = Categorical(logits=scores.unflatten(-1, (latents, -1)))
    return Categorical(probs=(1 - UNIMIX) * logits.probs + UNIMIX / logits.probs.shape[-1])


@torch.no_grad()
def test_observing_is_the_papers_loop_with_balanced_and_clipped_divergences() -> None:
    """The posterior's mode is followed; divergences are torch's own, in nats summed over the latents."""
    config = FAMILIES["rssm"].model_copy(update={"free_nats": FREE, "unimix": UNIMIX, "representation_scale": SCALE})
    model, batch = built(config), random_batch(3, 6, first=True)
    dynamics = model.dynamics
    assert isinstance(dynamics, RSSM)
    embeds = model.codec.encode({name: value.flatten(0, 1) for name, value in batch.observation.items()})
    seen, actions = torch.cat([part.flatten(1) for part in embeds], -1).unflatten(0, (3, 6)), model.act(batch.action)
    found = followed(model, batch)
    h, z = torch.zeros(3, config.width), torch.zeros(3, config.latents * config.latent_classes)
    clipped = set()
    for t in range(6):
        keep = 1.0 - batch.first[:, t : t + 1].float()
        rows = zip(h * keep, z * keep, actions[:, t] * keep, strict=True)
        h = torch.stack([recurrence(dynamics.gru, *row) for row in rows])
        told = mixed(posterior(dynamics.gru, h, dynamics.obs_proj(seen[:, t])), config.latents)
        prior = mixed(dynamics.prior(h), config.latents)
        z = one_hot(told.probs.argmax(-1), config.latent_classes).float().flatten(1)
        assert_close(found.features[:, t], torch.cat([h, z], -1), atol=1e-5, rtol=1e-4)
        divergence = kl_divergence(told, prior).sum(-1)
        clipped |= set((divergence < FREE).tolist())
        loss = divergence.clamp_min(FREE) * keep[:, 0]
        assert_close(found.losses["dynamics"][:, t], loss, atol=1e-4, rtol=1e-4)
        assert_close(found.losses["representation"][:, t], SCALE * loss, atol=1e-4, rtol=1e-4)
    assert clipped == {True, False}, "the bound should matter for some timesteps, not for all"


@torch.no_grad()
def test_a_step_that_nobody_draws_does_nothing_for_the_decoder() -> None:
    model, batch = built(FAMILIES["rssm"]), random_batch(2, 1)
    del model.dynamics.slots_proj
    action = {name: value[:, 0] for name, value in batch.action.items()}
    state, now = model.step(model.initial(2), action, None)
    assert now.features.shape == (2, model.dynamics.feature_width)
    with pytest.raises(AttributeError, match="slots_proj"):
        model.decode(state)
