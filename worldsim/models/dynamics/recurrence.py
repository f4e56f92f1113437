"""One timestep of the `rssm` family, and the loop over a sequence of them with its backward pass written by hand.

A timestep is a few matrix products of few rows; what surrounds them is what costs time. So the gradients of weights,
for which no timestep waits, are one product over all timesteps after the loop, and the slopes of activations are
computed for all timesteps before it. Autograd does both timestep by timestep: an update takes it 1.3 to 1.7 times as
long (docs/decisions.md).

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
    """Of one timestep. Norms are in the type of h, all others in the type that products are computed in."""

    in_h: Tensor  # (U, W)
    in_z: Tensor  # (U, Z)
    in_bias: Tensor  # (2, U)
    in_norm: Tensor  # (2, U)
    cell_in: Tensor  # (W, 2U)
    block_weight: Tensor  # (G, P, P)
    norm: Tensor  # (W,)
    gates: Tensor  # (G, P, 3P)
    gates_bias: Tensor  # (G, 1, 3P)
    posterior_h: Tensor  # (U, W)
    posterior_norm: Tensor  # (U,)
    logits_proj: Tensor  # (Z, U)
    logits_bias: Tensor  # (Z,)


class CellOutput(NamedTuple):
    """The next h, and how it came about. What a norm gives is kept before its weights, as is what it multiplied by."""

    h: Tensor  # (B, W)
    in_normed: Tensor  # (B, 2, U), of h and of z
    in_scale: Tensor  # (B, 2, 1)
    inner: Tensor  # (B, W)
    inner_scale: Tensor  # (B, 1)
    switches: Tensor  # (B, G, 2, P): reset and update
    value: Tensor  # (B, G, P)
    candidate: Tensor  # (B, G, P)


class Posterior(NamedTuple):
    """The posterior's logits, and how they came about."""

    logits: Tensor  # (B, Z)
    normed: Tensor  # (B, U)
    posterior_scale: Tensor  # (B, 1)
    probs: Tensor  # (B, K, C), nothing mixed in


def normalised(x: Tensor) -> tuple[Tensor, Tensor]:
    """x with a root mean square of 1 over the last axis (arXiv:1910.07467), and what it was multiplied by."""
    scale = x.square().mean(-1, keepdim=True).add_(EPS).rsqrt_()
    return x * scale, scale


def cell(weights: Weights, h_BW: Tensor, z_BZ: Tensor, action_BW: Tensor) -> CellOutput:
    """The next h. A block reads its own part of h, and what one layer makes of all of h, of z and of the action each.

    action: what the action adds, in the type that products are computed in.
    """
    kind, bias = action_BW.dtype, weights.in_bias
    h = h_BW.to(kind)
    both = F.linear(h, weights.in_h, bias[0]), F.linear(z_BZ.to(kind), weights.in_z, bias[1])
    in_normed, in_scale = normalised(torch.stack(both, 1).to(h_BW.dtype))
    inputs = F.silu(in_normed * weights.in_norm).to(kind).flatten(1)
    x = torch.addmm(action_BW, inputs, weights.cell_in.t()) + _join(
        torch.bmm(_split(h, weights.block_weight), weights.block_weight)
    )
    inner, inner_scale = normalised(x.to(h_BW.dtype))
    hidden = F.silu(inner * weights.norm).to(kind)
    x = torch.baddbmm(weights.gates_bias, _split(hidden, weights.block_weight), weights.gates)
    gates = x.transpose(0, 1).to(h_BW.dtype).unflatten(2, (3, -1))
    switches, value = torch.sigmoid(gates[:, :, :2]), gates[:, :, 2]
    candidate = torch.tanh(switches[:, :, 0] * value)
    following = torch.lerp(h_BW.view_as(value), candidate, switches[:, :, 1]).flatten(1)
    return CellOutput(following, in_normed, in_scale, inner, inner_scale, switches, value, candidate)


def posterior(weights: Weights, h_BW: Tensor, obs_BU: Tensor, latents: int) -> Posterior:
    """The posterior. obs: what the observation adds, in the type that products are computed in."""
    kind = obs_BU.dtype
    normed, scale = normalised(torch.addmm(obs_BU, h_BW.to(kind), weights.posterior_h.t()).to(h_BW.dtype))
    hidden = F.silu(normed * weights.posterior_norm).to(kind)
    logits = F.linear(hidden, weights.logits_proj, weights.logits_bias).to(h_BW.dtype)
    return Posterior(logits, normed, scale, logits.unflatten(-1, (latents, -1)).softmax(-1))


def limits(uniform: Tensor, classes: int, unimix: float) -> Tensor:
    """What the distribution function of all classes but the last must exceed to sample a class: (..., K, C - 1).

    uniform: (..., K) in [0, 1). `unimix` of the uniform distribution is mixed into the one that is sampled from.
    """
    mixed = torch.arange(1, classes, device=uniform.device) * (unimix / classes)
    return (uniform.unsqueeze(-1) - mixed) / (1 - unimix)


def sampled(probs_BKC: Tensor, limit_BKC: Tensor | None) -> Tensor:
    """One-hot latents (B, Z): sampled through the inverse distribution function, or the modes if there is no limit."""
    if limit_BKC is None:
        index = probs_BKC.argmax(-1, keepdim=True)
    else:
        index = (probs_BKC[..., :-1].cumsum(-1) <= limit_BKC).sum(-1, keepdim=True)
    return torch.zeros_like(probs_BKC).scatter_(-1, index, 1.0).flatten(1)


class UnrolledStates(NamedTuple):
    """What a sequence gives."""

    past: Tensor  # (B, T, W): h
    codes: Tensor  # (B, T, Z): z, one-hot
    logits: Tensor  # (B, T, Z) of the posterior


def follow(
    weights: Weights,
    start: tuple[Tensor, Tensor],
    keep_BT1: Tensor,
    action_BTW: Tensor,
    obs_BTU: Tensor,
    limits_BTKC: Tensor | None,
    latents: int,
    unimix: float,
) -> UnrolledStates:
    """All timesteps, one after the other. The codes have the gradient of their probabilities (straight through).

    start: h (B, W) and z (B, Z) before. keep: 0 where they are forgotten, 1 elsewhere. limits: see `limits`; None
    follows the modes.
    """
    inputs = (*start, keep_BT1, action_BTW, obs_BTU, limits_BTKC)
    return UnrolledStates(*_Loop.apply(*inputs, latents, unimix, *weights))  # type: ignore[no-untyped-call]


class _Trace(NamedTuple):
    """What the backward pass needs, (B, T, ...) each: what a timestep started from, `CellOutput` and `Posterior`."""

    kept_h: Tensor
    kept_z: Tensor
    past: Tensor
    in_normed: Tensor
    in_scale: Tensor
    inner: Tensor
    inner_scale: Tensor
    switches: Tensor
    value: Tensor
    candidate: Tensor
    normed: Tensor
    posterior_scale: Tensor
    probs: Tensor


class _Backward(NamedTuple):
    """What the gradients of a timestep go through backwards, (B, ...) each; of all timesteps (B, T, ...)."""

    d_logits: Tensor  # those that come in from outside of the loop
    d_past: Tensor
    d_codes: Tensor
    keep: Tensor
    probs: Tensor
    normed: Tensor
    posterior_slope: Tensor
    gates_slope: Tensor  # (B, G, 3, P)
    inner: Tensor
    inner_slope: Tensor
    in_normed: Tensor
    in_slope: Tensor
    h_slope: Tensor  # (B, W)


class _Gradients(NamedTuple):
    """Gradients found at a timestep, by what layers and activations gave, in the type that products are computed in."""

    logits_proj: Tensor  # (B, Z)
    posterior_hidden: Tensor  # (B, U)
    obs: Tensor  # (B, U)
    gates: Tensor  # (B, G, 3P)
    inner_hidden: Tensor  # (B, W)
    action: Tensor  # (B, W)
    inputs: Tensor  # (B, 2, U)
    in_normed: Tensor  # (B, 2, U)


class _Loop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, z: Tensor, keep: Tensor, action: Tensor, obs: Tensor, *rest: Any) -> Any:
        limited, latents, ctx.unimix, *packed = rest
        weights, timesteps = Weights(*packed), []
        bounds = [None] * keep.shape[1] if limited is None else limited.unbind(1)
        for kept, action_t, obs_t, bound in zip(keep.unbind(1), action.unbind(1), obs.unbind(1), bounds, strict=True):
            before = h * kept, z * kept
            h, *kept_cell = cell(weights, *before, action_t)
            logits, *kept_posterior = posterior(weights, h, obs_t, latents)
            z = sampled(kept_posterior[-1], bound)
            timesteps.append((z, logits, *before, h, *kept_cell, *kept_posterior))
        codes, logits, *trace = (torch.stack(parts, 1) for parts in zip(*timesteps, strict=True))
        ctx.save_for_backward(keep, *trace, *packed)
        return trace[2], codes, logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_past: Tensor, d_codes: Tensor, d_logits: Tensor) -> Any:
        keep, *saved = ctx.saved_tensors
        fields = len(_Trace._fields)
        trace, weights = _Trace(*saved[:fields]), Weights(*saved[fields:])
        timesteps = _Backward(d_logits, d_past, d_codes, keep, *_slopes(trace, weights))
        d_h, d_z, found = torch.zeros_like(d_past[:, 0]), torch.zeros_like(d_codes[:, 0]), []
        for parts in reversed(list(zip(*(part.unbind(1) for part in timesteps), strict=True))):
            d_h, d_z, here = _back(weights, _Backward(*parts), d_h, d_z, 1 - ctx.unimix)
            found.append(here)
        every = _Gradients(*(torch.stack(parts[::-1], 1) for parts in zip(*found, strict=True)))
        return d_h, d_z, None, every.action, every.obs, None, None, None, *_weight_gradients(weights, trace, every)


def _slopes(trace: _Trace, weights: Weights) -> tuple[Tensor, ...]:
    """The fields of `_Backward` from `probs` on, of all timesteps."""
    reset, update = trace.switches.unbind(3)
    through = update * (1 - trace.candidate.square())
    by_reset = through * trace.value * reset * (1 - reset)
    by_update = (trace.candidate - trace.kept_h.view_as(update)) * update * (1 - update)
    return (
        trace.probs,
        trace.normed,
        _slope(trace.normed, weights.posterior_norm, trace.posterior_scale),
        torch.stack([by_reset, by_update, through * reset], 3),
        trace.inner,
        _slope(trace.inner, weights.norm, trace.inner_scale),
        trace.in_normed,
        _slope(trace.in_normed, weights.in_norm, trace.in_scale),
        (1 - update).flatten(2),
    )


def _slope(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Of silu(x * weight), by what x was before it was multiplied by `scale`, which is held to be a constant."""
    slope: Tensor = torch.ops.aten.silu_backward(weight * scale, x * weight)
    return slope


def _back(
    weights: Weights, timestep: _Backward, d_h: Tensor, d_z: Tensor, share: float
) -> tuple[Tensor, Tensor, _Gradients]:
    """One timestep: from the gradients of h and z after it to those before it.

    share: of the probabilities sampled from that the posterior's own have.
    """
    kind, blocks = weights.cell_in.dtype, weights.block_weight
    by_probs = timestep.probs * (d_z + timestep.d_codes).view_as(timestep.probs)
    by_logits = torch.addcmul(by_probs, timestep.probs, by_probs.sum(-1, keepdim=True), value=-1).flatten(1)
    logits_proj = torch.add(timestep.d_logits, by_logits, alpha=share).to(kind)
    posterior_hidden = logits_proj @ weights.logits_proj
    obs = _before_norm(posterior_hidden * timestep.posterior_slope, timestep.normed).to(kind)
    d_h = d_h + timestep.d_past + obs @ weights.posterior_h
    gates = (d_h.view(len(d_h), len(blocks), 1, -1) * timestep.gates_slope).to(kind).flatten(2)
    hidden = _join(torch.bmm(gates.transpose(0, 1), weights.gates.transpose(1, 2)))
    action = _before_norm(hidden * timestep.inner_slope, timestep.inner).to(kind)
    inputs = (action @ weights.cell_in).view_as(timestep.in_normed)
    in_normed = _before_norm(inputs * timestep.in_slope, timestep.in_normed).to(kind)
    own = _join(torch.bmm(_split(action, blocks), blocks.transpose(1, 2)))
    d_h = d_h * timestep.h_slope + torch.addmm(own, in_normed[:, 0], weights.in_h)
    d_z = (in_normed[:, 1] @ weights.in_z) * timestep.keep
    return (
        d_h * timestep.keep,
        d_z,
        _Gradients(logits_proj, posterior_hidden, obs, gates, hidden, action, inputs, in_normed),
    )


def _before_norm(d_x: Tensor, x: Tensor) -> Tensor:
    """The gradient by what x was before `normalised`, given that of all but the scale's share in it."""
    return torch.addcmul(d_x, x, (d_x * x).mean(-1, keepdim=True), value=-1)


def _weight_gradients(weights: Weights, trace: _Trace, found: _Gradients) -> Weights:
    """Gradients of the weights, each from all timesteps at once."""
    kind = weights.cell_in.dtype
    trace, found = _Trace(*(x.flatten(0, 1) for x in trace)), _Gradients(*(x.flatten(0, 1) for x in found))
    h, inputs = trace.kept_h.to(kind), F.silu(trace.in_normed * weights.in_norm).to(kind).flatten(1)
    hidden, normed = (
        F.silu(x * w).to(kind) for x, w in ((trace.inner, weights.norm), (trace.normed, weights.posterior_norm))
    )
    return Weights(
        in_h=found.in_normed[:, 0].t() @ h,
        in_z=found.in_normed[:, 1].t() @ trace.kept_z.to(kind),
        in_bias=found.in_normed.sum(0),
        in_norm=_norm_gradient(found.inputs, trace.in_normed, weights.in_norm),
        cell_in=found.action.t() @ inputs,
        block_weight=_block_gradients(_split(found.action, weights.block_weight), h, weights.block_weight),
        norm=_norm_gradient(found.inner_hidden, trace.inner, weights.norm),
        gates=_block_gradients(found.gates.transpose(0, 1), hidden, weights.block_weight),
        gates_bias=found.gates.sum(0).unsqueeze(1),
        posterior_h=found.obs.t() @ trace.past.to(kind),
        posterior_norm=_norm_gradient(found.posterior_hidden, trace.normed, weights.posterior_norm),
        logits_proj=found.logits_proj.t() @ normed,
        logits_bias=found.logits_proj.sum(0),
    )


def _norm_gradient(d_hidden: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    by_product: Tensor = torch.ops.aten.silu_backward(d_hidden.to(x.dtype), x * weight)
    return (by_product * x).sum(0)


def _block_gradients(d_GNX: Tensor, x_NW: Tensor, block_weight: Tensor) -> Tensor:
    return torch.bmm(_split(x_NW, block_weight).transpose(1, 2), d_GNX)


def _split(x_NW: Tensor, block_weight: Tensor) -> Tensor:
    """(N, W) to the blocks (G, N, P)."""
    return x_NW.unflatten(1, (len(block_weight), -1)).transpose(0, 1)  # type: ignore[no-any-return]


def _join(x_GNP: Tensor) -> Tensor:
    """The inverse of `_split`."""
    return x_GNP.transpose(0, 1).flatten(1)
