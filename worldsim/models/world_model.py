"""How encoder, dynamics, decoder and heads are put together, and what they are trained for.

Axes: B batch, T time, N = B*T, S slots.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import torch
from torch import Generator, Tensor, nn

from worldsim.models.config import ModelConfig
from worldsim.models.dynamics import Latent, Observed, State, make_dynamics
from worldsim.models.heads import Ensemble, RewardHead, TerminationHead
from worldsim.models.leaves import ActionEncoder, ObservationCodec, Slots, slot_layout
from worldsim.models.share import uniform
from worldsim.spaces import leaves

Part = Literal["all", "codec", "rest"]
WEIGHTS = {"reward": 2.0, "termination": 5.0}  # of losses that matter more than their size in nats says


class Batch(NamedTuple):
    """Recorded sequences on the device. Row t of action, reward and terminated led to row t of the observation."""

    observation: dict[str, Tensor]  # (B, T, ...) a leaf
    action: dict[str, Tensor]  # (B, T, ...) a leaf
    reward: Tensor  # (B, T) fp32
    terminated: Tensor  # (B, T) bool
    first: Tensor  # (B, T) bool: an episode begins here
    weight: Tensor | None = None  # (B,) fp32: how much each sequence counts; None: all the same
    moments: Tensor | None = None  # () fp32: rows that losses are averaged over, where processes share a batch

    @staticmethod
    def from_numpy(arrays: Mapping[str, Any], device: torch.device | str = "cpu") -> "Batch":
        def move(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {name: move(part) for name, part in value.items()}
            return torch.from_numpy(value).to(device, non_blocking=True)

        return Batch(**{name: move(arrays[name]) for name in Batch._fields if name in arrays})

    def each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with every tensor changed."""
        return Batch(*(_each(part, change) for part in self))

    def tensors(self) -> list[Tensor]:
        """All tensors, always in the same order."""
        parts = [list(part.values()) if isinstance(part, Mapping) else [part] for part in self if part is not None]
        return [tensor for part in parts for tensor in part]


class Losses(NamedTuple):
    """The scalar to minimise and its parts, averaged over moments."""

    total: Tensor
    parts: dict[str, Tensor]
    surprise: Tensor | None = None  # (B,) nats: how badly a moment of each sequence was foreseen, on average

    def each(self, change: Callable[[Tensor], Tensor]) -> "Losses":
        """The losses with every tensor changed."""
        return Losses(*(_each(part, change) for part in self))


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Mapping):
        return {name: _each(part, change) for name, part in value.items()}
    return None if value is None else change(value)


class WorldModel(nn.Module):
    """A learned world: pure functions of explicit states.

    reward_range: least and greatest reward in the data, which the reward bins must cover.
    """

    def __init__(
        self,
        config: ModelConfig,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        reward_range: tuple[float, float],
    ):
        super().__init__()
        self.config = config
        self.act = ActionEncoder(leaves(action_space), config)
        found = leaves(observation_space)
        layout = slot_layout(found, config)
        self.dynamics = make_dynamics(config, layout.nvec, layout.dense, self.act.width)
        self.codec = ObservationCodec(found, config, self.dynamics.categorical_features, self.dynamics.dense_features)
        hidden, features = config.head_hidden, self.dynamics.feature_width
        self.reward = RewardHead(features, hidden, *reward_range)
        self.termination = TerminationHead(features, hidden)
        categorical_features = self.codec.categorical.features
        target = len(layout.nvec) * categorical_features + layout.dense * self.dynamics.dense_features
        self.ensemble = Ensemble(self.dynamics.past_width, target, hidden, config.ensemble)

    def rounded(self) -> "WorldModel":
        """A copy whose matrices are in bf16: autocast to it, products find them cast and need not do so every time."""
        rounded = deepcopy(self)
        for name, parameter in rounded.named_parameters():
            if parameter.ndim > 1 and min(parameter.shape[-2:]) > 1 and not name.endswith("norm"):
                parameter.data = parameter.data.bfloat16()
        return rounded

    def observe(
        self,
        observation: Mapping[str, Tensor],
        action: Mapping[str, Tensor],
        first: Tensor,
        state: State | None = None,
    ) -> Observed:
        """Follow a recorded sequence (B, T, ...), on from `state` or from nothing."""
        flat = {name: value.flatten(0, 1) for name, value in observation.items()}
        return self._follow(self.codec.encode(flat), flat, action, first, None, state)

    def _follow(
        self,
        embeds: Slots,
        flat: Mapping[str, Tensor],
        action: Mapping[str, Tensor],
        first: Tensor,
        generator: Generator | None,
        state: State | None = None,
    ) -> Observed:
        lead = first.shape
        sequence = Slots(*(part.unflatten(0, lead) for part in embeds))
        categorical = self.codec.categorical.indices(flat).unflatten(0, lead)
        start = self.dynamics.initial(lead[0]) if state is None else state
        return self.dynamics.observe(start, sequence, categorical, self.act(action), first, generator)

    def losses(self, batch: Batch, generator: Generator, part: Part = "all") -> Losses:
        """Training losses of one batch; all randomness from `generator`.

        part: "codec" learns to draw, "rest" learns everything else on codes that stay as they are, "all" learns both.
        Families whose codes do not depend on the dynamics learn faster one after the other.
        """
        flat = {name: value.flatten(0, 1) for name, value in batch.observation.items()}
        if part == "codec":
            drawn = self.dynamics.recode(self.codec.encode(flat), self.codec.categorical.indices(flat), generator)
            errors = self.codec.loss(drawn, flat, generator)
            return _summed({f"draw/{name}": loss.mean() for name, loss in errors.items()})
        if part == "all":
            embeds = self.codec.encode(flat)
        else:
            # fp32: the codes that inference will see
            with torch.no_grad(), torch.autocast(batch.first.device.type, enabled=False):
                embeds = self.codec.encode(flat)
        seen = self._follow(embeds, flat, batch.action, batch.first, generator)
        features, follows = seen.latent.features, (~batch.first).float()
        heads = {"reward": self.reward.loss(features, batch.reward)}
        heads["termination"] = self.termination.loss(features, batch.terminated)
        moments = torch.stack([loss.detach() for loss in (seen.losses | heads).values()]).sum(0)
        surprise = (moments * follows).sum(1) / follows.sum(1).clamp_min(1)
        slots = self.dynamics.for_decoder(seen.latent)
        heads["ensemble"] = self._ensemble_loss(seen.latent, slots, generator)
        count = follows.sum() if batch.moments is None else batch.moments
        counted = _weighted(follows, batch.weight)
        parts = {name: _mean(loss, counted, count) for name, loss in seen.losses.items()}
        if part == "all":
            drawn_from = Slots(*(slot.flatten(0, 1) for slot in slots))
            for name, loss in self.codec.loss(drawn_from, flat, generator).items():
                parts[f"draw/{name}"] = _weighted(loss.view(follows.shape), batch.weight).mean()
        parts |= {name: _mean(loss, counted, count) for name, loss in heads.items()}
        return _summed(parts)._replace(surprise=surprise)

    def _ensemble_loss(self, latent: Latent, slots: Slots, generator: Generator) -> Tensor:
        """Squared error (B, T)."""
        past = latent.features[..., : self.dynamics.past_width].detach()
        target = torch.cat([part.detach().flatten(2) for part in slots], -1).flatten(0, 1)
        chance = uniform((self.config.ensemble, past.shape[0], 1), generator, past.device, axis=1)
        taught = (chance < 0.5).expand(-1, -1, past.shape[1]).flatten(1).float()
        return self.ensemble.loss(past.flatten(0, 1), target, taught).view(past.shape[:2])


def _summed(parts: dict[str, Tensor]) -> Losses:
    total = torch.stack([WEIGHTS.get(name, 1.0) * loss for name, loss in parts.items()]).sum()
    return Losses(total, {name: loss.detach() for name, loss in parts.items()})


def _weighted(values: Tensor, weight: Tensor | None) -> Tensor:
    """Values (B, T) with every sequence as heavy as `weight` (B,) says."""
    return values if weight is None else values * weight.unsqueeze(1)


def _mean(values: Tensor, weight: Tensor, count: Tensor) -> Tensor:
    return (values * weight).sum() / count.clamp_min(1)
