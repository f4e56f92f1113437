"""The learned world: load it, step it as pure functions of a state, or use it as a Gymnasium environment."""

from typing import TYPE_CHECKING, Any

from worldsim.simulator.env import Snapshot, WorldEnv
from worldsim.simulator.vector_env import VectorSnapshot, WorldVectorEnv

if TYPE_CHECKING:
    from worldsim.simulator.world import Step, World, WorldState, load

__all__ = ["Snapshot", "Step", "VectorSnapshot", "World", "WorldEnv", "WorldState", "WorldVectorEnv", "load"]


def __getattr__(name: str) -> Any:
    """What needs torch is imported on first use: agents are tested in the real environment alone, too."""
    if name in ("Step", "World", "WorldState", "load"):
        from worldsim.simulator import world

        return getattr(world, name)
    raise AttributeError(f"module 'worldsim.simulator' has no attribute {name!r}")
