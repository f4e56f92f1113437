"""Conformance checks for families of world models, to run on your own.

    from worldsim.models.conformance import CHECKS, check_family

    def test_my_family() -> None:
        check_family(MyConfig(width=32), observation_space, action_space)

Each check raises AssertionError with what is wrong. Models are untrained, sequences are noise.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.testing import assert_close

from worldsim.models.config import ModelConfig
from worldsim.models.world_model import Batch, Observed, Predicted, State, WorldModel
from worldsim.spaces import Leaf, leaves, unflatten

ROWS, LENGTH, CUT = 3, 7, 4


class Sample(NamedTuple):
    """A model of two spaces, and sequences of noise from these."""

    model: WorldModel
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]

    def batch(self, seed: int = 0, begins: float = 0.0) -> Batch:
        """begins: how many of the timesteps are the first of an episode; if it is not 0, those of row 0 are."""
        return random_batch(self.observation_space, self.action_space, ROWS, LENGTH, seed, begins)

    def uniform(self, seed: int = 0) -> Tensor:
        return torch.rand(ROWS, self.model.noise_size, generator=torch.Generator().manual_seed(seed))


def check_family(config: ModelConfig, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
    """All checks. Raises AssertionError, or whatever the model does."""
    sample = Sample(fresh(config, observation_space, action_space), observation_space, action_space)
    for check in CHECKS:
        check(sample)


def fresh(config: ModelConfig, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> WorldModel:
    """An untrained model in which zero-initialised weights are random, too, so that every part has an effect."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        torch.default_generator.manual_seed(0)
        model = config.build(observation_space, action_space, (-1.0, 2.0))
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    return model


def random_batch(
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    rows: int,
    length: int,
    seed: int = 0,
    begins: float = 0.0,
) -> Batch:
    """Sequences of noise of two spaces. begins: see `Sample.batch`."""
    rng = np.random.default_rng(seed)
    first = rng.random((rows, length)) < begins
    first[:, 0] = begins > 0

    def noise(leaf: Leaf) -> Any:
        shape = (rows, length, *leaf.shape)
        if leaf.kind == "image":
            return rng.integers(256, size=shape, dtype=np.uint8)
        if leaf.is_discrete:
            return rng.integers(leaf.nvec, size=shape)
        return rng.normal(size=shape).astype(leaf.dtype)

    spaces = {"observation": observation_space, "action": action_space}
    arrays: dict[str, Any] = {
        what: {leaf.name: noise(leaf) for leaf in leaves(space)} for what, space in spaces.items()
    }
    arrays["reward"] = rng.normal(size=(rows, length)).astype(np.float32)
    return Batch.from_numpy({**arrays, "first": first, "terminated": rng.random((rows, length)) < 0.1})


def part(batch: Batch, rows: slice, times: slice) -> Batch:
    """Some rows and timesteps of a batch."""
    return batch.each(lambda item: item[rows, times])


@torch.no_grad()
def observed(model: WorldModel, batch: Batch, state: State | None = None) -> Observed:
    return model.observe(batch.observation, batch.action, batch.first, state)


@torch.no_grad()
def stepped(
    model: WorldModel, state: State, batch: Batch, t: int, noise: Tensor | None
) -> tuple[State, Predicted, dict[str, Tensor]]:
    """The state, what was predicted, and the observation."""
    following, predicted = model.step(state, {name: value[:, t] for name, value in batch.action.items()}, noise)
    return following, predicted, model.decode(following)


def _assert_same(one: object, other: object, what: str) -> None:
    """Asserts equality up to rounding."""
    assert_close(one, other, atol=1e-4, rtol=1e-4, msg=lambda found: f"{what}: {found}")


def _assert_different(one: Tensor, other: Tensor, what: str) -> None:
    assert not torch.allclose(one, other), what


def check_shapes(sample: Sample) -> None:
    """All tensors have the shapes and types that `WorldModel` documents, and states keep theirs."""
    model, batch = sample.model, sample.batch()
    result = observed(model, batch)
    width = result.features.shape[-1]
    assert result.features.shape == (ROWS, LENGTH, width), "features of observe are not (B, T, F)"
    with torch.no_grad():
        heads = model.reward.mean(result.features), model.termination(result.features)
        encoded = model.encode({name: value[:, 0] for name, value in batch.observation.items()})
    assert all(head.shape == (ROWS, LENGTH) for head in heads), "the heads do not take these features"
    assert encoded.ndim == 2 and len(encoded) == ROWS and encoded.dtype == torch.float32, "encode gives no (N, D) fp32"
    state, predicted, decoded = stepped(model, result.state, batch, 0, sample.uniform())
    assert predicted.features.shape == (ROWS, width), "features of step are not (B, F)"
    for name in ("entropy", "disagreement"):
        signal = getattr(predicted, name)
        assert signal.shape == (ROWS,) and (signal >= 0).all(), f"{name} is not (B,) and at least 0"
    initial = model.initial(ROWS)
    assert initial.keys() == result.state.keys() == state.keys(), (
        "initial, observe and step give states of other tensors"
    )
    for name, tensor in initial.items():
        for other in (result.state[name], state[name]):
            assert (tensor.shape, tensor.dtype) == (other.shape, other.dtype), f"{name} changes its shape or type"
    for name, value in batch.observation.items():
        assert (decoded[name].shape, decoded[name].dtype) == (value[:, 0].shape, value.dtype), (
            f"{name} is decoded otherwise"
        )


def check_space(sample: Sample) -> None:
    """What is decoded after a step lies in the observation space."""
    state = observed(sample.model, batch := sample.batch()).state
    _, _, decoded = stepped(sample.model, state, batch, 0, sample.uniform())
    for row in range(ROWS):
        value = unflatten(sample.observation_space, {name: each[row].numpy() for name, each in decoded.items()})
        assert sample.observation_space.contains(value), f"not in the space: {value}"


def check_pieces(sample: Sample) -> None:
    """Observing a sequence at once equals observing it in two pieces, continuing from the state after the first."""
    for seed, begins in ((0, 0.0), (1, 0.2), (2, 0.4)):
        batch = sample.batch(seed, begins)
        whole = observed(sample.model, batch)
        for cut in (1, CUT, LENGTH - 1):
            one = observed(sample.model, part(batch, slice(None), slice(0, cut)))
            two = observed(sample.model, part(batch, slice(None), slice(cut, LENGTH)), one.state)
            _assert_same(torch.cat([one.features, two.features], 1), whole.features, f"in two pieces, cut at {cut}")
            _assert_same(two.state, whole.state, f"the state after two pieces, cut at {cut}")


def check_beginnings(sample: Sample) -> None:
    """Where `first` is True, everything before it and the action of that row have no effect."""
    model, batch = sample.model, sample.batch()
    batch.first[:, CUT] = True
    later = part(batch, slice(None), slice(CUT, LENGTH))
    whole, alone = observed(model, batch), observed(model, later)
    after_another = observed(model, later, observed(model, sample.batch(seed=5)).state)
    for result in (whole, after_another):
        _assert_same(result.features[:, -later.first.shape[1] :], alone.features, "after a beginning")
        _assert_same(result.state, alone.state, "the state after a beginning")
    for name, other in sample.batch(seed=6).action.items():
        batch.action[name][:, CUT] = other[:, CUT]
    _assert_same(
        observed(model, batch).features, whole.features, "another action before an episode's first observation"
    )


def check_past(sample: Sample) -> None:
    """Within an episode, features depend on the past and not on the future."""
    model, batch = sample.model, sample.batch()
    before = observed(model, batch).features
    alone = observed(model, part(batch, slice(None), slice(CUT, LENGTH))).features
    _assert_different(before[:, CUT:], alone, "the past does not matter")
    for leaf, other in sample.batch(seed=9).observation.items():
        batch.observation[leaf][:, CUT] = other[:, CUT]
    after = observed(model, batch).features
    _assert_same(before[:, :CUT], after[:, :CUT], "another observation later")
    _assert_different(before[:, CUT], after[:, CUT], "an observation does not matter")


def check_actions(sample: Sample) -> None:
    """Row t of the actions affects features from row t on, and none before."""
    model, batch = sample.model, sample.batch()
    before = observed(model, batch)
    for name, other in sample.batch(seed=3).action.items():
        batch.action[name][:, CUT] = other[:, CUT]
    after = observed(model, batch)
    _assert_same(before.features[:, :CUT], after.features[:, :CUT], "another action later")
    _assert_different(before.features[:, CUT:], after.features[:, CUT:], "an action does not matter in observe")
    one, other_step = (stepped(model, before.state, each, CUT, None)[1] for each in (sample.batch(), batch))
    _assert_different(one.features, other_step.features, "an action does not matter in step")


def check_rows(sample: Sample) -> None:
    """Rows of a batch are independent."""
    model, batch = sample.model, sample.batch(begins=0.2)
    together, noise = observed(model, batch), sample.uniform()
    following, now, decoded = stepped(model, together.state, batch, 1, noise)
    for row in range(ROWS):
        one = slice(row, row + 1)
        alone = observed(model, part(batch, one, slice(None)))
        _assert_same(together.features[one], alone.features, "a row alone")
        _assert_same(
            {name: value[one] for name, value in together.state.items()}, alone.state, "the state of a row alone"
        )
        state, predicted, result = stepped(model, alone.state, part(batch, one, slice(None)), 1, noise[one])
        _assert_same(now.features[one], predicted.features, "a step of a row alone")
        _assert_same(
            {name: value[one] for name, value in following.items()}, state, "the state after a step of a row alone"
        )
        _assert_same({name: value[one] for name, value in decoded.items()}, result, "the observation of a row alone")


def check_purity(sample: Sample) -> None:
    """A step is a pure function of state, action and noise."""
    model, batch = sample.model, sample.batch()
    state = observed(model, batch).state
    kept = copy.deepcopy(state)
    one = stepped(model, state, batch, 0, sample.uniform())
    for noise in (sample.uniform(), None):
        again = [stepped(model, state, batch, 0, noise) for _ in range(2)]
        assert_close(*again, atol=0, rtol=0)
    assert_close(one, stepped(model, state, batch, 0, sample.uniform()), atol=0, rtol=0)
    assert_close(state, kept, atol=0, rtol=0)


def check_training(sample: Sample) -> None:
    """Losses are random only by the generator, and finite; every parameter has a gradient in some stage."""
    model, batch = copy.deepcopy(sample.model), sample.batch(begins=0.2)

    def losses(ambient: int) -> list[dict[str, Tensor]]:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(ambient)
            return [model.losses(batch, torch.Generator().manual_seed(0), stage).parts for stage in model.stages]

    assert_close(losses(0), losses(1), atol=0, rtol=0)
    for stage in model.stages:
        found = model.losses(batch, torch.Generator().manual_seed(0), stage)
        bad = [name for name, loss in found.parts.items() if loss.ndim or not loss.isfinite()]
        assert not bad, f"stage {stage.name}: {bad} are no finite scalars"
        found.total.backward()
    trained = [p.grad is not None and bool(p.grad.any()) for p in model.parameters() if p.numel() and p.requires_grad]
    assert any(trained), "no parameter has a gradient"
    left = [name for name, p in model.named_parameters() if p.numel() and p.requires_grad and p.grad is None]
    assert not left, f"no stage trains {left}"


def check_priority(sample: Sample) -> None:
    """`priority` depends on its own sequence, and not on others, except that rows i and -1-i may mix in training."""
    model, stage = sample.model, sample.model.stages[-1]
    batch = random_batch(sample.observation_space, sample.action_space, 4, LENGTH)
    before = model.losses(batch, torch.Generator().manual_seed(0), stage).priority
    batch.reward[2] += 1.5
    for leaf, other in random_batch(sample.observation_space, sample.action_space, 4, LENGTH, 9).observation.items():
        batch.observation[leaf][2] = other[2]
    after = model.losses(batch, torch.Generator().manual_seed(0), stage).priority
    assert before is not None and after is not None and before.shape == (4,), "the last stage gives no priority (B,)"
    _assert_same(before[[0, 3]], after[[0, 3]], "the priority of other sequences")
    assert before[2] != after[2], "the priority does not depend on the sequence"


CHECKS: tuple[Callable[[Sample], None], ...] = (
    check_shapes,
    check_space,
    check_pieces,
    check_beginnings,
    check_past,
    check_actions,
    check_rows,
    check_purity,
    check_training,
    check_priority,
)
