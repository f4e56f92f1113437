"""Counter-based random numbers: what call k of a tool draws depends on the seeds, the tool and k, and on nothing else.

As in JAX, randomness is a key, and folding a number into a key gives another key. A draw is a hash of its key, so the
draws of many calls, be it one session's or those of many environments at the same moment, are worked out together,
with arrays. Nothing has to be drawn in order, so nothing that runs beside a call can change what it draws.
"""

import math
from collections.abc import Callable
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

from worldsim.spaces import Floats

Keys = NDArray[np.uint64]

_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio
_STEP = np.uint64(_GOLDEN)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_ALL = 2**64 - 1
_ALONE = (1,)  # the shape of one call's keys
_FEW = 64  # numbers a call that are worked out for several streams together
_FEW_BACK, _MANY_BACK = 8, 256  # calls that are looked back at together, at first and then
_STREAM = 2**32  # numbers that a stream has; the last of them is the key of the streams within it
_30, _27, _31, _11, _1 = (np.uint64(shift) for shift in (30, 27, 31, 11, 1))


def new_key(*parts: int | str) -> int:
    """A key hashed from the parts that identify it."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def fold_in(keys: Keys, index: int | NDArray[Any]) -> Keys:
    """Other keys: output `index`, 0 or more, of SplitMix64 begun at each key (Steele, Lea and Flood 2014)."""
    if keys.shape == _ALONE and (isinstance(index, int) or index.shape == _ALONE):
        return np.array([fold_in_one(keys.item(), index if isinstance(index, int) else index.item())], np.uint64)
    if isinstance(index, int):
        mixed: Keys = keys + np.uint64(_GOLDEN * (index + 1) & _ALL)
    else:
        mixed = keys + _STEP * (index.astype(np.uint64) + _1)
    mixed ^= mixed >> _30
    mixed *= _FIRST
    mixed ^= mixed >> _27
    mixed *= _SECOND
    mixed ^= mixed >> _31
    return mixed


def fold_in_one(key: int, index: int) -> int:
    """The same for one key: a microsecond in Python, where arrays of one take ten."""
    mixed = key + _GOLDEN * (index + 1) & _ALL
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _ALL
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _ALL
    return mixed ^ mixed >> 31


def to_unit_interval(keys: Keys) -> Floats:
    """Numbers in [0, 1) from the upper 53 bits of keys."""
    if keys.shape == _ALONE:
        return np.array([(keys.item() >> 11) * 2.0**-53])
    return np.asarray((keys >> _11) * 2.0**-53, np.float64)


def uniforms(keys: Keys, numbers: NDArray[Any]) -> Floats:
    """The uniforms in [0, 1) of calls `numbers`, under one key for each of them or one for all."""
    return to_unit_interval(fold_in(keys, numbers))


def integers_below(numbers: Floats, high: Any) -> NDArray[np.int64]:
    """Whole numbers in [0, high) from uniforms in [0, 1); high is one number or one for each."""
    return np.asarray(numbers * high).astype(np.int64)


def normal_quantiles(shares: Floats) -> Floats:
    """The standard normal distribution at quantiles in [0, 1)."""
    from scipy.special import ndtri  # a third of a second to import, for those who have a fault that needs it

    quantiles: Floats = ndtri(np.maximum(shares, 2.0**-54))
    return quantiles


Decides = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]
"""Of calls, given their positions (m,) among n and numbers (m, k): which decide something, (m, k)."""


def last_where(numbers: NDArray[np.int64], decides: Decides) -> NDArray[np.int64]:
    """For each call, (n,), the last one up to itself that decides something; call 0 always does.

    So what goes on from call to call until something else is decided is found by looking back, and nobody has to
    remember it.
    """
    found, searching, width = numbers.astype(np.int64), np.arange(len(numbers)), _FEW_BACK
    while len(searching):
        back = found[searching, None] - np.arange(width)
        hit = (back <= 0) | decides(searching, np.maximum(back, 0))
        place = hit.argmax(1)
        at = np.arange(len(searching))
        decided = hit[at, place]
        found[searching] = np.where(decided, np.maximum(back[at, place], 0), back[:, -1] - 1)
        searching, width = searching[~decided], _MANY_BACK
    return found


class CallRandom:
    """The random numbers of n calls: call i draws the same alone as among others.

    There are streams, numbered from 0, and each gives the same numbers every time: what is drawn from one
    does not depend on what was drawn before, from it or from others.

    keys: (n,) one a call. stream: which of the streams within those keys; None: the keys themselves.
    siblings: several streams of which this is one, and which of them.
    """

    def __init__(self, keys: Keys, stream: int | None = None, siblings: "tuple[_Streams, int] | None" = None) -> None:
        self._base, self._stream, self._siblings = keys, stream, siblings

    @cached_property
    def keys(self) -> Keys:
        """(n,) one a call, computed when they are first drawn."""
        if self._siblings:
            streams, position = self._siblings
            keys: Keys = streams.keys[position]
            return keys
        return self._base if self._stream is None else fold_in(self._base, _stream_index(self._stream))

    def __len__(self) -> int:
        return len(self._base)

    def __getitem__(self, which: Any) -> "CallRandom":
        """Those of some of the calls, by positions or mask."""
        return CallRandom(self._base[which], self._stream)

    def stream(self, number: int) -> "CallRandom":
        """Random numbers that are independent of these and of those of every other stream."""
        return CallRandom(self.keys, number)

    def streams(self, first: int, count: int) -> "list[CallRandom]":
        """`stream(first)`, `stream(first + 1)` and so on: what one draws is worked out for all of them at once.

        numpy's overhead is most of what it costs to draw one number for each of a few calls.
        """
        together = _Streams(self.keys, first, count)
        return [CallRandom(self.keys, first + position, (together, position)) for position in range(count)]

    def uniform(self, stream: int = 0, *shape: int) -> Floats:
        """Uniforms in [0, 1), (n, *shape), not to be written to; the first of a stream are the same in every shape."""
        if self._siblings and math.prod(shape) <= _FEW:
            together, position = self._siblings
            return np.asarray(together.uniform(stream, *shape)[position])
        if not shape:
            return to_unit_interval(fold_in(self.keys, stream * _STREAM))
        inner = np.arange(int(np.prod(shape)), dtype=np.uint64).reshape(shape) + np.uint64(stream * _STREAM)
        return to_unit_interval(fold_in(self.keys.reshape(-1, *[1] * len(shape)), inner))

    def integers(self, high: Any, stream: int = 0) -> NDArray[np.int64]:
        """Whole numbers in [0, high), (n,); high is one number or one a call."""
        return integers_below(self.uniform(stream), high)

    def normal(self, stream: int = 0, *shape: int) -> Floats:
        """Standard normal numbers, (n, *shape), from two uniforms each (Box and Muller 1958)."""
        radius = np.sqrt(-2 * np.log1p(-self.stream(stream).uniform(0, *shape)))
        numbers: Floats = radius * np.cos(2 * np.pi * self.stream(stream).uniform(1, *shape))
        return numbers

    def permutation(self, count: int, stream: int = 0) -> NDArray[np.int64]:
        """The numbers below `count` in random order, (n, count)."""
        return np.argsort(self.uniform(stream, count), axis=1, kind="stable")

    def generator(self, position: int = 0) -> np.random.Generator:
        """A generator for whatever else one of the calls draws; it costs about 5 us."""
        return generator(int(self.keys[position]))


class _Streams:
    """The random numbers of several streams, `first` and so on, which mostly draw alike."""

    def __init__(self, keys: Keys, first: int, count: int) -> None:
        self._base, self._numbers = keys, np.arange(first, first + count, dtype=np.uint64)
        self._drawn: dict[tuple[int, ...], Floats] = {}

    @cached_property
    def keys(self) -> Keys:
        """(streams, n) one a call, computed when they are first drawn."""
        return fold_in(self._base, _stream_index(self._numbers)[:, None])

    def uniform(self, stream: int, *shape: int) -> Floats:
        """Those of all streams, (streams, n, *shape)."""
        if (stream, *shape) not in self._drawn:
            drawn = CallRandom(self.keys.ravel()).uniform(stream, *shape).reshape(*self.keys.shape, *shape)
            drawn.flags.writeable = False
            self._drawn[stream, *shape] = drawn
        return self._drawn[stream, *shape]


def _stream_index(stream: Any) -> Any:
    """Which output of SplitMix64 is the key of a stream, or of each of several streams."""
    return (stream + 1) * _STREAM - 1 if isinstance(stream, int) else (stream + _1) * np.uint64(_STREAM) - _1


def generator(key: int) -> np.random.Generator:
    """The generator of a key: SFC64 begun at a hash of it."""
    state = np.array([fold_in_one(key, index) for index in range(3)], np.uint64)
    return np.random.Generator(np.random.SFC64(_State(state)))  # type: ignore[arg-type]


class _State(ISeedSequence):
    """The state of a generator as it is: it costs a microsecond, where seeding costs ten."""

    def __init__(self, state: Keys) -> None:
        self._state = state

    def generate_state(self, n_words: int, dtype: Any = np.uint64) -> NDArray[Any]:
        return self._state
