"""What a plan says of itself: which of its faults can never do anything in an environment, and why."""

import string
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from worldsim.envs.refund_desk.env import RefundDeskEnv
from worldsim.faults import Fault, Plan, fault_from_json
from worldsim.faults.plans.catalogue import FAMILIES
from worldsim.faults.trees import leaves_of
from worldsim.wrappers import InjectFaults

KINDS = [kind for family in FAMILIES.values() for kind in family if kind.kind != "plausible_lie"]  # it needs a World
FRAME = spaces.Box(0, 255, (12, 12, 3), np.uint8)
SPACES = {
    "vector": spaces.Box(-1000, 1000, (4,), np.float32),
    "small vector": spaces.Box(-1, 1, (4,), np.float32),
    "class": spaces.Discrete(5),
    "number": spaces.Box(-100, 100, (), np.float64),
    "frame": FRAME,
    "record": spaces.Dict({"id": spaces.Discrete(500), "amount": spaces.Discrete(500), "bits": spaces.MultiBinary(6)}),
    "times": spaces.Dict({"created_at": spaces.Box(-1e9, 1e9, (), np.float64), "age": spaces.Discrete(9)}),
    "note": spaces.Dict({"note": spaces.Text(200, charset=string.ascii_letters + string.digits + "-:"), "seen": FRAME}),
    "nothing known": spaces.Tuple([spaces.Sequence(spaces.Discrete(2)), spaces.Discrete(3)]),
}


class Sampled(gym.Env[Any, Any]):
    """Observations drawn from a space, with a time for a note, and five actions."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = space, spaces.Discrete(5)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.observation_space.seed(seed)
        return self._drawn(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._drawn(), 0.0, False, False, {}

    def _drawn(self) -> Any:
        drawn = self.observation_space.sample()
        return {**drawn, "note": "2026-03-01T10:00:00"} if isinstance(drawn, dict) and "note" in drawn else drawn


def as_bad_as_it_gets(kind: type[Fault]) -> Fault:
    often = {name: 1.0 for name in ("rate", "spread") if name in kind.model_fields}
    return kind(severity=1.0, **often)


def did_something(fault: Fault, space: spaces.Space[Any]) -> bool:
    env = InjectFaults(Sampled(space), fault, seed=1)
    env.reset(seed=0)
    for number in range(30):
        env.step(np.int64(number % 5))
    return bool(env.records)


@pytest.mark.parametrize("name", SPACES)
def test_a_fault_says_that_it_never_acts_where_it_never_does_and_nowhere_else(name: str) -> None:
    leaves = leaves_of(SPACES[name])
    for kind in KINDS:
        fault = as_bad_as_it_gets(kind)
        says = fault.idle_reason(("step",), leaves)
        assert did_something(fault, SPACES[name]) == (says is None), f"{kind.kind} in {name}: {says}"


CARTPOLE = leaves_of(gym.make("CartPole-v1").observation_space)


def test_only_the_noise_of_a_dying_camera_acts_on_cartpole() -> None:
    plan = Plan.load("dying_camera")
    lines = plan.idle_reasons(("step",), CARTPOLE)
    assert lines == [f"{each.kind}: there are no frames" for each in plan.faults if each.kind != "gaussian_noise"]
    assert plan.idle_reasons(("step",), leaves_of(RefundDeskEnv().observation_space)) == []


def test_a_plan_that_can_never_act_is_laid_on_all_the_same() -> None:
    plan = Plan.of([{"kind": "black_frames", "severity": 1.0}])
    assert plan.idle_reasons(("step",), CARTPOLE) == ["black_frames: there are no frames"]
    env, bare = InjectFaults(gym.make("CartPole-v1"), plan), gym.make("CartPole-v1")
    assert (env.reset(seed=4)[0] == bare.reset(seed=4)[0]).all()
    for action in (0, 1, 1):
        assert (env.step(action)[0] == bare.step(action)[0]).all()
    assert env.records == []


def test_plain_tools_have_no_frames_and_may_have_everything_else() -> None:
    frames = [kind.kind for kind in KINDS if kind().idle_reason(("step",), leaves_of(FRAME)) is None]
    lines = dict(each.split(": ") for each in Plan.of([kind() for kind in KINDS]).idle_reasons(None, None))
    assert set(lines.values()) == {"there are no frames"}
    assert set(lines) == {kind for kind in frames if fault_from_json({"kind": kind}).idle_reason(None, CARTPOLE)}


@pytest.mark.parametrize(
    "given, reason",
    [
        ({"kind": "slow_api", "severity": 0.0}, "its severity is 0"),
        ({"kind": "slow_api", "probability": 0.0}, "its probability is 0"),
        ({"kind": "lost_answer", "rate": 0.0}, "its share of the calls is 0"),
        ({"kind": "slow_api", "tools": ["refund", "pay_*"]}, "there is no tool refund, pay_*"),
        ({"kind": "eventual_consistency", "writes": ["pay"]}, "there is no tool pay that writes"),
        ({"kind": "missing_rows", "targets": ["reply/*"]}, "there are no rows in reply/*"),
        (
            {"kind": "clock_skew", "most": 20.0, "severity": 1.0},
            "there are no texts, and no times that could be off by 20",
        ),
    ],
)
def test_other_reasons(given: dict, reason: str) -> None:
    space = spaces.Dict({"reply": spaces.Dict({"clock": spaces.Discrete(20)}), "log": spaces.MultiDiscrete([3, 4])})
    assert Plan.of([given]).idle_reasons(("look_up", "wait"), leaves_of(space)) == [f"{given['kind']}: {reason}"]


def test_a_time_of_enough_classes_can_be_off() -> None:
    leaves = leaves_of(spaces.Dict({"clock": spaces.Discrete(49)}))
    skew = {"kind": "clock_skew", "severity": 1.0}
    assert Plan.of([{**skew, "most": 20.0}]).idle_reasons(None, leaves) == []
    assert len(Plan.of([{**skew, "most": 60.0}]).idle_reasons(None, leaves)) == 1
