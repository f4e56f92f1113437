"""Agents: policies, programs or models that choose actions. They collect rollouts, and are stress-tested.

An agent is named by a spec, a plain string:

| spec                  | agent                                                                                        |
|-----------------------|----------------------------------------------------------------------------------------------|
| a name of the env's   | a reference agent of the environment's configuration, e.g. `careful`                         |
| `random`              | uniform over the action space                                                                |
| `biased:1=0.3`        | Discrete actions: action 1 with probability 0.3, all others alike; `1=0.3,2=0.2` for several |
| `sticky`, `sticky:0.9` | repeats its last action with that probability (0.8), else a uniform one                     |
| `pkg.module:factory`  | `factory(observation_space, action_space)`; the current folder is searched, too              |
| `path/to/agent.zip`   | a Stable-Baselines3 file of any algorithm. It is unpickled: load only files you trust        |

The VecNormalize statistics of an agent are read from a file beside the agent's file (worldsim.stable_baselines).
"""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from worldsim.errors import ConfigError
from worldsim.modules import load_module
from worldsim.spaces import Space

BUILT_IN = ("random", "sticky", "biased")


class Agent(Protocol):
    """Chooses actions. `reset` starts an episode and seeds all randomness; `act` maps an observation to an action."""

    def reset(self, seed: int) -> None: ...

    def act(self, observation: Any, info: Mapping[str, Any]) -> Any: ...


class RandomAgent:
    """Uniform over the action space; if info has an `action_mask`, over the allowed actions.

    A mask has the form that Gymnasium's `sample(mask)` takes: for a Discrete space (n,), 1 where allowed, and so on.
    """

    def __init__(self, observation_space: Space, action_space: Space):
        self.action_space = deepcopy(action_space)  # with a generator of its own

    def reset(self, seed: int) -> None:
        self.action_space.seed(seed)

    def act(self, observation: Any, info: Mapping[str, Any]) -> Any:
        mask = info.get("action_mask")
        return self.action_space.sample() if mask is None else self.action_space.sample(_mask(self.action_space, mask))


class StickyRandom:
    """Repeats its last action with probability `repeat`, else draws a uniform one: it explores further than noise."""

    def __init__(self, observation_space: Space, action_space: Space, repeat: float = 0.8):
        if not 0 <= repeat < 1:
            raise ConfigError(f"sticky:{repeat} must repeat with a probability in [0, 1), e.g. sticky:0.8")
        self.repeat = repeat
        self.random = RandomAgent(observation_space, action_space)
        self.rng = np.random.default_rng(0)
        self.last: Any = None

    def reset(self, seed: int) -> None:
        self.random.reset(seed)
        self.rng = np.random.default_rng([seed, 1])
        self.last = None

    def act(self, observation: Any, info: Mapping[str, Any]) -> Any:
        stays = self.last is not None and self.rng.random() < self.repeat
        if not stays or not _allowed(self.random.action_space, info, self.last):
            self.last = self.random.act(observation, info)
        return self.last


class BiasedRandom:
    """Draws Discrete actions with given probabilities; the other actions share the remaining probability equally."""

    def __init__(self, observation_space: Space, action_space: Space, probabilities: Mapping[int, float]):
        if not isinstance(action_space, gym.spaces.Discrete):
            raise ConfigError(f"biased needs a Discrete action space, not {type(action_space).__name__}; try random")
        first, count = int(action_space.start), int(action_space.n)
        unknown = [a for a in probabilities if not first <= a < first + count]
        if unknown:
            raise ConfigError(f"biased: there is no action {unknown[0]}, actions are {first} to {first + count - 1}")
        left = 1 - sum(probabilities.values())
        others = count - len(probabilities)
        if min(probabilities.values()) < 0 or left < -1e-9 or (others == 0 and left > 1e-9):
            raise ConfigError(
                f"biased: probabilities {dict(probabilities)} must not be negative and must sum to at most 1"
            )
        share = max(0.0, left) / max(1, others)
        self.actions = np.arange(first, first + count)
        self.action_space = action_space
        self.probabilities = np.array([probabilities.get(int(a), share) for a in self.actions])
        self.cumulative = np.cumsum(self.probabilities)
        self.rng = np.random.default_rng(0)

    def reset(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def act(self, observation: Any, info: Mapping[str, Any]) -> Any:
        mask = info.get("action_mask")
        cumulative = self.cumulative
        if mask is not None:
            left = self.probabilities * _mask(self.action_space, mask)
            cumulative = np.cumsum(left) if left.any() else cumulative
        index = np.searchsorted(cumulative, self.rng.random() * cumulative[-1], side="right")
        return self.actions[index]


class Mixture:
    """Draws one of several agents for each episode; each step takes a uniform action with probability `epsilon`."""

    def __init__(self, agents: Mapping[str, tuple[Agent, float]], action_space: Space, epsilon: float = 0.0):
        """`agents` maps a name to an agent and its weight (positive, any scale)."""
        self.names = list(agents)
        self.agents = {name: agent for name, (agent, _) in agents.items()}
        weights = np.array([weight for _, weight in agents.values()], float)
        if not agents or not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
            shown = {name: weight for name, (_, weight) in agents.items()}
            raise ConfigError(f"the weights of policy {shown} must not be negative, and one must be above 0")
        if not 0 <= epsilon <= 1:
            raise ConfigError(f"epsilon={epsilon} must be a probability, in [0, 1]")
        self.shares = weights / weights.sum()
        self.epsilon = epsilon
        self.noise = RandomAgent(action_space, action_space)
        self.rng = np.random.default_rng(0)
        self.drawn = self.names[0]  # name of the agent of this episode

    def reset(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.drawn = self.names[int(self.rng.choice(len(self.names), p=self.shares))]
        self.noise.reset(int(self.rng.integers(2**31)))
        self.agents[self.drawn].reset(int(self.rng.integers(2**31)))

    def act(self, observation: Any, info: Mapping[str, Any]) -> Any:
        if self.epsilon and self.rng.random() < self.epsilon:
            return self.noise.act(observation, info)
        return self.agents[self.drawn].act(observation, info)


def make_agent(
    spec: str, observation_space: Space, action_space: Space, known: Mapping[str, str] | None = None
) -> Agent:
    """The agent that `spec` names (see the table above); `known`: an environment's names for factories or files.

    Raises ConfigError for an unknown name or an unusable factory, MissingExtraError without Stable-Baselines3.
    """
    known = known or {}
    if known.get(spec, spec).endswith(".zip"):
        from worldsim.stable_baselines import StableBaselines

        return StableBaselines(known.get(spec, spec), observation_space, action_space)
    # The environment's names take precedence: its configuration may call an agent "sticky".
    if spec in known:
        return _from_factory(known[spec], observation_space, action_space)
    name, _, argument = spec.partition(":")
    if name == "random" and not argument:
        return RandomAgent(observation_space, action_space)
    if name == "sticky":
        repeat = _number(argument, spec) if argument else 0.8
        return StickyRandom(observation_space, action_space, repeat)
    if name == "biased":
        pairs = [pair.partition("=") for pair in argument.split(",")]
        probabilities = {_action(action, spec): _number(value, spec) for action, _, value in pairs}
        if len(probabilities) < len(pairs):  # else the last one would silently win
            raise ConfigError(f"agent '{spec}' names an action twice; name each once")
        return BiasedRandom(observation_space, action_space, probabilities)
    if argument:
        return _from_factory(spec, observation_space, action_space)
    raise ConfigError(f"there is no agent '{spec}'{_hint(spec, [*known, *BUILT_IN])}")


def modules_of(specs: Iterable[str], known: Mapping[str, str]) -> list[str]:
    """The user's modules that these specs name; built-in agents and files have none."""
    targets = [known.get(spec, spec).partition(":") for spec in specs]
    return [module for module, colon, _ in targets if colon and module not in BUILT_IN]


def make_policy(
    policy: str | Mapping[str, float],
    observation_space: Space,
    action_space: Space,
    known: Mapping[str, str] | None = None,
    epsilon: float = 0.0,
) -> Mixture:
    """One spec, or specs with weights, as a Mixture."""
    weights = {policy: 1.0} if isinstance(policy, str) else policy
    agents = {s: (make_agent(s, observation_space, action_space, known), w) for s, w in weights.items()}
    return Mixture(agents, action_space, epsilon)


def _from_factory(spec: str, observation_space: Space, action_space: Space) -> Agent:
    module_name, _, attribute = spec.partition(":")
    module = load_module(module_name, f"agent '{spec}'")
    factory: Callable[[Space, Space], Any] | None = getattr(module, attribute, None)
    if not callable(factory):
        raise ConfigError(f"agent '{spec}': {module_name} has no callable '{attribute}'{_hint(attribute, dir(module))}")
    try:
        agent = factory(observation_space, action_space)
    except TypeError as error:
        raise ConfigError(f"agent '{spec}' must take (observation_space, action_space): {error}") from error
    if not (callable(getattr(agent, "act", None)) and callable(getattr(agent, "reset", None))):
        raise ConfigError(f"agent '{spec}' must be a factory of objects with reset(seed) and act(observation, info)")
    return agent  # type: ignore[no-any-return]


def _mask(space: Space, mask: Any) -> Any:
    """A mask in the form that `space.sample` takes. Raises ConfigError for a wrong shape."""
    if isinstance(space, gym.spaces.Dict):
        return {key: _mask(inner, mask[key]) for key, inner in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(_mask(*both) for both in zip(space.spaces, mask, strict=True))
    if isinstance(space, gym.spaces.MultiDiscrete) and space.nvec.ndim == 1:
        flat = np.ndim(mask[0]) == 0  # some environments concatenate the masks of all variables
        each = np.split(np.asarray(mask), np.cumsum(space.nvec)[:-1]) if flat else mask
        parts = [gym.spaces.Discrete(count) for count in space.nvec]
        return tuple(_mask(*both) for both in zip(parts, each, strict=True))
    if not isinstance(space, gym.spaces.Discrete):
        return mask
    allowed = np.asarray(mask).astype(np.int8)
    if allowed.shape != (space.n,):
        raise ConfigError(f"info['action_mask'] has the shape {allowed.shape}, and {space} needs ({space.n},)")
    return allowed


def _allowed(space: Space, info: Mapping[str, Any], action: Any) -> bool:
    """Whether the mask allows to repeat an action; with a mask, False for spaces other than Discrete."""
    mask = info.get("action_mask")
    return mask is None or (isinstance(space, gym.spaces.Discrete) and bool(_mask(space, mask)[action - space.start]))


def _number(text: str, spec: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"agent '{spec}': '{text}' is not a number; write sticky:0.8 or biased:1=0.3")
    return number


def _action(text: str, spec: str) -> int:
    number = _number(text, spec)
    if not number.is_integer():
        raise ConfigError(f"agent '{spec}': there is no action {text}, actions are whole numbers; write biased:1=0.3")
    return int(number)


def _hint(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f". Did you mean '{close[0]}'?"
    names = ", ".join(n for n in known if not n.startswith("_"))
    return f"; known: {names}, or write pkg.module:factory" if len(names) < 300 else ""
