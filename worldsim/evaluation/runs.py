"""Runs one episode of an agent in an environment, real or learned, and sums up its result."""

import traceback
from collections import Counter
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from worldsim.agents import Agent
from worldsim.faults import FaultRecord
from worldsim.simulator.drawing import draw
from worldsim.spaces import flatten, leaves

SHOWN_TO_AGENTS = ("reply", "action_mask")  # the keys of info that an agent is given
DEFAULT_MAX_STEPS = 10_000  # of an episode without a limit, which would never end if a fault refuses every call


class SuccessCriteria(NamedTuple):
    """What counts as success and as a violation, by rewards alone, so that real environment and World compare."""

    success_return: float | None  # an episode succeeds when its return is at least this; None: not judged
    violation_reward: float | None  # an executed call with at most this reward is a violation; None: not judged


@dataclass(frozen=True)
class EpisodeResult:
    """The result of one episode. It can be run again from its `seed` and its cell."""

    seed: int
    episode_return: float  # sum of rewards, undiscounted
    steps: int
    success: bool | None
    violations: int | None  # executed calls with a reward at or below the violation reward
    violations_counted: int | None  # as counted by the environment itself, if it does
    faults: dict[str, int]  # at how many calls each kind of fault fired
    latency_s: float  # sum of the latencies of all replies, in virtual seconds
    terminated: bool
    truncated: bool
    crash: str | None  # the exception that the agent raised, which ended the episode without success
    trust_mean: float | None  # of the World's steps; None in the real environment
    trust_min: float | None


class Episode(NamedTuple):
    """The result of an episode, with trace and frames if asked for."""

    result: EpisodeResult
    trace: list[dict[str, Any]]  # one plain-JSON row a step; empty unless recorded
    frames: list[NDArray[np.uint8]]  # what the agent received, drawn, (H, W, 3), one more than steps; empty unless kept


@dataclass
class _Tally:
    """Sums over the steps of one episode."""

    rewards: list[float] = field(default_factory=list)
    executed: list[float] = field(default_factory=list)  # the reward of each executed call
    trusts: list[float] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    latency_s: float = 0.0
    counted: int | None = None

    def add(self, info: Mapping[str, Any], reward: float | None = None) -> None:
        """Adds the results of a reset (no reward) or a step."""
        if reward is not None:
            self.rewards.append(reward)
            self.executed += map(float, info.get("executions", (reward,)))
            self.trusts += [float(info["trust"])] if _is_number(info.get("trust")) and not request_lost(info) else []
        self.faults.update(fault_kinds(info))
        self.latency_s += float(info.get("reply", {}).get("latency_s", 0.0))
        if _is_number(info.get("violations")):
            self.counted = int(info["violations"])


def _is_number(value: Any) -> bool:
    """Whether an info's value is a number: other environments may use the key for something else."""
    return isinstance(value, int | float | np.number)


def agent_seed(seed: int) -> int:
    """The agent's seed in an episode: derived from the episode's, but with another random stream."""
    return int(np.random.SeedSequence([seed, 1]).generate_state(1)[0]) & 0x7FFFFFFF


def fault_kinds(info: Mapping[str, Any]) -> list[str]:
    """Kinds of the fault records of one step: "delay", "timeout, answer lost", ...

    Each kind once, whatever number of fields it changed.
    """
    return list(dict.fromkeys(_kind(record) for record in info.get("faults", ())))


def request_lost(info: Mapping[str, Any]) -> bool:
    """Whether the call never reached the environment: its reward is 0, and the rest of info is from an earlier call."""
    return bool(info.get("faults")) and not info.get("executions", True)


def _kind(record: FaultRecord) -> str:
    """A record's kind, and what was lost where it says so."""
    lost = record.details.get("lost")
    return f"{record.kind}, {lost} lost" if lost else record.kind


def run_episode(
    agent: Agent,
    env: gym.Env[Any, Any],
    seed: int,
    criteria: SuccessCriteria,
    max_steps: int = DEFAULT_MAX_STEPS,
    start: Any = None,
    trace: bool = False,
    frames: bool = False,
) -> Episode:
    """Runs `agent` in `env` from `reset(seed=seed)` to the end of the episode, or for `max_steps` steps.

    A step is a call of the agent, executed or refused. A refused call does not step the environment, so its own limit
    would never be reached if all calls are refused.

    start: an observation that the World starts from; None: as reset gives. Of `info` the agent gets only `reply`, which
    describes its last call, and `action_mask`: everything else is ground truth that it must not know. An exception of
    the agent ends the episode and is reported in `crash`; an exception of the environment is raised.
    """
    options = None if start is None else {"observation": start}
    observation, info = env.reset(seed=seed, options=options)
    agent.reset(agent_seed(seed))
    tally, rows, pictures, crash = _Tally(), list[dict[str, Any]](), list[NDArray[np.uint8]](), None
    tally.add(info)
    terminated = truncated = False
    if frames:
        pictures.append(_picture(env, observation))
    while not (terminated or truncated):
        try:
            action = agent.act(observation, {key: info[key] for key in SHOWN_TO_AGENTS if key in info})
            _check_action(env.action_space, action)
        except Exception as error:  # a crash under faults is a finding, not the end of the run
            crash = _crash(error)
            break
        observation, reward, terminated, truncated, info = env.step(action)
        tally.add(info, float(reward))
        # By calls, not by steps of the environment, which refused calls do not reach.
        truncated = bool(truncated) or (len(tally.rewards) >= max_steps and not terminated)
        if trace or frames:
            rows.append(_row(env, len(rows), action, float(reward), bool(terminated), truncated, info))
        if frames:
            picture = _picture(env, observation)  # equal successive frames share memory
            pictures.append(pictures[-1] if np.array_equal(picture, pictures[-1]) else picture)
    return Episode(_result(seed, tally, criteria, bool(terminated), truncated, crash), rows, pictures)


def _check_action(space: gym.Space[Any], action: Any) -> None:
    """Raises ValueError for an action outside the space, as the agent's error, whatever the environment would do."""
    if not _is_action(space, action):
        raise ValueError(f"the action {action!r} is not in {space}")


def _is_action(space: gym.Space[Any], action: Any) -> bool:
    """Whether an action has the parts, shape and kind of numbers of its space, and none of them is NaN or infinite.

    Bounds and precision of a Box are not checked: environments may clip.
    """
    if isinstance(space, gym.spaces.Dict):
        parts = isinstance(action, Mapping) and action.keys() == space.spaces.keys()
        return parts and all(_is_action(inner, action[key]) for key, inner in space.spaces.items())
    if isinstance(space, gym.spaces.Tuple):
        parts = isinstance(action, list | tuple) and len(action) == len(space.spaces)
        return parts and all(map(_is_action, space.spaces, action))
    if not isinstance(space, gym.spaces.Box):
        return bool(space.contains(action))
    numbers = np.asarray(action)
    kinds = "buif" if np.issubdtype(space.dtype, np.floating) else "bui"
    return numbers.shape == space.shape and numbers.dtype.kind in kinds and bool(np.isfinite(numbers).all())


def first_observations(env: gym.Env[Any, Any], seeds: Iterable[int]) -> dict[int, Any]:
    """The first observation of the real environment for each seed, for the World to start from.

    Copied, because an environment may reuse its arrays.
    """
    return {seed: deepcopy(env.reset(seed=seed)[0]) for seed in seeds}


def plain(space: gym.Space[Any], value: Any) -> Any:
    """A value of a space as plain JSON: leaf name -> numbers, or just the numbers where there is but one leaf."""
    arrays = flatten(space, value)
    lists = {name: array.item() if array.size == 1 else array.tolist() for name, array in arrays.items()}
    return next(iter(lists.values())) if len(lists) == 1 else lists


def _row(
    env: gym.Env[Any, Any],
    step: int,
    action: Any,
    reward: float,
    terminated: bool,
    truncated: bool,
    info: Mapping[str, Any],
) -> dict[str, Any]:
    row = {"step": step, "action": plain(env.action_space, action), "reward": reward}
    row |= {"terminated": terminated, "truncated": truncated}
    # Copied: the environment may reuse the dict for the next reply.
    row |= {key: deepcopy(info[key]) for key in ("trust", "reply", "violations") if key in info}
    return row | {"faults": [record.to_json() for record in info.get("faults", ())], "fired": fault_kinds(info)}


def _picture(env: gym.Env[Any, Any], observation: Any) -> NDArray[np.uint8]:
    space = env.observation_space
    picture: NDArray[np.uint8] = draw(leaves(space), flatten(space, observation), height=1)  # in the original size
    return picture


def _crash(error: Exception) -> str:
    """The exception as text, with file and line unless it was raised here, for an invalid action."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = "" if place.filename == __file__ else f" at {Path(place.filename).name}:{place.lineno}"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200] + where


def _result(
    seed: int, tally: _Tally, criteria: SuccessCriteria, terminated: bool, truncated: bool, crash: str | None
) -> EpisodeResult:
    total = float(np.sum(tally.rewards, dtype=np.float64))
    # A crashed episode is no success, even if its return was sufficient by then.
    reached = None if criteria.success_return is None else total >= criteria.success_return and crash is None
    limit = criteria.violation_reward
    violations = None if limit is None else sum(reward <= limit for reward in tally.executed)
    trusts = tally.trusts
    return EpisodeResult(
        seed=seed,
        episode_return=total,
        steps=len(tally.rewards),
        success=reached,
        violations=violations,
        violations_counted=tally.counted,
        faults=dict(sorted(tally.faults.items())),
        latency_s=tally.latency_s,
        terminated=terminated,
        truncated=truncated,
        crash=crash,
        trust_mean=float(np.mean(trusts)) if trusts else None,
        trust_min=min(trusts) if trusts else None,
    )
