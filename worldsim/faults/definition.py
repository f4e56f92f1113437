"""What a fault is: parameters, and what they compose: trigger + selection + effect + delivery.

The parameters are a pydantic model. Its `compose` returns, as plain values, the share of the calls that it triggers on,
which leaves it selects, what its effect is, and how the result is delivered. All the rest (counting calls, schedules,
randomness, records, writing) is done by the pipeline, the same for all faults.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, SerializeAsAny, field_validator

from worldsim.errors import ConfigError
from worldsim.faults.parameters import (
    EVERYTHING,
    STRICT_AND_FROZEN,
    LocatedError,
    NameGlobs,
    checked_init,
    is_scaled,
    matches,
    number,
    option,
    suggest,
)
from worldsim.faults.schedule import SCHEDULES, Always, Schedule
from worldsim.spaces import Leaf

if TYPE_CHECKING:
    from worldsim.faults.effects.base import Effect
    from worldsim.faults.effects.requirements import Requirement

F = TypeVar("F", bound="type[Fault]")


@dataclass(frozen=True)
class Composition:
    """What a fault does, as the pipeline runs it.

    effect: what becomes of the calls that it triggers on, with its selection and delivery.
    trigger_probability: in [0, 1], that it triggers on a call at which it is active by tools, schedule and
    `Fault.probability`; mostly the severity times its `rate`. `worldsim.faults.stage` has the formula.
    targets, out_of_space: of faults that change replies. needs: what there must be in replies; None: anything will do.
    """

    effect: "Effect"
    trigger_probability: float = 1.0
    targets: tuple[str, ...] = EVERYTHING
    out_of_space: bool = False
    needs: "Requirement | None" = None


class Fault(BaseModel):
    """The parameters of a fault. A fault is a value: all that changes during a session belongs to the pipeline.

    The same call of the same session draws the same numbers at every severity, so a graver fault acts wherever a
    milder one did, and on more.

    Raises ConfigError for parameters out of range.
    """

    model_config = STRICT_AND_FROZEN

    kind: ClassVar[str]
    family: ClassVar[str]

    severity: float = number(0.5, 0, 1, "0: nothing happens at all; 1: as bad as it gets")
    probability: float = number(1.0, 0, 1, "share of the scheduled calls at which the fault is active")
    tools: NameGlobs = option(EVERYTHING, "globs over the names of the calls that it acts on")
    schedule: SerializeAsAny[Schedule] = option(
        Always(), "when it is active: always, after, window, bursts or time_window"
    )
    seed: int | None = number(None, 0, 2**63, "seed of its own; by default that of the plan")

    def __init__(self, /, **values: Any) -> None:
        checked_init(self, self.kind, values)

    def replace(self, **changes: Any) -> Self:
        """The same fault with other values in some parameters."""
        return type(self)(**{**self.values(), **changes})

    def values(self) -> dict[str, Any]:
        """Its parameters by name."""
        return {name: getattr(self, name) for name in type(self).model_fields}

    @field_validator("schedule", mode="before")
    @classmethod
    def _read_schedule(cls, given: Any) -> Schedule:
        return given if isinstance(given, Schedule) else schedule_from_json(given)

    @property
    def idle(self) -> bool:
        """Whether this fault can never do anything."""
        return self.severity == 0 or self.probability == 0

    def scaled(self, name: str) -> float:
        """A scaled parameter at this severity: the severity times its value at 1."""
        return self.severity * float(getattr(self, name))

    @abstractmethod
    def compose(self) -> Composition:
        """What it does with these parameters."""

    def values_at_severity(self) -> dict[str, float]:
        """What the severity means here, by name: the scaled parameters, for the documentation."""
        return {name: self.scaled(name) for name, field in type(self).model_fields.items() if is_scaled(field)}

    def check(self, leaves: Sequence[Leaf]) -> None:
        """Raise ConfigError where it cannot have been meant for replies with these leaves."""
        composition = self.compose()
        needs, targets = composition.needs, composition.targets
        if targets == EVERYTHING or needs is None or not needs.aim or needs.met([*_among(targets, leaves)]):
            return
        raise LocatedError(
            f"{self.kind}: there is nothing for it in {', '.join(targets)}; aim at {needs.aim}", "targets"
        )

    def idle_reason(self, tools: Sequence[str] | None, leaves: Sequence[Leaf] | None) -> str | None:
        """Why it can never do anything there; None where it may.

        tools: the names of all there are, None where they are not known. leaves: of replies, None for plain JSON.
        """
        if self.idle:
            return f"its {'probability' if self.severity else 'severity'} is 0"
        if tools is not None and not any(matches(tool, self.tools) for tool in tools):
            return f"there is no tool {', '.join(self.tools)}"
        composition = self.compose()
        needs, targets = composition.needs, composition.targets
        if composition.trigger_probability == 0:
            return "its share of the calls is 0"
        if needs is None or (needs.in_plain if leaves is None else needs.met([*_among(targets, leaves)])):
            return None
        where = "" if targets == EVERYTHING else f" in {', '.join(targets)}"
        return f"there are no {needs.what}{where}"


def _among(targets: tuple[str, ...], leaves: Sequence[Leaf]) -> Iterator[Leaf]:
    return (leaf for leaf in leaves if matches(leaf.name, targets))


KINDS: dict[str, type[Fault]] = {}
"""Every kind of fault that has been defined, by the name that plans use. `@fault` adds to it."""


def fault(kind: str, family: str = "of your own") -> Callable[[Any], Any]:
    """Make a class of parameters, or a generator, a kind of fault that plans know by this name.

    A generator gets the call and a `CallContext`, and its other parameters with their defaults are the fault's: see
    `worldsim.faults.generators`.

    Raises ConfigError for a name that another fault has.
    """

    def register(given: Any) -> Any:
        from worldsim.faults.generators import fault_from_generator

        made: type[Fault] = given if isinstance(given, type) else fault_from_generator(given)
        known = KINDS.get(kind)
        if known is not None and (known.__module__, known.__qualname__) != (made.__module__, made.__qualname__):
            raise ConfigError(f"two faults are of kind '{kind}': {known.__module__} has one already; rename yours")
        made.kind, made.family = kind, family
        KINDS[kind] = made
        return made

    return register


def schedule_from_json(data: Any) -> Schedule:
    """The schedule that a mapping describes. Raises ConfigError for what is unknown or out of range."""
    if not isinstance(data, Mapping):
        raise LocatedError(f"a schedule is a mapping such as {{kind: window, start: 5, stop: 9}}, got {data!r}")
    if "kind" not in data:
        fitting = [name for name, each in SCHEDULES.items() if set(data) & set(each.model_fields)]
        raise LocatedError(f"a schedule needs a kind. Choose from: {', '.join(fitting or SCHEDULES)}")
    kind = SCHEDULES.get(str(data["kind"]))
    if kind is None:
        known = f"Choose from: {', '.join(SCHEDULES)}"
        raise LocatedError(
            f"no schedule is of kind {data['kind']!r}. {suggest(data['kind'], list(SCHEDULES), known)}", "kind"
        )
    given = {str(key): value for key, value in data.items() if key != "kind"}
    for key in given:
        others = [name for name, each in SCHEDULES.items() if key in each.model_fields]
        if key not in kind.model_fields and others:
            raise LocatedError(
                f"schedule {kind.kind}: '{key}' belongs to a schedule of kind '{others[0]}'; keep one", key
            )
    return kind(**given)
