"""Picks the episodes to animate: those in which a fault cost the agent the most."""

from typing import NamedTuple

from worldsim.evaluation.cells import CLEAN, Cell
from worldsim.evaluation.runs import EpisodeResult
from worldsim.evaluation.summary import ResultsByCell


class Worst(NamedTuple):
    """One episode to show, real and in the World if it ran in both; the costs are those in the first of `cells`."""

    cells: tuple[Cell, ...]  # the same agent, fault and severity; real before world
    seed: int
    return_drop: float  # return of the clean run on the same seed, minus this one's
    more_violations: int  # than in the clean run; 0 where violations are not judged


def pick_worst(outcomes: ResultsByCell, count: int) -> list[Worst]:
    """The `count` worst faulty episodes, at most one of an agent under a fault; each fault's own worst comes first.

    Worst means: most additional violations compared with the same agent and seed without faults, then the largest drop
    in return. Episodes in which no fault fired are left out. Judged in the real environment if it was run there.
    """
    primary = "real" if any(cell.where == "real" for cell in outcomes) else "world"
    ordered = sorted(_candidates(outcomes, primary), key=lambda w: (-w.more_violations, -w.return_drop))
    seen_faults: set[str] = set()
    first, later = list[Worst](), list[Worst]()
    taken: set[tuple[str, str]] = set()
    for worst in ordered:
        cell = worst.cells[0]
        if (cell.agent, cell.fault) in taken:
            continue
        taken.add((cell.agent, cell.fault))
        (later if cell.fault in seen_faults else first).append(worst)
        seen_faults.add(cell.fault)
    return (first + later)[:count]


def _candidates(outcomes: ResultsByCell, primary: str) -> list[Worst]:
    found = []
    for cell, episodes in outcomes.items():
        if cell.where != primary or cell.fault == CLEAN:
            continue
        clean = outcomes[cell._replace(fault=CLEAN, severity=0.0)]
        both = (cell, cell._replace(where="world"))
        cells = tuple(each for each in dict.fromkeys(both) if each in outcomes)
        for faulty, before in zip(episodes, clean, strict=True):
            if faulty.faults:
                found.append(_against(cells, faulty, before))
    return [worst for worst in found if worst.return_drop > 0 or worst.more_violations > 0]


def _against(cells: tuple[Cell, ...], faulty: EpisodeResult, clean: EpisodeResult) -> Worst:
    more = (faulty.violations or 0) - (clean.violations or 0)
    return Worst(cells, faulty.seed, clean.episode_return - faulty.episode_return, more)
