"""Every kind on a Gymnasium environment: snapshots, pickles, specs, Gymnasium's own checks."""

import copy
import pickle
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env

from worldsim import faults
from worldsim.faults.trees import alike
from worldsim.wrappers import InjectFaults

from .recording_env import KINDS, RecordingEnv

each_kind = pytest.mark.parametrize("kind", KINDS)


def broken(kind: str, below: Any = None) -> InjectFaults:
    env = InjectFaults(RecordingEnv() if below is None else below, [faults.KINDS[kind](severity=0.9)], seed=2)
    env.reset(seed=0)
    return env


def played(env: InjectFaults, actions: range) -> list[Any]:
    return [copy.deepcopy((*env.step(action)[:4], env.records)) for action in actions]


@each_kind
def test_what_a_fault_remembers_is_in_snapshots_and_pickles(kind: str) -> None:
    env = broken(kind)
    played(env, range(12))
    kept, twin = env.snapshot(), pickle.loads(pickle.dumps(env))
    first = played(env, range(12, 30))
    env.reset(seed=9)
    env.restore(kept)
    assert alike(tuple(played(env, range(12, 30))), tuple(first))
    assert alike(tuple(played(twin, range(12, 30))), tuple(first))


@each_kind
@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version.*")
def test_gymnasiums_checks_pass(kind: str) -> None:
    check_env(broken(kind, gym.make("CartPole-v1")), skip_render_check=True)


@each_kind
def test_specs_make_the_same_again(kind: str) -> None:
    env = broken(kind, gym.make("CartPole-v1"))
    assert env.spec is not None
    twin = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    twin.reset(seed=0)
    assert isinstance(twin, InjectFaults)
    assert alike(tuple(played(env, range(0, 2))), tuple(played(twin, range(0, 2))))


def test_raw_text_reaches_the_agent_in_vector_environments_too() -> None:
    def make() -> gym.Env[Any, Any]:
        return InjectFaults(gym.make("CartPole-v1"), [faults.HTMLErrorPage(severity=1.0)])

    envs = gym.vector.SyncVectorEnv([make] * 3)
    envs.reset(seed=0)
    texts = set()
    for _ in range(20):
        told = envs.step(envs.action_space.sample())[-1]["reply"]
        texts |= {str(text)[:9] for text in told.get("raw", []) if text}
    assert texts == {"<!DOCTYPE"}
    envs.close()
