"""A cell of the result matrix: one agent under one fault at one severity, real or in the World, on all seeds.

Finished cells are stored as files, so that a stopped run can be resumed.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import worldsim
from worldsim.agents import modules_of
from worldsim.evaluation.runs import EpisodeResult
from worldsim.files import SEAL, read_sealed, sealed, write_atomically
from worldsim.sources import sources, versions
from worldsim.stable_baselines import statistics_of

Where = Literal["real", "world"]
ReportRow = dict[str, Any]  # of a report, as plain JSON: the metrics of a cell, or of a comparison of cells
CLEAN = "none"  # the fault's name in cells without one


class Cell(NamedTuple):
    """What the episodes of a cell share. Without faults: fault "none", severity 0.0."""

    agent: str
    fault: str
    severity: float
    where: Where

    @property
    def condition(self) -> tuple[str, float]:
        return self.fault, self.severity

    def __str__(self) -> str:
        fault = "without faults" if self.fault == CLEAN else f"under {self.fault} {self.severity:g}"
        return f"{self.agent} {fault} in the {'real environment' if self.where == 'real' else 'World'}"


def all_cells(
    agents: Sequence[str], faults: Sequence[str], severities: Sequence[float], where: Sequence[Where]
) -> list[Cell]:
    """Every agent without faults and under each fault at each severity, in each world; without faults first."""
    conditions = [(CLEAN, 0.0), *((fault, float(severity)) for fault in faults for severity in severities)]
    return [Cell(agent, *condition, place) for condition in conditions for agent in agents for place in where]


class CellStore:
    """Finished cells as files, each named by its cell and by a hash of everything that its results depend on."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, cell: Cell, cache_key: Mapping[str, Any], suffix: str = ".json") -> Path:
        """The path of the cell's file. cache_key: everything that its results depend on, as plain JSON."""
        key = digest(json.dumps({**cache_key, "cell": cell}, sort_keys=True))
        name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{cell.where}-{cell.fault}-{cell.severity:g}-{cell.agent}")[-80:]
        return self.directory / f"{name.strip('-.')}-{key[:16]}{suffix}"

    def has_any(self) -> bool:
        """Whether there are cells of any stress test, intact or not."""
        found = self.directory.iterdir() if self.directory.is_dir() else ()
        return any(re.fullmatch(r".+-[0-9a-f]{16}\.json", path.name) for path in found)

    def load(self, path: Path) -> list[EpisodeResult] | None:
        """The episodes of a finished cell; None where there is no file, or a damaged one."""
        try:
            found = read_sealed(path)
            return [EpisodeResult(**episode) for episode in found["episodes"]] if SEAL in found else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, path: Path, cell: Cell, episodes: Iterable[EpisodeResult]) -> None:
        """Writes a finished cell, whole or not at all."""
        data = {"cell": cell._asdict(), "episodes": [asdict(episode) for episode in episodes]}
        write_atomically(path, json.dumps(sealed(data), indent=1) + "\n")


def digest(*parts: str | bytes) -> str:
    """SHA-256 of the parts, each with its length, as hex."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()


def files_digest(files: Iterable[Path], root: Path) -> str:
    """SHA-256 of the files' names below `root` and their contents."""
    ordered = sorted(files)
    return digest(*(part for file in ordered for part in (str(file.relative_to(root)), file.read_bytes())))


@cache
def code_digest() -> str:
    """SHA-256 of worldsim's own code: after a change, stored cells are run again."""
    root = Path(worldsim.__file__).parent
    return files_digest(root.rglob("*.py"), root)


def agent_digest(spec: str, known: Mapping[str, str]) -> str:
    """SHA-256 of an agent: of its file and normalisation statistics, or of its module and the code it imports."""
    target = known.get(spec, spec)
    beside = b""
    if target.endswith(".zip"):
        path, packages = Path(target), versions(frozenset({"stable_baselines3"}))
        statistics = statistics_of(path)
        beside = statistics.read_bytes() if statistics is not None else b""
        return digest(target, path.read_bytes() if path.is_file() else b"", beside, json.dumps(packages))
    return digest(target, json.dumps(sources(modules_of([spec], known)).as_json()))
