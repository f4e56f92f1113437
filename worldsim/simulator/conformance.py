"""Conformance checks of a World as a Gymnasium environment, to run on your own: `check_world(world)`.

    from worldsim.simulator.conformance import check_world

    def test_my_world() -> None:
        check_world(worldsim.load("runs/world"))

Each check raises AssertionError with what is wrong, or what the checkers of other libraries raise. Their warnings about
the spaces themselves are ignored, because a World has those of the real environment.
"""

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import SyncVectorEnv

from worldsim.simulator.env import WorldEnv
from worldsim.simulator.vector_env import WorldVectorEnv
from worldsim.simulator.world import World
from worldsim.spaces import flatten_batch, is_nested, leaves
from worldsim.wrappers import FlattenDict

STEPS, ENVS = 6, 3
SEEDS, LONG = (5, 6, 7), 64
SPACE_WARNINGS = (  # of the checkers, ignored
    r"(?s).*A Box (observation|action) space m",
    r"(?s).*symmetric and normalized",
    r"(?s).*with a non-zero start",
    r"(?s).*has an unconventional shape",
)
STABLE_BASELINES_ACTIONS = (
    spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
)  # actions that Stable-Baselines3 knows
DEVIATING = 0.05  # share of the observed numbers: rounding may change what is drawn for a patch


def check_gymnasium(world: World) -> None:
    """Gymnasium's `check_env` passes without a warning."""
    with _strict():
        check_env(_make_env(world))


def check_stable_baselines(world: World) -> None:
    """Stable-Baselines3's `check_env` passes without a warning; nested observations go through `FlattenDict`."""
    from stable_baselines3.common.env_checker import check_env as check

    env = _make_env(world)
    with _strict():
        check(FlattenDict(env) if is_nested(env.observation_space) else env, warn=True, skip_render_check=False)


def check_seeds(world: World) -> None:
    """The same seed and actions give the same episode, whatever the global generators are; different seeds do not.

    Episodes are long, because a world may be certain for a while.
    """
    futures = []
    for number, seed in enumerate((4, 4, *SEEDS)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            np.random.seed(number)
            futures.append(_trajectory(WorldEnv(world, horizon=LONG), seed, LONG))
    assert _same(futures[0], futures[1]), "the same seed and actions gave two futures"
    assert not all(_same(futures[0], other) for other in futures[2:]), f"seeds 4 and {SEEDS} all gave one future"


def check_snapshots(world: World) -> None:
    """A restored snapshot, also a pickled one in another environment, continues bit for bit, single and vectorised."""
    for make in (lambda: WorldEnv(world, horizon=STEPS), lambda: WorldVectorEnv(world, ENVS, horizon=STEPS)):
        env, other = make(), make()
        _trajectory(env, 7, STEPS // 2)
        kept = pickle.dumps(env.snapshot())
        future = _trajectory(env)
        restored = other.restore(pickle.loads(kept))
        assert other.observation_space.contains(restored), "what restore gives is not in the observation space"
        assert _same(_trajectory(other), future), f"{type(env).__name__}: what was restored had another future"
        env.restore(pickle.loads(kept))
        assert _same(_trajectory(env), future), f"{type(env).__name__}: going back gave another future"


def check_vector(world: World) -> None:
    """`WorldVectorEnv` behaves as Gymnasium's `SyncVectorEnv` of single worlds does, autoreset included.

    With episodes of two steps: rounding may change a draw, and then a world differs until its next reset.
    """
    ours = WorldVectorEnv(world, ENVS, horizon=2)
    alone = SyncVectorEnv([lambda: WorldEnv(world, horizon=2)] * ENVS)
    for name in ("observation_space", "action_space", "single_observation_space", "single_action_space", "metadata"):
        assert getattr(ours, name) == getattr(alone, name), f"{name} is not that of SyncVectorEnv"
    assert _same(ours.reset(seed=3), alone.reset(seed=3)), "reset gives something else than SyncVectorEnv"
    over = np.zeros(ENVS, np.bool_)
    for actions in _actions(ours.action_space, STEPS):
        mine, theirs = ours.step(actions), alone.step(actions)
        assert ours.observation_space.contains(mine[0]), "an observation is not in its space"
        assert _same(mine[2:4], theirs[2:4]), "episodes end at other steps than alone"
        assert np.allclose(mine[1], theirs[1], atol=1e-3, rtol=1e-3), "rewards are others than alone"
        for mask, allowed in ((over, 0.0), (~over, DEVIATING)):
            share = _deviating(world, mine[0], theirs[0], mask)
            assert share <= allowed, f"{share:.1%} of what a batch shows is other than alone"
        over = mine[2] | mine[3]
    assert mine[4]["_trust"].all() and ((mine[4]["trust"] >= 0) & (mine[4]["trust"] <= 1)).all(), (
        "trust is no probability"
    )


CHECKS: dict[str, Callable[[World], None]] = {
    "gymnasium": check_gymnasium,
    "stable_baselines3": check_stable_baselines,
    "seeds": check_seeds,
    "snapshots": check_snapshots,
    "vector": check_vector,
}


def checks_of(world: World) -> dict[str, Callable[[World], None]]:
    """The checks that apply: Stable-Baselines3's if it is installed and supports these spaces."""
    acted, observed = world.action_space, leaves(world.observation_space)
    known = find_spec("stable_baselines3") is not None and isinstance(acted, STABLE_BASELINES_ACTIONS)
    known = known and not any(isinstance(leaf.space, spaces.Text) for leaf in observed)
    known = known and (not isinstance(acted, spaces.Box) or acted.is_bounded())
    return {name: check for name, check in CHECKS.items() if known or name != "stable_baselines3"}


def check_world(world: World) -> None:
    """All checks that apply."""
    for check in checks_of(world).values():
        check(world)


def _make_env(world: World) -> gym.Env[Any, Any]:
    return gym.make("worldsim/World-v0", world=world, render_mode="rgb_array").unwrapped


@contextmanager
def _strict() -> Iterator[None]:
    """Turns warnings into errors, except those about spaces."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for message in SPACE_WARNINGS:
            warnings.filterwarnings("ignore", message)
        yield


def _actions(space: spaces.Space[Any], count: int) -> list[Any]:
    """The same random members at every call; the space's own generator is not used."""
    own = copy.deepcopy(space)
    own.seed(0)
    return [own.sample() for _ in range(count)]


def _trajectory(env: Any, seed: int | None = None, steps: int = STEPS) -> list[Any]:
    """What reset (if a seed is given) and the following steps return; a single environment is reset where it ends."""
    trace = [] if seed is None else [env.reset(seed=seed)]
    vector = isinstance(env, gym.vector.VectorEnv)
    for action in _actions(env.action_space, steps):
        trace.append(env.step(action))
        if not vector and (trace[-1][2] or trace[-1][3]):
            trace.append(env.reset())
    return trace


def _same(a: Any, b: Any) -> bool:
    return bool(data_equivalence(a, b, exact=True))


def _deviating(world: World, mine: Any, theirs: Any, mask: Any) -> float:
    """The share of numbers that differ in the rows of `mask` (N,), of the leaf in which it is greatest."""
    if not mask.any():
        return 0.0
    flat = [flatten_batch(world.observation_space, each) for each in (mine, theirs)]
    shares = []
    for leaf in leaves(world.observation_space):
        one, other = (each[leaf.name][mask].astype(np.float64) for each in flat)
        slack = 1 if leaf.kind == "image" else 0 if leaf.is_discrete else 1e-3 * (1 + abs(other))
        shares.append(float((abs(one - other) > slack).mean()))
    return max(shares)
