"""The `rssm` family: DreamerV3's recurrent state-space model (arXiv:2301.04104v2).

A recurrent state h carries the past. From h alone the prior foretells the latents z, categorical variables; the
posterior reads them off h and the observation. Prior and posterior are pulled towards each other at two speeds (KL
balance), and no further than `free_nats`. Everything is drawn from h and z.

What does not depend on the recurrence (the observation's and the action's share, the prior, log-probabilities) is
computed for all moments at once, outside of the loop over time.

From the authors' configuration: eight blocks, 32 latents, h eight times as wide as a hidden layer, RMSNorm and SiLU, a
prior of two hidden layers and a posterior of one, 1 % of the uniform distribution mixed in, one free nat, weights of 1
(dynamics) and 0.1 (representation). The sizes keep these, but for fewer latents in the two smallest. Not the authors':
classes (theirs are a 128th of h), initial weights, continuous actions in symlog, encoder and decoder by patches, and
that the first moment of an episode, which nothing foresees, has no divergence.

Axes: B batch, T time, V categorical variables of the observation, S its patches and vectors, A action, K latents,
C their classes, W width of h, U units of a hidden layer, Z = K*C, N uniform numbers.
"""

import torch
from torch import Generator, Tensor, nn

from worldsim.models.config import RSSMConfig
from worldsim.models.dynamics.base import Dynamics, Latent, Observed, State
from worldsim.models.dynamics.recurrence import Moments, Weights, follow, limits, normalised, recur
from worldsim.models.layers import Categoricals, SlotLinear, draw, entropy, onehot
from worldsim.models.leaves import Slots
from worldsim.models.share import uniform


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
        self.read_h, self.read_z = nn.Linear(width, units, bias=False), nn.Linear(codes, units, bias=False)
        self.read_bias, self.read_norm = nn.Parameter(torch.zeros(2, units)), nn.Parameter(torch.ones(2, units))
        self.read_action = hidden(actions, units)
        self.tell, self.tell_action = nn.Linear(2 * units, width, bias=False), nn.Linear(units, width)
        self.own = nn.Parameter(torch.randn(blocks, width // blocks, width // blocks) * (width // blocks) ** -0.5)
        self.norm = nn.Parameter(torch.ones(width))
        self.gates = SlotLinear(blocks, width // blocks, 3 * width // blocks)
        nn.init.constant_(self.gates.bias.unflatten(1, (3, -1))[:, 1], -1.0)  # begin with remembering
        self.recall = nn.Linear(width, units, bias=False)
        self.seen_norm = nn.Parameter(torch.ones(units))
        self.score = nn.Linear(units, codes)

    def drive(self, action: Tensor) -> Tensor:
        """The action's share (..., W), which no recurrence is needed for."""
        return self.tell_action(self.read_action(action))  # type: ignore[no-any-return]

    def weights(self, kind: torch.dtype) -> Weights:
        """For products computed in `kind`."""
        return Weights(
            read_h=self.read_h.weight.to(kind),
            read_z=self.read_z.weight.to(kind),
            read_bias=self.read_bias.to(kind),
            read_norm=self.read_norm,
            tell=self.tell.weight.to(kind),
            own=self.own.to(kind),
            norm=self.norm,
            gates=self.gates.weight.to(kind),
            gates_bias=self.gates.bias.unsqueeze(1).to(kind),
            recall=self.recall.weight.to(kind),
            seen_norm=self.seen_norm,
            score=self.score.weight.to(kind),
            score_bias=self.score.bias.to(kind),
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
        self.separable = False
        self.noise_size = config.latents
        self.recur = BlockGRU(width, codes, actions, units, config.blocks)
        self.see = nn.Linear((self.variables + slots) * config.embed, units)
        self.prior = nn.Sequential(hidden(width, units), hidden(units, units), nn.Linear(units, codes))
        self.spread = nn.Linear(self.feature_width, (self.variables + slots) * config.slot_features)

    def initial(self, batch: int) -> State:
        return {
            "h": self.see.weight.new_zeros(batch, self.past_width),
            "z": self.see.weight.new_zeros(batch, self.latents * self.classes),
        }

    def for_decoder(self, latent: Latent) -> Slots:
        """Made of the features only where something is drawn: it can be half the work of a step."""
        spread = self.spread(latent.features).unflatten(-1, (self.variables + self.slots, self.dense_features))
        return Slots(*spread.split([self.variables, self.slots], -2))

    def observe(
        self,
        state: State,
        embeds: Slots,
        categorical_BTV: Tensor,
        actions_BTA: Tensor,
        first_BT: Tensor,
        generator: Generator | None,
    ) -> Observed:
        shown = self.see(torch.cat([part.flatten(2) for part in embeds], -1))
        shape = (*first_BT.shape, self.latents)
        noise = None if generator is None else uniform(shape, generator, shown.device)
        past, codes, scores = self._follow(state, shown, actions_BTA, first_BT, noise)
        prior, posterior = self._latents(self.prior(past)), self._latents(scores)
        dynamics = posterior.detach().kl(prior).clamp_min(self.free_nats)
        representation = self.scale * posterior.kl(prior.detach()).clamp_min(self.free_nats)
        follows = ~first_BT  # what nothing led to cannot be foreseen, and what it tells must not be held against it
        follows[:, 0] &= state["z"].any(-1)
        losses = {"dynamics": dynamics * follows, "representation": representation * follows}
        return Observed({"h": past[:, -1], "z": codes[:, -1]}, Latent(torch.cat([past, codes], -1), None), losses)

    def _follow(self, state: State, shown: Tensor, actions: Tensor, first: Tensor, noise: Tensor | None) -> Moments:
        keep = (~first).unsqueeze(-1).to(state["h"].dtype)
        drive = self.recur.drive(actions * keep)
        bounds = None if noise is None else limits(noise, self.classes, self.unimix)
        start, weights = (state["h"], state["z"]), self.recur.weights(drive.dtype)
        return follow(weights, start, keep, drive, shown, bounds, self.latents, self.unimix)

    def step(self, state: State, action_BA: Tensor, noise_BN: Tensor | None, min_p: float) -> tuple[State, Latent]:
        drive = self.recur.drive(action_BA)
        h = recur(self.recur.weights(drive.dtype), state["h"], state["z"], drive).h
        prior = self._latents(self.prior(h)).logits
        z = onehot(draw(prior, noise_BN, min_p), self.classes).flatten(1).to(h.dtype)
        return {"h": h, "z": z}, Latent(torch.cat([h, z], -1), None, entropy(prior, min_p))

    def _latents(self, scores: Tensor) -> Categoricals:
        return Categoricals.from_logits(scores, self.latents, self.unimix)
