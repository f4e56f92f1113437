"""The `transformer` family: codes from each frame alone, causal attention over a window of moments.

One token a moment, as in STORM (arXiv:2310.09615): the last codes and the action that followed them. A block sees its
own inputs at the `window` last moments, the present one among them; how old a moment is counts through a learned bias
(T5, arXiv:1910.10683). Keys and values of the window are the state, a ring in which a moment takes the oldest one's
place. Queries and keys are normalised (arXiv:2302.05442), so that high learning rates are safe.

Axes: B batch, T time, L layers, H heads, R places of the ring, D width of a head, W = H*D.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldsim.models.config import TransformerConfig
from worldsim.models.dynamics.base import State
from worldsim.models.dynamics.coded import Backbone, CodedDynamics
from worldsim.models.layers import GatedMLP


class Reach(NamedTuple):
    """Which moments a query attends to. Broadcast over heads."""

    age: Tensor  # (B, queries, keys) int64 in [0, R): how many moments ago the key was
    open: Tensor  # (B, queries, keys) bool


class AttentionBlock(nn.Module):
    """One residual block: attention over a window, then a gated MLP."""

    def __init__(self, width: int, heads: int, window: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.in_proj = nn.Linear(width, 3 * width)
        self.query_norm, self.key_norm = nn.LayerNorm(width // heads), nn.LayerNorm(width // heads)
        self.bias = nn.Parameter(torch.zeros(heads, window))
        self.out_proj = nn.Linear(width, width)
        self.mlp = GatedMLP(width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, W) to queries, keys and values (B, H, T, D)."""
        parts = rearrange(self.in_proj(self.norm(x)), "b t (k h d) -> k b h t d", k=3, h=self.heads)
        query, key, value = parts.unbind(0)
        return self.query_norm(query).to(value.dtype), self.key_norm(key).to(value.dtype), value

    def attend(self, x: Tensor, query: Tensor, keys: Tensor, values: Tensor, reach: Reach) -> Tensor:
        """(B, T, W), with what the queries (B, H, T, D) found among the keys."""
        bias = rearrange(self.bias[:, reach.age], "h b t s -> b h t s").masked_fill(
            ~reach.open.unsqueeze(1), -torch.inf
        )
        found = F.scaled_dot_product_attention(query, keys, values, bias.to(query.dtype))
        out: Tensor = self.mlp(x + self.out_proj(rearrange(found, "b h t d -> b t (h d)")))
        return out


class WindowedAttention(Backbone):
    """Attention blocks, one after another. State: keys and values (B, L, H, R, D) fp32, and seen (B,) int64.

    `seen` counts an episode's moments; its moment number n lies at place n mod R. Empty places hold zeros.
    """

    def __init__(self, width: int, layers: int, heads: int, window: int):
        super().__init__()
        self.window, self.shape = window, (layers, heads, window, width // heads)
        self.blocks = nn.ModuleList([AttentionBlock(width, heads, window) for _ in range(layers)])

    def initial(self, batch: int, device: torch.device) -> State:
        nothing = torch.zeros(batch, *self.shape, device=device)
        return {"keys": nothing, "values": nothing, "seen": torch.zeros(batch, dtype=torch.long, device=device)}

    def sequence(self, x_BTW: Tensor, first_BT: Tensor, state: State) -> tuple[Tensor, State]:
        reach = self._reach(first_BT, state["seen"])
        seen = _counted(first_BT, state["seen"])
        x, kept = x_BTW, []
        for block, *old in zip(self.blocks, state["keys"].unbind(1), state["values"].unbind(1), strict=True):
            query, *new = block.project(x)  # type: ignore[operator]
            every = [torch.cat([o.to(n.dtype), n], 2) for o, n in zip(old, new, strict=True)]
            x = block.attend(x, query, *every, reach)  # type: ignore[operator]
            kept.append([self._kept(o, n.float(), seen) for o, n in zip(old, new, strict=True)])
        keys, values = (torch.stack(parts, 1) for parts in zip(*kept, strict=True))
        return x, {"keys": keys, "values": values, "seen": seen}

    def tick(self, x_BW: Tensor, state: State) -> tuple[Tensor, State]:
        age = self._age(state["seen"])
        reach = Reach(age.unsqueeze(1), (age <= state["seen"].unsqueeze(1)).unsqueeze(1))
        here = (age == 0)[:, None, :, None]
        x, kept = x_BW.unsqueeze(1), []
        for block, *old in zip(self.blocks, state["keys"].unbind(1), state["values"].unbind(1), strict=True):
            query, *new = block.project(x)  # type: ignore[operator]
            every = [torch.where(here, n.float(), o) for o, n in zip(old, new, strict=True)]
            x = block.attend(x, query, *(e.to(query.dtype) for e in every), reach)  # type: ignore[operator]
            kept.append(every)
        keys, values = (torch.stack(parts, 1) for parts in zip(*kept, strict=True))
        return x.squeeze(1), {"keys": keys, "values": values, "seen": state["seen"] + 1}

    def _age(self, moment: Tensor) -> Tensor:
        """(B, R): how many moments before number `moment` (B,) what lies, or will lie, at each place was."""
        return (moment.unsqueeze(1) - torch.arange(self.window, device=moment.device)) % self.window

    def _reach(self, first_BT: Tensor, seen: Tensor) -> Reach:
        """Of T new moments to R places of the ring as it was and to each other: (B, T, R + T)."""
        time = torch.arange(first_BT.shape[1], device=seen.device)
        episode = first_BT.cumsum(1)
        old = self._age(seen - 1)
        age_old = time[None, :, None] + 1 + old[:, None]
        open_old = (old < seen.unsqueeze(1))[:, None] & (episode == 0).unsqueeze(2)
        age_new = (time[:, None] - time).expand(len(seen), -1, -1)
        open_new = episode.unsqueeze(2) == episode.unsqueeze(1)
        age, opened = torch.cat([age_old, age_new], 2), torch.cat([open_old, open_new], 2)
        return Reach(age.clamp(0, self.window - 1), opened & (age >= 0) & (age < self.window))

    def _kept(self, old: Tensor, new: Tensor, seen: Tensor) -> Tensor:
        """The ring (B, H, R, D) after new moments (B, H, T, D), of which the episode has `seen` (B,) now."""
        age, length = self._age(seen - 1), new.shape[2]
        moment = length - 1 - age
        pick = moment.clamp_min(0)[:, None, :, None].expand(-1, new.shape[1], -1, new.shape[3])
        ring = torch.where((moment >= 0)[:, None, :, None], new.gather(2, pick), old)
        return ring * (age < seen.unsqueeze(1))[:, None, :, None]


def _counted(first_BT: Tensor, seen: Tensor) -> Tensor:
    """Moments (B,) of the running episode after a sequence."""
    length = first_BT.shape[1]
    since = first_BT.flip(1).int().argmax(1) + 1  # moments from the last beginning on, where there is one
    return torch.where(first_BT.any(1), since, seen + length)


class Transformer(CodedDynamics):
    """Codes from each frame alone, followed by causal attention."""

    def __init__(self, config: TransformerConfig, nvec: Tensor, slots: int, actions: int):
        sizes = config.width, config.layers, config.heads, config.window
        super().__init__(config, nvec, slots, actions, lambda: WindowedAttention(*sizes))
