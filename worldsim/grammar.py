"""One grammar for every verb: Hydra overrides in, a checked pydantic configuration out, or one line on what is wrong.

What a verb can be given is its pydantic model; worldsim/configs holds what differs from its defaults, in groups.
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
COMPOSING = (HydraException, OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError)  # what composing may raise


class Composed(NamedTuple, Generic[Config]):
    """A checked configuration, and the option that was chosen in each group."""

    config: Config
    choices: dict[str, str]  # group -> option, e.g. env -> atari/breakout


def compose(verb: str, schema: type[Config], overrides: Sequence[str] = ()) -> Composed[Config]:
    """The verb's configuration with overrides, checked. Raises ConfigError: one line with the key and the fix."""
    loader = Loader(verb, schema)
    words = with_file(loader, overrides)
    try:
        composed = _composed(loader, words)
    except COMPOSING as error:
        raise explained.composing(error, loader, loader.config_name, words) from error
    return Composed(check(schema, plain(composed)), chosen(composed.hydra))


def chosen(settings: Any) -> dict[str, str]:
    """The option chosen in each group, from Hydra's own part of a configuration."""
    choices = settings.runtime.choices
    return {str(group): str(option) for group, option in choices.items() if not str(group).startswith("hydra/")}


def plain(composed: DictConfig) -> dict[str, Any]:
    """The composed configuration as plain values, without Hydra's own part. Raises ConfigError for what is not set."""
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
    """The values as a configuration, a single value where a list belongs being a list of one.

    Raises ConfigError for the first that is unknown or out of range.
    """
    values = lists_of_one(schema, values)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explained.validating(error, values)) from error


def command(verb: str, config: BaseModel, choices: Mapping[str, str]) -> str:
    """The shortest command that gives exactly this configuration with the given group choices, where they exist."""
    loader = Loader(verb, type(config))
    return " ".join(["worldsim", verb, *map(for_shell, _words(loader, config, choices))])


def with_file(loader: Loader, overrides: Sequence[str]) -> list[str]:
    """The overrides with config=<file>, as a run has left it, replaced by what it holds; what else is typed wins.

    Raises ConfigError for a file that is none.
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
    kept = _words(loader, config, choices)
    try:
        same = check(loader.schema, plain(_composed(loader, kept))) == config
    except (ConfigError, *COMPOSING):
        same = False
    if not same:
        raise ConfigError(f"config={path} cannot be typed as overrides; give its values one by one")
    whole = {text.partition("=")[0] for text in typed} & groups.keys()
    return [text for text in kept if re.split(r"[.=]", text)[0] not in whole] + typed


def _composed(loader: Loader, overrides: Sequence[str]) -> DictConfig:
    """Composed by Hydra, also inside one of its jobs."""
    hydra = Hydra(loader.verb, loader)
    return hydra.compose_config(loader.config_name, list(overrides), RunMode.RUN, with_log_configuration=False)


def _words(loader: Loader, config: BaseModel, choices: Mapping[str, str]) -> list[str]:
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
            words = ["env=gymnasium", *words]  # an option of somebody's own folder
        words = [f"env={asked['env']['id']}" if text == "env=gymnasium" else text for text in words]
    composed = _composed(loader, words)
    have = _plain_or_missing(composed)
    for key, value in asked.items():  # in order: what the later parts are made from comes first
        differing = [word(path, each) for path, each in leaves_of(value, (key,)) if not _is(each, _at(have, path))]
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
    """What stands there; the Ellipsis where nothing does."""
    for key in path:
        values = values.get(key, ...) if isinstance(values, Mapping) else ...
    return values


def _is(asked: Any, there: Any) -> bool:
    """Whether a value is there already; of a group that was not chosen nothing is, which is None."""
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
    """The option of a group from which the least has to be changed; None where the configuration has no such part."""
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
    """The values of a group's file, on top of those that it begins with."""
    values: dict[str, Any] = yaml.safe_load((CONFIGS / group / f"{option}.yaml").read_text()) or {}
    below = [_option(group, name) for name in values.pop("defaults", []) if name != "_self_"]
    return {key: value for part in [*below, values] for key, value in part.items()}
