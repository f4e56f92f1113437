"""Categorical variables: one slot each, whose classes the dynamics predict as they are.

So they are no dense leaf, and one codec holds the variables of all categorical leaves.

Axes: N rows, V variables, D width of an encoded slot, F width of a slot that is decoded.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.models.layers import SlotLinear, onehot
from worldsim.spaces import Leaf


class CategoricalCodec(nn.Module):
    """Every categorical variable of an observation in a slot of its own.

    features: F; None where the slot of a variable is the one-hot of its class.
    """

    def __init__(self, leaves: tuple[Leaf, ...], embed: int, features: int | None):
        super().__init__()
        self.leaves = leaves
        nvec = class_counts(leaves)
        self.slots, self.classes = len(nvec), int(nvec.max(initial=1))
        self.nvec: Tensor
        self.register_buffer("nvec", torch.from_numpy(nvec), persistent=False)
        self.features = features or self.classes
        one_hots = features is None  # which dynamics take as they are: only others read an encoded variable
        self.in_proj = None if one_hots else SlotLinear(self.slots, self.classes, embed, scale=self.classes**0.5)
        self.out_proj = SlotLinear(self.slots, self.features, self.classes)
        if self.features == self.classes:  # the slot is the variable's own one-hot: begin with reading it off
            self.out_proj.weight.data.copy_(10 * torch.eye(self.features))

    def indices(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Class indices (N, V)."""
        if not self.leaves:
            first = next(iter(observation.values()))
            return torch.zeros(first.shape[0], 0, dtype=torch.long, device=first.device)
        return torch.cat([observation[leaf.name] for leaf in self.leaves], -1)

    def encode(self, indices: Tensor) -> Tensor:
        """(N, V) class indices to (N, V, D); to one-hots (N, V, classes) where these are what a slot holds."""
        kinds = onehot(indices, self.classes)
        if self.in_proj is None:
            return kinds
        embeds: Tensor = self.in_proj(kinds.to(self.in_proj.weight.dtype))
        return embeds

    def possible(self, scores: Tensor) -> Tensor:
        """Log-probabilities (N, V, classes) in which classes that a variable does not have are impossible."""
        impossible = torch.arange(self.classes, device=scores.device) >= self.nvec.unsqueeze(-1)
        return F.log_softmax(scores.float().masked_fill(impossible, -1e9), -1)

    def decode(self, slots: Tensor) -> dict[str, Tensor]:
        """(N, V, F) to flat leaves: the most probable class of every variable."""
        chosen = self.possible(self.out_proj(slots)).argmax(-1).split([leaf.shape[0] for leaf in self.leaves], -1)
        return {leaf.name: part for leaf, part in zip(self.leaves, chosen, strict=True)}

    def loss(self, slots: Tensor, indices: Tensor) -> Tensor:
        """Negative log-likelihood (N,) in nats."""
        return -self.possible(self.out_proj(slots)).gather(-1, indices.unsqueeze(-1)).sum((-1, -2))


def class_counts(leaves: tuple[Leaf, ...]) -> np.ndarray:
    """(V,) int64: how many classes each variable of categorical leaves has."""
    return np.concatenate([leaf.nvec for leaf in leaves] or [np.zeros(0, np.int64)])
