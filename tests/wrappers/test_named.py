"""A wrapper for every kind of fault, by name: what it does, what it says of itself, and that Gymnasium can make it."""

import copy
import inspect
import pickle
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from worldsim import faults, wrappers
from worldsim.errors import ConfigError
from worldsim.faults.trees import alike
from worldsim.wrappers import InjectFaults, VectorInjectFaults

from .recording_env import BUILT_IN, KINDS, RecordingEnv
from .test_vector import assert_alike

each_kind = pytest.mark.parametrize("kind", [BUILT_IN[name] for name in KINDS], ids=lambda kind: kind.kind)


def test_every_kind_has_its_wrappers_and_no_name_is_left_over() -> None:
    for kind in BUILT_IN.values():
        for name, base in ((kind.__name__, InjectFaults), (f"Vector{kind.__name__}", VectorInjectFaults)):
            wrapper = vars(wrappers.named).get(name)
            assert wrapper is not None, f"{kind.kind} needs a class {name} in worldsim/wrappers/named.py"
            assert issubclass(wrapper, base) and wrapper.fault_class is kind and vars(wrappers).get(name) is wrapper
    names = {kind.__name__ for kind in BUILT_IN.values()}
    own = {"Ragged", "FlattenDict", "InjectFaults", "VectorInjectFaults"}
    assert set(wrappers.__all__) == own | names | {f"Vector{name}" for name in names} == set(dir(wrappers))
    with pytest.raises(AttributeError, match="no 'StickyActon'. Did you mean 'StickyAction'"):
        wrappers.StickyActon  # noqa: B018
    with pytest.raises(ConfigError, match="sticky_action: no parameter 'rates'. Did you mean 'rate'"):
        wrappers.StickyAction(gym.make("CartPole-v1"), rates=0.3)


@each_kind
def test_it_is_that_fault_on_an_environment(kind: type[faults.Fault]) -> None:
    named = getattr(wrappers, kind.__name__)(RecordingEnv(), severity=0.9, seed=3, probability=0.8)
    plain = InjectFaults(RecordingEnv(), [kind(severity=0.9, probability=0.8)], seed=3)
    assert alike(named.reset(seed=1), plain.reset(seed=1))
    for action in range(10):
        assert alike(named.step(action)[:4], plain.step(action)[:4])
    assert named.records == plain.records


@each_kind
def test_it_is_that_fault_on_a_vector(kind: type[faults.Fault]) -> None:
    def envs() -> SyncVectorEnv:
        return SyncVectorEnv([RecordingEnv] * 3)

    named = getattr(wrappers, f"Vector{kind.__name__}")(envs(), severity=0.9, seed=3, probability=0.8)
    plain = VectorInjectFaults(envs(), [kind(severity=0.9, probability=0.8)], seed=3)
    assert_alike(named.reset(seed=1), plain.reset(seed=1))
    for _ in range(6):
        assert_alike(named.step(np.arange(3)), plain.step(np.arange(3)))


@each_kind
def test_it_says_what_it_takes(kind: type[faults.Fault]) -> None:
    for name in (kind.__name__, f"Vector{kind.__name__}"):
        named = getattr(wrappers, name)
        taken = inspect.signature(named).parameters
        assert list(taken)[:3] == ["env", "severity", "seed"] and set(kind.model_fields) <= set(taken)
        assert (inspect.getdoc(kind) or "?").splitlines()[0] in (inspect.getdoc(named) or "")


@each_kind
def test_gymnasium_makes_it_from_a_spec_and_pickle_from_bytes(kind: type[faults.Fault]) -> None:
    spec = copy.deepcopy(gym.spec("CartPole-v1"))
    spec.additional_wrappers = (getattr(wrappers, kind.__name__).wrapper_spec(severity=0.7, seed=4),)
    made = gym.make(gym.envs.registration.EnvSpec.from_json(spec.to_json()))
    twin = pickle.loads(pickle.dumps(made))
    plain = InjectFaults(gym.make("CartPole-v1"), [kind(severity=0.7)], seed=4)
    for env in (made, twin):
        assert type(env) is getattr(wrappers, kind.__name__)
        assert alike(env.reset(seed=2)[0], plain.reset(seed=2)[0])
        for action in (0, 1, 1):
            assert alike(env.step(action)[:4], plain.step(action)[:4])


def test_pickles_are_read_in_a_fresh_process() -> None:
    made = pickle.dumps(wrappers.StickyAction(gym.make("CartPole-v1"), severity=0.2))
    program = "import sys, pickle; print(type(pickle.load(sys.stdin.buffer)).__name__)"
    out = subprocess.run([sys.executable, "-c", program], input=made, capture_output=True, check=True).stdout
    assert out.decode().strip() == "StickyAction"
