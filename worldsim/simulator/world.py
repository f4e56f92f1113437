"""The World: a learned environment as pure functions of an explicit state."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.models.checkpoint import WorldManifest, open_world
from worldsim.models.dynamics import Latent
from worldsim.models.layers import draw
from worldsim.models.world_model import WorldModel
from worldsim.simulator.calibration import Calibration, Trust
from worldsim.simulator.noise import uniforms
from worldsim.spaces import space_from_json

Arrays = dict[str, NDArray[Any]]
Observe = Literal["frame", "latent"]


class WorldState(NamedTuple):
    """Where B worlds are. A value: keep one and you have a snapshot."""

    latent: dict[str, Tensor]  # of the dynamics, (B, ...)
    seed: Tensor  # (B,) int64
    tick: Tensor  # (B,) int64, steps since the start
    doubt: Tensor  # (B,) fp32 nats, the entropy of what was drawn, summed over the imagined steps
    novelty: Tensor  # (B,) fp32, the ensemble's greatest disagreement in the imagined steps
    observation: dict[str, Tensor]  # what was last seen, flat leaves (B, ...); empty after a step that drew nothing


class Step(NamedTuple):
    """What a step gives back."""

    observation: Arrays  # flat leaves (B, ...); empty where only the latent state was asked for
    reward: NDArray[np.float32]  # (B,)
    terminated: NDArray[np.bool_]  # (B,)
    trust: NDArray[np.float32]  # (B,) in [0, 1]: calibrated probability that this prediction is within tolerance


class Foreseen(NamedTuple):
    """What a tick leads to, before reward and termination are read off it."""

    state: WorldState
    latent: Latent
    ending: Tensor | None  # (B,) uniform in [0, 1), for termination; None: the most probable
    paying: Tensor | None  # (B,) likewise, for the reward


class World:
    """A learned world. Its methods change nothing: states go in and come out.

    sample: draw each future from the predicted distribution; False takes the most probable one.
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
    ):
        self.manifest, self.model, self.starts = manifest, model.eval(), dict(starts)
        self.calibration, self.certificate, self.sample = calibration, certificate, sample
        self.observation_space = space_from_json(manifest.observation_space)
        self.action_space = space_from_json(manifest.action_space)
        self.metadata, self.horizon, self.config = manifest.metadata, manifest.horizon, manifest.model

    @property
    def trust(self) -> Trust | None:
        """What the world's trust is calibrated by; None where it is not."""
        return None if self.calibration is None else self.calibration.trust

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

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
        chosen = (uniforms(keys, torch.full_like(keys, -1), 1)[:, 0] * total).long()
        observation = {name: rows[chosen].unsqueeze(1) for name, rows in self.starts.items()}
        return self._observed(observation, None, None, keys)

    @torch.inference_mode()
    def encode(self, observation: Mapping[str, NDArray[Any]], seeds: Sequence[int]) -> WorldState:
        """Worlds that begin at the given flat observations (B, ...)."""
        seen = {name: self._tensor(value).unsqueeze(1) for name, value in observation.items()}
        return self._observed(seen, None, None, torch.tensor(seeds, dtype=torch.long, device=self.device))

    @torch.inference_mode()
    def codes(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Where flat observations (B, ...), each seen by itself, lie in latent space: (B, D), what is decoded."""
        seen = {name: self._tensor(value).unsqueeze(1) for name, value in observation.items()}
        first = torch.ones(next(iter(seen.values())).shape[:2], dtype=torch.bool, device=self.device)
        latent = self.model.observe(seen, self._no_action(first.shape), first).latent
        slots = self.model.dynamics.for_decoder(latent)
        return torch.cat([part.flatten(1).float() for part in slots], 1).cpu().numpy()

    @torch.inference_mode()
    def observe(
        self,
        observation: Mapping[str, NDArray[Any]],
        action: Mapping[str, NDArray[Any]],
        first: NDArray[np.bool_],
        seeds: Sequence[int],
    ) -> WorldState:
        """Worlds that have seen a recorded prefix: flat leaves (B, T, ...), `first` (B, T)."""
        seen = {name: self._tensor(value) for name, value in observation.items()}
        done = {name: self._tensor(value) for name, value in action.items()}
        keys = torch.tensor(seeds, dtype=torch.long, device=self.device)
        return self._observed(seen, done, self._tensor(first), keys)

    @torch.inference_mode()
    def follow(
        self, state: WorldState, observation: Mapping[str, NDArray[Any]], action: Mapping[str, NDArray[Any]]
    ) -> WorldState:
        """Worlds that, after `state`, really saw the flat `observation` (B, ...) that `action` (B, ...) led to."""
        seen = {name: self._tensor(value).unsqueeze(1) for name, value in observation.items()}
        done = {name: self._tensor(value).unsqueeze(1) for name, value in action.items()}
        first = torch.zeros(len(state.seed), 1, dtype=torch.bool, device=self.device)
        latent = self.model.observe(seen, done, first, state.latent).state
        last = {name: value[:, -1] for name, value in seen.items()}
        return WorldState(latent, state.seed, state.tick + 1, *self._sure(len(state.seed)), last)

    def observation(self, state: WorldState) -> Arrays:
        """What was last seen: recorded for a start, decoded after a step. Flat leaves (B, ...)."""
        return {name: value.cpu().numpy().copy() for name, value in state.observation.items()}

    @torch.inference_mode()
    def step(
        self, state: WorldState, actions: Mapping[str, NDArray[Any]], observe: Observe = "frame"
    ) -> tuple[WorldState, Step]:
        """One tick of every world under flat actions (B, ...).

        observe: "latent" draws no observation, for planners that read rewards and endings alone; the future is as ever.
        """
        following, latent, ending, paying = self.foresee(state, actions, observe)
        heat = self.calibration.reward if self.calibration else 1.0
        reward = self.model.reward.draw(latent.features, paying, self.config.min_p, heat).cpu().numpy()
        terminated = self._terminated(latent, ending)
        return following, Step(self.observation(following), reward, terminated, self._trust(following))

    @torch.inference_mode()
    def foresee(self, state: WorldState, actions: Mapping[str, NDArray[Any]], observe: Observe = "frame") -> Foreseen:
        """The dynamics' and the decoder's part of `step`."""
        model = self.model
        encoded = model.act({name: self._tensor(value) for name, value in actions.items()})
        noise = uniforms(state.seed, state.tick, model.dynamics.noise_size + 2) if self.sample else None
        ending, inner, paying = (None,) * 3 if noise is None else (noise[:, 0], noise[:, 1:-1], noise[:, -1])
        latent, now = model.dynamics.step(state.latent, encoded, inner, model.config.min_p)
        observation = model.codec.decode(model.dynamics.for_decoder(now)) if observe == "frame" else {}
        assert now.entropy is not None, "a family's step gives the entropy of what it drew"
        disagreement = model.ensemble.disagreement(now.features[..., : model.dynamics.past_width])
        sure = state.doubt + now.entropy, torch.maximum(state.novelty, disagreement)
        following = WorldState(latent, state.seed, state.tick + 1, *sure, observation)
        return Foreseen(following, now, ending, paying)

    def merge(self, mask: NDArray[np.bool_], a: WorldState, b: WorldState) -> WorldState:
        """Rows of `a` where `mask` (B,) is true, rows of `b` elsewhere."""
        where = self._tensor(mask)

        def pick(x: Tensor, y: Tensor) -> Tensor:
            return torch.where(where.view(-1, *[1] * (x.dim() - 1)), x, y)

        latent = {name: pick(a.latent[name], b.latent[name]) for name in a.latent}
        observation = {name: pick(a.observation[name], b.observation[name]) for name in a.observation}
        seed, tick = pick(a.seed, b.seed), pick(a.tick, b.tick)
        doubt, novelty = pick(a.doubt, b.doubt), pick(a.novelty, b.novelty)
        return WorldState(latent, seed, tick, doubt, novelty, observation)

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
        latent = self.model.observe(observation, taken, first).state
        last = {name: value[:, -1] for name, value in observation.items()}
        return WorldState(latent, seed, torch.zeros_like(seed), *self._sure(len(seed)), last)

    def _sure(self, count: int) -> tuple[Tensor, Tensor]:
        """No doubt and no novelty yet."""
        return torch.zeros(count, device=self.device), torch.zeros(count, device=self.device)

    def _no_action(self, shape: torch.Size) -> dict[str, Tensor]:
        found = self.model.act.leaves
        types = [torch.long if leaf.kind == "categorical" else torch.float32 for leaf in found]
        return {
            leaf.name: torch.zeros((*shape, *leaf.shape), dtype=kind, device=self.device)
            for leaf, kind in zip(found, types, strict=True)
        }

    def _terminated(self, latent: Latent, uniform: Tensor | None) -> NDArray[np.bool_]:
        heat = self.calibration.termination if self.calibration else 1.0
        logit = self.model.termination(latent.features) / heat
        both = torch.nn.functional.logsigmoid(torch.stack([-logit, logit], -1))
        return draw(both, uniform).bool().cpu().numpy()

    def _trust(self, state: WorldState) -> NDArray[np.float32]:
        if self.trust is None:
            return np.zeros(len(state.doubt), np.float32)
        return self.trust.of(state.doubt.cpu().numpy(), state.novelty.cpu().numpy())

    def _tensor(self, value: NDArray[Any]) -> Tensor:
        return torch.as_tensor(np.require(value, requirements=["C", "W"]), device=self.device)


def load(path: str | Path, device: str | torch.device = "cpu", sample: bool = True) -> World:
    """Opens a world's directory. Raises CheckpointError, in one line, where it cannot be used."""
    opened = open_world(path, device)
    file = Path(path) / "fidelity.json"
    certificate = json.loads(file.read_text()) if file.is_file() else None
    return World(*opened, Calibration.read(Path(path)), certificate, sample)
