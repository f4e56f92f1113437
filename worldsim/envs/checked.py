"""Wrappers for environments of users: adapt older interfaces, and check every value that reset and step return.

A value outside its space would be cast when recorded, measured as it is, and clipped when served: three different
values. So the first such value raises an error. Unambiguous deviations (a list, a float64, a reward of shape (1,)) are
converted to what the space asks for.
"""

import inspect
from collections.abc import Mapping
from copy import copy, deepcopy
from typing import Any, NamedTuple, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.errors import EnvError
from worldsim.spaces import Leaf, Space

Info = dict[str, Any]
NUMBERS = "biuf"  # kinds of NumPy types that are numbers
ROUNDING = 1e-5  # times 1 + |bound|: a value this far outside is a rounding error and is set to the bound
LARGEST = float(np.finfo(np.float32).max)  # rewards are stored as float32


class CurrentAPI(gym.Wrapper[Any, Any, Any, Any]):
    """Gymnasium's reset and step around an environment that was written for an older interface.

    A reset need not take `seed` or `options` nor return an info; a step may return four values, whose `done` is a
    truncation where info["TimeLimit.truncated"] says so (https://gymnasium.farama.org/introduction/migration_guide).
    """

    def __init__(self, env: gym.Env[Any, Any], name: str):
        super().__init__(env)
        self.name = name
        self._taken = _parameters(env.reset)

    @property
    def spec(self) -> Any:  # type: ignore[override]  # Gymnasium's wrappers have it so
        return self.env.spec  # of the wrapped environment, without this wrapper

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Any, Info]:
        if "seed" not in self._taken and seed is not None:
            self._seed(seed)
        given: Info = {"seed": seed} if "seed" in self._taken else {}
        if "options" in self._taken or options:
            given["options"] = options
        result = self.env.reset(**given)
        return result if self._has_info(result) else (result, {})

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Info]:
        result: Any = self.env.step(action)
        if isinstance(result, tuple) and len(result) == 5:
            return result
        if not isinstance(result, tuple) or len(result) != 4:
            got = f"{len(result)} values" if isinstance(result, tuple) else _shown(result)
            raise EnvError(
                f"env '{self.name}': step returned {got}; return observation, reward, terminated, truncated, info"
            )
        observation, reward, done, info = result
        cut = done and isinstance(info, Mapping) and info.get("TimeLimit.truncated", False)
        return observation, reward, done and not cut, cut, info

    def _seed(self, seed: int) -> None:
        old_seed = getattr(self.env, "seed", None)  # of Gym before 0.26
        if callable(old_seed):
            old_seed(seed)
            return
        gym.Env.reset(self.env, seed=seed)  # seeds np_random, and does nothing else
        gym.logger.warn(
            f"env '{self.name}' takes no seed: unless it draws from self.np_random its episodes cannot be repeated; "
            "give its reset a parameter `seed`"
        )

    def _has_info(self, result: Any) -> bool:
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping | None)):
            return False
        space = self.env.observation_space
        alike = isinstance(space, spaces.Tuple) and len(space) == 2 and isinstance(space[1], spaces.Dict)
        return not (alike and space.contains(result))


class Checked(gym.Wrapper[Any, Any, Any, Any]):
    """Returns only values that its spaces and Gymnasium allow, copied; raises EnvError for others.

    Observations are members of the space, of its type, finite; rewards finite floats; endings bools; infos dicts.
    """

    def __init__(self, env: gym.Env[Any, Any], name: str):
        super().__init__(env)
        self.name, self._step = name, 0
        for what in ("observation_space", "action_space"):
            _check_space(name, what, getattr(env, what, None))

    @property
    def spec(self) -> Any:  # type: ignore[override]  # Gymnasium's wrappers have it so
        return self.env.spec

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Any, Info]:
        self._step = 0
        observation, info = self.env.reset(seed=seed, options=options)
        return self._observation(observation), self._info(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Info]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._step += 1
        ends = self._flag("terminated", terminated), self._flag("truncated", truncated)
        return self._observation(observation), self._reward(reward), *ends, self._info(info)

    def _observation(self, value: Any) -> Any:
        return fitted(self.env.observation_space, value, ValueLocation(f"{self._here}: observation"))

    def _reward(self, value: Any) -> float:
        number = _single(value)
        if number is None or not abs(number) <= LARGEST:  # also NaN
            raise EnvError(f"{self._here}: reward is {_shown(value)}; return one finite number")
        return number

    def _flag(self, what: str, value: Any) -> bool:
        if isinstance(value, bool):
            return value
        number = 0.0 if value is None else _single(value)
        if number not in (0, 1):
            raise EnvError(f"{self._here}: {what} is {_shown(value)}; return True or False")
        return bool(number)

    def _info(self, value: Any) -> Info:
        if value is not None and not isinstance(value, dict):
            raise EnvError(f"{self._here}: info is {_shown(value)}; return a dict")
        return value or {}

    @property
    def _here(self) -> str:
        return f"env '{self.name}', " + (f"step {self._step}" if self._step else "reset")


class ValueLocation(NamedTuple):
    """The value, or the part of a value, that an error message is about."""

    where: str  # "env 'Name-v0', step 3: observation"
    path: tuple[str | int, ...] = ()

    def below(self, step: str | int) -> "ValueLocation":
        return ValueLocation(self.where, (*self.path, step))

    def refuse(self, wrong: str, fix: str) -> NoReturn:
        key = f" '{'/'.join(map(str, self.path))}'" if self.path else ""
        raise EnvError(" ".join(f"{self.where}{key} {wrong}; {fix}".split()))

    def check_all(self, holds: NDArray[np.bool_], array: NDArray[Any], wrong: str, fix: str) -> None:
        """Raises EnvError with the first number for which `holds` is False, and its index."""
        if not np.all(holds):
            first = tuple(int(i) for i in np.argwhere(~holds)[0])
            self.refuse(f"has {array[first]} at {list(first)}, {wrong}" if first else f"is {array}, {wrong}", fix)


def fitted(space: Space, value: Any, place: ValueLocation) -> Any:
    """The value as a member of its space, copied.

    Raises EnvError unless it is a member or unambiguously converts to one: a list for an array, another numeric type,
    more or fewer axes of length 1, a bound exceeded by rounding.
    """
    if isinstance(space, spaces.Dict):
        return _fitted_dict(space, value, place)
    if isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple | list) or len(value) != len(space):
            place.refuse(f"is {_shown(value)}", f"return a tuple of {len(space)}")
        parts = zip(space, value, strict=True)
        return tuple(fitted(inner, part, place.below(i)) for i, (inner, part) in enumerate(parts))
    if isinstance(space, spaces.Text):
        if not isinstance(value, str) or not space.contains(value):
            place.refuse(f"is {_shown(value)}, not in {space}", "return such a text, or widen the space")
        return value
    if isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return copy(value) if _is_member(space, value) else _fitted_numbers(space, value, place)
    return deepcopy(value)  # other spaces cannot be learned, but agents can be tested in them


def _fitted_dict(space: spaces.Dict, value: Any, place: ValueLocation) -> Info:
    if not isinstance(value, Mapping):
        place.refuse(f"is {_shown(value)}", f"return a dict with the keys {', '.join(map(str, space))}")
    for key in space:
        if key not in value:
            place.below(key).refuse("is missing", "return it, or take it out of the observation space")
    for key in value:
        if key not in space.spaces:
            place.below(key).refuse("is not in the observation space", "add it there, or leave it out")
    return {key: fitted(inner, value[key], place.below(key)) for key, inner in space.items()}


def _is_member(space: Space, value: Any) -> bool:
    """Whether a value is a member without conversion: the fast path, ten times as fast as `_fitted_numbers`."""
    low, high = _bounds(space)
    if isinstance(space, spaces.Discrete):
        return isinstance(value, int | np.integer) and type(value) is not bool and bool(low <= value <= high)
    if type(value) is not np.ndarray or value.dtype != space.dtype or value.shape != space.shape:
        return False
    inside = bool((value >= low).all() and (value <= high).all())
    return inside and (value.dtype.kind != "f" or bool(np.isfinite(value).all()))


def _fitted_numbers(space: Space, value: Any, place: ValueLocation) -> Any:
    array, shape, to = _array(value), space.shape or (), np.dtype(space.dtype)
    if array is None:
        place.refuse(f"is {_shown(value)}, not in {space}", "return an array of numbers")
    if array.shape != shape:
        if _without_ones(array.shape) != _without_ones(shape):
            place.refuse(f"has shape {array.shape}, not {shape}", "return it so, or change the space")
        array = array.reshape(shape)
    place.check_all(np.isfinite(array), array, "which is not finite", "return finite numbers")
    if to.kind != "f" and array.dtype.kind == "f":
        _check_whole(space, array, place)
    low, high = _bounds(space)
    with np.errstate(over="ignore"):  # refused below
        kept = array.astype(to) if to.kind == "f" else array
    inside = (kept >= low) & (kept <= high)
    if to.kind == "f" and not inside.all():
        slack = ROUNDING * (1 + np.abs(np.where(kept < low, low, high)))
        inside |= (kept >= low - slack) & (kept <= high + slack)
        kept = np.clip(kept, low, high)
    place.check_all(
        inside & np.isfinite(kept), array, f"not in {space}", "widen the observation space, or mend what you return"
    )
    kept = kept.astype(to)
    return kept[()] if isinstance(space, spaces.Discrete) else kept


def _check_whole(space: Space, array: NDArray[Any], place: ValueLocation) -> None:
    """Raises EnvError for floats in an integer space that are not whole, and for frames of 0 to 1."""
    leaf = Leaf(place.path, space)
    fix = f"return {space.dtype}, or declare a Box of floats"
    if leaf.has_byte_range and leaf.kind != "vector":
        fix = f"return {space.dtype} from 0 to 255 (times 255, if 1 is white), or declare Box(0, 1, dtype=np.float32)"
        dark = bool(0 < array.max() <= 1)
        place.check_all((array == 0) | (not dark), array, f"a {array.dtype} of 0 to 1 in {space}", fix)
    place.check_all(array == np.rint(array), array, f"no whole number, in {space}", fix)


def _bounds(space: Space) -> tuple[Any, Any]:
    if isinstance(space, spaces.Box):
        return space.low, space.high
    if isinstance(space, spaces.Discrete):
        return space.start, space.start + space.n - 1
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    return 0, 1


def _array(value: Any) -> NDArray[Any] | None:
    """The value as a numeric array, or None."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # ragged lists; tensors on other devices
        return None
    return array if array.dtype.kind in NUMBERS else None


def _single(value: Any) -> float | None:
    """The only number in a value, or None where there is not exactly one."""
    if type(value) is float:
        return value
    array = _array(value)
    return float(array.item()) if array is not None and array.size == 1 else None


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _shown(value: Any) -> str:
    """A short description of a value for a message."""
    if isinstance(value, np.ndarray) and value.size > 8:
        return f"an array of shape {value.shape}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"a {type(value).__name__}, {text[:50]}..."


def _parameters(function: Any) -> set[str]:
    """Which of `seed` and `options` a function takes by name."""
    asked = {"seed", "options"}
    try:
        found = inspect.signature(function).parameters
    except (TypeError, ValueError):  # written in C
        return asked
    return asked if any(each.kind is each.VAR_KEYWORD for each in found.values()) else asked & found.keys()


def _check_space(name: str, what: str, space: Any, path: tuple[str | int, ...] = ()) -> None:
    """Raises EnvError for a value that is not a space, and for spaces without elements."""
    key = f"{what} '{'/'.join(map(str, path))}'" if path else what
    if not isinstance(space, gym.Space):
        raise EnvError(f"env '{name}': {key} is {_shown(space)}; set it to a space of gymnasium.spaces")
    parts: dict[Any, Any] = {}
    if isinstance(space, spaces.Dict):
        parts = dict(space.spaces)
    elif isinstance(space, spaces.Tuple):
        parts = dict(enumerate(space.spaces))
    composite = isinstance(space, spaces.Dict | spaces.Tuple)
    if composite and not parts or not composite and 0 in (space.shape or ()):
        raise EnvError(f"env '{name}': {key} is {space}, which is empty; leave it out, or add something to it")
    for step, inner in parts.items():
        _check_space(name, what, inner, (*path, step))


class WholeInfo(gym.Wrapper[Any, Any, Any, Any]):
    """Passes each info on as one object, so that a vector environment does not change it.

    Gymnasium puts the values of all environments into one array, of the type and shape of the first: a 2.5 beside a 1
    becomes 2, and arrays of several sizes are an error.
    """

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Any, Info]:
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, {"whole": _BoxedInfo(info)}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, Info]:
        *given, info = self.env.step(action)
        return *given, {"whole": _BoxedInfo(info)}


class _BoxedInfo:
    """Holds an info, because Gymnasium would merge dicts of several environments."""

    def __init__(self, info: Info):
        self.info = info


def info_of(infos: Mapping[str, Any], i: int) -> Info:
    """The info of environment `i` of a vector environment whose environments are wrapped in `WholeInfo`."""
    boxed = infos["whole"][i] if "whole" in infos else None
    return boxed.info if boxed is not None else {}
