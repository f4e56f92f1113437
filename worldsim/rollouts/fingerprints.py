"""Short hashes that identify an episode in any data set."""

import hashlib
from collections.abc import Iterable

import numpy as np

from worldsim.rollouts.arrays import EpisodeArrays

DIGITS = 12  # hexadecimal: a million pairs of different episodes collide with a probability of one in 300 million


def fingerprints(arrays: EpisodeArrays, episodes: Iterable[int]) -> list[str]:
    """One hash for each episode: of its length, all actions and rewards, and its first, middle and last observation."""
    return [_fingerprint(arrays, int(arrays.start[e]), int(arrays.start[e + 1])) for e in episodes]


def _fingerprint(arrays: EpisodeArrays, begin: int, end: int) -> str:
    digest = hashlib.sha256(str(end - begin).encode())
    rows, looked_at = np.arange(begin, end), np.array([begin, (begin + end) // 2, end - 1])
    for name in sorted(arrays.action):
        digest.update(np.ascontiguousarray(arrays.action[name].take(rows, axis=0)).data)
    digest.update(np.ascontiguousarray(arrays.reward.take(rows)).data)
    for name in sorted(arrays.observation):
        digest.update(np.ascontiguousarray(arrays.observation[name].take(looked_at, axis=0)).data)
    return digest.hexdigest()[:DIGITS]
