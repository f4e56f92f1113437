"""Observations to slots and back: one slot for every image patch, every categorical variable and every vector leaf.

Axes: N any leading axes, S slots, D width, H W C frame height, width and channels, p patch size.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldsim.models.config import ModelConfig
from worldsim.models.layers import SlotLinear, SlotsFirst, mlp, onehot, symexp, symlog
from worldsim.spaces import Leaf

Observation = Mapping[str, Tensor]


def slots_of(leaf: Leaf, patch: int) -> int:
    """How many dense slots a leaf takes: one a patch of an image or a field, one a vector."""
    return 1 if leaf.kind == "vector" else -(-leaf.shape[0] // patch) * -(-leaf.shape[1] // patch)


class ImageCodec(nn.Module):
    """A frame as a grid of patches, each seen and drawn relative to the data's mean image. Pure matrix products.

    local: every place of the grid sees and draws with weights of its own (a locally connected layer, LeCun 1989), for
    cameras that stand still; otherwise all share them, and learn from each other. There are as many operations.
    """

    def __init__(self, leaf: Leaf, patch: int, embed: int, hidden: int, features: int, local: bool):
        super().__init__()
        self.height, self.width, self.channels = leaf.shape
        self.patch = patch
        self.rows, self.columns = -(-self.height // patch), -(-self.width // patch)
        self.slots = self.rows * self.columns
        pixels = patch * patch * self.channels
        self.mean: Tensor
        self.register_buffer("mean", torch.full((self.height, self.width, self.channels), 0.5))
        layer: Any = partial(SlotsFirst, self.slots) if local else nn.Linear
        self.enter = layer(pixels, hidden, bias=False)
        self.place = nn.Parameter(torch.randn(self.slots, 1, hidden) * 0.1)
        self.leave = layer(hidden, embed)
        self.draw_enter = nn.Parameter(torch.randn(self.slots, features, hidden) * features**-0.5)
        self.draw_place = nn.Parameter(torch.randn(self.slots, 1, hidden) * 0.1)
        self.draw = nn.Sequential(nn.SiLU(), layer(hidden, hidden), nn.SiLU(), layer(hidden, pixels))
        for parameter in self.draw[-1].parameters():  # begin with the mean image
            nn.init.zeros_(parameter)

    def shown(self, frames: Tensor) -> Tensor:
        """Frames on the scale of pixels, 0 to 255: as they are."""
        return frames

    def patches(self, frames: Tensor) -> Tensor:
        """(N, H, W, C) to (S, N, p*p*C), padded with zeros to whole patches."""
        pad = (0, 0, 0, self.columns * self.patch - self.width, 0, self.rows * self.patch - self.height)
        padded = F.pad(frames, pad) if any(pad) else frames
        return rearrange(padded, "n (r p) (c q) k -> (r c) n (p q k)", p=self.patch, q=self.patch)

    def frames(self, patches: Tensor) -> Tensor:
        """The inverse of `patches`."""
        pattern = "(r c) n (p q k) -> n (r p) (c q) k"
        whole = rearrange(patches, pattern, r=self.rows, p=self.patch, q=self.patch, k=self.channels)
        return whole[:, : self.height, : self.width]

    def encode(self, frames: Tensor) -> Tensor:
        """uint8 frames (N, H, W, C) to (N, S, embed). What is seen is the difference from the mean image, in [-2, 2].

        The difference is of whole numbers, which bf16 holds exactly: codes do not depend on the precision computed in.
        """
        kind = _compute_type(frames)
        difference = self.patches(frames).to(kind) - (self.mean_patches() * 255).round().to(kind)
        x = self.enter(difference)
        seen = F.silu(torch.add(self.place.to(x.dtype), x, alpha=2 / 255))
        return self.leave(seen).transpose(0, 1)  # type: ignore[no-any-return]

    def residual(self, slots: Tensor) -> Tensor:
        """(N, S, features) to patches (S, N, p*p*C) of what differs from the mean image."""
        slots_first = slots.transpose(0, 1)
        patches: Tensor = self.draw(torch.baddbmm(self.draw_place, slots_first, self.draw_enter))
        return patches

    def decode(self, slots: Tensor) -> Tensor:
        """(N, S, features) to uint8 frames (N, H, W, C)."""
        shown = self.residual(slots).float().mul_(255).add_(self.mean_patches() * 255)
        return self.frames(shown.round_().clamp_(0, 255).to(torch.uint8))  # a byte a pixel is moved, not four

    def loss(self, slots: Tensor, frames: Tensor) -> Tensor:
        """Squared error (N,), ten times weighted where a pixel differs from the mean image by more than 5 %."""
        seen = self.residual(slots), self.patches(frames), self.mean_patches()
        error: Tensor = _WeightedSquare.apply(*seen)  # type: ignore[no-untyped-call]
        return error.sum(0)

    def mean_patches(self) -> Tensor:
        """(S, 1, p*p*C) of the mean image."""
        return self.patches(self.mean.unsqueeze(0))


class FieldCodec(ImageCodec):
    """A grid of any numbers, seen as an image: in symlog, on a scale from the least to the greatest of the data."""

    def __init__(self, leaf: Leaf, patch: int, embed: int, hidden: int, features: int, local: bool):
        super().__init__(leaf, patch, embed, hidden, features, local)
        self.kind = _torch_type(leaf)
        self.low: Tensor
        self.high: Tensor
        self.register_buffer("low", torch.tensor(0.0))
        self.register_buffer("high", torch.tensor(1.0))

    def measure(self, parts: Iterable[Tensor]) -> None:
        """Sets the scale from frames (N, H, W, C) of the data, part by part; what is not finite counts for nothing."""
        finite = [part[part.isfinite()] for part in parts]
        ends = [torch.stack(part.aminmax()).float() for part in finite if part.numel()]
        if ends:
            low, high = torch.stack(ends).unbind(1)
            self.low.copy_(symlog(low.min()))
            self.high.copy_(symlog(high.max()))

    def shown(self, frames: Tensor) -> Tensor:
        """(N, H, W, C) in the data's units to fp32 in [0, 255]; what the data never had is cut off."""
        place = (symlog(frames.float()) - self.low) / (self.high - self.low).clamp_min(1e-6)
        return 255 * place.clamp(0, 1)

    def encode(self, frames: Tensor) -> Tensor:
        return super().encode(self.shown(frames))

    def decode(self, slots: Tensor) -> Tensor:
        """(N, S, features) to frames (N, H, W, C) in the data's units."""
        place = (self.mean + self.frames(self.residual(slots).float())).clamp(0, 1)
        return symexp(self.low + place * (self.high - self.low)).to(self.kind)

    def loss(self, slots: Tensor, frames: Tensor) -> Tensor:
        return super().loss(slots, self.shown(frames))


def _torch_type(leaf: Leaf) -> torch.dtype:
    """Of the leaf's flat array."""
    return torch.from_numpy(np.zeros(0, leaf.dtype)).dtype


class _WeightedSquare(torch.autograd.Function):
    """Weighted squared error of every slot (S, N), in one buffer worked on in place: memory traffic is what costs."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, patches: Tensor, mean: Tensor) -> Tensor:
        weighted, losses = torch.empty_like(residual), torch.empty(residual.shape[:2], device=residual.device)
        chunk = len(patches) if patches.is_cuda else max(1, 2**18 // patches[0].numel())  # a megabyte fits the cache
        for slots in (slice(at, at + chunk) for at in range(0, len(patches), chunk)):
            target = torch.div(patches[slots], 255).sub_(mean[slots])
            weight = torch.abs(target).gt_(0.05).mul_(9.0).add_(1.0)
            error = target.neg_().add_(residual[slots])
            losses[slots] = torch.linalg.vecdot(weight.mul_(error), error)
            weighted[slots] = weight
        ctx.save_for_backward(weighted)
        return losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (weighted,) = ctx.saved_tensors
        return weighted * (2 * grad).to(weighted.dtype).unsqueeze(-1), None, None


def _compute_type(like: Tensor) -> torch.dtype:
    """The type that autocast would compute in on this tensor's device."""
    kind = like.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32


class RecordCodec(nn.Module):
    """Every categorical variable of an observation in a slot of its own."""

    def __init__(self, leaves: tuple[Leaf, ...], embed: int, features: int):
        super().__init__()
        self.leaves = leaves
        nvec = np.concatenate([leaf.nvec for leaf in leaves] or [np.zeros(0, np.int64)])
        self.slots, self.classes = len(nvec), int(nvec.max(initial=1))
        self.nvec: Tensor
        self.register_buffer("nvec", torch.from_numpy(nvec), persistent=False)
        self.enter = SlotLinear(self.slots, self.classes, embed, scale=self.classes**0.5)
        self.leave = SlotLinear(self.slots, features, self.classes)
        if features == self.classes:  # the slot is the variable's own one-hot: begin with reading it off
            self.leave.weight.data.copy_(10 * torch.eye(features))

    def indices(self, observation: Observation) -> Tensor:
        """Class indices (N, V)."""
        if not self.leaves:
            first = next(iter(observation.values()))
            return torch.zeros(first.shape[0], 0, dtype=torch.long, device=first.device)
        return torch.cat([observation[leaf.name] for leaf in self.leaves], -1)

    def encode(self, indices: Tensor) -> Tensor:
        """(N, V) class indices to (N, V, embed)."""
        embeds: Tensor = self.enter(onehot(indices, self.classes).to(self.enter.weight.dtype))
        return embeds

    def possible(self, scores: Tensor) -> Tensor:
        """Log-probabilities (N, V, classes) in which classes that a variable does not have are impossible."""
        impossible = torch.arange(self.classes, device=scores.device) >= self.nvec.unsqueeze(-1)
        return F.log_softmax(scores.float().masked_fill(impossible, -1e9), -1)

    def decode(self, slots: Tensor) -> dict[str, Tensor]:
        """(N, V, features) to flat leaves: the most probable class of every variable."""
        chosen = self.possible(self.leave(slots)).argmax(-1).split([leaf.shape[0] for leaf in self.leaves], -1)
        return {leaf.name: part for leaf, part in zip(self.leaves, chosen, strict=True)}

    def loss(self, slots: Tensor, indices: Tensor) -> Tensor:
        """Negative log-likelihood (N,) in nats."""
        return -self.possible(self.leave(slots)).gather(-1, indices.unsqueeze(-1)).sum((-1, -2))


class VectorCodec(nn.Module):
    """A vector leaf in one slot, seen in symlog and standardised by the data's mean and deviation."""

    slots = 1

    def __init__(self, leaf: Leaf, embed: int, features: int):
        super().__init__()
        size, self.kind = leaf.shape[0], _torch_type(leaf)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))
        self.enter = mlp([size, embed, embed])
        self.leave = mlp([features, 2 * embed, size])

    def scaled(self, value: Tensor) -> Tensor:
        return (symlog(value.to(self.std.dtype)) - self.mean) / self.std

    def encode(self, value: Tensor) -> Tensor:
        """(N, n) to (N, 1, embed)."""
        embeds: Tensor = self.enter(self.scaled(value))
        return embeds.unsqueeze(-2)

    def decode(self, slots: Tensor) -> Tensor:
        """(N, 1, features) to (N, n)."""
        return symexp(self.leave(slots.squeeze(-2)).float() * self.std + self.mean).to(self.kind)

    def loss(self, slots: Tensor, value: Tensor) -> Tensor:
        """Ten times the squared error of the standardised vector, as pixels that matter: (N,)."""
        predicted: Tensor = self.leave(slots.squeeze(-2))
        return 10 * (predicted.float() - self.scaled(value)).square().sum(-1)


class Slots(NamedTuple):
    """An observation in slots: V categorical variables, and S image patches and vectors."""

    record: Tensor  # (N, V, width)
    dense: Tensor  # (N, S, width)


class ObservationCodec(nn.Module):
    """Encoder and decoder of a whole observation, leaf by leaf.

    record_features, dense_features: widths of the slots that `decode` and `loss` take.
    """

    def __init__(self, leaves: tuple[Leaf, ...], config: ModelConfig, record_features: int | None, dense_features: int):
        super().__init__()
        record = tuple(leaf for leaf in leaves if leaf.kind == "categorical")
        classes = max((int(leaf.nvec.max()) for leaf in record), default=1)
        self.record = RecordCodec(record, config.embed, record_features or classes)
        self.dense_leaves = [leaf for leaf in leaves if leaf.kind != "categorical"]
        codecs = [_dense_codec(leaf, config, dense_features) for leaf in self.dense_leaves]
        self.dense = nn.ModuleList(codecs)
        self.embed, self.sizes = config.embed, [codec.slots for codec in codecs]

    def dense_codecs(self) -> list[tuple[Leaf, "ImageCodec | VectorCodec"]]:
        return list(zip(self.dense_leaves, self.dense, strict=True))  # type: ignore[arg-type]

    def encode(self, observation: Observation) -> Slots:
        """Flat leaves (N, ...) to embedded slots."""
        indices = self.record.indices(observation)
        dense = [codec.encode(observation[leaf.name]) for leaf, codec in self.dense_codecs()]
        nothing = self.record.enter.weight.new_zeros(len(indices), 0, self.embed)
        return Slots(self.record.encode(indices), torch.cat(dense, -2) if dense else nothing)

    def decode(self, slots: Slots) -> dict[str, Tensor]:
        """Feature slots to flat leaves (N, ...)."""
        out = self.record.decode(slots.record) if self.record.leaves else {}
        parts = slots.dense.split(self.sizes, -2)
        found = zip(self.dense_codecs(), parts, strict=True)
        return out | {leaf.name: codec.decode(part) for (leaf, codec), part in found}

    def loss(self, slots: Slots, observation: Observation) -> dict[str, Tensor]:
        """Reconstruction losses (N,) a leaf; categorical leaves together, as "record"."""
        out = {}
        if self.record.leaves:
            out["record"] = self.record.loss(slots.record, self.record.indices(observation))
        parts = slots.dense.split(self.sizes, -2)
        for (leaf, codec), part in zip(self.dense_codecs(), parts, strict=True):
            loss = codec.loss(part, observation[leaf.name])
            out[leaf.name] = out[leaf.name] + loss if leaf.name in out else loss  # a leaf may be called "record"
        return out


def _dense_codec(leaf: Leaf, config: ModelConfig, features: int) -> ImageCodec | VectorCodec:
    if leaf.kind == "vector":
        return VectorCodec(leaf, config.embed, features)
    grid = ImageCodec if leaf.kind == "image" else FieldCodec
    return grid(leaf, config.patch, config.embed, config.hidden, features, config.local)
