"""What a run holds of its data is a batch, however many frames there are."""

from pathlib import Path

import numpy as np
import pytest
from numpy.lib.format import open_memmap

from worldsim.rollouts.arrays import EpisodeArrays, concatenated
from worldsim.rollouts.sampling import SequenceSampler

FRAMES, LENGTH = 20_000, 100  # 246 MB of frames


def sparse(folder: Path) -> EpisodeArrays:
    """A data set whose frames lie in a file that takes no room on the disk."""
    open_memmap(folder / "frame.npy", "w+", np.uint8, (FRAMES, 64, 64, 3)).flush()
    flags = np.zeros(FRAMES, np.bool_)
    frames = np.asarray(np.load(folder / "frame.npy", mmap_mode="r"))
    action = {"value": np.zeros((FRAMES, 1), np.int64)}
    reward, start = np.zeros(FRAMES, np.float32), np.arange(0, FRAMES + 1, LENGTH)
    return EpisodeArrays({"frame": frames}, action, reward, flags, flags, start)


def resident() -> int:
    """Bytes of this process that are in memory, those of mapped files among them."""
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmRSS:") + 1]) << 10


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="read from /proc")
@pytest.mark.parametrize("copies", [1, 2])
def test_sampling_and_verifying_hold_no_more_than_a_batch(tmp_path: Path, copies: int) -> None:
    arrays = concatenated([sparse(tmp_path)] * copies)
    sampler = SequenceSampler(arrays, np.arange(arrays.episodes), 16, 64, np.random.default_rng(0))
    sampler.sample()  # 12.6 MB of frames
    before, most = resident(), 0
    for _ in range(30):  # more than all frames once
        sampler.sample()
        most = max(most, resident())
    if copies == 1:
        assert len(arrays.content_hash) == 64
        most = max(most, resident())
    assert most - before < 40e6
