"""One codec for every Gymnasium space: a tree of leaves, each leaf one flat array.

A frame, a vector, a field of a record and a text are all leaves of one tree. `flatten` converts a value of a space to
`{leaf name: array}`, `unflatten` converts it back exactly; everything else in worldsim only handles these arrays.

| kind        | spaces                                                  | array                                        |
|-------------|---------------------------------------------------------|----------------------------------------------|
| image       | Box of all uint8, a grid of at most 4 channels          | uint8 (H, W, C), a stack (H, W, S*C)         |
| field       | every other Box that is a grid: depth, heights, masks   | float32 (H, W, C), float64 for 64-bit spaces |
| vector      | every other Box                                         | float32 (n,), float64 for 64-bit spaces      |
| categorical | Discrete, MultiDiscrete, MultiBinary                    | int64 (k,), zero-based class indices         |
| text        | Text                                                    | int64 (k,), characters from 1 on, 0: the end |

A grid is (H, W), (H, W, C) or (C, H, W) with H and W at least 8; channels come first where there are fewer of them.
With another axis before these, and at most 4 channels, it is a stack of S frames, the newest one last, as Gymnasium's
FrameStackObservation has it; (4, H, W) is the same as a grid of 4 channels.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.errors import SpaceMismatchError

# Where kinds of leaves, or types of spaces, are told apart. A new one needs a branch in each of these:
#   here: `Kind`, `LeafSpace`, `Leaf` (kind, is_discrete, layout, nvec, shape, dtype, start, flatten, unflatten),
#     `zero_based`, `recounted`, `space_to_json`, `space_from_json`, `json_schema`, and what `_unsupported` says
#   models: leaves/observation.CODECS, with a `LeafCodec` in a file of its own (categorical leaves and short texts have
#     none: `CategoricalCodec` has them all); leaves/action._encoder; diffusion/canvas; conformance
#   fidelity: error_metric, curves.measure (what is measured of it), revisits
#   simulator: drawing (how it is shown), world (the type of its tensors), env.check_classes, conformance
#   faults: trees (has_leaf_form, from_json, empty_value), columns.within, batch_rows, payload_history, entry_points,
#     kinds/lies.random_actions, and in effects: requirements, wrong_values, numbers, leaf_pairs, rows, frames
#   envs: checked (what an environment may return for it), resize
#   rollouts: recording, offline, and array_roles and conversions (which arrays of others are read as one)
#   evaluation: runs._is_action, ppo; and agents, stable_baselines
# Others only ask whether a leaf is one of those that they know, such as faults of pixels (`grep "spaces.Box"`).
Kind = Literal["image", "field", "vector", "categorical", "text"]
LeafSpace = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary | spaces.Text
Space = spaces.Space[Any]
Arrays = dict[str, NDArray[Any]]  # leaf name -> flat array, batched or not
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
FLAT = "HWSC"  # the order of a grid's axes in its flat array, in which S and C are merged into one axis
ROOT = "value"  # name of the only leaf of a space that is not composite
SMALLEST_GRID = 8  # height or width below which a box is a vector
MOST_CHANNELS = 4  # of one frame: grey, colours, colours with a mask, or the last four in grey


@dataclass(frozen=True, eq=False)
class Leaf:
    """One leaf of a space's tree: its path, its kind, and the shape and type of its flat array."""

    path: tuple[str | int, ...]
    space: spaces.Space[Any]

    @property
    def name(self) -> str:
        return "/".join(map(str, self.path)) or ROOT

    @cached_property
    def kind(self) -> Kind:
        """How its values are encoded. Raises SpaceMismatchError for a space that has no kind, such as a Sequence."""
        if isinstance(self.space, spaces.Text):
            return "text"
        if isinstance(self.space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            return "categorical"
        if not isinstance(self.space, spaces.Box):
            raise _unsupported(self.space, self.path)
        if not self.layout:
            return "vector"
        is_image = self.space.dtype == np.uint8 and self.has_byte_range and self.channels <= MOST_CHANNELS
        return "image" if is_image else "field"

    @property
    def is_discrete(self) -> bool:
        """Whether its array holds class indices: of categorical leaves and texts."""
        return self.kind in ("categorical", "text")

    @cached_property
    def layout(self) -> str:
        """The axes of a Box that is a grid: HW, HWC or CHW, with S first for a stack of frames; "" for other spaces."""
        shape = self.space.shape or ()
        if not isinstance(self.space, spaces.Box) or len(shape) not in (2, 3, 4):
            return ""
        frame = shape[1:] if len(shape) == 4 else shape
        axes = "HW" if len(frame) == 2 else "CHW" if frame[0] < frame[2] else "HWC"
        height, width, channels = (dict(zip(axes, frame, strict=True)).get(axis, 1) for axis in "HWC")
        if min(height, width) < SMALLEST_GRID or (len(shape) == 4 and channels > MOST_CHANNELS):
            return ""
        return "S" * (len(shape) - len(frame)) + axes

    @cached_property
    def channels(self) -> int:
        """Channels of one frame; those of the newest frame of a stack are the last ones in the flat array."""
        return self._sizes.get("C", 1)

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return dict(zip(self.layout, self.space.shape or (), strict=True))

    @cached_property
    def nvec(self) -> NDArray[np.int64]:
        """(k,) class counts of a discrete leaf; a Text has one more class than characters, 0 being its end."""
        space = self.space
        if isinstance(space, spaces.Discrete):
            counts: Any = [space.n]
        elif isinstance(space, spaces.MultiDiscrete):
            counts = space.nvec.ravel()
        elif isinstance(space, spaces.MultiBinary):
            counts = np.full(int(np.prod(space.shape)), 2)
        elif isinstance(space, spaces.Text):
            counts = np.full(space.max_length, len(space.character_list) + 1)
        else:
            raise SpaceMismatchError(f"leaf '{self.name}' is a {type(space).__name__} and has no classes")
        return np.asarray(counts, np.int64)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the flat array."""
        if self.is_discrete:
            return self.nvec.shape
        if self.kind == "vector":
            return (int(np.prod(self.space.shape or ())),)
        return self._sizes["H"], self._sizes["W"], self._sizes.get("S", 1) * self.channels

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Type of the flat array, which represents every value of the space exactly (integers up to 2**53)."""
        if self.is_discrete:
            return np.dtype(np.int64)
        if self.kind == "image":
            return np.dtype(np.uint8)
        assert self.space.dtype is not None
        return np.dtype(np.float64 if self.space.dtype.itemsize >= 4 and self.space.dtype != np.float32 else np.float32)

    @cached_property
    def has_byte_range(self) -> bool:
        """Whether it is a Box with the bounds 0 and 255 throughout, of whatever type."""
        space = self.space
        return isinstance(space, spaces.Box) and bool((space.low == 0).all() and (space.high == 255).all())

    @cached_property
    def start(self) -> Any:
        """What is added to zero-based class indices of Discrete and MultiDiscrete spaces."""
        return np.asarray(getattr(self.space, "start", 0)).ravel()

    def flatten(self, value: Any, batch: tuple[int, ...] = ()) -> NDArray[Any]:
        """A value of the leaf's space (or a batch of them, leading axes `batch`) as its flat array.

        Raises SpaceMismatchError for a text outside the space.
        """
        space = self.space
        if isinstance(space, spaces.Text):
            texts = [value] if not batch else list(value)
            codes = np.zeros((len(texts), space.max_length), np.int64)
            for row, text in zip(codes, texts, strict=True):
                row[: len(text)] = self._codes(text)
            return codes.reshape(*batch, *self.shape)
        array = np.asarray(value)
        if self.kind == "categorical" and isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            return np.asarray(array.reshape(*batch, *self.shape).astype(np.int64) - self.start)
        if self.layout:
            grid = array.reshape(*batch, *(space.shape or ()))
            array = np.ascontiguousarray(grid.transpose(_order(self.layout, FLAT, len(batch))))
        return array.reshape(*batch, *self.shape).astype(self.dtype, copy=False)

    def _codes(self, text: str) -> list[int]:
        space = self.space
        assert isinstance(space, spaces.Text)
        if strange := next((letter for letter in text if letter not in space.character_set), None):
            raise SpaceMismatchError(f"'{self.name}' is {text!r}, and {strange!r} is not in its charset")
        if len(text) > space.max_length:
            raise SpaceMismatchError(f"'{self.name}' is {text!r}, longer than its max_length={space.max_length}")
        return [int(space.character_index(letter)) + 1 for letter in text]

    def unflatten(self, array: NDArray[Any], batch: tuple[int, ...] = ()) -> Any:
        """The inverse of `flatten`; values outside the space's bounds are clipped into it."""
        space = self.space
        if isinstance(space, spaces.Text):
            texts = tuple(_text(space, row) for row in array.reshape(-1, *self.shape).tolist())
            return texts if batch else texts[0]
        shape = (*batch, *(space.shape or ()))
        if self.layout:
            axes = "".join(axis for axis in FLAT if axis in self.layout)
            grid = array.reshape(*batch, *(self._sizes[axis] for axis in axes))
            array = grid.transpose(_order(axes, self.layout, len(batch)))
        if isinstance(space, spaces.Box):
            if array.dtype == space.dtype == np.uint8 and self.has_byte_range:
                return array.reshape(shape)
            whole = not np.issubdtype(space.dtype, np.floating)
            numbers = (np.rint(array) if whole else array).reshape(shape)
            return np.clip(numbers, space.low, space.high).astype(space.dtype)
        if isinstance(space, spaces.Discrete) and not batch:
            return space.dtype.type(array.item() + space.start)
        return (array + self.start).astype(space.dtype).reshape(shape)


def _unsupported(space: spaces.Space[Any], path: Sequence[str | int]) -> SpaceMismatchError:
    where = "/".join(map(str, path)) or "the space"
    return SpaceMismatchError(
        f"{where} is a {type(space).__name__}; use Box, Discrete, MultiDiscrete, MultiBinary, Text, Dict or Tuple"
    )


def _order(axes: str, wanted: str, batch: int) -> list[int]:
    """The permutation that brings named axes, after `batch` leading ones, into the wanted order."""
    return [*range(batch), *(batch + axes.index(axis) for axis in wanted if axis in axes)]


def _text(space: spaces.Text, codes: Sequence[int]) -> str:
    """The text up to the first end (0), padded to `min_length` with the first character of the charset."""
    letters = codes[: codes.index(0)] if 0 in codes else codes
    text = "".join(space.character_list[code - 1] for code in letters)
    return text.ljust(space.min_length, space.character_list[0])


class _ById:
    """A space as a cache key, by identity: spaces have no hash, but a space object keeps its structure."""

    def __init__(self, space: spaces.Space[Any]):
        self.space = space

    def __hash__(self) -> int:
        return id(self.space)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and other.space is self.space


@lru_cache(maxsize=256)
def _leaves(key: _ById) -> tuple[Leaf, ...]:
    found: list[Leaf] = []

    def walk(space: spaces.Space[Any], path: tuple[str | int, ...]) -> None:
        if isinstance(space, spaces.Dict):
            for name, inner in space.spaces.items():
                walk(inner, (*path, name))
        elif isinstance(space, spaces.Tuple):
            for index, inner in enumerate(space.spaces):
                walk(inner, (*path, index))
        elif isinstance(space, LeafSpace):
            found.append(Leaf(path, space))
        else:
            raise _unsupported(space, path)

    walk(key.space, ())
    names = [leaf.name for leaf in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SpaceMismatchError(
            f"two leaves of the space have the name '{twice[0]}'; rename a key that has a slash in it"
        )
    return tuple(found)


def leaves(space: spaces.Space[Any]) -> tuple[Leaf, ...]:
    """The leaves of a space, depth first, Dict entries in the space's own order.

    Raises SpaceMismatchError for spaces other than Box, Discrete, MultiDiscrete, MultiBinary, Text, Dict and Tuple.
    """
    return _leaves(_ById(space))


def _at(value: Any, path: Sequence[str | int]) -> Any:
    for step in path:
        value = value[step]
    return value


def is_nested(space: spaces.Space[Any]) -> bool:
    """Whether a space has more than one level of keys, or contains a Tuple."""
    return any(len(leaf.path) > 1 or isinstance(leaf.path[0], int) for leaf in leaves(space) if leaf.path)


def by_name(space: spaces.Space[Any], value: Any) -> dict[str, Any]:
    """The leaves of a value of `space` by name, not converted."""
    return {leaf.name: _at(value, leaf.path) for leaf in leaves(space)}


def zero_based(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The same space with all classes starting at 0, as some libraries need."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: zero_based(inner) for key, inner in space.spaces.items()})
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple(map(zero_based, space.spaces))
    if isinstance(space, spaces.Discrete) and space.start:
        return spaces.Discrete(space.n, dtype=space.dtype.type)
    if isinstance(space, spaces.MultiDiscrete) and space.start.any():
        return spaces.MultiDiscrete(space.nvec, dtype=space.dtype.type)
    return space


def recounted(source: spaces.Space[Any], target: Any, value: Any) -> Any:
    """A value of `source` converted to `target`, which has the same classes with another `start`."""
    if isinstance(source, spaces.Dict):
        return {key: recounted(inner, target[key], value[key]) for key, inner in source.spaces.items()}
    if isinstance(source, spaces.Tuple):
        each = zip(source.spaces, target, value, strict=True)
        return tuple(recounted(inner, other, part) for inner, other, part in each)
    if isinstance(source, spaces.Discrete | spaces.MultiDiscrete):
        apart = np.asarray(target.start) - source.start
        return np.asarray(value + apart, source.dtype)[()] if apart.any() else value
    return value


def flatten(space: spaces.Space[Any], value: Any) -> Arrays:
    """A value of `space` as one array a leaf."""
    return {leaf.name: leaf.flatten(_at(value, leaf.path)) for leaf in leaves(space)}


def flatten_batch(space: spaces.Space[Any], value: Any) -> Arrays:
    """A batched value, as a vector environment of `space` gives it, as arrays with a leading batch axis."""
    parts = {leaf: _at(value, leaf.path) for leaf in leaves(space)}
    return {leaf.name: leaf.flatten(part, (len(part),)) for leaf, part in parts.items()}


def unflatten(space: spaces.Space[Any], arrays: Mapping[str, NDArray[Any]]) -> Any:
    """The inverse of `flatten`: always a member of `space`."""
    return _build(space, iter([leaf.unflatten(np.asarray(arrays[leaf.name])) for leaf in leaves(space)]))


def unflatten_batch(space: spaces.Space[Any], arrays: Mapping[str, NDArray[Any]]) -> Any:
    """The inverse of `flatten_batch`: a member of `gymnasium.vector.utils.batch_space(space, n)`."""
    parts = [leaf.unflatten(arrays[leaf.name], (len(arrays[leaf.name]),)) for leaf in leaves(space)]
    return _build(space, iter(parts))


def _build(space: spaces.Space[Any], parts: Iterator[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {name: _build(inner, parts) for name, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_build(inner, parts) for inner in space.spaces)
    return next(parts)


# --- plain JSON, for checkpoints and tools: no pickle anywhere ---


def space_to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """A space as plain JSON; `space_from_json` gives an equal one."""
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": [[name, space_to_json(inner)] for name, inner in space.spaces.items()]}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [space_to_json(inner) for inner in space.spaces]}
    if isinstance(space, spaces.Box):
        bounds = {"low": _bound(space.low), "high": _bound(space.high)}
        return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiDiscrete):
        arrays = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
        return {"type": "MultiDiscrete", **arrays, "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "shape": list(space.shape)}
    if isinstance(space, spaces.Text):
        lengths = {"min_length": space.min_length, "max_length": space.max_length}
        return {"type": "Text", **lengths, "characters": "".join(space.character_list)}
    raise SpaceMismatchError(f"a {type(space).__name__} space cannot be written as JSON")


def _bound(array: NDArray[Any]) -> Any:
    """One number where all bounds are the same, nested lists otherwise; infinities as strings."""
    value = array.flat[0].item() if array.size and (array == array.flat[0]).all() else array.tolist()
    return json.loads(json.dumps(value), parse_constant=str)


def space_from_json(data: Mapping[str, Any]) -> spaces.Space[Any]:
    """The space that `space_to_json` wrote."""
    kind = data["type"]
    if kind == "Dict":
        return spaces.Dict([(name, space_from_json(inner)) for name, inner in data["spaces"]])
    if kind == "Tuple":
        return spaces.Tuple([space_from_json(inner) for inner in data["spaces"]])
    if kind == "Box":
        dtype = np.dtype(data["dtype"])
        exact = np.float64 if dtype.kind == "f" else dtype
        low, high = (np.broadcast_to(np.asarray(data[k], exact), data["shape"]).astype(dtype) for k in ("low", "high"))
        return spaces.Box(low, high, tuple(data["shape"]), dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(data["n"], start=data["start"], dtype=np.dtype(data["dtype"]).type)
    if kind == "MultiDiscrete":
        dtype = np.dtype(data["dtype"])
        return spaces.MultiDiscrete(np.array(data["nvec"]), dtype=dtype.type, start=np.array(data["start"]))
    if kind == "MultiBinary":
        return spaces.MultiBinary(data["shape"] if len(data["shape"]) > 1 else data["shape"][0])
    if kind == "Text":
        return spaces.Text(data["max_length"], min_length=data["min_length"], charset=data["characters"])
    raise SpaceMismatchError(f"unknown space type '{kind}'; this file is from another version of worldsim")


def json_schema(space: spaces.Space[Any]) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the plain-JSON form of the values of a space."""
    if isinstance(space, spaces.Dict):
        properties = {name: json_schema(inner) for name, inner in space.spaces.items()}
        required = list(properties)
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    if isinstance(space, spaces.Tuple):
        items = [json_schema(inner) for inner in space.spaces]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if isinstance(space, spaces.Discrete):
        return {"type": "integer", "minimum": int(space.start), "maximum": int(space.start + space.n - 1)}
    if isinstance(space, spaces.Text):
        return {"type": "string", "minLength": space.min_length, "maxLength": space.max_length}
    if isinstance(space, spaces.MultiDiscrete):
        low, high = space.start, space.start + space.nvec - 1
        scalar: dict[str, Any] = {"type": "integer", "minimum": int(low.min()), "maximum": int(high.max())}
    elif isinstance(space, spaces.MultiBinary):
        scalar = {"type": "integer", "minimum": 0, "maximum": 1}
    elif isinstance(space, spaces.Box) and space.dtype == np.bool_:
        scalar = {"type": "boolean"}
    elif isinstance(space, spaces.Box):
        scalar = {"type": "number" if np.issubdtype(space.dtype, np.floating) else "integer"}
        if np.isfinite(space.low).all():
            scalar["minimum"] = space.low.min().item()
        if np.isfinite(space.high).all():
            scalar["maximum"] = space.high.max().item()
    else:
        raise SpaceMismatchError(f"a {type(space).__name__} space has no JSON Schema")
    for size in reversed(space.shape):
        scalar = {"type": "array", "items": scalar, "minItems": size, "maxItems": size}
    return scalar
