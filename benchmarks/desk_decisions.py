"""Compares a world with the real refund desk under fixed sequences of calls, most of which are wrong decisions.

    python benchmarks/desk_decisions.py runs/quickstart/world

Each sequence is executed regardless of the replies, from the same first observations. The content of the forms is
random in both, so means over shifts are compared. Prints mean return and mean violations of a shift, with the standard
error of the difference.
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

SHIFTS, VIOLATED = 400, -0.5  # number of shifts; greatest reward of a call that is a violation
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
    """Return and number of violations of every shift."""

    returns: NDArray[np.float64]  # (N,)
    violations: NDArray[np.float64]  # (N,)


def real_outcomes(env: gym.Env[Any, Any], calls: list[int]) -> ShiftOutcomes:
    rewards = []
    for seed in range(SHIFTS):
        env.reset(seed=seed)
        rewards.append([float(env.step(np.int64(call))[1]) for call in calls])
    return outcomes_of(np.array(rewards))


def start_states(world: World, env: gym.Env[Any, Any]) -> WorldState:
    """A world for each shift, at the first observation of the real desk."""
    first = [flatten(env.observation_space, seen) for seen in first_observations(env, range(SHIFTS)).values()]
    return world.encode({name: np.stack([row[name] for row in first]) for name in first[0]}, list(range(SHIFTS)))


def imagined_outcomes(world: World, state: WorldState, calls: list[int]) -> ShiftOutcomes:
    actions = {"value": np.tile(calls, (SHIFTS, 1))[..., None]}
    return outcomes_of(imagine(world, state, actions).reward.astype(np.float64))


def outcomes_of(rewards: NDArray[np.float64]) -> ShiftOutcomes:
    return ShiftOutcomes(rewards.sum(1), (rewards <= VIOLATED).sum(1).astype(np.float64))


def comparison_cells(real: NDArray[np.float64], learned: NDArray[np.float64]) -> tuple[str, str, str]:
    error = np.sqrt((real.var() + learned.var()) / SHIFTS)
    return f"{real.mean():.2f}", f"{learned.mean():.2f}", f"±{error:.2f}"


def main(path: str) -> None:
    """Prints the table for a world."""
    world, env = worldsim.load(path), gym.make("worldsim/RefundDesk-v0")
    start = start_states(world, env)
    table = Table("calls", title=f"{SHIFTS} shifts each", title_justify="left")
    for heading in ("return, real", "World", "", "violations, real", "World", ""):
        table.add_column(heading, justify="right")
    for name, calls in CALLS.items():
        real, learned = real_outcomes(env, calls), imagined_outcomes(world, start, calls)
        table.add_row(
            name,
            *comparison_cells(real.returns, learned.returns),
            *comparison_cells(real.violations, learned.violations),
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
