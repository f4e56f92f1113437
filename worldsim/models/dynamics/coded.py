"""What the families `ssm` and `transformer` share: codes from each frame alone, a backbone over them, slot priors.

The backbone carries what one frame cannot show. The prior of a slot looks at that memory, at its own two last codes and
at the last codes of all other slots. Categorical variables are sampled first, then the codes of images and vectors,
given them.

Axes: B batch, T time, V categorical variables, S dense slots, K numbers, C levels, W width of the backbone, E code
width, N timesteps. Logits have their classes next to last and N last: sampling then runs along N.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from worldsim.models.config import CodedConfig
from worldsim.models.dynamics.base import Dynamics, SequenceOutput, StepOutput
from worldsim.models.dynamics.codes import CodeEmbedding, Codes, Quantiser, corrupted, shifted
from worldsim.models.layers import Outcomes, SlotLinear, mlp, onehot
from worldsim.models.leaves import Slots
from worldsim.models.world_model import State


class Backbone(nn.Module, ABC):
    """Memory over timesteps with an explicit state. It reads and gives back its own tensors of the state, no others."""

    @abstractmethod
    def initial(self, batch: int, device: torch.device) -> State:
        """Its part of the state of `batch` worlds before any observation."""

    @abstractmethod
    def sequence(self, x_BTW: Tensor, first_BT: Tensor, state: State) -> tuple[Tensor, State]:
        """All timesteps at once: their memory (B, T, W) and the state after the last. `first` resets the memory."""

    @abstractmethod
    def tick(self, x_BW: Tensor, state: State) -> tuple[Tensor, State]:
        """One timestep, with fixed shapes: what `sequence` gives for it."""


class SlotPrior(nn.Module):
    """Logits of the next codes of a group of slots, from the memory and all slots' last codes.

    Every slot has K variables of C classes (`numbers`, `classes`); "nothing changes" has a learned head start.
    """

    def __init__(self, memory: int, everything: int, group: slice, code: int, numbers: int, classes: int):
        super().__init__()
        self.group, self.count, self.inner = group, group.stop - group.start, 2 * code
        self.numbers, self.classes = numbers, classes
        self.memory_proj = nn.Sequential(
            nn.Linear(memory, memory // 4), nn.Linear(memory // 4, self.count * self.inner)
        )
        self.global_proj = nn.Linear(everything, self.count, bias=False)
        self.local_weight = nn.Parameter(torch.randn(self.count, 3 * code, self.inner) * (3 * code) ** -0.5)
        self.out = nn.Sequential(nn.SiLU(), nn.Linear(self.inner, 2 * self.inner, bias=False), nn.SiLU())
        self.score = SlotLinear(self.count, 2 * self.inner, numbers * classes, scale=0.1)
        self.stay = nn.Parameter(torch.zeros(self.count, 1, 1, 1))

    def forward(self, memory: Tensor, index: Tensor, last: Tensor, before: Tensor) -> Tensor:
        """memory (N, W), last codes (N, count, K), last and before (N, V + S, E); to logits (count, K, C, N)."""
        from_memory = self.memory_proj(memory).unflatten(-1, (self.count, self.inner)).transpose(0, 1)
        around = [
            last[:, self.group],
            before[:, self.group],
            torch.bmm(self.global_proj.weight.expand(len(last), -1, -1), last),
        ]
        hidden = self.out(torch.baddbmm(from_memory, torch.cat(around, -1).transpose(0, 1), self.local_weight))
        logits = self.score.batch_last(hidden).float().unflatten(1, (self.numbers, self.classes))
        last_index = slots_first(index).unsqueeze(-2)
        head_start = 10 * self.stay * (last_index < self.classes)  # nothing was seen, nothing can stay
        return logits.scatter_add(-2, last_index.clamp_max(self.classes - 1), head_start)  # type: ignore[no-any-return]


def slots_first(codes: Tensor) -> Tensor:
    """(N, slots, K) to (slots, K, N), where logits are (slots, K, C, N)."""
    return codes.permute(1, 2, 0)


class CodedDynamics(Dynamics):
    """See the module's text.

    State: the last codes, `categorical` (B, V) and `dense` (B, S, K) int64; `previous_embedding` (B, V + S, E), of the
    codes before; what the backbone keeps. `cached_embedding` (B, V + S, E) and `cached_input` (B, W) are
    functions of the last codes, which the next step would compute again.
    """

    def __init__(
        self, config: CodedConfig, nvec: Tensor, slots: int, actions: int, backbone: Callable[[], Backbone]
    ) -> None:
        super().__init__()
        variables, classes = len(nvec), int(nvec.max()) if len(nvec) else 1
        self.variables, self.classes, self.slots = variables, classes, slots
        self.numbers, self.levels, self.corrupt = config.variables, config.classes, config.corrupt
        self.possible: Tensor
        possible = torch.arange(classes) < nvec.unsqueeze(-1)
        self.register_buffer("possible", possible[:, None, :, None], persistent=False)
        self.categorical_features, self.dense_features = None, self.numbers
        self.past_width = config.width
        self.feature_width = 2 * config.width + 2 * variables * config.code_width
        self.two_stage = True
        self.noise_size = variables + slots * self.numbers
        code, everything = config.code_width, variables + slots
        self.quantise = Quantiser(slots, config.embed, self.numbers, self.levels)
        self.embed = CodeEmbedding(variables, classes, slots, self.numbers, self.levels, code)
        self.in_proj = nn.Linear(everything * code, config.width)
        self.action_proj = nn.Linear(actions, config.width)
        self.mix = mlp([config.width, config.width, config.width])
        self.backbone = backbone()
        priors = config.width, everything
        if variables:
            self.categorical_prior = SlotPrior(*priors, slice(0, variables), code, 1, classes)
        if slots:
            self.dense_prior = SlotPrior(*priors, slice(variables, everything), code, self.numbers, self.levels)
        if variables and slots:
            self.categorical_proj = nn.Linear(variables * code, config.width, bias=False)

    def initial(self, batch: int) -> State:
        where = self.in_proj.weight.device
        categorical = torch.full((batch, self.variables), self.classes, device=where)
        dense = torch.full((batch, self.slots, self.numbers), self.levels, device=where)
        nothing = self.embed.nothing()
        cached = {"cached_input": self.in_proj(nothing.flatten()).float().expand(batch, -1)}
        nothing = nothing.float().expand(batch, -1, -1)
        codes = {"categorical": categorical, "dense": dense, "cached_embedding": nothing, "previous_embedding": nothing}
        return codes | cached | self.backbone.initial(batch, where)

    def recode(self, embeds: Slots, categorical: Tensor, generator: Generator | None = None) -> Slots:
        return self._slots(categorical, self.quantise(embeds.dense, generator)[1])

    def for_decoder(self, state: State) -> Slots:
        return self._slots(state["categorical"], self.quantise.values(state["dense"]))

    def observe(
        self,
        state: State,
        embeds: Slots,
        categorical_BTV: Tensor,
        actions_BTA: Tensor,
        first_BT: Tensor,
        generator: Generator | None,
    ) -> SequenceOutput:
        index, values = self.quantise(embeds.dense)
        inputs = codes = Codes(categorical_BTV, index)
        now = embedded = self.embed(codes)
        if generator is not None and self.corrupt:
            inputs = corrupted(codes, self.corrupt, generator)
            embedded = self.embed(inputs)
        keep, nothing = (~first_BT)[..., None, None], self.embed.nothing().to(now.dtype)
        last = torch.where(keep, shifted(state["cached_embedding"], embedded), nothing)
        before = torch.where(keep, shifted(state["previous_embedding"], last), nothing)
        categorical = torch.where(keep[..., 0], shifted(state["categorical"], inputs.categorical), self.classes)
        dense = torch.where(keep, shifted(state["dense"], inputs.dense), self.levels)
        x = self._drive(self.in_proj(last.flatten(-2)), actions_BTA * keep[..., 0])
        memory, kept = self.backbone.sequence(x, first_BT, state)
        context = PriorInputs(*(part.flatten(0, 1) for part in (memory, categorical, dense, last, before)))
        losses = self._losses(context, now, codes, (~first_BT).float())
        present = self.in_proj(now.flatten(-2))
        features = self._features(memory, present, now, last)
        # The state follows on the real observation, not on the corrupted codes that this timestep learned from.
        previous = torch.where(keep[:, -1], shifted(state["cached_embedding"], now)[:, -1], nothing)
        following = {
            "categorical": categorical_BTV[:, -1],
            "dense": index[:, -1],
            "cached_input": present[:, -1].float(),
        }
        following |= {"cached_embedding": now[:, -1].float(), "previous_embedding": previous.float()}
        return SequenceOutput(following | kept, features, self._slots(categorical_BTV, values), losses)

    def _losses(self, context: "PriorInputs", now: Tensor, codes: Codes, follows: Tensor) -> dict[str, Tensor]:
        """Negative log-likelihood (B, T) in nats of the codes: categorical, and dense, which know the categorical."""
        losses, flat = {}, Codes(*(part.flatten(0, 1) for part in codes))
        if self.variables:
            logits = self._categorical_logits(context)
            losses["categorical_prior"] = _nll(logits, flat.categorical.unsqueeze(-1), follows)
        if self.slots:
            observed = now[:, :, : self.variables].flatten(0, 1)
            losses["dense_prior"] = _nll(self._dense_logits(context, observed), flat.dense, follows)
        return losses

    def step(self, state: State, action_BA: Tensor, noise_BN: Tensor | None, min_p: float) -> tuple[State, StepOutput]:
        memory, kept = self.backbone.tick(self._drive(state["cached_input"], action_BA), state)
        last, before = state["cached_embedding"], state["previous_embedding"]
        context = PriorInputs(memory, state["categorical"], state["dense"], last, before)
        categorical, dense = context.categorical, context.dense
        now, entropy = last[:, :0], memory.new_zeros(len(memory))  # nothing is sampled yet
        noise = (None, None) if noise_BN is None else noise_BN.split([self.variables, self.slots * self.numbers], -1)
        if self.variables:
            sampled, entropy = _sample(self._categorical_logits(context), noise[0], min_p)
            categorical = sampled.squeeze(-1)
            now = self.embed.of_categorical(categorical)
        if self.slots:
            dense, nats = _sample(self._dense_logits(context, now), noise[1], min_p)
            entropy = entropy + nats
            now = torch.cat([now, self.embed.of_dense(dense)], -2)
        present = self.in_proj(now.flatten(-2))
        features = self._features(memory, present, now, last)
        following = {"categorical": categorical, "dense": dense, "previous_embedding": last}
        following |= {"cached_embedding": now.float(), "cached_input": present.float()}
        return following | kept, StepOutput(features, entropy)

    def _slots(self, categorical: Tensor, values: Tensor) -> Slots:
        """The input of the decoder: one-hots of categorical variables, numbers in [-1, 1] of all others."""
        return Slots(onehot(categorical, self.classes).to(values.dtype), values)

    def _features(self, memory: Tensor, present: Tensor, now: Tensor, last: Tensor) -> Tensor:
        """What the heads read: the memory, everything now, and categorical variables now and before.

        Rewards are mostly written in these: a score that changed, a field that was set.
        """
        parts = [memory, present]
        if self.variables:
            parts += [embedded[..., : self.variables, :].flatten(-2) for embedded in (now, last)]
        return torch.cat(parts, -1)

    def _drive(self, codes: Tensor, action: Tensor) -> Tensor:
        """What the backbone reads (..., W): the codes, projected, and the action that followed them."""
        x = codes + self.action_proj(action)
        return x + self.mix(x)  # type: ignore[no-any-return]

    def _categorical_logits(self, context: "PriorInputs") -> Tensor:
        """Logits (V, 1, classes, N) of the categorical variables; log-probabilities up to a constant."""
        logits = self.categorical_prior(context.memory, context.categorical.unsqueeze(-1), context.last, context.before)
        return logits.masked_fill(~self.possible, -1e9)  # type: ignore[no-any-return]

    def _dense_logits(self, context: "PriorInputs", categorical: Tensor) -> Tensor:
        """Logits (S, K, C, N) of the dense codes, given the categorical variables of their own timestep (N, V, E)."""
        known = context.memory + self.categorical_proj(categorical.flatten(-2)) if self.variables else context.memory
        return self.dense_prior(known, context.dense, context.last, context.before)  # type: ignore[no-any-return]


class PriorInputs(NamedTuple):
    """What N timesteps are predicted from."""

    memory: Tensor  # (N, W)
    categorical: Tensor  # (N, V) last codes
    dense: Tensor  # (N, S, K) last codes
    last: Tensor  # (N, V + S, E) the same, embedded
    before: Tensor  # (N, V + S, E) those before


def _nll(logits: Tensor, index: Tensor, follows: Tensor) -> Tensor:
    """Negative log-likelihood (B, T) in nats of codes (B*T, slots, K) by logits (slots, K, C, B*T)."""
    log_probs = F.log_softmax(logits, -2).gather(-2, slots_first(index).unsqueeze(-2))
    return -log_probs.sum((0, 1, 2)).view_as(follows) * follows


def _sample(logits: Tensor, noise: Tensor | None, min_p: float) -> tuple[Tensor, Tensor]:
    """Codes (N, slots, K) sampled from logits (slots, K, C, N) by noise (N, slots*K), and the entropy (N,) in nats."""
    outcomes = Outcomes.of(logits, min_p, -2)
    uniform = None if noise is None else slots_first(noise.unflatten(-1, logits.shape[:2]))
    return outcomes.sample(uniform).permute(2, 0, 1).contiguous(), outcomes.entropy().sum((0, 1))
