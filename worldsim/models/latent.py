"""World models that predict in a latent space: encoder, latent dynamics, decoder, and heads on the features.

Axes: B batch, T time, N = B*T, V categorical variables, S other slots, A width of an encoded action.
"""

from typing import Any

import gymnasium as gym
import torch
from torch import Generator, Tensor

from worldsim.models.config import LatentConfig
from worldsim.models.dynamics import SequenceOutput, make_dynamics
from worldsim.models.generator import uniform
from worldsim.models.heads import Ensemble, RewardHead, TerminationHead
from worldsim.models.leaves import ActionEncoder, ObservationCodec, Slots, slot_layout
from worldsim.models.leaves.image import ImageCodec
from worldsim.models.world_model import (
    Batch,
    Flat,
    Losses,
    Observed,
    Predicted,
    Samples,
    Stage,
    State,
    WorldModel,
    mean_of,
    weighted,
)
from worldsim.spaces import leaves

WHOLE, CODEC, DYNAMICS = Stage("whole"), Stage("codec", frames=True), Stage("dynamics")


class LatentWorldModel(WorldModel):
    """Encoder, dynamics, decoder and heads. reward_range: least and greatest reward in the data, for the reward bins.

    Families whose codes do not depend on the dynamics train faster in two stages: first encoder and decoder, by many
    small updates on single frames, then the dynamics, which predict codes that are fixed by then.
    """

    config: LatentConfig

    def __init__(
        self,
        config: LatentConfig,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        reward_range: tuple[float, float],
    ):
        super().__init__()
        self.config = config
        self.act = ActionEncoder(leaves(action_space), config.embed)
        found = leaves(observation_space)
        layout = slot_layout(found, config)
        self.dynamics = make_dynamics(config, layout.nvec, layout.dense, self.act.width)
        self.codec = ObservationCodec(found, config, self.dynamics.categorical_features, self.dynamics.dense_features)
        hidden, features = config.head_hidden, self.dynamics.feature_width
        self.reward = RewardHead(features, hidden, *reward_range)
        self.termination = TerminationHead(features, hidden)
        target = len(layout.nvec) * self.codec.categorical.features + layout.dense * self.dynamics.dense_features
        self.ensemble = Ensemble(self.dynamics.past_width, target, hidden, config.ensemble)
        self.noise_size = self.dynamics.noise_size
        self.stages = (CODEC, DYNAMICS) if self.dynamics.two_stage else (WHOLE,)

    def measure(self, observation: Samples, action: Samples) -> None:
        for leaf, codec in self.codec.dense_codecs():
            codec.measure(observation[leaf.name])
        self.act.measure(action)

    def mean_images(self) -> dict[str, Tensor]:
        return {
            leaf.name: codec.mean
            for leaf, codec in self.codec.dense_codecs()
            if isinstance(codec, ImageCodec) and leaf.kind == "image"
        }

    def initial(self, batch: int) -> State:
        return self.dynamics.initial(batch)

    def encode(self, observation: Flat) -> Tensor:
        count = len(next(iter(observation.values())))
        device = next(self.parameters()).device
        nothing = torch.zeros(count, 1, self.act.width, device=device)
        first = torch.ones(count, 1, dtype=torch.bool, device=device)
        followed = self._follow(self.codec.encode(observation), observation, nothing, first, None)
        slots = self.dynamics.for_decoder(followed.state)
        return torch.cat([part.flatten(1).float() for part in slots], 1)

    def observe(self, observation: Flat, action: Flat, first: Tensor, state: State | None = None) -> Observed:
        flat = {name: value.flatten(0, 1) for name, value in observation.items()}
        followed = self._follow(self.codec.encode(flat), flat, self.act(action), first, None, state)
        return Observed(followed.state, followed.features)

    def step(self, state: State, action: Flat, noise: Tensor | None) -> tuple[State, Predicted]:
        following, now = self.dynamics.step(state, self.act(action), noise, self.config.min_p)
        disagreement = self.ensemble.disagreement(now.features[..., : self.dynamics.past_width])
        return following, Predicted(now.features, now.entropy, disagreement)

    def decode(self, state: State) -> dict[str, Tensor]:
        return self.codec.decode(self.dynamics.for_decoder(state))

    def _follow(
        self,
        embeds: Slots,
        flat: Flat,
        actions: Tensor,
        first: Tensor,
        generator: Generator | None,
        state: State | None = None,
    ) -> SequenceOutput:
        lead = first.shape
        sequence = Slots(*(part.unflatten(0, lead) for part in embeds))
        categorical = self.codec.categorical.indices(flat).unflatten(0, lead)
        start = self.dynamics.initial(lead[0]) if state is None else state
        return self.dynamics.observe(start, sequence, categorical, actions, first, generator)

    def losses(self, batch: Batch, generator: Generator, stage: Stage) -> Losses:
        flat = {name: value.flatten(0, 1) for name, value in batch.observation.items()}
        if stage == CODEC:
            slots = self.dynamics.recode(self.codec.encode(flat), self.codec.categorical.indices(flat), generator)
            errors = self.codec.loss(slots, flat, generator)
            return Losses.of({f"reconstruction/{name}": loss.mean() for name, loss in errors.items()})
        if stage == WHOLE:
            embeds = self.codec.encode(flat)
        else:
            # in fp32, because these are the codes that inference uses
            with torch.no_grad(), torch.autocast(batch.first.device.type, enabled=False):
                embeds = self.codec.encode(flat)
        followed = self._follow(embeds, flat, self.act(batch.action), batch.first, generator)
        features, follows = followed.features, (~batch.first).float()
        heads = {"reward": self.reward.loss(features, batch.reward)}
        heads["termination"] = self.termination.loss(features, batch.terminated)
        step_losses = torch.stack([loss.detach() for loss in (followed.losses | heads).values()]).sum(0)
        priority = (step_losses * follows).sum(1) / follows.sum(1).clamp_min(1)
        slots = self.dynamics.slots_of(followed)
        heads["ensemble"] = self._ensemble_loss(features, slots, generator)
        count = follows.sum() if batch.valid_steps is None else batch.valid_steps
        counted = weighted(follows, batch.weight)
        parts = {name: mean_of(loss, counted, count) for name, loss in followed.losses.items()}
        if stage == WHOLE:
            drawn_from = Slots(*(slot.flatten(0, 1) for slot in slots))
            for name, loss in self.codec.loss(drawn_from, flat, generator).items():
                parts[f"reconstruction/{name}"] = weighted(loss.view(follows.shape), batch.weight).mean()
        parts |= {name: mean_of(loss, counted, count) for name, loss in heads.items()}
        return Losses.of(parts, priority)

    def _ensemble_loss(self, features: Tensor, slots: Slots, generator: Generator) -> Tensor:
        """Squared error (B, T)."""
        past = features[..., : self.dynamics.past_width].detach()
        target = torch.cat([part.detach().flatten(2) for part in slots], -1).flatten(0, 1)
        chance = uniform((self.config.ensemble, past.shape[0], 1), generator, past.device, axis=1)
        trained = (chance < 0.5).expand(-1, -1, past.shape[1]).flatten(1).float()
        return self.ensemble.loss(past.flatten(0, 1), target, trained).view(past.shape[:2])
