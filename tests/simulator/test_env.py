"""WorldEnv: the checkers of gymnasium and Stable-Baselines3, seeds, the ends of an episode, snapshots, pictures."""

import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env, data_equivalence

from tests.simulator.stub_world import IMAGE_SPACE, StubWorld
from worldsim.errors import CheckpointError, ConfigError, SpaceMismatchError
from worldsim.simulator import WorldEnv
from worldsim.simulator.drawing import bars, draw
from worldsim.spaces import leaves

OBSERVATION_SPACES = {
    "dict with an image": IMAGE_SPACE,
    "grey image": spaces.Box(0, 255, (40, 48), np.uint8),
    "vector": spaces.Box(-1, 1, (4,), np.float64),
    "whole numbers": spaces.Box(-5, 9, (2,), np.int32),
    "discrete": spaces.Discrete(5, start=2),
    "multi-binary": spaces.MultiBinary(6),
    "nested": spaces.Dict({"a": spaces.Tuple([spaces.Discrete(2), spaces.Text(5, min_length=0)]), "b": IMAGE_SPACE}),
}
ACTION_SPACES = {
    "discrete": spaces.Discrete(3),
    "multi-discrete": spaces.MultiDiscrete([3, 2]),
    "box": spaces.Box(-1, 1, (2,), np.float32),
    "dict": spaces.Dict({"tool": spaces.Discrete(4), "amount": spaces.Box(-1, 1, (1,), np.float32)}),
}


def play(env: WorldEnv, actions: list, seed: int | None = None) -> list:
    trace = [env.reset(seed=seed)] if seed is not None else []
    return trace + [env.step(action) for action in actions]


@pytest.mark.parametrize("observation_space", OBSERVATION_SPACES.values(), ids=OBSERVATION_SPACES)
def test_gymnasium_finds_nothing_to_warn_of(observation_space: gym.Space) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        world = StubWorld(observation_space, ending=0.0)
        check_env(gym.make("worldsim/World-v0", world=world, render_mode="rgb_array").unwrapped)


@pytest.mark.parametrize("action_space", ACTION_SPACES.values(), ids=ACTION_SPACES)
def test_any_action_space_steps_to_members_of_the_space(action_space: gym.Space) -> None:
    env = WorldEnv(StubWorld(OBSERVATION_SPACES["nested"], action_space))
    action_space.seed(0)
    for observation, *_ in play(env, [action_space.sample() for _ in range(30)], seed=0):
        assert env.observation_space.contains(observation)


def test_stable_baselines_finds_nothing_to_warn_of(world: StubWorld) -> None:
    sb3 = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sb3.check_env(WorldEnv(world, render_mode="rgb_array"), warn=True, skip_render_check=False)


def test_ppo_trains_in_it() -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    env = WorldEnv(StubWorld(spaces.Box(-1, 1, (4,), np.float32)))
    model = sb3.PPO("MlpPolicy", env, n_steps=64, batch_size=32, n_epochs=2, seed=0, device="cpu")
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(256)
    assert model.num_timesteps == 256
    assert any((a != b).any() for a, b in zip(before, model.policy.parameters(), strict=True))


def test_a_seed_decides_the_episode_and_those_after_it(world: StubWorld) -> None:
    runs = []
    for env in (WorldEnv(world), WorldEnv(world)):
        runs.append(play(env, [0, 1, 2], seed=7) + [env.reset(), env.step(1)])
    assert data_equivalence(runs[0], runs[1], exact=True)
    other = play(WorldEnv(world), [0, 1, 2], seed=8)
    assert not data_equivalence(runs[0][:4], other, exact=True)
    first_of_each_episode = runs[0][0][0]["screen"], runs[0][4][0]["screen"]
    assert not np.array_equal(*first_of_each_episode)


def test_starts_from_the_observation_it_is_given(world: StubWorld) -> None:
    env = WorldEnv(world)
    given = IMAGE_SPACE.sample()
    observation, info = env.reset(seed=1, options={"observation": given})
    assert data_equivalence(dict(observation), dict(given), exact=True)
    assert info == {"trust": 1.0}
    screen_before = given["screen"].copy()
    given["screen"][:] = 0
    observation["screen"][:] = 255
    assert np.array_equal(env.restore(env.snapshot())["screen"], screen_before)


def test_what_it_cannot_take_is_one_clear_line(world: StubWorld) -> None:
    env = WorldEnv(world)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    with pytest.raises(SpaceMismatchError, match="observation space"):
        env.reset(options={"observation": np.zeros(3)})
    env.reset(seed=0)
    for action in (3, -1):
        with pytest.raises(SpaceMismatchError, match=rf"is {action}, which is not in Discrete\(3\)"):
            env.step(action)
    for wrong in ({"horizon": 0}, {"min_trust": 1.5}, {"min_trust": -0.1}, {"render_mode": "human"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            WorldEnv(world, **wrong)


@pytest.mark.parametrize("horizon", [None, 5])
def test_truncated_at_the_horizon_and_not_before(horizon: int | None) -> None:
    env = WorldEnv(StubWorld(ending=0.0, horizon=12), horizon=horizon)
    steps = play(env, [0] * (horizon or 12), seed=0)[1:]
    assert [s[3] for s in steps] == [False] * (len(steps) - 1) + [True]
    assert not any(s[2] for s in steps)


def test_the_worlds_own_end_at_the_horizon_is_a_termination() -> None:
    env = WorldEnv(StubWorld(ending=1.0), horizon=1)
    assert play(env, [0], seed=0)[1][2:4] == (True, False)


def test_min_trust_truncates_as_soon_as_trust_is_below() -> None:
    env = WorldEnv(StubWorld(ending=0.0), min_trust=0.9)
    steps = play(env, [0] * 5, seed=0)[1:]
    assert [s[4]["trust"] < 0.9 for s in steps] == [s[3] for s in steps]
    assert [s[3] for s in steps].index(True) == 3  # 0.97 ** 4 is the first power below 0.9


def test_min_trust_of_a_world_whose_trust_means_nothing_is_refused(world: StubWorld) -> None:
    world.trust = None
    with pytest.raises(ConfigError, match="worldsim validate"):
        WorldEnv(world, min_trust=0.5)
    WorldEnv(world, min_trust=0.0)


def test_a_snapshot_has_one_future(world: StubWorld) -> None:
    env = WorldEnv(world, horizon=6)
    play(env, [0, 1], seed=3)
    snapshot = env.snapshot()
    kept = pickle.loads(pickle.dumps(snapshot))
    future = play(env, [2, 0, 1, 1]) + [env.reset(), env.step(0)]
    assert future[3][3], "the horizon counts from the reset, not from the snapshot"
    env.restore(snapshot)
    assert data_equivalence(play(env, [2, 0, 1, 1]) + [env.reset(), env.step(0)], future, exact=True)
    elsewhere = WorldEnv(world, horizon=6)
    elsewhere.restore(kept)
    assert data_equivalence(play(elsewhere, [2, 0, 1, 1]) + [elsewhere.reset(), elsewhere.step(0)], future, exact=True)


def test_restore_gives_the_observation_of_the_snapshot(world: StubWorld) -> None:
    env = WorldEnv(world)
    screen_before = play(env, [0, 1], seed=3)[-1][0]
    snapshot = env.snapshot()
    play(env, [2, 2])
    assert data_equivalence(env.restore(snapshot), screen_before, exact=True)


def test_a_fork_goes_its_own_way(world: StubWorld) -> None:
    env = WorldEnv(world)
    play(env, [0], seed=3)
    fork = env.fork()
    other = play(fork, [1, 1])
    assert not data_equivalence(play(env, [2, 1]), other, exact=True)
    assert data_equivalence(play(env.fork(), [0]), play(env, [0]), exact=True)


def test_renders_image_leaves_scaled_up_by_nearest_pixels(world: StubWorld) -> None:
    env = WorldEnv(world, render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    frame = env.render()
    assert frame.dtype == np.uint8 and frame.shape == (240, 288, 3)
    assert np.array_equal(frame[::6, ::6], observation["screen"])


def test_renders_several_images_side_by_side_and_values_as_bars() -> None:
    image = spaces.Box(0, 255, (64, 64, 1), np.uint8)
    two = WorldEnv(StubWorld(spaces.Dict({"left": image, "right": image})), render_mode="rgb_array")
    observation, _ = two.reset(seed=0)
    frame = two.render()
    assert np.array_equal(frame[::4, :256:4, 0], observation["left"][..., 0])
    assert np.array_equal(frame[::4, -256::4, 2], observation["right"][..., 0])
    bars = WorldEnv(
        StubWorld(spaces.Box(np.array([0, -np.inf], np.float32), np.array([4, np.inf], np.float32))),
        render_mode="rgb_array",
    )
    lengths = []
    for low, high in ((0.0, -50.0), (4.0, 50.0)):
        bars.reset(options={"observation": np.array([low, high], np.float32)})
        picture = bars.render()
        drawn = picture[:, 102:]  # names stand before the bars
        lengths.append([int((drawn[row] != drawn[0, 0]).any(-1).sum()) for row in (6, 18)])
    assert lengths[0][0] < 5 < 150 < lengths[1][0]
    assert lengths[0][1] < 10 < 146 < lengths[1][1]


def test_a_board_of_classes_is_a_picture_of_its_cells() -> None:
    board = spaces.MultiDiscrete(np.tile([11, 6, 3], (4, 5, 1)))
    observed = leaves(spaces.Dict({"board": board, "turn": spaces.Discrete(4)}))
    value = board.nvec - 1
    value[1, 2] = [0, 5, 1]
    drawn = draw(observed, {"board": value.ravel(), "turn": np.array([1])}, height=40)
    assert drawn.shape == (40, 50, 3) and drawn[0, 0].tolist() == [255] * 3
    assert drawn[10:20, 20:30].reshape(-1, 3).tolist() == [[0, 255, 127]] * 100
    assert draw(leaves(spaces.MultiDiscrete([3] * 9)), {"value": np.zeros(9)}, width=64).shape[1] == 64  # bars


def test_bars_have_names_and_say_how_many_are_left_out() -> None:
    few, many, other = (
        leaves(spaces.Dict({name: spaces.Box(0, 1, (n,))})) for name, n in zip("aab", (3, 30, 3), strict=True)
    )
    zeros = {size: {name: np.zeros(size) for name in "ab"} for size in (3, 30)}
    assert bars(few, zeros[3]).shape == (36, 256, 3) and bars(many, zeros[30]).shape == (300, 256, 3)
    assert not np.array_equal(bars(few, zeros[3])[:, :100], bars(other, zeros[3])[:, :100])
    ground = bars(many, zeros[30])[0, -1]
    assert (bars(many, zeros[30])[-12:, :100] != ground).any() and (bars(many, zeros[30])[-12:, 100:] == ground).all()
    assert (bars(few, zeros[3], width=96)[:, 2:] == ground).all()  # too narrow for names


def test_a_text_is_a_row_of_letters() -> None:
    (note,) = found = leaves(spaces.Dict(note=spaces.Text(40, min_length=0)))

    def drawn(text: str, width: int = 256) -> np.ndarray:
        return bars(found, {"note": note.flatten(text)}, width)

    assert drawn("hello").shape == (12, 256, 3) and not np.array_equal(drawn("hello"), drawn("world"))
    assert (drawn("")[:, 102:] == drawn("")[0, -1]).all()
    assert np.array_equal(drawn("w" * 39), drawn("w" * 38)) and not np.array_equal(drawn("w" * 9), drawn("w" * 8))
    assert not np.array_equal(drawn("hello", 96), drawn("world", 96))  # too narrow for names


def test_metadata_is_the_real_environments_but_for_the_rendering(world: StubWorld) -> None:
    metadata = WorldEnv(world).metadata
    assert metadata["on_error"] == world.metadata["on_error"]
    assert metadata["render_modes"] == ["rgb_array"]


def test_a_real_environment_without_a_frame_rate_leaves_the_default(world: StubWorld) -> None:
    world.metadata["render_fps"] = None
    assert WorldEnv(world).metadata["render_fps"] == WorldEnv.metadata["render_fps"]
    world.metadata["render_fps"] = 30
    assert WorldEnv(world).metadata["render_fps"] == 30


def test_a_directory_without_a_world_says_so(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        gym.make("worldsim/World-v0", world=str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError):
        gym.make_vec("worldsim/World-v0", num_envs=2, world=tmp_path)
