"""What can go wrong, as a table for the terminal."""

import inspect
from collections.abc import Mapping, Sequence

from pydantic import Field
from rich.table import Table
from rich.text import Text

from worldsim.errors import ConfigError
from worldsim.faults.definition import Fault
from worldsim.faults.parameters import matches, suggest
from worldsim.faults.plans.catalogue import FAMILIES
from worldsim.faults.plans.plan import Plan, ready_plans
from worldsim.settings import Settings

COMMON = ("severity", "probability", "tools", "schedule", "seed", "targets", "out_of_space")


class ListConfig(Settings):
    """Which faults are listed."""

    family: str | None = Field(None, description="only this family, e.g. slow; null: all")
    kinds: list[str] = Field(["*"], min_length=1, description="globs over the kinds, e.g. [*_latency]")


def table(config: ListConfig) -> Table:
    """The faults asked for, with the ready plans where nothing is. Raises ConfigError for what matches none."""
    if config.family is not None and config.family not in FAMILIES:
        raise ConfigError(
            f"family={config.family}: no faults are of this family. {suggest(config.family, [*FAMILIES])}"
        )
    listing = Table(title_justify="left", title="Faults")
    listing.add_column("kind", no_wrap=True)  # it is typed as it stands here, in the narrowest terminal, too
    listing.add_column("what, and its parameters")
    for family, kinds in FAMILIES.items():
        listed = [kind for kind in kinds if config.family in (None, family) and matches(kind.kind, config.kinds)]
        _section(listing, family, {kind.kind: (first_sentence(kind), parameters(kind)) for kind in listed})
    if not listing.row_count:
        raise ConfigError(f"kinds={config.kinds} match no faults; see worldsim faults list")
    if config == ListConfig():
        plans = {name: Plan.load(name) for name in ready_plans()}
        plan_rows = {name: (plan.description, [fault.kind for fault in plan.faults]) for name, plan in plans.items()}
        _section(listing, "ready plans", plan_rows)
    listing.caption = f"All have {', '.join(COMMON[:5])}; those that change replies {' and '.join(COMMON[5:])}."
    return listing


def _section(listing: Table, heading: str, rows: Mapping[str, tuple[str, Sequence[str]]]) -> None:
    """Name, what it does, and below that what it has or holds."""
    if rows:
        listing.add_row(Text(heading, style="bold cyan"), "")
    for name, (what, contents) in rows.items():
        listing.add_row(name, Text.assemble(what, (f"\n{', '.join(contents)}" if contents else "", "dim")))
    listing.add_section()


def first_sentence(kind: type[Fault]) -> str:
    """What a fault does, by the first paragraph of its documentation."""
    return " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split())


def parameters(kind: type[Fault]) -> list[str]:
    """A fault's own parameters with their defaults."""
    fields = {name: field for name, field in kind.model_fields.items() if name not in COMMON}
    return [f"{name}={_short(field.default)}" for name, field in fields.items()]


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_short, value))}]"
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)
