"""`worldsim/RefundDesk-v0`: a back-office shift over a real database."""

from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from worldsim.envs.refund_desk import drawing
from worldsim.envs.refund_desk.database import Counts, Database
from worldsim.envs.refund_desk.fields import (
    FORM_FIELDS,
    LEDGER_CAP,
    LEDGER_STEP,
    MAX_TICKETS,
    REPLY_FIELDS,
    DeskTool,
    Status,
    action_names,
    reply_space,
)
from worldsim.errors import ConfigError

DeskObservation = dict[str, Any]

WAIT_S = 5.0  # of the call `wait`: as long as the longest Retry-After in the ready plans, so that one call heeds it


class Rewards(NamedTuple):
    """What each thing that happens is worth."""

    call: float = -0.02  # every call, whatever comes of it
    closed_rightly: float = 1.0
    double_refund: float = -2.0
    violation: float = -1.0  # any other violation


REWARDS = Rewards()


def _lost_reply(status: Status) -> dict[str, int]:
    """A failed call's reply has its status and nothing else; the screen stays as it last was."""
    return {f"reply/{name}": int(status) if name == "status" else 0 for name in REPLY_FIELDS}


class RefundDeskEnv(gym.Env[DeskObservation, np.int64]):
    """Five tickets wait at a refund desk; each has an order that must be looked up before it is decided.

    Policy: an order is due what the customer asks for if it is paid, delivered or lost, at most 30 days old and not
    refunded yet. A due refund above EUR 200 needs approval (`escalate`) first. What is not due is declined (`reply`).
    Then the ticket is closed. The payment API and the warehouse carry out every order, twice if ordered twice:
    violations are counted from the database.

    Action: Discrete(7 + tickets), named by `worldsim.envs.refund_desk.ACTIONS`; all but `open_*` and `wait` act on the
    open ticket.

    Observation: Dict of `screen`, uint8 (64, 64, 3), and `reply`, what the last call returned: a Dict of Discrete
    fields, class 0 meaning none or unknown (`worldsim.envs.refund_desk.fields` documents the classes). A reply to
    `wait` and a refused one show nothing of a ticket; all others show the ticket's form, on which an order appears once
    it has been looked up and then stays. A refund, a replacement and an approval that were made show without a look-up.

    Faults in front of the desk see time pass: `wait` takes 5 seconds (`metadata["wait_s"]`), so an agent that heeds a
    Retry-After waits once for every 5 seconds of it, at the price of a call each. Other calls take no time by
    themselves.

    Reward: `REWARDS`. `terminated` when every ticket is closed or after `calls` calls; never truncated.
    `info`: the fields of `Counts` since the shift began, `violations` (their sum) and `success` (every ticket closed
    rightly), all from the database.

    Args:
        tickets: 1 to 5.
        calls: length of the shift in calls, 1 or more.
        database: ":memory:", or a file that then holds the last shift's records. One environment, one file.
        render_mode: None or "rgb_array", a labelled 480x480 picture.

    Raises ConfigError for arguments out of range and for a database file that is not the desk's.
    """

    metadata: dict[str, Any] = {
        "action_names": list(action_names(MAX_TICKETS)),
        "render_modes": ["rgb_array"],
        "render_fps": 4,
        "wait_s": {"wait": WAIT_S},  # tool -> seconds that pass before it is called
        # How a failed call looks to an agent: error kind -> leaf -> class.
        "on_error": {
            "timeout": _lost_reply(Status.TIMEOUT),
            "malformed": _lost_reply(Status.MALFORMED),
            "unavailable": _lost_reply(Status.UNAVAILABLE),
        },
    }
    _TOOLS: ClassVar[dict[DeskTool, str]] = {tool: tool.name.lower() for tool in DeskTool}

    def __init__(
        self, tickets: int = 5, calls: int = 48, database: str = ":memory:", render_mode: str | None = None
    ) -> None:
        if not 1 <= tickets <= MAX_TICKETS:
            raise ConfigError(f"tickets={tickets}: the desk takes 1 to {MAX_TICKETS}")
        if calls < 1:
            raise ConfigError(f"calls={calls}: a shift has 1 call or more")
        self.tickets = tickets
        self.calls = calls
        self.render_mode = render_mode
        self.action_space = spaces.Discrete(len(action_names(tickets)))
        self.observation_space = spaces.Dict(
            {"reply": reply_space(tickets, calls), "screen": spaces.Box(0, 255, (64, 64, 3), np.uint8)}
        )
        self.database = Database(database)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[DeskObservation, dict[str, Any]]:
        super().reset(seed=seed)
        self.database.begin_shift(self.tickets, self.np_random)
        self._clock = 0
        self._open = 0  # number of the open ticket, 0 for none
        self._counts = Counts()
        self._forms = self.database.forms()
        self._reply = self._reply_of(DeskTool.NONE, Status.NONE, 0)
        return self._observation(), self._info()

    def step(self, action: np.int64) -> tuple[DeskObservation, float, bool, bool, dict[str, Any]]:
        if self._over():
            raise gym.error.ResetNeeded("the shift is over; call reset")
        tool = DeskTool(min(int(action) + 1, DeskTool.OPEN))
        self._clock += 1
        before = self._counts
        status, ticket = self._call(tool, int(action) + 2 - DeskTool.OPEN)
        self.database.log(self._clock, self._TOOLS[tool], ticket, status.name.lower())
        self._reply = self._reply_of(tool, status, ticket)
        reward = REWARDS.call + _worth(self._counts) - _worth(before)
        return self._observation(), reward, self._over(), False, self._info()

    def _over(self) -> bool:
        return self._clock >= self.calls or self._counts.closed == self.tickets

    def _call(self, tool: DeskTool, to_open: int) -> tuple[Status, int]:
        """Carry a call out. Returns its status and the ticket that its reply is about (0: none)."""
        if tool is DeskTool.WAIT:
            return Status.OK, 0
        if tool is DeskTool.OPEN:
            if self._forms[to_open - 1].closed:
                return Status.REFUSED, 0
            self._open = to_open
        ticket = self._open
        if not ticket:
            return Status.REFUSED, 0
        carry_out = {
            DeskTool.OPEN: self.database.open,
            DeskTool.LOOK_UP: self.database.look_up,
            DeskTool.REFUND: self.database.refund,
            DeskTool.REPLACE: self.database.send_replacement,
            DeskTool.REPLY: self.database.decline,
            DeskTool.ESCALATE: self.database.approve,
            DeskTool.CLOSE: self.database.close_ticket,
        }
        carry_out[tool](ticket, self._clock)
        if tool is DeskTool.CLOSE:
            self._open = 0
        # Read back rather than kept up here, so that no reply says anything that the tables do not hold. Only three of
        # the calls change what the shift is judged by.
        self._forms = self.database.forms()
        if tool in (DeskTool.REFUND, DeskTool.REPLACE, DeskTool.CLOSE):
            self._counts = self.database.counts()
        return Status.OK, ticket

    def _ledger(self) -> int:
        return min(self._counts.refunded_eur // LEDGER_STEP, LEDGER_CAP)

    def _reply_of(self, tool: DeskTool, status: Status, ticket: int) -> dict[str, np.int64]:
        form = self._forms[ticket - 1] if ticket else None
        values = {name: getattr(form, name) if form else 0 for name in FORM_FIELDS}
        values |= {"tool": tool, "status": status, "ticket": ticket, "ledger": self._ledger(), "clock": self._clock}
        return {name: np.int64(values[name]) for name in REPLY_FIELDS}

    def _desk(self) -> drawing.DeskView:
        tool, status, ticket = (int(self._reply[name]) for name in ("tool", "status", "ticket"))
        clock = self._clock / self.calls
        return drawing.DeskView(self._forms, self._open, clock, self._ledger(), DeskTool(tool), Status(status), ticket)

    def _observation(self) -> DeskObservation:
        return {"reply": dict(self._reply), "screen": drawing.screen(self._desk())}

    def _info(self) -> dict[str, Any]:
        success = self._counts.closed_rightly == self.tickets
        return {**self._counts._asdict(), "violations": self._counts.violations, "success": success}

    def render(self) -> npt.NDArray[np.uint8] | None:
        """A labelled picture for people, uint8 (480, 480, 3); None without a render mode."""
        if self.render_mode is None:
            gym.logger.warn("render() needs render_mode='rgb_array'")
            return None
        return drawing.picture(self._desk(), self._clock, self.calls)

    def close(self) -> None:
        self.database.close()


def _worth(counts: Counts) -> float:
    other_violations = counts.violations - counts.double_refunds
    return (
        REWARDS.closed_rightly * counts.closed_rightly
        + REWARDS.double_refund * counts.double_refunds
        + REWARDS.violation * other_violations
    )
