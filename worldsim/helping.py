"""The text of `worldsim <verb> --help`: every key with value, description and bounds, from its pydantic model."""

import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from hydra._internal.config_repository import IConfigRepository
from omegaconf import DictConfig
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from worldsim.loader import Loader, own_values
from worldsim.overrides import written
from worldsim.schemas import MISSING, members, model_of

LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}  # by pydantic's names
YOUR_OWN = (
    "Groups are files of settings. Choose a file of your own by its path, {group}=path/to/my.yaml, or by its name, "
    "if --config-dir or hydra.searchpath gives the folder that contains {group}/<name>.yaml."
)


def help_text(
    loader: Loader,
    composed: DictConfig,
    repository: IConfigRepository,
    groups: Mapping[str, Any],
    summary: str,
    examples: Sequence[str],
) -> str:
    """Groups with their options, keys with their composed values, and examples."""
    width = min(120, shutil.get_terminal_size((80, 24)).columns)

    def paragraph(text: str, indent: str = "      ", hanging: str = "") -> list[str]:
        hanging = indent + hanging
        return textwrap.wrap(
            text,
            width,
            initial_indent=indent,
            subsequent_indent=hanging,
            break_on_hyphens=False,
            break_long_words=False,
        )

    lines = paragraph(f"worldsim {loader.verb}: {summary}", "", "  ")
    if groups:
        lines += ["", *paragraph(YOUR_OWN.format(group=next(iter(groups))), "")]
    for group in groups:
        chosen = composed.hydra.runtime.choices.get(group)
        lines += ["", f"  {group}={written(chosen)}"]
        field = loader.schema.model_fields.get(group)
        lines += paragraph(field.description) if field is not None and field.description else []
        for option in loader.options(group, repository):
            lines += paragraph(f"{option}: {_about_option(repository, group, option)}", "        ", "  ")
    lines += ["", "Keys, each key=value:", ""]
    for key, value, about in keys(loader.schema, own_values(composed)):
        as_it_is = isinstance(value, str) and value.startswith(("${", MISSING))  # an interpolation, or without a value
        lines += [f"  {key}={value if as_it_is else written(value)}", *paragraph(about)]
    return "\n".join([*lines, "", "Examples:", *(f"  worldsim {loader.verb} {each}".rstrip() for each in examples)])


def keys(model: type[BaseModel], values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any, str]]:
    """Each key of the model with its value, and its description with bounds."""
    for name, field in model.model_fields.items():
        value = values[name]
        part = model_of(field, value)
        if part is not None and isinstance(value, Mapping):
            yield from keys(part, value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value, "; ".join(filter(None, [field.description, allowed(field)]))


def allowed(field: FieldInfo) -> str:
    """Which values a field may have, in words: "1 to 1024", "at least 0, below 1", "auto, cpu or cuda"."""
    parts = [field.annotation, *members(field.annotation)]
    metadata = [*field.metadata, *(each for part in parts if isinstance(part, FieldInfo) for each in part.metadata)]
    limits = {name: getattr(each, name) for each in metadata for name in LIMITS if hasattr(each, name)}
    if limits.keys() == {"ge", "le"}:
        return f"{limits['ge']} to {limits['le']}"
    choices = [
        written(each) for part in members(field.annotation) if get_origin(part) is Literal for each in get_args(part)
    ]
    if len(choices) > 1:
        return f"{', '.join(choices[:-1])} or {choices[-1]}"
    return ", ".join(f"{LIMITS[kind]} {limit}" for kind, limit in limits.items())


def _about_option(repository: IConfigRepository, group: str, option: str) -> str:
    """The first comment in the file of an option."""
    for source in repository.get_sources():
        file = Path(source.path) / group / f"{option}.yaml"
        if source.scheme() == "file" and file.is_file():
            lines = [line.lstrip("# ") for line in file.read_text().splitlines() if line.startswith("#")]
            return next((line for line in lines if not line.startswith("@package")), "")
    return ""
