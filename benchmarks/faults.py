"""What faults cost a step: a wrapper with three faults that do nothing, over Gymnasium's own pass-through wrapper.

And the same for a vector of 256 environments, in microseconds an environment a step.

python benchmarks/faults.py          # about 3 minutes; median of 15 rounds of 5,000 steps (256: 100), interleaved
python benchmarks/faults.py kinds    # about 5 minutes; each kind by itself, on 256 desks or frames; some on one desk
"""

import contextlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from worldsim.faults import (
    FAMILIES,
    After,
    Brightness,
    Contrast,
    DeadPixels,
    Fault,
    Faults,
    FrozenFrames,
    GaussianNoise,
    LognormalLatency,
    MalformedOutput,
    MissingData,
    NullFields,
    Occlusion,
    RateLimited,
    SaltNoise,
    SlowAPI,
)
from worldsim.faults.tools import ToolError, tool
from worldsim.wrappers import InjectFaults, VectorInjectFaults

ROUNDS, STEPS = 15, 5000
ENVS, VECTOR_STEPS, EPISODE = 256, 100, 200  # EPISODE: steps of the vector's episodes
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


class ChangingDesk(Trivial):
    """One desk that shows something else at each step: one of four observations in turn."""

    def __init__(self) -> None:
        self.observation_space = DESK
        DESK.seed(0)
        self.shown = [DESK.sample() for _ in range(4)]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.shown = self.shown[1:] + self.shown[:1]
        return self.shown[0], 0.0, False, False, {}


class TrivialVector(VectorEnv[Any, Any, Any]):
    """Environments that cost next to nothing; their episodes end in turns."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, space: gym.Space[Any] = Trivial.observation_space) -> None:
        self.num_envs = ENVS
        self.single_observation_space, self.single_action_space = space, Trivial.action_space
        self.observation_space = batch_space(self.single_observation_space, ENVS)
        self.action_space = batch_space(self.single_action_space, ENVS)
        self.observation_space.seed(0)
        self.observation, self.reward = self.observation_space.sample(), np.zeros(ENVS)
        self.none, self.left = np.zeros(ENVS, np.bool_), np.arange(ENVS) % EPISODE

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self.observation, {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.left = np.where(self.left < 0, EPISODE, self.left - 1)
        return self.observation, self.reward, self.left < 0, self.none, {}

    def step_some(self, actions: Any, mask: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.left = np.where(mask, np.where(self.left < 0, EPISODE, self.left - 1), self.left)
        return self.observation, self.reward, (self.left < 0) & mask, self.none, {}


class Changing(TrivialVector):
    """Environments that show something else at each step: one of four batches in turn."""

    def __init__(self, space: gym.Space[Any]) -> None:
        super().__init__(space)
        self.shown = [self.observation_space.sample() for _ in range(4)]

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.shown = self.shown[1:] + self.shown[:1]
        self.observation = self.shown[0]
        return super().step(actions)

    def step_some(self, actions: Any, mask: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.shown = self.shown[1:] + self.shown[:1]
        self.observation = self.shown[0]
        return super().step_some(actions, mask)


def vector_microseconds(envs: VectorEnv[Any, Any, Any]) -> float:
    """Microseconds an environment a step over one round."""
    envs.reset(seed=0)
    actions = np.zeros(ENVS, np.int64)
    start = time.perf_counter()
    for _ in range(VECTOR_STEPS):
        envs.step(actions)
    return (time.perf_counter() - start) / VECTOR_STEPS / ENVS * 1e6


def microseconds(env: gym.Env[Any, Any]) -> float:
    """Microseconds a step over one round."""
    env.reset(seed=0)
    step = env.step
    start = time.perf_counter()
    for _ in range(STEPS):
        step(0)
    return (time.perf_counter() - start) / STEPS * 1e6


def call_microseconds(through: Faults | None) -> float:
    """Microseconds a call of a function over one round."""

    def find(order: int) -> dict[str, Any]:
        return {"order": order, "status": "shipped"}

    called = find if through is None else tool(Faults(through.plan))(find)
    start = time.perf_counter()
    for order in range(STEPS):
        with contextlib.suppress(ToolError):
            called(order=order)
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


PLANS: dict[str, dict[str, Any]] = {
    "three faults of severity 0": {"severity": 0.0},
    "three faults scheduled later": {"schedule": After(calls=10**9)},
    "three faults of low probability": {"probability": 1e-12},
    "three faults at severity 0.5": {},
}

ACTIVE: dict[str, list[Fault]] = {
    "latency and refusals": [LognormalLatency(), RateLimited()],
    "missing data": [MissingData(), NullFields()],
}
FRAMES = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
ON_FRAMES: dict[str, list[Fault]] = {
    "latency and refusals": [LognormalLatency(), RateLimited()],
    "brightness": [Brightness()],
    "contrast": [Contrast()],
    "gaussian noise": [GaussianNoise()],
    "salt noise": [SaltNoise()],
    "dead pixels": [DeadPixels()],
    "occlusion": [Occlusion()],
    "missing data": [MissingData()],
    "frozen frames": [FrozenFrames()],
    "three at severity 0.5": list(faults()),
}


CLASSES = {
    name: gym.spaces.Discrete(9 + 7 * size)
    for size, name in enumerate(["tool", "ticket", "status", "amount", "age", "paid"])
}
DESK = gym.spaces.Dict(
    {
        "reply": gym.spaces.Dict({**CLASSES, "clock": gym.spaces.Discrete(500), "order": gym.spaces.Text(6)}),
        "pose": gym.spaces.Box(-1.0, 1.0, (5,), np.float32),
        "items": gym.spaces.MultiDiscrete([5] * 8),
    }
)
REMEMBER = [  # what was shown or asked before
    "stale_cache",
    "previous_answer",
    "delayed_observation",
    "eventual_consistency",
    "other_record",
    "false_success",
    "reordered_delivery",
    "delayed_action",
    "sticky_action",
]
NEEDS_MORE = ("plausible_lie", "empirical_latency")  # a World; a file of latencies


def kind_by_kind() -> None:
    """Three reports of what each kind costs by itself at severity 0.5.

    Per environment and step of a vector of desks; the same for kinds that change frames, on frames; and a step of a
    single desk for the kinds in `REMEMBER`.
    """
    plain = {"gymnasium.vector.VectorWrapper": VectorWrapper(Changing(DESK))}
    kinds = {fault.kind: fault for family in FAMILIES.values() for fault in family if fault.kind not in NEEDS_MORE}
    on_frames = {kind: fault for kind, fault in kinds.items() if _changes_frames(fault)}
    on_desks = {kind: fault for kind, fault in kinds.items() if kind not in on_frames}
    desks = {kind: VectorInjectFaults(Changing(DESK), [fault()]) for kind, fault in on_desks.items()}
    report(f"an environment a step, {ENVS} desks", {**plain, **desks}, vector_microseconds, *plain)
    plain = {"gymnasium.vector.VectorWrapper": VectorWrapper(Changing(FRAMES))}
    on_frame_envs = {kind: VectorInjectFaults(Changing(FRAMES), [fault()]) for kind, fault in on_frames.items()}
    report(f"the same, 64x64x3 frames, {ENVS} of them", {**plain, **on_frame_envs}, vector_microseconds, *plain)
    one = {kind: InjectFaults(ChangingDesk(), [kinds[kind]()]) for kind in REMEMBER}
    report(
        "a step of one desk",
        {"gymnasium.Wrapper": gym.Wrapper(ChangingDesk()), **one},
        microseconds,
        "gymnasium.Wrapper",
    )


def _changes_frames(fault: type[Fault]) -> bool:
    frames = ("black_frames", "frozen_frames", "occlusion", "dropped_channels", "painted_instruction")
    return fault.family == "pixels and sensors" or fault.kind in frames


def report(what: str, envs: dict[str, Any], measure: Callable[[Any], float], base: str) -> None:
    """Medians of interleaved rounds, and what is on top of the first."""
    rounds = [{name: measure(env) for name, env in envs.items()} for _ in range(ROUNDS)]
    medians = {name: statistics.median(each[name] for each in rounds) for name in envs}
    print(f"{what:40}{'us':>10}{'over the wrapper':>18}{'ratio':>8}")
    for name, median in medians.items():
        print(f"{name:40}{median:10.2f}{median - medians[base]:18.2f}{median / medians[base]:8.1f}")


def main() -> None:
    print(
        f"Python {platform.python_version()}, gymnasium {gym.__version__}, numpy {np.__version__}, {platform.machine()}"
    )
    if sys.argv[1:] == ["kinds"]:
        return kind_by_kind()
    one = {name: InjectFaults(Trivial(), faults(**settings)) for name, settings in PLANS.items()}
    report("a step", {"gymnasium.Wrapper": gym.Wrapper(Trivial()), **one}, microseconds, "gymnasium.Wrapper")
    many = {name: VectorInjectFaults(TrivialVector(), faults(**settings)) for name, settings in PLANS.items()}
    many |= {f"{name}, severity 0.5": VectorInjectFaults(TrivialVector(), plan) for name, plan in ACTIVE.items()}
    many |= {f"{kind.kind} at severity 0.5": VectorInjectFaults(TrivialVector(), [kind()]) for kind in KINDS}
    bare = {"gymnasium.vector.VectorWrapper": VectorWrapper(TrivialVector())}
    report(f"an environment a step, {ENVS} of them", {**bare, **many}, vector_microseconds, *bare)
    timed: dict[str, Any] = {"time": "virtual", "step_s": 0.1}  # slow_api takes 3.5 s a call: 35 steps of the world
    with_options = {
        "malformed_output, out of space": VectorInjectFaults(TrivialVector(), [MalformedOutput(out_of_space=True)]),
        "no faults, real time": VectorInjectFaults(TrivialVector(), [], **timed),
        "slow_api, real time": VectorInjectFaults(TrivialVector(), [SlowAPI()], **timed),
    }
    report("the same with more asked for", {**bare, **with_options}, vector_microseconds, *bare)
    on_frame_envs = {name: VectorInjectFaults(TrivialVector(FRAMES), plan) for name, plan in ON_FRAMES.items()}
    plain = {"gymnasium.vector.VectorWrapper": VectorWrapper(TrivialVector(FRAMES))}
    plain["no faults"] = VectorInjectFaults(TrivialVector(FRAMES), [])
    report(f"the same, 64x64x3 frames, {ENVS} of them", {**plain, **on_frame_envs}, vector_microseconds, *bare)
    calls = {name: Faults(faults(**settings)) for name, settings in PLANS.items()}
    bare_call = {"the function itself": None}
    report("a call of a plain function", {**bare_call, **calls}, call_microseconds, *bare_call)
    hours = [simulated_hour_ms() for _ in range(5)]
    print(f"one simulated hour of slow API: {statistics.median(hours):.0f} ms")


if __name__ == "__main__":
    main()
