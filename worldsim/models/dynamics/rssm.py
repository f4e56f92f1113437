"""The `rssm` family: DreamerV3's recurrent state-space model (arXiv:2301.04104v2).

A recurrent state h carries the past. From h alone the prior foretells the latents z, categorical variables; the
posterior reads them off h and the observation. Prior and posterior are pulled towards each other at two speeds (KL
balance), and no further than `free_nats`. Everything is drawn from h and z.

What does not depend on the recurrence (the observation's and the action's share, the prior, log-probabilities) is
computed for all moments at once, outside of the loop over time.

Axes: B batch, T time, V categorical variables of the observation, S its patches and vectors, A action, K latents,
C their classes, W width of h, U units of a hidden layer, Z = K*C, N uniform numbers.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Generator, Tensor, nn

from worldsim.models.codec import Slots
from worldsim.models.config import RSSMConfig
from worldsim.models.dynamics.base import Dynamics, Latent, Observed, State
from worldsim.models.layers import Categoricals, SlotLinear, draw, entropy, mlp
from worldsim.models.share import uniform


def hidden(inputs: int, units: int) -> nn.Sequential:
    """A hidden layer as all of them are here: normalised, then SiLU."""
    return nn.Sequential(nn.Linear(inputs, units), nn.LayerNorm(units), nn.SiLU())


class BlockGRU(nn.Module):
    """The recurrence: a hidden layer and a gated recurrent unit whose weights on h are block-diagonal.

    A block reads its own part of h, and what one layer of `units` makes of all of h, of z and of the action each.
    """

    def __init__(self, width: int, codes: int, actions: int, units: int, blocks: int):
        super().__init__()
        self.blocks = blocks
        self.read_h, self.read_z, self.read_action = (hidden(n, units) for n in (width, codes, actions))
        self.own = SlotLinear(blocks, width // blocks, width // blocks)
        self.tell = nn.Linear(2 * units, width)
        self.tell_action = nn.Linear(units, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.gates = SlotLinear(blocks, width // blocks, 3 * width // blocks)

    def drive(self, action: Tensor) -> Tensor:
        """The action's share (..., W), which no recurrence is needed for."""
        return self.tell_action(self.read_action(action))  # type: ignore[no-any-return]

    def forward(self, h_BW: Tensor, z_BZ: Tensor, drive_BW: Tensor) -> Tensor:
        told = self.tell(torch.cat([self.read_h(h_BW), self.read_z(z_BZ)], -1))
        own = self.own(self._split(h_BW)).flatten(1)
        inner = F.silu(self.norm(own + told + drive_BW))
        reset, value, update = self.gates(self._split(inner)).float().chunk(3, -1)
        update = torch.sigmoid(update - 1).flatten(1)
        return torch.lerp(h_BW, torch.tanh(torch.sigmoid(reset) * value).flatten(1), update)

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b (g w) -> b g w", g=self.blocks)


class Moments(NamedTuple):
    """What the loop over time gives."""

    past: Tensor  # (B, T, W): h
    codes: Tensor  # (B, T, Z): z, drawn, one-hot
    posterior: Categoricals  # (B, T, K, C)


class RSSM(Dynamics):
    """See the module's text. State: h (B, W) fp32 and z (B, K) int64, where class C stands for "nothing seen yet"."""

    def __init__(self, config: RSSMConfig, nvec: Tensor, slots: int, actions: int):
        super().__init__()
        self.variables, self.slots = len(nvec), slots
        self.latents, self.classes = config.latents, config.latent_classes
        self.unimix, self.free_nats, self.scale = config.unimix, config.free_nats, config.representation_scale
        width, codes, units = config.width, config.latents * config.latent_classes, config.units
        self.record_features = self.dense_features = config.slot_features
        self.feature_width, self.past_width = width + codes, width
        self.separable = False
        self.noise_size = config.latents
        self.recur = BlockGRU(width, codes, actions, units, config.blocks)
        self.see = nn.Linear((self.variables + slots) * config.embed, units)
        self.recall = nn.Linear(width, units, bias=False)
        self.posterior = nn.Sequential(nn.LayerNorm(units), nn.SiLU(), nn.Linear(units, codes))
        self.prior = mlp([width, units, units, codes])
        self.spread = nn.Linear(self.feature_width, (self.variables + slots) * config.slot_features)

    def initial(self, batch: int) -> State:
        where = self.see.weight.device
        h = torch.zeros(batch, self.past_width, device=where)
        return {"h": h, "z": torch.full((batch, self.latents), self.classes, device=where)}

    def observe(
        self,
        state: State,
        embeds: Slots,
        record_BTV: Tensor,
        actions_BTA: Tensor,
        first_BT: Tensor,
        generator: Generator | None,
    ) -> Observed:
        seen = self.see(torch.cat([part.flatten(2) for part in embeds], -1))
        shape = (*first_BT.shape, self.latents)
        noise = None if generator is None else uniform(shape, generator, seen.device)
        past, codes, posterior = self._moments(state, seen, actions_BTA, first_BT, noise)
        prior = self._latents(self.prior(past))
        dynamics = posterior.detach().kl(prior).clamp_min(self.free_nats)
        representation = self.scale * posterior.kl(prior.detach()).clamp_min(self.free_nats)
        follows = ~first_BT  # what nothing led to cannot be foreseen, and what it tells must not be held against it
        follows[:, 0] &= state["z"][:, 0] < self.classes
        losses = {"dynamics": dynamics * follows, "representation": representation * follows}
        following = {"h": past[:, -1], "z": codes[:, -1].unflatten(-1, (self.latents, self.classes)).argmax(-1)}
        return Observed(following, self._latent(past, codes), losses)

    def _moments(self, state: State, seen: Tensor, actions: Tensor, first: Tensor, noise: Tensor | None) -> Moments:
        keep = (~first).unsqueeze(-1).float()
        drive = self.recur.drive(actions * keep)
        h, z = state["h"], self._onehot(state["z"])
        moments = []
        for t, (kept, driven, shown) in enumerate(zip(*(x.unbind(1) for x in (keep, drive, seen)), strict=True)):
            h = self.recur(h * kept, z * kept, driven)
            scores = self.posterior(shown + self.recall(h))
            z = self._latents(scores).straight_through(None if noise is None else noise[:, t]).flatten(1)
            moments.append((h, z, scores))
        past, codes, posterior = (torch.stack(parts, 1) for parts in zip(*moments, strict=True))
        return Moments(past, codes, self._latents(posterior))

    def step(self, state: State, action_BA: Tensor, noise_BN: Tensor | None, min_p: float) -> tuple[State, Latent]:
        h = self.recur(state["h"], self._onehot(state["z"]), self.recur.drive(action_BA))
        prior = self._latents(self.prior(h)).logits
        z = draw(prior, noise_BN, min_p)
        return {"h": h, "z": z}, self._latent(h, self._onehot(z))._replace(entropy=entropy(prior, min_p))

    def _onehot(self, z: Tensor) -> Tensor:
        """(..., K) indices to (..., Z); zeros where nothing was seen."""
        return F.one_hot(z, self.classes + 1)[..., :-1].flatten(-2).float()

    def _latents(self, scores: Tensor) -> Categoricals:
        return Categoricals.from_logits(scores, self.latents, self.unimix)

    def _latent(self, past: Tensor, codes: Tensor) -> Latent:
        features = torch.cat([past, codes], -1)
        spread = self.spread(features).unflatten(-1, (self.variables + self.slots, self.dense_features))
        return Latent(features, Slots(*spread.split([self.variables, self.slots], -2)))
