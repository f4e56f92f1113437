"""Counter-based randomness: what call k draws depends on the seeds and on k, never on what was drawn before."""

from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

BLOCK = 256  # uniforms drawn at a time, because making a generator costs more than drawing from it


class Dice:
    """All randomness of one fault in one episode, from Philox keyed by `parts` (Salmon et al. 2011).

    Everything kept here is a cache: equal parts give equal draws in any order.
    """

    def __init__(self, *parts: int | str) -> None:
        digest = blake2b(repr(parts).encode(), digest_size=16).digest()
        self._key = _Key(np.frombuffer(digest, "<u8").astype(np.uint64))
        self._blocks: dict[int, tuple[int, list[float]]] = {}

    def uniform(self, index: int, lane: int = 0) -> float:
        """The uniform in [0, 1) of call `index`. Lanes are independent of one another and of `generator`."""
        number, offset = divmod(index, BLOCK)
        kept = self._blocks.get(lane)
        if kept is None or kept[0] != number:
            kept = self._blocks[lane] = (number, self.block(number, lane).tolist())
        return kept[1][offset]

    def block(self, number: int, lane: int = 0) -> NDArray[np.float64]:
        """The uniforms of the `BLOCK` calls from call `number * BLOCK` on."""
        return self._philox(1 + lane, number).random(BLOCK)

    def generator(self, index: int, lane: int = 0) -> np.random.Generator:
        """A fresh generator for whatever else call `index` needs to draw; costs about 5 us. Lanes are independent."""
        return self._philox(0, index, lane)

    def _philox(self, stream: int, number: int, lane: int = 0) -> np.random.Generator:
        bits = np.random.Philox(self._key)  # type: ignore[arg-type]
        bits.state = {
            "bit_generator": "Philox",
            "state": {"counter": np.array([0, lane, number, stream], np.uint64), "key": self._key.words},
            "buffer": _EMPTY,
            "buffer_pos": 4,
            "has_uint32": 0,
            "uinteger": 0,
        }
        return np.random.Generator(bits)


_EMPTY = np.zeros(4, np.uint64)


class _Key(ISeedSequence):
    """A key as Philox takes it. Given as `key=` it would cost twice as much: a seed is drawn then, and thrown away."""

    def __init__(self, words: NDArray[np.uint64]) -> None:
        self.words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint64) -> NDArray[Any]:
        return self.words
