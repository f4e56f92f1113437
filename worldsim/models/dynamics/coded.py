"""What the families `ssm` and `transformer` share: codes from each frame alone, a backbone over them, slot priors.

The backbone carries what one frame cannot show. The prior of a slot looks at that memory, at its own two last codes and
at the last codes of all other slots. The record is drawn before the picture, which is drawn to fit it.

Axes: B batch, T time, V categorical variables, S dense slots, K numbers, C levels, W width of the backbone, E code
width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Generator, Tensor, nn

from worldsim.models.codec import Slots
from worldsim.models.config import CodedConfig
from worldsim.models.dynamics.base import Dynamics, Latent, Observed, State
from worldsim.models.dynamics.codes import CodeEmbedding, Codes, OneHot, Quantiser, corrupted, shifted
from worldsim.models.layers import SlotLinear, draw, mlp


class Backbone(nn.Module, ABC):
    """Memory over moments with an explicit state. It reads and gives back its own tensors of the state, no others."""

    @abstractmethod
    def initial(self, batch: int, device: torch.device) -> State:
        """Its part of the state of `batch` worlds before anything was seen."""

    @abstractmethod
    def sequence(self, x_BTW: Tensor, first_BT: Tensor, state: State) -> tuple[Tensor, State]:
        """All moments at once: their memory (B, T, W) and the state after the last. `first` forgets what was before."""

    @abstractmethod
    def tick(self, x_BW: Tensor, state: State) -> tuple[Tensor, State]:
        """One moment, with fixed shapes: what `sequence` gives for it."""


class SlotPrior(nn.Module):
    """Scores of the next codes of a group of slots, from the memory and all slots' last codes.

    `scores` is the width of a slot's scores; "nothing changes" has a learned head start for every slot.
    """

    def __init__(self, memory: int, everything: int, group: slice, code: int, scores: int):
        super().__init__()
        self.group, self.count, self.inner = group, group.stop - group.start, 2 * code
        self.tell = nn.Linear(memory, self.count * self.inner)
        self.own = SlotLinear(self.count, 2 * code, self.inner)
        self.others = nn.Linear(everything, self.count, bias=False)
        self.blend = nn.Linear(code, self.inner)
        self.out = nn.Sequential(nn.SiLU(), nn.Linear(self.inner, 2 * self.inner), nn.SiLU())
        self.score = SlotLinear(self.count, 2 * self.inner, scores, scale=0.1)
        self.stay = nn.Parameter(torch.zeros(self.count, 1))

    def forward(self, memory: Tensor, codes: Tensor, last: Tensor, before: Tensor) -> Tensor:
        """memory (N, W), one-hot codes (N, count, scores), last and before (N, V + S, E); to scores like codes."""
        told = rearrange(self.tell(memory), "n (s e) -> n s e", e=self.inner)
        own = self.own(torch.cat([last[:, self.group], before[:, self.group]], -1))
        others = self.blend(self.others(last.transpose(1, 2)).transpose(1, 2))
        return self.score(self.out(told + own + others)).float() + 10 * self.stay * codes  # type: ignore[no-any-return]


class CodedDynamics(Dynamics):
    """See the module's text. State: two last codes, (B, V) and (B, S, K) int64 each, and what the backbone keeps."""

    def __init__(
        self, config: CodedConfig, nvec: Tensor, slots: int, actions: int, backbone: Callable[[], Backbone]
    ) -> None:
        super().__init__()
        variables, classes = len(nvec), int(nvec.max()) if len(nvec) else 1
        self.variables, self.classes, self.slots = variables, classes, slots
        self.numbers, self.levels, self.corrupt = config.variables, config.classes, config.corrupt
        self.possible: Tensor
        self.register_buffer("possible", torch.arange(classes) < nvec.unsqueeze(-1), persistent=False)
        self.record_features, self.dense_features = None, self.numbers
        self.past_width = config.width
        self.feature_width = 2 * config.width + 2 * variables * config.code_width
        self.separable = True
        self.noise_size = variables + slots * self.numbers
        code, everything = config.code_width, variables + slots
        self.quantise = Quantiser(slots, config.embed, self.numbers, self.levels)
        self.embed = CodeEmbedding(variables, classes, slots, self.numbers, self.levels, code)
        self.enter = nn.Linear(everything * code, config.width)
        self.act = nn.Linear(actions, config.width)
        self.mix = mlp([config.width, config.width, config.width])
        self.backbone = backbone()
        self.record_prior = SlotPrior(config.width, everything, slice(0, variables), code, classes)
        scores = self.numbers * self.levels
        self.dense_prior = SlotPrior(config.width, everything, slice(variables, everything), code, scores)
        self.tell_record = nn.Linear(variables * code, config.width, bias=False)

    def initial(self, batch: int) -> State:
        where = self.enter.weight.device
        record = torch.full((batch, self.variables), self.classes, device=where)
        dense = torch.full((batch, self.slots, self.numbers), self.levels, device=where)
        codes = {"record": record, "dense": dense, "record_before": record, "dense_before": dense}
        return codes | self.backbone.initial(batch, where)

    def recode(self, embeds: Slots, record: Tensor, generator: Generator | None = None) -> Slots:
        index, values = self.quantise(embeds.dense, generator)
        return Slots(self.embed.onehot(Codes(record, index)).record, values)

    def observe(
        self,
        state: State,
        embeds: Slots,
        record_BTV: Tensor,
        actions_BTA: Tensor,
        first_BT: Tensor,
        generator: Generator | None,
    ) -> Observed:
        index, values = self.quantise(embeds.dense)
        codes, keep = Codes(record_BTV, index), (~first_BT)[..., None, None]
        now, (start, older) = self.embed.onehot(codes), map(self.embed.onehot, _last_two(state))
        last = shifted(start, corrupted(now, self.corrupt, generator), keep)
        before = shifted(older, last, keep)
        last_embedded, before_embedded, now_embedded = self.embed(last), self.embed(before), self.embed(now)
        x = self._drive(last_embedded, actions_BTA * keep[..., 0])
        memory, kept = self.backbone.sequence(x, first_BT, state)
        last_flat = OneHot(*(part.flatten(0, 1) for part in last))
        around = (last_embedded.flatten(0, 1), before_embedded.flatten(0, 1))
        record = self._record_prior(memory.flatten(0, 1), last_flat, *around)
        dense = self._dense_prior(memory.flatten(0, 1), now_embedded.flatten(0, 1), last_flat, *around)
        losses = _told(Codes(record, dense), codes, (~first_BT).float())
        features = self._features(memory, now_embedded, last_embedded)
        return Observed(self._following(state, codes, first_BT) | kept, Latent(features, Slots(now[0], values)), losses)

    def step(self, state: State, action_BA: Tensor, noise_BN: Tensor | None, min_p: float) -> tuple[State, Latent]:
        last, before = map(self.embed.onehot, _last_two(state))
        around = (self.embed(last), self.embed(before))
        memory, kept = self.backbone.tick(self._drive(around[0], action_BA), state)
        noise = (None, None) if noise_BN is None else noise_BN.split([self.variables, self.slots * self.numbers], -1)
        record = draw(self._record_prior(memory, last, *around), noise[0], min_p)
        drawn = self.embed.record(F.one_hot(record, self.classes).to(memory.dtype))
        scores = self._dense_prior(memory, drawn, last, *around)
        dense = draw(scores, None if noise[1] is None else noise[1].unflatten(-1, (self.slots, self.numbers)), min_p)
        onehot = self.embed.onehot(Codes(record, dense))
        features = self._features(memory, self.embed(onehot), around[0])
        codes = {"record": record, "dense": dense, "record_before": state["record"], "dense_before": state["dense"]}
        return codes | kept, Latent(features, Slots(onehot.record, self.quantise.values(dense)))

    def _features(self, memory: Tensor, now: Tensor, last: Tensor) -> Tensor:
        """What the heads read: the memory, everything now, and the record now and before, where rewards are written."""
        records = [embedded[..., : self.variables, :].flatten(-2) for embedded in (now, last)]
        return torch.cat([memory, self.enter(now.flatten(-2)), *records], -1)

    def _drive(self, last: Tensor, action: Tensor) -> Tensor:
        x = self.enter(last.flatten(-2)) + self.act(action)
        return x + self.mix(x)  # type: ignore[no-any-return]

    def _record_prior(self, memory: Tensor, onehot: OneHot, last: Tensor, before: Tensor) -> Tensor:
        """Log-probabilities (N, V, classes) of the categorical variables."""
        scores = self.record_prior(memory, onehot.record, last, before)
        return F.log_softmax(scores.masked_fill(~self.possible, -1e9), -1)

    def _dense_prior(self, memory: Tensor, now: Tensor, onehot: OneHot, last: Tensor, before: Tensor) -> Tensor:
        """Log-probabilities (N, S, K, C) of the dense codes, given the record that `now` (N, V.., E) begins with."""
        memory = memory + self.tell_record(now[:, : self.variables].flatten(-2))
        scores = self.dense_prior(memory, onehot.dense, last, before)
        return F.log_softmax(scores.unflatten(-1, (self.numbers, self.levels)), -1)

    def _following(self, state: State, codes: Codes, first_BT: Tensor) -> State:
        """The two last codes after a sequence."""
        previous, fresh = Codes(state["record"], state["dense"]), first_BT[:, -1]
        if first_BT.shape[1] > 1:
            previous = Codes(codes.record[:, -2], codes.dense[:, -2])
        return {
            "record": codes.record[:, -1],
            "dense": codes.dense[:, -1],
            "record_before": torch.where(fresh[:, None], self.classes, previous.record),
            "dense_before": torch.where(fresh[:, None, None], self.levels, previous.dense),
        }


def _last_two(state: State) -> tuple[Codes, Codes]:
    return Codes(state["record"], state["dense"]), Codes(state["record_before"], state["dense_before"])


def _told(foreseen: Codes, codes: Codes, follows: Tensor) -> dict[str, Tensor]:
    """Negative log-likelihood (B, T) in nats of the codes, by log-probabilities (B*T, ..., classes) of them."""
    losses = {}
    for name, log_probs, index in zip(("record_prior", "dense_prior"), foreseen, codes, strict=True):
        told = log_probs.gather(-1, index.flatten(0, 1).unsqueeze(-1)).flatten(1).sum(-1)
        losses[name] = -told.view_as(follows) * follows
    return losses
