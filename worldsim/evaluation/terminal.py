"""The results of a stress test for the terminal: metrics by condition, verdict and warnings."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from worldsim.evaluation import narrative
from worldsim.evaluation.cells import CLEAN, ReportRow
from worldsim.printing import printable

GAP = 2  # blanks between columns
NARROWEST = 8  # least width of the agents' column, in which long names are folded


class Results:
    """The report's metrics, verdict and warnings. Where a terminal is too narrow, intervals go below them."""

    def __init__(self, data: ReportRow) -> None:
        self.data = data
        self.rows: list[ReportRow] = list(data["results"])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        columns = self._columns(" ")
        if _width(map(_widest, columns)) > options.max_width:
            columns = self._columns("\n")
        yield from self._blocks(columns, options.max_width)
        yield from _paragraphs("Verdict", self.data["verdict"], "bold")
        yield from _paragraphs("Before you believe it", self.data["warnings"], "bold yellow")

    def _columns(self, joint: str) -> list[list[Text]]:
        """Columns with their headings; `joint` separates metric and interval. Unjudged measures have none."""
        place = {"real": "real", "world": "World"}
        found = [_plain("agent", self._agents()), _plain("in", [place[row["where"]] for row in self.rows])]
        for heading, key, show, inside in MEASURES:
            if any(row[key] is not None for row in self.rows):
                ends = [narrative.bounds(row[f"{key}_interval"], inside) for row in self.rows]
                pairs = zip(self.rows, ends, strict=True)
                metrics = [Text.assemble(show(row[key]), (end and joint + end, "dim")) for row, end in pairs]
                found.append([Text(heading), *metrics])
        if any(row["fault"] != CLEAN for row in self.rows):
            fired = ["" if row["fault"] == CLEAN else narrative.decimal(row["faults_fired"], 1) for row in self.rows]
            found.append(_plain("fired", fired))
        return found

    def _agents(self) -> list[str]:
        """The agent's name in the first of its rows in each condition."""
        keys = [(row["agent"], row["fault"], row["severity"]) for row in self.rows]
        return [key[0] if number == 0 or key != keys[number - 1] else "" for number, key in enumerate(keys)]

    def _blocks(self, columns: Sequence[Sequence[Text]], most: int) -> Iterator[RenderableType]:
        """The headings, then for each condition its name and its rows, all in the same columns."""
        widths = [_widest(column) for column in columns]
        widths[0] = max(min(widths[0], NARROWEST), min(widths[0], widths[0] + most - _width(widths)))
        lines = list(zip(*columns, strict=True))
        yield Text(f"Stress test, {self.rows[0]['episodes']} episodes for each row", style="bold")
        yield _grid(widths, lines[:1], "bold")
        numbered = enumerate(self.rows, 1)
        for condition, rows in groupby(numbered, lambda each: (each[1]["fault"], each[1]["severity"])):
            yield Text(printable(narrative.condition(*condition)), style="bold cyan")
            yield _grid(widths, [lines[number] for number, _ in rows])


def _whole(share: float) -> str:
    return f"{100 * share:.0f}"


MEASURES: tuple[tuple[str, str, Any, Any], ...] = (  # heading, key of the row, how it is shown, and in its interval
    ("return", "return_mean", narrative.decimal, narrative.decimal),
    ("success", "success_rate", narrative.percent, _whole),
    ("violations", "violations_mean", narrative.decimal, narrative.decimal),
)


def _plain(heading: str, cells: Sequence[str]) -> list[Text]:
    return [Text(heading), *(Text(printable(cell)) for cell in cells)]


def _widest(column: Sequence[Text]) -> int:
    return max(cell_len(line) for cell in column for line in cell.plain.split("\n"))


def _width(widths: Iterable[int]) -> int:
    """Of all columns beside each other."""
    each = list(widths)
    return sum(each) + GAP * (len(each) - 1)


def _grid(widths: Sequence[int], lines: Sequence[Sequence[Text]], style: str = "") -> Table:
    table = Table.grid(padding=(0, GAP, 0, 0))
    for number, width in enumerate(widths):
        table.add_column(width=width, justify="left" if number < 2 else "right", overflow="fold")
    for line in lines:
        table.add_row(*line, style=style)
    return table


def _paragraphs(title: str, sentences: Sequence[str], style: str) -> Iterator[RenderableType]:
    listed = Table.grid(padding=(0, 1, 0, 0))
    for sentence in sentences:
        listed.add_row("-", Text(printable(sentence)))
    if sentences:
        yield Text(f"\n{title}", style=style)
        yield listed
