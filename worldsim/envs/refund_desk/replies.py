"""Parses replies for the reference agents; under faults they may be lost, malformed or incomplete."""

import math
import numbers
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from worldsim.envs.refund_desk.fields import REPLY_FIELDS, Status


class DeskReply(NamedTuple):
    """A parsed reply: each field's class, or None where it is missing or invalid."""

    tool: int | None = None
    status: int | None = None
    ticket: int | None = None
    request: int | None = None
    paid: int | None = None
    shipping: int | None = None
    refunded: int | None = None
    age: int | None = None
    amount: int | None = None
    approved: int | None = None
    ledger: int | None = None
    clock: int | None = None
    failed: bool = True  # no valid status, or the transport reports a failure
    garbled: bool = False  # some field had an invalid value

    @property
    def ok(self) -> bool:
        return not self.failed and self.status == Status.OK

    @property
    def refused(self) -> bool:
        return not self.failed and self.status == Status.REFUSED


def read_reply(observation: Any, info: Mapping[str, Any], sizes: Mapping[str, int]) -> DeskReply:
    """Read `observation["reply"]` (the `REPLY_FIELDS`, with `sizes[name]` classes each) and `info["reply"]["ok"]`.

    Never raises, whatever the observation contains.
    """
    raw = observation.get("reply") if isinstance(observation, Mapping) else None
    raw = raw if isinstance(raw, Mapping) else {}
    read = {name: _read_class(raw.get(name), sizes[name]) for name in REPLY_FIELDS}
    values = {name: value for name, (value, _) in read.items()}
    transport = info.get("reply")
    lost = isinstance(transport, Mapping) and transport.get("ok") is False
    failed = lost or values["status"] not in (Status.OK, Status.REFUSED)
    return DeskReply(**values, failed=failed, garbled=any(garbled for _, garbled in read.values()))


def _read_class(value: Any, size: int) -> tuple[int | None, bool]:
    """(class or None, whether the value was invalid rather than missing)."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if value is None:
        return None, False
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None, True
    number = float(value)
    if math.isnan(number):
        return None, False
    if not number.is_integer() or not 0 <= number < size:
        return None, True
    return int(number), False
