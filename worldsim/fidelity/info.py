"""What a world is, for people: parts, spaces, where it comes from, how far it is known to be true."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict
from rich.table import Table

from worldsim.fidelity.table import summary
from worldsim.simulator.world import World, load


class InfoConfig(BaseModel):
    """Which world. The key is explained in configs/info.yaml."""

    model_config = ConfigDict(extra="forbid")

    world: Path = Path("runs/world")


def info(config: InfoConfig) -> Table:
    """The facts of a world as a table. Raises CheckpointError where it cannot be opened."""
    world = load(config.world)
    table = Table(title=f"World in {config.world}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts(world).items():
        table.add_row(name, value)
    certificate = summary(world.certificate) if world.certificate else {"certificate": "none; run worldsim validate"}
    table.add_section()
    for name, value in certificate.items():
        table.add_row(name, value)
    return table


def facts(world: World) -> dict[str, str]:
    """What is known of a world, in words."""
    manifest = world.manifest
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in world.model.named_children()}
    found = {"parameters": f"{sum(sizes.values()):,}"}
    found |= {f"  {name}": f"{size:,}" for name, size in sizes.items() if size}
    settings = manifest.model.model_dump()
    found["model"] = ", ".join(f"{key}={value}" for key, value in settings.items())
    found["observation"], found["action"] = str(world.observation_space), str(world.action_space)
    low, high = manifest.reward_range
    found["reward"] = f"{low:g} to {high:g}"
    found["horizon"] = f"{world.horizon} steps"
    found["starts"] = f"{len(next(iter(world.starts.values())))} recorded"
    found["env"] = str(manifest.env.get("id", "unknown"))
    found["data"] = ", ".join(f"{key}={value}" for key, value in manifest.data.items())
    found["training"] = ", ".join(f"{key}={value}" for key, value in manifest.training.items())
    found["written by"] = f"worldsim {manifest.worldsim}, format {manifest.format}"
    found["trust"] = "calibrated" if world.trust is not None else "not calibrated; run worldsim validate"
    return found
