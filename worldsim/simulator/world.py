"""The World: a learned environment as pure functions of an explicit state."""

import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from worldsim.devices import device_of
from worldsim.errors import ConfigError
from worldsim.models.checkpoint import WorldManifest, open_world
from worldsim.models.config import PRECISIONS, AnyPrecision, Precision
from worldsim.models.world_model import WorldModel
from worldsim.simulator.calibration import Calibration, Trust, certificate_of
from worldsim.simulator.noise import NoiseSource, uniforms
from worldsim.spaces import Arrays, leaves, space_from_json

Observe = Literal["frame", "latent"]
Temperatures = tuple[float, float]  # of the heads for reward and termination
BATCH, ROUNDS, WORTH = 64, 8, 1.1  # worlds and steps that precisions are tried with, and what bf16 must be faster by
PIECE = 512  # worlds that a CPU steps at once: the tensors of more are handed back and zeroed again at every step

if hasattr(os, "register_at_fork"):
    # A child of a process that has stepped would wait for threads of its parent, which it does not have.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


class WorldState(NamedTuple):
    """Where B worlds are. A value: keep one and you have a snapshot."""

    latent: dict[str, Tensor]  # of the dynamics, (B, ...)
    seed: Tensor  # (B,) int64
    tick: Tensor  # (B,) int64, steps since the start
    cumulative_entropy: Tensor  # (B,) fp32 nats, of what was drawn, summed over the imagined steps
    disagreement: Tensor  # (B,) fp32, the ensemble's greatest in the imagined steps
    observation: dict[str, Tensor]  # the last observation, flat leaves (B, ...); empty after a step that drew nothing


class Step(NamedTuple):
    """What a step gives back."""

    observation: Arrays  # flat leaves (B, ...); empty where only the latent state was asked for
    reward: NDArray[np.float32]  # (B,)
    terminated: NDArray[np.bool_]  # (B,)
    trust: NDArray[np.float32]  # (B,) in [0, 1]: calibrated probability that this prediction is within tolerance


class Tick(NamedTuple):
    """What one tick of B worlds leads to."""

    state: WorldState
    features: Tensor  # (B, F): what the heads read
    reward: Tensor  # (B,) fp32
    terminated: Tensor  # (B,) bool


def tick(
    model: WorldModel,
    state: WorldState,
    actions: Mapping[str, Tensor],
    observe: Observe,
    chance: NoiseSource | None,
    temperatures: Temperatures,
) -> Tick:
    """One tick of every world as tensors alone, which is what `torch.compile` captures.

    chance: where its random numbers come from; None takes the most probable future.
    """
    noise = None if chance is None else uniforms(state.seed, state.tick, chance)
    ending, inner, paying = (None,) * 3 if noise is None else (noise[:, 0], noise[:, 1:-1], noise[:, -1])
    latent, now = model.step(state.latent, actions, inner)
    observation = model.decode(latent) if observe == "frame" else {}
    disagreement = torch.maximum(state.disagreement, now.disagreement)
    uncertainty = state.cumulative_entropy + now.entropy, disagreement
    reward = model.reward.sample(now.features, paying, model.config.min_p, temperatures[0])
    terminated = model.termination.sample(now.features, ending, temperatures[1])
    return Tick(
        WorldState(latent, state.seed, state.tick + 1, *uncertainty, observation), now.features, reward, terminated
    )


class World:
    """A learned world. Its methods change nothing: states go in and come out.

    sample: draw each future from the predicted distribution; False takes the most probable one.
    fused: a tick is compiled (`torch.compile`) into few large operations, on CUDA into a captured graph. The first step
    of every batch size takes up to a minute for it. Raises ConfigError where there is no compiler.
    precision: "bf16-mixed" steps with products in bf16, which some processors compute faster for batches, and others
    more slowly. States, norms and draws stay in fp32, as does all that follows real observations.
    Without a calibration (`worldsim validate` writes one) trust is 0: nothing is known about it.
    """

    def __init__(
        self,
        manifest: WorldManifest,
        model: WorldModel,
        starts: Mapping[str, Tensor],
        calibration: Calibration | None = None,
        certificate: dict[str, Any] | None = None,
        sample: bool = True,
        fused: bool = False,
        precision: Precision = "32-true",
    ):
        if precision not in PRECISIONS:
            raise ConfigError(f"precision={precision}: must be {' or '.join(map(repr, PRECISIONS))}")
        self.manifest, self.model, self.starts = manifest, model.eval(), dict(starts)
        self.precision, self.device = precision, next(model.parameters()).device
        self._rounded = self.model.rounded() if precision == "bf16-mixed" else None
        self.calibration, self.certificate, self.sample = calibration, certificate, sample
        self.observation_space = space_from_json(manifest.observation_space)
        self.action_space = space_from_json(manifest.action_space)
        self._tick = _fused(self.device) if fused else tick
        self._chance = NoiseSource.of(self.model.noise_size + 2, self.device) if sample else None
        self.metadata, self.horizon, self.config = manifest.metadata, manifest.horizon, manifest.model

    @property
    def trust(self) -> Trust | None:
        """What the world's trust is calibrated by; None where it is not."""
        return None if self.calibration is None else self.calibration.trust

    @torch.inference_mode()
    def start(self, count: int, seed: int = 0) -> WorldState:
        """`count` worlds at recorded starts. World i is the one that seed number i of `seed` gives."""
        seeds = np.random.default_rng(seed).integers(2**62, size=count)
        return self.start_seeds(seeds.tolist())

    @torch.inference_mode()
    def start_seeds(self, seeds: Sequence[int]) -> WorldState:
        """One world a seed, each at the recorded start that its seed draws."""
        total = len(next(iter(self.starts.values())))
        keys = torch.tensor(seeds, dtype=torch.long, device=self.device)
        chosen = (uniforms(keys, torch.full_like(keys, -1), NoiseSource.of(1, self.device))[:, 0] * total).long()
        observation = {name: rows[chosen].unsqueeze(1) for name, rows in self.starts.items()}
        return self._observed(observation, None, None, keys)

    @torch.inference_mode()
    def encode(self, observation: Mapping[str, NDArray[Any]], seeds: Sequence[int]) -> WorldState:
        """Worlds that begin at the given flat observations (B, ...)."""
        tensors = {name: self._tensor(value).unsqueeze(1) for name, value in observation.items()}
        return self._observed(tensors, None, None, torch.tensor(seeds, dtype=torch.long, device=self.device))

    @torch.inference_mode()
    def codes(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Where flat observations (B, ...), each by itself, lie in latent space: (B, D), what is decoded."""
        return self.model.encode({name: self._tensor(value) for name, value in observation.items()}).cpu().numpy()

    @torch.inference_mode()
    def observe(
        self,
        observation: Mapping[str, NDArray[Any]],
        action: Mapping[str, NDArray[Any]],
        first: NDArray[np.bool_],
        seeds: Sequence[int],
    ) -> WorldState:
        """Worlds after a recorded prefix: flat leaves (B, T, ...), `first` (B, T)."""
        tensors = {name: self._tensor(value) for name, value in observation.items()}
        actions = {name: self._tensor(value) for name, value in action.items()}
        keys = torch.tensor(seeds, dtype=torch.long, device=self.device)
        return self._observed(tensors, actions, self._tensor(first), keys)

    @torch.inference_mode()
    def follow(
        self, state: WorldState, observation: Mapping[str, NDArray[Any]], action: Mapping[str, NDArray[Any]]
    ) -> WorldState:
        """Worlds after `state`, the flat `action` (B, ...), and the real flat `observation` (B, ...) that it led to."""
        tensors = {name: self._tensor(value).unsqueeze(1) for name, value in observation.items()}
        actions = {name: self._tensor(value).unsqueeze(1) for name, value in action.items()}
        first = torch.zeros(len(state.seed), 1, dtype=torch.bool, device=self.device)
        latent = _own(self.model.observe(tensors, actions, first, state.latent).state)
        last = {name: value[:, -1] for name, value in tensors.items()}
        return WorldState(latent, state.seed, state.tick + 1, *self._certain(len(state.seed)), last)

    def observation(self, state: WorldState) -> Arrays:
        """The last observation: recorded for a start, decoded after a step. Flat leaves (B, ...)."""
        shown = state.observation
        return dict(zip(shown, _given(shown.values()), strict=True))

    @torch.inference_mode()
    def step(
        self, state: WorldState, actions: Mapping[str, NDArray[Any]], observe: Observe = "frame"
    ) -> tuple[WorldState, Step]:
        """One tick of every world under flat actions (B, ...).

        observe: "latent" draws no observation, for planners that read rewards and endings alone; the future is as ever.
        """
        now = self.predict(state, actions, observe)
        state, observation = now.state, now.state.observation
        scalars = (now.reward, now.terminated, state.cumulative_entropy, state.disagreement)
        reward, terminated, entropy, disagreement, *drawn = _given([*scalars, *observation.values()])
        trust = np.zeros_like(entropy) if self.trust is None else self.trust.of(entropy, disagreement)
        return state, Step(dict(zip(observation, drawn, strict=True)), reward, terminated, trust)

    @torch.inference_mode()
    def predict(self, state: WorldState, actions: Mapping[str, NDArray[Any]], observe: Observe = "frame") -> Tick:
        """What `step` gives, but for trust, still on the device."""
        temperatures = (self.calibration.reward, self.calibration.termination) if self.calibration else (1.0, 1.0)
        given = {name: self._tensor(value) for name, value in actions.items()}
        pieces: Iterable[tuple[WorldState, dict[str, Tensor]]] = [(state, given)]
        if self.device.type == "cpu" and len(state.seed) > PIECE:
            pieces = zip(_split(state, PIECE), _split(given, PIECE), strict=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._rounded is not None):
            model = self._rounded or self.model
            ticks = [self._tick(model, *piece, observe, self._chance, temperatures) for piece in pieces]
        return ticks[0] if len(ticks) == 1 else tree_map(lambda *parts: torch.cat(parts), *ticks)

    def take(self, mask: NDArray[np.bool_], state: WorldState) -> WorldState:
        """The worlds where `mask` (B,) is true."""
        rows = self._rows(mask)
        return _each(lambda x: x.index_select(0, rows), state)

    def merge(self, mask: NDArray[np.bool_], new: WorldState, state: WorldState) -> WorldState:
        """The `state` with the worlds of `new`, in order, where `mask` (B,) is true.

        Raises ConfigError where one of them shows its observation and the other, after observe="latent", does not.
        """
        if bool(new.observation) != bool(state.observation):
            raise ConfigError('one state was stepped with observe="latent" and shows nothing; step both alike')
        rows = self._rows(mask)
        return _each(lambda x, y: x.index_copy(0, rows, y), state, new)

    def _rows(self, mask: NDArray[np.bool_]) -> Tensor:
        return torch.as_tensor(np.flatnonzero(mask), device=self.device)

    def _observed(
        self, observation: dict[str, Tensor], action: dict[str, Tensor] | None, first: Tensor | None, seed: Tensor
    ) -> WorldState:
        shape = next(iter(observation.values())).shape[:2]
        if first is None:
            first = torch.ones(shape, dtype=torch.bool, device=self.device)
        else:
            first = first.clone()
            first[:, 0] = True
        taken = action if action is not None else self._no_action(shape)
        latent = _own(self.model.observe(observation, taken, first).state)
        last = {name: value[:, -1] for name, value in observation.items()}
        return WorldState(latent, seed, torch.zeros_like(seed), *self._certain(len(seed)), last)

    def _certain(self, count: int) -> tuple[Tensor, Tensor]:
        """Entropy and disagreement of worlds that have imagined nothing yet: zero."""
        return torch.zeros(count, device=self.device), torch.zeros(count, device=self.device)

    def _no_action(self, shape: torch.Size) -> dict[str, Tensor]:
        found = leaves(self.action_space)
        types = [torch.long if leaf.is_discrete else torch.float32 for leaf in found]
        return {
            leaf.name: torch.zeros((*shape, *leaf.shape), dtype=kind, device=self.device)
            for leaf, kind in zip(found, types, strict=True)
        }

    def _tensor(self, value: NDArray[Any]) -> Tensor:
        """In memory of its own: a state is a value, whatever the caller does with the array."""
        return torch.as_tensor(np.array(value, order="C"), device=self.device)


def _given(tensors: Collection[Tensor]) -> list[NDArray[Any]]:
    """Copies that the caller may keep. They travel together, into pinned memory: a device is waited for once."""
    copies = [tensor.to("cpu", non_blocking=True, copy=True) for tensor in tensors]
    for device in {tensor.device for tensor in tensors if tensor.is_cuda}:
        torch.cuda.current_stream(device).synchronize()
    return [copy.numpy() for copy in copies]


def _split(values: Any, size: int) -> list[Any]:
    """The same structure once for every `size` rows (B, ...) of its tensors."""
    flat, structure = tree_flatten(values)
    return [tree_unflatten(rows, structure) for rows in zip(*(each.split(size) for each in flat), strict=True)]


def _each(change: Callable[..., Tensor], *states: WorldState) -> WorldState:
    """A state of what `change` makes of every tensor of the states."""

    def changed(*values: Any) -> Any:
        if isinstance(values[0], Mapping):
            return {name: change(*(value[name] for value in values)) for name in values[0]}
        return change(*values)

    return WorldState(*(changed(*values) for values in zip(*states, strict=True)))


def _own(latent: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of one moment by itself, laid out as all of them are: compiled code is made for one layout."""
    return {name: value.flatten().view(value.shape) for name, value in latent.items()}


def _fused(device: torch.device) -> Callable[..., Tick]:
    """`tick`, compiled for fixed shapes."""
    named, known = ("CXX", ("g++", "clang++")) if device.type == "cpu" else ("CC", ("gcc", "clang", "cc"))
    if not os.environ.get(named) and not any(map(shutil.which, known)):
        what = "C++" if device.type == "cpu" else "C"
        raise ConfigError(f"fused=True needs a {what} compiler and found none: install {known[0]}, or leave it out")
    own: dict[str, Any] = {"recompile_limit": 64, "isolate_recompiles": True}
    options: dict[str, Any] = {"cpp_wrapper": True} if device.type == "cpu" else {"triton.cudagraphs": True}
    try:
        # A world's model never changes, and what is compiled is its own: to check every module before each step takes
        # 0.1 to 0.2 ms.
        options["guard_filter_fn"] = torch.compiler.skip_guard_on_all_nn_modules_unsafe
        compiled = torch.compile(tick, dynamic=False, options=options, **own)
    except (AttributeError, TypeError) as error:
        raise ConfigError(f"fused=True needs torch 2.13 or later, and this is {torch.__version__}") from error

    def run(*given: Any) -> Tick:
        now: Tick = compiled(*given)
        if device.type == "cuda":  # a captured graph writes what comes next to the same places, and a state is a value
            return tree_map(lambda value: value.clone(memory_format=torch.contiguous_format), now)  # type: ignore[no-any-return]
        return now._replace(state=now.state._replace(latent=_own(now.state.latent)))

    return run


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    sample: bool = True,
    fused: bool = False,
    precision: AnyPrecision = "32-true",
) -> World:
    """Opens a world's directory on a device: "auto" takes a GPU where there is one. See `World`.

    precision: "auto" steps 64 worlds in each for a moment and takes the faster, which `World.precision` then says.
    Raises CheckpointError, in one line, where the world cannot be used, ConfigError where device or precision cannot.
    """
    opened = open_world(path, device_of(device))
    calibration, certificate = Calibration.read(Path(path)), certificate_of(Path(path))

    def world(precision: Precision) -> World:
        return World(*opened, calibration, certificate, sample, fused, precision)

    return _faster(world) if precision == "auto" else world(precision)


def _faster(world: Callable[[Precision], World]) -> World:
    """The world in the precision in which a batch of it steps faster; fp32 where that hardly matters."""
    tried = {precision: world(precision) for precision in PRECISIONS}
    took = dict.fromkeys(PRECISIONS, float("inf"))
    start = next(iter(tried.values())).start(BATCH)
    nothing = {leaf.name: np.zeros((BATCH, *leaf.shape), leaf.dtype) for leaf in leaves(tried["32-true"].action_space)}
    for _ in range(ROUNDS):  # in turns, so that a busy machine slows both alike
        for precision, each in tried.items():
            begun = time.perf_counter()
            each.step(start, nothing)
            took[precision] = min(took[precision], time.perf_counter() - begun)
    return tried["bf16-mixed" if WORTH * took["bf16-mixed"] < took["32-true"] else "32-true"]
