"""The learned world: load it, step it as pure functions of a state, or use it as a Gymnasium environment."""

from worldsim.simulator.env import Snapshot, WorldEnv
from worldsim.simulator.vector_env import VectorSnapshot, WorldVectorEnv
from worldsim.simulator.world import Step, World, WorldState, load

__all__ = ["Snapshot", "Step", "VectorSnapshot", "World", "WorldEnv", "WorldState", "WorldVectorEnv", "load"]
