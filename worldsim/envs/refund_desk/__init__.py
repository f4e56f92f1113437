"""The embedded default environment: a refund desk over a real SQLite database."""

from worldsim.envs.refund_desk.database import Counts, Database
from worldsim.envs.refund_desk.env import REWARDS, RefundDeskEnv, Rewards
from worldsim.envs.refund_desk.fields import ACTIONS, DeskTool, Request, Shipping, Status, YesNo

__all__ = [
    "ACTIONS",
    "REWARDS",
    "Counts",
    "Database",
    "DeskTool",
    "RefundDeskEnv",
    "Request",
    "Rewards",
    "Shipping",
    "Status",
    "YesNo",
]
