"""Every kind of fault that comes with worldsim, by family."""

from worldsim.faults.definition import KINDS, Fault
from worldsim.faults.kinds import drift, hostile, lies, loud, missing, mixed, pixels, refusing, silent, slow, stale

MODULES = (slow, refusing, loud, drift, silent, missing, mixed, stale, pixels, hostile, lies)  # each defines its kinds

_ORDER = (
    "several at once",
    "slow",
    "refusing",
    "malformed, loud",
    "malformed, silent",
    "missing",
    "stale and repeated",
    "pixels and sensors",
    "hostile content",
    "plausible lies",
)

FAMILIES: dict[str, tuple[type[Fault], ...]] = {
    family: tuple(kind for kind in KINDS.values() if kind.family == family) for family in _ORDER
}
