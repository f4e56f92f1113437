"""Minari data sets that somebody else recorded, by folder or by id: read where they lie, with a cache beside them.

A folder `worldsim` inside the data set holds what training needs: a provenance made from the data, and flat arrays.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
from minari import EpisodeData, MinariDataset
from minari.storage.datasets_root_dir import get_dataset_path

from worldsim import spaces
from worldsim.errors import DatasetError, SpaceMismatchError
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
    """Write the provenance of a Minari data set, unless there is one that was made from the files as they are.

    A file that was written again has another size or time; what it holds is then read again, and its hash tells whether
    it is other data. Raises DatasetError for an episode that cannot be used.
    """
    minari = MinariDataset(stored(place))
    file = place / OWN / "provenance.json"
    counted = {"episodes": int(minari.total_episodes), "steps": int(minari.total_steps)}
    made_of = {"files": _files(stored(place)), **counted}
    if not counted["episodes"]:
        raise DatasetError(f"{place} has no episodes; choose another data=")
    with suppress(OSError, DatasetError):  # there is none yet, or it is damaged
        if made_of.items() <= provenance.read_json(file).items():
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
        **made_of,
        "longest_episode": max(lengths),
        "content_hash": write_arrays(None, flat_episodes(place, minari, observed, acted), lengths),
    }
    provenance.write_json(file, written)


def _files(folder: Path) -> dict[str, list[int]]:
    """Size and time of change of each file that Minari wrote, by its path in the folder."""
    found = {path: path.stat() for path in sorted(folder.rglob("*")) if path.is_file()}
    inside = {path.relative_to(folder): about for path, about in found.items()}
    return {str(path): [s.st_size, s.st_mtime_ns] for path, s in inside.items() if path.parts[0] != OWN}


def flat_episodes(
    path: Path, minari: MinariDataset, observation_space: gym.Space[Any], action_space: gym.Space[Any]
) -> Iterator[FlatEpisode]:
    """The flat rows of every episode of the data set that is known as `path`, one in memory at a time.

    Raises DatasetError, naming episode and key, where there are too few or too many rows or a text is not of its space.
    """
    for e in minari.iterate_episodes():
        _check_rows(path, e, observation_space, action_space)
        parts = (e.observations, e.actions, e.rewards, e.terminations, e.truncations)
        try:
            yield flat_episode(observation_space, action_space, *parts)
        except SpaceMismatchError as error:
            raise DatasetError(f"data={path}, episode {e.id}: {error}; mend the data, or its space") from error


def _check_rows(path: Path, episode: EpisodeData, observed: gym.Space[Any], acted: gym.Space[Any]) -> None:
    steps = len(episode.rewards)
    judged = {"terminations": (episode.terminations, steps), "truncations": (episode.truncations, steps)}
    seen = {f"observation '{k}'": (v, steps + 1) for k, v in spaces.by_name(observed, episode.observations).items()}
    done = {f"action '{k}'": (v, steps) for k, v in spaces.by_name(acted, episode.actions).items()}
    for name, (rows, wanted) in (seen | done | judged).items():
        if len(rows) != wanted:
            raise DatasetError(
                f"data={path}, episode {episode.id}: {name} has {len(rows)} rows where {steps} steps need {wanted}; "
                "an episode of T steps has T+1 observations, the last one included, and T of everything else"
            )
