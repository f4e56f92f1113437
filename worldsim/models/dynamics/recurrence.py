"""One moment of the `rssm` family, and the loop over a sequence of them with its way back written by hand.

A moment is a few matrix products of few rows; what surrounds them is what costs time. So the gradients of weights, for
which no moment waits, are one product over all moments after the loop, and how activations bend is computed for all
moments before it. Autograd would do both moment by moment.

Axes: B batch, T time, W width of h, G its blocks, P = W/G, U units of a hidden layer, K latents, C their classes,
Z = K*C.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

EPS = 1e-4  # of the norms, as DreamerV3 has it


class Weights(NamedTuple):
    """Of one moment. Norms are in the type of h, all others in the type that products are computed in."""

    read_h: Tensor  # (U, W)
    read_z: Tensor  # (U, Z)
    read_bias: Tensor  # (2, U)
    read_norm: Tensor  # (2, U)
    tell: Tensor  # (W, 2U)
    own: Tensor  # (G, P, P)
    norm: Tensor  # (W,)
    gates: Tensor  # (G, P, 3P)
    gates_bias: Tensor  # (G, 1, 3P)
    recall: Tensor  # (U, W)
    seen_norm: Tensor  # (U,)
    score: Tensor  # (Z, U)
    score_bias: Tensor  # (Z,)


class Recurred(NamedTuple):
    """The next h, and how it came about. What a norm gives is kept before its weights, as is what it multiplied by."""

    h: Tensor  # (B, W)
    read: Tensor  # (B, 2, U), of h and of z
    read_scale: Tensor  # (B, 2, 1)
    inner: Tensor  # (B, W)
    inner_scale: Tensor  # (B, 1)
    switches: Tensor  # (B, G, 2, P): reset and update
    value: Tensor  # (B, G, P)
    candidate: Tensor  # (B, G, P)


class Seen(NamedTuple):
    """The posterior's scores, and how they came about."""

    scores: Tensor  # (B, Z)
    seen: Tensor  # (B, U)
    seen_scale: Tensor  # (B, 1)
    probs: Tensor  # (B, K, C), nothing mixed in


def normalised(x: Tensor) -> tuple[Tensor, Tensor]:
    """x with a root mean square of 1 over the last axis (arXiv:1910.07467), and what it was multiplied by."""
    scale = x.square().mean(-1, keepdim=True).add_(EPS).rsqrt_()
    return x * scale, scale


def recur(weights: Weights, h_BW: Tensor, z_BZ: Tensor, drive_BW: Tensor) -> Recurred:
    """The next h. A block reads its own part of h, and what one layer makes of all of h, of z and of the action each.

    drive: the action's share, in the type that products are computed in.
    """
    kind, bias = drive_BW.dtype, weights.read_bias
    h = h_BW.to(kind)
    both = F.linear(h, weights.read_h, bias[0]), F.linear(z_BZ.to(kind), weights.read_z, bias[1])
    read, read_scale = normalised(torch.stack(both, 1).to(h_BW.dtype))
    told = F.silu(read * weights.read_norm).to(kind).flatten(1)
    x = torch.addmm(drive_BW, told, weights.tell.t()) + _join(torch.bmm(_split(h, weights.own), weights.own))
    inner, inner_scale = normalised(x.to(h_BW.dtype))
    hidden = F.silu(inner * weights.norm).to(kind)
    x = torch.baddbmm(weights.gates_bias, _split(hidden, weights.own), weights.gates)
    gates = x.transpose(0, 1).to(h_BW.dtype).unflatten(2, (3, -1))
    switches, value = torch.sigmoid(gates[:, :, :2]), gates[:, :, 2]
    candidate = torch.tanh(switches[:, :, 0] * value)
    following = torch.lerp(h_BW.view_as(value), candidate, switches[:, :, 1]).flatten(1)
    return Recurred(following, read, read_scale, inner, inner_scale, switches, value, candidate)


def see(weights: Weights, h_BW: Tensor, shown_BU: Tensor, latents: int) -> Seen:
    """The posterior. shown: the observation's share, in the type that products are computed in."""
    kind = shown_BU.dtype
    seen, scale = normalised(torch.addmm(shown_BU, h_BW.to(kind), weights.recall.t()).to(h_BW.dtype))
    hidden = F.silu(seen * weights.seen_norm).to(kind)
    scores = F.linear(hidden, weights.score, weights.score_bias).to(h_BW.dtype)
    return Seen(scores, seen, scale, scores.unflatten(-1, (latents, -1)).softmax(-1))


def limits(uniform: Tensor, classes: int, unimix: float) -> Tensor:
    """What the distribution function of all classes but the last must exceed for a class to be drawn: (..., K, C - 1).

    uniform: (..., K) in [0, 1). `unimix` of the uniform distribution is mixed into the one that will be drawn from.
    """
    mixed = torch.arange(1, classes, device=uniform.device) * (unimix / classes)
    return (uniform.unsqueeze(-1) - mixed) / (1 - unimix)


def drawn(probs_BKC: Tensor, limit_BKC: Tensor | None) -> Tensor:
    """One-hot latents (B, Z): drawn through the inverse distribution function, or the modes if there is no limit."""
    if limit_BKC is None:
        index = probs_BKC.argmax(-1, keepdim=True)
    else:
        index = (probs_BKC[..., :-1].cumsum(-1) <= limit_BKC).sum(-1, keepdim=True)
    return torch.zeros_like(probs_BKC).scatter_(-1, index, 1.0).flatten(1)


class Moments(NamedTuple):
    """What a sequence gives."""

    past: Tensor  # (B, T, W): h
    codes: Tensor  # (B, T, Z): z, one-hot
    scores: Tensor  # (B, T, Z) of the posterior


def follow(
    weights: Weights,
    start: tuple[Tensor, Tensor],
    keep_BT1: Tensor,
    drive_BTW: Tensor,
    shown_BTU: Tensor,
    limits_BTKC: Tensor | None,
    latents: int,
    unimix: float,
) -> Moments:
    """All moments, one after the other. The codes have the gradient of their probabilities (straight through).

    start: h (B, W) and z (B, Z) before. keep: 0 where they are forgotten, 1 elsewhere. limits: see `limits`; None
    follows the modes.
    """
    inputs = (*start, keep_BT1, drive_BTW, shown_BTU, limits_BTKC)
    return Moments(*_Loop.apply(*inputs, latents, unimix, *weights))  # type: ignore[no-untyped-call]


class _Trace(NamedTuple):
    """What the way back needs to know, (B, T, ...) each: what a moment started from, `Recurred` and `Seen`."""

    kept_h: Tensor
    kept_z: Tensor
    past: Tensor
    read: Tensor
    read_scale: Tensor
    inner: Tensor
    inner_scale: Tensor
    switches: Tensor
    value: Tensor
    candidate: Tensor
    seen: Tensor
    seen_scale: Tensor
    probs: Tensor


class _Way(NamedTuple):
    """What the gradients of a moment pass on the way back, (B, ...) each; of all moments (B, T, ...)."""

    d_scores: Tensor  # those that come in from outside of the loop
    d_past: Tensor
    d_codes: Tensor
    keep: Tensor
    probs: Tensor
    seen: Tensor
    seen_slope: Tensor
    gates_slope: Tensor  # (B, G, 3, P)
    inner: Tensor
    inner_slope: Tensor
    read: Tensor
    read_slope: Tensor
    h_slope: Tensor  # (B, W)


class _Found(NamedTuple):
    """Gradients found at a moment, by what layers and activations gave, in the type that products are computed in."""

    score: Tensor  # (B, Z)
    seen_hidden: Tensor  # (B, U)
    shown: Tensor  # (B, U)
    gates: Tensor  # (B, G, 3P)
    inner_hidden: Tensor  # (B, W)
    drive: Tensor  # (B, W)
    told: Tensor  # (B, 2, U)
    read: Tensor  # (B, 2, U)


class _Loop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, z: Tensor, keep: Tensor, drive: Tensor, shown: Tensor, *rest: Any) -> Any:
        limited, latents, ctx.unimix, *packed = rest
        weights, moments = Weights(*packed), []
        bounds = [None] * keep.shape[1] if limited is None else limited.unbind(1)
        for kept, driven, shows, bound in zip(keep.unbind(1), drive.unbind(1), shown.unbind(1), bounds, strict=True):
            before = h * kept, z * kept
            h, *how = recur(weights, *before, driven)
            scores, *looked = see(weights, h, shows, latents)
            z = drawn(looked[-1], bound)
            moments.append((z, scores, *before, h, *how, *looked))
        codes, scores, *trace = (torch.stack(parts, 1) for parts in zip(*moments, strict=True))
        ctx.save_for_backward(keep, *trace, *packed)
        return trace[2], codes, scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_past: Tensor, d_codes: Tensor, d_scores: Tensor) -> Any:
        keep, *saved = ctx.saved_tensors
        fields = len(_Trace._fields)
        trace, weights = _Trace(*saved[:fields]), Weights(*saved[fields:])
        way = _Way(d_scores, d_past, d_codes, keep, *_slopes(trace, weights))
        d_h, d_z, found = torch.zeros_like(d_past[:, 0]), torch.zeros_like(d_codes[:, 0]), []
        for moment in reversed(list(zip(*(part.unbind(1) for part in way), strict=True))):
            d_h, d_z, here = _back(weights, _Way(*moment), d_h, d_z, 1 - ctx.unimix)
            found.append(here)
        every = _Found(*(torch.stack(parts[::-1], 1) for parts in zip(*found, strict=True)))
        return d_h, d_z, None, every.drive, every.shown, None, None, None, *_taught(weights, trace, every)


def _slopes(trace: _Trace, weights: Weights) -> tuple[Tensor, ...]:
    """The fields of `_Way` from `probs` on, of all moments."""
    reset, update = trace.switches.unbind(3)
    through = update * (1 - trace.candidate.square())
    by_reset = through * trace.value * reset * (1 - reset)
    by_update = (trace.candidate - trace.kept_h.view_as(update)) * update * (1 - update)
    return (
        trace.probs,
        trace.seen,
        _slope(trace.seen, weights.seen_norm, trace.seen_scale),
        torch.stack([by_reset, by_update, through * reset], 3),
        trace.inner,
        _slope(trace.inner, weights.norm, trace.inner_scale),
        trace.read,
        _slope(trace.read, weights.read_norm, trace.read_scale),
        (1 - update).flatten(2),
    )


def _slope(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Of silu(x * weight), by what x was before it was multiplied by `scale`, which is held to be a constant."""
    slope: Tensor = torch.ops.aten.silu_backward(weight * scale, x * weight)
    return slope


def _back(weights: Weights, way: _Way, d_h: Tensor, d_z: Tensor, share: float) -> tuple[Tensor, Tensor, _Found]:
    """One moment: from the gradients of h and z after it to those before it.

    share: of the probabilities drawn from that the posterior's own have.
    """
    kind, blocks = weights.tell.dtype, weights.own
    by_probs = way.probs * (d_z + way.d_codes).view_as(way.probs)
    by_scores = torch.addcmul(by_probs, way.probs, by_probs.sum(-1, keepdim=True), value=-1).flatten(1)
    score = torch.add(way.d_scores, by_scores, alpha=share).to(kind)
    seen_hidden = score @ weights.score
    shown = _before_norm(seen_hidden * way.seen_slope, way.seen).to(kind)
    d_h = d_h + way.d_past + shown @ weights.recall
    gates = (d_h.view(len(d_h), len(blocks), 1, -1) * way.gates_slope).to(kind).flatten(2)
    hidden = _join(torch.bmm(gates.transpose(0, 1), weights.gates.transpose(1, 2)))
    drive = _before_norm(hidden * way.inner_slope, way.inner).to(kind)
    told = (drive @ weights.tell).view_as(way.read)
    read = _before_norm(told * way.read_slope, way.read).to(kind)
    own = _join(torch.bmm(_split(drive, blocks), blocks.transpose(1, 2)))
    d_h = d_h * way.h_slope + torch.addmm(own, read[:, 0], weights.read_h)
    d_z = (read[:, 1] @ weights.read_z) * way.keep
    return d_h * way.keep, d_z, _Found(score, seen_hidden, shown, gates, hidden, drive, told, read)


def _before_norm(d_x: Tensor, x: Tensor) -> Tensor:
    """The gradient by what x was before `normalised`, given that of all but the scale's share in it."""
    return torch.addcmul(d_x, x, (d_x * x).mean(-1, keepdim=True), value=-1)


def _taught(weights: Weights, trace: _Trace, found: _Found) -> Weights:
    """Gradients of the weights, each from all moments at once."""
    kind = weights.tell.dtype
    trace, found = _Trace(*(x.flatten(0, 1) for x in trace)), _Found(*(x.flatten(0, 1) for x in found))
    h, told = trace.kept_h.to(kind), F.silu(trace.read * weights.read_norm).to(kind).flatten(1)
    hidden, seen = (F.silu(x * w).to(kind) for x, w in ((trace.inner, weights.norm), (trace.seen, weights.seen_norm)))
    return Weights(
        read_h=found.read[:, 0].t() @ h,
        read_z=found.read[:, 1].t() @ trace.kept_z.to(kind),
        read_bias=found.read.sum(0),
        read_norm=_norm_taught(found.told, trace.read, weights.read_norm),
        tell=found.drive.t() @ told,
        own=_blocks_taught(_split(found.drive, weights.own), h, weights.own),
        norm=_norm_taught(found.inner_hidden, trace.inner, weights.norm),
        gates=_blocks_taught(found.gates.transpose(0, 1), hidden, weights.own),
        gates_bias=found.gates.sum(0).unsqueeze(1),
        recall=found.shown.t() @ trace.past.to(kind),
        seen_norm=_norm_taught(found.seen_hidden, trace.seen, weights.seen_norm),
        score=found.score.t() @ seen,
        score_bias=found.score.sum(0),
    )


def _norm_taught(d_hidden: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    by_product: Tensor = torch.ops.aten.silu_backward(d_hidden.to(x.dtype), x * weight)
    return (by_product * x).sum(0)


def _blocks_taught(d_GNX: Tensor, x_NW: Tensor, own: Tensor) -> Tensor:
    return torch.bmm(_split(x_NW, own).transpose(1, 2), d_GNX)


def _split(x_NW: Tensor, own: Tensor) -> Tensor:
    """(N, W) to the blocks (G, N, P)."""
    return x_NW.unflatten(1, (len(own), -1)).transpose(0, 1)  # type: ignore[no-any-return]


def _join(x_GNP: Tensor) -> Tensor:
    """The inverse of `_split`."""
    return x_GNP.transpose(0, 1).flatten(1)
