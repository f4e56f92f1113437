"""Composes a verb's configuration: from Hydra overrides to a validated pydantic model, or an error of one line.

A verb's keys and defaults are those of its pydantic model; worldsim/configs holds groups of other values.
"""

import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import yaml
from hydra._internal.hydra import Hydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from worldsim import explained
from worldsim.errors import ConfigError
from worldsim.loader import CONFIGS, Loader
from worldsim.overrides import for_shell, parse, word
from worldsim.schemas import dotted, filled, leaves_of, lists_of_one, model_of

Config = TypeVar("Config", bound=BaseModel)
COMPOSITION_ERRORS = (
    HydraException,
    OmegaConfBaseException,
    yaml.YAMLError,
    UnicodeDecodeError,
)  # what composing may raise


class Composed(NamedTuple, Generic[Config]):
    """A validated configuration, and the option that was chosen in each group."""

    config: Config
    choices: dict[str, str]  # group -> option, e.g. env -> atari/breakout


def compose(verb: str, schema: type[Config], overrides: Sequence[str] = ()) -> Composed[Config]:
    """The verb's validated configuration with overrides. Raises ConfigError with the key and the fix."""
    loader = Loader(verb, schema)
    words = with_file(loader, overrides)
    try:
        composed = _composed(loader, words)
    except COMPOSITION_ERRORS as error:
        raise explained.composition_error(error, loader, loader.config_name, words) from error
    return Composed(check(schema, plain(composed)), chosen(composed.hydra))


def chosen(settings: Any) -> dict[str, str]:
    """The option chosen in each group, from Hydra's own part of a configuration."""
    choices = settings.runtime.choices
    return {str(group): str(option) for group, option in choices.items() if not str(group).startswith("hydra/")}


def plain(composed: DictConfig) -> dict[str, Any]:
    """The composed configuration as plain values, without Hydra's own part. Raises ConfigError for a missing value."""
    kept = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    try:
        if _has_missing(OmegaConf.to_container(kept)):  # the search by OmegaConf looks at what each reference points to
            key = min(OmegaConf.missing_keys(kept))
            raise ConfigError(f"{key} is not set; add {key}=...")
        values = OmegaConf.to_container(kept, resolve=True)
    except OmegaConfBaseException as error:
        where = f"{error.full_key}: " if error.full_key else ""
        raise ConfigError(where + explained.first_line(str(error))) from error
    return typing.cast(dict[str, Any], values)


def _has_missing(values: Any) -> bool:
    """Whether a value that nobody has set is among these."""
    if isinstance(values, dict | list):
        return any(map(_has_missing, values.values() if isinstance(values, dict) else values))
    return isinstance(values, str) and values == "???"


def check(schema: type[Config], values: Mapping[str, Any]) -> Config:
    """The values as a validated configuration; single values for lists become lists of one.

    This is where bounds of keys are checked, which are declared in the fields of the pydantic models. Raises
    ConfigError for the first key that is unknown or out of range.
    """
    values = lists_of_one(schema, values)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explained.validation_message(error, values)) from error


def command(verb: str, config: BaseModel, choices: Mapping[str, str]) -> str:
    """The shortest command that gives exactly this configuration with the given group choices, where they exist."""
    loader = Loader(verb, type(config))
    return " ".join(["worldsim", verb, *map(for_shell, _overrides_for(loader, config, choices))])


def with_file(loader: Loader, overrides: Sequence[str]) -> list[str]:
    """The overrides, with config=<file> replaced by the overrides that give its content; others take precedence.

    Raises ConfigError for a file that is not a configuration of this verb.
    """
    given = [text for text in overrides if text.startswith("config=")]
    if not given:
        return list(overrides)
    if len(given) > 1:
        raise ConfigError(f"{' '.join(given)}: give one file")
    path = Path(given[0].removeprefix("config=")).expanduser()
    config = check(loader.schema, _read(path))
    typed = [text for text in overrides if text != given[0]]
    groups = loader.groups()
    choices = {group: option for group in groups if (option := _nearest_option(loader, group, config)) is not None}
    kept = _overrides_for(loader, config, choices)
    try:
        same = check(loader.schema, plain(_composed(loader, kept))) == config
    except (ConfigError, *COMPOSITION_ERRORS):
        same = False
    if not same:
        raise ConfigError(f"config={path} cannot be typed as overrides; give its values one by one")
    whole = {text.partition("=")[0] for text in typed} & groups.keys()
    return [text for text in kept if re.split(r"[.=]", text)[0] not in whole] + typed


def _composed(loader: Loader, overrides: Sequence[str]) -> DictConfig:
    """Composed by Hydra, also inside one of its jobs."""
    hydra = Hydra(loader.verb, loader)
    return hydra.compose_config(loader.config_name, list(overrides), RunMode.RUN, with_log_configuration=False)


def _overrides_for(loader: Loader, config: BaseModel, choices: Mapping[str, str]) -> list[str]:
    """The overrides that give this configuration."""
    groups, asked = loader.groups(), config.model_dump(mode="json")
    taken = {group: choices.get(group) for group in groups}
    words = [
        f"{group}={option}"
        for group, option in taken.items()
        if option != str(groups[group]) and loader.repository.config_exists(f"{group}/{option}")
    ]
    if asked.get("env") is not None:
        if not loader.repository.config_exists(f"env/{taken.get('env')}"):
            words = ["env=gymnasium", *words]  # an option of the user's own folder
        words = [f"env={asked['env']['id']}" if text == "env=gymnasium" else text for text in words]
    composed = _composed(loader, words)
    have = _plain_or_missing(composed)
    for key, value in asked.items():  # in order, because later parts may be interpolated from earlier ones
        differing = [
            word(path, each) for path, each in leaves_of(value, (key,)) if not _is_already(each, _at(have, path))
        ]
        if differing:
            composed = _with_more(loader, composed, words, differing)
            have = _plain_or_missing(composed)
            words += differing
    return words


def _with_more(loader: Loader, composed: DictConfig, words: Sequence[str], more: Sequence[str]) -> DictConfig:
    """What was composed of `words`, with more of them.

    Words that set values are set in it, as Hydra does with all of them once the files are together: reading the files
    takes most of the time. Only for words that choose files, everything is composed again.
    """
    overrides = [parse(text)[0] for text in loader.prepare(more)]
    if any(override.is_delete() or loader.repository.group_exists(override.key_or_group) for override in overrides):
        return _composed(loader, [*words, *more])
    loader._apply_overrides_to_config(overrides, composed)
    return composed


def _plain_or_missing(composed: DictConfig) -> Any:
    """What was composed, as plain values; those that are not set are "???"."""
    kept = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    return OmegaConf.to_container(kept, resolve=True)


def _at(values: Any, path: Sequence[str]) -> Any:
    """The value at a path; the Ellipsis where there is none."""
    for key in path:
        values = values.get(key, ...) if isinstance(values, Mapping) else ...
    return values


def _is_already(asked: Any, there: Any) -> bool:
    """Whether a key has the value already; None also matches a group that was not chosen."""
    return bool(asked == there) or (asked is None and there is ...)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"config={path} cannot be read; give the config-<verb>.yaml of a run's folder") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"config={path} is not YAML ({explained.first_line(str(error))})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"config={path} holds no keys; give the config-<verb>.yaml of a run's folder")
    return values


def _nearest_option(loader: Loader, group: str, config: BaseModel) -> str | None:
    """The option of a group that needs the fewest changes; None where the configuration has no such part."""
    asked = config.model_dump(mode="json").get(group)
    if asked is None:
        return None
    field = type(config).model_fields[group]

    def differing(option: str) -> tuple[bool, int]:
        values = _option(group, option)
        kind = model_of(field, values)
        have, want = dict(dotted(values if kind is None else filled(kind, values))), dict(dotted(asked))
        return bool(have.keys() - want.keys()), sum(key not in have or have[key] != want[key] for key in want)

    known = [option for option in loader.options(group) if (CONFIGS / group / f"{option}.yaml").is_file()]
    default = loader.groups()[group]
    return min(known, key=lambda option: (*differing(option), option != default))


def _option(group: str, option: str) -> dict[str, Any]:
    """The values of a group's file, merged over those of its defaults list."""
    values: dict[str, Any] = yaml.safe_load((CONFIGS / group / f"{option}.yaml").read_text()) or {}
    below = [_option(group, name) for name in values.pop("defaults", []) if name != "_self_"]
    return {key: value for part in [*below, values] for key, value in part.items()}
