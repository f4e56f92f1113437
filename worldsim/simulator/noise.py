"""Random numbers as a pure function of (seed, tick): the state of a generator is two integers in the world's own state.

So a world's future depends on its seed and its actions, not on its batch mates, and a snapshot is exact.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Constants(NamedTuple):
    """Of MurmurHash3's finaliser (public domain, Appleby) and of the keys, as int32, in which products wrap around.

    They are tensors because a Python number becomes one at every use, which takes longer than to use it.
    """

    first: Tensor
    second: Tensor
    of_ticks: Tensor
    of_seeds: Tensor
    by_16: Tensor  # shifts, and the bits that are left after them: without that the sign would be shifted in
    left_16: Tensor
    by_13: Tensor
    left_19: Tensor
    by_8: Tensor
    left_24: Tensor


class NoiseSource(NamedTuple):
    """What makes random numbers of seeds and ticks."""

    constants: Constants
    places: Tensor  # (N, 1) int32, tell the numbers of one tick apart

    @staticmethod
    def of(count: int, device: torch.device | None = None) -> "NoiseSource":
        """For `count` numbers a tick."""
        values = 0x85EBCA6B, 0xC2B2AE35, 0x632BE5AB, 0x9E3779B9, 16, 0xFFFF, 13, 0x7FFFF, 8, 0xFFFFFF
        constants = Constants(*torch.tensor(values, device=device).int().unbind())
        places = torch.arange(count, dtype=torch.int32, device=device) + 0x7F4A7C15
        return NoiseSource(constants, _mixed(places, constants).unsqueeze(-1))


def uniforms(seed_B: Tensor, tick_B: Tensor, chance: NoiseSource) -> Tensor:
    """(B, N) fp32 numbers, uniform in [0, 1), for int64 seeds and ticks. In memory B comes last, as what is drawn."""
    of, places = chance
    key = _mixed((seed_B ^ (seed_B >> 32)).int().bitwise_xor_(of.of_seeds), of)
    key = _mixed(tick_B.int().mul_(of.of_ticks).add_(key), of)
    bits = (_mixed(places + key, of) >> of.by_8).bitwise_and_(of.left_24)
    return bits.float().mul_(2.0**-24).T


def _mixed(x: Tensor, of: Constants) -> Tensor:
    """Every bit depends on every other one then. In place."""
    x = x.bitwise_xor_((x >> of.by_16).bitwise_and_(of.left_16)).mul_(of.first)
    x = x.bitwise_xor_((x >> of.by_13).bitwise_and_(of.left_19)).mul_(of.second)
    return x.bitwise_xor_((x >> of.by_16).bitwise_and_(of.left_16))
