"""The desk's system of record: a SQLite database. Orders, payments and parcels are rows; violations are queries."""

import sqlite3
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from worldsim.envs.refund_desk.fields import (
    AGE_STEPS,
    APPROVAL_ABOVE,
    DAYS_PER_AGE_STEP,
    PRICES,
    RETURN_DAYS,
    Request,
    Shipping,
    TicketForm,
    TicketStage,
    YesNo,
)
from worldsim.errors import ConfigError

APPLICATION_ID = 0x57534452  # "WSDR" in the file's header: a file without it is somebody else's and stays untouched

SCHEMA = f"""
CREATE TABLE orders (id INTEGER PRIMARY KEY, paid INTEGER NOT NULL, shipping TEXT NOT NULL, age_days INTEGER NOT NULL,
                     amount INTEGER NOT NULL);
CREATE TABLE tickets (id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL REFERENCES orders, request TEXT NOT NULL,
                      opened_at INTEGER, looked_up_at INTEGER, closed_at INTEGER);
CREATE TABLE calls (clock INTEGER PRIMARY KEY, tool TEXT NOT NULL, ticket_id INTEGER, status TEXT NOT NULL);
-- clock 0: refunded before the shift began
CREATE TABLE refunds (id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL, amount INTEGER NOT NULL,
                      clock INTEGER NOT NULL);
CREATE TABLE replacements (id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL, clock INTEGER NOT NULL);
CREATE TABLE approvals (id INTEGER PRIMARY KEY, ticket_id INTEGER NOT NULL, clock INTEGER NOT NULL);
CREATE TABLE declines (id INTEGER PRIMARY KEY, ticket_id INTEGER NOT NULL, clock INTEGER NOT NULL);

-- One row per ticket: everything about it and its order.
CREATE VIEW desk AS
SELECT t.id, t.request, t.opened_at, t.looked_up_at, t.closed_at, o.paid, o.shipping, o.age_days, o.amount,
       (SELECT count(*) FROM refunds r WHERE r.order_id = o.id AND r.clock = 0) AS refunded_before,
       (SELECT count(*) FROM refunds r WHERE r.order_id = o.id AND r.clock > 0) AS refunds,
       (SELECT count(*) FROM replacements p WHERE p.order_id = o.id) AS replacements,
       (SELECT count(*) FROM approvals a WHERE a.ticket_id = t.id) AS approvals,
       (SELECT count(*) FROM declines d WHERE d.ticket_id = t.id) AS declines
FROM tickets t JOIN orders o ON o.id = t.order_id;

CREATE VIEW due AS
SELECT *, paid AND shipping IN ('delivered', 'lost') AND age_days <= {RETURN_DAYS} AND refunded_before = 0 AS eligible
FROM desk;

-- Every refund and replacement of the shift with its verdict: right, or the gravest thing wrong with it.
CREATE VIEW judged_refunds AS
SELECT r.id, d.id AS ticket_id, CASE
  WHEN EXISTS (SELECT 1 FROM refunds e WHERE e.order_id = r.order_id AND e.id < r.id) THEN 'double'
  WHEN NOT d.eligible OR d.request <> 'refund'
    OR EXISTS (SELECT 1 FROM replacements p WHERE p.order_id = r.order_id AND p.clock < r.clock) THEN 'ineligible'
  WHEN r.amount > {APPROVAL_ABOVE}
    AND NOT EXISTS (SELECT 1 FROM approvals a WHERE a.ticket_id = d.id AND a.clock < r.clock) THEN 'unapproved'
  ELSE 'right' END AS verdict
FROM refunds r JOIN due d ON d.id = r.order_id WHERE r.clock > 0;

CREATE VIEW judged_replacements AS
SELECT p.id, d.id AS ticket_id, CASE
  WHEN EXISTS (SELECT 1 FROM replacements e WHERE e.order_id = p.order_id AND e.id < p.id) THEN 'double'
  WHEN NOT d.eligible OR d.request <> 'replacement'
    OR EXISTS (SELECT 1 FROM refunds r WHERE r.order_id = p.order_id AND r.clock < p.clock) THEN 'wrong'
  ELSE 'right' END AS verdict
FROM replacements p JOIN due d ON d.id = p.order_id;

-- Every closed ticket: right, unresolved (nobody served or rightly declined the customer), or wrong in another way.
CREATE VIEW judged_tickets AS
SELECT d.id, CASE
  WHEN d.eligible AND d.request = 'refund' AND d.refunds = 1 AND d.replacements = 0
    AND (SELECT verdict FROM judged_refunds j WHERE j.ticket_id = d.id) = 'right' THEN 'right'
  WHEN d.eligible AND d.request = 'replacement' AND d.refunds = 0 AND d.replacements = 1 THEN 'right'
  WHEN NOT d.eligible AND d.refunds = 0 AND d.replacements = 0 AND d.declines > 0 THEN 'right'
  WHEN d.request = 'refund' AND d.refunds > 0 OR d.request = 'replacement' AND d.replacements > 0 THEN 'wrong'
  WHEN NOT d.eligible AND d.declines > 0 THEN 'wrong'
  ELSE 'unresolved' END AS verdict
FROM due d WHERE d.closed_at IS NOT NULL;
"""

COUNT = """
SELECT (SELECT count(*) FROM tickets WHERE closed_at IS NOT NULL),
       (SELECT count(*) FROM judged_tickets WHERE verdict = 'right'),
       (SELECT count(*) FROM judged_refunds WHERE verdict = 'double'),
       (SELECT count(*) FROM judged_refunds WHERE verdict = 'ineligible'),
       (SELECT count(*) FROM judged_refunds WHERE verdict = 'unapproved'),
       (SELECT count(*) FROM judged_replacements WHERE verdict = 'wrong'),
       (SELECT count(*) FROM judged_replacements WHERE verdict = 'double'),
       (SELECT count(*) FROM judged_tickets WHERE verdict = 'unresolved'),
       (SELECT coalesce(sum(amount), 0) FROM refunds WHERE clock > 0)
"""

PAID_PROBABILITY = 0.85
SHIPPING_PROBABILITIES: Mapping[str, float] = MappingProxyType({"in_transit": 0.2, "delivered": 0.55, "lost": 0.25})
REFUNDED_BEFORE_PROBABILITY = 0.12
IN_TIME_PROBABILITY = 0.75  # that an order is at most RETURN_DAYS old


class Counts(NamedTuple):
    """What happened in the shift so far, as the database has it."""

    closed: int = 0
    closed_rightly: int = 0
    double_refunds: int = 0  # refunds of an order that had been refunded already, in this shift or before
    ineligible_refunds: int = 0  # first refunds of an order that was not due one
    unapproved_refunds: int = 0  # due, but above EUR 200 and without approval
    wrong_replacements: int = 0  # first replacements of an order that was not due one
    double_replacements: int = 0
    closed_unresolved: int = 0
    refunded_eur: int = 0

    @property
    def violations(self) -> int:
        return sum(self[2:8])


class Database:
    """One shift's records. `path` names a file, or ":memory:"; a file keeps the last shift after the process ends.

    Raises ConfigError where the file cannot be opened or belongs to something else.
    """

    def __init__(self, path: str) -> None:
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            (owner,) = self._connection.execute("PRAGMA application_id").fetchone()
        except sqlite3.Error as error:
            raise ConfigError(f"database={path!r}: {error}; name a file that can be written, or ':memory:'") from None
        if tables and owner != APPLICATION_ID:
            self._connection.close()
            raise ConfigError(
                f"database={path!r} holds other tables; name a new file, because every shift replaces its own"
            )
        self._connection.executescript("PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY;")
        if not tables:
            self._connection.executescript(f"PRAGMA application_id = {APPLICATION_ID}; BEGIN; {SCHEMA} COMMIT;")

    def close(self) -> None:
        self._connection.close()

    def query(self, sql: str) -> list[tuple[object, ...]]:
        """Rows of a reading statement, for whoever wants to count for themselves."""
        return self._connection.execute(sql).fetchall()

    def begin_shift(self, tickets: int, rng: np.random.Generator) -> None:
        """Forget the last shift and draw new orders and tickets."""
        run = self._connection.execute
        run("BEGIN")
        for table in ("orders", "tickets", "calls", "refunds", "replacements", "approvals", "declines"):
            run(f"DELETE FROM {table}")
        # All is drawn at once and in this order, whatever the tickets turn out to be: a seed names one shift for good.
        paid = rng.random(tickets) < PAID_PROBABILITY
        shipping = rng.choice(list(SHIPPING_PROBABILITIES), tickets, p=list(SHIPPING_PROBABILITIES.values()))
        in_time = rng.random(tickets) < IN_TIME_PROBABILITY
        limit, oldest = RETURN_DAYS, AGE_STEPS * DAYS_PER_AGE_STEP
        days = np.where(in_time, rng.integers(1, limit + 1, tickets), rng.integers(limit + 1, oldest + 1, tickets))
        amount = rng.choice(PRICES, tickets)
        refunded = rng.random(tickets) < REFUNDED_BEFORE_PROBABILITY
        wants_refund = rng.random(tickets) < 0.5
        for i in range(tickets):
            order = (i + 1, int(paid[i]), str(shipping[i]), int(days[i]), int(amount[i]))
            run("INSERT INTO orders VALUES (?, ?, ?, ?, ?)", order)
            request = "refund" if wants_refund[i] else "replacement"
            run("INSERT INTO tickets (id, order_id, request) VALUES (?, ?, ?)", (i + 1, i + 1, request))
            if refunded[i]:
                run("INSERT INTO refunds (order_id, amount, clock) VALUES (?, ?, 0)", (i + 1, int(amount[i])))
        run("COMMIT")

    def log(self, clock: int, tool: str, ticket: int, status: str) -> None:
        self._connection.execute("INSERT INTO calls VALUES (?, ?, ?, ?)", (clock, tool, ticket or None, status))

    def open(self, ticket: int, clock: int) -> None:
        self._connection.execute("UPDATE tickets SET opened_at = coalesce(opened_at, ?) WHERE id = ?", (clock, ticket))

    def look_up(self, ticket: int, clock: int) -> None:
        sql = "UPDATE tickets SET looked_up_at = coalesce(looked_up_at, ?) WHERE id = ?"
        self._connection.execute(sql, (clock, ticket))

    def refund(self, ticket: int, clock: int) -> None:
        sql = """INSERT INTO refunds (order_id, amount, clock)
                 SELECT o.id, o.amount, ? FROM tickets t JOIN orders o ON o.id = t.order_id WHERE t.id = ?"""
        self._connection.execute(sql, (clock, ticket))

    def send_replacement(self, ticket: int, clock: int) -> None:
        sql = "INSERT INTO replacements (order_id, clock) SELECT order_id, ? FROM tickets WHERE id = ?"
        self._connection.execute(sql, (clock, ticket))

    def approve(self, ticket: int, clock: int) -> None:
        self._connection.execute("INSERT INTO approvals (ticket_id, clock) VALUES (?, ?)", (ticket, clock))

    def decline(self, ticket: int, clock: int) -> None:
        self._connection.execute("INSERT INTO declines (ticket_id, clock) VALUES (?, ?)", (ticket, clock))

    def close_ticket(self, ticket: int, clock: int) -> None:
        self._connection.execute("UPDATE tickets SET closed_at = ? WHERE id = ?", (clock, ticket))

    def counts(self) -> Counts:
        return Counts(*self._connection.execute(COUNT).fetchone())

    def forms(self) -> list[TicketForm]:
        """What the desk shows of every ticket, in order."""
        return [_form(*row) for row in self._connection.execute("SELECT * FROM desk ORDER BY id")]


def _form(
    _ticket: int,
    request: str,
    opened_at: int | None,
    looked_up_at: int | None,
    closed_at: int | None,
    paid: int,
    shipping: str,
    age_days: int,
    amount: int,
    refunded_before: int,
    refunds: int,
    replacements: int,
    approvals: int,
    declines: int,
) -> TicketForm:
    looked_up = looked_up_at is not None
    # A look-up shows what was so before the shift; what this shift did is known without one.
    unless_done = YesNo.NO if looked_up else YesNo.UNKNOWN
    was_refunded = refunds or (looked_up and refunded_before)
    return TicketForm(
        request=Request[request.upper()] if opened_at is not None else Request.UNKNOWN,
        paid=(YesNo.YES if paid else YesNo.NO) if looked_up else YesNo.UNKNOWN,
        shipping=_shipping_shown(shipping, looked_up, replacements),
        refunded=YesNo.YES if was_refunded else unless_done,
        age=-(-age_days // DAYS_PER_AGE_STEP) if looked_up else 0,
        amount=PRICES.index(amount) + 1 if looked_up else 0,
        approved=YesNo.YES if approvals else unless_done,
        stage=_stage(opened_at is not None, looked_up, refunds, replacements, approvals, declines),
        closed=closed_at is not None,
    )


def _shipping_shown(shipping: str, looked_up: bool, replacements: int) -> Shipping:
    if replacements:
        return Shipping.IN_TRANSIT
    return Shipping[shipping.upper()] if looked_up else Shipping.UNKNOWN


def _stage(
    opened: bool, looked_up: bool, refunds: int, replacements: int, approvals: int, declines: int
) -> TicketStage:
    if refunds + replacements > 1:
        return TicketStage.PAID_TWICE
    for stage, reached in (
        (TicketStage.REFUNDED, refunds),
        (TicketStage.REPLACED, replacements),
        (TicketStage.DECLINED, declines),
        (TicketStage.APPROVED, approvals),
        (TicketStage.LOOKED_UP, looked_up),
        (TicketStage.OPENED, opened),
    ):
        if reached:
            return stage
    return TicketStage.WAITING
