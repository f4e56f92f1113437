"""Random numbers for a batch that several processes share: those of a row do not depend on the number of processes."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Generator, Tensor

from worldsim.rollouts.sampling import RankShard


class SharedGenerator(Generator):
    """A generator for a process that holds a shard of a batch: `uniform` draws for the batch and keeps its part."""

    shard: RankShard

    def __new__(cls, device: torch.device, shard: RankShard) -> Self:
        made = super().__new__(cls, device)  # type: ignore[call-arg]
        made.shard = shard
        return made


def uniform(shape: Sequence[int], generator: Generator, device: torch.device, axis: int = 0) -> Tensor:
    """Uniform random numbers in [0, 1). `axis` is that of the batch rows, or a multiple of them."""
    if not isinstance(generator, SharedGenerator):
        return torch.rand(tuple(shape), generator=generator, device=device)
    whole = list(shape)
    whole[axis] *= generator.shard.ranks
    drawn = torch.rand(whole, generator=generator, device=device)
    half, rank = shape[axis] // 2, generator.shard.rank
    ends = drawn.narrow(axis, rank * half, half), drawn.narrow(axis, whole[axis] - (rank + 1) * half, half)
    return torch.cat(ends, axis)
