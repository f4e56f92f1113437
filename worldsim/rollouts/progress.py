"""A progress bar with ETA, only where someone watches, and only if the work takes longer than two seconds."""

import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from worldsim.printing import Terminal

Item = TypeVar("Item")


class Bar:
    """`with Bar("record", total) as bar: bar.at(done)`, on stderr."""

    def __init__(self, name: str, total: int, shown: bool = True, patience_s: float = 2.0):
        self._console = Terminal(stderr=True)
        self._name, self._total, self._patience_s = name, total, patience_s
        self._shown = shown and self._console.is_terminal
        self._begun = time.monotonic()
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def at(self, done: int) -> None:
        if self._shown and self._progress is None and time.monotonic() - self._begun > self._patience_s:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, console=self._console, transient=True)
            self._task = self._progress.add_task(self._name, total=self._total)
            self._progress.start()
        if self._progress is not None:
            self._progress.update(self._task, completed=min(done, self._total))

    def each(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, counted as they are taken."""
        for done, item in enumerate(items):
            self.at(done)
            yield item

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()


def say(line: str, shown: bool = True, anywhere: bool = False) -> None:
    """One line on stderr for whoever watches. anywhere: also where it is no terminal."""
    console = Terminal(stderr=True)
    if shown and (anywhere or console.is_terminal):
        console.print(line, highlight=False, soft_wrap=True)
