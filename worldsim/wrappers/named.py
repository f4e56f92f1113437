"""One fault in one line: `SlowAPI(env, severity=0.5, seed=1)`."""

from typing import Any, ClassVar, Literal

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs

from worldsim import faults
from worldsim.faults import Clock
from worldsim.wrappers.inject import InjectFaults


class _OneFault(InjectFaults):
    """One fault on an environment."""

    kind: ClassVar[str]

    def __init__(
        self,
        env: gym.Env[Any, Any],
        severity: float = 0.5,
        seed: int = 1,
        *,
        clock: Clock | None = None,
        blind: bool = False,
        time: Literal["virtual", "wall"] | None = None,
        step_s: float | None = None,
        hold: Any = None,
        **parameters: Any,
    ) -> None:
        fault = faults.fault_to_json(faults.fault_from_json({**parameters, "kind": self.kind, "severity": severity}))
        given = {"clock": clock} if clock else {}
        own = {key: value for key, value in fault.items() if key != "kind"}
        moving: dict[str, Any] = {"time": time, "step_s": step_s, "hold": hold}
        RecordConstructorArgs.__init__(self, **{**own, "seed": seed, "blind": blind, **moving, **given})
        super().__init__(env, [fault], seed, clock, blind=blind, **moving)


class SlowAPI(_OneFault):
    __doc__ = f"""A slow API between the agent and the environment. See `InjectFaults` for what a step means then.

    Keyword arguments: those of `InjectFaults` except `faults`, and the parameters of `worldsim.faults.SlowAPI`.

    {faults.SlowAPI.__doc__}"""
    kind = faults.SlowAPI.kind


class MalformedOutput(_OneFault):
    __doc__ = f"""Malformed output between the environment and the agent. See `InjectFaults` for what a step means then.

    Keyword arguments: those of `InjectFaults` except `faults`, and the parameters of `worldsim.faults.MalformedOutput`.

    {faults.MalformedOutput.__doc__}"""
    kind = faults.MalformedOutput.kind


class MissingData(_OneFault):
    __doc__ = f"""Missing data between the environment and the agent. See `InjectFaults` for what a step means then.

    Keyword arguments: those of `InjectFaults` except `faults`, and the parameters of `worldsim.faults.MissingData`.

    {faults.MissingData.__doc__}"""
    kind = faults.MissingData.kind
