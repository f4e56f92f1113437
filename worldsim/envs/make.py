"""Any Gymnasium environment, by its id, from a configuration."""

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
    """A package that environments need; importing it registers those that Gymnasium does not know by itself."""

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

    id: str = Field(description='Gymnasium id; "module:Name-v0" imports the module first, from the current folder, too')
    kwargs: dict[str, Any] = Field({}, description="the environment's own arguments, e.g. env.kwargs.continuous=false")
    resize: ImageSize | tuple[ImageSize, ImageSize] | None = Field(
        None, description="pictures get so many pixels: 64, or [96,128] for height and width; null: as they are"
    )
    images: list[str] | None = Field(
        None, description="parts of the observation that are pictures, [screen]; null: uint8 of 32 pixels or more"
    )
    max_episode_steps: StepCount | None = Field(
        None, description="steps until truncation; null: the environment's own limit"
    )
    requires: Literal["atari", "vizdoom", "box2d", "minigrid"] | None = Field(
        None, description="extra that installs it; null: known from the id"
    )
    agents: dict[str, str] = Field({}, description="reference agents: name to package.module:factory")
    policy: Policy | None = Field(
        None, description="what collects rollouts: an agent, or {agent: weight}, drawn for each episode; null: random"
    )
    epsilon: float = Field(
        0.0, ge=0, le=1, description="probability, per step of collection, of a uniform action instead"
    )
    success_return: float | None = Field(
        None, description="an episode succeeds when its return is at least this; null: not judged"
    )
    violation_reward: float | None = Field(
        None, description="a step whose reward is at most this is a violation; null: not judged"
    )


def make_env(config: EnvConfig, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """The environment, with its pictures resized. Its resets and steps raise EnvError for values that are not allowed.

    Raises UnknownEnvError with the nearest names, MissingExtraError naming what to install, EnvError for what is no
    environment or has no usable spaces, and ConfigError for arguments that the environment does not take or a module of
    the user's that cannot be imported.
    """
    _register(config)
    kwargs = config.kwargs if render_mode is None else {**config.kwargs, "render_mode": render_mode}
    try:
        # Gymnasium's own checker says less than ours, in tracebacks.
        env = gym.make(config.id, config.max_episode_steps, disable_env_checker=True, **kwargs)
    except (gym.error.Error, ImportError, TypeError) as error:
        raise _explained(error, config) from error
    env = _with_current_api(env, config.id)
    if config.id.startswith(PROVIDERS["vizdoom"].prefix):
        from worldsim.envs.vizdoom import KeepLastObservation

        env = KeepLastObservation(env)
    if PROVIDERS["minigrid"].module in sys.modules:  # also for levels of the user's own
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
    """`num_envs` environments side by side, in this process, or with `workers` > 1 each in a process of its own.

    A finished environment is reset by its next step (autoreset mode NEXT_STEP). `info_of(infos, i)` is the info of
    environment i as it gave it. Raises what `make_env` raises.
    """
    makers = [partial(_make_with_whole_info, config)] * num_envs
    mode = gym.vector.AutoresetMode.NEXT_STEP
    if workers > 1:
        return gym.vector.AsyncVectorEnv(makers, autoreset_mode=mode)
    return gym.vector.SyncVectorEnv(makers, autoreset_mode=mode)


def _make_with_whole_info(config: EnvConfig) -> gym.Env[Any, Any]:
    return WholeInfo(make_env(config))


def _with_current_api(env: gym.Env[Any, Any], name: str) -> gym.Env[Any, Any]:
    """The environment with `CurrentAPI` right around its core: what Gymnasium has put around it counts on that."""
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
    """Import the package, or the user's module, that registers the environment."""
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
    """The error in the user's terms; a TypeError that is not about the arguments stays what it is."""
    reason = " ".join(str(error).split()).partition(" was raised from")[0]
    registered = config.id.rpartition(":")[2] in gym.registry
    if isinstance(error, gym.error.UnregisteredEnv) or not registered:
        return UnknownEnvError(f"there is no env '{config.id}'{_hint(config.id)}")
    if isinstance(error, gym.error.DependencyNotInstalled | ImportError):
        return MissingExtraError(f"env '{config.id}' needs another package: {reason}")
    if isinstance(error, TypeError) and re.search("must inherit from|incompatible with Gymnasium", reason):
        return EnvError(f"env '{config.id}' is no gymnasium.Env; derive it from that class")
    if isinstance(error, TypeError) and "argument" not in reason:
        return error
    return ConfigError(f"env '{config.id}' cannot be made with env.kwargs={config.kwargs}: {reason}")


def _hint(env_id: str) -> str:
    """The ids that may have been meant, as they are typed: with the user's module where there is one."""
    module, colon, name = env_id.rpartition(":")
    registered = [each for each, spec in sorted(gym.registry.items()) if colon and _comes_from(spec, module)]
    registered.sort(key=lambda each: _written_in(gym.registry[each]) != module)  # its package's others last
    _import_providers()
    names = {each.lower(): each for each in registered or (*sorted(gym.registry), *config_names())}
    likeness = 0.8 if colon else 0.6  # whoever names a module seldom means an environment of somebody else's
    near = [names[each] for each in difflib.get_close_matches(name.lower(), names, n=3, cutoff=likeness)] or registered[
        :3
    ]
    near = near or registered[:3]
    if near:
        return f". Did you mean {' or '.join(repr(module + colon + each) for each in near)}?"
    if colon:
        return f"; importing {module} registers none of that name"
    return f"; name any Gymnasium id, or one of {', '.join(config_names())}"


def _comes_from(spec: EnvSpec, module: str) -> bool:
    """Whether an environment was registered with a class or a function of the module, or of its package."""
    return _written_in(spec).partition(".")[0] == module.partition(".")[0]


def _written_in(spec: EnvSpec) -> str:
    """The module of the class or function that makes the environment."""
    entry = spec.entry_point
    return entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", "")


def _import_providers() -> None:
    for provider in PROVIDERS.values():
        try:
            importlib.import_module(provider.module)
        except ImportError:
            continue
