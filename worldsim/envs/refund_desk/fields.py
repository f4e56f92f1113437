"""What the desk's replies are made of: the tools, the classes of every field, and the policy's figures."""

from enum import IntEnum
from typing import NamedTuple

from gymnasium import spaces

MAX_TICKETS = 5  # rows that the screen has room for
PRICES = (50, 100, 150, 250, 400)  # EUR; amount class k means PRICES[k - 1]
APPROVAL_ABOVE = 200  # EUR; a larger refund needs approval first
RETURN_DAYS = 30  # an order older than this is neither refunded nor replaced
DAYS_PER_AGE_STEP = 5  # age class k means 5 (k - 1) < days <= 5 k
AGE_STEPS = 12
LEDGER_STEP = 50  # EUR per class of the ledger field
LEDGER_CAP = 24  # the ledger field stays here once 24 * EUR 50 have been refunded


class DeskTool(IntEnum):
    """Which tool a reply answers. Action `a` calls tool `min(a + 1, OPEN)`."""

    NONE = 0  # no call made yet, or the reply was lost
    LOOK_UP = 1  # fetch the open ticket's order into its form
    REFUND = 2  # the payment API: pays the order's amount out, every time it is called
    REPLACE = 3  # the warehouse: sends a new parcel, every time it is called
    REPLY = 4  # tell the customer that the request is declined
    ESCALATE = 5  # get a supervisor's approval for the open ticket
    CLOSE = 6  # close the open ticket; it cannot be opened again
    WAIT = 7  # let a call's time pass
    OPEN = 8  # bring ticket 0, 1, ... to the desk


class Status(IntEnum):
    """How a call went. The desk itself only answers OK and REFUSED; the last three are how faults show."""

    NONE = 0  # no call made yet
    OK = 1  # carried out
    REFUSED = 2  # made no sense (no ticket open, or a closed one): nothing changed
    TIMEOUT = 3  # no answer in time: the call may have been carried out or not
    MALFORMED = 4  # an answer that could not be read
    UNAVAILABLE = 5  # the service did not take the call


class Request(IntEnum):
    """What the customer of a ticket asks for; shown when the ticket is opened."""

    UNKNOWN = 0
    REFUND = 1
    REPLACEMENT = 2


class YesNo(IntEnum):
    """A yes-or-no field of the form (paid, refunded, approved)."""

    UNKNOWN = 0  # not looked up
    NO = 1
    YES = 2


class Shipping(IntEnum):
    """Where the order's parcel is. Once a replacement has been sent the order is in transit again."""

    UNKNOWN = 0  # not looked up
    IN_TRANSIT = 1
    DELIVERED = 2
    LOST = 3


class TicketStage(IntEnum):
    """The last thing that was done for a ticket: the colour of its chip on the screen."""

    WAITING = 0  # never opened
    OPENED = 1
    LOOKED_UP = 2
    APPROVED = 3
    DECLINED = 4
    REPLACED = 5
    REFUNDED = 6
    PAID_TWICE = 7  # more than one refund or replacement went out


class TicketForm(NamedTuple):
    """What the desk shows of a ticket: classes as in the reply, 0 for what has not been looked up."""

    request: int
    paid: int
    shipping: int
    refunded: int
    age: int
    amount: int
    approved: int
    stage: TicketStage
    closed: bool


FORM_FIELDS = ("request", "paid", "shipping", "refunded", "age", "amount", "approved")
REPLY_FIELDS = ("tool", "status", "ticket", *FORM_FIELDS, "ledger", "clock")


def action_names(tickets: int) -> tuple[str, ...]:
    """Name of every action, in order, of a desk with this many tickets."""
    return tuple(tool.name.lower() for tool in DeskTool if 0 < tool < DeskTool.OPEN) + tuple(
        f"open_{index}" for index in range(tickets)
    )


ACTIONS = action_names(MAX_TICKETS)


def reply_space(tickets: int, calls: int) -> spaces.Dict:
    """Space of a reply: one Discrete leaf per field of `REPLY_FIELDS`, class 0 meaning none or unknown."""
    sizes = {
        "tool": len(DeskTool),
        "status": len(Status),
        "ticket": tickets + 1,
        "request": len(Request),
        "paid": len(YesNo),
        "shipping": len(Shipping),
        "refunded": len(YesNo),
        "age": AGE_STEPS + 1,
        "amount": len(PRICES) + 1,
        "approved": len(YesNo),
        "ledger": LEDGER_CAP + 1,
        "clock": calls + 1,
    }
    return spaces.Dict({name: spaces.Discrete(sizes[name]) for name in REPLY_FIELDS})
