"""Codes from each frame alone: what families with a backbone predict. A timestep's codes depend on no other timestep.

An image patch or a vector becomes K numbers of C levels each (finite scalar quantisation, arXiv:2309.15505); a
categorical variable is its own code.

Axes: B batch, T time, V categorical variables, S dense slots, K numbers, C levels, E code width.
"""

from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from worldsim.models.generator import uniform
from worldsim.models.layers import SlotEmbedding, SlotLinear

MARGIN = 0.3  # of a level


class Codes(NamedTuple):
    """One timestep's codes as indices; class V's or level C stands for "nothing seen yet"."""

    categorical: Tensor  # (..., V) int64
    dense: Tensor  # (..., S, K) int64


class Quantiser(nn.Module):
    """Encoded dense slots as K numbers of C levels, evenly spaced in [-1, 1]."""

    def __init__(self, slots: int, embed: int, numbers: int, levels: int):
        super().__init__()
        self.levels = levels
        self.in_proj = SlotLinear(slots, embed, numbers)

    def forward(self, embeds: Tensor, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """(..., S, embed) to level indices (..., S, K), and to their values with a straight-through gradient.

        Always in fp32, so that training and inference see the same codes. With a generator the numbers are shaken by up
        to MARGIN levels: the encoder learns to keep away from the edges between levels, where codes would flicker.
        """
        with torch.autocast(embeds.device.type, enabled=False):
            bounded = torch.tanh(self.in_proj(embeds.float()))
        shaken = bounded.detach()
        half = (self.levels - 1) / 2
        if generator is not None:
            noise = uniform(bounded.shape, generator, bounded.device)
            shaken = (shaken + (2 * noise - 1) * MARGIN / half).clamp(-1, 1)
        index = ((shaken + 1) * half).round().long().clamp(0, self.levels - 1)  # a NaN must live to be reported
        return index, self.values(index) + bounded - bounded.detach()

    def values(self, index: Tensor) -> Tensor:
        """Level indices to numbers in [-1, 1]."""
        return index.float() / ((self.levels - 1) / 2) - 1


class CodeEmbedding(nn.Module):
    """Codes of all V + S slots as vectors (..., V + S, E); of what was never seen, the bias alone."""

    def __init__(self, variables: int, classes: int, slots: int, numbers: int, levels: int, width: int):
        super().__init__()
        self.categorical = SlotEmbedding(variables, 1, classes, width, scale=classes**0.5)
        self.dense = SlotEmbedding(slots, numbers, levels, width, scale=levels**0.5)

    def nothing(self) -> Tensor:
        """(V + S, E): what stands for codes that were never seen."""
        return torch.cat([self.categorical.bias, self.dense.bias])

    def of_categorical(self, categorical: Tensor) -> Tensor:
        """(..., V) indices to (..., V, E)."""
        return self.categorical(categorical.unsqueeze(-1))  # type: ignore[no-any-return]

    def of_dense(self, dense: Tensor) -> Tensor:
        """(..., S, K) indices to (..., S, E)."""
        return self.dense(dense)  # type: ignore[no-any-return]

    def forward(self, codes: Codes) -> Tensor:
        return torch.cat([self.of_categorical(codes.categorical), self.of_dense(codes.dense)], -2)


def shifted(start: Tensor, x: Tensor) -> Tensor:
    """What each timestep (B, T, ...) has before it, the first one `start` (B, ...)."""
    return torch.cat([start.to(x.dtype).unsqueeze(1), x[:, :-1]], 1)


def corrupted(now: Codes, share: float, generator: Generator) -> Codes:
    """In training some codes come from another timestep, so that imagination learns to recover from its own slips."""
    batch, time, variables = now.categorical.shape
    draws = uniform((batch, time, variables + now.dense.shape[2] + 1), generator, now.categorical.device)
    wrong = draws[..., :-1] < 2 * share * draws[:, :1, -1:]  # a rate of its own for every sequence, on average `share`
    masks = wrong[..., :variables], wrong[..., variables:, None]
    return Codes(*(torch.where(mask, codes.flip(0).roll(1, 1), codes) for mask, codes in zip(masks, now, strict=True)))
