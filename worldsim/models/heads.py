"""What is read off the latent features: reward, termination, and how much an ensemble disagrees.

Axes: N any leading axes, F features, M members, R bins.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.models.layers import Outcomes, mlp, onehot, symexp, symlog

NEAR = 4  # bins to either side that stand for the same reward


class RewardHead(nn.Module):
    """A distribution over reward bins, evenly spaced in symlog, trained with two-hot targets (DreamerV3, "Critic").

    The bins cover the rewards of the data, so that a reward seen in training is predicted exactly. Where none is as
    large as 1, the greatest is the unit: rewards of 1e-4 are as far from nothing as those of 1 are.
    """

    def __init__(self, features: int, hidden: int, low: float, high: float, bins: int = 255):
        super().__init__()
        self.net = mlp([features, hidden, hidden, bins])
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        self.unit = min(1.0, max(-low, high)) if max(-low, high) > 0 else 1.0
        edges = symlog(torch.tensor([min(low, 0.0) / self.unit - 0.1, max(high, 0.0) / self.unit + 0.1]))
        self.bins: Tensor
        self.register_buffer("bins", torch.linspace(float(edges[0]), float(edges[1]), bins))
        self.values: Tensor  # of the bins, in the environment's units
        self.register_buffer("values", self.unit * symexp(self.bins), persistent=False)
        self.near: Tensor
        self.register_buffer("near", torch.arange(-NEAR, NEAR + 1), persistent=False)

    def forward(self, features: Tensor, temperature: float = 1.0) -> Tensor:
        """Log-probabilities (N, R)."""
        return F.log_softmax(self.net(features).float() / temperature, -1)

    def mean(self, features: Tensor, temperature: float = 1.0) -> Tensor:
        """Expected reward (N,) in the environment's units."""
        log_probs: Tensor = self(features, temperature)
        return (log_probs.exp() * self.values).sum(-1)

    def sample(self, features: Tensor, uniform: Tensor | None, min_p: float, temperature: float = 1.0) -> Tensor:
        """Rewards (N,) as the environment would give them: one of the predicted outcomes, not their mean.

        A bin is sampled (see `layers.sample`); the reward is the mean over it and its neighbours, between which a known
        reward is shared. A refund that is as likely right as wrong pays 0 or -1, never -0.5.
        """
        outcomes = Outcomes.of(self.net(features).float() / temperature, min_p)
        chosen = outcomes.sample(uniform).unsqueeze(-1)
        near = (chosen + self.near).clamp(0, len(self.bins) - 1)
        weight = outcomes.gaps.gather(-1, near).exp() * (near == chosen + self.near)
        return (weight * self.values[near]).sum(-1) / weight.sum(-1)

    def sign(self, reward: Tensor) -> Tensor:
        """0 negative, 1 none, 2 positive, (N,): what is closer to zero than a bin to the next is none."""
        step, place = self.bins[1] - self.bins[0], symlog(reward / self.unit)
        return 1 + (place >= step).long() - (place <= -step).long()

    def signs(self, log_probs: Tensor) -> Tensor:
        """Log-probabilities (N, 3) of the signs, from those (N, R) of the bins."""
        kinds = onehot(self.sign(self.values), 3).to(log_probs.dtype)
        return torch.log((log_probs.exp() @ kinds).clamp_min(1e-12))

    def loss(self, features: Tensor, reward: Tensor) -> Tensor:
        """Cross-entropy (N,) with the two bins around the reward."""
        return self.nll(self(features), reward)

    def nll(self, log_probs: Tensor, reward: Tensor) -> Tensor:
        """Cross-entropy (N,) of log-probabilities (N, R) with the two bins around the reward."""
        place = (symlog(reward / self.unit) - self.bins[0]) / (self.bins[1] - self.bins[0])
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

    def sample(self, features: Tensor, uniform: Tensor | None, temperature: float = 1.0) -> Tensor:
        """Whether it ends (N,) bool, sampled by `uniform` (N,) in [0, 1); the more probable if that is None."""
        goes_on = torch.sigmoid(-self(features) / temperature)
        return goes_on <= (0.5 if uniform is None else uniform)

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
        self.members = members
        self.in_proj = nn.Parameter(torch.randn(features, members * hidden) * features**-0.5)
        self.bias = nn.Parameter(torch.zeros(members * hidden))
        self.out_proj = nn.Parameter(torch.randn(members, hidden, projected) * hidden**-0.5)

    def forward(self, past: Tensor) -> Tensor:
        """past (N, F) to predictions (M, N, projected)."""
        hidden = F.silu(torch.addmm(self.bias, past, self.in_proj))
        members_first = hidden.unflatten(-1, (self.members, -1)).transpose(0, 1)
        return torch.bmm(members_first, self.out_proj).float()

    def disagreement(self, past: Tensor) -> Tensor:
        """Standard deviation between the members (N,), averaged over the projection."""
        predictions: Tensor = self(past)
        apart = predictions - predictions.mean(0)
        return (apart.square().sum(0) / (self.members - 1)).sqrt().mean(-1)

    def loss(self, past: Tensor, target: Tensor, trained: Tensor) -> Tensor:
        """Squared error (N,). target (N, X) flat codes; trained (M, N) in {0, 1}: which member learns from a row."""
        error: Tensor = (self(past) - (target.float() @ self.project)).square().mean(-1)
        return (error * trained).sum(0)
