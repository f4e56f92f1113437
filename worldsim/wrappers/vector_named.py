"""One fault on a vector of environments in one line: `VectorSlowAPI(envs, severity=0.5, seed=1)`."""

from typing import Any, ClassVar

from gymnasium.vector import VectorEnv

from worldsim import faults
from worldsim.wrappers.vector import VectorInjectFaults


class _OneFault(VectorInjectFaults):
    """One fault on a vector of environments."""

    kind: ClassVar[str]

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        severity: float = 0.5,
        seed: int = 1,
        *,
        blind: bool = False,
        hold: Any = None,
        **parameters: Any,
    ) -> None:
        fault = {**parameters, "kind": self.kind, "severity": severity}
        super().__init__(env, [fault], seed, blind=blind, hold=hold)


class VectorSlowAPI(_OneFault):
    """`worldsim.wrappers.SlowAPI` on each environment of a vector, all in one go. See `VectorInjectFaults`."""

    kind = faults.SlowAPI.kind


class VectorMalformedOutput(_OneFault):
    """`worldsim.wrappers.MalformedOutput` on each environment of a vector, all in one go. See `VectorInjectFaults`."""

    kind = faults.MalformedOutput.kind


class VectorMissingData(_OneFault):
    """`worldsim.wrappers.MissingData` on each environment of a vector, all in one go. See `VectorInjectFaults`."""

    kind = faults.MissingData.kind
