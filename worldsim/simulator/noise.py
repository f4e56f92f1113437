"""Random numbers as a pure function of (seed, tick): the state of a generator is two integers in the world's own state.

So a world's future depends on its seed and its actions, not on its batch mates, and a snapshot is exact.
"""

import torch
from torch import Tensor

LOW = 0xFFFFFFFF


def _mixed(x: Tensor) -> Tensor:
    """The finaliser of MurmurHash3 (public domain, Appleby), on 32-bit integers held in int64."""
    x = x ^ (x >> 16)
    x = (x * 0x85EBCA6B) & LOW
    x = x ^ (x >> 13)
    x = (x * 0xC2B2AE35) & LOW
    return x ^ (x >> 16)


def places(count: int, device: torch.device | None = None) -> Tensor:
    """(count,) constants that tell the numbers of one tick apart."""
    return _mixed(torch.arange(count, device=device) + 0x7F4A7C15)


def uniforms(seed_B: Tensor, tick_B: Tensor, places_N: Tensor) -> Tensor:
    """(B, N) fp32 numbers, uniform in [0, 1), for int64 seeds and ticks."""
    key = _mixed((seed_B ^ (seed_B >> 32)) & LOW ^ 0x9E3779B9)
    key = _mixed((key + tick_B * 0x632BE5AB) & LOW)
    return (_mixed((key.unsqueeze(-1) + places_N) & LOW) >> 8).float() * 2.0**-24
