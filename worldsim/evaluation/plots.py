"""Plots as inline SVG whose colours are CSS variables, so that they follow the page's dark mode."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from worldsim.evaluation.cells import CLEAN, ReportRow
from worldsim.printing import printable

IntervalEnds = Sequence[float | None]

INK, GRID = "#010203", "#010204"  # placeholders that are replaced by CSS variables
COLOURS = 8  # the page defines --c0 to --c7
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "worldsim",
    "text.parse_math": False,  # a $ in a name is a dollar
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "axes.grid": True,
}


def colour(index: int) -> str:
    """The placeholder colour of series `index`, which is replaced by a CSS variable."""
    return f"#0102{index % COLOURS + 16:02x}"


def severity_plot(
    rows: Sequence[ReportRow],
    agents: Sequence[str],
    fault: str,
    measure: str,
    title: str,
    limits: tuple[float, float],
    percent: bool = False,
) -> str:
    """A measure against severity, one colour an agent, real solid and World dashed, with intervals."""
    figure, axes = _figure()
    severities = sorted({row["severity"] for row in rows if row["fault"] in (CLEAN, fault)})
    width = (severities[-1] - severities[0] or 1.0) * 0.035
    for index, agent in enumerate(agents):
        for where, style, shift in (("real", "-", -0.5), ("world", "--", 0.5)):
            points = [r for r in rows if r["agent"] == agent and r["where"] == where and r["fault"] in (CLEAN, fault)]
            points.sort(key=lambda row: row["severity"])
            # Side by side, because intervals at the same severity would hide each other.
            offset = (index - (len(agents) - 1) / 2 + shift * 0.6) * width / 2
            xs = [row["severity"] + offset for row in points]
            _line(axes, xs, points, measure, style, colour(index))
    axes.set_title(printable(fault), loc="left", fontsize=10, fontweight="bold")
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xticks(severities, [f"{s:g}" if s else "none" for s in severities])
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("severity")
    axes.set_ylim(*limits)
    return _svg(figure, title)


def agreement_plot(rows: Sequence[ReportRow], agents: Sequence[str], title: str) -> str:
    """Mean return in the World against the real one, a mark for each cell: filled without faults, hollow under one."""
    figure, axes = _figure(width=4.2, height=3.9, ylabel=True)
    real = {(row["agent"], row["fault"], row["severity"]): row for row in rows if row["where"] == "real"}
    for row in rows:
        other = real.get((row["agent"], row["fault"], row["severity"]))
        if row["where"] != "world" or other is None:
            continue
        tint = colour(list(agents).index(row["agent"]))
        x, y = other["return_mean"], row["return_mean"]
        across, up = _error(x, other["return_mean_interval"]), _error(y, row["return_mean_interval"])
        clean = row["fault"] == CLEAN
        fill = tint if clean else "none"
        axes.errorbar(x, y, up, across, fmt="o", color=tint, markerfacecolor=fill, markersize=6, elinewidth=0.8)
    # The same limits on both axes, so that points on the diagonal agree.
    low = min(axes.get_xlim()[0], axes.get_ylim()[0])
    high = max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot([low, high], [low, high], color=GRID, linewidth=1, zorder=0)
    axes.set(xlim=(low, high), ylim=(low, high), xlabel="mean return, real environment", ylabel="mean return, World")
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    return _svg(figure, title)


def curves_plot(
    horizons: Sequence[float],
    curves: Mapping[str, Sequence[float | None]],
    title: str,
    ylabel: str,
    limits: tuple[float, float] | None = None,
    xlabel: str = "steps ahead",
) -> str:
    """One line for each curve over the horizons, labelled at its end. None in a curve is a gap.

    limits: of the y axis; None: those of the data.
    """
    figure, axes = _figure(width=4.2, height=3.2, ylabel=True)
    ends = {}
    for index, (name, values) in enumerate(curves.items()):
        style = "-" if name == "model" else "--"
        heights = [math.nan if value is None else value for value in values]
        axes.plot(horizons, heights, style, color=colour(index), linewidth=2 if name == "model" else 1.4)
        ends[name] = next((y for y in reversed(heights) if not math.isnan(y)), math.nan)
    if limits is not None:
        axes.set_ylim(limits[0] - 0.03 * (limits[1] - limits[0]), limits[1] + 0.03 * (limits[1] - limits[0]))
    # Names are written at the ends of curves, because a legend would cover curves; close ones are moved apart.
    low, high = axes.get_ylim()
    beside = [name for name in ends if not math.isnan(ends[name])]
    for name, place in zip(beside, _apart([ends[name] for name in beside], (high - low) * 0.06), strict=True):
        tint = colour(list(curves).index(name))
        axes.annotate(
            printable(name),
            (horizons[-1], place),
            (5, 0),
            textcoords="offset points",
            va="center",
            color=tint,
            parse_math=False,
        )
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(min(horizons), horizons[-1] + 0.28 * (horizons[-1] - 1 or 1)))
    axes.set_xticks([tick for tick in axes.get_xticks() if horizons[0] <= tick <= horizons[-1]])
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    return _svg(figure, title)


def reliability_plot(bins: Sequence[Mapping[str, float]], title: str) -> str:
    """Observed frequency against predicted probability, a dot a bin, larger for more predictions; best: diagonal."""
    figure, axes = _figure(width=3.2, height=3.1, ylabel=True)
    axes.plot([0, 1], [0, 1], color=GRID, linewidth=1, zorder=0)
    most = max((each["count"] for each in bins), default=1)
    predicted, observed = ([each[key] for each in bins] for key in ("predicted", "observed"))
    axes.plot(predicted, observed, color=colour(0), linewidth=1.2)
    axes.scatter(predicted, observed, [8 + 110 * each["count"] / most for each in bins], color=colour(0))
    axes.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05), xlabel="predicted probability", ylabel="observed frequency")
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    return _svg(figure, title)


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """The places, moved upwards until they are at least `gap` apart."""
    moved, last = list(places), -math.inf
    for index in sorted(range(len(places)), key=lambda i: places[i]):
        last = moved[index] = max(places[index], last + gap)
    return moved


def shared_limits(rows: Sequence[ReportRow], measure: str) -> tuple[float, float]:
    """Limits of the y axis that fit all intervals of a measure, so that plots can be compared."""
    ends = [row[measure] for row in rows if row[measure] is not None]
    ends += [end for row in rows for end in row[f"{measure}_interval"] or () if end is not None]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    margin = 0.06 * (high - low or 1.0)
    return low - margin, high + margin


def _figure(width: float = 3.4, height: float = 2.6, ylabel: bool = False) -> tuple[Figure, Axes]:
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        left, below, right, above = 0.68 if ylabel else 0.52, 0.46, 0.08, 0.28  # inches
        axes = figure.add_axes((left / width, below / height, 1 - (left + right) / width, 1 - (below + above) / height))
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    return figure, axes


def _line(axes: Axes, xs: Sequence[float], rows: Sequence[ReportRow], measure: str, style: str, tint: str) -> None:
    there = [(x, row[measure], row[f"{measure}_interval"]) for x, row in zip(xs, rows, strict=True)]
    there = [each for each in there if each[1] is not None]
    if not there:
        return
    axes.plot([x for x, _, _ in there], [y for _, y, _ in there], style, color=tint, linewidth=1.7)
    for x, y, ends in there:
        fill = tint if style == "-" else "none"
        axes.errorbar(
            x,
            y,
            yerr=_error(y, ends),
            fmt="o",
            color=tint,
            markersize=4,
            markerfacecolor=fill,
            elinewidth=0.9,
            capsize=2,
        )


def _error(value: float, ends: IntervalEnds | None) -> list[list[float]] | None:
    """Lengths of the error bar below and above a value, as matplotlib takes them."""
    if ends is None or ends[0] is None or ends[1] is None:
        return None
    return [[max(0.0, value - ends[0])], [max(0.0, ends[1] - value)]]


def _svg(figure: Figure, title: str) -> str:
    """The figure as an <svg> element without links or namespaces, which HTML does not need."""
    buffer = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = text.replace(INK, "var(--ink)").replace(GRID, "var(--grid)")
    for index in range(COLOURS):
        text = text.replace(colour(index), f"var(--c{index})")
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip()
