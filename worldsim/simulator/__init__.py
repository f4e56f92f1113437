"""The learned world: load it, step it as a value, or use it as a Gymnasium environment."""

from worldsim.simulator.env import Snapshot, WorldEnv
from worldsim.simulator.vector_env import VectorSnapshot, WorldVectorEnv

__all__ = ["Snapshot", "VectorSnapshot", "WorldEnv", "WorldVectorEnv"]
