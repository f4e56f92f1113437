"""Batches row by row: read and write some environments of a batch, and step some environments of a vector."""

import copy
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array, iterate
from numpy.typing import NDArray

Mask = NDArray[np.bool_]  # (N,)
Stepped = tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]


def row_of(space: gym.Space[Any], batch: Any, row: int) -> Any:
    """The value of one environment in a batch of values of `space`. Arrays share memory with the batch."""
    if isinstance(space, spaces.Dict):
        return {key: row_of(inner, batch[key], row) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(row_of(inner, part, row) for inner, part in zip(space.spaces, batch, strict=True))
    value = batch[row]
    return np.asarray(value) if isinstance(space, spaces.Box) else value


def with_rows(space: gym.Space[Any], batch: Any, rows: Mapping[int, Any]) -> Any:
    """A batch with the values of some environments replaced; the batch itself is not written to."""
    if not rows:
        return batch
    if isinstance(space, spaces.Dict):
        parts = {key: with_rows(inner, batch[key], _inner(rows, key)) for key, inner in space.spaces.items()}
        changed = copy.copy(batch)
        changed.update(parts)
        return changed
    if isinstance(space, spaces.Tuple):
        numbered = enumerate(zip(space.spaces, batch, strict=True))
        return tuple(with_rows(inner, part, _inner(rows, key)) for key, (inner, part) in numbered)
    if isinstance(batch, tuple):
        return tuple(rows.get(row, value) for row, value in enumerate(batch))
    changed = batch.copy()
    changed[list(rows)] = list(rows.values())
    return changed


def _inner(rows: Mapping[int, Any], key: Any) -> dict[int, Any]:
    return {row: value[key] for row, value in rows.items()}


def chosen(space: gym.Space[Any], mask: Mask, one: Any, other: Any) -> Any:
    """A batch with the rows of `one` where mask, else those of `other`."""
    if isinstance(space, spaces.Dict):
        return {key: chosen(inner, mask, one[key], other[key]) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(chosen(inner, mask, *both) for inner, *both in zip(space.spaces, one, other, strict=True))
    if isinstance(one, tuple):
        return tuple(left if here else right for here, left, right in zip(mask.tolist(), one, other, strict=True))
    return np.where(mask.reshape(-1, *[1] * (one.ndim - 1)), one, other)


def merged(mask: Mask, one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Infos in Gymnasium's vector format: those of `one` where mask is true, else those of `other`."""
    result = {key: value for key, value in {**one, **other}.items() if f"_{key}" not in {**one, **other}}
    result = {key: value for key, value in result.items() if not key.startswith("_")}
    for key in [key for key in dict.fromkeys((*other, *one)) if f"_{key}" in other or f"_{key}" in one]:
        known = np.where(mask, one.get(f"_{key}", False), other.get(f"_{key}", False))
        if known.any():
            result[key], result[f"_{key}"] = _picked(mask, one.get(key), other.get(key)), known
    return result


def _picked(mask: Mask, one: Any, other: Any) -> Any:
    if isinstance(one, dict) or isinstance(other, dict):
        return merged(mask, one or {}, other or {})
    like = one if other is None else other
    blank = np.full_like(like, None if like.dtype == object else 0)
    here, there = blank if one is None else one, blank if other is None else other
    return np.where(mask.reshape(-1, *[1] * (like.ndim - 1)), here, there)


# --- stepping some environments ---


@runtime_checkable
class StepsSome(Protocol):
    """A vector environment that can move some of its environments and leave the others where they are."""

    def step_some(self, actions: Any, mask: Mask) -> Stepped:
        """Like `step` for the environments where mask is true; the rows of the others mean nothing."""


class Stepper(Protocol):
    """Steps the environments where mask (N,) is true, of which those where `resetting` begin anew."""

    others_stand: bool  # whether the others stay where they are

    def step(self, actions: Any, mask: Mask, resetting: Mask) -> Stepped: ...


class Together:
    """Any vector environment: its environments move together, those that should stand still under `hold`."""

    others_stand = False

    def __init__(self, envs: VectorEnv[Any, Any, Any], hold: Any) -> None:
        self._envs, self._hold = envs, hold

    def step(self, actions: Any, mask: Mask, resetting: Mask) -> Stepped:
        if not mask.all():
            held = dict.fromkeys(np.flatnonzero(~mask).tolist(), self._hold)
            actions = with_rows(self._envs.single_action_space, actions, held)
        return self._envs.step(actions)


class Separately:
    """A vector environment that can leave some where they are: one that has `step_some`, such as a WorldVectorEnv."""

    others_stand = True

    def __init__(self, envs: Any) -> None:
        self._envs = envs

    def step(self, actions: Any, mask: Mask, resetting: Mask) -> Stepped:
        stepped: Stepped = self._envs.step_some(actions, mask)
        return stepped


class OneByOne:
    """The environments of a SyncVectorEnv, each stepped by itself as SyncVectorEnv does, but only some of them."""

    others_stand = True

    def __init__(self, envs: SyncVectorEnv) -> None:
        self._envs, self._count = envs, envs.num_envs

    def step(self, actions: Any, mask: Mask, resetting: Mask) -> Stepped:
        envs, count = self._envs, self._count
        observations: list[Any] = [None] * count
        rewards, terminated, truncated = np.zeros(count), np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        infos: dict[str, Any] = {}
        each_action = list(iterate(envs.action_space, actions))
        for row in np.flatnonzero(mask).tolist():
            env = envs.envs[row]
            if resetting[row]:
                observations[row], info = env.reset()
            else:
                observations[row], rewards[row], terminated[row], truncated[row], info = env.step(each_action[row])
                if (terminated[row] or truncated[row]) and envs.autoreset_mode is AutoresetMode.SAME_STEP:
                    ended = {"final_obs": observations[row], "final_info": info}
                    infos = envs._add_info(infos, ended, row)
                    observations[row], info = env.reset()
            infos = envs._add_info(infos, info, row)
        stood = observations[int(np.argmax(mask))]  # in the place of those that have nothing new to show
        observations = [stood if each is None else each for each in observations]
        out: Any = create_empty_array(envs.single_observation_space, n=count, fn=np.zeros)
        batch = concatenate(envs.single_observation_space, observations, out)
        return batch, rewards, terminated, truncated, infos
