"""The `ssm` family: codes from each frame alone, a gated linear recurrence trained in parallel over time.

An image patch or a vector becomes K numbers of C levels each (finite scalar quantisation, arXiv:2309.15505); a
categorical variable is its own code. The recurrence (RG-LRU of Griffin, arXiv:2402.19427) carries what one frame cannot
show. The prior of a slot looks at that memory, at its own two last codes and at the last codes of all other slots. The
record is drawn before the picture, which is drawn to fit it.

Axes: B batch, T time, V categorical variables, S dense slots, K numbers, C levels, W width of the recurrence, E code
width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Generator, Tensor, nn

from worldsim.models.codec import Slots
from worldsim.models.config import SSMConfig
from worldsim.models.dynamics.base import Dynamics, Latent, Observed, State
from worldsim.models.layers import SlotLinear, draw, entropy, mlp

MARGIN = 0.3  # of a level


def scan(decay_BTW: Tensor, drive_BTW: Tensor, start_BW: Tensor) -> Tensor:
    """h_t = decay_t * h_{t-1} + drive_t for all t at once, in log2(T) doublings (Hillis and Steele 1986)."""
    drive = torch.cat([drive_BTW[:, :1] + decay_BTW[:, :1] * start_BW.unsqueeze(1), drive_BTW[:, 1:]], 1)
    decay, reach = decay_BTW, 1
    while reach < drive.shape[1]:
        drive = torch.cat([drive[:, :reach], drive[:, reach:] + decay[:, reach:] * drive[:, :-reach]], 1)
        decay = torch.cat([decay[:, :reach], decay[:, reach:] * decay[:, :-reach]], 1)
        reach *= 2
    return drive


class GatedRecurrence(nn.Module):
    """One residual block: a gated linear recurrence, then a gated MLP."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.enter = nn.Linear(width, 4 * width)
        self.rate = nn.Parameter(torch.linspace(-4.0, 1.0, width))  # time constants of 0.1 to 7 steps, gated
        self.leave = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_enter = nn.Linear(width, 4 * width)
        self.mlp_leave = nn.Linear(2 * width, width)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Decay and drive of the recurrence in fp32, and the output gate."""
        value, gate, keep, write = self.enter(self.norm(x)).chunk(4, -1)
        log_decay = -8 * F.softplus(self.rate) * torch.sigmoid(keep.float())
        decay = log_decay.exp()
        drive = torch.sqrt((1 - decay.square()).clamp_min(1e-6)) * torch.sigmoid(write.float()) * value.float()
        return decay, drive, gate

    def finish(self, x: Tensor, memory: Tensor, gate: Tensor) -> Tensor:
        x = x + self.leave(memory.to(gate.dtype) * F.silu(gate))
        up, gate = self.mlp_enter(self.mlp_norm(x)).chunk(2, -1)
        out: Tensor = x + self.mlp_leave(up * F.silu(gate))
        return out

    def sequence(self, x_BTW: Tensor, first_BT: Tensor, memory_BW: Tensor) -> tuple[Tensor, Tensor]:
        decay, drive, gate = self.gates(x_BTW)
        memory = scan(decay * (~first_BT).unsqueeze(-1), drive, memory_BW)
        return self.finish(x_BTW, memory, gate), memory[:, -1]

    def tick(self, x_BW: Tensor, memory_BW: Tensor) -> tuple[Tensor, Tensor]:
        decay, drive, gate = self.gates(x_BW)
        memory = decay * memory_BW + drive
        return self.finish(x_BW, memory, gate), memory


class Codes(NamedTuple):
    """One moment's codes as indices; class V's or level C stands for "nothing seen yet"."""

    record: Tensor  # (..., V) int64
    dense: Tensor  # (..., S, K) int64


class CodeEmbedding(nn.Module):
    """Codes of all V + S slots as vectors (..., V + S, E)."""

    def __init__(self, variables: int, classes: int, slots: int, numbers: int, levels: int, width: int):
        super().__init__()
        self.classes, self.levels = classes, levels
        self.record = SlotLinear(variables, classes, width, scale=classes**0.5)
        self.dense = SlotLinear(slots, numbers * levels, width, scale=levels**0.5)

    def onehot(self, codes: Codes) -> tuple[Tensor, Tensor]:
        """(..., V, classes) and (..., S, K*C); all zeros where nothing was seen."""
        kind = self.dense.weight.dtype
        record = F.one_hot(codes.record, self.classes + 1)[..., :-1].to(kind)
        dense = F.one_hot(codes.dense, self.levels + 1)[..., :-1].to(kind)
        return record, dense.flatten(-2)

    def forward(self, onehot: tuple[Tensor, Tensor]) -> Tensor:
        return torch.cat([self.record(onehot[0]), self.dense(onehot[1])], -2)


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


class SSM(Dynamics):
    """See the module's text. State: two last codes, (B, V) and (B, S, K) int64 each, and memory (B, layers, W) fp32."""

    def __init__(self, config: SSMConfig, nvec: Tensor, slots: int, actions: int):
        super().__init__()
        variables, classes = len(nvec), int(nvec.max()) if len(nvec) else 1
        self.variables, self.classes, self.slots = variables, classes, slots
        self.numbers, self.levels = config.variables, config.classes
        self.corrupt, self.layers, self.width = config.corrupt, config.layers, config.width
        self.possible: Tensor
        self.register_buffer("possible", torch.arange(classes) < nvec.unsqueeze(-1), persistent=False)
        self.record_features, self.dense_features = None, self.numbers
        self.past_width = config.width
        self.feature_width = 2 * config.width + 2 * variables * config.code_width
        self.separable = True
        self.noise_size = variables + slots * self.numbers
        code, everything = config.code_width, variables + slots
        self.quantise = SlotLinear(slots, config.embed, self.numbers)
        self.embed = CodeEmbedding(variables, classes, slots, self.numbers, self.levels, code)
        self.enter = nn.Linear(everything * code, config.width)
        self.act = nn.Linear(actions, config.width)
        self.mix = mlp([config.width, config.width, config.width])
        self.blocks = nn.ModuleList([GatedRecurrence(config.width) for _ in range(config.layers)])
        self.record_prior = SlotPrior(config.width, everything, slice(0, variables), code, classes)
        scores = self.numbers * self.levels
        self.dense_prior = SlotPrior(config.width, everything, slice(variables, everything), code, scores)
        self.tell_record = nn.Linear(variables * code, config.width, bias=False)

    def initial(self, batch: int) -> State:
        where = self.enter.weight.device
        record = torch.full((batch, self.variables), self.classes, device=where)
        dense = torch.full((batch, self.slots, self.numbers), self.levels, device=where)
        memory = torch.zeros(batch, self.layers, self.width, device=where)
        return {"record": record, "dense": dense, "record_before": record, "dense_before": dense, "memory": memory}

    def codes(self, embeds: Tensor, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """Encoded dense slots (..., S, embed) to level indices, and to their values with a straight-through gradient.

        Always in fp32, so that training and inference see the same codes. With a generator the numbers are shaken by up
        to MARGIN levels: the encoder learns to keep away from the edges between levels, where codes would flicker.
        """
        with torch.autocast(embeds.device.type, enabled=False):
            bounded = torch.tanh(self.quantise(embeds.float()))
        shaken = bounded.detach()
        half = (self.levels - 1) / 2
        if generator is not None:
            noise = torch.rand(bounded.shape, generator=generator, device=bounded.device)
            shaken = (shaken + (2 * noise - 1) * MARGIN / half).clamp(-1, 1)
        index = ((shaken + 1) * half).round().long().clamp(0, self.levels - 1)  # a NaN must live to be reported
        return index, self.values(index) + bounded - bounded.detach()

    def values(self, index: Tensor) -> Tensor:
        """Level indices to numbers in [-1, 1]."""
        return index.float() / ((self.levels - 1) / 2) - 1

    def recode(self, embeds: Slots, record: Tensor, generator: Generator | None = None) -> Slots:
        index, values = self.codes(embeds.dense, generator)
        return Slots(self.embed.onehot(Codes(record, index))[0], values)

    def observe(
        self,
        state: State,
        embeds: Slots,
        record_BTV: Tensor,
        actions_BTA: Tensor,
        first_BT: Tensor,
        generator: Generator | None,
    ) -> Observed:
        index, values = self.codes(embeds.dense)
        now = self.embed.onehot(Codes(record_BTV, index))
        seen = _corrupted(now, self.corrupt, generator)
        keep = (~first_BT)[..., None, None]
        start = self.embed.onehot(Codes(state["record"], state["dense"]))
        older = self.embed.onehot(Codes(state["record_before"], state["dense_before"]))
        last = _shifted(start, seen, keep)
        before = _shifted(older, last, keep)
        last_embedded, before_embedded, now_embedded = self.embed(last), self.embed(before), self.embed(now)
        x = self._drive(last_embedded, actions_BTA * keep[..., 0])
        memories = []
        for number, block in enumerate(self.blocks):
            x, memory = block.sequence(x, first_BT, state["memory"][:, number])  # type: ignore[operator]
            memories.append(memory)
        last_flat = (last[0].flatten(0, 1), last[1].flatten(0, 1))
        around = (last_embedded.flatten(0, 1), before_embedded.flatten(0, 1))
        record = self._record_prior(x.flatten(0, 1), last_flat, *around)
        dense = self._dense_prior(x.flatten(0, 1), now_embedded.flatten(0, 1), last_flat, *around)
        follows = (~first_BT).float()
        told_record = record.gather(-1, record_BTV.flatten(0, 1).unsqueeze(-1)).sum((-1, -2))
        told_dense = dense.gather(-1, index.flatten(0, 1).unsqueeze(-1)).sum((-1, -2, -3))
        losses = {
            "record_prior": -told_record.view_as(follows) * follows,
            "dense_prior": -told_dense.view_as(follows) * follows,
        }
        features = self._features(x, now_embedded, last_embedded)
        following = {"record": record_BTV[:, -1], "dense": index[:, -1], "memory": torch.stack(memories, 1)}
        previous, fresh = Codes(state["record"], state["dense"]), first_BT[:, -1]
        if first_BT.shape[1] > 1:
            previous = Codes(record_BTV[:, -2], index[:, -2])
        following["record_before"] = torch.where(fresh[:, None], self.classes, previous.record)
        following["dense_before"] = torch.where(fresh[:, None, None], self.levels, previous.dense)
        return Observed(following, Latent(features, Slots(now[0], values)), losses)

    def step(self, state: State, action_BA: Tensor, noise_BN: Tensor | None, min_p: float) -> tuple[State, Latent]:
        last = self.embed.onehot(Codes(state["record"], state["dense"]))
        around = (self.embed(last), self.embed(self.embed.onehot(Codes(state["record_before"], state["dense_before"]))))
        x, memories = self._drive(around[0], action_BA), []
        for number, block in enumerate(self.blocks):
            x, memory = block.tick(x, state["memory"][:, number])  # type: ignore[operator]
            memories.append(memory)
        noise = (None, None) if noise_BN is None else noise_BN.split([self.variables, self.slots * self.numbers], -1)
        prior = self._record_prior(x, last, *around)
        record = draw(prior, noise[0], min_p)
        drawn = self.embed.record(F.one_hot(record, self.classes).to(x.dtype))
        scores = self._dense_prior(x, drawn, last, *around)
        dense = draw(scores, None if noise[1] is None else noise[1].unflatten(-1, (self.slots, self.numbers)), min_p)
        onehot = self.embed.onehot(Codes(record, dense))
        features = self._features(x, self.embed(onehot), around[0])
        following = {"record": record, "dense": dense, "memory": torch.stack(memories, 1)}
        following |= {"record_before": state["record"], "dense_before": state["dense"]}
        undecided = entropy(prior, min_p) + entropy(scores, min_p)
        return following, Latent(features, Slots(onehot[0], self.values(dense)), undecided)

    def _features(self, memory: Tensor, now: Tensor, last: Tensor) -> Tensor:
        """What the heads read: the memory, everything now, and the record now and before, where rewards are written."""
        records = [embedded[..., : self.variables, :].flatten(-2) for embedded in (now, last)]
        return torch.cat([memory, self.enter(now.flatten(-2)), *records], -1)

    def _drive(self, last: Tensor, action: Tensor) -> Tensor:
        x = self.enter(last.flatten(-2)) + self.act(action)
        return x + self.mix(x)  # type: ignore[no-any-return]

    def _record_prior(self, memory: Tensor, onehot: tuple[Tensor, Tensor], last: Tensor, before: Tensor) -> Tensor:
        """Log-probabilities (N, V, classes) of the categorical variables."""
        scores = self.record_prior(memory, onehot[0], last, before)
        return F.log_softmax(scores.masked_fill(~self.possible, -1e9), -1)

    def _dense_prior(
        self, memory: Tensor, now: Tensor, onehot: tuple[Tensor, Tensor], last: Tensor, before: Tensor
    ) -> Tensor:
        """Log-probabilities (N, S, K, C) of the dense codes, given the record that `now` (N, V.., E) begins with."""
        memory = memory + self.tell_record(now[:, : self.variables].flatten(-2))
        scores = self.dense_prior(memory, onehot[1], last, before)
        return F.log_softmax(scores.unflatten(-1, (self.numbers, self.levels)), -1)


def _shifted(start: tuple[Tensor, Tensor], onehot: tuple[Tensor, Tensor], keep: Tensor) -> tuple[Tensor, Tensor]:
    """What each moment (B, T, ...) has before it: `start` (B, ...), or nothing where an episode begins."""
    record, dense = (torch.cat([s.unsqueeze(1), o[:, :-1]], 1) * keep for s, o in zip(start, onehot, strict=True))
    return record, dense


def _corrupted(onehot: tuple[Tensor, Tensor], share: float, generator: Generator | None) -> tuple[Tensor, Tensor]:
    """In training some codes come from another moment, so that imagination learns to recover from its own slips."""
    if generator is None or not share:
        return onehot
    batch, time, variables = onehot[0].shape[:3]
    shape = (batch, time, variables + onehot[1].shape[2] + 1, 1)
    draws = torch.rand(shape, generator=generator, device=onehot[0].device)
    wrong = draws[:, :, :-1] < 2 * share * draws[:, :1, -1:]  # a rate of its own for every sequence, on average `share`
    record, dense = (
        torch.where(part, codes.flip(0).roll(1, 1), codes)
        for part, codes in zip((wrong[:, :, :variables], wrong[:, :, variables:]), onehot, strict=True)
    )
    return record, dense
