"""How fast, and with how much memory, sequences are read from many frames on disk.

python benchmarks/frames.py                    a million frames of 64x64x3, 12.3 GB in a scratch folder
python benchmarks/frames.py frames=100000      a tenth of that

Frames are noise, so that no file system stores them for less. Memory: what the process holds, mapped files included.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from worldsim.rollouts.arrays import Arrays
from worldsim.rollouts.sampling import SequenceSampler
from worldsim.rollouts.segments import Segments

EPISODE, BATCH, LENGTH, BATCHES = 1000, 16, 64, 200


def write(folder: Path, frames: int) -> Arrays:
    rng, pixels = np.random.default_rng(0), open_memmap(folder / "frame.npy", "w+", np.uint8, (frames, 64, 64, 3))
    for at in range(0, frames, EPISODE):
        pixels[at : at + EPISODE] = rng.integers(256, size=(EPISODE, 64, 64, 3), dtype=np.uint8)
    pixels.flush()
    mapped = np.asarray(np.load(folder / "frame.npy", mmap_mode="r"))
    terminated = np.zeros(frames, np.bool_)
    terminated[EPISODE - 1 :: EPISODE] = True
    action = {"value": np.zeros((frames, 1), np.int64)}
    start = np.arange(0, frames + 1, EPISODE)
    return Arrays({"frame": mapped}, action, np.zeros(frames, np.float32), terminated, np.zeros_like(terminated), start)


def resident() -> float:
    """Megabytes of this process in memory."""
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmRSS:") + 1]) / 1024


def measure(name: str, arrays: Arrays, segments: Segments | None) -> None:
    episodes, rng = np.arange(arrays.episodes), np.random.default_rng(1)
    sampler = SequenceSampler(arrays, episodes, BATCH, LENGTH, rng, segments)
    sampler.sample()
    before, most, begun = resident(), 0.0, time.perf_counter()
    for _ in range(BATCHES):
        found = sampler.sample()
        if segments is not None:
            segments.learn(found["segment"], rng.random(BATCH))
        most = max(most, resident())
    rate = BATCHES * BATCH * LENGTH / (time.perf_counter() - begun)
    print(f"{name:<12} {rate:>9,.0f} frames/s   {before:,.0f} MB held, at most {most - before:,.1f} MB more")


def main() -> None:
    frames = int(dict(word.split("=") for word in sys.argv[1:]).get("frames", 1_000_000))
    assert frames % EPISODE == 0, f"frames={frames} is not a multiple of {EPISODE}"
    with tempfile.TemporaryDirectory(dir=".") as folder:
        arrays = write(Path(folder), frames)
        print(f"{frames:,} frames of 64x64x3, {arrays.observation['frame'].nbytes / 1e9:.1f} GB; B={BATCH}, T={LENGTH}")
        measure("uniform", arrays, None)
        measure("prioritised", arrays, Segments(arrays, np.arange(arrays.episodes), LENGTH, ends=0.25, alpha=0.6))
        begun = time.perf_counter()
        before = resident()
        assert arrays.content_hash
        took = time.perf_counter() - begun
        print(f"verified in {took:.1f} s, {resident() - before:,.1f} MB more held afterwards")


if __name__ == "__main__":
    main()
