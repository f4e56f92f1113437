"""Makes any Gymnasium environment, by its id, from a configuration."""

import difflib
import importlib
import re
import sys
from functools import partial
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Annotated, Any, Literal, NamedTuple

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from pydantic import Field

from worldsim.envs.checked import Checked, CurrentAPI, WholeInfo
from worldsim.errors import ConfigError, EnvError, MissingExtraError, UnknownEnvError
from worldsim.modules import load_module
from worldsim.settings import Policy, Settings, StepCount
from worldsim.spaces import leaves


class Provider(NamedTuple):
    """A package that environments need; importing it registers them with Gymnasium."""

    module: str
    prefix: str | tuple[str, ...]  # of its environments' ids


PROVIDERS = {  # by the extra that installs it
    "atari": Provider("ale_py", "ALE/"),
    "vizdoom": Provider("vizdoom.gymnasium_wrapper", "Vizdoom"),
    "box2d": Provider("Box2D", ("CarRacing", "LunarLander", "BipedalWalker")),
    "minigrid": Provider("minigrid", ("MiniGrid-", "BabyAI-")),
}


ImageSize = Annotated[int, Field(ge=8, le=1024)]


class EnvConfig(Settings):
    """A source environment, and how its episodes are judged. `worldsim/configs/env` holds ready ones."""

    id: str = Field(description='Gymnasium id; "module:Name-v0" imports the module first, also from the current folder')
    kwargs: dict[str, Any] = Field({}, description="the environment's own arguments, e.g. env.kwargs.continuous=false")
    resize: ImageSize | tuple[ImageSize, ImageSize] | None = Field(
        None, description="size of images in pixels: 64, or [96,128] for height and width; null: unchanged"
    )
    images: list[str] | None = Field(
        None, description="names of the leaves that are images, [screen]; null: uint8 grids of 32 pixels or more"
    )
    max_episode_steps: StepCount | None = Field(
        None, description="steps until truncation; null: the environment's own limit"
    )
    requires: Literal["atari", "vizdoom", "box2d", "minigrid"] | None = Field(
        None, description="the extra that installs it; null: inferred from the id"
    )
    agents: dict[str, str] = Field({}, description="reference agents: name to package.module:factory")
    policy: Policy | None = Field(
        None,
        description="policy that collects rollouts: an agent, or {agent: weight}, drawn for each episode; null: random",
    )
    epsilon: float = Field(
        0.0, ge=0, le=1, description="probability of a uniform random action instead, at each step of collection"
    )
    success_return: float | None = Field(
        None, description="an episode succeeds when its return is at least this; null: not judged"
    )
    violation_reward: float | None = Field(
        None, description="a step whose reward is at most this is a violation; null: not judged"
    )


def make_env(config: EnvConfig, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """The environment, with images resized. Its resets and steps raise EnvError for values outside the spaces.

    Raises UnknownEnvError with the nearest names, MissingExtraError naming what to install, EnvError where it is not a
    `gymnasium.Env` or its spaces cannot be used, and ConfigError for wrong arguments or a user's module that cannot be
    imported.
    """
    # The order of the wrappers matters: `Checked` sees the final names, but images before they are resized.
    _register(config)
    kwargs = config.kwargs if render_mode is None else {**config.kwargs, "render_mode": render_mode}
    try:
        # disable_env_checker: `Checked` below replaces Gymnasium's checker.
        env = gym.make(config.id, config.max_episode_steps, disable_env_checker=True, **kwargs)
    except (gym.error.Error, ImportError, TypeError) as error:
        raise _explained(error, config) from error
    env = _with_current_api(env, config.id)
    if config.id.startswith(PROVIDERS["vizdoom"].prefix):
        from worldsim.envs.vizdoom import KeepLastObservation

        env = KeepLastObservation(env)
    if PROVIDERS["minigrid"].module in sys.modules:  # also for the user's own levels
        from worldsim.envs.minigrid import NameSpaces, has_missions

        env = NameSpaces(env) if has_missions(getattr(env, "observation_space", None)) else env
    env = Checked(env, config.id)
    if config.resize is None and config.images is None:
        return env
    from worldsim.envs.resize import ResizeImages, pictures

    images = pictures(env.observation_space, config.images)
    if config.resize is None:
        return env
    size = (config.resize, config.resize) if isinstance(config.resize, int) else config.resize
    others = [leaf.name for leaf in leaves(env.observation_space) if leaf.name in images and leaf.shape[:2] != size]
    return ResizeImages(env, size, others) if others else env


def make_vec(config: EnvConfig, num_envs: int, workers: int = 0) -> gym.vector.VectorEnv[Any, Any, Any]:
    """A vector environment of `num_envs` environments in this process, or with `workers` > 1 in a process each.

    A finished environment is reset by its next step (autoreset mode NEXT_STEP). `info_of(infos, i)` gives the info of
    environment i. Raises what `make_env` raises.
    """
    makers = [partial(_make_with_whole_info, config)] * num_envs
    mode = gym.vector.AutoresetMode.NEXT_STEP
    if workers > 1:
        return gym.vector.AsyncVectorEnv(makers, autoreset_mode=mode)
    return gym.vector.SyncVectorEnv(makers, autoreset_mode=mode)


def _make_with_whole_info(config: EnvConfig) -> gym.Env[Any, Any]:
    return WholeInfo(make_env(config))


def _with_current_api(env: gym.Env[Any, Any], name: str) -> gym.Env[Any, Any]:
    """The environment with `CurrentAPI` innermost, inside Gymnasium's own wrappers, which need the current API."""
    if not isinstance(env, gym.Wrapper):
        return CurrentAPI(env, name)
    layer = env
    while isinstance(layer.env, gym.Wrapper):
        layer = layer.env
    layer.env = CurrentAPI(layer.env, name)
    return env


def env_modules(config: EnvConfig) -> set[str]:
    """The modules that define and register the environment and its wrappers. Raises what `make_env` raises."""
    make_env(config).close()
    module, _, name = config.id.rpartition(":")
    spec = gym.registry[name]
    entries = [spec.entry_point, *(each.entry_point for each in spec.additional_wrappers)]
    written = {each.partition(":")[0] if isinstance(each, str) else each.__module__ for each in entries if each}
    return written | ({module} if module else set())


def config_names() -> list[str]:
    """Names of the ready configurations, as `env=` takes them: refund_desk, atari/breakout, ..."""

    def below(folder: Traversable, prefix: str) -> list[str]:
        names: list[str] = []
        for entry in folder.iterdir():
            if entry.is_dir():
                names += below(entry, f"{prefix}{entry.name}/")
            elif entry.name.endswith(".yaml"):
                names.append(prefix + entry.name.removesuffix(".yaml"))
        return names

    return sorted(below(files("worldsim") / "configs" / "env", ""))


def _register(config: EnvConfig) -> None:
    """Imports the package, or the user's module, that registers the environment."""
    module, colon, _ = config.id.rpartition(":")
    if colon:
        load_module(module, f"env '{config.id}'")
    for extra, provider in PROVIDERS.items():
        if config.requires == extra or config.id.startswith(provider.prefix):
            try:
                importlib.import_module(provider.module)
            except ImportError as error:
                raise MissingExtraError(f"env '{config.id}' needs {extra}: pip install 'worldsim[{extra}]'") from error


def _explained(error: Exception, config: EnvConfig) -> Exception:
    """An error of `gym.make` as a WorldsimError; a TypeError that is not about arguments is returned unchanged."""
    reason = " ".join(str(error).split()).partition(" was raised from")[0]
    registered = config.id.rpartition(":")[2] in gym.registry
    if isinstance(error, gym.error.UnregisteredEnv) or not registered:
        return UnknownEnvError(f"there is no env '{config.id}'{_hint(config.id)}")
    if isinstance(error, gym.error.DependencyNotInstalled | ImportError):
        return MissingExtraError(f"env '{config.id}' needs another package: {reason}")
    if isinstance(error, TypeError) and re.search("must inherit from|incompatible with Gymnasium", reason):
        return EnvError(f"env '{config.id}' is not a gymnasium.Env; derive it from that class")
    if isinstance(error, TypeError) and "argument" not in reason:
        return error
    return ConfigError(f"env '{config.id}' cannot be made with env.kwargs={config.kwargs}: {reason}")


def _hint(env_id: str) -> str:
    """The end of a message: similar ids, with the user's module if one was given."""
    module, colon, name = env_id.rpartition(":")
    registered = [each for each, spec in sorted(gym.registry.items()) if colon and _comes_from(spec, module)]
    registered.sort(
        key=lambda each: _written_in(gym.registry[each]) != module
    )  # those of other modules of its package last
    _import_providers()
    names = {each.lower(): each for each in registered or (*sorted(gym.registry), *config_names())}
    likeness = 0.8 if colon else 0.6  # with a module, an id from elsewhere is seldom meant
    near = [names[each] for each in difflib.get_close_matches(name.lower(), names, n=3, cutoff=likeness)] or registered[
        :3
    ]
    near = near or registered[:3]
    if near:
        return f". Did you mean {' or '.join(repr(module + colon + each) for each in near)}?"
    if colon:
        return f"; importing {module} does not register it"
    return f"; name any Gymnasium id, or one of {', '.join(config_names())}"


def _comes_from(spec: EnvSpec, module: str) -> bool:
    """Whether an environment's entry point is in the module or its package."""
    return _written_in(spec).partition(".")[0] == module.partition(".")[0]


def _written_in(spec: EnvSpec) -> str:
    """The module of an environment's entry point."""
    entry = spec.entry_point
    return entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", "")


def _import_providers() -> None:
    for provider in PROVIDERS.values():
        try:
            importlib.import_module(provider.module)
        except ImportError:
            continue
