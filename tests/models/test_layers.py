"""Layers against plain loops, torch's own distributions and counted draws."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.distributions import Categorical, kl_divergence
from torch.testing import assert_close

from worldsim.models.dynamics.codes import MARGIN, Quantiser
from worldsim.models.dynamics.ssm import scan
from worldsim.models.layers import Categoricals, Outcomes, SlotEmbedding, SlotLinear, entropy, sample, symexp, symlog


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 37), st.integers(1, 5), st.integers(0, 999))
def test_scan_is_the_loop_it_stands_for(batch: int, time: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    decay = rng.uniform(0, 1, (batch, time, width)) * (rng.random((batch, time, 1)) > 0.2)
    drive, h = rng.normal(size=(batch, time, width)), rng.normal(size=(batch, width))
    result = scan(*map(torch.from_numpy, (decay, drive, h)))
    for t in range(time):
        h = decay[:, t] * h + drive[:, t]
        np.testing.assert_allclose(result[:, t], h, rtol=1e-10, atol=1e-12)


def test_scan_has_the_gradient_of_the_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 5, 3), (2, 5, 3), (2, 3)
    inputs = [torch.rand(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]
    assert torch.autograd.gradcheck(scan, inputs)


@given(st.floats(-1e6, 1e6))
def test_symlog_and_back(x: float) -> None:
    value = torch.tensor(x, dtype=torch.float64)
    assert symlog(value).item() == pytest.approx(math.copysign(math.log1p(abs(x)), x))
    assert symexp(symlog(value)).item() == pytest.approx(x, rel=1e-9, abs=1e-12)


def test_slots_have_weights_of_their_own() -> None:
    layer, x = SlotLinear(3, 4, 5), torch.randn(2, 6, 3, 4)
    expected = torch.stack([x[:, :, s] @ layer.weight[s] + layer.bias[s] for s in range(3)], 2)
    assert_close(layer(x), expected)


@pytest.mark.parametrize("rows", [1, 15, 16, 40])
def test_slots_with_the_batch_last_are_the_same_slots(rows: int) -> None:
    layer, x = SlotLinear(3, 4, 5), torch.randn(3, rows, 4)
    assert_close(layer.batch_last(x), layer(x.transpose(0, 1)).permute(1, 2, 0))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("slots", "numbers", "classes"), [(3, 4, 5), (2, 1, 7), (0, 1, 3)])
def test_slots_of_indices_are_slots_of_one_hots(slots: int, numbers: int, classes: int, kind: torch.dtype) -> None:
    layer, plain = SlotEmbedding(slots, numbers, classes, 6), SlotLinear(slots, numbers * classes, 6)
    plain.load_state_dict(layer.state_dict())
    index = torch.randint(0, classes, (2, 9, slots, numbers), generator=torch.Generator().manual_seed(0))
    one_hots, weight = F.one_hot(index, classes).flatten(-2).float(), torch.randn(2, 9, slots, 6)
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == torch.bfloat16):
        found, expected = layer(index), plain(one_hots)
    near = {} if kind == torch.float32 else {"atol": 0.05, "rtol": 0.02}  # what is looked up is rounded once
    assert found.dtype == kind
    assert_close(found.float(), expected.float(), **near)
    for each, values in ((layer, found), (plain, expected)):
        (values.float() * weight).sum().backward()
        assert each.weight.grad is not None and each.weight.grad.dtype == torch.float32
    assert_close(layer.weight.grad, plain.weight.grad, **near)
    with torch.no_grad():
        assert_close(layer(index), plain(one_hots))


@pytest.mark.parametrize("classes", [2, 5, 16, 17, 40])
def test_cumulative_weights_are_sums_whatever_the_number_of_classes(classes: int) -> None:
    outcomes = Outcomes.of(torch.randn(3, classes, 7), 0.1, -2)
    assert_close(outcomes.cumulative, outcomes.weights.double().cumsum(-2).float())
    assert_close(outcomes.total, outcomes.weights.sum(-2))


def test_entropy_is_that_of_what_is_drawn() -> None:
    log_probs = torch.log_softmax(3 * torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(2)), -1)
    assert_close(entropy(log_probs), Categorical(logits=log_probs).entropy().sum(-1))
    probs = torch.tensor([[[0.80, 0.15, 0.05], [1.0, 0.0, 0.0]]])
    kept = torch.tensor([0.80, 0.15]) / 0.95  # 0.05 is less than a tenth of 0.80
    assert_close(entropy(probs.log(), 0.1), -(kept * kept.log()).sum(-1, keepdim=True))
    assert entropy(torch.zeros(3, 0, 5)).tolist() == [0, 0, 0]


def test_draws_are_as_frequent_as_they_are_probable() -> None:
    probs = torch.tensor([0.5, 0.2, 0.0, 0.05, 0.25])
    uniform = torch.rand(20000, generator=torch.Generator().manual_seed(3))
    counts = torch.bincount(sample(probs.log().expand(20000, -1), uniform), minlength=5).numpy()
    assert counts[2] == 0
    possible = probs.numpy() > 0
    assert chisquare(counts[possible], 20000 * probs.numpy()[possible]).pvalue > 0.001


@settings(deadline=None)
@given(st.integers(0, 999), st.floats(0.01, 0.99))
def test_min_p_keeps_the_rest_in_proportion(seed: int, min_p: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    probs = torch.softmax(2 * torch.randn(6, generator=generator, dtype=torch.float64), 0)
    allowed = probs >= min_p * probs.max()
    uniform = torch.linspace(0, 1, 5001, dtype=torch.float64)[:-1]
    shares = torch.bincount(sample(probs.log().expand(5000, -1), uniform, min_p), minlength=6) / 5000
    assert (shares[~allowed] == 0).all()
    expected = torch.where(allowed, probs, 0) / probs[allowed].sum()
    assert_close(shares.double(), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_the_ends_of_the_unit_interval_draw_what_is_possible(uniform: float) -> None:
    scores = torch.log_softmax(torch.tensor([-1e9, 0.3, 0.1, -1e9]), 0)
    assert sample(scores, torch.tensor(uniform)).item() in (1, 2)
    assert sample(scores, None).item() == 1


def test_categoricals_are_torchs_own() -> None:
    scores = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(0))
    ours, theirs = Categoricals.from_logits(scores, 3), Categorical(logits=scores.unflatten(-1, (3, 4)))
    assert_close(ours.logits, theirs.logits)
    reference = Categorical(logits=scores.flip(1).unflatten(-1, (3, 4)))
    assert_close(ours.kl(Categoricals.from_logits(scores.flip(1), 3)), kl_divergence(theirs, reference).sum(-1))
    mixed = Categoricals.from_logits(scores, 3, unimix=0.2)
    assert_close(mixed.logits.exp(), 0.8 * theirs.probs + 0.2 / 4)


def bare_quantiser() -> Quantiser:
    """One that takes its numbers as they are."""
    quantise = Quantiser(slots=1, embed=1, numbers=1, levels=5)
    quantise.in_proj = torch.nn.Identity()  # type: ignore[assignment]
    return quantise


def test_codes_of_finite_scalars_invert() -> None:
    quantise = bare_quantiser()
    index = torch.arange(quantise.levels)
    values = quantise.values(index)
    assert values.tolist() == pytest.approx(np.linspace(-1, 1, quantise.levels).tolist())
    again, passed = quantise(torch.atanh(values.clamp(-0.999, 0.999)))
    assert torch.equal(again, index)
    assert_close(passed, values)
    numbers = torch.linspace(-4, 4, 201, requires_grad=True)
    index, passed = quantise(numbers)
    assert_close(passed, quantise.values(index))
    assert (passed - numbers.tanh()).abs().max() <= 1 / (quantise.levels - 1) + 1e-6  # the nearest level
    (grad,) = torch.autograd.grad(passed.sum(), numbers)
    assert_close(grad, 1 - numbers.tanh().square())


def test_shaken_codes_change_only_near_the_edges_between_levels() -> None:
    quantise = bare_quantiser()
    numbers = torch.linspace(-4, 4, 2001)
    still, _ = quantise(numbers)
    shaken, _ = quantise(numbers, torch.Generator().manual_seed(0))
    place = (numbers.tanh() + 1) * (quantise.levels - 1) / 2  # in levels
    to_edge = 0.5 - (place - place.round()).abs()
    assert 0 < (shaken != still).float().mean() < 0.5
    assert ((shaken - still).abs() <= 1).all() and (to_edge[shaken != still] <= MARGIN + 1e-6).all()
