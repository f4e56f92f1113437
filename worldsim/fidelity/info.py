"""`worldsim info`: a world's parameters, costs, spaces, provenance and certificate."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from gymnasium.spaces import MultiDiscrete
from pydantic import Field
from rich.table import Table

from worldsim.fidelity.costs import BATCHES, cost
from worldsim.fidelity.table import in_lines, summary
from worldsim.settings import Settings
from worldsim.simulator.world import World, load
from worldsim.spaces import Leaf, leaves

NOT_VALIDATED = "none; run worldsim validate"


class InfoConfig(Settings):
    """Which world, and how it is shown."""

    world: Path = Field(Path("runs/world"), description="folder of the world")
    form: Literal["table", "json"] = Field(
        "table",
        description="table: for people; json: for programs, with exact numbers and the whole certificate",
    )


def info(config: InfoConfig) -> Table | str:
    """What is known of a world, as a table or as JSON. Raises CheckpointError where it cannot be opened."""
    world = load(config.world)
    found = facts(world)
    if config.form == "json":
        return json.dumps(found | {"certificate": world.certificate}, indent=1)
    table = Table(title=f"World in {config.world}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    certificate = summary(world.certificate) if world.certificate else {"certificate": [NOT_VALIDATED]}
    spaces = {"observation": world.observation_space, "action": world.action_space}
    leaf_by_leaf = {name: [_in_words(leaf) for leaf in leaves(space)] for name, space in spaces.items()}
    sections: list[Mapping[str, str | list[str]]] = [*as_text(found | leaf_by_leaf), certificate]
    for section in sections:
        for name, clauses in section.items():
            table.add_row(name, in_lines([clauses] if isinstance(clauses, str) else clauses))
        table.add_section()
    return table


def facts(world: World) -> dict[str, Any]:
    """What is known of a world, as plain JSON. `step`: costs of one decoded step, by the size of the batch."""
    manifest = world.manifest
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in world.model.named_children()}
    return {
        "parameters": {"all": sum(parts.values()), **{name: size for name, size in parts.items() if size}},
        "step": {str(batch): cost(world.model, world.action_space, batch)._asdict() for batch in BATCHES},
        "model": manifest.model.model_dump(),
        "observation": str(world.observation_space),
        "action": str(world.action_space),
        "reward": list(manifest.reward_range),
        "horizon": world.horizon,
        "starts": len(next(iter(world.starts.values()))),
        "env": manifest.env.get("id", "unknown"),
        "data": {key: len(value) if isinstance(value, list) else value for key, value in manifest.data.items()},
        "training": manifest.training,
        "written by": f"worldsim {manifest.worldsim}, format {manifest.format}",
        "calibrated": world.calibration is not None,
    }


def as_text(found: dict[str, Any]) -> tuple[Mapping[str, str | list[str]], ...]:
    """The facts as text, in three sections: parameters and costs, spaces, provenance."""
    sizes, steps = dict(found["parameters"]), found["step"]
    parts = {"parameters": f"{sizes.pop('all'):,}"} | {f"  {name}": f"{size:,}" for name, size in sizes.items()}
    for batch, each in steps.items():
        costs = f"{_short(each['flops'])}FLOP, {_short(each['bytes'])}B moved, {_short(each['memory'])}B of memory"
        parts[f"a step of {batch}"] = costs
    low, high = found["reward"]
    spaces = {name: found[name] for name in ("observation", "action")}
    spaces |= {"reward": f"{low:g} to {high:g}", "horizon": f"{found['horizon']} steps"}
    spaces |= {"starts": f"{found['starts']} recorded"}
    origin = {"env": str(found["env"])}
    short = {"data": found["data"] | {"hash": str(found["data"].get("hash", "unknown"))[:12]}}
    settings = {name: short.get(name, found[name]).items() for name in ("data", "training", "model")}
    origin |= {name: ", ".join(f"{key}={value}" for key, value in each) for name, each in settings.items()}
    origin |= {"written by": found["written by"]}
    origin |= {"calibration": "trust and heads" if found["calibrated"] else NOT_VALIDATED}
    return parts, spaces, origin


def _in_words(leaf: Leaf) -> str:
    text, shape = str(leaf.space), leaf.space.shape or ()
    if isinstance(leaf.space, MultiDiscrete) and len(shape) > 1:  # whose text would list every number
        text = f"MultiDiscrete{shape} of {leaf.nvec.min()} to {leaf.nvec.max()} classes"
    return f"{leaf.name} {text}" if leaf.path else text


def _short(value: float) -> str:
    """1234567 as "1.23 M"."""
    for unit in ("", "k", "M", "G", "T"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} P"
