"""The `rssm` family: DreamerV3's recurrent state-space model (arXiv:2301.04104).

A recurrent state h carries the past. From h alone the prior foretells the latents z, categorical variables; the
posterior reads them off h and the observation. Prior and posterior are pulled towards each other at two speeds (KL
balance), and no further than `free_nats`. Everything is drawn from h and z.

Axes: B batch, T time, V categorical variables of the observation, S its patches and vectors, A action, K latents,
C their classes, W width of h, Z = K*C, X input, N uniform numbers.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Generator, Tensor, nn

from worldsim.models.codec import Slots
from worldsim.models.config import RSSMConfig
from worldsim.models.dynamics.base import Dynamics, Latent, Observed, State
from worldsim.models.layers import Categoricals, SlotLinear, draw, entropy, mlp


class BlockGRU(nn.Module):
    """A gated recurrent unit, normalised before its gates. A block reads its own part of the state and the input."""

    def __init__(self, inputs: int, width: int, blocks: int):
        super().__init__()
        self.blocks = blocks
        self.enter = SlotLinear(blocks, width // blocks + inputs, 3 * width // blocks)
        self.norm = nn.LayerNorm(3 * width)

    def forward(self, x_BX: Tensor, h_BW: Tensor) -> Tensor:
        own = rearrange(h_BW, "b (g w) -> b g w", g=self.blocks)
        everything = torch.cat([own, x_BX.unsqueeze(1).expand(-1, self.blocks, -1)], -1)
        gates = rearrange(self.enter(everything), "b g (k w) -> b (k g w)", k=3)
        reset, value, update = self.norm(gates).float().chunk(3, -1)
        update = torch.sigmoid(update - 1)
        return update * torch.tanh(torch.sigmoid(reset) * value) + (1 - update) * h_BW


class RSSM(Dynamics):
    """See the module's text. State: h (B, W) fp32 and z (B, K) int64, where class C stands for "nothing seen yet"."""

    def __init__(self, config: RSSMConfig, nvec: Tensor, slots: int, actions: int):
        super().__init__()
        self.variables, self.slots = len(nvec), slots
        self.latents, self.classes = config.latents, config.latent_classes
        self.unimix, self.free_nats, self.scale = config.unimix, config.free_nats, config.representation_scale
        width, codes = config.width, config.latents * config.latent_classes
        self.record_features = self.dense_features = config.slot_features
        self.feature_width, self.past_width = width + codes, width
        self.separable = False
        self.noise_size = config.latents
        self.enter = nn.Sequential(nn.Linear(codes + actions, width), nn.LayerNorm(width), nn.SiLU())
        self.recur = BlockGRU(width, width, config.blocks)
        self.see = nn.Linear((self.variables + slots) * config.embed, width)
        self.recall = nn.Linear(width, width, bias=False)
        self.posterior = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, codes))
        self.prior = mlp([width, width, codes])
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
        uniform = None if generator is None else torch.rand(shape, generator=generator, device=seen.device)
        h, z = state["h"], self._onehot(state["z"])
        moments = []
        for t in range(shape[1]):
            keep = (~first_BT[:, t]).unsqueeze(-1).float()
            h = self._tick(h * keep, z * keep, actions_BTA[:, t] * keep)
            posterior = self._latents(self.posterior(seen[:, t] + self.recall(h)))
            z = posterior.straight_through(None if uniform is None else uniform[:, t]).flatten(1)
            moments.append((h, z, posterior.logits))
        past, codes, logits = (torch.stack(parts, 1) for parts in zip(*moments, strict=True))
        posterior, prior = Categoricals(logits), self._latents(self.prior(past))
        dynamics = posterior.detach().kl(prior).clamp_min(self.free_nats)
        representation = self.scale * posterior.kl(prior.detach()).clamp_min(self.free_nats)
        follows = ~first_BT  # what nothing led to cannot be foreseen, and what it tells must not be held against it
        follows[:, 0] &= state["z"][:, 0] < self.classes
        losses = {"dynamics": dynamics * follows, "representation": representation * follows}
        following = {"h": h, "z": z.unflatten(-1, (self.latents, self.classes)).argmax(-1)}
        return Observed(following, self._latent(past, codes), losses)

    def step(self, state: State, action_BA: Tensor, noise_BN: Tensor | None, min_p: float) -> tuple[State, Latent]:
        h = self._tick(state["h"], self._onehot(state["z"]), action_BA)
        prior = self._latents(self.prior(h)).logits
        z = draw(prior, noise_BN, min_p)
        return {"h": h, "z": z}, self._latent(h, self._onehot(z))._replace(entropy=entropy(prior, min_p))

    def _onehot(self, z: Tensor) -> Tensor:
        """(..., K) indices to (..., Z); zeros where nothing was seen."""
        return F.one_hot(z, self.classes + 1)[..., :-1].flatten(-2).float()

    def _tick(self, h_BW: Tensor, z_BZ: Tensor, action_BA: Tensor) -> Tensor:
        return self.recur(self.enter(torch.cat([z_BZ, action_BA], -1)), h_BW)  # type: ignore[no-any-return]

    def _latents(self, scores: Tensor) -> Categoricals:
        return Categoricals.from_logits(scores, self.latents, self.unimix)

    def _latent(self, past: Tensor, codes: Tensor) -> Latent:
        features = torch.cat([past, codes], -1)
        spread = self.spread(features).unflatten(-1, (self.variables + self.slots, self.dense_features))
        return Latent(features, Slots(*spread.split([self.variables, self.slots], -2)))
