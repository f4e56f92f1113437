"""Figures from episodes: means with intervals, paired comparisons, rankings; as plain JSON, and reproducible."""

import math
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from worldsim.evaluation import statistics as st
from worldsim.evaluation.cells import CLEAN, Cell, ReportRow, Where
from worldsim.evaluation.runs import EpisodeResult

ResultsByCell = Mapping[Cell, Sequence[EpisodeResult]]

MEASURES: dict[str, Callable[[EpisodeResult], float | None]] = {
    "return": lambda episode: episode.episode_return,
    "success": lambda episode: None if episode.success is None else float(episode.success),
    "violations": lambda episode: episode.violations,
}


@dataclass(frozen=True)
class Summary:
    """Calculates the metrics of a report from `outcomes`. Each bootstrap is seeded by `seed` and its label."""

    outcomes: ResultsByCell
    seed: int
    confidence: float = 0.95

    def results(self) -> list[ReportRow]:
        """One row for each cell: its metrics with intervals, and how often its faults fired."""
        return [self._row(cell, episodes) for cell, episodes in self.outcomes.items()]

    def fault_effects(self) -> list[ReportRow]:
        """Faulty minus clean on the same seeds, for each agent, fault, severity and world."""
        pairs = [(cell, cell._replace(fault=CLEAN, severity=0.0)) for cell in self.outcomes if cell.fault != CLEAN]
        return [{**cell._asdict(), **self._differences(cell, clean)} for cell, clean in pairs]

    def world_gaps(self) -> list[ReportRow]:
        """World minus real environment on the same seeds, for each agent, fault and severity."""
        rows = []
        for cell in self._cells_in("real"):
            world = cell._replace(where="world")
            if world in self.outcomes:
                named = {"agent": cell.agent, "fault": cell.fault, "severity": cell.severity}
                rows.append({**named, **self._differences(world, cell)})
        return rows

    def agent_pairs(self) -> list[ReportRow]:
        """Return of agent `a` minus agent `b` on the same seeds, for each pair, condition and world."""
        rows = []
        for where in ("real", "world"):
            for condition, cells in self._conditions(where).items():
                for a, b in combinations(cells, 2):
                    named = {"a": a.agent, "b": b.agent, "fault": condition[0], "severity": condition[1]}
                    rows.append({**named, "where": where, "return": self._difference("return", a, b)})
        return rows

    def rankings(self) -> list[ReportRow]:
        """For each condition the ranking of agents by mean return, and whether real environment and World agree.

        `by_means` orders strictly by the means; `by_intervals` counts only pairs whose paired interval excludes zero.
        """
        rows = []
        places: dict[Where, dict[tuple[str, float], list[Cell]]] = {w: self._conditions(w) for w in ("real", "world")}
        for condition in places["real"] or places["world"]:
            row: ReportRow = {"fault": condition[0], "severity": condition[1]}
            for where, conditions in places.items():
                if condition in conditions:
                    row[where] = self._ranks(conditions[condition])
            if "real" in row and "world" in row:
                row |= self._agreement(places["real"][condition], places["world"][condition])
            rows.append(row)
        return rows

    def _row(self, cell: Cell, episodes: Sequence[EpisodeResult]) -> ReportRow:
        n = len(episodes)
        returns, violations = self._values("return", cell), self._values("violations", cell)
        # Three kinds of interval: Wilson's for a rate, bootstrap for a mean, Poisson for a count that is always 0.
        successes = None if episodes[0].success is None else sum(bool(episode.success) for episode in episodes)
        wilson = None if successes is None else st.wilson(successes, n, self.confidence)
        kinds = sum((Counter(episode.faults) for episode in episodes), Counter[str]())
        row: ReportRow = {**cell._asdict(), "episodes": n}
        row["success_rate"] = None if successes is None else successes / n
        row["success_rate_interval"] = interval(wilson)
        row["return_mean"] = mean(returns)
        row["return_mean_interval"] = interval(st.bootstrap_mean(returns, self._rng(cell, "return"), self.confidence))
        row["violations_mean"] = mean(violations)
        counted = st.count_mean(violations, self._rng(cell, "violations"), self.confidence) if violations else None
        row["violations_mean_interval"] = interval(counted)
        row["violations_counted_mean"] = mean([e.violations_counted for e in episodes])
        row["steps_mean"] = mean([e.steps for e in episodes])
        row["latency_s_mean"] = mean([e.latency_s for e in episodes])
        row["terminated_rate"] = mean([e.terminated for e in episodes])
        row["faults_fired"] = kinds.total() / n
        row["faults_fired_by_kind"] = {kind: count / n for kind, count in sorted(kinds.items())}
        row["episodes_with_faults"] = sum(bool(e.faults) for e in episodes)
        row["crashes"] = sum(e.crash is not None for e in episodes)
        row["crash_example"] = next((e.crash for e in episodes if e.crash), None)
        row["trust_mean"] = mean([e.trust_mean for e in episodes])
        row["trust_min"] = min((e.trust_min for e in episodes if e.trust_min is not None), default=None)
        return row

    def _differences(self, a: Cell, b: Cell) -> ReportRow:
        return {measure: self._difference(measure, a, b) for measure in MEASURES}

    def _difference(self, measure: str, a: Cell, b: Cell) -> ReportRow | None:
        """`a` minus `b` in one measure; `sign` is +1 or -1 when the interval excludes zero, else 0."""
        x, y = self._values(measure, a), self._values(measure, b)
        if not x or not y:
            return None
        found = st.paired_difference(x, y, self._rng(measure, a, b), self.confidence)
        return {"mean": found.mean, "interval": interval(st.Interval(found.low, found.high)), "sign": found.sign}

    def _ranks(self, cells: Sequence[Cell]) -> dict[str, float]:
        ranks = st.ranks([self._mean_return(cell) for cell in cells])
        return {cell.agent: rank for cell, rank in zip(cells, ranks, strict=True)}

    def _agreement(self, real: Sequence[Cell], world: Sequence[Cell]) -> ReportRow:
        names = [cell.agent for cell in real]
        found = {}
        means = [st.mean_signs([self._mean_return(cell) for cell in cells]) for cells in (real, world)]
        intervals = [self._interval_signs(cells) for cells in (real, world)]
        for key, (a, b) in {"by_means": means, "by_intervals": intervals}.items():
            agreed = st.agreement(a, b)
            against = [[names[i], names[j]] for i, j in agreed.contradictions]
            found[key] = {"tau_b": agreed.tau_b, "same_ranking": agreed.same_ranking, "contradictions": against}
        return found

    def _interval_signs(self, cells: Sequence[Cell]) -> Any:
        """(N, N): 1 where cell i has a higher return than cell j, -1 lower, 0 where the interval contains 0."""
        signs = np.zeros((len(cells), len(cells)), dtype=np.int64)
        for i, j in combinations(range(len(cells)), 2):
            difference = self._difference("return", cells[i], cells[j])
            signs[i, j] = difference["sign"] if difference else 0
            signs[j, i] = -signs[i, j]
        return signs

    def _mean_return(self, cell: Cell) -> float:
        """Mean over the episodes of a cell."""
        return float(np.mean(self._values("return", cell)))

    def _values(self, measure: str, cell: Cell) -> list[float]:
        """One value for each episode; empty where the measure is not judged."""
        values = [MEASURES[measure](episode) for episode in self.outcomes[cell]]
        return [] if None in values else [float(value) for value in values if value is not None]

    def _cells_in(self, where: Where) -> list[Cell]:
        """The cells that ran in the environment or in the world."""
        return [cell for cell in self.outcomes if cell.where == where]

    def _conditions(self, where: Where) -> dict[tuple[str, float], list[Cell]]:
        found: dict[tuple[str, float], list[Cell]] = {}
        for cell in self._cells_in(where):
            found.setdefault(cell.condition, []).append(cell)
        return found

    def _rng(self, *label: object) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(repr(label).encode())])


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are not None; None where there are none."""
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def interval(found: st.Interval | None) -> list[float | None] | None:
    """An interval as plain JSON: [low, high], null for an unknown end, or null altogether."""
    return None if found is None else [None if math.isnan(end) else float(end) for end in found]
