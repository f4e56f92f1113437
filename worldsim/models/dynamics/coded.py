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
from worldsim.models.layers import SlotLinear, draw, entropy, mlp


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
        others = self.blend(torch.matmul(self.others.weight, last))
        return self.score(self.out(told + own + others)).float() + 10 * self.stay * codes  # type: ignore[no-any-return]


class CodedDynamics(Dynamics):
    """See the module's text.

    State: the last codes, (B, V) and (B, S, K) int64; what the next step would compute of them again: their embedding
    and that of the codes before, (B, V + S, E) each, and what the backbone is told, (B, W); what the backbone keeps.
    """

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
        priors = config.width, everything
        if variables:
            self.record_prior = SlotPrior(*priors, slice(0, variables), code, classes)
        if slots:
            self.dense_prior = SlotPrior(*priors, slice(variables, everything), code, self.numbers * self.levels)
        if variables and slots:
            self.tell_record = nn.Linear(variables * code, config.width, bias=False)

    def initial(self, batch: int) -> State:
        where = self.enter.weight.device
        record = torch.full((batch, self.variables), self.classes, device=where)
        dense = torch.full((batch, self.slots, self.numbers), self.levels, device=where)
        nothing = self.embed.nothing()
        told = self.enter(nothing.flatten()).float().expand(batch, -1)
        nothing = nothing.float().expand(batch, -1, -1)
        codes = {"record": record, "dense": dense, "last": nothing, "before": nothing, "told": told}
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
        now = seen = self.embed.onehot(codes)
        now_embedded = seen_embedded = self.embed(now)
        if generator is not None and self.corrupt:
            seen = corrupted(now, self.corrupt, generator)
            seen_embedded = self.embed(seen)
        nothing = self.embed.nothing().to(now_embedded.dtype)
        last = torch.where(keep, shifted(state["last"], seen_embedded), nothing)
        before = torch.where(keep, shifted(state["before"], last), nothing)
        start = self.embed.onehot(Codes(state["record"], state["dense"]))
        kept_codes = OneHot(*((shifted(s, o) * keep).flatten(0, 1) for s, o in zip(start, seen, strict=True)))
        x = self._drive(self.enter(last.flatten(-2)), actions_BTA * keep[..., 0])
        memory, kept = self.backbone.sequence(x, first_BT, state)
        around = (last.flatten(0, 1), before.flatten(0, 1))
        record = self._record_scores(memory.flatten(0, 1), kept_codes, *around)
        drawn = now_embedded[:, :, : self.variables].flatten(0, 1)
        dense = self._dense_scores(memory.flatten(0, 1), drawn, kept_codes, *around)
        losses = _told(Codes(record, dense), codes, (~first_BT).float())
        told = self.enter(now_embedded.flatten(-2))
        features = self._features(memory, told, now_embedded, last)
        previous = torch.where(keep[:, -1], shifted(state["last"], now_embedded)[:, -1], nothing)
        following = {"record": record_BTV[:, -1], "dense": index[:, -1], "told": told[:, -1].float()}
        following |= {"last": now_embedded[:, -1].float(), "before": previous.float()}
        return Observed(following | kept, Latent(features, Slots(now.record, values)), losses)

    def step(self, state: State, action_BA: Tensor, noise_BN: Tensor | None, min_p: float) -> tuple[State, Latent]:
        noise = (None, None) if noise_BN is None else noise_BN.split([self.variables, self.slots * self.numbers], -1)
        codes, around = self.embed.onehot(Codes(state["record"], state["dense"])), (state["last"], state["before"])
        memory, kept = self.backbone.tick(self._drive(state["told"], action_BA), state)
        told_record = self._record_scores(memory, codes, *around)
        record = draw(told_record, noise[0], min_p)
        drawn = self.embed.onehot(Codes(record, state["dense"])).record
        embedded = self.embed.record(drawn)
        scores = self._dense_scores(memory, embedded, codes, *around)
        dense = draw(scores, None if noise[1] is None else noise[1].unflatten(-1, (self.slots, self.numbers)), min_p)
        now = torch.cat([embedded, self.embed.dense(self.embed.onehot(Codes(record, dense)).dense)], -2)
        told = self.enter(now.flatten(-2))
        features = self._features(memory, told, now, state["last"])
        following = {"record": record, "dense": dense, "last": now, "before": state["last"], "told": told}
        undecided = entropy(told_record, min_p) + entropy(scores, min_p)
        return following | kept, Latent(features, Slots(drawn, self.quantise.values(dense)), undecided)

    def _features(self, memory: Tensor, told: Tensor, now: Tensor, last: Tensor) -> Tensor:
        """What the heads read: the memory, everything now, and the record now and before, where rewards are written."""
        records = [embedded[..., : self.variables, :].flatten(-2) for embedded in (now, last)]
        return torch.cat([memory, told, *records], -1)

    def _drive(self, told: Tensor, action: Tensor) -> Tensor:
        x = told + self.act(action)
        return x + self.mix(x)  # type: ignore[no-any-return]

    def _record_scores(self, memory: Tensor, codes: OneHot, last: Tensor, before: Tensor) -> Tensor:
        """Scores (N, V, classes) of the categorical variables; log-probabilities up to a constant."""
        if not self.variables:
            return codes.record
        return self.record_prior(memory, codes.record, last, before).masked_fill(~self.possible, -1e9)  # type: ignore[no-any-return]

    def _dense_scores(self, memory: Tensor, drawn: Tensor, codes: OneHot, last: Tensor, before: Tensor) -> Tensor:
        """Scores (N, S, K, C) of the dense codes, given the record drawn (N, V, E)."""
        scores = codes.dense
        if self.slots:
            known = memory + self.tell_record(drawn.flatten(-2)) if self.variables else memory
            scores = self.dense_prior(known, scores, last, before)
        return scores.unflatten(-1, (self.numbers, self.levels))  # type: ignore[no-any-return]


def _told(foreseen: Codes, codes: Codes, follows: Tensor) -> dict[str, Tensor]:
    """Negative log-likelihood (B, T) in nats of the codes, by scores (B*T, ..., classes) of them."""
    losses = {}
    for name, scores, index in zip(("record_prior", "dense_prior"), foreseen, codes, strict=True):
        told = F.log_softmax(scores, -1).gather(-1, index.flatten(0, 1).unsqueeze(-1)).flatten(1).sum(-1)
        losses[name] = -told.view_as(follows) * follows
    return losses
