"""What can go wrong, as a table for the terminal."""

import inspect

from pydantic import BaseModel, ConfigDict, Field
from rich.table import Table

from worldsim.errors import ConfigError
from worldsim.faults.definition import Fault
from worldsim.faults.parameters import matches, suggest
from worldsim.faults.plans.catalogue import FAMILIES
from worldsim.faults.plans.plan import Plan, ready_plans

COMMON = ("severity", "probability", "tools", "schedule", "seed", "targets", "out_of_space")


class ListConfig(BaseModel):
    """Which faults. The keys are explained in configs/faults-list.yaml."""

    model_config = ConfigDict(extra="forbid")

    family: str | None = None
    kinds: list[str] = Field(["*"], min_length=1)


def table(config: ListConfig) -> Table:
    """The faults asked for, with the ready plans where nothing is. Raises ConfigError for what matches none."""
    if config.family is not None and config.family not in FAMILIES:
        raise ConfigError(
            f"family={config.family}: no faults are of this family. {suggest(config.family, [*FAMILIES])}"
        )
    shown = Table("kind", "family", "what", "parameters", title_justify="left", title="Faults")
    for family, kinds in FAMILIES.items():
        listed = [kind for kind in kinds if config.family in (None, family) and matches(kind.kind, config.kinds)]
        for kind in listed:
            shown.add_row(kind.kind, family, first_sentence(kind), ", ".join(parameters(kind)))
        if listed:
            shown.add_section()
    if not shown.row_count:
        raise ConfigError(f"kinds={config.kinds} match no faults; see worldsim faults list")
    if config == ListConfig():
        for name in ready_plans():
            plan = Plan.load(name)
            shown.add_row(name, "ready plan", plan.description, ", ".join(fault.kind for fault in plan.faults))
    shown.caption = f"All have {', '.join(COMMON[:5])}; those that change replies {' and '.join(COMMON[5:])}."
    return shown


def first_sentence(kind: type[Fault]) -> str:
    """What a fault does, by the first paragraph of its documentation."""
    return " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split())


def parameters(kind: type[Fault]) -> list[str]:
    """A fault's own parameters with their defaults."""
    own = {name: field for name, field in kind.model_fields.items() if name not in COMMON}
    return [f"{name}={_short(field.default)}" for name, field in own.items()]


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_short, value))}]"
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)
