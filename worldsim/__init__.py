"""worldsim: a wind tunnel for agents.

From recorded rollouts it learns a world, serves it as a Gymnasium environment, breaks it on purpose, and reports what
an agent does then and how far the learned world can be believed. Importing this package loads no torch.
"""

from typing import TYPE_CHECKING, Any

import gymnasium as gym

if TYPE_CHECKING:
    from worldsim.simulator.world import World, load

__version__ = "0.1.0"
__all__ = ["World", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """`World` and `load` are imported on first use, because they need torch."""
    if name in ("World", "load"):
        from worldsim.simulator import world

        return getattr(world, name)
    raise AttributeError(f"module 'worldsim' has no attribute {name!r}")


gym.register(id="worldsim/RefundDesk-v0", entry_point="worldsim.envs.refund_desk:RefundDeskEnv")
gym.register(
    id="worldsim/World-v0",
    entry_point="worldsim.simulator.env:WorldEnv",
    vector_entry_point="worldsim.simulator.vector_env:WorldVectorEnv",
)
