"""The World as pure functions: states are values, rows are alone, draws are as likely as the model says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, kstest
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

import worldsim
from tests.models.toy import COUNTS, ENV, PLACES, Ring, drawn, ring_rollouts
from worldsim.errors import ConfigError
from worldsim.models.config import Precision, RSSMConfig, SSMConfig, TransformerConfig
from worldsim.simulator.calibration import Calibration, Trust
from worldsim.simulator.noise import NoiseSource, uniforms
from worldsim.simulator.world import World, WorldState, _fused
from worldsim.spaces import flatten
from worldsim.training.config import TrainConfig, TrainerConfig
from worldsim.training.loop import train

SMALL = {"embed": 16, "hidden": 32, "width": 64, "ensemble": 2, "head_hidden": 32}
MODELS = {
    "ssm": SSMConfig(**SMALL, variables=3, layers=1, code_width=12),
    "transformer": TransformerConfig(**SMALL, variables=3, code_width=12, window=6),
    "rssm": RSSMConfig(**SMALL, latents=8, latent_classes=8, slot_features=16),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Worlds of each family, trained on the ring for some seconds: enough for ssm to know it well."""
    out = tmp_path_factory.mktemp("worlds")
    rollouts = ring_rollouts(out / "rollouts", steps=1500)
    for family, steps in (("ssm", 250), ("transformer", 30), ("rssm", 30)):
        loop = {"codec_steps": 150, "codec_frames": 48, "batch": 16, "length": 6, "learning_rate": 1e-2, "warmup": 10}
        trainer = TrainerConfig(**loop, steps=steps, precision="32-true", accelerator="cpu", holdout=0.1)
        config = TrainConfig(
            env=ENV, model=MODELS[family], trainer=trainer, data=rollouts.path, out=out / family, seed=0
        )
        train(config, progress=False)
    return out


@pytest.fixture(params=MODELS)
def world(request: pytest.FixtureRequest, folder: Path) -> World:
    return worldsim.load(folder / request.param)


def acts(count: int, tick: int = 0) -> dict[str, np.ndarray]:
    return {"value": np.random.default_rng(tick).integers(3, size=(count, 1))}


def tensors(state: WorldState) -> dict[str, Tensor]:
    named = {**{f"latent/{k}": v for k, v in state.latent.items()}, **state.observation}
    return {
        **named,
        "seed": state.seed,
        "tick": state.tick,
        "cumulative_entropy": state.cumulative_entropy,
        "disagreement": state.disagreement,
    }


def rows(state: WorldState, which: Any) -> dict[str, Tensor]:
    return {name: tensor[which] for name, tensor in tensors(state).items()}


def test_a_state_is_a_value(world: World) -> None:
    state = world.start(4, seed=1)
    kept = {name: tensor.clone() for name, tensor in tensors(state).items()}
    following, step = world.step(state, acts(4))
    for array in world.observation(state).values():
        array[:] = 0  # what is handed out is a copy
    for array in step.observation.values():
        array[:] = 0
    assert_close(tensors(state), kept, atol=0, rtol=0)
    again, same = world.step(state, acts(4))
    assert_close(tensors(following), tensors(again), atol=0, rtol=0)
    assert np.array_equal(same.reward, step.reward) and np.array_equal(same.terminated, step.terminated)
    assert (following.tick == state.tick + 1).all() and (following.seed == state.seed).all()
    types = [step.reward.dtype, step.terminated.dtype, step.trust.dtype]
    assert types == [np.float32, np.bool_, np.float32]


@pytest.mark.parametrize("precision, apart", [("32-true", 1e-4), ("bf16-mixed", 1e-2)])
def test_a_row_lives_in_a_batch_as_it_does_alone(world: World, precision: Precision, apart: float) -> None:
    world = World(world.manifest, world.model, world.starts, precision=precision)
    seeds = list(range(100, 108))
    batched = world.start_seeds(seeds)
    alone = [world.start_seeds([seed]) for seed in seeds]
    for tick in range(5):
        actions = acts(8, tick)
        batched, step = world.step(batched, actions)
        for row in range(8):
            alone[row], one = world.step(alone[row], {"value": actions["value"][row : row + 1]})
            drawn_codes = {k: v for k, v in rows(batched, [row]).items() if not v.is_floating_point() and k != "frame"}
            assert_close(drawn_codes, {k: tensors(alone[row])[k] for k in drawn_codes}, atol=0, rtol=0)
            assert np.abs(one.observation["frame"].astype(int) - step.observation["frame"][[row]]).max() <= 1
            assert one.reward == pytest.approx(step.reward[[row]], abs=apart)
            assert one.terminated == step.terminated[row]


def test_what_is_not_looked_at_happens_all_the_same(world: World) -> None:
    actions = {"value": np.ones((3, 1), np.int64)}
    observed = unseen = world.start(3, seed=2)
    for _ in range(4):
        observed, shown = world.step(observed, actions)
        unseen, hidden = world.step(unseen, actions, observe="latent")
        assert hidden.observation == {} and shown.observation
        assert np.array_equal(shown.reward, hidden.reward) and np.array_equal(shown.terminated, hidden.terminated)
    assert all(torch.equal(observed.latent[name], unseen.latent[name]) for name in observed.latent)


@pytest.mark.parametrize("precision, apart", [("32-true", 1e-3), ("bf16-mixed", 2e-2)])
@pytest.mark.skipif(not shutil.which("g++"), reason="compiling needs a C++ compiler")
def test_a_fused_world_lives_as_the_same_world_does(folder: Path, precision: Precision, apart: float) -> None:
    plain, fused = (worldsim.load(folder / "ssm", fused=how, precision=precision) for how in (False, True))
    state = start = plain.start(3, seed=4)
    for tick in range(3):
        mine, step = plain.step(state, acts(3, tick))
        other, same = fused.step(state, acts(3, tick))
        assert_close(tensors(mine), tensors(other), rtol=apart, atol=apart)
        assert_close(step.reward, same.reward, rtol=apart, atol=apart)
        assert np.array_equal(step.terminated, same.terminated)
        state = other
    once, again = (fused.step(start, acts(3))[0] for _ in range(2))
    assert all(torch.equal(value, tensors(again)[name]) for name, value in tensors(once).items())


def test_a_torch_without_guard_filters_is_named_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.compiler, "skip_guard_on_all_nn_modules_unsafe")
    with pytest.raises(ConfigError, match=r"^fused=True needs torch 2\.13 or later, and this is "):
        _fused(torch.device("cpu"))


def test_states_outlive_the_next_step_of_a_captured_graph(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph is captured on CUDA alone; what it does to its results, which are always in the same places, is not."""

    def captured(function: Any, **_: Any) -> Any:
        places: list[Any] = []

        def replay(*given: Any) -> Any:
            found = function(*given)
            if not places:
                places.append(tree_map(torch.clone, found))
            return tree_map(lambda place, value: place.copy_(value), places[0], found)

        return replay

    monkeypatch.setattr(torch, "compile", captured)
    plain, graph = worldsim.load(folder / "ssm"), worldsim.load(folder / "ssm")
    graph._tick = _fused(torch.device("cuda"))
    states = [[world.start(3, seed=4)] for world in (plain, graph)]
    for tick in range(3):
        for world, passed in zip((plain, graph), states, strict=True):
            passed.append(world.step(passed[-1], acts(3, tick))[0])
    for one, other in zip(*states, strict=True):
        assert_close(tensors(one), tensors(other), rtol=0, atol=0)


def test_a_fused_world_needs_a_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"fused=True needs a C\+\+ compiler and found none: install g\+\+"):
        worldsim.load(folder / "ssm", fused=True)
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ConfigError, match="fused=True needs a C compiler and found none: install gcc"):
        _fused(torch.device("cuda"))


def test_a_world_in_bf16_predicts_what_it_does_in_fp32(world: World) -> None:
    rounded = World(world.manifest, world.model, world.starts, precision="bf16-mixed")
    state = world.start(64, seed=4)
    assert_close(tensors(state), tensors(rounded.start(64, seed=4)), atol=0, rtol=0)
    for tick in range(4):
        (mine, step), (again, _) = (rounded.step(state, acts(64, tick)) for _ in range(2))
        assert_close(tensors(mine), tensors(again), atol=0, rtol=0)
        state, exact = world.step(state, acts(64, tick))
        found, wanted = tensors(mine), tensors(state)
        assert {name: x.dtype for name, x in found.items()} == {name: x.dtype for name, x in wanted.items()}
        codes = [name for name in ("categorical", "dense", "z") if name in state.latent]
        same = torch.stack([(mine.latent[k] == state.latent[k]).flatten(1).all(1) for k in codes]).all(0)
        assert same.float().mean() > 0.9  # rounding turns few draws
        frames = np.abs(step.observation["frame"].astype(int) - exact.observation["frame"])[same.numpy()]
        assert frames.max() <= 2
        for name in wanted.keys() - {"frame"}:
            assert_close(found[name][same], wanted[name][same], atol=0.1, rtol=0.1)
        assert_close(step.reward[same], exact.reward[same], atol=1e-2, rtol=1e-2)


class Casts(TorchDispatchMode):
    """Notes where what is cast lies in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.places: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.to.dtype and made.dtype != args[0].dtype:
            self.places.add(args[0].data_ptr())
        return made


def test_matrices_are_rounded_once_and_not_at_every_step(world: World) -> None:
    """Autocast alone casts every matrix at every step, which costs most of what the products save."""
    rounded, plain = (World(world.manifest, world.model, world.starts, precision="bf16-mixed") for _ in range(2))
    plain._rounded, state, found = world.model, world.start(2), []
    for one in (rounded, plain):
        with Casts() as casts:
            one.step(state, acts(2))
        assert one._rounded is not None
        matrices = [p for p in one._rounded.parameters() if p.ndim > 1 and min(p.shape[-2:]) > 1]
        found.append(sum(p.data_ptr() in casts.places for p in matrices))
    assert found[0] == 0 and found[1] > 10


def test_an_unknown_precision_is_refused_in_a_line(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^precision=fp8: must be '32-true' or 'bf16-mixed'$"):
        worldsim.load(folder / "ssm", precision="fp8")  # type: ignore[arg-type]


def test_starts_are_recorded_ones_drawn_by_the_seed(world: World) -> None:
    assert_close(tensors(world.start(6, seed=3)), tensors(world.start(6, seed=3)), atol=0, rtol=0)
    assert_close(rows(world.start(6, seed=3), slice(0, 4)), tensors(world.start(4, seed=3)), atol=1e-5, rtol=1e-5)
    assert not torch.equal(world.start(6, seed=3).seed, world.start(6, seed=4).seed)
    recorded = {
        (frame.tobytes(), int(count))
        for frame, count in zip(world.starts["frame"].numpy(), world.starts["count"].numpy()[:, 0], strict=True)
    }
    observed = world.observation(world.start_seeds(range(200)))
    begun = {
        (frame.tobytes(), int(count)) for frame, count in zip(observed["frame"], observed["count"][:, 0], strict=True)
    }
    assert begun <= recorded and len(begun) > len(recorded) // 2


def test_encode_begins_at_the_given_observation(world: World) -> None:
    env = Ring()
    observed = [flatten(env.observation_space, env.reset(seed=seed)[0]) for seed in range(5)]
    given = {name: np.stack([row[name] for row in observed]) for name in observed[0]}
    state = world.encode(given, range(5))
    assert all(np.array_equal(world.observation(state)[name], given[name]) for name in given)
    assert (state.tick == 0).all() and (state.cumulative_entropy == 0).all() and (state.disagreement == 0).all()
    assert state.seed.tolist() == list(range(5))
    start = world.start_seeds([7])
    assert_close(tensors(world.encode(world.observation(start), [7])), tensors(start), atol=0, rtol=0)


def test_following_what_was_seen_is_observing_it(world: World) -> None:
    rng = np.random.default_rng(0)
    observation = {"frame": np.stack([[drawn(p) for p in row] for row in rng.integers(PLACES, size=(3, 4))])[..., None]}
    observation["count"] = rng.integers(COUNTS, size=(3, 4, 1))
    action, first = {"value": rng.integers(3, size=(3, 4, 1))}, np.zeros((3, 4), np.bool_)
    whole = world.observe(observation, action, first, range(3))
    state = world.encode({name: value[:, 0] for name, value in observation.items()}, range(3))
    for t in range(1, 4):
        now = {name: value[:, t] for name, value in observation.items()}
        state = world.follow(state, now, {"value": action["value"][:, t]})
        assert all(np.array_equal(world.observation(state)[name], now[name]) for name in now)
    assert_close(state.latent, whole.latent, atol=1e-5, rtol=1e-4)
    assert (state.cumulative_entropy == 0).all() and (state.tick == 3).all()


def test_some_worlds_are_taken_and_put_back(world: World) -> None:
    a, b = world.start(4, seed=0), world.step(world.start(4, seed=1), acts(4))[0]
    mask = np.array([True, False, False, True])
    taken = world.take(mask, a)
    assert_close([rows(taken, 0), rows(taken, 1)], [rows(a, 0), rows(a, 3)], atol=0, rtol=0)
    merged = world.merge(mask, taken, b)
    for row, from_a in enumerate(mask):
        assert_close(rows(merged, row), rows(a if from_a else b, row), atol=0, rtol=0)


def test_a_seed_has_one_future_and_seeds_have_many(world: World) -> None:
    start = world.observation(world.start_seeds([5]))
    many = world.encode({name: np.repeat(value, 64, 0) for name, value in start.items()}, [1] * 32 + list(range(32)))
    world.model.config = world.model.config.model_copy(update={"min_p": 0.0})
    with torch.no_grad():
        for parameter in world.model.termination.parameters():
            parameter.zero_()
    _, step = world.step(many, {"value": np.zeros((64, 1), np.int64)})
    assert len(set(step.terminated[:32])) == 1 and len(set(step.terminated[32:])) == 2


@pytest.mark.parametrize("chance", [0.02, 0.3, 0.9])
def test_terminations_are_as_frequent_as_they_are_probable(folder: Path, chance: float) -> None:
    world = worldsim.load(folder / "rssm")
    with torch.no_grad():
        for parameter in world.model.termination.parameters():
            parameter.zero_()
        world.model.termination.net[-1].bias.fill_(np.log(chance / (1 - chance)))
    _, step = world.step(world.start(2000, seed=0), acts(2000))
    assert binomtest(int(step.terminated.sum()), 2000, chance).pvalue > 0.001


def test_without_sampling_the_most_probable_future(world: World) -> None:
    certain = World(world.manifest, world.model, world.starts, sample=False)
    one = certain.start_seeds([3, 3])
    other = one._replace(seed=one.seed + torch.tensor([0, 9]))
    strict = World(world.manifest, world.model, world.starts)
    for tick in range(3):
        one, _ = certain.step(one, {"value": acts(1, tick)["value"].repeat(2, 0)})
        assert_close(rows(one, 0)["count"], rows(one, 1)["count"])
    world.model.config = world.model.config.model_copy(update={"min_p": 0.999999})
    for tick in range(3):
        other, _ = strict.step(other, {"value": acts(1, tick)["value"].repeat(2, 0)})
    assert torch.equal(one.observation["count"], other.observation["count"])
    assert torch.equal(one.observation["frame"], other.observation["frame"])


def test_the_world_goes_on_as_the_ring_does(folder: Path) -> None:
    world, env, rng = worldsim.load(folder / "ssm"), Ring(), np.random.default_rng(2)
    first = [flatten(env.observation_space, env.reset(seed=seed)[0]) for seed in range(60)]
    state = world.encode({name: np.stack([row[name] for row in first]) for name in first[0]}, range(60))
    frames = np.stack([drawn(place) for place in range(PLACES)]) / 255
    place = np.array([np.square(frames - row["frame"][..., 0] / 255).sum((1, 2)).argmin() for row in first])
    count, alive = np.array([row["count"][0] for row in first]), np.ones(60, np.bool_)
    for _ in range(8):
        action = rng.integers(3, size=60)
        state, step = world.step(state, {"value": action[:, None]})
        place, count = (place + np.array([0, 1, -1])[action]) % PLACES, (count + action) % COUNTS
        ended = (place == PLACES - 1) & (count == COUNTS - 1)
        error = np.square(step.observation["frame"][..., 0] / 255 - frames[place]).mean((1, 2))
        right = {
            "frame": error < 10**-1.5,
            "count": step.observation["count"][:, 0] == count,
            "reward": np.abs(step.reward - (place == 0)) < 0.3,
            "terminated": step.terminated == ended,
        }
        assert min(part[alive].mean() for part in right.values()) > 0.9, {k: v[alive].mean() for k, v in right.items()}
        alive &= ~ended
    assert alive.sum() >= 10


def test_trust_falls_with_the_sum_of_entropys(world: World) -> None:
    state = world.start(3, seed=0)
    _, step = world.step(state, acts(3))
    assert (step.trust == 0).all()  # nothing is known about it before it was calibrated
    curve = Trust(np.array([0.0, 500.0]), np.array([1.0, 0.0]), max_disagreement=1e9)
    known = World(world.manifest, world.model, world.starts, Calibration(curve))
    last, entropy = np.ones(3), np.zeros(3)
    for tick in range(4):
        state, step = known.step(state, acts(3, tick))
        assert (step.trust <= last).all() and (step.trust > 0).all()
        assert (state.cumulative_entropy.numpy() >= entropy).all()
        last, entropy = step.trust, state.cumulative_entropy.numpy()
        assert step.trust == pytest.approx(1 - entropy / 500, abs=1e-5)
    assert entropy.max() > 0


def test_trust_falls_where_the_ensemble_has_never_been(world: World) -> None:
    """Twice the greatest disagreement that was measured: half the trust."""
    state, _ = world.step(world.start(3, seed=0), acts(3))
    half = float(state.disagreement.max()) / 2
    curve = Trust(np.array([0.0, 1e9]), np.array([1.0, 1.0]), max_disagreement=half)
    known = World(world.manifest, world.model, world.starts, Calibration(curve))
    _, step = known.step(world.start(3, seed=0), acts(3))
    assert step.trust == pytest.approx(np.minimum(1, half / state.disagreement.numpy()), rel=1e-5)
    assert step.trust.min() == pytest.approx(0.5, rel=1e-5)


def test_temperatures_are_those_of_the_heads(world: World) -> None:
    """A very hot head knows nothing: every reward there is comes as often as any other, an end is a toss-up."""
    flat = Trust(np.array([0.0, 1.0]), np.array([1.0, 1.0]))
    hot = World(world.manifest, world.model, world.starts, Calibration(flat, 1e6, 1e6))
    _, step = hot.step(world.start(400, seed=0), acts(400))
    low, high = world.model.reward.bins[[0, -1]].tolist()
    assert kstest(np.sign(step.reward) * np.log1p(abs(step.reward)), "uniform", (low, high - low)).pvalue > 0.001
    assert 0.4 < step.terminated.mean() < 0.6
    cold = World(world.manifest, world.model, world.starts, Calibration(flat))
    same, plain = (w.step(w.start(5, seed=0), acts(5))[1] for w in (cold, world))
    assert np.array_equal(same.reward, plain.reward) and np.array_equal(same.terminated, plain.terminated)


def keys(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.long)


def test_uniform_numbers_are_uniform_along_every_axis() -> None:
    seeds, ticks = torch.arange(3000), torch.zeros(3000, dtype=torch.long)
    large = torch.from_numpy(np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 3000))
    one = torch.zeros(3000, dtype=torch.long)
    for numbers in (
        uniforms(seeds, ticks, NoiseSource.of(1))[:, 0],
        uniforms(seeds, ticks, NoiseSource.of(9))[:, 8],
        uniforms(large, ticks, NoiseSource.of(1))[:, 0],
        uniforms(one, torch.arange(3000), NoiseSource.of(1))[:, 0],
        uniforms(keys(5), keys(7), NoiseSource.of(3000))[0],
        uniforms(keys(-5), keys(-1), NoiseSource.of(3000))[0],
    ):
        assert numbers.dtype == torch.float32 and (numbers >= 0).all() and (numbers < 1).all()
        assert kstest(numbers.numpy(), "uniform").pvalue > 0.001


def test_uniform_numbers_are_those_of_the_published_hash() -> None:
    """MurmurHash3's finaliser, written down in whole numbers without bounds."""

    def mixed(x: int) -> int:
        for factor, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13)):
            x = (x ^ (x >> shift)) * factor % 2**32
        return x ^ (x >> 16)

    seeds, ticks = [0, 1, -1, 2**62 + 12345, -(2**63)], [0, 7, -1, 2**40 + 3, 5]
    found = uniforms(torch.tensor(seeds), torch.tensor(ticks), NoiseSource.of(4))
    for seed, tick, numbers in zip(seeds, ticks, found.tolist(), strict=True):
        key = mixed((seed ^ (seed >> 32)) % 2**32 ^ 0x9E3779B9)
        key = mixed((key + tick * 0x632BE5AB) % 2**32)
        places = [mixed(place + 0x7F4A7C15) for place in range(4)]
        assert numbers == [(mixed((key + place) % 2**32) >> 8) / 2**24 for place in places]


def test_uniform_numbers_of_other_seeds_ticks_and_places_are_unrelated() -> None:
    seeds, zeros = torch.arange(4000), torch.zeros(4000, dtype=torch.long)
    base = uniforms(seeds, zeros, NoiseSource.of(3))
    others = (
        base[:, 1],
        uniforms(seeds + 1, zeros, NoiseSource.of(1))[:, 0],
        uniforms(seeds, zeros + 1, NoiseSource.of(1))[:, 0],
    )
    for other in (
        *others,
        uniforms(seeds + (1 << 32), zeros, NoiseSource.of(1))[:, 0],
        uniforms(zeros, seeds, NoiseSource.of(1))[:, 0],
    ):
        assert abs(np.corrcoef(base[:, 0], other)[0, 1]) < 0.06  # four deviations of chance
        assert (base[:, 0] == other).float().mean() < 0.01


def test_uniform_numbers_depend_on_seed_and_tick_alone() -> None:
    seeds, ticks = keys(3, -8, 2**62, 3), keys(0, 5, 9, 1)
    batched = uniforms(seeds, ticks, NoiseSource.of(6))
    for row in range(4):
        assert torch.equal(uniforms(seeds[[row]], ticks[[row]], NoiseSource.of(6))[0], batched[row])
    assert torch.equal(uniforms(seeds, ticks, NoiseSource.of(4)), batched[:, :4])


def test_a_state_is_a_value_whatever_becomes_of_the_arrays_it_was_made_of(world: World) -> None:
    observed = world.observation(world.start(2, seed=0))
    begun = world.encode(observed, [1, 2])
    shown = {name: value.copy() for name, value in world.observation(begun).items()}
    for array in observed.values():
        array[:] = 0
    assert all(np.array_equal(value, shown[name]) for name, value in world.observation(begun).items())


def test_states_with_and_without_an_observation_are_not_merged(world: World) -> None:
    start, mask = world.start(2, seed=0), np.array([True, False])
    blind = world.step(start, acts(2, 0), "latent")[0]
    for new, state in ((world.take(mask, blind), start), (world.take(mask, start), blind)):
        with pytest.raises(ConfigError, match="step both alike"):
            world.merge(mask, new, state)


def test_many_worlds_are_stepped_in_pieces_and_live_as_in_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    start = world.start(7, seed=0)
    whole, step = world.step(start, acts(7, 1))
    monkeypatch.setattr("worldsim.simulator.world.PIECE", 3)
    pieces, parts = world.step(start, acts(7, 1))
    assert_close(pieces, whole, atol=1e-5, rtol=1e-4)
    for one, other in zip(step[1:], parts[1:], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert_close(step.observation, parts.observation)


def test_auto_takes_one_of_the_precisions(folder: Path) -> None:
    world = worldsim.load(folder / "ssm", precision="auto")
    assert world.precision in ("32-true", "bf16-mixed")
    assert (world._rounded is None) == (world.precision == "32-true")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_process_that_has_stepped_can_be_forked(folder: Path) -> None:
    """A hang would be a thread that the child waits for and only the parent has."""
    script = f"""
import numpy as np, torch, worldsim
from gymnasium.vector import AsyncVectorEnv
from worldsim.simulator import WorldEnv, WorldVectorEnv
torch.set_num_threads(2)
world = worldsim.load({str(folder / "ssm")!r})
many = WorldVectorEnv(world, 64)
many.reset(seed=0)
torch.ones(4096, 4096).sum().item(), torch.ones(512, 512) @ torch.ones(512, 512)  # with both threads
many.step(many.action_space.sample())
both = AsyncVectorEnv([lambda: WorldEnv(world)] * 2, context="fork")
both.reset(seed=0)
both.step(both.action_space.sample())
both.close()
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == 0
