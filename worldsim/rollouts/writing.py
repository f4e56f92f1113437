"""Writes a data set: its Minari file and, last, the provenance that marks it as complete."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec

from worldsim import spaces
from worldsim.files import hashes_of
from worldsim.rollouts import provenance
from worldsim.rollouts.arrays import ArrayWriter
from worldsim.rollouts.dataset import MINARI, PROVENANCE
from worldsim.rollouts.recording import Raw, flat, write_minari
from worldsim.spaces import Space


def write_data_set(
    out: Path,
    episodes: Iterable[Raw],
    lengths: Sequence[int],
    observation_space: Space,
    action_space: Space,
    spec: EnvSpec | None,
    about: str,
    known: Mapping[str, Any],
) -> None:
    """Writes the data set in `out`, one episode in memory at a time.

    lengths: steps of each episode. about: who acted, for Minari's `algorithm_name`. known: further provenance.
    Raises OSError where the disk is full.
    """
    facts = _EpisodeFacts()
    # Hashed while they are written: reading them again would take as long as the first time.
    with ArrayWriter(None, lengths) as hashed:

        def each() -> Iterator[Raw]:
            for raw in episodes:
                facts.add(raw)
                hashed.append(flat(observation_space, action_space, raw))
                yield raw

        write_minari(out / MINARI, each(), lengths, observation_space, action_space, spec, about)
        content_hash = hashed.finish()
    written = {
        "format": provenance.FORMAT,
        "created": provenance.now(),
        **known,
        "observation_space": spaces.space_to_json(observation_space),
        "action_space": spaces.space_to_json(action_space),
        "episodes": len(lengths),
        "steps": sum(lengths),
        "longest_episode": max(lengths),
        **facts.summary(),
        "git_sha": provenance.git_sha(),
        "content_hash": content_hash,
        "files": hashes_of([out / MINARI], out),
    }
    provenance.write_json(out / PROVENANCE, written)


class _EpisodeFacts:
    """Statistics of the episodes for the provenance, added one episode at a time."""

    def __init__(self) -> None:
        self.policies: dict[str, int] = {}
        self.returns: list[float] = []
        self.low, self.high = np.inf, -np.inf

    def add(self, raw: Raw) -> None:
        reward, policy = raw["reward"], str(raw["policy"])
        self.policies[policy] = self.policies.get(policy, 0) + 1
        self.returns.append(float(reward.sum()))
        self.low, self.high = min(self.low, float(reward.min())), max(self.high, float(reward.max()))

    def summary(self) -> dict[str, Any]:
        returns = {"return_mean": float(np.mean(self.returns))}
        return {"policies": self.policies, "reward_range": [self.low, self.high], **returns}
