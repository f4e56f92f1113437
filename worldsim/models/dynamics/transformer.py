"""The `transformer` family: codes from each frame alone, causal attention over a window of timesteps.

One token a timestep, as in STORM (arXiv:2310.09615): the last codes and the action that followed them. A block sees its
own inputs at the `window` last timesteps, the present one among them; how old a timestep is counts through a learned
bias (T5, arXiv:1910.10683). Keys and values of the window are the state, a ring in which a timestep takes the oldest
one's place. Queries and keys are normalised (arXiv:2302.05442), so that high learning rates are safe.

Axes: B batch, T time, L layers, H heads, R places of the ring, D width of a head, W = H*D.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldsim.models.config import TransformerConfig
from worldsim.models.dynamics.coded import Backbone, CodedDynamics
from worldsim.models.layers import GatedMLP
from worldsim.models.world_model import State


class AttentionMask(NamedTuple):
    """Which timesteps a query attends to. Broadcast over heads."""

    age: Tensor  # (B, queries, keys) int64 in [0, R): how many timesteps ago the key was
    visible: Tensor  # (B, queries, keys) bool


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

    def attend(self, x: Tensor, query: Tensor, keys: Tensor, values: Tensor, mask: AttentionMask) -> Tensor:
        """(B, T, W), with what the queries (B, H, T, D) found among the keys."""
        bias = rearrange(self.bias[:, mask.age], "h b t s -> b h t s").masked_fill(
            ~mask.visible.unsqueeze(1), -torch.inf
        )
        found = F.scaled_dot_product_attention(query, keys, values, bias.to(query.dtype))
        out: Tensor = self.mlp(x + self.out_proj(rearrange(found, "b h t d -> b t (h d)")))
        return out


class WindowedAttention(Backbone):
    """Attention blocks, one after another. State: keys and values (B, L, H, R, D) fp32, and count (B,) int64.

    `count` is how many timesteps the episode has had; timestep number n lies at place n mod R. Empty places hold zeros.
    """

    def __init__(self, width: int, layers: int, heads: int, window: int):
        super().__init__()
        self.window, self.shape = window, (layers, heads, window, width // heads)
        self.blocks = nn.ModuleList([AttentionBlock(width, heads, window) for _ in range(layers)])

    def initial(self, batch: int, device: torch.device) -> State:
        nothing = torch.zeros(batch, *self.shape, device=device)
        return {"keys": nothing, "values": nothing, "count": torch.zeros(batch, dtype=torch.long, device=device)}

    def sequence(self, x_BTW: Tensor, first_BT: Tensor, state: State) -> tuple[Tensor, State]:
        mask = self._mask(first_BT, state["count"])
        count = _count(first_BT, state["count"])
        x, kept = x_BTW, []
        for block, *old in zip(self.blocks, state["keys"].unbind(1), state["values"].unbind(1), strict=True):
            query, *new = block.project(x)  # type: ignore[operator]
            every = [torch.cat([o.to(n.dtype), n], 2) for o, n in zip(old, new, strict=True)]
            x = block.attend(x, query, *every, mask)  # type: ignore[operator]
            kept.append([self._ring(o, n.float(), count) for o, n in zip(old, new, strict=True)])
        keys, values = (torch.stack(parts, 1) for parts in zip(*kept, strict=True))
        return x, {"keys": keys, "values": values, "count": count}

    def tick(self, x_BW: Tensor, state: State) -> tuple[Tensor, State]:
        age = self._age(state["count"])
        mask = AttentionMask(age.unsqueeze(1), (age <= state["count"].unsqueeze(1)).unsqueeze(1))
        here = (age == 0)[:, None, :, None]
        x, kept = x_BW.unsqueeze(1), []
        for block, *old in zip(self.blocks, state["keys"].unbind(1), state["values"].unbind(1), strict=True):
            query, *new = block.project(x)  # type: ignore[operator]
            every = [torch.where(here, n.float(), o) for o, n in zip(old, new, strict=True)]
            x = block.attend(x, query, *(e.to(query.dtype) for e in every), mask)  # type: ignore[operator]
            kept.append(every)
        keys, values = (torch.stack(parts, 1) for parts in zip(*kept, strict=True))
        return x.squeeze(1), {"keys": keys, "values": values, "count": state["count"] + 1}

    def _age(self, timestep: Tensor) -> Tensor:
        """(B, R): how many timesteps before number `timestep` (B,) what lies, or will lie, at each place was."""
        return (timestep.unsqueeze(1) - torch.arange(self.window, device=timestep.device)) % self.window

    def _mask(self, first_BT: Tensor, count: Tensor) -> AttentionMask:
        """Of T new timesteps to R places of the ring as it was and to each other: (B, T, R + T)."""
        time = torch.arange(first_BT.shape[1], device=count.device)
        episode = first_BT.cumsum(1)
        old = self._age(count - 1)
        age_old = time[None, :, None] + 1 + old[:, None]
        visible_old = (old < count.unsqueeze(1))[:, None] & (episode == 0).unsqueeze(2)
        age_new = (time[:, None] - time).expand(len(count), -1, -1)
        visible_new = episode.unsqueeze(2) == episode.unsqueeze(1)
        age, visible = torch.cat([age_old, age_new], 2), torch.cat([visible_old, visible_new], 2)
        return AttentionMask(age.clamp(0, self.window - 1), visible & (age >= 0) & (age < self.window))

    def _ring(self, old: Tensor, new: Tensor, count: Tensor) -> Tensor:
        """The ring (B, H, R, D) after new timesteps (B, H, T, D), `count` (B,) being those of the episode by now."""
        age, length = self._age(count - 1), new.shape[2]
        timestep = length - 1 - age
        pick = timestep.clamp_min(0)[:, None, :, None].expand(-1, new.shape[1], -1, new.shape[3])
        ring = torch.where((timestep >= 0)[:, None, :, None], new.gather(2, pick), old)
        return ring * (age < count.unsqueeze(1))[:, None, :, None]


def _count(first_BT: Tensor, count: Tensor) -> Tensor:
    """Timesteps (B,) of the running episode after a sequence."""
    length = first_BT.shape[1]
    since = first_BT.flip(1).int().argmax(1) + 1  # timesteps from the last beginning on, where there is one
    return torch.where(first_BT.any(1), since, count + length)


class Transformer(CodedDynamics):
    """Codes from each frame alone, followed by causal attention."""

    def __init__(self, config: TransformerConfig, nvec: Tensor, slots: int, actions: int):
        sizes = config.width, config.layers, config.heads, config.window
        super().__init__(config, nvec, slots, actions, lambda: WindowedAttention(*sizes))
