"""What latent dynamics implement: `initial`, `observe`, `step`, `for_decoder`; two-stage dynamics `recode`, too.

Axes: B batch, T time, V categorical variables of the observation, S its image patches and vectors, A width of an
encoded action, F width of the features, N uniform numbers.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Generator, Tensor, nn

from worldsim.models.leaves import Slots
from worldsim.models.world_model import State


class SequenceOutput(NamedTuple):
    """What `observe` makes of a sequence."""

    state: State  # after the last timestep
    features: Tensor  # (B, T, F): what reward, termination and ensemble heads read, each timestep's observation known
    slots: Slots | None  # (B, T, ...): the input of the decoder; None where `slots_of` makes it of the features
    losses: dict[str, Tensor]  # (B, T) nats each, to be minimised: how badly each timestep was predicted


class StepOutput(NamedTuple):
    """What `step` gives beside the state."""

    features: Tensor  # (B, F)
    entropy: Tensor  # (B,) nats in what was sampled (`layers.entropy`)


class Dynamics(nn.Module, ABC):
    """Latent dynamics with an explicit state. A timestep is an observation and the action that led to it."""

    feature_width: int
    past_width: int  # the leading part of the features, which does not know the present observation
    categorical_features: int | None  # width of a categorical slot for the decoder; None: as many as there are classes
    dense_features: int
    two_stage: bool  # whether the codes depend on the codec alone, which is then trained first
    noise_size: int  # N, consumed by one step of one world

    @abstractmethod
    def initial(self, batch: int) -> State:
        """The state of `batch` worlds before any observation."""

    def recode(self, embeds: Slots, categorical: Tensor, generator: Generator | None = None) -> Slots:
        """What the decoder gets of timesteps (N, ...) alone, without their past; two-stage dynamics implement it.

        generator: of the random numbers of training; None makes it a deterministic function.
        """
        raise TypeError(f"{type(self).__name__} is not trained in two stages: its codes depend on the past")

    @abstractmethod
    def for_decoder(self, state: State) -> Slots:
        """The input of the decoder: (B, V, categorical_features) and (B, S, dense_features)."""

    def slots_of(self, followed: SequenceOutput) -> Slots:
        """The same of every timestep of a sequence, (B, T, ...)."""
        assert followed.slots is not None, f"{type(self).__name__} gives no slots, so it must make them of the features"
        return followed.slots

    @abstractmethod
    def observe(
        self,
        state: State,
        embeds: Slots,
        categorical_BTV: Tensor,
        actions_BTA: Tensor,
        first_BT: Tensor,
        generator: Generator | None,
    ) -> SequenceOutput:
        """Follow a recorded sequence. Where `first`, an episode begins and everything before it is forgotten.

        embeds: encoded slots (B, T, V, embed) and (B, T, S, embed). categorical: class indices.
        generator: of the random numbers of training; None makes it a deterministic function.
        """

    @abstractmethod
    def step(self, state: State, action_BA: Tensor, noise_BN: Tensor | None, min_p: float) -> tuple[State, StepOutput]:
        """Imagine one step.

        noise_BN: uniform in [0, 1), to sample with; None: the most probable future. min_p: see `layers.sample`.
        """
