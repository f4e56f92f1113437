"""Token leaves: a distribution over the texts of their space, learned exactly, and always inside of it."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from tests.models.test_learning import RECIPES, imagined, trained
from tests.models.toy import ring_arrays
from worldsim.models.config import SSMConfig
from worldsim.models.leaves import slot_layout
from worldsim.models.leaves.text import AT_ONCE, SHORT, TextCodec
from worldsim.models.world_model import Batch
from worldsim.rollouts.arrays import EpisodeArrays
from worldsim.rollouts.sampling import windows
from worldsim.spaces import Leaf, flatten_batch, unflatten, unflatten_batch

CONFIG, FEATURES = SSMConfig(embed=12), 5
NOTES = spaces.Text(30, min_length=10, charset="acefloptACD 0123456789,.")
SEEN, HORIZON = 4, 10


def codec_of(space: spaces.Text, seed: int = 0) -> TextCodec:
    torch.manual_seed(seed)
    codec = TextCodec(Leaf((), space), CONFIG, FEATURES)
    for parameter in codec.parameters():
        torch.nn.init.normal_(parameter)  # far from a decoder that finds all characters alike
    codec.usual.normal_()
    return codec


def codes_of(space: spaces.Text, texts: list[str]) -> torch.Tensor:
    return torch.from_numpy(flatten_batch(space, texts)["value"])


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(3, min_length=0, charset="ab"),
        spaces.Text(4, min_length=2, charset="abc"),
        spaces.Text(SHORT, min_length=0, charset="a"),
        spaces.Text(2 * SHORT + 5, min_length=SHORT - 1, charset="a"),  # segments, of which the last is not a whole one
    ],
)
def test_the_probabilities_of_all_texts_of_a_space_add_up_to_one(space: spaces.Text) -> None:
    codec, letters = codec_of(space), sorted(space.character_set)
    lengths = range(space.min_length, space.max_length + 1)
    texts = ["".join(each) for length in lengths for each in itertools.product(letters, repeat=length)]
    with torch.no_grad():
        for slots in torch.randn(3, 1, codec.slots, FEATURES):
            nats = codec.loss(slots.expand(len(texts), -1, -1), codes_of(space, texts))
            assert_close(torch.exp(-nats).sum(), torch.tensor(1.0), rtol=1e-4, atol=1e-4)


def test_what_is_decoded_is_no_less_probable_than_what_differs_in_a_character() -> None:
    """Greedy decoding: at every character the most probable one, of those that the training would have scored."""
    space = spaces.Text(5, min_length=1, charset="abcd")
    codec = codec_of(space)
    with torch.no_grad():
        for slots in torch.randn(20, 1, codec.slots, FEATURES):
            text = unflatten(space, {"value": codec.decode(slots)[0].numpy()})
            for place in range(len(text)):
                begins = [text[:place] + letter for letter in "abcd"]
                every = [
                    "".join(each) for length in range(6 - place) for each in itertools.product("abcd", repeat=length)
                ]
                sums = []
                for begin in begins:  # the probability of all texts that begin so
                    texts = [begin + rest for rest in every if len(begin + rest) <= 5]
                    nats = codec.loss(slots.expand(len(texts), -1, -1), codes_of(space, texts))
                    sums.append(torch.exp(-nats).sum().item())
                assert np.argmax(sums) == "abcd".index(text[place])


@settings(max_examples=60, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
    st.integers(1, 70),
    st.integers(0, 70),
    st.integers(0, 99),
)
def test_decoded_texts_are_texts_of_the_space(letters: str, most: int, least: int, seed: int) -> None:
    space = spaces.Text(most, min_length=min(least, most), charset=letters)
    codec = codec_of(space, seed)
    with torch.no_grad():
        decoded = codec.decode(10 * torch.randn(8, codec.slots, FEATURES))
    texts = unflatten_batch(space, {"value": decoded.numpy()})
    assert all(text in space for text in texts)
    assert torch.equal(codes_of(space, list(texts)), decoded)  # not even cut or filled up to be so


def test_what_follows_the_end_is_nothing_to_learn() -> None:
    space = spaces.Text(40, min_length=0, charset="ab")
    codec = codec_of(space)
    value, slots = codes_of(space, ["abba", "a" * 17, "b" * 40]), torch.randn(3, codec.slots, FEATURES)
    changed = value.clone()
    changed[0, 5:], changed[1, 18:] = 1, 2
    assert_close(codec.loss(slots, changed), codec.loss(slots, value))
    changed[0, 3] = 2
    assert codec.loss(slots, changed)[0] != codec.loss(slots, value)[0]


def test_the_loss_of_some_segments_is_on_average_that_of_all() -> None:
    space = spaces.Text(3 * SHORT, min_length=0, charset="ab")
    codec, generator = codec_of(space), torch.Generator().manual_seed(0)
    lengths = [3 * SHORT, 2 * SHORT, SHORT + 3, 2]  # which end in the third, third, second and first segment
    value = codes_of(space, ["ab" * (length // 2) + "a" * (length % 2) for length in lengths])
    slots = torch.randn(4, codec.slots, FEATURES)
    rows = AT_ONCE // 4  # four times as many: one segment each
    with torch.no_grad():
        whole = codec.loss(slots, value)
        each = codec.loss(slots.repeat(rows, 1, 1), value.repeat(rows, 1), generator).view(rows, 4)
    assert_close(each[:, 3], whole[3].expand(rows))  # a text that has no other is always learned
    spread = each.std(0) / rows**0.5
    assert (spread[:3] > 0).all() and ((each.mean(0) - whole).abs() < 4 * spread + 1e-4).all()


def test_an_untrained_decoder_knows_what_stands_where_in_the_data() -> None:
    space = spaces.Text(20, min_length=0, charset="abc")
    codec = TextCodec(Leaf((), space), CONFIG, FEATURES)
    value = codes_of(space, ["a" * 18] * 300 + ["b"] * 100)
    codec.measure([value[:100], value[100:]])
    decoded = codec.decode(torch.randn(5, codec.slots, FEATURES))
    assert torch.equal(decoded, value[:1].expand(5, -1))
    shares = torch.exp(-codec.loss(torch.randn(2, codec.slots, FEATURES), value[[0, -1]]))
    assert_close(shares, torch.tensor([0.75, 0.25]) ** 2, rtol=0, atol=0.02)  # a, or b; then another one, or the end


def test_only_long_texts_are_tokens() -> None:
    short, long = Leaf(("short",), spaces.Text(SHORT, charset="ab")), Leaf(("long",), spaces.Text(SHORT + 1))
    layout = slot_layout((short, long), CONFIG)
    assert layout.nvec.tolist() == [3] * SHORT and layout.dense == 2


def in_words(episodes: int, seed: int) -> EpisodeArrays:
    """Walks on the ring, described in words."""
    arrays = ring_arrays(episodes, 20, seed)
    places = arrays.observation["frame"][:, 6, ::4, 0].argmax(1)
    texts = [
        f"at place {place}, {3 - count} of 3 left"
        for place, count in zip(places, arrays.observation["count"][:, 0], strict=True)
    ]
    return replace(arrays, observation=flatten_batch(NOTES, texts))


WRITING = {"embed": 32, "variables": 6}
RECIPES_FOR_TEXTS = {
    "ssm": RECIPES["ssm"]._replace(config=RECIPES["ssm"].config.model_copy(update=WRITING), drawing=200, steps=600),
    "rssm": RECIPES["rssm"]._replace(config=RECIPES["rssm"].config.model_copy(update={"embed": 32}), steps=900),
}


@pytest.mark.parametrize("family", RECIPES_FOR_TEXTS)
def test_families_learn_what_is_going_to_be_written(family: str) -> None:
    recipe = RECIPES_FOR_TEXTS[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = recipe.config.build(NOTES, spaces.Discrete(3), (0.0, 1.0))
    trained(model, in_words(64, seed=0), recipe)
    held_out = windows(in_words(40, seed=1), np.arange(40), SEEN + HORIZON, 40, np.random.default_rng(0))
    batch = Batch.from_numpy(held_out)
    with torch.inference_mode():
        for t, _, decoded in imagined(model, batch):
            same = (decoded["value"] == batch.observation["value"][:, t]).all(-1).float().mean()
            assert same > 0.9, (t, same)
