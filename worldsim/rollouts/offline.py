"""Minari data sets that somebody else recorded, by folder or by id: read where they lie, with a cache beside them.

A folder `worldsim` inside the data set holds what training needs: a provenance made from the data, and flat arrays.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
from minari import MinariDataset
from minari.storage.datasets_root_dir import get_dataset_path

from worldsim import spaces
from worldsim.errors import DatasetError
from worldsim.rollouts import provenance
from worldsim.rollouts.arrays import FlatEpisode, flat_episode, write_arrays

OWN = "worldsim"  # the folder of ours inside the data set
STORED = "metadata.json"  # every Minari data set has it where its episodes are


def found(path: Path) -> Path | None:
    """The folder of the Minari data set that `path` is, or names by its id; None where there is none."""
    places = [path] if path.exists() or path.is_absolute() else [path, Path(get_dataset_path(str(path)))]
    for place in places:
        if (place / STORED).is_file() or (place / "data" / STORED).is_file():
            return place
    return None


def stored(place: Path) -> Path:
    """Where the episodes of a Minari data set lie."""
    return place if (place / STORED).is_file() else place / "data"


def adopt(place: Path) -> None:
    """Write the provenance of a Minari data set, unless there is one that still fits."""
    minari = MinariDataset(stored(place))
    file = place / OWN / "provenance.json"
    counted = {"episodes": int(minari.total_episodes), "steps": int(minari.total_steps)}
    if not counted["episodes"]:
        raise DatasetError(f"{place} has no episodes; choose another data=")
    with suppress(OSError, DatasetError):  # there is none yet, or it is damaged
        if counted.items() <= provenance.read_json(file).items():
            return
    observed, acted = minari.observation_space, minari.action_space
    lengths = [int(row["total_steps"]) for row in minari.storage.get_episode_metadata(range(counted["episodes"]))]
    spec = minari.spec.env_spec
    written = {
        "format": provenance.FORMAT,
        "created": provenance.now(),
        "minari": minari.id,
        "metadata": {},
        "observation_space": spaces.space_to_json(observed),
        "action_space": spaces.space_to_json(acted),
        "collect": {"env": {"id": spec.id if spec else None}},
        **counted,
        "longest_episode": max(lengths),
        "content_hash": write_arrays(None, flat_episodes(minari, observed, acted), lengths),
    }
    provenance.write_json(file, written)


def flat_episodes(
    minari: MinariDataset, observation_space: gym.Space[Any], action_space: gym.Space[Any]
) -> Iterator[FlatEpisode]:
    """The flat rows of every episode, one in memory at a time."""
    for e in minari.iterate_episodes():
        parts = (e.observations, e.actions, e.rewards, e.terminations, e.truncations)
        yield flat_episode(observation_space, action_space, *parts)
