"""Which episodes a world may be measured on: those that it was not trained on.

`worldsim.rollouts.sampling.split` makes the split into train and held out, from the seed of the training; the world's
manifest records that seed and the share, from which `rollouts.mix.unseen` makes it again. Here, the episodes that were
held out are divided: one half calibrates, the other is reported.
"""

import numpy as np

from worldsim.errors import DatasetError, SpaceMismatchError
from worldsim.models.checkpoint import WorldManifest
from worldsim.rollouts import mix
from worldsim.rollouts.arrays import EpisodeArrays
from worldsim.rollouts.dataset import Rollouts
from worldsim.rollouts.fingerprints import fingerprints
from worldsim.spaces import Ints


def held_out(manifest: WorldManifest, rollouts: Rollouts, arrays: EpisodeArrays) -> Ints:
    """Indices of the episodes that were held out of training; of a data set not used for training, all episodes.

    Raises SpaceMismatchError where the data has other spaces, and DatasetError where the world was trained on it: where
    no episode was held out, or where another data set contains an episode of the training.
    """
    given = (rollouts.provenance["observation_space"], rollouts.provenance["action_space"])
    if given != (manifest.observation_space, manifest.action_space):
        raise SpaceMismatchError(f"{rollouts.path} and the world have different spaces; give rollouts of the same env")
    about = manifest.data
    if rollouts.content_hash in (about.get("hash"), *about.get("parts", ())):
        if not about["holdout"]:
            raise DatasetError(
                f"the world was trained on all of {rollouts.path} (trainer.holdout=0); give rollouts of other seeds"
            )
        return mix.unseen(rollouts, about)
    # Another data set may have the same episodes: a longer recording with the same seed begins with them.
    every = np.arange(arrays.episodes)
    trained_on = set(about.get("episodes", []))
    known = len(trained_on.intersection(fingerprints(arrays, every))) if trained_on else 0
    if known:
        raise DatasetError(
            f"{known} of the {arrays.episodes} episodes in {rollouts.path} were used to train the world; "
            "give rollouts of other seeds, or the whole data set that it was trained on"
        )
    return every


def halves(manifest: WorldManifest, data: mix.Mix) -> tuple[Ints, Ints]:
    """The held-out episodes of all data sets in two disjoint halves: to calibrate with, and to report on.

    Raises what `held_out` raises, and DatasetError where there are fewer than two.
    """
    episodes = data.numbered([held_out(manifest, part, part.arrays()) for part in data.parts])
    if len(data.parts) > 1:  # an episode that is in two data sets must not be in both halves
        _, first = np.unique(fingerprints(data.arrays, episodes), return_index=True)
        episodes = episodes[np.sort(first)]
    if len(episodes) < 2:
        raise DatasetError(
            f"{len(episodes) or 'no'} episode of data={' and '.join(str(part.path) for part in data.parts)} is new to "
            "the world, 2 are needed; collect more steps"
        )
    return episodes[::2], episodes[1::2]
