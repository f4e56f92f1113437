"""The report of a stress test: report.json, report.html (one file, nothing fetched) and a table for the terminal."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2

from worldsim.evaluation import narrative, plots
from worldsim.evaluation.animations import animate, data_uri
from worldsim.evaluation.cells import CLEAN, Cell, ReportRow
from worldsim.evaluation.runs import Episode
from worldsim.evaluation.summary import ResultsByCell, Summary
from worldsim.evaluation.terminal import Results
from worldsim.evaluation.worst import Worst
from worldsim.faults import Plan
from worldsim.files import write_atomically

Replays = Mapping[tuple[Cell, int], Episode]  # episodes run again with frames, by cell and seed

MEASURES = (  # key of the row, title of its plots
    ("return_mean", "Mean return"),
    ("success_rate", "Success rate"),
    ("violations_mean", "Violations an episode"),
)
REPORT, PAGE = "report.json", "report.html"
PACKAGES = ("worldsim", "gymnasium", "numpy", "scipy", "torch")


def assemble(
    outcomes: ResultsByCell,
    config: Mapping[str, Any],
    seeds: Sequence[int],
    world: Mapping[str, Any] | None,
    worst: Sequence[Worst],
    replays: Replays,
    idle: Mapping[str, Sequence[str]],
    endless: Sequence[Mapping[str, Any]],
) -> ReportRow:
    """The content of report.json, which depends only on the arguments and the installed versions.

    idle: plans that can have no effect in this environment, by name, with the reasons. endless: cells with episodes
    that were cut because the environment sets no limit, with their number and length.
    """
    summary = Summary(outcomes, config["seed"], config["confidence"])
    data: ReportRow = {
        "format": 2,
        "config": dict(config),
        "world": world,
        "versions": versions(),
        "seeds": list(seeds),
    }
    data["idle"] = {name: list(reasons) for name, reasons in idle.items()}
    data["endless"] = list(endless)
    data["results"] = summary.results()
    data["comparisons"] = {
        "faults": summary.fault_effects(),
        "agents": summary.agent_pairs(),
        "worlds": summary.world_gaps(),
    }
    data["ranking"] = summary.rankings()
    data["worst"] = [_worst_row(each, outcomes, replays) for each in worst]
    data["verdict"] = narrative.verdict(data)
    data["warnings"] = narrative.warnings(data)
    return data


def is_report(file: Path) -> bool:
    """Whether a file is what a stress test wrote as report.json."""
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and {"results", "comparisons", "verdict"} <= data.keys()


@dataclass(frozen=True)
class Report:
    """The results of a stress test: `data` as in report.json, and what only the page shows."""

    data: ReportRow
    replays: Replays
    certificate: Mapping[str, Any] | None = None
    action_names: Sequence[str] | None = None  # of a Discrete action space, for captions
    plans: Mapping[str, Plan] = field(default_factory=dict)  # by the names that the cells have for them

    @property
    def results(self) -> list[ReportRow]:
        """One row for each agent, fault, severity and world."""
        return list(self.data["results"])

    def write(self, out: Path) -> None:
        """Writes report.json and report.html into the folder `out`, each whole or not at all."""
        write_atomically(out / REPORT, json.dumps(self.data, indent=1, allow_nan=False) + "\n")
        write_atomically(out / PAGE, self.html())

    def html(self) -> str:
        """The whole page, with plots and animations inside."""
        loader = jinja2.PackageLoader("worldsim.evaluation", ".")
        page = jinja2.Environment(
            loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
        )
        shown = (
            narrative.decimal,
            narrative.signed,
            narrative.percent,
            narrative.bounds,
            narrative.condition,
            narrative.order,
            narrative.place,
        )
        page.filters.update({function.__name__: function for function in shown})
        return page.get_template("report.html.j2").render(**self._view())

    def table(self) -> Results:
        """The results for the terminal, with verdict and warnings."""
        return Results(self.data)

    def _view(self) -> ReportRow:
        data = self.data
        agents = list(dict.fromkeys(row["agent"] for row in data["results"]))
        faults = list(dict.fromkeys(row["fault"] for row in data["results"] if row["fault"] != CLEAN))
        view: ReportRow = {"data": data, "agents": agents, "faults": faults, "clean": CLEAN}
        view["both"] = {"real", "world"} <= {row["where"] for row in data["results"]}
        view["places"] = [w for w in ("real", "world") if any(row["where"] == w for row in data["results"])]
        view["groups"] = grouped(data["results"])
        view["effects"] = grouped(data["comparisons"]["faults"])
        view["plots"] = _severity_plots(data["results"], agents, faults)
        view["about_faults"] = {fault: _about(self.plans[fault]) for fault in faults if fault in self.plans}
        view["unjudged"] = narrative.unjudged(data["results"])
        view["quiet"] = narrative.without_effect(data)
        view["agreement_plot"] = plots.agreement_plot(data["results"], agents, "Mean returns") if view["both"] else ""
        view["animations"] = [self._animation(worst) for worst in data["worst"]]
        view["certificate"] = certificate_view(self.certificate)
        return view

    def _animation(self, worst: ReportRow) -> ReportRow:
        episodes = {}
        for where in worst["where"]:
            cell = Cell(worst["agent"], worst["fault"], worst["severity"], where)
            episodes[narrative.place(where)] = self.replays[cell, worst["seed"]]
        return {**worst, "uri": data_uri(animate(episodes, self.action_names), "image/webp")}


def versions() -> dict[str, str]:
    """Versions of the packages that metrics depend on."""
    return {"python": platform.python_version(), **{package: metadata.version(package) for package in PACKAGES}}


def grouped(rows: Sequence[ReportRow]) -> list[ReportRow]:
    """Rows by condition and agent, real and World side by side: [{fault, severity, agents: [{agent, real, world}]}]."""
    conditions: dict[tuple[str, float], dict[str, ReportRow]] = {}
    for row in rows:
        agents = conditions.setdefault((row["fault"], row["severity"]), {})
        agents.setdefault(row["agent"], {"agent": row["agent"], "real": None, "world": None})[row["where"]] = row
    return [{"fault": f, "severity": s, "agents": list(agents.values())} for (f, s), agents in conditions.items()]


def certificate_view(certificate: Mapping[str, Any] | None) -> ReportRow | None:
    """What the page shows of a fidelity certificate: its verdict, curves and plain metrics, as far as there are any."""
    if certificate is None:
        return None
    horizons = certificate.get("horizons")
    curves = certificate.get("psnr")
    plot = ""
    if isinstance(horizons, list) and isinstance(curves, dict):
        fit = {name: values for name, values in curves.items() if isinstance(values, list)}
        fit = {name: values for name, values in fit.items() if len(values) == len(horizons) and None not in values}
        if fit:
            plot = plots.curves_plot(horizons, fit, "Open loop: how long frames stay true", "PSNR (dB)")
    return {"plot": plot, "verdict": certificate.get("verdict") or [], "metrics": _plain_metrics(certificate)}


def _plain_metrics(certificate: Mapping[str, Any]) -> dict[str, str]:
    """Its numbers and texts, not nested ones, as text by name."""
    found = {}
    for key, value in certificate.items():
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            continue
        found[key.replace("_", " ")] = f"{value:.4g}" if isinstance(value, float) else str(value)
    return found


def _worst_row(worst: Worst, outcomes: ResultsByCell, replays: Replays) -> ReportRow:
    """One of the worst episodes, for report.json. `replayed`: whether running it again gave the same result."""
    cell = worst.cells[0]
    row: ReportRow = {"agent": cell.agent, "fault": cell.fault, "severity": cell.severity, "seed": worst.seed}
    row |= {"where": [each.where for each in worst.cells]}
    row |= {"return_drop": worst.return_drop, "more_violations": worst.more_violations, "episodes": []}
    row["replayed"] = True
    for each in worst.cells:
        result = next(episode for episode in outcomes[each] if episode.seed == worst.seed)
        row["replayed"] &= result == replays[each, worst.seed].result
        metrics = {"return": result.episode_return, "steps": result.steps, "violations": result.violations}
        row["episodes"].append({"where": each.where, **metrics, "faults": result.faults, "crash": result.crash})
    return row


def _severity_plots(rows: Sequence[ReportRow], agents: Sequence[str], faults: Sequence[str]) -> list[ReportRow]:
    shown = []
    for key, title in MEASURES:
        if all(row[key] is None for row in rows):
            continue
        limits = plots.shared_limits(rows, key)
        percent = key == "success_rate"
        figures = [
            plots.severity_plot(rows, agents, fault, key, f"{title} under {fault}", limits, percent) for fault in faults
        ]
        shown.append({"title": title, "figures": figures})
    return shown


def _about(plan: Plan) -> str:
    """A plan's description, or else the docstrings of its faults."""
    docs = [(type(each).__doc__ or "").strip().partition("\n\n")[0] for each in plan.faults]
    return " ".join((plan.description or " ".join(docs)).replace("`", "").split())
