"""Variables of very many classes: nothing is lost in their digits, and memory does not follow their number."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.conftest import FAMILIES
from tests.models.test_inputs import imagined_in_the_space
from worldsim.models.leaves.action import ActionEncoder
from worldsim.models.leaves.categorical import LARGEST, PADDING, SMALL, Digits, slot_digits
from worldsim.spaces import leaves

MANY = spaces.Dict(customer=spaces.Discrete(50_000), order=spaces.Discrete(1000, start=7), note=spaces.Text(60))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 2**62), min_size=1, max_size=4), st.sampled_from([2, 16, LARGEST]), st.integers(0, 99))
def test_an_index_is_its_digits(counts: list[int], largest: int, seed: int) -> None:
    nvec = np.array(counts)
    digits = Digits(nvec, largest)
    indices = torch.from_numpy(np.random.default_rng(seed).integers(nvec, size=(20, len(nvec))))
    indices = torch.cat([indices, torch.zeros_like(indices[:1]), torch.from_numpy(nvec)[None] - 1])
    split = digits.split(indices)
    assert (split >= 0).all() and (split < digits.nvec).all() and (digits.nvec <= largest).all()
    assert torch.equal(digits.join(split), indices)
    every = torch.from_numpy(np.random.default_rng(seed).integers(digits.nvec.numpy(), size=(20, len(digits.nvec))))
    assert (digits.join(every) < torch.from_numpy(nvec)).all()  # whatever is imagined is a class


def test_few_classes_stay_as_they_are() -> None:
    assert Digits(np.array([1, 2, LARGEST])).nvec.tolist() == [1, 2, 256]
    assert Digits(np.array([2, LARGEST + 1, 50_000])).nvec.tolist() == [2, 16, 17, 224, 224]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 5000)), min_size=1, max_size=4))
def test_padding_is_bounded_by_the_sum_of_the_classes(kinds: list[tuple[int, int]]) -> None:
    """kinds: (classes, number of variables with so many)."""
    parts = {f"leaf{i}": spaces.MultiDiscrete([classes] * count) for i, (classes, count) in enumerate(kinds)}
    digits = slot_digits(leaves(spaces.Dict(parts)))
    widths = digits.nvec.tolist()
    assert len(widths) * max(widths) <= max(SMALL, PADDING * sum(widths))


def test_one_large_class_does_not_widen_thousands_of_small_ones() -> None:
    planes = spaces.MultiBinary([8, 8, 111])
    together = leaves(spaces.Dict(planes=planes, move=spaces.Discrete(256)))
    widths = slot_digits(together).nvec.tolist()
    assert len(widths) * max(widths) < 4 * (7104 * 2 + 256)  # 1.8 million if each were as wide as the largest
    assert widths[-7104:] == [2] * 7104 or widths[:7104] == [2] * 7104


@pytest.mark.parametrize("family", ["ssm", "transformer", "rssm"])
def test_any_family_takes_many_classes(family: str) -> None:
    imagined_in_the_space(FAMILIES[family], MANY, MANY, seed=0)


@pytest.mark.parametrize("family", ["ssm", "rssm"])
def test_memory_does_not_follow_the_number_of_classes(family: str) -> None:
    """Before, Discrete(1000) beside a text had 304 MB of weights, and Discrete(50000) 21 GB."""
    config = FAMILIES[family]

    def parameters(space: spaces.Space) -> int:
        return sum(parameter.numel() for parameter in config.build(space, space, (0.0, 1.0)).parameters())

    few = parameters(spaces.Dict({**MANY.spaces, "customer": spaces.Discrete(100), "order": spaces.Discrete(30)}))
    assert parameters(MANY) < few + 1_000_000


def test_actions_of_many_classes_differ_and_are_narrow() -> None:
    encode = ActionEncoder(leaves(spaces.Discrete(50_000)), FAMILIES["ssm"])
    assert encode.width == 448
    encoded = encode({"value": torch.arange(50_000).unsqueeze(-1)})
    assert len(torch.unique(encoded, dim=0)) == 50_000
