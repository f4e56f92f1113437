"""What a severity means, measured: how many calls come out otherwise, by how much, and how long callers wait.

    for row in measured(Plan.load("black_friday")):
        print(f"{row.severity:g}: {row.share:.0%} of the calls, by {row.difference:.2f}, after {row.waited_s:.1f} s")

The calls go to three tools that answer with orders as plain JSON (lists, texts, times, numbers), or, for faults of
pictures, with a picture that moves. The same calls draw the same numbers at every severity, so the rows of a fault can
be compared with one another.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults.definition import Fault
from worldsim.faults.entry_points import CallOutcome, MockService
from worldsim.faults.plans.plan import Plan
from worldsim.faults.trees import alike, nodes

SEVERITIES = (0.0, 0.1, 0.25, 0.5, 1.0)
DAY_S = 86400.0
_SIZE = 32  # pixels, height and width of the picture
SCREEN = spaces.Dict({"screen": spaces.Box(0, 255, (_SIZE, _SIZE, 3), np.uint8)})


class SeverityMeasurement(NamedTuple):
    """What a fault or plan does at a severity.

    share: of the calls, those that come out otherwise: whose reply is another one, or that are not carried out once and
    as they were made. difference: how far apart such a call is from the true one, on average, from 0 to 1:
    `difference_of`; 0 where none comes out otherwise.
    waited_s: how long a call takes, on average, in seconds. Without faults it takes no time.
    """

    severity: float
    share: float
    difference: float
    waited_s: float

    @property
    def harm(self) -> float:
        """How far a call is from the true one, be it changed or not, on average."""
        return self.share * self.difference


def measured(
    what: Plan | Fault | type[Fault], severities: Sequence[float] = SEVERITIES, sessions: int = 8, calls: int = 45
) -> list[SeverityMeasurement]:
    """A row for each severity, from so many sessions of so many calls.

    what: a plan, whose faults have their shares of the severity (`Plan.at`), a fault, or a kind with its defaults.
    """
    plan = _plan_of(what)
    service = MockService(SCREEN, picture) if any(map(_of_pictures, plan.faults)) else MockService(None, orders)
    rows = []
    for severity in severities:
        played = [service.run(plan.at(severity).faults, calls, episode=episode) for episode in range(sessions)]
        outcomes = [outcome for session in played for outcome in session]
        differences = [difference_of(outcome, service) for outcome in outcomes]
        changed = [each for each in differences if each is not None]
        rows.append(
            SeverityMeasurement(
                severity,
                len(changed) / len(outcomes),
                float(np.mean(changed)) if changed else 0.0,
                float(np.mean([outcome.waited_s for outcome in outcomes])),
            )
        )
    return rows


def _plan_of(what: Plan | Fault | type[Fault]) -> Plan:
    if isinstance(what, Plan):
        return what
    return Plan(faults=[(what() if isinstance(what, type) else what).replace(severity=1.0)])


def _of_pictures(fault: Fault) -> bool:
    """Whether a fault does nothing, or hardly anything, where there are no pictures."""
    needs = fault.compose().needs
    return fault.family == "pixels and sensors" or (needs is not None and not needs.in_plain)


def difference_of(outcome: CallOutcome, service: MockService) -> float | None:
    """How far a call is from the true one, from 0 to 1; None where it is the same.

    1 where no answer came, or the call was not executed once and as it was made. Else the mean over the fields of
    both replies: of numbers the difference as a share of the sum of their sizes, of times as a share of a day, of
    pictures as a share of the brightest level, pixel by pixel; 1 for other fields that differ or are in one only.
    """
    if not outcome.reply.ok or outcome.executed != [outcome.call]:
        return 1.0
    reply, answer = outcome.reply.payload, service.answer(outcome.at)
    if alike(reply, answer):
        return None
    here, there = _fields(reply), _fields(answer)
    if here.keys() == there.keys() and all(alike(here[path], there[path]) for path in here):
        return None
    paths = here.keys() | there.keys()
    return sum(_gap(here[path], there[path]) if path in here and path in there else 1.0 for path in paths) / len(paths)


def _fields(payload: Any) -> dict[Any, Any]:
    """Everything in a payload that has no parts of its own."""
    return {path: value for path, value in nodes(payload) if not isinstance(value, (dict, list, tuple)) or not value}


def _gap(one: Any, other: Any) -> float:
    if alike(one, other):
        return 0.0
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and one.shape == other.shape:
        return float(np.abs(one.astype(np.float64) - other).mean() / 255)
    if _is_number(one) and _is_number(other):
        return float(abs(one - other) / max(abs(one) + abs(other), 1e-9))
    here, there = _time(one), _time(other)
    if here is None or there is None:
        return 1.0
    return min(1.0, abs((here - there).total_seconds()) / DAY_S)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)


def _time(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


# --- the payloads of the mock services ---


def orders(at: int) -> dict[str, Any]:
    """What the shop answers to call `at`: a page of its orders."""
    placed = datetime(2026, 3, 1, 9, 30, tzinfo=UTC) + timedelta(hours=7 * at)
    return {
        "page": at + 1,
        "status": ("open", "paid", "sent")[at % 3],
        "updated_at": placed.isoformat(),
        "orders": [
            {
                "id": f"ORD-{5174 + 37 * at + row}",
                "amount": 12.5 * (row + 1) + at,
                "pieces": 21 + (at + row) % 60,
                "placed_at": (placed + timedelta(minutes=row)).isoformat(),
                "note": f"call {at}, row {row}",
            }
            for row in range(4)
        ],
    }


@lru_cache(maxsize=256)
def _pixels(at: int) -> NDArray[np.uint8]:
    """Soft waves with a bright square that goes round on them."""
    across, down = np.meshgrid(np.arange(_SIZE), np.arange(_SIZE))
    waves = [np.sin((across * (channel + 1) + down * 2 + 3 * at) / 9) for channel in range(3)]
    screen = np.stack([110 + 70 * wave for wave in waves], 2).astype(np.uint8)
    left, top = (5 * at) % (_SIZE - 8), (3 * at) % (_SIZE - 8)
    screen[top : top + 8, left : left + 8] = (240, 200, 40)
    return screen


def picture(at: int) -> dict[str, Any]:
    """What a camera shows at call `at`."""
    return {"screen": _pixels(at % 256).copy()}
