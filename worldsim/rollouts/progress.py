"""Progress of long jobs: a bar on a terminal, elsewhere a line every half minute."""

import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from types import TracebackType
from typing import Self, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from worldsim.printing import Terminal, printable

Item = TypeVar("Item")


class Bar:
    """`with Bar("record", total) as bar: bar.at(done)`, on stderr: count, speed and remaining time.

    On a terminal it is a bar of one line, shown only if the work takes longer than `patience_s`; elsewhere, in a log, a
    line every `every_s`. Both in seconds.
    """

    def __init__(self, name: str, total: int, shown: bool = True, patience_s: float = 2.0, every_s: float = 30.0):
        self._console = Terminal(stderr=True)
        self._name, self._total, self._patience_s, self._every_s = name, total, patience_s, every_s
        self._shown = shown
        self._begun = self._printed = time.monotonic()
        self._first: int | None = None  # done by an earlier run, which does not count for the speed
        self._note = ""
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def at(self, done: int, note: str | None = None) -> None:
        """Shows that `done` of the total is done. note: text beside it, e.g. the loss; None: as before."""
        self._first = done if self._first is None else self._first
        self._note = self._note if note is None else note
        if not self._shown:
            return
        now = time.monotonic()
        if not self._console.is_terminal:
            if now - self._printed >= self._every_s:
                self._printed = now
                print(printable(self._line(done, now - self._begun)), file=sys.stderr, flush=True)
            return
        if self._progress is None and now - self._begun > self._patience_s:
            self._progress = _bar(self._console)
            self._task = self._progress.add_task(self._name, total=self._total, speed="")
            self._progress.start()
        if self._progress is not None:
            speed, what = self._speed(done, now - self._begun), printable(f"{self._name} {self._note}".strip())
            self._progress.update(
                self._task, completed=min(done, self._total), description=what, speed=f"{speed:.3g}/s" if speed else ""
            )

    def each(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, counted as they are taken."""
        for done, item in enumerate(items):
            self.at(done)
            yield item

    def _speed(self, done: int, elapsed_s: float) -> float:
        """Items per second, since this began."""
        return (done - (self._first or 0)) / elapsed_s if elapsed_s > 0 else 0.0

    def _line(self, done: int, elapsed_s: float) -> str:
        """E.g. "train: 1200 of 3600, loss 3.21, 12.3/s, 0:03:15 left"."""
        speed, parts = self._speed(done, elapsed_s), [f"{self._name}: {done} of {self._total}", self._note]
        if speed:
            left = timedelta(seconds=round(max(0, self._total - done) / speed))
            parts += [f"{speed:.3g}/s", f"{left} left"]
        return ", ".join(part for part in parts if part)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()


def _bar(console: Terminal) -> Progress:
    """One line, however narrow the terminal: figures stay whole, the note is cut, the bar itself is short."""
    cut = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    what = TextColumn("{task.description}", markup=False, table_column=cut)
    speed = TextColumn("{task.fields[speed]}")
    columns = (what, BarColumn(12), MofNCompleteColumn(), speed, TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, expand=True)


def say(line: str, shown: bool = True, anywhere: bool = False) -> None:
    """Prints a line on stderr if that is a terminal. anywhere: also if it is not."""
    console = Terminal(stderr=True)
    if shown and (anywhere or console.is_terminal):
        console.print(line, highlight=False, soft_wrap=True)
