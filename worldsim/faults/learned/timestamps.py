"""Moments and waits in all the ways in which exports write them."""

import json
import math
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

LONGEST_S = 1e9  # no fault can wait longer
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Below 1e11 a number is seconds since 1970, which lasts until the year 5138; below 1e14 milliseconds, and so on
UNITS_NS = ((1e11, 10**9), (1e14, 10**6), (1e17, 10**3), (math.inf, 1))


def moment_ns(value: Any) -> int:
    """Nanoseconds since 1970 of ISO 8601 (UTC by default) or of seconds, ms, µs or ns since then, as number or text.

    Raises ValueError for anything else.
    """
    if isinstance(value, str):
        number = _number(value)
        return _iso_ns(value) if number is None else moment_ns(number)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no time; it must be ISO 8601 or a number since 1970")
    unit = next(unit for end, unit in UNITS_NS if abs(value) < end)
    if isinstance(value, int):
        return value * unit
    return round(value * (unit / 1000)) * 1000  # a float of seconds since 1970 is exact to a microsecond, no further


def optional_moment_ns(value: Any) -> int | None:
    """The same, and None for what stands for nothing: null, NaN, an empty text."""
    return None if is_missing(value) else moment_ns(value)


def is_missing(value: Any) -> bool:
    """Whether a value is one that tables write where they have none."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def retry_after_seconds(retry_after: Any, end_ns: int | None) -> float | None:
    """Seconds that a Retry-After header asks for, RFC 9110: seconds, or a date, which is relative to the call's end.

    Headers are recorded as numbers, texts, lists of them, or lists written as JSON. None for what is none of these.
    """
    if isinstance(retry_after, str) and retry_after.lstrip().startswith("["):
        try:
            retry_after = json.loads(retry_after)
        except ValueError:
            return None
    if isinstance(retry_after, list):
        return retry_after_seconds(retry_after[0], end_ns) if retry_after else None
    seconds = _number(retry_after) if isinstance(retry_after, str) else retry_after
    if seconds is None and isinstance(retry_after, str) and end_ns is not None:
        seconds = _until_s(retry_after, end_ns)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= LONGEST_S:
        return None
    return float(seconds)


def _number(text: str) -> int | float | None:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return None


def _iso_ns(text: str) -> int:
    moment = datetime.fromisoformat(text.strip())
    since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH
    return since // timedelta(microseconds=1) * 1000


def _until_s(date: str, end_ns: int) -> float | None:
    try:
        moment = parsedate_to_datetime(date)
    except ValueError:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - EPOCH).total_seconds() - end_ns / 1e9)
