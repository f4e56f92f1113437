"""The `ssm` family: codes from each frame alone, a gated linear recurrence trained in parallel over time.

The recurrence is the RG-LRU of Griffin (arXiv:2402.19427); everything else is in `coded`.

Axes: B batch, T time, W width of the recurrence.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.models.config import SSMConfig
from worldsim.models.dynamics.base import State
from worldsim.models.dynamics.coded import Backbone, CodedDynamics
from worldsim.models.layers import GatedMLP


def scan(decay_BTW: Tensor, drive_BTW: Tensor, start_BW: Tensor) -> Tensor:
    """h_t = decay_t * h_{t-1} + drive_t for all t at once, in log2(T) doublings (Hillis and Steele 1986)."""
    drive = torch.cat([drive_BTW[:, :1] + decay_BTW[:, :1] * start_BW.unsqueeze(1), drive_BTW[:, 1:]], 1)
    decay, reach = decay_BTW, 1
    while reach < drive.shape[1]:
        drive = torch.cat([drive[:, :reach], drive[:, reach:] + decay[:, reach:] * drive[:, :-reach]], 1)
        decay = torch.cat([decay[:, :reach], decay[:, reach:] * decay[:, :-reach]], 1)
        reach *= 2
    return drive


class GatedRecurrence(nn.Module):
    """One residual block: a gated linear recurrence, then a gated MLP."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.in_proj = nn.Linear(width, 4 * width)
        self.rate = nn.Parameter(torch.linspace(-4.0, 1.0, width))  # time constants of 0.1 to 7 steps, gated
        self.out_proj = nn.Linear(width, width)
        self.mlp = GatedMLP(width)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Decay and drive of the recurrence in fp32, and the output gate."""
        value, gate, keep, write = self.in_proj(self.norm(x)).chunk(4, -1)
        log_decay = -8 * F.softplus(self.rate) * torch.sigmoid(keep.float())
        decay = log_decay.exp()
        drive = torch.sqrt((1 - decay.square()).clamp_min(1e-6)) * torch.sigmoid(write.float()) * value.float()
        return decay, drive, gate

    def finish(self, x: Tensor, memory: Tensor, gate: Tensor) -> Tensor:
        out: Tensor = self.mlp(x + self.out_proj(memory.to(gate.dtype) * F.silu(gate)))
        return out

    def sequence(self, x_BTW: Tensor, first_BT: Tensor, memory_BW: Tensor) -> tuple[Tensor, Tensor]:
        decay, drive, gate = self.gates(x_BTW)
        memory = scan(decay * (~first_BT).unsqueeze(-1), drive, memory_BW)
        return self.finish(x_BTW, memory, gate), memory[:, -1]

    def tick(self, x_BW: Tensor, memory_BW: Tensor) -> tuple[Tensor, Tensor]:
        decay, drive, gate = self.gates(x_BW)
        memory = decay * memory_BW + drive
        return self.finish(x_BW, memory, gate), memory


class LinearRecurrence(Backbone):
    """Gated recurrences, one after another. State: memory (B, layers, W) fp32."""

    def __init__(self, width: int, layers: int):
        super().__init__()
        self.width = width
        self.blocks = nn.ModuleList([GatedRecurrence(width) for _ in range(layers)])

    def initial(self, batch: int, device: torch.device) -> State:
        return {"memory": torch.zeros(batch, len(self.blocks), self.width, device=device)}

    def sequence(self, x_BTW: Tensor, first_BT: Tensor, state: State) -> tuple[Tensor, State]:
        x, memories = x_BTW, []
        for block, start in zip(self.blocks, state["memory"].unbind(1), strict=True):
            x, memory = block.sequence(x, first_BT, start)  # type: ignore[operator]
            memories.append(memory)
        return x, {"memory": torch.stack(memories, 1)}

    def tick(self, x_BW: Tensor, state: State) -> tuple[Tensor, State]:
        x, memories = x_BW, []
        for block, start in zip(self.blocks, state["memory"].unbind(1), strict=True):
            x, memory = block.tick(x, start)  # type: ignore[operator]
            memories.append(memory)
        return x, {"memory": torch.stack(memories, 1)}


class SSM(CodedDynamics):
    """Codes from each frame alone, followed by gated linear recurrences."""

    def __init__(self, config: SSMConfig, nvec: Tensor, slots: int, actions: int):
        super().__init__(config, nvec, slots, actions, lambda: LinearRecurrence(config.width, config.layers))
