"""The rssm family against DreamerV3's equations, written down once more, one block and one moment at a time."""

import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence
from torch.nn.functional import layer_norm, silu
from torch.testing import assert_close

from tests.models.conftest import FAMILIES, built, random_batch
from worldsim.models.dynamics.rssm import RSSM, BlockGRU

FREE, SCALE, UNIMIX = 0.6, 0.1, 0.01


def recurrence(gru: BlockGRU, h: Tensor, z: Tensor, action: Tensor) -> Tensor:
    """One world's next h (W,): every block reads its own part of h and all three inputs (paper, v2)."""
    inputs = torch.cat([gru.read_h(h), gru.read_z(z), gru.read_action(action)])
    dense = torch.cat([gru.tell.weight, gru.tell_action.weight], 1)
    size = len(h) // gru.blocks
    parts = [slice(block * size, (block + 1) * size) for block in range(gru.blocks)]
    joint = [
        torch.cat([gru.own.weight[b].T, dense[part]], 1) @ torch.cat([h[part], inputs])
        + gru.own.bias[b]
        + gru.tell.bias[part]
        for b, part in enumerate(parts)
    ]
    inner = silu(layer_norm(torch.cat(joint), (len(h),), gru.norm.weight, gru.norm.bias))
    following = []
    for block, part in enumerate(parts):
        reset, value, update = (inner[part] @ gru.gates.weight[block] + gru.gates.bias[block]).chunk(3)
        share = torch.sigmoid(update - 1)
        following.append(share * torch.tanh(torch.sigmoid(reset) * value) + (1 - share) * h[part])
    return torch.cat(following)


@torch.no_grad()
def test_the_recurrence_is_the_papers() -> None:
    torch.manual_seed(0)
    for blocks in (1, 4):
        gru = BlockGRU(width=16, codes=6, actions=3, units=5, blocks=blocks)
        for parameter in gru.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        h, z, action = torch.randn(7, 16), torch.randn(7, 6), torch.randn(7, 3)
        expected = torch.stack([recurrence(gru, *row) for row in zip(h, z, action, strict=True)])
        assert_close(gru(h, z, gru.drive(action)), expected, atol=1e-5, rtol=1e-4)


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
    found = model.observe(batch.observation, batch.action, batch.first)
    h, z = torch.zeros(3, config.width), torch.zeros(3, config.latents * config.latent_classes)
    clipped = set()
    for t in range(6):
        keep = 1.0 - batch.first[:, t : t + 1].float()
        rows = zip(h * keep, z * keep, actions[:, t] * keep, strict=True)
        h = torch.stack([recurrence(dynamics.recur, *row) for row in rows])
        posterior = mixed(dynamics.posterior(dynamics.see(seen[:, t]) + dynamics.recall(h)), config.latents)
        prior = mixed(dynamics.prior(h), config.latents)
        z = torch.nn.functional.one_hot(posterior.probs.argmax(-1), config.latent_classes).float().flatten(1)
        assert_close(found.latent.features[:, t], torch.cat([h, z], -1), atol=1e-5, rtol=1e-4)
        divergence = kl_divergence(posterior, prior).sum(-1)
        clipped |= set((divergence < FREE).tolist())
        loss = divergence.clamp_min(FREE) * keep[:, 0]
        assert_close(found.losses["dynamics"][:, t], loss, atol=1e-4, rtol=1e-4)
        assert_close(found.losses["representation"][:, t], SCALE * loss, atol=1e-4, rtol=1e-4)
    assert clipped == {True, False}, "the bound should matter for some moments, not for all"
