"""Small layers that the parts of a model share. Axes: B batch, T time, S slots, D width, K variables, C classes."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


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
        product = torch.bmm(self.weight.transpose(1, 2), x_SND.transpose(1, 2))
        return product + self.bias.to(product.dtype).unsqueeze(2)


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
    """Categorical variables about to be drawn, in any layout; `dim`, a negative number, is their classes' axis.

    Classes less probable than `min_p` times the most probable one are never drawn (arXiv:2407.01082); it keeps long
    rollouts free of one-in-a-thousand flips and leaves real alternatives alone.
    """

    gaps: Tensor  # log-probabilities relative to the most probable class, at most 0
    weights: Tensor  # probabilities in units of the most probable one; 0 what is below `min_p`
    dim: int

    @staticmethod
    def of(scores: Tensor, min_p: float = 0.0, dim: int = -1) -> "Outcomes":
        """scores: log-probabilities, up to a constant."""
        gaps = scores - scores.amax(dim, keepdim=True)
        weights = gaps.exp()
        return Outcomes(gaps, F.threshold(weights, min_p, 0.0) if min_p else weights, dim)

    def draw(self, uniform: Tensor | None) -> Tensor:
        """Class indices through the inverse distribution function; modes if `uniform`, in [0, 1), is None."""
        if uniform is None:
            return self.gaps.argmax(self.dim)
        cumulative = self.weights.cumsum(self.dim)
        total = cumulative.narrow(self.dim, -1, 1)
        passed = cumulative <= uniform.to(total.dtype).unsqueeze(self.dim) * total
        return passed.sum(self.dim).clamp_max(self.gaps.shape[self.dim] - 1)

    def entropy(self) -> Tensor:
        """Nats in the draw of every variable."""
        total = self.weights.sum(self.dim)
        nats: Tensor = (
            total.log() - (self.weights * self.gaps.clamp_min(-1e9)).sum(self.dim) / total
        )  # 0 * inf is no number
        return nats


def draw(scores: Tensor, uniform: Tensor | None, min_p: float = 0.0) -> Tensor:
    """Class indices (...) drawn from (..., C), see `Outcomes`; modes if `uniform` (...) is None."""
    return Outcomes.of(scores, min_p).draw(uniform)


def entropy(scores: Tensor, min_p: float = 0.0) -> Tensor:
    """Nats (N,) in the draws that `draw` would make of (N, ..., C): how open the future is, all variables together."""
    return Outcomes.of(scores, min_p).entropy().flatten(1).sum(-1)


class Categoricals(NamedTuple):
    """Independent categorical variables, as DreamerV3's latents: K variables of C classes.

    logits: (..., K, C), normalised log-probabilities with `unimix` of the uniform distribution mixed in.
    """

    logits: Tensor

    @staticmethod
    def from_logits(flat: Tensor, variables: int, unimix: float = 0.0) -> "Categoricals":
        """From unnormalised (..., K*C) scores."""
        logits = F.log_softmax(rearrange(flat.float(), "... (k c) -> ... k c", k=variables), -1)
        if unimix:
            logits = torch.log((1 - unimix) * logits.exp() + unimix / logits.shape[-1])
        return Categoricals(logits)

    def kl(self, other: "Categoricals") -> Tensor:
        """KL divergence in nats to `other`, summed over K and C: (...)."""
        return (self.logits.exp() * (self.logits - other.logits)).sum((-1, -2))

    def detach(self) -> "Categoricals":
        return Categoricals(self.logits.detach())
