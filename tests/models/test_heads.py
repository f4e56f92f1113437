"""Heads recover known truths: rewards to the value, chances to the share, ignorance to the place."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from worldsim.models.heads import Ensemble, RewardHead, TerminationHead
from worldsim.models.layers import symexp


def fit(head: nn.Module, loss: object, steps: int = 150) -> None:
    optimizer = torch.optim.AdamW(head.parameters(), 3e-2, fused=True)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().mean().backward()  # type: ignore[operator]
        optimizer.step()


@settings(max_examples=50, deadline=None)
@given(st.floats(-500, 500), st.floats(0, 500), st.floats(0, 1))
def test_the_best_two_bins_tell_the_reward(low: float, span: float, place: float) -> None:
    """The target distribution (the loss's own gradient at zero logits shows it) has the reward as its symlog mean."""
    head = RewardHead(1, 4, low, low + span).double()
    reward = torch.tensor([low + place * span], dtype=torch.float64)
    logits = torch.zeros(1, 255, dtype=torch.float64, requires_grad=True)
    head.forward = lambda features: torch.log_softmax(features, -1)  # type: ignore[method-assign]
    (grad,) = torch.autograd.grad(head.loss(logits, reward).sum(), logits)
    target = 1 / 255 - grad[0]
    assert (target > 1e-9).sum() in (1, 2) and target.sum().item() == pytest.approx(1)
    assert head.unit * symexp((target * head.bins).sum()).item() == pytest.approx(reward.item(), rel=1e-4, abs=1e-4)


def test_rewards_of_the_data_are_recovered() -> None:
    torch.manual_seed(0)
    rewards = torch.tensor([-10.0, -0.05, 0.0, 1.0, 7.5])
    head = RewardHead(5, 32, -10.0, 7.5)
    features = torch.eye(5)
    fit(head, lambda: head.loss(features, rewards))
    assert_close(head.mean(features), rewards, atol=0.06, rtol=0.03)


def test_rewards_are_drawn_as_often_as_they_come_and_never_between() -> None:
    """Three calls in four cost 1, the fourth pays 0.98; -0.02 falls between two bins and still is told exactly."""
    torch.manual_seed(0)
    features = torch.tensor([[1.0, 0.0]] * 40 + [[0.0, 1.0]])
    rewards = torch.tensor([-1.02] * 30 + [0.98] * 10 + [-0.02])
    head = RewardHead(2, 32, -2.0, 1.0)
    fit(head, lambda: head.loss(features, rewards), steps=300)
    uniform = (torch.arange(400) + 0.5) / 400
    drawn = head.sample(features[:1].expand(400, 2), uniform, 0.1)
    paid = (drawn - 0.98).abs() < 0.03
    assert paid.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert ((drawn - -1.02).abs() < 0.03)[~paid].all()
    assert_close(head.sample(features[-1:], uniform[:1], 0.1), rewards[-1:], atol=0.01, rtol=0)


def test_signs_are_sums_over_bins() -> None:
    """Counted by hand: bins at -1.5 to 1.5 in symlog, half of one apart, so that those within half of zero are none."""
    head = RewardHead(1, 4, -1.0, 1.0, bins=7)
    head.bins = torch.linspace(-1.5, 1.5, 7)
    head.values = symexp(head.bins)
    log_probs = torch.log(torch.tensor([[0.1, 0.2, 0.05, 0.3, 0.05, 0.1, 0.2]]))
    assert_close(head.signs(log_probs).exp(), torch.tensor([[0.35, 0.3, 0.35]]))
    rewards = symexp(torch.tensor([-2.0, -0.6, -0.4, 0.0, 0.4, 0.6, 2.0]))
    assert head.sign(rewards).tolist() == [0, 0, 1, 1, 1, 2, 2]


def test_a_temperature_divides_the_logits() -> None:
    torch.manual_seed(0)
    head, features = RewardHead(5, 8, -1.0, 1.0), torch.randn(6, 5)
    nn.init.normal_(head.net[-1].weight)
    assert_close(head(features, 3.0), torch.log_softmax(head.net(features) / 3, -1))
    assert_close(head.mean(features, 3.0), (head(features, 3.0).exp() * symexp(head.bins)).sum(-1))


def test_a_chance_is_told_as_it_is() -> None:
    torch.manual_seed(0)
    features = torch.eye(2).repeat(50, 1)
    ended = torch.zeros(100, dtype=torch.bool)
    ended[::2] = torch.arange(50) < 10  # one place in five ends, the other never
    head = TerminationHead(2, 8)
    fit(head, lambda: head.loss(features, ended))
    assert torch.sigmoid(head(torch.eye(2))).tolist() == pytest.approx([0.2, 0.0], abs=0.02)


def test_members_agree_where_there_was_data_and_disagree_elsewhere() -> None:
    torch.manual_seed(0)
    ensemble = Ensemble(4, 6, 32, members=5)
    known = torch.randn(200, 4) * torch.tensor([1.0, 1.0, 0.0, 0.0])
    target = torch.cat([known.sin(), known[:, :2]], -1)
    taught = (torch.rand(5, 200) < 0.5).float()
    fit(ensemble, lambda: ensemble.loss(known, target, taught))
    unknown = torch.randn(200, 4) * torch.tensor([0.0, 0.0, 2.0, 2.0])
    with torch.no_grad():
        near, far = ensemble.disagreement(known), ensemble.disagreement(unknown)
    assert far.median() > 3 * near.median()
    assert near.shape == (200,) and (near >= 0).all()


def test_a_member_learns_only_from_its_own_rows() -> None:
    ensemble = Ensemble(3, 2, 4, members=2)
    past, target = torch.randn(6, 3), torch.randn(6, 2)
    taught = torch.stack([torch.ones(6), torch.zeros(6)])
    ensemble.loss(past, target, taught).sum().backward()

    assert ensemble.in_proj.grad is not None and ensemble.out_proj.grad is not None
    moved = [part.any().item() for part in (*ensemble.in_proj.grad.chunk(2, -1), *ensemble.out_proj.grad)]
    assert moved == [True, False, True, False]


def test_the_bins_cover_the_data_and_zero() -> None:
    head = RewardHead(1, 4, 2.0, 50.0)
    edges = symexp(head.bins[[0, -1]]).tolist()
    assert edges == pytest.approx([-0.1, 50.1], rel=1e-4)
    assert np.all(np.diff(head.bins.numpy()) > 0)
