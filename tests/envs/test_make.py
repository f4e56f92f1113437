import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium import spaces

import worldsim
from worldsim.envs.make import EnvConfig, config_names, make_env, make_vec
from worldsim.envs.resize import ResizeImages, pictures
from worldsim.errors import ConfigError, MissingExtraError, SpaceMismatchError, UnknownEnvError
from worldsim.rollouts.collect import CollectConfig, collect
from worldsim.simulator.drawing import draw
from worldsim.spaces import flatten, leaves, unflatten

CONFIGS = Path(worldsim.__file__).parent / "configs" / "env"
READY = ["refund_desk", "atari/breakout", "vizdoom/defend_center", "box2d/car_racing", "minigrid/door_key"]
PICTURES = READY[:4]


def load(name, **changes):
    return EnvConfig(**(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) | changes))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # ViZDoom writes its settings into the current folder


def test_ready_configurations_are_found_and_say_why_of_every_key():
    assert config_names() == sorted([*READY, "gymnasium"])
    for name in config_names():
        text = (CONFIGS / f"{name}.yaml").read_text()
        assert set(yaml.safe_load(text)) <= set(EnvConfig.model_fields)
        for line in text.splitlines():
            assert line.startswith("#") or " # " in line, line


@pytest.mark.parametrize("name", PICTURES)
def test_real_environments_step_in_their_spaces(name):
    env = make_env(load(name))
    observation, _ = env.reset(seed=0)
    env.action_space.seed(0)
    images = [leaf for leaf in leaves(env.observation_space) if leaf.kind == "image"]
    assert images and all(leaf.shape == (64, 64, 3) for leaf in images)
    for _ in range(5):
        assert env.observation_space.contains(observation)
        observation, reward, *_ = env.step(env.action_space.sample())
    env.close()


def test_breakout_has_its_four_actions_and_no_luck():
    env = make_env(load("atari/breakout"))
    assert env.unwrapped.get_action_meanings() == ["NOOP", "FIRE", "RIGHT", "LEFT"]
    frames = []
    for _ in range(2):
        env.reset(seed=3)
        frames.append(np.stack([env.step(action)[0] for action in [1, 2, 2, 3, 0] * 4]))
    assert np.array_equal(*frames)
    env.close()


def test_defend_center_shows_ammunition_and_health():
    env = make_env(load("vizdoom/defend_center"))
    observation, _ = env.reset(seed=0)
    assert observation["gamevariables"].tolist() == [26.0, 100.0]
    assert env.action_space.n == 4 and observation["screen"].std() > 0
    env.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_vector_environments_are_the_single_one_several_times(workers):
    config = EnvConfig(id="worldsim/RefundDesk-v0")
    envs = make_vec(config, num_envs=2, workers=workers)
    assert isinstance(envs, gym.vector.AsyncVectorEnv if workers > 1 else gym.vector.SyncVectorEnv)
    assert envs.metadata["autoreset_mode"] is gym.vector.AutoresetMode.NEXT_STEP
    envs.reset(seed=[5, 6])
    for action in (7, 0, 1):
        batch, rewards, *_ = envs.step(np.array([action, 6]))
    single = make_env(config)
    single.reset(seed=5)
    for action in (7, 0, 1):
        observation, reward, *_ = single.step(action)
    assert np.array_equal(batch["screen"][0], observation["screen"]) and rewards[0] == reward
    assert {k: v[0] for k, v in batch["reply"].items()} == observation["reply"]
    envs.close()


def test_episode_limit_and_render_mode():
    env = make_env(EnvConfig(id="CartPole-v1", max_episode_steps=3))
    env.reset(seed=0)
    assert [env.step(step % 2)[3] for step in range(3)] == [False, False, True]
    env = make_env(EnvConfig(id="worldsim/RefundDesk-v0", kwargs={"tickets": 3}), render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (480, 480, 3) and env.unwrapped.tickets == 3


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("CartPol-v1", "'CartPole-v1'"),
        ("cartpole-v9", "'CartPole-v1'"),
        ("ALE/Brekout-v5", "'ALE/Breakout-v5'"),
        ("VizdoomDefendCentre-v1", "'VizdoomDefendCenter-v1'"),
        ("refunddesk", "'refund_desk'"),
        ("a name of nothing", "one of atari/breakout, box2d/car_racing, gymnasium, minigrid/door_key"),
        ("tests.envs.test_make:WorldsimTestScren-v0", "mean 'tests.envs.test_make:WorldsimTestScreen-v0'"),
        ("tests.envs.test_make:Zzzz-v0", "'tests.envs.test_make:WorldsimTest"),
        ("math:Thing-v0", "importing math does not register it"),
    ],
)
def test_unknown_ids_get_a_hint(wrong, meant):
    with pytest.raises(UnknownEnvError) as error:
        make_env(EnvConfig(id=wrong))
    assert f"'{wrong}'" in str(error.value) and meant in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("env_id", "module", "extra"),
    [
        ("ALE/Pong-v5", "ale_py", "atari"),
        ("VizdoomBasic-v1", "vizdoom.gymnasium_wrapper", "vizdoom"),
        ("CarRacing-v3", "Box2D", "box2d"),
        ("MiniGrid-Empty-8x8-v0", "minigrid", "minigrid"),
    ],
)
def test_missing_extra_is_named(monkeypatch, env_id, module, extra):
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(MissingExtraError, match=rf"^env '{env_id}'.*pip install 'worldsim\[{extra}\]'$"):
        make_env(EnvConfig(id=env_id))


def test_missing_package_of_gymnasiums_own_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    for module in [name for name in sys.modules if name.startswith("gymnasium.envs.mujoco")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(MissingExtraError, match="gymnasium.mujoco"):
        make_env(EnvConfig(id="Ant-v5"))


def test_arguments_that_do_not_fit():
    with pytest.raises(
        ConfigError, match=r"^env 'CartPole-v1' cannot be made with env.kwargs=\{'gravity': 2\}.*'gravity'$"
    ):
        make_env(EnvConfig(id="CartPole-v1", kwargs={"gravity": 2}))
    with pytest.raises(ValueError, match="frame_skip"):
        EnvConfig(id="CartPole-v1", frame_skip=2)


class Pictures(gym.Env):
    """Frames of several shapes, nested, beside other leaves."""

    def __init__(self):
        grey, colour = spaces.Box(0, 255, (12, 20), np.uint8), spaces.Box(0, 255, (16, 16, 3), np.uint8)
        single = spaces.Box(0, 255, (24, 8, 1), np.uint8)
        self.observation_space = spaces.Dict(
            {
                "cameras": spaces.Tuple([grey, spaces.Dict({"front": colour, "depth": single})]),
                "counts": spaces.Box(0, 255, (3,), np.uint8),
                "speed": spaces.Box(-1, 1, (2,), np.float32),
                "gear": spaces.Discrete(4),
            }
        )
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.last = self.observation_space.sample()
        return self.last, {}


def test_every_image_leaf_is_resized_by_area_and_nothing_else_is_touched():
    inner = Pictures()
    env = ResizeImages(inner, (8, 8), ["cameras/0", "cameras/1/front", "cameras/1/depth"])
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    grey, others = observation["cameras"]
    assert grey.shape == (8, 8) and others["front"].shape == (8, 8, 3) and others["depth"].shape == (8, 8, 1)
    blocks = inner.last["cameras"][1]["front"].reshape(8, 2, 8, 2, 3).mean((1, 3))
    assert np.abs(others["front"] - blocks).max() <= 0.5
    for name in ("counts", "speed", "gear"):
        assert np.array_equal(observation[name], inner.last[name])
        assert env.observation_space[name] == inner.observation_space[name]


class Grids(gym.Env):
    """Channels first, depth without an upper bound, and a stack of more channels than OpenCV takes at once."""

    def __init__(self):
        self.observation_space = spaces.Dict(
            colour=spaces.Box(0, 255, (3, 32, 24), np.uint8),
            depth=spaces.Box(0, np.inf, (32, 24), np.float32),
            stack=spaces.Box(0, 1, (16, 12, 6), np.float64),
        )
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.observation_space.seed(seed)
        self.last = self.observation_space.sample()
        return self.last, {}


def test_fields_and_channels_in_front_are_resized_too_and_not_only_to_squares():
    inner = Grids()
    env = ResizeImages(inner, (16, 12), ["colour", "depth", "stack"])
    seen, _ = env.reset(seed=0)
    assert env.observation_space.contains(seen)
    colour = inner.last["colour"].reshape(3, 16, 2, 12, 2).mean((2, 4))
    assert np.abs(seen["colour"] - colour).max() <= 0.5
    np.testing.assert_allclose(seen["depth"], inner.last["depth"].reshape(16, 2, 12, 2).mean((1, 3)), rtol=1e-5)
    assert np.array_equal(seen["stack"], inner.last["stack"])


NO_PICTURES = {
    "classes": spaces.Box(
        0, 255, (9, 9, 3), np.uint8
    ),  # MiniGrid, fully observed: object, colour and state of each square
    "boolean": spaces.Box(0, 1, (8, 8, 111), np.bool_),  # chess planes
    "features": spaces.Box(-1e3, 1e3, (15, 8), np.float32),  # a table of vehicles
    "bounded": spaces.Box(0, 4, (40, 40, 3), np.uint8),  # classes of a larger board
    "planes": spaces.Box(0, 255, (40, 40, 2), np.uint8),
    "counts": spaces.Box(0, 255, (300,), np.uint8),
}
ARE_PICTURES = {
    "colour": spaces.Box(0, 255, (3, 96, 96), np.uint8),
    "grey": spaces.Box(0, 255, (210, 160), np.uint8),
    "alpha": spaces.Box(0, 255, (48, 64, 4), np.uint8),
    "stack": spaces.Box(0, 255, (4, 96, 96, 3), np.uint8),
}


def test_only_pictures_are_taken_for_pictures():
    space = spaces.Dict(NO_PICTURES | ARE_PICTURES)
    assert set(pictures(space)) == set(ARE_PICTURES)
    assert pictures(space, ["features", "colour"]) == ["features", "colour"]
    assert pictures(space, []) == []
    with pytest.raises(ConfigError, match="^env.images: 'depth' is not a grid of numbers.*; there are .*grey"):
        pictures(space, ["depth"])
    with pytest.raises(ConfigError, match="'counts' is not a grid"):
        pictures(space, ["counts"])


def test_boards_and_tables_of_others_pass_untouched():
    """MiniGrid, fully observed: averaged squares would be objects that do not exist."""
    from minigrid.wrappers import FullyObsWrapper

    from worldsim.envs.minigrid import NameSpaces

    inner = NameSpaces(FullyObsWrapper(gym.make("MiniGrid-DoorKey-8x8-v0")))
    board = inner.observation_space["image"]
    assert board.dtype == np.uint8 and board.shape == (8, 8, 3) and pictures(inner.observation_space) == []
    env = make_env(EnvConfig(id="MiniGrid-DoorKey-8x8-v0", resize=64))
    assert env.observation_space["image"].shape == (7, 7, 3) and "resized" not in env.metadata


def test_what_the_user_calls_a_picture_is_one(capsys, tmp_path):
    named = EnvConfig(id="tests.envs.test_make:WorldsimTestScreen-v0", resize=16, images=["value"])
    assert make_env(named).observation_space.shape == (16, 16, 3)
    assert make_env(named.model_copy(update={"images": []})).observation_space.shape == (400, 600, 3)
    with pytest.raises(ConfigError, match="env.images: 'camera' is not a grid"):
        make_env(named.model_copy(update={"images": ["camera"], "resize": None}))


def test_that_something_is_resized_is_said(capsys, tmp_path):
    env = EnvConfig(id="CarRacing-v3", resize=[48, 64])
    collect(CollectConfig(env=env, steps=4, num_envs=1, policy="random", out=tmp_path / "a"))
    assert "CarRacing-v3: resized value from 96x96 to 48x64 pixels (env.resize=null" in capsys.readouterr().err
    collect(CollectConfig(env=EnvConfig(id="CartPole-v1", resize=64), steps=4, num_envs=1, out=tmp_path / "b"))
    assert "resized" not in capsys.readouterr().err


def stacked_breakout(grey: bool):
    """Breakout with its last four frames in each observation, oldest first."""
    env = gym.make("ALE/Breakout-v5", obs_type="grayscale" if grey else "rgb", repeat_action_probability=0)
    return gym.wrappers.FrameStackObservation(env, 4)


gym.register("WorldsimTestStack-v0", lambda: stacked_breakout(grey=False))
gym.register("WorldsimTestGreyStack-v0", lambda: stacked_breakout(grey=True))


@pytest.mark.parametrize("grey", [False, True])
def test_frame_stacks_are_resized_frame_by_frame_and_the_newest_is_drawn(grey):
    pytest.importorskip("ale_py")
    name = f"tests.envs.test_make:WorldsimTest{'Grey' if grey else ''}Stack-v0"
    whole = make_env(EnvConfig(id=name, requires="atari"))
    small = make_env(EnvConfig(id=name, requires="atari", resize=[42, 40]))
    assert small.metadata["resized"] == "value from 210x160 to 42x40 pixels"
    for env in (whole, small):
        env.reset(seed=0)
    for action in (1, 2, 2, 2, 3):
        frames, observation = whole.step(action)[0], small.step(action)[0]
    channels = 1 if grey else 3
    assert small.observation_space.contains(observation)
    assert observation.shape == ((4, 42, 40) if grey else (4, 42, 40, 3))
    means = frames.reshape(4, 42, 5, 40, 4, channels).mean((2, 4))
    assert np.abs(observation.reshape(means.shape) - means).max() <= 0.5
    (leaf,) = leaves(small.observation_space)
    assert (leaf.kind, leaf.shape) == ("image", (42, 40, 4 * channels))
    picture = draw([leaf], flatten(small.observation_space, observation), height=42)
    newest = np.repeat(observation[-1][..., None], 3, -1) if grey else observation[-1]
    assert np.array_equal(picture, newest) and not np.array_equal(observation[-1], observation[0])


class Screen(gym.Env):
    observation_space = spaces.Box(0, 255, (400, 600, 3), np.uint8)
    action_space = spaces.Discrete(2)


gym.register("WorldsimTestScreen-v0", Screen)


@pytest.mark.parametrize(("resize", "shape"), [(8, (8, 8, 3)), ((24, 40), (24, 40, 3)), (None, (400, 600, 3))])
def test_the_size_is_a_number_two_or_none(resize, shape):
    space = make_env(EnvConfig(id="tests.envs.test_make:WorldsimTestScreen-v0", resize=resize)).observation_space
    assert space == spaces.Box(0, 255, shape, np.uint8)


def test_vizdoom_ends_on_the_last_frame_that_the_player_saw():
    env = make_env(load("vizdoom/defend_center"))
    observation, _ = env.reset(seed=1)
    over = False
    while not over:
        before = {name: value.copy() for name, value in observation.items()}
        observation, _, terminated, truncated, _ = env.step(0)  # who does nothing is killed
        over = terminated or truncated
    assert env.unwrapped.state is None, "ViZDoom now shows what an episode ends on: the adapter can go"
    assert before["screen"].std() > 10
    np.testing.assert_array_equal(observation["screen"], before["screen"])
    np.testing.assert_array_equal(observation["gamevariables"], before["gamevariables"])
    env.close()


MINIGRIDS = [
    "MiniGrid-Empty-8x8-v0",
    "MiniGrid-Fetch-8x8-N3-v0",  # 60 missions
    "MiniGrid-PutNear-8x8-N3-v0",  # 324 missions
    "MiniGrid-Dynamic-Obstacles-6x6-v0",  # 3 actions
    "MiniGrid-LavaGapS7-v0",
    "MiniGrid-Playground-v0",  # an empty mission
]


@pytest.mark.parametrize("env_id", MINIGRIDS)
def test_minigrid_is_classes_and_a_text_with_nothing_lost(env_id):
    import minigrid  # noqa: F401

    env, bare = make_env(EnvConfig(id=env_id)), gym.make(env_id)
    assert {leaf.kind for leaf in leaves(env.observation_space)} == {"categorical", "text"}
    assert env.observation_space["image"].nvec.reshape(-1, 3).tolist() == [[11, 6, 3]] * 49
    missions = env.observation_space["mission"]
    bare.observation_space.seed(0)
    drawn = [bare.observation_space["mission"].sample() for _ in range(100)]
    assert all(missions.contains(mission) for mission in drawn)
    assert missions.max_length == max(1, *map(len, drawn))
    for seed in range(5):
        (seen, _), (truth, _) = env.reset(seed=seed), bare.reset(seed=seed)
        for action in [2, 1, 2, 0, 2, 2]:
            assert env.observation_space.contains(seen)
            back = unflatten(env.observation_space, flatten(env.observation_space, seen))
            assert np.array_equal(back["image"], truth["image"]) and back["image"].dtype == np.uint8
            assert (back["mission"], back["direction"]) == (truth["mission"], truth["direction"])
            seen, truth = env.step(action)[0], bare.step(action)[0]
    names = ["left", "right", "forward", "pickup", "drop", "toggle", "done"]
    assert env.metadata["action_names"] == names[: env.action_space.n] and bare.metadata.get("action_names") is None


def test_levels_of_ones_own_and_pictures_of_minigrid():
    env = make_env(EnvConfig(id="tests.envs.minigrids:WorldsimTestLevel-v0"))
    seen, _ = env.reset(seed=0)
    assert env.observation_space.contains(seen) and seen["mission"] in ("see the red one", "see the blue one")
    assert env.observation_space["image"].shape == (5, 5, 3)
    env = make_env(EnvConfig(id="tests.envs.minigrids:WorldsimTestPixels-v0", resize=32))
    seen, _ = env.reset(seed=0)
    kinds = {leaf.name: leaf.kind for leaf in leaves(env.observation_space)}
    assert kinds["image"] == "image" and seen["image"].shape == (32, 32, 3) and env.observation_space.contains(seen)


def test_babyai_has_no_known_set_of_missions():
    with pytest.raises(SpaceMismatchError, match="^mission is a BabyAIMissionSpace; use "):
        leaves(make_env(EnvConfig(id="BabyAI-GoToRedBall-v0")).observation_space)
