import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from worldsim.agents import Mixture, make_agent, make_policy
from worldsim.errors import ConfigError, MissingExtraError, SpaceMismatchError

SEEN = gym.spaces.Box(-1, 1, (3,))
FOUR = gym.spaces.Discrete(4)
NESTED = gym.spaces.Dict({"tool": gym.spaces.Discrete(3, start=2), "amount": gym.spaces.Box(0, 9, (2,))})


def actions(spec: object, space: gym.Space = FOUR, count: int = 200, seed: int = 0, **kwargs: object) -> list:
    agent = make_policy(spec, SEEN, space, **kwargs)
    agent.reset(seed)
    return [agent.act(np.zeros(3, np.float32), {}) for _ in range(count)]


@pytest.mark.parametrize("spec", ["random", "sticky", "sticky:0.5", "biased:1=0.3", {"random": 2, "sticky": 1}])
def test_an_episode_depends_on_its_seed_only(spec: object) -> None:
    agent = make_policy(spec, SEEN, FOUR, epsilon=0.1)
    runs = []
    for seed in (5, 6, 5):
        agent.reset(seed)
        runs.append([int(agent.act(None, {})) for _ in range(50)])
    assert runs[0] == runs[2] != runs[1]


def test_agents_leave_the_space_and_each_other_alone() -> None:
    space = gym.spaces.Discrete(1000)
    space.seed(3)
    expected = [int(space.sample()) for _ in range(5)]
    space.seed(3)
    first, second = make_agent("random", SEEN, space), make_agent("random", SEEN, space)
    first.reset(1)
    second.reset(1)
    assert first.act(None, {}) == second.act(None, {})
    assert [int(space.sample()) for _ in range(5)] == expected


def test_nested_actions_are_members_of_the_space() -> None:
    assert all(NESTED.contains(a) for spec in ("random", "sticky") for a in actions(spec, NESTED, 20))


def test_sticky_repeats_as_often_as_it_says() -> None:
    drawn = np.array(actions("sticky:0.8", gym.spaces.Discrete(1000), 5000))
    assert abs((drawn[1:] == drawn[:-1]).mean() - 0.8) < 0.03


def test_biased_draws_the_given_frequencies() -> None:
    shares = np.bincount(actions("biased:1=0.3,2=0.1", FOUR, 5000), minlength=4) / 5000
    assert np.allclose(shares, [0.3, 0.3, 0.1, 0.3], atol=0.03)


def test_epsilon_and_weights() -> None:
    always_one = {"biased:1=1": 1.0}
    noisy = np.array(actions(always_one, FOUR, 4000, epsilon=0.4))
    assert abs((noisy == 1).mean() - 0.7) < 0.03
    policy = make_policy({"biased:1=1": 3, "biased:2=1": 1}, SEEN, FOUR)
    drawn = []
    for seed in range(400):
        policy.reset(seed)
        drawn.append((policy.drawn, int(policy.act(None, {}))))
    assert {pair for pair in drawn} == {("biased:1=1", 1), ("biased:2=1", 2)}
    assert abs(np.mean([action == 1 for _, action in drawn]) - 0.75) < 0.08


class Constant:
    def __init__(self, observation_space: gym.Space, action_space: gym.Space):
        self.action_space = action_space

    def reset(self, seed: int) -> None: ...

    def act(self, observation: object, info: object) -> int:
        return 3


def masked(spec: str, space: gym.Space, mask: object, count: int = 300) -> list:
    agent = make_policy(spec, SEEN, space, epsilon=0.2)
    agent.reset(0)
    return [agent.act(None, {"action_mask": mask}) for _ in range(count)]


@pytest.mark.parametrize("spec", ["random", "sticky", "biased:6=0.5,8=0.2"])
@pytest.mark.parametrize("form", [np.int8, bool, np.int64, list])
def test_a_mask_is_heeded_in_every_form_and_all_that_it_allows_is_drawn(spec: str, form: type) -> None:
    space = gym.spaces.Discrete(5, start=5)
    mask = [0, 1, 0, 1, 1]
    given = mask if form is list else np.array(mask, form)
    assert set(masked(spec, space, given)) == {6, 8, 9}


def test_a_sticky_agent_leaves_what_is_not_allowed_any_more() -> None:
    agent = make_agent("sticky:0.99", SEEN, FOUR)
    agent.reset(0)
    for allowed in (0, 3, 1, 3):
        mask = np.eye(4, dtype=np.int8)[allowed]
        assert [agent.act(None, {"action_mask": mask}) for _ in range(5)] == [allowed] * 5


def test_biased_keeps_the_shares_of_what_is_allowed() -> None:
    drawn = np.array(masked("biased:0=0.5,1=0.1", FOUR, np.array([1, 1, 0, 0], np.int8), 5000))
    assert (drawn == 1).mean() == pytest.approx(0.8 * 0.1 / 0.6 + 0.2 / 2, abs=0.02)  # epsilon=0.2 of them are uniform


@pytest.mark.parametrize("flat", [False, True])
def test_masks_of_several_parts(flat: bool) -> None:
    space = gym.spaces.MultiDiscrete([3, 2])
    parts = (np.array([0, 1, 1], np.int8), np.array([1, 0], np.int8))
    drawn = masked("random", space, np.concatenate(parts) if flat else parts)
    assert {tuple(action.tolist()) for action in drawn} == {(1, 0), (2, 0)}
    nested = gym.spaces.Dict(tool=FOUR, both=gym.spaces.Tuple([gym.spaces.Discrete(2), gym.spaces.Discrete(3)]))
    mask = {"tool": [0, 0, 1, 0], "both": ([0, 1], [True, False, False])}
    assert {(a["tool"], *a["both"]) for a in masked("random", nested, mask, 50)} == {(2, 1, 0)}


def test_a_mask_of_another_shape_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"action_mask'\] has the shape \(3,\), and Discrete\(4\) needs \(4,\)"):
        masked("random", FOUR, np.ones(3, np.int8))


def test_factories_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_agents_of_test.py").write_text(
        "class Two:\n def __init__(self, o, a): pass\n def reset(self, seed): pass\n def act(self, o, i): return 2\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert actions("my_agents_of_test:Two", count=2) == [2, 2]
    assert actions("steady", count=1, known={"steady": f"{__name__}:Constant"}) == [3]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("randm", "Did you mean 'random'"),
        ("carefull", "Did you mean 'careful'"),
        ("no.such.module:f", "cannot import no.such.module"),
        (f"{__name__}:Constan", "Did you mean 'Constant'"),
        ("builtins:len", "agent 'builtins:len'"),
        ("builtins:slice", "reset"),
        ("sticky:x", "'x' is not a number"),
        ("sticky:1.5", r"\[0, 1\)"),
        ("biased:9=0.5", "no action 9"),
        ("biased:1=1.5", "at most 1"),
        ("nothing.zip", "no agent file"),
        ({}, "policy"),
        ({"random": -1}, "negative"),
    ],
)
def test_mistakes_are_one_line(spec: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_policy(spec, SEEN, FOUR, known={"careful": f"{__name__}:Constant"})
    assert "\n" not in str(caught.value)


def test_epsilon_out_of_range() -> None:
    with pytest.raises(ConfigError, match="epsilon=2"):
        Mixture({"c": (Constant(SEEN, FOUR), 1)}, FOUR, epsilon=2)


def test_stable_baselines_file_samples_without_touching_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    sb3 = pytest.importorskip("stable_baselines3")
    env = gym.make("CartPole-v1")
    path = str(tmp_path / "ppo.zip")
    sb3.PPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu").save(path)
    agent = make_agent(path, env.observation_space, env.action_space)
    before = torch.random.get_rng_state()
    observation, info = env.reset(seed=0)
    runs = []
    for seed in (1, 1, 2):
        agent.reset(seed)
        runs.append([int(agent.act(observation, info)) for _ in range(40)])
    assert runs[0] == runs[1] != runs[2]
    assert env.action_space.contains(agent.act(observation, info))
    assert torch.equal(before, torch.random.get_rng_state())
    with pytest.raises(SpaceMismatchError):
        make_agent(path, env.observation_space, FOUR)
    with pytest.raises(SpaceMismatchError):
        make_agent(path, SEEN, env.action_space)
    (tmp_path / "bad.zip").write_bytes(b"not a zip")
    with pytest.raises(ConfigError, match="not a Stable-Baselines3"):
        make_agent(str(tmp_path / "bad.zip"), env.observation_space, env.action_space)


def test_missing_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.zip").touch()
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'worldsim\[sb3\]'"):
        make_agent(str(tmp_path / "x.zip"), SEEN, FOUR)
