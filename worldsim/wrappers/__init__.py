"""Faults on any Gymnasium environment, real or learned: `SlowAPI(env, severity=0.5, seed=1)`. Loads no torch."""

from worldsim.wrappers.flatten import FlattenDict
from worldsim.wrappers.inject import InjectFaults
from worldsim.wrappers.named import MalformedOutput, MissingData, SlowAPI
from worldsim.wrappers.vector import VectorInjectFaults
from worldsim.wrappers.vector_named import VectorMalformedOutput, VectorMissingData, VectorSlowAPI

__all__ = [
    "FlattenDict",
    "InjectFaults",
    "MalformedOutput",
    "MissingData",
    "SlowAPI",
    "VectorInjectFaults",
    "VectorMalformedOutput",
    "VectorMissingData",
    "VectorSlowAPI",
]
