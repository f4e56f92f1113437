"""A million frames of 64x64x3 on one machine: recorded, opened, described, sampled. How fast, and with how much memory.

python benchmarks/million.py                                # 25 GB of disk while it runs, nothing afterwards
python benchmarks/million.py frames=50000 folder=/scratch   # smaller, elsewhere

The rollouts are collected as `worldsim collect` does it, from an environment that costs nothing: windows of a fixed
strip of noise, which no file system stores for less. They lie on disk twice, as a Minari data set and as flat arrays.
Memory is what the process holds that no file backs (RssAnon), beyond what it held before the first frame; the cache of
files, which the kernel takes back when it likes, does not count. "Not cached": read from the disk itself.
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
    """Frames from a strip of noise, each some pixels further on. An episode ends after EPISODE - 1 steps."""

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
    """Megabytes that this process holds and no file backs."""
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("RssAnon:") + 1]) / 1024


class Measurements:
    """Rows of a table: what was done, in how many seconds, and the most memory that it took."""

    def __init__(self) -> None:
        self.table = Table(title_justify="left")
        for heading in ("what", "seconds", "CPU seconds", "rate", "MB at most"):
            self.table.add_column(heading, justify="left" if heading == "what" else "right")
        self.before, self.most = anonymous(), 0.0

    @contextmanager
    def row(self, what: str, rate: Callable[[float], str] | None = None) -> Iterator[None]:
        """Times what is done inside; a thread looks at the memory fifty times a second. rate: of the seconds."""
        self.most, stop = anonymous(), threading.Event()
        thread = threading.Thread(target=self._look, args=(stop,), daemon=True)
        thread.start()
        begun, spent = time.perf_counter(), time.process_time()
        yield
        took, spent = time.perf_counter() - begun, time.process_time() - spent
        stop.set()
        thread.join()
        times = f"{took:.2f}", f"{spent:.2f}"
        self.tell(what, *times, rate(took) if rate else "", f"{self.most - self.before:.0f}")

    def tell(self, *cells: str) -> None:
        self.table.add_row(*cells)
        print(*cells, sep="  ", file=sys.stderr, flush=True)

    def _look(self, stop: threading.Event) -> None:
        while not stop.wait(0.02):
            self.most = max(self.most, anonymous())


def on_disk(folder: Path) -> str:
    return f"{sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) / 1e9:.2f} GB"


def forget(folder: Path) -> None:
    """Takes the files below out of the kernel's cache."""
    os.sync()
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sampled(
    watch: Measurements, what: str, arrays: EpisodeArrays, episodes: Any, segments: Segments | None, count: int
) -> None:
    """Batches as a trainer draws them: with the state that a checkpoint would need, and losses that come back."""
    rng = np.random.default_rng(1)
    sampler = SequenceSampler(arrays, episodes, BATCH, LENGTH, rng, segments)
    with watch.row(what, lambda took: f"{count / took:.1f} batches/s, {count * BATCH * LENGTH / took:,.0f} frames/s"):
        for _ in range(count):
            sampler.state_dict()
            found = sampler.sample()
            if segments is not None:
                segments.update_losses(found["segment"], rng.random(BATCH))


def measure(watch: Measurements, out: Path, frames: int) -> None:
    """Everything, on rollouts in `out`."""
    model = SSMConfig().build(Noise.observation_space, Noise.action_space, (0.0, 1.0))
    watch.before = anonymous()
    config = CollectConfig(env={"id": "WorldsimNoise-v0", "resize": None}, steps=frames, out=out)  # type: ignore[arg-type]
    with watch.row("collect", lambda took: f"{frames / took:,.0f} frames/s"):
        collect(config, progress=False)
    watch.tell("Minari data set", "", "", on_disk(out / MINARI), "")
    with watch.row("open for the first time"):
        arrays = Mix(out).arrays
    watch.tell("flat arrays", "", "", on_disk(out / ARRAYS), "")
    forget(out)
    with watch.row("open, not cached"):
        Mix(out).arrays.reward.sum()
    with watch.row("open again"):
        data = Mix(out)
        arrays = data.arrays
    with watch.row("verify, as after a change"):
        assert arrays.content_hash == data.content_hash
    with watch.row("held-out split"):
        taught, held = data.split(0.1, 0)
    with watch.row("statistics of the model"):
        reward_range(arrays, taught)
        fit_statistics(model, arrays, taught, np.random.default_rng(0))
    with watch.row("fingerprints of the episodes"):
        fingerprints(arrays, taught)
    with watch.row("recorded starts"):
        recorded_starts(arrays, taught)
    with watch.row("held-out windows, 64 of 35 rows"):
        windows(arrays, held, 35, 64, np.random.default_rng(0))
    with watch.row("index of segments"):
        segments = Segments(arrays, taught, LENGTH, ends=0.25, alpha=0.6)
    sampled(watch, "uniform", arrays, taught, None, BATCHES)
    sampled(watch, "prioritised", arrays, taught, segments, BATCHES)
    forget(out)
    sampled(watch, "uniform, not cached", arrays, taught, None, BATCHES // 10)


def main() -> None:
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    frames, folder = int(given.pop("frames", 1_000_000)), given.pop("folder", ".")
    if given:
        sys.exit(f"benchmarks/million.py has no key '{next(iter(given))}'; it takes frames and folder")
    watch = Measurements()
    with tempfile.TemporaryDirectory(prefix="million-", dir=folder) as scratch:
        measure(watch, Path(scratch) / "rollouts", frames)
    watch.table.title = f"{frames:,} frames of 64x64x3, {frames * 12288 / 1e9:.1f} GB; B={BATCH}, T={LENGTH}"
    Console(width=110).print(watch.table)


if __name__ == "__main__":
    main()
