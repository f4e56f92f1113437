"""Minari data sets that somebody else recorded, by folder or by id: read in place, with a cache inside their folder.

The cache, a folder `worldsim`, holds what training needs: a provenance made from the data, and flat arrays.
Minari's `MinariStorage` is used and not its `MinariDataset`, which needs an id, a version and an environment spec.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from minari.dataset.minari_storage import MinariStorage, is_image_space
from minari.storage.datasets_root_dir import get_dataset_path

from worldsim import spaces
from worldsim.errors import DatasetError, SpaceMismatchError
from worldsim.rollouts import provenance
from worldsim.rollouts.arrays import FlatEpisode, flat_episode, repeat_last, write_arrays
from worldsim.rollouts.progress import say
from worldsim.spaces import Space

CACHE = "worldsim"  # our folder inside the data set
METADATA = "metadata.json"  # Minari's, in the folder of the episodes


def find_data_set(path: Path) -> Path | None:
    """The folder of the Minari data set that `path` is, or names by its id; None where there is none."""
    places = [path] if path.exists() or path.is_absolute() else [path, Path(get_dataset_path(str(path)))]
    for place in places:
        if (place / METADATA).is_file() or (place / "data" / METADATA).is_file():
            return place
    return None


def episodes_folder(place: Path) -> Path:
    """The folder of a Minari data set that holds its episodes."""
    return place if (place / METADATA).is_file() else place / "data"


def storage_in(folder: Path) -> MinariStorage:
    """Minari's reader of the episodes. Raises DatasetError where their spaces are unknown."""
    metadata = MinariStorage.read_raw_metadata(folder)
    if {"observation_space", "action_space"} <= metadata.keys():
        return MinariStorage.read(folder)
    try:
        return MinariStorage.read(folder)  # without spaces in the metadata, this makes the environment
    except Exception as error:  # whatever the code of somebody's environment raises
        env, reason = _env_id(metadata) or "of no name", f": {error}" if str(error) else ""
        raise DatasetError(
            f"{folder} has no spaces, and its environment ({env}) cannot be made here to see them{reason}; "
            f"install it, or read the arrays alone: worldsim collect arrays={folder} out=..."
        ) from error


def _env_id(metadata: dict[str, Any]) -> str | None:
    """The id of the environment in the metadata's spec, of any version; None without one."""
    try:
        spec = json.loads(metadata["env_spec"])
    except (KeyError, TypeError, ValueError):
        return None
    return spec.get("id") if isinstance(spec, dict) else None


def write_provenance(place: Path) -> None:
    """Write the provenance of a Minari data set, unless it exists and no file has changed since, by size and time.

    Raises DatasetError for an episode that cannot be used.
    """
    storage = storage_in(episodes_folder(place))
    file = place / CACHE / "provenance.json"
    counted = {"episodes": int(storage.total_episodes), "steps": int(storage.total_steps)}
    observed, acted = storage.observation_space, storage.action_space
    lossy = _lossy(storage)
    # If any of these has changed, the provenance is made again.
    made_of = {"files": _files(episodes_folder(place)), "lossy": lossy, **counted}
    if not counted["episodes"]:
        raise DatasetError(f"{place} has no episodes; choose another data=")
    with suppress(OSError, DatasetError):  # it does not exist yet, or is damaged
        if made_of.items() <= provenance.read_json(file).items():
            return
    lengths = [int(row["total_steps"]) for row in storage.get_episode_metadata(range(counted["episodes"]))]
    short: list[int] = []
    content_hash = write_arrays(None, flat_episodes(place, storage, observed, acted, short), lengths)
    if short:
        few = f"{len(short)} of {len(lengths)} episodes have no last observation"
        say(f"data={place}: {few}: the one before is repeated", anywhere=True)
    metadata = MinariStorage.read_raw_metadata(episodes_folder(place))
    written = {
        "format": provenance.FORMAT,
        "created": provenance.now(),
        "minari": metadata.get("dataset_id"),
        "metadata": {},
        "observation_space": spaces.space_to_json(observed),
        "action_space": spaces.space_to_json(acted),
        "collect": {"env": {"id": _env_id(metadata)}},
        **made_of,
        "longest_episode": max(lengths),
        "content_hash": content_hash,
    }
    provenance.write_json(file, written)


def _lossy(storage: MinariStorage) -> list[str]:
    """The parts that Minari stores as JPEG, which it does unless jpeg_encoding=False: "observation 'screen'"."""
    groups = {"observation": storage.observation_space, "action": storage.action_space}
    return [
        f"{group} '{leaf.name}'"
        for group, space in groups.items()
        for leaf in spaces.leaves(space)
        if storage.jpeg_encoding and is_image_space(leaf.space)
    ]


def _files(folder: Path) -> dict[str, list[int]]:
    """Size and modification time of each file that Minari wrote, by its path in the folder."""
    stats = {path: path.stat() for path in sorted(folder.rglob("*")) if path.is_file()}
    inside = {path.relative_to(folder): stat for path, stat in stats.items()}
    return {str(path): [stat.st_size, stat.st_mtime_ns] for path, stat in inside.items() if path.parts[0] != CACHE}


def flat_episodes(
    path: Path,
    storage: MinariStorage,
    observation_space: Space,
    action_space: Space,
    short: list[int] | None = None,
) -> Iterator[FlatEpisode]:
    """The flat rows of every episode of the data set that is known as `path`, one in memory at a time.

    Where the observation after the last action is missing, the one before is repeated; the ids of such episodes are
    appended to `short`. Raises DatasetError, naming episode and key, where there are too few or too many
    rows, or a value is outside its space.
    """
    for episode in storage.get_episodes(range(storage.total_episodes)):
        where = f"data={path}, episode {episode['id']}"
        rewards, observations = episode["rewards"], episode["observations"]
        steps = len(rewards)
        rows = {name: len(part) for name, part in spaces.by_name(observation_space, observations).items()}
        # Only if all leaves are short: if only some are, rows were lost somewhere, and it is unknown which.
        if set(rows.values()) == {steps}:
            observations = _with_last_repeated(observations)
            if short is not None:
                short.append(int(episode["id"]))
        _check_rows(where, "observation", observation_space, observations, steps + 1)
        _check_rows(where, "action", action_space, episode["actions"], steps)
        for name in ("terminations", "truncations"):
            if len(episode[name]) != steps:
                raise DatasetError(f"{where}: {name} has {len(episode[name])} rows where {steps} steps need {steps}")
        if rewards.size != steps:
            raise DatasetError(f"{where}: rewards are of shape {rewards.shape}, not one number a step; mend the data")
        judged = (rewards.reshape(steps), episode["terminations"], episode["truncations"])
        try:
            yield flat_episode(observation_space, action_space, observations, episode["actions"], *judged)
        except SpaceMismatchError as error:
            raise DatasetError(f"{where}: {error}; mend the data, or its space") from error


def _with_last_repeated(value: Any) -> Any:
    """A batched value with its last row repeated."""
    if isinstance(value, dict):
        return {key: _with_last_repeated(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_with_last_repeated, value))
    return value + value[-1:] if isinstance(value, list) else repeat_last(value)


def _check_rows(where: str, group: str, space: Space, value: Any, wanted: int) -> None:
    """Raises DatasetError unless there are `wanted` rows, of the size of the space, with valid class indices."""
    for leaf in spaces.leaves(space):
        rows = spaces.by_name(space, value)[leaf.name]
        what = f"{where}: {group} '{leaf.name}'"
        if len(rows) != wanted:
            steps = wanted - (group == "observation")
            raise DatasetError(
                f"{what} has {len(rows)} rows where {steps} steps need {wanted}; "
                "an episode of T steps has T+1 observations, or T without the last one, and T of everything else"
            )
        if isinstance(leaf.space, gym.spaces.Text):
            continue
        if np.prod(rows.shape[1:]) != np.prod(leaf.space.shape or ()):
            raise DatasetError(f"{what} has rows of shape {rows.shape[1:]}, not of {leaf.space}; mend the data")
        if leaf.kind == "categorical":
            classes = leaf.flatten(rows, (wanted,))
            wrong = ((classes < 0) | (classes >= leaf.nvec)).any(1)
            if wrong.any():
                step = int(wrong.argmax())
                raise DatasetError(f"{what} is {rows[step]} in step {step}, not in {leaf.space}; mend the data")
