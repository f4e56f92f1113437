"""The data of a training or a validation: one data set, or several with the same spaces as one."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from worldsim import spaces
from worldsim.errors import ConfigError, DatasetError, SpaceMismatchError
from worldsim.files import lies_in
from worldsim.rollouts.arrays import EpisodeArrays, concatenated
from worldsim.rollouts.dataset import Rollouts
from worldsim.rollouts.fingerprints import fingerprints
from worldsim.rollouts.sampling import split
from worldsim.spaces import Ints


def _not_empty(data: Path | list[Path]) -> Path | list[Path]:
    if data == []:
        raise ValueError("names no data set; give at least one")
    return data


DataSets = Annotated[Path | list[Path], AfterValidator(_not_empty)]  # as `data` of a configuration names them


class HasSpaces(Protocol):
    """Rollouts, a World or an environment."""

    @property
    def observation_space(self) -> gym.Space[Any]: ...

    @property
    def action_space(self) -> gym.Space[Any]: ...


class Mix:
    """Data sets by folder or Minari id, and how often each is drawn from.

    weights: relative share of the sequences that begin in each data set; None: all rows are drawn equally often.
    Raises what `Rollouts` raises, and SpaceMismatchError, naming the leaf, where spaces differ.
    """

    def __init__(self, data: Path | Sequence[Path], weights: Sequence[float] | None = None):
        paths = [data] if isinstance(data, Path) else list(data)
        self.parts = [Rollouts(path) for path in paths]
        self.weights = weights
        first = self.parts[0]
        for part in self.parts[1:]:
            _check_same_spaces(first, part)
        self.observation_space, self.action_space = first.observation_space, first.action_space
        self.provenance, self.metadata = first.provenance, first.metadata
        self.steps = sum(part.steps for part in self.parts)
        self.hashes = [part.content_hash for part in self.parts]

    @property
    def lossy(self) -> list[str]:
        """A line for each leaf that is stored as JPEG, for the user."""
        return [
            f"{what} of data={part.path} was stored as JPEG, whose artefacts are learned; record with "
            "jpeg_encoding=False"
            for part in self.parts
            for what in part.lossy
        ]

    @property
    def content_hash(self) -> str:
        """The hash of the data set; of several, a hash of their hashes and the weights."""
        if len(self.hashes) == 1:
            return self.hashes[0]
        return hashlib.sha256(json.dumps([self.hashes, self.weights and list(self.weights)]).encode()).hexdigest()

    def check_outside(self, out: Path) -> None:
        """Raises ConfigError where `out` is inside one of the data sets."""
        for part in self.parts:
            if lies_in(out, part.folder):
                raise ConfigError(f"out={out} lies in the data set data={part.path}; choose another out=")

    @cached_property
    def arrays(self) -> EpisodeArrays:
        """The rows of all data sets, one set after another. Raises DatasetError where a number is not finite."""
        several = [part.arrays() for part in self.parts]
        for part, arrays in zip(self.parts, several, strict=True):
            check_numbers(part.path, arrays)
        return concatenated(several)

    def split(self, holdout: float, seed: int) -> tuple[Ints, Ints]:
        """Indices of the episodes for training and of the held-out ones; each data set is split by itself."""
        train_episodes, held_out = zip(*(split(part.arrays(), holdout, seed) for part in self.parts), strict=True)
        return self.numbered(train_episodes), self.numbered(held_out)

    def unseen(self, trained_on: Mapping[str, Any]) -> Ints:
        """Indices of the episodes that a world was not trained on. trained_on: `data` of its manifest."""
        return self.numbered([unseen(part, trained_on) for part in self.parts])

    def numbered(self, each: Sequence[Ints]) -> Ints:
        """Episode indices of each data set as indices among the episodes of all data sets."""
        before = np.cumsum([0, *(part.episodes for part in self.parts)])[:-1]
        return np.concatenate([first + episodes for first, episodes in zip(before, each, strict=True)])

    def row_weights(self, episodes: Ints) -> NDArray[np.float64] | None:
        """The sampling weight of a row in each episode; None where all rows are drawn equally often."""
        if self.weights is None:
            return None
        rows = np.diff(self.arrays.start)[episodes]
        owner = np.searchsorted(np.cumsum([part.episodes for part in self.parts]), episodes, side="right")
        return np.asarray(self.weights)[owner] / np.bincount(owner, rows, len(self.parts))[owner]


def unseen(rollouts: Rollouts, trained_on: Mapping[str, Any]) -> Ints:
    """Indices of the episodes that a world was not trained on. trained_on: `data` of its manifest.

    An episode may be held out of one data set of a mix and be in the training part of another: it is then not unseen.
    """
    if rollouts.content_hash not in (trained_on["hash"], *trained_on.get("parts", ())):
        return np.arange(rollouts.episodes)
    held_out = split(rollouts.arrays(), trained_on["holdout"], trained_on["seed"])[1]
    if "parts" not in trained_on:
        return held_out
    return held_out[~np.isin(fingerprints(rollouts.arrays(), held_out), trained_on.get("episodes", []))]


def _check_same_spaces(a: Rollouts, b: Rollouts) -> None:
    if apart := difference(b, a):
        raise SpaceMismatchError(
            f"data={b.path} does not go with data={a.path}: {apart}; give data sets of the same spaces"
        )


def difference(a: HasSpaces, b: HasSpaces) -> str | None:
    """The first leaf in which the spaces of `a` are not those of `b`, in words; None where they are the same."""
    for kind in ("observation", "action"):
        found, wanted = (
            {leaf.name: leaf.space for leaf in spaces.leaves(getattr(each, f"{kind}_space"))} for each in (a, b)
        )
        for name in [*wanted, *found]:
            if found.get(name) != wanted.get(name):
                is_, should = found.get(name, "absent"), wanted.get(name, "absent")
                return " ".join(f"{kind} '{name}' is {is_}, not {should}".split())
    return None


def check_numbers(path: Path, arrays: EpisodeArrays) -> None:
    """Raises DatasetError, naming leaf, episode and step, where a number of the data set in `path` is not finite."""
    groups = {"observation": arrays.observation, "action": arrays.action, "": {"reward": arrays.reward}}
    for group, columns in groups.items():
        for name, array in columns.items():
            if array.dtype.kind == "f" and (row := _not_finite(array)) is not None:
                episode = int(np.searchsorted(arrays.start, row, side="right")) - 1
                where = f"episode {episode}, step {row - arrays.start[episode]}"
                what = f"{group} {name}".strip()
                raise DatasetError(
                    f"data={path}: {what} has NaN or an infinity in {where}; mend the environment and collect again"
                )


def _not_finite(array: NDArray[np.floating]) -> int | None:
    """The first row that holds NaN or an infinity."""
    for at in range(0, len(array), 1 << 16):
        bad = ~np.isfinite(array[at : at + (1 << 16)]).reshape(len(array[at : at + (1 << 16)]), -1).all(1)
        if bad.any():
            return at + int(bad.argmax())
    return None
