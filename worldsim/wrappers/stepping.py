"""Stepping some environments of a vector, and what becomes of the others meanwhile."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array, iterate
from numpy.typing import NDArray

from worldsim.errors import ConfigError
from worldsim.faults import Pipeline
from worldsim.faults.arrays import Mask
from worldsim.faults.batch_rows import with_rows

StepResult = tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]


@runtime_checkable
class SupportsStepSome(Protocol):
    """A vector environment that can move some of its environments and leave the others where they are."""

    def step_some(self, actions: Any, mask: Mask) -> StepResult:
        """Like `step` for the environments where mask is true; the rows of the others mean nothing."""


class Stepper(Protocol):
    """Steps the environments where mask (N,) is true, of which those where `resetting` begin anew."""

    can_step_some: bool  # whether the others stay where they are

    def step(self, actions: Any, mask: Mask, resetting: Mask) -> StepResult: ...


class WholeVectorStepper:
    """Any vector environment: its environments move together, those that should stand still under `hold`."""

    can_step_some = False

    def __init__(self, envs: VectorEnv[Any, Any, Any], hold: Any) -> None:
        self._envs, self._hold = envs, hold

    def step(self, actions: Any, mask: Mask, resetting: Mask) -> StepResult:
        if not mask.all():
            held = dict.fromkeys(np.flatnonzero(~mask).tolist(), self._hold)
            actions = with_rows(self._envs.single_action_space, actions, held)
        return self._envs.step(actions)


class StepSomeStepper:
    """A vector environment that can leave some where they are: one that has `step_some`, such as a WorldVectorEnv."""

    can_step_some = True

    def __init__(self, envs: Any) -> None:
        self._envs = envs

    def step(self, actions: Any, mask: Mask, resetting: Mask) -> StepResult:
        stepped: StepResult = self._envs.step_some(actions, mask)
        return stepped


class SyncVectorStepper:
    """The environments of a SyncVectorEnv, each stepped by itself as SyncVectorEnv does, but only some of them."""

    can_step_some = True

    def __init__(self, envs: SyncVectorEnv) -> None:
        self._envs, self._count = envs, envs.num_envs

    def step(self, actions: Any, mask: Mask, resetting: Mask) -> StepResult:
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
        placeholder = observations[int(np.argmax(mask))]  # in the place of those that have nothing new to show
        observations = [placeholder if each is None else each for each in observations]
        out: Any = create_empty_array(envs.single_observation_space, n=count, fn=np.zeros)
        batch = concatenate(envs.single_observation_space, observations, out)
        return batch, rewards, terminated, truncated, infos


def stepper_for(envs: VectorEnv[Any, Any, Any], pipeline: Pipeline, hold: Any, moving: bool = False) -> Stepper:
    """How environments are stepped one apart from another, as far as faults and time need it. Raises ConfigError.

    moving: whether each world moves on by itself while its agent waits.
    """
    may_drop, may_repeat = pipeline.may_drop, pipeline.may_repeat
    # A dropped call must leave its environment where it is, and a repeated one must move it alone. Vectors that can do
    # neither are used only as far as `hold` stands in for dropped calls.
    if (may_drop or moving) and isinstance(envs, SupportsStepSome):
        return StepSomeStepper(envs)
    if (may_drop or moving) and isinstance(envs, SyncVectorEnv):
        return SyncVectorStepper(envs)
    if moving:
        raise ConfigError(
            f"time: each world moves on by itself, and {envs} moves all its environments together; use a SyncVectorEnv "
            "or WorldVectorEnv directly below the faults"
        )
    if may_repeat:
        raise ConfigError(
            f"{', '.join(may_repeat)}: a call may be executed again, and {envs} moves all its environments together; "
            "use a SyncVectorEnv or WorldVectorEnv directly below the faults"
        )
    if may_drop and hold is None:
        raise ConfigError(
            f"{', '.join(may_drop)}: a call may be lost, and {envs} moves all its environments together; use a "
            "SyncVectorEnv or WorldVectorEnv directly below the faults, or give hold=<action to carry out instead>"
        )
    if may_drop and hold not in envs.single_action_space:
        raise ConfigError(f"hold must be an action of {envs.single_action_space}, got {hold!r}")
    return WholeVectorStepper(envs, hold)
