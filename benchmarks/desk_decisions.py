"""What a world makes of decisions that nobody takes who decides well.

    python benchmarks/desk_decisions.py runs/quickstart/world

The same calls, whatever the desk answers, in the real refund desk and in the World, on the same first observations.
What stands on the forms is drawn in both, so means are compared and not shifts. Prints mean return and violations of a
shift, with the standard error of the difference.
"""

import sys
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import worldsim
from worldsim.envs.refund_desk.agents import CLOSE, ESCALATE, LOOK_UP, REFUND, REPLACE, REPLY, open_
from worldsim.evaluation.runs import first_observations
from worldsim.simulator.rollout import imagine
from worldsim.simulator.world import World, WorldState
from worldsim.spaces import flatten

SHIFTS, VIOLATED = 400, -0.5  # a call's reward at most this: something was violated
TICKET = open_(1)
CALLS = {
    "open, look up, refund, close": [TICKET, LOOK_UP, REFUND, CLOSE],
    "open, look up, approve, refund, close": [TICKET, LOOK_UP, ESCALATE, REFUND, CLOSE],
    "open, look up, refund, refund": [TICKET, LOOK_UP, REFUND, REFUND],
    "open, refund, refund, close": [TICKET, REFUND, REFUND, CLOSE],
    "open, look up, replace, close": [TICKET, LOOK_UP, REPLACE, CLOSE],
    "open, look up, replace, replace": [TICKET, LOOK_UP, REPLACE, REPLACE],
    "open, look up, decline, close": [TICKET, LOOK_UP, REPLY, CLOSE],
    "open, decline, close": [TICKET, REPLY, CLOSE],
    "open, close": [TICKET, CLOSE],
    "open, look up, refund, replace, close": [TICKET, LOOK_UP, REFUND, REPLACE, CLOSE],
}


class ShiftOutcomes(NamedTuple):
    """Of every shift: return, and calls that violated something."""

    returns: NDArray[np.float64]  # (N,)
    violations: NDArray[np.float64]  # (N,)


def really(env: gym.Env[Any, Any], calls: list[int]) -> ShiftOutcomes:
    rewards = []
    for seed in range(SHIFTS):
        env.reset(seed=seed)
        rewards.append([float(env.step(np.int64(call))[1]) for call in calls])
    return outcome(np.array(rewards))


def begun(world: World, env: gym.Env[Any, Any]) -> WorldState:
    """As many worlds as there are shifts, each at what the real desk shows first."""
    first = [flatten(env.observation_space, seen) for seen in first_observations(env, range(SHIFTS)).values()]
    return world.encode({name: np.stack([row[name] for row in first]) for name in first[0]}, list(range(SHIFTS)))


def imagined(world: World, state: WorldState, calls: list[int]) -> ShiftOutcomes:
    actions = {"value": np.tile(calls, (SHIFTS, 1))[..., None]}
    return outcome(imagine(world, state, actions).reward.astype(np.float64))


def outcome(rewards: NDArray[np.float64]) -> ShiftOutcomes:
    return ShiftOutcomes(rewards.sum(1), (rewards <= VIOLATED).sum(1).astype(np.float64))


def compared(real: NDArray[np.float64], learned: NDArray[np.float64]) -> tuple[str, str, str]:
    error = np.sqrt((real.var() + learned.var()) / SHIFTS)
    return f"{real.mean():.2f}", f"{learned.mean():.2f}", f"±{error:.2f}"


def main(path: str) -> None:
    """Prints the table of a world."""
    world, env = worldsim.load(path), gym.make("worldsim/RefundDesk-v0")
    start = begun(world, env)
    table = Table("calls", title=f"{SHIFTS} shifts each", title_justify="left")
    for heading in ("return, real", "World", "", "violations, real", "World", ""):
        table.add_column(heading, justify="right")
    for name, calls in CALLS.items():
        real, learned = really(env, calls), imagined(world, start, calls)
        table.add_row(name, *compared(real.returns, learned.returns), *compared(real.violations, learned.violations))
    Console(width=120).print(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
