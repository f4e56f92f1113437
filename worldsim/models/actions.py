"""Actions as vectors."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from worldsim.models.layers import onehot, symlog
from worldsim.spaces import Leaf


class ActionEncoder(nn.Module):
    """Flat actions as one vector: one-hots of every categorical variable, symlog of every continuous one."""

    def __init__(self, action_leaves: tuple[Leaf, ...]):
        super().__init__()
        self.leaves = action_leaves
        self.classes = [leaf.nvec.tolist() if leaf.kind == "categorical" else None for leaf in action_leaves]
        widths = zip(action_leaves, self.classes, strict=True)
        self.width = sum(int(np.prod(leaf.shape)) if classes is None else sum(classes) for leaf, classes in widths)

    def forward(self, actions: Mapping[str, Tensor]) -> Tensor:
        """(..., *leaf.shape) a leaf to (..., A) fp32."""
        parts = []
        for leaf, classes in zip(self.leaves, self.classes, strict=True):
            value = actions[leaf.name]
            if classes is None:
                parts.append(symlog(value.flatten(-len(leaf.shape)).float()))
            else:
                parts += [onehot(value[..., i], n).float() for i, n in enumerate(classes)]
        return torch.cat(parts, -1)
