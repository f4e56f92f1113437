"""What faults cost a step: a wrapper with three faults that do nothing, over Gymnasium's own pass-through wrapper.

python benchmarks/faults.py        # about 10 seconds; median of 15 rounds of 5,000 steps, interleaved
"""

import platform
import statistics
import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from worldsim.faults import After, Fault, MalformedOutput, MissingData, SlowAPI
from worldsim.wrappers import InjectFaults

ROUNDS, STEPS = 15, 5000
KINDS: tuple[type[Fault], ...] = (SlowAPI, MalformedOutput, MissingData)


class Trivial(gym.Env[Any, Any]):
    """An environment that costs next to nothing."""

    observation_space: gym.Space[Any] = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
    action_space: gym.Space[Any] = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation = np.zeros(4, np.float32)
        return self.observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation, 0.0, False, False, {}


def microseconds(env: gym.Env[Any, Any]) -> float:
    """Microseconds a step over one round."""
    env.reset(seed=0)
    step = env.step
    start = time.perf_counter()
    for _ in range(STEPS):
        step(0)
    return (time.perf_counter() - start) / STEPS * 1e6


def faults(**settings: Any) -> Sequence[Fault]:
    return [kind(**settings) for kind in KINDS]


def simulated_hour_ms() -> float:
    """Milliseconds that an hour of slow API at severity 0.5 costs under the virtual clock."""
    env = InjectFaults(Trivial(), [SlowAPI(severity=0.5)])
    env.reset(seed=0)
    start = time.perf_counter()
    while env.clock.now() < 3600:
        env.step(0)
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    envs = {
        "gymnasium.Wrapper": gym.Wrapper(Trivial()),
        "three faults of severity 0": InjectFaults(Trivial(), faults(severity=0.0)),
        "three faults scheduled later": InjectFaults(Trivial(), faults(schedule=After(10**9))),
        "three faults of low probability": InjectFaults(Trivial(), faults(probability=1e-12)),
        "three faults at severity 0.5": InjectFaults(Trivial(), faults(severity=0.5)),
    }
    rounds = [{name: microseconds(env) for name, env in envs.items()} for _ in range(ROUNDS)]
    medians = {name: statistics.median(each[name] for each in rounds) for name in envs}
    base = medians["gymnasium.Wrapper"]
    print(
        f"Python {platform.python_version()}, gymnasium {gym.__version__}, numpy {np.__version__}, {platform.machine()}"
    )
    print(f"{'':34}{'us/step':>10}{'over the wrapper':>18}{'ratio':>8}")
    for name, median in medians.items():
        print(f"{name:34}{median:10.2f}{median - base:18.2f}{median / base:8.1f}")
    hours = [simulated_hour_ms() for _ in range(5)]
    print(f"one simulated hour of slow API: {statistics.median(hours):.0f} ms")


if __name__ == "__main__":
    main()
