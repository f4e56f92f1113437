"""Backbones: all timesteps at once, one at a time, and for attention a plain loop that keeps whole episodes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from worldsim.models.dynamics.coded import Backbone
from worldsim.models.dynamics.ssm import LinearRecurrence
from worldsim.models.dynamics.transformer import AttentionBlock, WindowedAttention

WIDTH, CPU = 8, torch.device("cpu")
BACKBONES = {
    "recurrence": lambda: LinearRecurrence(WIDTH, layers=2),
    "attention": lambda: WindowedAttention(WIDTH, layers=2, heads=2, window=4),
    "attention to one timestep": lambda: WindowedAttention(WIDTH, layers=1, heads=1, window=1),
}


def made(name: str) -> Backbone:
    torch.manual_seed(0)
    backbone = BACKBONES[name]()
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return backbone.double()


def noise(batch: int, time: int, seed: int) -> Tensor:
    return torch.randn(batch, time, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(BACKBONES)), st.integers(0, 13), st.integers(0, 13), st.integers(0, 99))
@torch.no_grad()
def test_a_sequence_is_its_moments_one_by_one(name: str, before: int, after: int, seed: int) -> None:
    """Some timesteps at once, in which an episode may begin, then single ones: what all at once give."""
    backbone, x = made(name), noise(3, before + after + 1, seed)
    first = torch.zeros(3, before + after + 1, dtype=torch.bool)
    first[1, before // 2] = True
    start = backbone.initial(3, CPU)
    whole, after_all = backbone.sequence(x, first, start)
    memory, state = backbone.sequence(x[:, : before + 1], first[:, : before + 1], start)
    assert_close(memory, whole[:, : before + 1], atol=1e-5, rtol=1e-5)  # states are kept in fp32
    for t in range(before + 1, before + after + 1):
        memory, state = backbone.tick(x[:, t], state)
        assert_close(memory, whole[:, t], atol=1e-5, rtol=1e-5)
    assert_close(state, after_all, atol=1e-5, rtol=1e-5, check_dtype=False)


def attended(block: AttentionBlock, episode: list[Tensor], window: int) -> Tensor:
    """What the block gives for the episode's last timestep, head by head and timestep by timestep."""
    x, out = episode[-1], []
    parts = [block.in_proj(block.norm(timestep)).chunk(3) for timestep in episode[-window:]]
    size = WIDTH // block.heads
    for head in range(block.heads):
        own = slice(head * size, (head + 1) * size)
        query = block.query_norm(parts[-1][0][own])
        scores = []
        for age, (_, key, _) in enumerate(reversed(parts)):
            scores.insert(0, query @ block.key_norm(key[own]) / math.sqrt(size) + block.bias[head, age])
        shares = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
        out.append(sum(share * value[own] for share, (_, _, value) in zip(shares, parts, strict=True)))
    x = x + block.out_proj(torch.cat(out))
    up, gate = block.mlp.in_proj(block.mlp.norm(x)).chunk(2)
    return x + block.mlp.out_proj(up * gate * torch.sigmoid(gate))


@pytest.mark.parametrize("window", [1, 3, 20])
@torch.no_grad()
def test_attention_is_the_plain_loop(window: int) -> None:
    torch.manual_seed(window)
    backbone = WindowedAttention(WIDTH, layers=2, heads=2, window=window).double()
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = noise(1, 11, window)
    first = torch.zeros(1, 11, dtype=torch.bool)
    first[0, [0, 6]] = True
    found, _ = backbone.sequence(x, first, backbone.initial(1, CPU))
    for begin, end in ((0, 6), (6, 11)):
        inputs = [*x[0, begin:end]]
        for block in backbone.blocks:
            inputs = [attended(block, inputs[: t + 1], window) for t in range(len(inputs))]  # type: ignore[arg-type]
        assert_close(found[0, begin:end], torch.stack(inputs))


@torch.no_grad()
def test_what_leaves_the_window_is_forgotten() -> None:
    """One block of window R: timestep t - R + 1 counts at timestep t, timestep t - R does not."""
    backbone, first = WindowedAttention(WIDTH, layers=1, heads=2, window=4), torch.zeros(1, 9, dtype=torch.bool)
    x = noise(1, 9, 0).float()
    other = x.clone()
    other[:, 2] += 1
    start = backbone.initial(1, CPU)
    changed = (backbone.sequence(x, first, start)[0] != backbone.sequence(other, first, start)[0]).any(-1)[0]
    assert changed.tolist() == [False, False, True, True, True, True, False, False, False]
