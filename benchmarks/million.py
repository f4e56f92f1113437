"""Time and memory of a million frames of 64x64x3: collecting, opening, statistics, sampling.

python benchmarks/million.py                                # 25 GB of disk while it runs, nothing afterwards
python benchmarks/million.py frames=50000 folder=/scratch   # smaller, elsewhere

The rollouts are collected as by `worldsim collect`, from a trivial environment whose frames are incompressible noise.
They are stored twice, as a Minari data set and as flat arrays. Memory is the anonymous memory of the process (RssAnon)
beyond its value before the first frame; the kernel's file cache does not count. "Not cached": read from the disk.
"""

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from rich.console import Console
from rich.table import Table

from worldsim.models.config import SSMConfig
from worldsim.rollouts.arrays import EpisodeArrays
from worldsim.rollouts.collect import CollectConfig, collect
from worldsim.rollouts.dataset import ARRAYS, MINARI
from worldsim.rollouts.fingerprints import fingerprints
from worldsim.rollouts.mix import Mix
from worldsim.rollouts.sampling import SequenceSampler, windows
from worldsim.rollouts.segments import Segments
from worldsim.training.loop import recorded_starts
from worldsim.training.statistics import fit_statistics, reward_range

EPISODE, BATCH, LENGTH, BATCHES = 1000, 16, 64, 300
SHAPE = (64, 64, 3)


class Noise(gym.Env):
    """Frames cut from a strip of noise at a moving offset. An episode ends after EPISODE - 1 steps."""

    observation_space, action_space = spaces.Box(0, 255, SHAPE, np.uint8), spaces.Discrete(17)
    strip = np.random.default_rng(0).integers(256, size=1 << 22, dtype=np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.place, self.left = int(self.np_random.integers(len(self.strip) // 2)), EPISODE - 1
        return self._frame(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.place, self.left = self.place + 64 * (1 + int(action)), self.left - 1
        return self._frame(), float(action == 0), self.left == 0, False, {}

    def _frame(self) -> np.ndarray:
        return self.strip[self.place : self.place + int(np.prod(SHAPE))].reshape(SHAPE).copy()


gym.register("WorldsimNoise-v0", Noise)


def anonymous() -> float:
    """Anonymous memory of this process (RssAnon) in megabytes."""
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("RssAnon:") + 1]) / 1024


class Measurements:
    """A table of measurements: what was done, in how many seconds, and the peak of memory."""

    def __init__(self) -> None:
        self.table = Table(title_justify="left")
        for heading in ("what", "seconds", "CPU seconds", "rate", "MB at most"):
            self.table.add_column(heading, justify="left" if heading == "what" else "right")
        self.before, self.most = anonymous(), 0.0

    @contextmanager
    def row(self, what: str, rate: Callable[[float], str] | None = None) -> Iterator[None]:
        """Measures time and peak memory of the code inside, which a thread samples 50 times a second."""
        self.most, stop = anonymous(), threading.Event()
        thread = threading.Thread(target=self._look, args=(stop,), daemon=True)
        thread.start()
        begun, spent = time.perf_counter(), time.process_time()
        yield
        took, spent = time.perf_counter() - begun, time.process_time() - spent
        stop.set()
        thread.join()
        times = f"{took:.2f}", f"{spent:.2f}"
        self.add_row(what, *times, rate(took) if rate else "", f"{self.most - self.before:.0f}")

    def add_row(self, *cells: str) -> None:
        self.table.add_row(*cells)
        print(*cells, sep="  ", file=sys.stderr, flush=True)

    def _look(self, stop: threading.Event) -> None:
        while not stop.wait(0.02):
            self.most = max(self.most, anonymous())


def on_disk(folder: Path) -> str:
    return f"{sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) / 1e9:.2f} GB"


def drop_file_cache(folder: Path) -> None:
    """Removes the files in a folder from the kernel's cache."""
    os.sync()
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def time_sampling(
    measurements: Measurements, what: str, arrays: EpisodeArrays, episodes: Any, segments: Segments | None, count: int
) -> None:
    """Times sampling as in training: with a state_dict for each batch, and losses for prioritised sampling."""
    rng = np.random.default_rng(1)
    sampler = SequenceSampler(arrays, episodes, BATCH, LENGTH, rng, segments)
    with measurements.row(
        what, lambda took: f"{count / took:.1f} batches/s, {count * BATCH * LENGTH / took:,.0f} frames/s"
    ):
        for _ in range(count):
            sampler.state_dict()
            found = sampler.sample()
            if segments is not None:
                segments.update_losses(found["segment"], rng.random(BATCH))


def measure(measurements: Measurements, out: Path, frames: int) -> None:
    """Runs all measurements, on rollouts in `out`."""
    model = SSMConfig().build(Noise.observation_space, Noise.action_space, (0.0, 1.0))
    measurements.before = anonymous()
    config = CollectConfig(env={"id": "WorldsimNoise-v0", "resize": None}, steps=frames, out=out)  # type: ignore[arg-type]
    with measurements.row("collect", lambda took: f"{frames / took:,.0f} frames/s"):
        collect(config, progress=False)
    measurements.add_row("Minari data set", "", "", on_disk(out / MINARI), "")
    with measurements.row("open for the first time"):
        arrays = Mix(out).arrays
    measurements.add_row("flat arrays", "", "", on_disk(out / ARRAYS), "")
    drop_file_cache(out)
    with measurements.row("open, not cached"):
        Mix(out).arrays.reward.sum()
    with measurements.row("open again"):
        data = Mix(out)
        arrays = data.arrays
    with measurements.row("verify, as after a change"):
        assert arrays.content_hash == data.content_hash
    with measurements.row("held-out split"):
        train_episodes, held_out = data.split(0.1, 0)
    with measurements.row("statistics of the model"):
        reward_range(arrays, train_episodes)
        fit_statistics(model, arrays, train_episodes, np.random.default_rng(0))
    with measurements.row("fingerprints of the episodes"):
        fingerprints(arrays, train_episodes)
    with measurements.row("recorded starts"):
        recorded_starts(arrays, train_episodes)
    with measurements.row("held-out windows, 64 of 35 rows"):
        windows(arrays, held_out, 35, 64, np.random.default_rng(0))
    with measurements.row("index of segments"):
        segments = Segments(arrays, train_episodes, LENGTH, ends=0.25, alpha=0.6)
    time_sampling(measurements, "uniform", arrays, train_episodes, None, BATCHES)
    time_sampling(measurements, "prioritised", arrays, train_episodes, segments, BATCHES)
    drop_file_cache(out)
    time_sampling(measurements, "uniform, not cached", arrays, train_episodes, None, BATCHES // 10)


def main() -> None:
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    frames, folder = int(given.pop("frames", 1_000_000)), given.pop("folder", ".")
    if given:
        sys.exit(f"benchmarks/million.py has no key '{next(iter(given))}'; it takes frames and folder")
    measurements = Measurements()
    with tempfile.TemporaryDirectory(prefix="million-", dir=folder) as scratch:
        measure(measurements, Path(scratch) / "rollouts", frames)
    measurements.table.title = f"{frames:,} frames of 64x64x3, {frames * 12288 / 1e9:.1f} GB; B={BATCH}, T={LENGTH}"
    Console(width=110).print(measurements.table)


if __name__ == "__main__":
    main()
