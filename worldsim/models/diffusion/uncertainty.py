"""How sure a step may be of what comes next, where nothing is drawn from a distribution that could say it.

Axes: N timesteps, F features, P numbers of a random projection, M members of an ensemble.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.models.diffusion.canvas import SIGMA_DATA, Canvas, Drawing
from worldsim.models.heads import Ensemble
from worldsim.models.layers import mlp

SIDE = 8  # grids are looked at in so many places along each side
PROJECTED = 32
RESOLUTION = 0.1 * SIGMA_DATA  # a deviation that is too small to matter


class Uncertainty(nn.Module):
    """From the past alone: a coarse picture of the next timestep, its expected error, and the disagreement on it."""

    def __init__(self, features: int, canvas: Canvas, hidden: int, members: int):
        super().__init__()
        size = canvas.numbers + sum(channels * SIDE**2 for channels, *_ in canvas.sizes)
        self.ensemble = Ensemble(features, size, hidden, members, PROJECTED)
        self.log_variance = mlp([features, hidden, PROJECTED])

    def forward(self, past: Tensor) -> tuple[Tensor, Tensor]:
        """Nats (N,) in the predicted error, and the standard deviation (N,) between the members.

        The nats are those of a Gaussian above those of one whose deviation is RESOLUTION, so at least 0.
        """
        known = _normalised(past)
        nats = 0.5 * torch.log1p(self._variance(known) / RESOLUTION**2).sum(-1)
        return nats, self.ensemble.disagreement(known)

    def loss(self, past: Tensor, timestep: Drawing, trained: Tensor) -> dict[str, Tensor]:
        """Losses (N,). trained: (M, N) in {0, 1}, which member learns from a row."""
        target = torch.cat(
            [*(F.adaptive_avg_pool2d(grid, SIDE).flatten(1) for grid in timestep.grids), timestep.vector], 1
        )
        known = _normalised(past)
        variance = self._variance(known) + RESOLUTION**2  # what is too small to matter must not blow up the loss
        with torch.no_grad():
            error = self.ensemble(known).mean(0) - target.float() @ self.ensemble.project
        nll = 0.5 * (variance.log() + error.square() / variance).mean(-1)
        return {"ensemble": self.ensemble.loss(known, target, trained), "variance": nll}

    def _variance(self, known: Tensor) -> Tensor:
        """(N, P) of the error."""
        variance: Tensor = self.log_variance(known).float().clamp(-12, 12).exp()
        return variance


def _normalised(past: Tensor) -> Tensor:
    """Features grow while they are learned; what is predicted from them must not."""
    return F.layer_norm(past, past.shape[-1:])
