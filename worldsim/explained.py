"""Errors of Hydra, OmegaConf and pydantic as one line: the key that was typed, and the nearest that exists."""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from worldsim.errors import ConfigError
from worldsim.loader import CONFIGS, Loader, own_values
from worldsim.overrides import written
from worldsim.schemas import dotted, filled

MESSAGES = {  # for types of pydantic errors whose own messages are about Python
    "path_type": "must be a path; ./ before it makes one of a number or of null",
    "too_short": "must not be empty",
    "model_attributes_type": "must be keys with values",
    "model_type": "must be keys with values",
}


def composition_error(
    error: Exception, loader: Loader, config_name: str | None, overrides: Sequence[str]
) -> ConfigError:
    """An error of composing a configuration as a ConfigError of one line."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return ConfigError(_missing(error.missing_cfg_file, loader, config_name, overrides))
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        place = f"line {error.problem_mark.line + 1}: {error.problem}"
        return ConfigError(f"{error.problem_mark.name.strip(chr(34))} cannot be read as YAML ({place})")
    message = str(error).strip() or str(error.__cause__)
    verb = loader.verb
    undeletable = re.match(r"Could not delete (?:from config\. )?'([^']+)'", message)
    if undeletable is not None:
        return ConfigError(f"~{undeletable[1]}: worldsim {verb} has no such group or key to remove")
    unfit = re.match(r"Error merging override \W*(.+)", message)
    if unfit is not None:
        return ConfigError(f"{unfit[1]}: this key does not take such a value; see worldsim {verb} --help")
    unknown = re.search(r"Could not override '([^']+)'", message)
    if unknown is None:
        return ConfigError(first_line(message or type(error).__name__))
    key = unknown[1]
    groups = loader.groups(loader.files(overrides, config_name), config_name)
    elsewhere = [path.stem.replace("-", " ") for path in sorted(CONFIGS.glob("*.yaml")) if key in _groups_of(path)]
    chosen = [word for word in overrides if word.partition("=")[0] in groups]
    try:
        there = own_values(loader.load_configuration(config_name, chosen, RunMode.MULTIRUN))
    except (HydraException, OmegaConfBaseException, ConfigError):
        there = filled(loader.schema, {})
    known = [*groups, *(name for name, _ in dotted(there))]
    hint = f"; worldsim {elsewhere[0]} has" if elsewhere else nearest(key, known) or f"; see worldsim {verb} --help"
    return ConfigError(f"worldsim {verb} has no key '{key}'{hint}")


def validation_message(error: ValidationError, values: Mapping[str, Any]) -> str:
    """One line about the first invalid key of `values`."""
    # The first key, because later ones may follow from it. Where a value may be of several types, each type has an
    # error; the one that is deepest in the value is the most specific.
    errors = error.errors()
    found = ((each, *_place(each, values)) for each in errors if each["loc"][:1] == errors[0]["loc"][:1])
    first, path, place = max(found, key=lambda each: len(each[1]))
    if path and isinstance(path[-1], int) and not isinstance(place, Mapping):
        path.pop()  # an entry of a list: its value is shown, not its index
    key = ".".join(map(str, path))
    if first["type"] == "extra_forbidden":
        known = [name for name, _ in dotted(values) if name != key]
        return f"there is no key '{key}'{nearest(key, known)}"
    if first["type"] == "missing":
        return f"{key} is not set; add {key}=..."
    problem = MESSAGES.get(first["type"]) or first["msg"].removeprefix("Value error, ")
    problem = problem.replace("Input should", "must")
    if isinstance(place, Mapping) and place:  # messages about several keys name them already
        return f"{key}: {problem}" if key else problem
    return f"{key}={written(place)}: {problem}"


def nearest(name: str, known: Sequence[str]) -> str:
    """The text ". Did you mean ...?", or nothing where no name is similar."""
    last = {key.rpartition(".")[2]: key for key in reversed(known)}
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    close = close or [last[end] for end in difflib.get_close_matches(name.rpartition(".")[2], last, n=1)]
    close = close or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f". Did you mean {close[0]}?" if close else ""


def first_line(message: str) -> str:
    """The first line that is not blank."""
    return next((line.strip() for line in message.splitlines() if line.strip()), "")


def _missing(file: str, loader: Loader, config_name: str | None, overrides: Sequence[str]) -> str:
    """The message for a missing file: a launcher, a primary configuration, or an option of a group."""
    if file.startswith("hydra/launcher/"):
        option = file.rpartition("/")[2]
        return f"there is no launcher '{option}' here; pip install 'worldsim[sweeps]' has joblib and submitit"
    repository = loader.files(overrides, config_name)
    known_groups = [group for group in loader.groups(repository) if file.startswith(f"{group}/")]
    group = max(known_groups, key=len, default=file.rpartition("/")[0])
    option = file.removeprefix(f"{group}/")
    if not group:
        return f"there is no configuration '{file}' in the folders that are searched; see --info searchpath"
    if option.endswith(".yaml"):
        return f"{group}={option} cannot be read: there is no such file"
    known = loader.options(group, repository)
    hint = _described(group, option, known) or nearest(option, known)
    return f"there is no {group}={option}{hint or '; it is one of ' + ', '.join(known)}"


def _described(group: str, word: str, options: Sequence[str]) -> str:
    """The text ". Did you mean ...?" with the only option whose comment contains the word: rssm for "dreamer"."""
    ours = {option: CONFIGS / group / f"{option}.yaml" for option in options}
    about = {option: file.read_text().partition("\n")[0] for option, file in ours.items() if file.is_file()}
    named = [option for option, line in about.items() if len(word) > 3 and word.lower() in line.lower()]
    return f". Did you mean {named[0]}?" if len(named) == 1 else ""


def _groups_of(file: Path) -> set[str]:
    entries = (yaml.safe_load(file.read_text()) or {}).get("defaults", [])
    return {key for entry in entries if isinstance(entry, dict) for key in entry if " " not in key}


def _place(error: ErrorDetails, values: Mapping[str, Any]) -> tuple[list[str | int], Any]:
    """The path of an error in the values, and the value there."""
    place: Any = values
    path: list[str | int] = []
    for number, part in enumerate(error["loc"]):
        here = part in (place if isinstance(place, Mapping) else range(len(place)) if isinstance(place, list) else ())
        if here or (number == len(error["loc"]) - 1 and error["type"] == "missing"):
            path.append(part)
            place = place[part] if here else None
    return path, place
