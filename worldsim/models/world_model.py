"""What a family of world models implements, and the values that go in and come out.

A family owns its model: how it encodes and decodes, what its state holds, in which stages it is trained and for which
losses. Training, the simulator and validation know this page and nothing below it.

Axes: B batch, T time, N any number of moments. A moment is an observation and the action that led to it.
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
Samples = Mapping[str, Iterable[Tensor]]  # leaves of a space by name: rows of the data, (N, ...) a part
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
    surprise: Tensor | None = None  # (B,): how badly a moment of each sequence was predicted, on average

    def each(self, change: Callable[[Tensor], Tensor]) -> "Losses":
        """The losses with every tensor changed."""
        return Losses(*(_each(part, change) for part in self))

    @staticmethod
    def of(parts: dict[str, Tensor], surprise: Tensor | None = None) -> "Losses":
        """The weighted sum of scalar losses."""
        total = torch.stack([WEIGHTS.get(name, 1.0) * loss for name, loss in parts.items()]).sum()
        return Losses(total, {name: loss.detach() for name, loss in parts.items()}, surprise)


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Mapping):
        return {name: _each(part, change) for name, part in value.items()}
    return None if value is None else change(value)


class Stage(NamedTuple):
    """A stretch of training that a family asks for."""

    name: str  # what `losses` is given
    frames: bool = False  # single moments, `trainer.codec_frames` of them for `trainer.codec_steps`, and no sequences


class Observed(NamedTuple):
    """What following a recorded sequence gives."""

    state: State  # after the last moment
    features: Tensor  # (B, T, F): what the heads read of each moment, its observation known


class Predicted(NamedTuple):
    """What one imagined step gives beside the state."""

    features: Tensor  # (B, F): what the heads read
    entropy: Tensor  # (B,) at least 0, nats: how open this step's future was
    disagreement: Tensor  # (B,) at least 0: how much an ensemble disagrees on it, the more the less data there was


class WorldModel(nn.Module, ABC):
    """A learned world: pure functions of explicit states.

    A family sets `reward` and `termination`, heads on its features, and what is declared below.
    """

    config: ModelConfig
    reward: RewardHead
    termination: TerminationHead
    stages: tuple[Stage, ...]  # in the order of training
    noise_size: int  # how many uniform numbers one step of one world consumes

    @abstractmethod
    def measure(self, observation: Samples, action: Samples) -> None:
        """Takes what must be known of the data before training: scales, means, frequencies."""

    def measure_changes(self, before: Samples, after: Samples) -> None:
        """Takes what must be known of how observations change: rows of the data, and those that followed on them."""
        return None

    @abstractmethod
    def mean_images(self) -> dict[str, Tensor]:
        """The mean (H, W, C) fp32 in [0, 1] of each image leaf of the data."""

    @abstractmethod
    def initial(self, batch: int) -> State:
        """The state of `batch` worlds before anything was seen."""

    @abstractmethod
    def encode(self, observation: Flat) -> Tensor:
        """Where observations (N, ...), each seen by itself, lie in latent space: (N, D) fp32."""

    @abstractmethod
    def observe(self, observation: Flat, action: Flat, first: Tensor, state: State | None = None) -> Observed:
        """Follow a recorded sequence (B, T, ...), on from `state` or from nothing; a deterministic function.

        Where `first` (B, T), an episode begins and everything before it is forgotten, the action that led there too.
        """

    @abstractmethod
    def step(self, state: State, action: Flat, noise: Tensor | None) -> tuple[State, Predicted]:
        """Imagine one step under actions (B, ...), with shapes that stay as they are.

        noise: (B, noise_size) uniform in [0, 1); None: the most probable future.
        """

    @abstractmethod
    def decode(self, state: State) -> dict[str, Tensor]:
        """What is seen in a state after `step`: flat leaves (B, ...)."""

    @abstractmethod
    def losses(self, batch: Batch, generator: Generator, stage: Stage) -> Losses:
        """Training losses of one batch in one of `stages`; all randomness from `generator`."""

    def rounded(self) -> Self:
        """A copy whose matrices are in bf16: autocast to it, products find them cast and need not do so every time."""
        rounded = deepcopy(self)
        for name, parameter in rounded.named_parameters():
            if parameter.ndim > 1 and min(parameter.shape[-2:]) > 1 and not name.endswith("norm"):
                parameter.data = parameter.data.bfloat16()
        return rounded


def weighted(values: Tensor, weight: Tensor | None) -> Tensor:
    """Values (B, T) with every sequence as heavy as `weight` (B,) says."""
    return values if weight is None else values * weight.unsqueeze(1)


def mean_of(values: Tensor, weight: Tensor, count: Tensor) -> Tensor:
    """The mean over moments (B, T) of which `count` count, as heavy as `weight` (B, T) says."""
    return (values * weight).sum() / count.clamp_min(1)
