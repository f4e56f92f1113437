"""Every kind of fault there is, by the name that plans use."""

from worldsim.faults.fault import Fault
from worldsim.faults.malformed import MalformedOutput
from worldsim.faults.missing import MissingData
from worldsim.faults.slow import SlowAPI

KINDS: dict[str, type[Fault]] = {each.kind: each for each in (SlowAPI, MalformedOutput, MissingData)}
