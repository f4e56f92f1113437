"""The `rssm` family: DreamerV3's recurrent state-space model (arXiv:2301.04104v2).

A recurrent state h carries the past. From h alone the prior predicts the latents z, categorical variables; the
posterior reads them off h and the observation. Prior and posterior are pulled towards each other at two speeds (KL
balance), and no further than `free_nats`. Everything is decoded from h and z.

What does not depend on the recurrence (what observation and action add, the prior, log-probabilities) is
computed for all timesteps at once, outside of the loop over time.

From the authors' configuration: eight blocks, 32 latents, h eight times as wide as a hidden layer, RMSNorm and SiLU, a
prior of two hidden layers and a posterior of one, 1 % of the uniform distribution mixed in, one free nat, weights of 1
(dynamics) and 0.1 (representation). The sizes keep these, but for fewer latents in the two smallest. Not the authors':
classes (theirs are a 128th of h), initial weights, continuous actions in symlog, encoder and decoder by patches, and
that the first timestep of an episode, which nothing predicts, has no divergence.

Axes: B batch, T time, V categorical variables of the observation, S its patches and vectors, A action, K latents,
C their classes, W width of h, U units of a hidden layer, Z = K*C, N uniform numbers.
"""

import torch
from torch import Generator, Tensor, nn

from worldsim.models.config import RSSMConfig
from worldsim.models.dynamics.base import Dynamics, SequenceOutput, StepOutput
from worldsim.models.dynamics.recurrence import UnrolledStates, Weights, cell, follow, limits, normalised
from worldsim.models.generator import uniform
from worldsim.models.layers import Categoricals, SlotLinear, entropy, onehot, sample
from worldsim.models.leaves import Slots
from worldsim.models.world_model import State


class Norm(nn.Module):
    """Normalised to a root mean square of 1, in fp32 also where autocast is on."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return normalised(x.to(self.weight.dtype))[0] * self.weight


def hidden(inputs: int, units: int) -> nn.Sequential:
    """A hidden layer as all of them are here: normalised, then SiLU."""
    return nn.Sequential(nn.Linear(inputs, units), Norm(units), nn.SiLU())


class BlockGRU(nn.Module):
    """The weights of `recurrence`: a gated recurrent unit that is block-diagonal in h, and the posterior."""

    def __init__(self, width: int, codes: int, actions: int, units: int, blocks: int):
        super().__init__()
        self.in_h, self.in_z = nn.Linear(width, units, bias=False), nn.Linear(codes, units, bias=False)
        self.in_bias, self.in_norm = nn.Parameter(torch.zeros(2, units)), nn.Parameter(torch.ones(2, units))
        self.action_hidden = hidden(actions, units)
        self.cell_in, self.action_in = nn.Linear(2 * units, width, bias=False), nn.Linear(units, width)
        self.block_weight = nn.Parameter(
            torch.randn(blocks, width // blocks, width // blocks) * (width // blocks) ** -0.5
        )
        self.norm = nn.Parameter(torch.ones(width))
        self.gates = SlotLinear(blocks, width // blocks, 3 * width // blocks)
        nn.init.constant_(self.gates.bias.unflatten(1, (3, -1))[:, 1], -1.0)  # begin with remembering
        self.posterior_h = nn.Linear(width, units, bias=False)
        self.posterior_norm = nn.Parameter(torch.ones(units))
        self.logits_proj = nn.Linear(units, codes)

    def from_action(self, action: Tensor) -> Tensor:
        """What the action adds (..., W), which no recurrence is needed for."""
        return self.action_in(self.action_hidden(action))  # type: ignore[no-any-return]

    def weights(self, kind: torch.dtype) -> Weights:
        """For products computed in `kind`."""
        return Weights(
            in_h=self.in_h.weight.to(kind),
            in_z=self.in_z.weight.to(kind),
            in_bias=self.in_bias.to(kind),
            in_norm=self.in_norm,
            cell_in=self.cell_in.weight.to(kind),
            block_weight=self.block_weight.to(kind),
            norm=self.norm,
            gates=self.gates.weight.to(kind),
            gates_bias=self.gates.bias.unsqueeze(1).to(kind),
            posterior_h=self.posterior_h.weight.to(kind),
            posterior_norm=self.posterior_norm,
            logits_proj=self.logits_proj.weight.to(kind),
            logits_bias=self.logits_proj.bias.to(kind),
        )


class RSSM(Dynamics):
    """See the module's text. State: h (B, W) and z (B, Z) in fp32; z is one-hot, or zeros where nothing was seen."""

    def __init__(self, config: RSSMConfig, nvec: Tensor, slots: int, actions: int):
        super().__init__()
        self.variables, self.slots = len(nvec), slots
        self.latents, self.classes = config.latents, config.latent_classes
        self.unimix, self.free_nats, self.scale = config.unimix, config.free_nats, config.representation_scale
        width, codes, units = config.width, config.latents * config.latent_classes, config.units
        self.categorical_features = self.dense_features = config.slot_features
        self.feature_width, self.past_width = width + codes, width
        self.two_stage = False
        self.noise_size = config.latents
        self.gru = BlockGRU(width, codes, actions, units, config.blocks)
        self.obs_proj = nn.Linear((self.variables + slots) * config.embed, units)
        self.prior = nn.Sequential(hidden(width, units), hidden(units, units), nn.Linear(units, codes))
        self.slots_proj = nn.Linear(self.feature_width, (self.variables + slots) * config.slot_features)

    def initial(self, batch: int) -> State:
        return {
            "h": self.obs_proj.weight.new_zeros(batch, self.past_width),
            "z": self.obs_proj.weight.new_zeros(batch, self.latents * self.classes),
        }

    def for_decoder(self, state: State) -> Slots:
        return self._slots(torch.cat([state["h"], state["z"]], -1))

    def slots_of(self, followed: SequenceOutput) -> Slots:
        return self._slots(followed.features)

    def _slots(self, features: Tensor) -> Slots:
        """Features (..., F) as slots for the decoder. Only `decode` asks for them: they can be half of a step."""
        slots = self.slots_proj(features).unflatten(-1, (self.variables + self.slots, self.dense_features))
        return Slots(*slots.split([self.variables, self.slots], -2))

    def observe(
        self,
        state: State,
        embeds: Slots,
        categorical_BTV: Tensor,
        actions_BTA: Tensor,
        first_BT: Tensor,
        generator: Generator | None,
    ) -> SequenceOutput:
        obs = self.obs_proj(torch.cat([part.flatten(2) for part in embeds], -1))
        shape = (*first_BT.shape, self.latents)
        noise = None if generator is None else uniform(shape, generator, obs.device)
        past, codes, logits = self._follow(state, obs, actions_BTA, first_BT, noise)
        prior, posterior = self._latents(self.prior(past)), self._latents(logits)
        dynamics = posterior.detach().kl(prior).clamp_min(self.free_nats)
        representation = self.scale * posterior.kl(prior.detach()).clamp_min(self.free_nats)
        follows = ~first_BT  # what nothing led to cannot be predicted, and must not be held against the posterior
        follows[:, 0] &= state["z"].any(-1)
        losses = {"dynamics": dynamics * follows, "representation": representation * follows}
        return SequenceOutput({"h": past[:, -1], "z": codes[:, -1]}, torch.cat([past, codes], -1), None, losses)

    def _follow(
        self, state: State, obs: Tensor, actions: Tensor, first: Tensor, noise: Tensor | None
    ) -> UnrolledStates:
        keep = (~first).unsqueeze(-1).to(state["h"].dtype)
        action = self.gru.from_action(actions * keep)
        bounds = None if noise is None else limits(noise, self.classes, self.unimix)
        start, weights = (state["h"], state["z"]), self.gru.weights(action.dtype)
        return follow(weights, start, keep, action, obs, bounds, self.latents, self.unimix)

    def step(self, state: State, action_BA: Tensor, noise_BN: Tensor | None, min_p: float) -> tuple[State, StepOutput]:
        action = self.gru.from_action(action_BA)
        h = cell(self.gru.weights(action.dtype), state["h"], state["z"], action).h
        prior = self._latents(self.prior(h)).logits
        z = onehot(sample(prior, noise_BN, min_p), self.classes).flatten(1).to(h.dtype)
        return {"h": h, "z": z}, StepOutput(torch.cat([h, z], -1), entropy(prior, min_p))

    def _latents(self, logits: Tensor) -> Categoricals:
        return Categoricals.from_logits(logits, self.latents, self.unimix)
