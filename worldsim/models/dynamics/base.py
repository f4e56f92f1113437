"""What a family of latent dynamics implements: `initial`, `observe` and `step`, nothing else.

Axes: B batch, T time, V categorical variables of the observation, S its image patches and vectors, A width of an
encoded action, F width of the features, N uniform numbers.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Generator, Tensor, nn

from worldsim.models.leaves import Slots

State = dict[str, Tensor]  # every tensor has the batch as its first axis


class Latent(NamedTuple):
    """One or many latent moments, leading axes (B,) or (B, T)."""

    features: Tensor  # (..., F): what reward, termination and ensemble heads read
    slots: Slots | None  # what `for_decoder` gives; None where it is made only when it is asked for
    entropy: Tensor | None = None  # (B,) nats in what `step` drew from (`layers.entropy`); None where nothing was drawn


class Observed(NamedTuple):
    """What `observe` makes of a sequence."""

    state: State  # after the last moment
    latent: Latent  # (B, T, ...), knowing each moment's observation
    losses: dict[str, Tensor]  # (B, T) nats each, to be minimised: how badly each moment was foreseen


class Dynamics(nn.Module, ABC):
    """Latent dynamics with an explicit state. A moment is an observation and the action that led to it."""

    feature_width: int
    past_width: int  # the leading part of the features, which does not know the present observation
    categorical_features: int | None  # width of a categorical slot for the decoder; None: its one-hot
    dense_features: int
    separable: bool  # whether the codes depend on the codec alone, which may then be trained first
    noise_size: int  # N, consumed by one step of one world

    @abstractmethod
    def initial(self, batch: int) -> State:
        """The state of `batch` worlds before anything was seen."""

    def recode(self, embeds: Slots, categorical: Tensor, generator: Generator | None = None) -> Slots:
        """What the decoder would get of moments (N, ...) seen without their past; separable families implement it.

        generator: draws what training needs; None makes it a deterministic function.
        """
        raise TypeError(f"{type(self).__name__} is not separable: its codes depend on the past")

    def for_decoder(self, latent: Latent) -> Slots:
        """What the decoder draws from: (..., V, categorical_features) and (..., S, dense_features)."""
        assert latent.slots is not None, f"{type(self).__name__} gives no slots, so it must make them of the features"
        return latent.slots

    @abstractmethod
    def observe(
        self,
        state: State,
        embeds: Slots,
        categorical_BTV: Tensor,
        actions_BTA: Tensor,
        first_BT: Tensor,
        generator: Generator | None,
    ) -> Observed:
        """Follow a recorded sequence. Where `first`, an episode begins and everything before it is forgotten.

        embeds: encoded slots (B, T, V, embed) and (B, T, S, embed). categorical_BTV: class indices.
        generator: draws what training needs; None makes it a deterministic function.
        """

    @abstractmethod
    def step(self, state: State, action_BA: Tensor, noise_BN: Tensor | None, min_p: float) -> tuple[State, Latent]:
        """Imagine one tick. noise_BN: uniform in [0, 1); None: the most probable future. min_p: see `layers.draw`.

        The latent comes with its entropy.
        """
