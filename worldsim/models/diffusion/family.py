"""The world model of the `diffusion` family (DIAMOND, arXiv:2405.12399).

A state is made of the last K observations and actions. What changes from the last one to the next is
denoised from nothing, given these. What no observation shows is lost once it is K timesteps old; a recurrent memory
beside it serves reward, termination and uncertainty alone.

Not DIAMOND's: the change is denoised in place of the frame, scaled by how much changes in the data at each place; what
the past says is worked out once a timestep (`denoiser.GridPast`); any space and not only images (`canvas`); most work
on patches in place of pixels; frames of the past are noisy in training; and heads on a gated linear recurrence in place
of an LSTM.

Axes: B batch, T time, K timesteps of context, A width of an encoded action, W width of the memory, J targets of a
sequence, N any number of timesteps.
"""

import math
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from torch import Generator, Tensor, nn

from worldsim.models.config import DiffusionConfig
from worldsim.models.diffusion.canvas import Canvas, Drawing
from worldsim.models.diffusion.denoiser import Denoiser, Scaling, along, trained_levels
from worldsim.models.diffusion.encoder import FrameEncoder
from worldsim.models.diffusion.uncertainty import Uncertainty
from worldsim.models.dynamics.ssm import LinearRecurrence
from worldsim.models.generator import uniform
from worldsim.models.heads import RewardHead, TerminationHead
from worldsim.models.leaves import ActionEncoder
from worldsim.models.leaves.base import torch_type
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

DENOISE = Stage("denoise")
DRIFT = 1.0  # largest noise on the frames of the past in training, in deviations of what changes there
DRAWS = 2  # noise levels at which each target is denoised: what its past says is worked out once
PAST = "past/"  # before a leaf's name: the state's observations


class ContextRows(NamedTuple):
    """Rows that timesteps are denoised from, counted through the state's past and then the sequence after it."""

    place: Tensor  # (B, J, K) of the observations
    acted: Tensor  # (B, J, K) bool: whether the action that followed counts; not where an observation only fills up


class DiffusionWorldModel(WorldModel):
    """See the module's text.

    State: the last observations as flat leaves, `past/<leaf>` (B, K, ...), the newest last, the first repeated where an
    episode has not had K; `actions` (B, K - 1, A) that led from each to the next, zeros where none did; the memory's
    own; `cached_features` (B, 2W), of the last timestep; `observed` (B,) bool, whether there was an observation at all.
    """

    config: DiffusionConfig

    def __init__(
        self,
        config: DiffusionConfig,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        reward_range: tuple[float, float],
    ):
        super().__init__()
        self.config, self.stages, width = config, (DENOISE,), config.width
        self.leaves = leaves(observation_space)
        self.act = ActionEncoder(leaves(action_space), width)
        self.canvas = Canvas(self.leaves, config.patch)
        self.denoiser = Denoiser(self.canvas, self.act.width, config)
        self.encoder = FrameEncoder(self.canvas, 1, width, config.patch)
        self.action_proj = nn.Linear(self.act.width, width)
        self.memory = LinearRecurrence(width, config.layers)
        self.reward = RewardHead(2 * width, config.head_hidden, *reward_range)
        self.termination = TerminationHead(2 * width, config.head_hidden)
        self.uncertainty = Uncertainty(3 * width, self.canvas, config.head_hidden, config.ensemble)
        self.noise_size = self.canvas.count

    def measure(self, observation: Samples, action: Samples) -> None:
        self.canvas.measure(observation)
        self.act.measure(action)

    def measure_changes(self, before: Samples, after: Samples) -> None:
        self.canvas.measure_changes(before, after)

    def mean_images(self) -> dict[str, Tensor]:
        return {grid.leaf.name: grid.mean / 255 for grid in self.canvas.grids if grid.leaf.kind == "image"}

    def initial(self, batch: int) -> State:
        like, context = self.action_proj.weight, self.config.context
        past = {
            PAST + leaf.name: torch.zeros(batch, context, *leaf.shape, dtype=torch_type(leaf), device=like.device)
            for leaf in self.leaves
        }
        actions = like.new_zeros(batch, context - 1, self.act.width)
        features = like.new_zeros(batch, 2 * self.config.width)
        observed = torch.zeros(batch, dtype=torch.bool, device=like.device)
        kept = {"actions": actions, "cached_features": features, "observed": observed}
        return past | kept | self.memory.initial(batch, like.device)

    def encode(self, observation: Flat) -> Tensor:
        encoded: Tensor = self.encoder(self.canvas(observation))
        return encoded.float()

    def observe(self, observation: Flat, action: Flat, first: Tensor, state: State | None = None) -> Observed:
        start = self.initial(len(first)) if state is None else state
        begins = _begins(first, start)
        actions = self.act(action) * (~begins).unsqueeze(-1)
        flat = {name: value.flatten(0, 1) for name, value in observation.items()}
        features, memory = self._features(self.canvas(flat), actions, begins, start)
        # The past of a timestep that would come next: the present one is the newest observation in it.
        context = self._context(begins, torch.full_like(begins[:, :1], begins.shape[1], dtype=torch.long))
        kept = {PAST + leaf.name: self._past(observation, start, leaf.name, context)[:, 0] for leaf in self.leaves}
        kept["actions"] = self._followed_by(actions, start, context)[:, 0, :-1]
        kept |= {"cached_features": features[:, -1].float(), "observed": torch.ones_like(start["observed"])}
        return Observed(kept | memory, features)

    def step(self, state: State, action: Flat, noise: Tensor | None) -> tuple[State, Predicted]:
        config, encoded = self.config, self.act(action)
        actions = torch.cat([state["actions"], encoded.unsqueeze(1)], 1)
        past = {leaf.name: state[PAST + leaf.name] for leaf in self.leaves}
        count = len(encoded)
        start = self.canvas.noise(encoded.new_full((count, self.noise_size), 0.5) if noise is None else noise)
        context = self._side_by_side(past, count)
        change = self.denoiser.sample(start, context, actions.flatten(1), config.steps, config.order)
        observation = self.canvas.inverse(_newest(context, config.context).with_each(change, torch.add))
        embedded = self.encoder(self.canvas(observation))
        following = self.action_proj(encoded)
        memory, kept = self.memory.tick(embedded + following, state)
        features = torch.cat([memory, embedded], -1)
        before = torch.cat([state["cached_features"].to(following.dtype), following], -1)
        predicted = Predicted(features, *self.uncertainty(before))
        new = {
            PAST + name: torch.cat([past[name][:, 1:], value.unsqueeze(1)], 1) for name, value in observation.items()
        }
        new |= {
            "actions": actions[:, 1:],
            "cached_features": features.float(),
            "observed": torch.ones_like(state["observed"]),
        }
        return new | kept, predicted

    def decode(self, state: State) -> dict[str, Tensor]:
        return {leaf.name: state[PAST + leaf.name][:, -1] for leaf in self.leaves}

    def losses(self, batch: Batch, generator: Generator, stage: Stage) -> Losses:
        start = self.initial(len(batch.first))
        begins = _begins(batch.first, start)
        actions = self.act(batch.action) * (~begins).unsqueeze(-1)
        timesteps = self.canvas({name: value.flatten(0, 1) for name, value in batch.observation.items()})
        features, _ = self._features(timesteps, actions, begins, start)
        follows = (~begins).float()
        heads = {"reward": self.reward.loss(features, batch.reward)}
        heads["termination"] = self.termination.loss(features, batch.terminated)
        heads |= self._uncertainty_losses(timesteps, features, actions, generator)
        rows = self._targets(begins, generator)
        counted_rows = follows.gather(1, rows)
        denoising = self._denoising_losses(batch, actions, begins, rows, generator)
        errors = torch.stack([loss.detach() for loss in denoising.values()]).sum(0)
        priority = (errors * counted_rows).sum(1) / counted_rows.sum(1).clamp_min(1)
        counted = weighted(follows, batch.weight)
        # Processes that share a batch divide by the timesteps of all of it, and each has its share of the targets.
        count = follows.sum() if batch.valid_steps is None else batch.valid_steps
        share = rows.shape[1] / follows.shape[1]
        parts = {
            name: mean_of(loss, weighted(counted_rows, batch.weight), count * share) for name, loss in denoising.items()
        }
        parts |= {name: mean_of(loss, counted, count) for name, loss in heads.items()}
        return Losses.of(parts, priority)

    def _features(self, timesteps: Drawing, actions: Tensor, begins: Tensor, start: State) -> tuple[Tensor, State]:
        """What the heads read of timesteps (B*T, ...), (B, T, 2W), and the memory after the last of them."""
        embedded = self.encoder(timesteps).unflatten(0, begins.shape)
        memory, kept = self.memory.sequence(embedded + self.action_proj(actions), begins, start)
        return torch.cat([memory, embedded], -1), kept

    def _uncertainty_losses(
        self, timesteps: Drawing, features: Tensor, actions: Tensor, generator: Generator
    ) -> dict[str, Tensor]:
        """(B, T) each."""
        lead = features.shape[:2]
        before = torch.cat([torch.zeros_like(features[:, :1]), features[:, :-1]], 1)
        past = torch.cat([before, self.action_proj(actions)], -1).detach().flatten(0, 1)
        chance = uniform((self.config.ensemble, lead[0], 1), generator, past.device, axis=1)
        trained = (chance < 0.5).expand(-1, -1, lead[1]).flatten(1).float()
        return {name: loss.view(lead) for name, loss in self.uncertainty.loss(past, timesteps, trained).items()}

    def _targets(self, begins: Tensor, generator: Generator) -> Tensor:
        """(B, J) rows to be denoised, none of them twice, those that follow on something before all others."""
        chance = uniform(begins.shape, generator, begins.device) + begins
        return chance.argsort(1)[:, : min(self.config.targets, begins.shape[1])]

    def _denoising_losses(
        self, batch: Batch, actions: Tensor, begins: Tensor, rows: Tensor, generator: Generator
    ) -> dict[str, Tensor]:
        """Squared errors (B, J) of what the network gives, which has unit variance (EDM, eq. 8).

        Those of grids weigh as much as changes there are large.
        """
        start, lead = self.initial(len(begins)), rows.shape
        context = self._context(begins, rows)
        past = {leaf.name: self._past(batch.observation, start, leaf.name, context) for leaf in self.leaves}
        before = self._side_by_side({name: value.flatten(0, 1) for name, value in past.items()}, rows.numel())
        before = self._drifted(before, lead, generator)
        following = self._followed_by(actions, start, context).flatten(0, 1).flatten(1)
        timesteps = self.canvas({name: _at(value, rows).flatten(0, 1) for name, value in batch.observation.items()})
        clean = timesteps.with_each(_newest(before, self.config.context), torch.sub)
        clean = clean.each(lambda x: x.repeat_interleave(DRAWS, 0))
        count = len(clean.vector)
        chance = uniform((lead[0], count // lead[0] * (1 + self.noise_size)), generator, rows.device).view(count, -1)
        sigma, noise = trained_levels(chance[:, 0]), self.canvas.noise(chance[:, 1:])
        noisy = clean.with_each(noise, lambda x, e: x + e * along(sigma, e))
        scaling = Scaling.at(sigma, self.canvas.deviations(), noisy)
        known = self.denoiser.know(before, following).repeated(DRAWS)
        out = self.denoiser.network(noisy.with_each(scaling.input, torch.mul), sigma, known)
        target = clean.with_each(noisy.with_each(scaling.skip, torch.mul), torch.sub)
        target = target.with_each(scaling.out, torch.div)
        error = out.with_each(target, lambda one, other: (one.float() - other).square())
        weigh = self.canvas.deviations().each(lambda deviation: deviation / deviation.mean())
        grids = error.with_each(weigh, torch.mul).grids
        losses = {f"denoise/{name}": each.mean((1, 2, 3)) for name, each in zip(self.canvas.names, grids, strict=True)}
        if self.canvas.numbers:
            losses["denoise/numbers"] = error.vector.mean(1)
        return {name: loss.view(*lead, DRAWS).mean(-1) for name, loss in losses.items()}

    def _drifted(self, before: Drawing, lead: torch.Size, generator: Generator) -> Drawing:
        """A context (N, ...) with the same noise on all frames of a row, and none in half of the rows.

        What is imagined is a little off, and what comes next is imagined from it: so it is led back.
        """
        if not before.grids:
            return before
        sizes = [math.prod(size) for size in self.canvas.sizes]
        chance = uniform((lead[0], lead[1] * (1 + sum(sizes))), generator, before.vector.device)
        chance = chance.view(len(before.vector), -1) * 2 - 1
        size = DRIFT * 3**0.5 * chance[:, :1].clamp_min(0)  # uniform noise, whose deviation is 1 / sqrt(3)
        noises = (size * chance[:, 1:]).split(sizes, 1)

        each = zip(before.grids, noises, self.canvas.deviations().grids, self.canvas.sizes, strict=True)
        grids = []
        for grid, noise, deviation, of in each:
            drift = (noise.unflatten(1, of) * deviation).repeat(1, self.config.context, 1, 1)
            grids.append((grid + drift).clamp(-1, 1))
        return Drawing(tuple(grids), before.vector)

    def _context(self, begins: Tensor, rows: Tensor) -> ContextRows:
        """Of rows (B, J) of a sequence of which `begins` (B, T) are the first of an episode."""
        count, time = self.config.context, torch.arange(begins.shape[1], device=begins.device)
        began = torch.where(begins, time + count, 0).cummax(1).values  # the place of the first observation that counts
        began = began.gather(1, (rows - 1).clamp_min(0)).unsqueeze(-1)
        place = rows.unsqueeze(-1) + torch.arange(count, device=begins.device)
        return ContextRows(torch.maximum(place, began), place >= began)

    def _past(self, observation: Flat, start: State, name: str, context: ContextRows) -> Tensor:
        """A leaf (B, J, K, ...) at the places of the context."""
        return _at(torch.cat([start[PAST + name], observation[name]], 1), context.place)

    def _followed_by(self, actions: Tensor, start: State, context: ContextRows) -> Tensor:
        """The actions (B, J, K, A) that followed on the observations of the context, zeros where none counts."""
        end = torch.zeros_like(actions[:, :1])  # of what comes next, nothing is known
        every = torch.cat([start["actions"].to(actions.dtype), actions, end], 1)
        return _at(every, context.place) * context.acted.unsqueeze(-1)

    def _side_by_side(self, past: Flat, count: int) -> Drawing:
        """Leaves (N, K, ...) as a drawing whose channels, and numbers, are those of K timesteps."""
        each: Drawing = self.canvas({name: value.flatten(0, 1) for name, value in past.items()})
        return each.each(lambda x: x.unflatten(0, (count, self.config.context)).flatten(1, 2))


def _begins(first: Tensor, state: State) -> Tensor:
    """(B, T): where there is nothing before a timestep, because an episode begins or nothing was seen yet."""
    begins = first.clone()
    begins[:, 0] |= ~state["observed"]
    return begins


def _newest(context: Drawing, timesteps: int) -> Drawing:
    """The last of the timesteps (N, K*C, H, W) and (N, K*n) of a context."""
    return context.each(lambda x: x[:, -(x.shape[1] // timesteps) :])


def _at(values: Tensor, rows: Tensor) -> Tensor:
    """Of values (B, T, ...) those in rows (B, ...)."""
    batch = torch.arange(len(values), device=values.device).view(-1, *[1] * (rows.ndim - 1))
    return values[batch, rows]
