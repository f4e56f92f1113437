"""What can go wrong, as data: faults, schedules, clocks. Loads no torch."""

from worldsim.faults.catalogue import KINDS
from worldsim.faults.clock import Clock, VirtualClock, WallClock
from worldsim.faults.exchange import ERRORS, LOST, Call, Forward, Record, Reply
from worldsim.faults.fault import Context, Fault, LeafFault
from worldsim.faults.malformed import MalformedOutput
from worldsim.faults.missing import MissingData
from worldsim.faults.pipeline import Pipeline
from worldsim.faults.plan import Plan, fault_from_json, fault_to_json, ready_plans
from worldsim.faults.schedule import After, Always, Bursts, Schedule, Window
from worldsim.faults.slow import SlowAPI

__all__ = [
    "After",
    "Always",
    "Bursts",
    "Call",
    "Clock",
    "Context",
    "ERRORS",
    "Fault",
    "Forward",
    "KINDS",
    "LOST",
    "LeafFault",
    "MalformedOutput",
    "MissingData",
    "Pipeline",
    "Plan",
    "Record",
    "Reply",
    "Schedule",
    "SlowAPI",
    "VirtualClock",
    "WallClock",
    "Window",
    "fault_from_json",
    "fault_to_json",
    "ready_plans",
]
