"""The interface of a family of world models, and the types of its inputs and outputs.

A family decides how it encodes and decodes, what its state holds, in which stages it is trained and with which losses.
Training, simulator and validation depend only on this module.

Axes: B batch, T time, N any number of timesteps. A timestep is an observation and the action that led to it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any, NamedTuple, Self

import torch
from torch import Generator, Tensor, nn

from worldsim.models.config import ModelConfig
from worldsim.models.heads import RewardHead, TerminationHead

State = dict[str, Tensor]  # every tensor has the batch as its first axis
Flat = Mapping[str, Tensor]  # flat leaves of a space by name (`worldsim.spaces`)
Samples = Mapping[str, Iterable[Tensor]]  # leaves of a space by name: parts of the data, (N, ...) each
WEIGHTS = {"reward": 2.0, "termination": 5.0}  # of losses, 1 for others; these two are small in nats but matter


class Batch(NamedTuple):
    """Recorded sequences as tensors. Row t of action, reward and terminated led to row t of the observation."""

    observation: dict[str, Tensor]  # (B, T, ...) a leaf
    action: dict[str, Tensor]  # (B, T, ...) a leaf
    reward: Tensor  # (B, T) fp32
    terminated: Tensor  # (B, T) bool
    first: Tensor  # (B, T) bool: the first row of an episode
    weight: Tensor | None = None  # (B,) fp32: how much each sequence counts; None: all the same
    valid_steps: Tensor | None = None  # () fp32: number of rows to average losses over, where processes share a batch

    @staticmethod
    def from_numpy(arrays: Mapping[str, Any], device: torch.device | str = "cpu") -> "Batch":
        def move(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {name: move(part) for name, part in value.items()}
            return torch.from_numpy(value).to(device, non_blocking=True)

        return Batch(**{name: move(arrays[name]) for name in Batch._fields if name in arrays})

    def each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with `change` applied to every tensor."""
        return Batch(*(_each(part, change) for part in self))

    def tensors(self) -> list[Tensor]:
        """All tensors, always in the same order."""
        parts = [list(part.values()) if isinstance(part, Mapping) else [part] for part in self if part is not None]
        return [tensor for part in parts for tensor in part]


class Losses(NamedTuple):
    """The scalar to minimise and its parts, averaged over timesteps."""

    total: Tensor
    parts: dict[str, Tensor]
    priority: Tensor | None = None  # (B,): mean loss of each sequence, for prioritised sampling

    def each(self, change: Callable[[Tensor], Tensor]) -> "Losses":
        """The losses with `change` applied to every tensor."""
        return Losses(*(_each(part, change) for part in self))

    @staticmethod
    def of(parts: dict[str, Tensor], priority: Tensor | None = None) -> "Losses":
        """From scalar losses by name: their sum, weighted by WEIGHTS."""
        total = torch.stack([WEIGHTS.get(name, 1.0) * loss for name, loss in parts.items()]).sum()
        return Losses(total, {name: loss.detach() for name, loss in parts.items()}, priority)


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Mapping):
        return {name: _each(part, change) for name, part in value.items()}
    return None if value is None else change(value)


class Stage(NamedTuple):
    """A stage of training; a family may have several."""

    name: str
    frames: bool = False  # trained on single timesteps, with the trainer's codec_* settings, instead of on sequences


class Observed(NamedTuple):
    """The result of observing a recorded sequence."""

    state: State  # after the last timestep
    features: Tensor  # (B, T, F): input of the heads for each timestep, given its observation


class Predicted(NamedTuple):
    """The result of one imagined step, besides the state."""

    features: Tensor  # (B, F): input of the heads
    entropy: Tensor  # (B,) at least 0, nats: entropy of the predicted distribution (aleatoric uncertainty)
    disagreement: Tensor  # (B,) at least 0: of the ensemble (epistemic uncertainty)


class WorldModel(nn.Module, ABC):
    """A learned world: pure functions of explicit states.

    A family sets `reward` and `termination`, heads on its features, and the other attributes below.
    """

    config: ModelConfig
    reward: RewardHead
    termination: TerminationHead
    stages: tuple[Stage, ...]  # in the order of training
    noise_size: int  # uniform random numbers that one step of one world uses

    @abstractmethod
    def measure(self, observation: Samples, action: Samples) -> None:
        """Sets statistics of the data before training: scales, means, frequencies."""

    def measure_changes(self, before: Samples, after: Samples) -> None:
        """Takes what must be known of how observations change: rows of the data, and those that followed on them."""
        return None

    @abstractmethod
    def mean_images(self) -> dict[str, Tensor]:
        """The mean (H, W, C) fp32 in [0, 1] of each image leaf of the data."""

    @abstractmethod
    def initial(self, batch: int) -> State:
        """The state of `batch` worlds before any observation."""

    @abstractmethod
    def encode(self, observation: Flat) -> Tensor:
        """Latent codes (N, D) fp32 of observations (N, ...), each encoded by itself."""

    @abstractmethod
    def observe(self, observation: Flat, action: Flat, first: Tensor, state: State | None = None) -> Observed:
        """Observe a recorded sequence (B, T, ...), starting from `state` or the initial one; deterministic.

        Where `first` (B, T) is True, the state is reset, and the action of that row is ignored.
        """

    @abstractmethod
    def step(self, state: State, action: Flat, noise: Tensor | None) -> tuple[State, Predicted]:
        """Imagine one step under actions (B, ...); the shapes of the state do not change.

        noise: (B, noise_size) uniform in [0, 1), to sample with; None: the most probable outcome.
        """

    @abstractmethod
    def decode(self, state: State) -> dict[str, Tensor]:
        """The observation in a state after `step`: flat leaves (B, ...)."""

    @abstractmethod
    def losses(self, batch: Batch, generator: Generator, stage: Stage) -> Losses:
        """Training losses of one batch in one of `stages`; all randomness from `generator`."""

    def rounded(self) -> Self:
        """A copy with matrices in bf16, so that autocast need not cast them at every product."""
        rounded = deepcopy(self)
        for name, parameter in rounded.named_parameters():
            if parameter.ndim > 1 and min(parameter.shape[-2:]) > 1 and not name.endswith("norm"):
                parameter.data = parameter.data.bfloat16()
        return rounded


def weighted(values: Tensor, weight: Tensor | None) -> Tensor:
    """Values (B, T), each sequence multiplied by its `weight` (B,)."""
    return values if weight is None else values * weight.unsqueeze(1)


def mean_of(values: Tensor, weight: Tensor, count: Tensor) -> Tensor:
    """Sum of values (B, T) times `weight` (B, T), divided by `count`."""
    return (values * weight).sum() / count.clamp_min(1)
