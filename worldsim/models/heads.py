"""What is read off the latent features: reward, termination, and how much an ensemble disagrees.

Axes: N any leading axes, F features, M members, R bins.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.models.layers import draw, mlp, symexp, symlog

NEAR = 4  # bins to either side that tell the same reward


class RewardHead(nn.Module):
    """A distribution over reward bins, evenly spaced in symlog, trained with two-hot targets (DreamerV3, "Critic").

    The bins cover the rewards of the data, so that a reward seen in training can be told exactly.
    """

    def __init__(self, features: int, hidden: int, low: float, high: float, bins: int = 255):
        super().__init__()
        self.net = mlp([features, hidden, hidden, bins])
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        edges = symlog(torch.tensor([min(low, 0.0) - 0.1, max(high, 0.0) + 0.1]))
        self.bins: Tensor
        self.register_buffer("bins", torch.linspace(float(edges[0]), float(edges[1]), bins))

    def forward(self, features: Tensor, temperature: float = 1.0) -> Tensor:
        """Log-probabilities (N, R)."""
        return F.log_softmax(self.net(features).float() / temperature, -1)

    def mean(self, features: Tensor, temperature: float = 1.0) -> Tensor:
        """Expected reward (N,) in the environment's units."""
        log_probs: Tensor = self(features, temperature)
        return (log_probs.exp() * symexp(self.bins)).sum(-1)

    def draw(self, features: Tensor, uniform: Tensor | None, min_p: float, temperature: float = 1.0) -> Tensor:
        """Rewards (N,) as the environment would give them: one of the outcomes foreseen, not their mean.

        A bin is drawn (see `layers.draw`); the reward is the mean over it and its neighbours, between which a known
        reward is shared. A refund that is as likely right as wrong pays 0 or -1, never -0.5.
        """
        log_probs: Tensor = self(features, temperature)
        chosen = draw(log_probs, uniform, min_p).unsqueeze(-1)
        near = (torch.arange(len(self.bins), device=chosen.device) - chosen).abs() <= NEAR
        weight = log_probs.exp() * near
        return (weight * symexp(self.bins)).sum(-1) / weight.sum(-1)

    def sign(self, reward: Tensor) -> Tensor:
        """0 negative, 1 none, 2 positive, (N,): what is closer to zero than a bin to the next is none."""
        step, place = self.bins[1] - self.bins[0], symlog(reward)
        return 1 + (place >= step).long() - (place <= -step).long()

    def signs(self, log_probs: Tensor) -> Tensor:
        """Log-probabilities (N, 3) of the signs, from those (N, R) of the bins."""
        kinds = F.one_hot(self.sign(symexp(self.bins)), 3).to(log_probs.dtype)
        return torch.log((log_probs.exp() @ kinds).clamp_min(1e-12))

    def loss(self, features: Tensor, reward: Tensor) -> Tensor:
        """Cross-entropy (N,) with the two bins around the reward."""
        return self.surprise(self(features), reward)

    def surprise(self, log_probs: Tensor, reward: Tensor) -> Tensor:
        """Cross-entropy (N,) of log-probabilities (N, R) with the two bins around the reward."""
        place = (symlog(reward) - self.bins[0]) / (self.bins[1] - self.bins[0])
        place = place.clamp(0, len(self.bins) - 1)
        below = place.floor().long().clamp_max(len(self.bins) - 2)
        share = place - below
        low = log_probs.gather(-1, below.unsqueeze(-1)).squeeze(-1)
        high = log_probs.gather(-1, (below + 1).unsqueeze(-1)).squeeze(-1)
        return -((1 - share) * low + share * high)


class TerminationHead(nn.Module):
    """Whether the episode ends here, as a logit."""

    def __init__(self, features: int, hidden: int):
        super().__init__()
        self.net = mlp([features, hidden, 1])

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N,)."""
        logits: Tensor = self.net(features)
        return logits.float().squeeze(-1)

    def loss(self, features: Tensor, terminated: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(self(features), terminated.float(), reduction="none")


class Ensemble(nn.Module):
    """Members that predict a random projection of what comes next from the past alone (Plan2Explore, arXiv:2005.05960).

    They differ by initialisation and by the sequences they learn from; where they disagree, the data had little to say.
    """

    def __init__(self, features: int, target: int, hidden: int, members: int, projected: int = 32):
        super().__init__()
        self.project: Tensor
        self.register_buffer("project", torch.randn(target, projected) * target**-0.5)
        self.enter = nn.Parameter(torch.randn(members, features, hidden) * features**-0.5)
        self.bias = nn.Parameter(torch.zeros(members, 1, hidden))
        self.leave = nn.Parameter(torch.randn(members, hidden, projected) * hidden**-0.5)

    def forward(self, past: Tensor) -> Tensor:
        """past (N, F) to predictions (M, N, projected)."""
        hidden = F.silu(torch.einsum("nf,mfh->mnh", past, self.enter.to(past.dtype)) + self.bias.to(past.dtype))
        return torch.einsum("mnh,mhp->mnp", hidden, self.leave.to(past.dtype)).float()

    def disagreement(self, past: Tensor) -> Tensor:
        """Standard deviation between the members (N,), averaged over the projection."""
        predictions: Tensor = self(past)
        return predictions.std(0).mean(-1)

    def loss(self, past: Tensor, target: Tensor, taught: Tensor) -> Tensor:
        """Squared error (N,). target (N, X) flat codes; taught (M, N) in {0, 1}: which member learns from which row."""
        error: Tensor = (self(past) - (target.float() @ self.project)).square().mean(-1)
        return (error * taught).sum(0)
