"""Small layers that the parts of a model share. Axes: B batch, T time, S slots, D width, K variables, C classes."""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

LOG2_E = math.log2(math.e)
FEW_CLASSES = 16
FEW_ROWS = 16  # below it a product with both factors transposed takes up to six times as long as one with neither


def compute_type(like: Tensor, otherwise: torch.dtype = torch.float32) -> torch.dtype:
    """The type that products on this tensor's device are computed in where autocast is on, `otherwise` where not."""
    device = like.device.type
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)  # not all devices have it
    return torch.get_autocast_dtype(device) if on else otherwise


def symlog(x: Tensor) -> Tensor:
    """Symmetric logarithm: sign(x) ln(1 + |x|) (DreamerV3, eq. 9)."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def symexp(x: Tensor) -> Tensor:
    """The inverse of `symlog`."""
    return torch.sign(x) * torch.expm1(torch.abs(x))


def mlp(sizes: list[int], norm: bool = True) -> nn.Sequential:
    """Linear layers with a SiLU, normalised or not, after each but the last."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(sizes[:-2], sizes[1:-1], strict=True):
        layers += [nn.Linear(fan_in, fan_out), *([nn.LayerNorm(fan_out)] if norm else []), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


class SlotLinear(nn.Module):
    """A linear layer with its own weights for every slot: (..., S, fan_in) to (..., S, fan_out)."""

    def __init__(self, slots: int, fan_in: int, fan_out: int, scale: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(slots, fan_in, fan_out) * scale * fan_in**-0.5)
        self.bias = nn.Parameter(torch.zeros(slots, fan_out))

    def forward(self, x: Tensor) -> Tensor:
        out = self.slots_first(x.flatten(0, -3).transpose(0, 1))
        return out.transpose(0, 1).reshape(*x.shape[:-1], self.bias.shape[-1])

    def slots_first(self, x_SND: Tensor) -> Tensor:
        """(S, N, fan_in) to (S, N, fan_out), in any layout: nothing is copied."""
        return torch.baddbmm(self.bias.unsqueeze(1), x_SND, self.weight)

    def batch_last(self, x_SND: Tensor) -> Tensor:
        """(S, N, fan_in) to (S, fan_out, N): what is computed across fan_out next then runs along N."""
        if x_SND.shape[1] < FEW_ROWS:
            return self.slots_first(x_SND).transpose(1, 2).contiguous()
        return torch.baddbmm(self.bias.unsqueeze(2), self.weight.transpose(1, 2), x_SND.transpose(1, 2))


class SlotEmbedding(SlotLinear):
    """A `SlotLinear` on K one-hots of C classes, side by side, which are given as indices."""

    def __init__(self, slots: int, numbers: int, classes: int, width: int, scale: float = 1.0):
        super().__init__(slots, numbers * classes, width, scale)
        self.classes = classes
        self.begin: Tensor  # the first row of each one-hot among all rows of the weights
        begin = classes * torch.arange(slots * numbers).view(slots, numbers)
        self.register_buffer("begin", begin, persistent=False)

    def forward(self, index: Tensor) -> Tensor:
        """Indices (..., S, K) below C to (..., S, width)."""
        look_up = _SummedRows.apply if torch.is_grad_enabled() else _summed_rows
        rows: Tensor = look_up(index.flatten(0, -3), self.begin, self.weight, self.classes)
        return (rows + self.bias.to(rows.dtype)).view(*index.shape[:-1], rows.shape[-1])


def _summed_rows(index: Tensor, begin: Tensor, weight: Tensor, classes: int) -> Tensor:
    """Rows of weights (S, K*C, D) that indices (N, S, K) name, summed over K: (N, S, D)."""
    rows, table = (index + begin).flatten(0, 1), weight.flatten(0, 1)
    summed = F.embedding_bag(rows, table, mode="sum").view(*index.shape[:2], table.shape[-1])
    return summed.to(compute_type(summed, summed.dtype))


class _SummedRows(torch.autograd.Function):
    """`_summed_rows` with a gradient of the weights.

    Looking rows up is many times as fast as a product with one-hots. The gradient is such a product all the same:
    adding it up row by row takes twice as long.
    """

    @staticmethod
    def forward(ctx: Any, index: Tensor, begin: Tensor, weight: Tensor, classes: int) -> Tensor:
        ctx.save_for_backward(index)
        ctx.classes, ctx.kind = classes, weight.dtype
        return _summed_rows(index, begin, weight, classes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor, None]:
        (index,), (gradient,) = ctx.saved_tensors, gradients
        each = onehot(index.permute(1, 2, 0), ctx.classes, -2).to(gradient.dtype).flatten(1, 2)
        return None, None, torch.bmm(each, gradient.transpose(0, 1)).to(ctx.kind), None


class SlotsFirst(nn.Module):
    """In the place of a linear layer that acts on (S, N, fan_in): the same with own weights for every slot."""

    def __init__(self, slots: int, fan_in: int, fan_out: int, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(slots, fan_in, fan_out) * fan_in**-0.5)
        self.bias = nn.Parameter(torch.zeros(slots, 1, fan_out)) if bias else None

    def forward(self, x_SND: Tensor) -> Tensor:
        if self.bias is None:
            return torch.bmm(x_SND, self.weight)
        return torch.baddbmm(self.bias, x_SND, self.weight)


class GatedMLP(nn.Module):
    """A residual gated MLP (SwiGLU, arXiv:2002.05202): (..., D) to (..., D)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.in_proj = nn.Linear(width, 4 * width)
        self.out_proj = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        up, gate = self.in_proj(self.norm(x)).chunk(2, -1)
        out: Tensor = x + self.out_proj(up * F.silu(gate))
        return out


def onehot(index: Tensor, classes: int, dim: int = -1) -> Tensor:
    """Class indices (...) to booleans with an axis `dim` of classes; all False for an index beyond the classes."""
    kinds = torch.arange(classes, device=index.device)
    return index.unsqueeze(dim) == kinds.view(-1, *[1] * (-1 - dim))


class Outcomes(NamedTuple):
    """Categorical variables about to be sampled, in any layout; `dim`, a negative number, is their classes' axis.

    Classes less probable than `min_p` times the most probable one are never sampled (arXiv:2407.01082); it keeps long
    rollouts free of one-in-a-thousand flips and leaves real alternatives alone.
    """

    gaps: Tensor  # log-probabilities relative to the most probable class, at most 0
    weights: Tensor  # probabilities in units of the most probable one; 0 what is below `min_p`
    cumulative: Tensor  # weights of this and all earlier classes
    dim: int

    @staticmethod
    def of(logits: Tensor, min_p: float = 0.0, dim: int = -1) -> "Outcomes":
        """logits: log-probabilities, up to a constant, in fp32."""
        gaps = logits - logits.amax(dim, keepdim=True)
        weights = torch.exp2(gaps * LOG2_E)  # three times as fast as exp on a CPU
        weights = F.threshold(weights, min_p, 0.0) if min_p else weights
        return Outcomes(gaps, weights, _cumulative(weights, dim), dim)

    @property
    def total(self) -> Tensor:
        """Weights of all classes together."""
        return self.cumulative.select(self.dim, -1)

    def sample(self, uniform: Tensor | None) -> Tensor:
        """Class indices through the inverse distribution function; modes if `uniform`, in [0, 1), is None."""
        if uniform is None:
            return self.gaps.argmax(self.dim)
        beyond = self.cumulative - (uniform * self.total).unsqueeze(self.dim)
        # In place and counted as numbers: booleans and their sum, which is int64, take three times as long.
        passed = beyond.le_(0).sum(self.dim)
        return passed.long().clamp_max(self.gaps.shape[self.dim] - 1)

    def entropy(self) -> Tensor:
        """Nats of entropy of every variable."""
        known = self.gaps.clamp_min(-1e9)  # 0 * inf is no number
        nats: Tensor = self.total.log() - (self.weights * known).sum(self.dim) / self.total
        return nats


def _cumulative(weights: Tensor, dim: int) -> Tensor:
    """`cumsum`; of few classes, one after another, which is twice as fast and which a compiler can fuse."""
    if weights.shape[dim] > FEW_CLASSES:
        return weights.cumsum(dim)
    sums = weights.clone()
    for here in range(1, sums.shape[dim]):
        sums.select(dim, here).add_(sums.select(dim, here - 1))
    return sums


def sample(logits: Tensor, uniform: Tensor | None, min_p: float = 0.0) -> Tensor:
    """Class indices (...) sampled from (..., C), see `Outcomes`; modes if `uniform` (...) is None."""
    return Outcomes.of(logits, min_p).sample(uniform)


def entropy(logits: Tensor, min_p: float = 0.0) -> Tensor:
    """Nats (N,) of entropy in what `sample` takes from (N, ..., C): how open the future is, all variables together."""
    return Outcomes.of(logits, min_p).entropy().flatten(1).sum(-1)


class Categoricals(NamedTuple):
    """Independent categorical variables, as DreamerV3's latents: K variables of C classes.

    logits: (..., K, C), normalised log-probabilities with `unimix` of the uniform distribution mixed in.
    """

    logits: Tensor

    @staticmethod
    def from_logits(flat: Tensor, variables: int, unimix: float = 0.0) -> "Categoricals":
        """From unnormalised (..., K*C) logits."""
        logits = F.log_softmax(rearrange(flat.float(), "... (k c) -> ... k c", k=variables), -1)
        if unimix:
            logits = torch.log((1 - unimix) * logits.exp() + unimix / logits.shape[-1])
        return Categoricals(logits)

    def kl(self, other: "Categoricals") -> Tensor:
        """KL divergence in nats to `other`, summed over K and C: (...)."""
        return (self.logits.exp() * (self.logits - other.logits)).sum((-1, -2))

    def detach(self) -> "Categoricals":
        return Categoricals(self.logits.detach())
