"""Faults on any Gymnasium environment, real or learned: `SlowAPI(env, severity=0.5, seed=1)`. Loads no torch.

Every kind of fault has a wrapper of its class's name, and one for vectors with `Vector` before it; `InjectFaults` and
`VectorInjectFaults` take several faults, or a plan.
"""

from typing import Any

from worldsim.faults.stacking import Ragged
from worldsim.wrappers import named
from worldsim.wrappers.flatten import FlattenDict
from worldsim.wrappers.inject import InjectFaults
from worldsim.wrappers.vector import VectorInjectFaults

__all__ = ["FlattenDict", "InjectFaults", "Ragged", "VectorInjectFaults"]
__all__ += named.__all__


def __getattr__(name: str) -> Any:
    return getattr(named, name)


def __dir__() -> list[str]:
    return __all__
