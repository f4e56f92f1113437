"""A wrapper for every kind of fault, by its class's name: `StickyAction(env, severity=0.5, seed=1)`.

`Vector` before the name is the same on a vector of environments: `VectorStickyAction(envs, severity=0.5, seed=1)`.
"""

from functools import cache
from inspect import Parameter, Signature, cleandoc, signature
from typing import Any, ClassVar, Literal

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv

from worldsim import faults
from worldsim.faults import Clock, Fault
from worldsim.faults.parameters import suggest
from worldsim.wrappers.inject import InjectFaults
from worldsim.wrappers.vector import VectorInjectFaults

VECTOR = "Vector"
FAULTS = {kind.__name__: kind for family in faults.FAMILIES.values() for kind in family}
__all__ = [*FAULTS, *(VECTOR + name for name in FAULTS)]


class SingleFault(InjectFaults):
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


class VectorSingleFault(VectorInjectFaults):
    """One fault on a vector of environments."""

    kind: ClassVar[str]

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        severity: float = 0.5,
        seed: int = 1,
        *,
        blind: bool = False,
        time: Literal["virtual", "wall"] | None = None,
        step_s: float | None = None,
        hold: Any = None,
        **parameters: Any,
    ) -> None:
        fault = {**parameters, "kind": self.kind, "severity": severity}
        super().__init__(env, [fault], seed, blind=blind, time=time, step_s=step_s, hold=hold)


@cache
def wrapper(name: str) -> type[SingleFault] | type[VectorSingleFault]:
    """The wrapper of this name. Raises AttributeError, with the nearest name, where there is no such fault."""
    fault = FAULTS.get(name.removeprefix(VECTOR))
    if fault is None:
        raise AttributeError(f"worldsim.wrappers has no '{name}'. {suggest(name, __all__, 'See docs/faults.md')}")
    base = VectorSingleFault if name.startswith(VECTOR) else SingleFault
    said = {"__doc__": _doc(base, fault), "__module__": __name__, "__signature__": _signature(base, fault)}
    return type(name, (base,), {"kind": fault.kind, **said})


def _doc(base: type[Any], fault: type[Fault]) -> str:
    door, own = base.__bases__[0].__name__, f"worldsim.faults.{fault.__name__}"
    return (
        f"{cleandoc(fault.__doc__ or '')}\n\n"
        f"Keyword arguments: those of `{door}` except `faults`, and the parameters of `{own}`.\n"
        f"What a step means then, and what the agent is told, is said at `{door}`."
    )


def _signature(base: type[Any], fault: type[Fault]) -> Signature:
    """What the wrapper takes: its own arguments, and those parameters of the fault that are none of these."""
    own = [each for each in signature(base).parameters.values() if each.kind is not Parameter.VAR_KEYWORD]
    more = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=field.default, annotation=field.annotation)
        for name, field in fault.model_fields.items()
        if name not in signature(base).parameters
    ]
    return Signature([*own, *more])


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    return wrapper(name)
