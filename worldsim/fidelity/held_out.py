"""Which episodes a world may be measured on: those it has not learned from."""

import numpy as np

from worldsim.errors import DatasetError, SpaceMismatchError
from worldsim.models.checkpoint import WorldManifest
from worldsim.rollouts import mix
from worldsim.rollouts.arrays import EpisodeArrays
from worldsim.rollouts.dataset import Rollouts
from worldsim.rollouts.fingerprints import fingerprints
from worldsim.spaces import Ints


def held_out(manifest: WorldManifest, rollouts: Rollouts, arrays: EpisodeArrays) -> Ints:
    """Indices of the episodes that were held out of the training; of another data set all of them.

    Raises SpaceMismatchError where the data is of other spaces, DatasetError where the world learned from it: where
    nothing was held out, or another data set holds an episode of the training.
    """
    given = (rollouts.provenance["observation_space"], rollouts.provenance["action_space"])
    if given != (manifest.observation_space, manifest.action_space):
        raise SpaceMismatchError(f"{rollouts.path} and the world have different spaces; give rollouts of the same env")
    about = manifest.data
    if rollouts.content_hash in (about.get("hash"), *about.get("parts", ())):
        if not about["holdout"]:
            raise DatasetError(
                f"the world has learned from all of {rollouts.path} (trainer.holdout=0); give rollouts of other seeds"
            )
        return mix.unseen(rollouts, about)
    # Another hash does not mean other episodes: a longer recording with the same seed begins with the same ones.
    every = np.arange(arrays.episodes)
    learned = set(about.get("episodes", []))
    known = len(learned.intersection(fingerprints(arrays, every))) if learned else 0
    if known:
        raise DatasetError(
            f"{known} of the {arrays.episodes} episodes in {rollouts.path} were used to train the world; "
            "give rollouts of other seeds, or the whole data set that it was trained on"
        )
    return every


def halves(manifest: WorldManifest, data: mix.Mix) -> tuple[Ints, Ints]:
    """Held-out episodes of all data sets to calibrate with and, disjoint, to report on. Raises as `held_out` does."""
    episodes = data.numbered([held_out(manifest, part, part.arrays()) for part in data.parts])
    if len(data.parts) > 1:  # what two of them hold would both calibrate and be reported
        _, first = np.unique(fingerprints(data.arrays, episodes), return_index=True)
        episodes = episodes[np.sort(first)]
    if len(episodes) < 2:
        raise DatasetError(
            f"{len(episodes) or 'no'} episode of data={' and '.join(str(part.path) for part in data.parts)} is new to "
            "the world, 2 are needed; collect more steps"
        )
    return episodes[::2], episodes[1::2]
