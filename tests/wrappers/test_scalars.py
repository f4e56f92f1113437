"""Numbers without axes, Box(()), are broken alike in whatever form an environment gives them, and come back in it."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

from worldsim.faults import Plan
from worldsim.wrappers import InjectFaults, VectorInjectFaults

from .recording_env import KINDS

FORMS: dict[str, Callable[[np.float32], Any]] = {"numpy": np.float32, "array": np.asarray, "python": float}
STEPS = 40


class Gauge(gym.Env[Any, Any]):
    """Shows a number that grows, alone or beside others, in one of the forms that a Box(()) takes."""

    action_space = spaces.Discrete(2)
    metadata = {"render_modes": []}

    def __init__(self, form: str, nested: bool) -> None:
        self.form, self.nested, self.time = FORMS[form], nested, 0
        level = spaces.Box(-50, 50, (), np.float32)
        others = {"pair": spaces.Box(-1, 1, (2,), np.float32), "wide": spaces.Box(-50, 50, (), np.float32)}
        self.observation_space = spaces.Dict(level=level, **others) if nested else level

    def _shown(self) -> Any:
        level = self.form(np.float32(self.time * 0.3))
        pair = np.full(2, self.time / STEPS, np.float32)
        return {"level": level, "pair": pair, "wide": self.form(np.float32(-self.time))} if self.nested else level

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._shown(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return self._shown(), 1.0, False, False, {}


def alone(form: str, nested: bool, plan: Plan) -> tuple[list[Any], list[Any]]:
    """What one environment showed, and its records."""
    env = InjectFaults(Gauge(form, nested), plan, seed=1)
    env.reset(seed=0)
    shown = [env.step(0)[0] for _ in range(STEPS)]
    return shown, [record.to_json() for record in env.records]


def level(observation: Any) -> Any:
    return observation["level"] if isinstance(observation, dict) else observation


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_does_to_them_what_it_does_in_a_vector(kind: str, nested: bool) -> None:
    plan = Plan(faults=[{"kind": kind, "severity": 1.0}])
    envs = VectorInjectFaults(SyncVectorEnv([lambda: Gauge("numpy", nested)]), plan, seed=1)
    envs.reset(seed=0)
    batches = [envs.step(np.zeros(1, np.int64))[0] for _ in range(STEPS)]
    records = [record.to_json() for record in envs.records[0]]
    for form in FORMS:
        shown, own = alone(form, nested, plan)
        assert own == records
        assert {type(level(each)) for each in shown} == {type(FORMS[form](np.float32(0)))}
        assert np.array_equal([level(each) for each in shown], [level(each)[0] for each in batches], equal_nan=True)


@pytest.mark.parametrize("form", FORMS)
def test_some_do_something_to_them(form: str) -> None:
    """Against the numbers that the gauge is known to show: the same test in a vector could agree on doing nothing."""
    true = [np.float32(step * 0.3) for step in range(1, STEPS + 1)]
    for kind in ("gaussian_noise", "out_of_range", "missing_data"):
        shown, records = alone(form, False, Plan(faults=[{"kind": kind, "severity": 1.0}]))
        changed = [step for step, (seen, was) in enumerate(zip(shown, true, strict=True)) if seen != was]
        told = {record["call"] for record in records if record["kind"] != "unavailable"}
        assert changed and told <= set(changed)


@pytest.mark.parametrize("form", FORMS)
def test_one_plan_in_two_wrappers_is_one_plan(form: str) -> None:
    noise, lost = ({"kind": kind, "severity": 0.8} for kind in ("gaussian_noise", "unavailable"))
    inner = InjectFaults(InjectFaults(Gauge(form, True), Plan(faults=[noise]), seed=1), Plan(faults=[lost]), seed=1)
    inner.reset(seed=0)
    shown = [inner.step(0)[0] for _ in range(STEPS)]
    expected, _ = alone(form, True, Plan(faults=[lost, noise]))
    assert [str(each) for each in shown] == [str(each) for each in expected]
    assert {type(each["wide"]) for each in shown} == {type(FORMS[form](np.float32(0)))}
