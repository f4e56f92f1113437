"""Counter-based randomness: what call k draws depends on the seeds and on k, never on what was drawn before.

A draw is a hash of its address: the fault's key, the number of the call, a lane. So the draws of many calls, be it one
episode's or those of many environments at the same moment, are worked out together, with arrays.
"""

import math
from collections.abc import Callable
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

BLOCK = 256  # uniforms of one episode that are worked out at a time

Words = NDArray[np.uint64]

_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio
_STEP = np.uint64(_GOLDEN)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_ALL = 2**64 - 1
_ALONE = (1,)  # the shape of one call's words
_FEW = 64  # numbers a call that are worked out for several lanes together
_LANE = 2**32  # numbers that one lane of draws has; the last of them begins the draws of their own that a lane has
_30, _27, _31, _11, _1 = (np.uint64(shift) for shift in (30, 27, 31, 11, 1))


def splitmix(words: Words, index: int | NDArray[Any]) -> Words:
    """Output `index`, 0 or more, of SplitMix64 begun at each of `words` (Steele, Lea and Flood 2014)."""
    if words.shape == _ALONE and (isinstance(index, int) or index.shape == _ALONE):
        return np.array([splitmix_one(int(words[0]), int(index if isinstance(index, int) else index[0]))], np.uint64)
    if isinstance(index, int):
        mixed: Words = words + np.uint64(_GOLDEN * (index + 1) & _ALL)
    else:
        mixed = words + _STEP * (index.astype(np.uint64) + _1)
    mixed ^= mixed >> _30
    mixed *= _FIRST
    mixed ^= mixed >> _27
    mixed *= _SECOND
    mixed ^= mixed >> _31
    return mixed


def splitmix_one(word: int, index: int) -> int:
    """The same for one word: a microsecond in Python, where arrays of one take ten."""
    mixed = word + _GOLDEN * (index + 1) & _ALL
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _ALL
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _ALL
    return mixed ^ mixed >> 31


def unit(words: Words) -> NDArray[np.float64]:
    """Numbers in [0, 1) from the upper 53 bits of words."""
    return np.asarray((words >> _11) * 2.0**-53, np.float64)


def uniforms(keys: Words, indices: NDArray[np.int64], lane: int = 0) -> NDArray[np.float64]:
    """The uniforms in [0, 1) of calls `indices`, (n,), under dice with `keys`, (n,) or one for all."""
    return unit(splitmix(lane_of(keys, lane), indices))


def lane_of(keys: Words, lane: int | None) -> Words:
    """Where a lane of the uniforms of dice begins, and, for None, that of the draws."""
    return splitmix(keys, 0 if lane is None else lane + 1)


def whole(numbers: NDArray[np.float64], high: Any) -> NDArray[np.int64]:
    """Whole numbers in [0, high) from uniforms in [0, 1); high is one number or one for each."""
    return np.asarray(numbers * high).astype(np.int64)


class Draws:
    """All else that n calls draw: call i the same alone as among others. Each lane gives the same whenever it is asked.

    words: (n,) one address a call. lane: which of the lanes that begin there; None: where they begin.
    among: several lanes of which this is one, and which of them.
    """

    def __init__(self, words: Words, lane: int | None = None, among: "tuple[_Together, int] | None" = None) -> None:
        self._begin, self._lane, self._among = words, lane, among

    @cached_property
    def words(self) -> Words:
        """(n,) one address a call, worked out when somebody draws."""
        if self._among:
            together, position = self._among
            words: Words = together.words[position]
            return words
        return self._begin if self._lane is None else splitmix(self._begin, _lane_address(self._lane))

    def __len__(self) -> int:
        return len(self._begin)

    def __getitem__(self, which: Any) -> "Draws":
        """Those of some of the calls, by positions or mask."""
        return Draws(self._begin[which], self._lane)

    def lane(self, lane: int) -> "Draws":
        """Draws that are independent of these and of those of every other lane."""
        return Draws(self.words, lane)

    def lanes(self, first: int, count: int) -> "list[Draws]":
        """`lane(first)`, `lane(first + 1)` and so on: what one of them draws is worked out for all of them at once."""
        together = _Together(self.words, first, count)
        return [Draws(self.words, first + position, (together, position)) for position in range(count)]

    def random(self, lane: int = 0, *shape: int) -> NDArray[np.float64]:
        """Uniforms in [0, 1), (n, *shape), not to be written to; the first of a lane are the same in every shape."""
        if self._among and math.prod(shape) <= _FEW:
            together, position = self._among
            return np.asarray(together.random(lane, *shape)[position])
        if not shape:
            return unit(splitmix(self.words, lane * _LANE))
        inner = np.arange(int(np.prod(shape)), dtype=np.uint64).reshape(shape) + np.uint64(lane * _LANE)
        return unit(splitmix(self.words.reshape(-1, *[1] * len(shape)), inner))

    def integers(self, high: Any, lane: int = 0) -> NDArray[np.int64]:
        """Whole numbers in [0, high), (n,); high is one number or one a call."""
        return whole(self.random(lane), high)

    def normal(self, lane: int = 0, *shape: int) -> NDArray[np.float64]:
        """Standard normal numbers, (n, *shape), from two uniforms each (Box and Muller 1958)."""
        radius = np.sqrt(-2 * np.log1p(-self.lane(lane).random(0, *shape)))
        numbers: NDArray[np.float64] = radius * np.cos(2 * np.pi * self.lane(lane).random(1, *shape))
        return numbers

    def permutation(self, count: int, lane: int = 0) -> NDArray[np.int64]:
        """The numbers below `count` in random order, (n, count)."""
        return np.argsort(self.random(lane, count), axis=1, kind="stable")

    def generator(self, position: int = 0) -> np.random.Generator:
        """A generator for whatever else one of the calls draws."""
        return generator(int(self.words[position]))


class _Together:
    """Draws of several lanes, `first` and so on, which mostly draw alike."""

    def __init__(self, words: Words, first: int, count: int) -> None:
        self._begin, self._lanes = words, np.arange(first, first + count, dtype=np.uint64)
        self._drawn: dict[tuple[int, ...], NDArray[np.float64]] = {}

    @cached_property
    def words(self) -> Words:
        """(lanes, n) one address a call, worked out when somebody draws."""
        return splitmix(self._begin, _lane_address(self._lanes)[:, None])

    def random(self, lane: int, *shape: int) -> NDArray[np.float64]:
        """Those of all lanes, (lanes, n, *shape)."""
        if (lane, *shape) not in self._drawn:
            drawn = Draws(self.words.ravel()).random(lane, *shape).reshape(*self.words.shape, *shape)
            drawn.flags.writeable = False
            self._drawn[lane, *shape] = drawn
        return self._drawn[lane, *shape]


class Dice:
    """All randomness of one fault in one episode, under a key hashed from `parts`.

    What is kept here is a cache: equal parts give equal draws in any order.
    """

    def __init__(self, *parts: int | str) -> None:
        digest = blake2b(repr(parts).encode(), digest_size=8).digest()
        self.key: Words = np.frombuffer(digest, "<u8").astype(np.uint64)  # (1,)
        self._blocks: dict[int, tuple[int, list[float]]] = {}
        self._through: dict[str, tuple[int, list[Any]]] = {}

    @cached_property
    def lane(self) -> Words:
        """Where all that calls draw beside their uniforms begins, (1,)."""
        return lane_of(self.key, None)

    def uniform(self, index: int, lane: int = 0) -> float:
        """The uniform in [0, 1) of call `index`. Lanes are independent of one another and of `draws`."""
        number, offset = divmod(index, BLOCK)
        kept = self._blocks.get(lane)
        if kept is None or kept[0] != number:
            block = uniforms(self.key, np.arange(number * BLOCK, (number + 1) * BLOCK), lane)
            kept = self._blocks[lane] = (number, block.tolist())
        return kept[1][offset]

    def through(self, name: str, function: Callable[[NDArray[np.float64]], NDArray[Any]], index: int) -> Any:
        """What `function` makes of the uniform of call `index`. It is put to a block of them; `name` is its own."""
        number, offset = divmod(index, BLOCK)
        kept = self._through.get(name)
        if kept is None or kept[0] != number:
            block = uniforms(self.key, np.arange(number * BLOCK, (number + 1) * BLOCK))
            kept = self._through[name] = (number, function(block).tolist())
        return kept[1][offset]

    def draw(self, index: int, lane: int = 0) -> float:
        """`draws(index).random(lane)` of one call, without arrays."""
        call = splitmix_one(splitmix_one(int(self.key[0]), 0), index)
        return (splitmix_one(call, lane * _LANE) >> 11) * 2.0**-53

    def draws(self, index: int) -> Draws:
        """Whatever else call `index` draws."""
        return Draws(addresses(self.key, np.array([index])))

    def generator(self, index: int, lane: int = 0) -> np.random.Generator:
        """A generator for call `index`, that of `draws(index).lane(lane)`; costs about 5 us."""
        call = splitmix_one(splitmix_one(int(self.key[0]), 0), index)
        return generator(splitmix_one(call, lane * _LANE + _LANE - 1))


def _lane_address(lane: Any) -> Any:
    """Which output of SplitMix64 begins a lane, or each of several lanes."""
    return (lane + 1) * _LANE - 1 if isinstance(lane, int) else (lane + _1) * np.uint64(_LANE) - _1


def addresses(keys: Words, indices: int | NDArray[np.int64]) -> Words:
    """Where the `Draws` of calls `indices`, (n,), begin under dice with `keys`, (n,) or one for all."""
    return splitmix(lane_of(keys, None), indices)


def generator(word: int) -> np.random.Generator:
    """The generator of an address: SFC64 begun at a hash of it."""
    words = np.array([splitmix_one(word, index) for index in range(3)], np.uint64)
    return np.random.Generator(np.random.SFC64(_Words(words)))  # type: ignore[arg-type]


class _Words(ISeedSequence):
    """The state of a generator as it is: it costs a microsecond, where seeding costs ten."""

    def __init__(self, words: Words) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint64) -> NDArray[Any]:
        return self._words
