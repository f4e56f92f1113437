"""One grammar for every verb: Hydra overrides in, a checked pydantic configuration out, or one line on what is wrong.

Configurations lie in worldsim/configs, one file a verb, with groups beside them.
"""

import difflib
import os
import re
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from worldsim.envs.make import config_names
from worldsim.errors import ConfigError

Config = TypeVar("Config", bound=BaseModel)
CONFIGS = Path(str(files("worldsim"))) / "configs"
LISTS = {list, types.NoneType}
SAID = {  # kinds of pydantic's errors that it tells as Python has them
    "path_type": "must be a path; ./ before it makes one of a number or of null",
    "too_short": "must not be empty",
    "model_attributes_type": "must be keys with values",
    "model_type": "must be keys with values",
}
INNER = ("model/size", "model/sized")  # groups that lie in another's folder


class Composed(NamedTuple, Generic[Config]):
    """A checked configuration, and the option that was chosen in each group."""

    config: Config
    choices: dict[str, str]  # group -> option, e.g. env -> atari/breakout


def compose(verb: str, schema: type[Config], overrides: Sequence[str] = ()) -> Composed[Config]:
    """The verb's configuration with overrides, checked. Raises ConfigError: one line with the key and the fix."""
    prepared = prepare(verb, schema, overrides)
    try:
        composed = _composed(verb, prepared)
    except (HydraException, OmegaConfBaseException) as error:
        raise explained(error, verb, prepared) from error
    return Composed(check(schema, plain(composed)), chosen(composed.hydra))


def chosen(settings: Any) -> dict[str, str]:
    """The option chosen in each group, from Hydra's own part of a configuration."""
    choices = settings.runtime.choices
    return {str(group): str(option) for group, option in choices.items() if not str(group).startswith("hydra/")}


def plain(composed: DictConfig) -> dict[str, Any]:
    """The composed configuration as plain values, without Hydra's own part."""
    kept = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    missing = OmegaConf.missing_keys(kept)
    if missing:
        key = min(missing)
        raise ConfigError(f"{key} is not set; add {key}=...")
    try:
        values = OmegaConf.to_container(kept, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(_first_line(error)) from error
    assert isinstance(values, dict)
    return typing.cast(dict[str, Any], values)


def check(schema: type[Config], values: Mapping[str, Any]) -> Config:
    """The values as a configuration, a single value where a list belongs being a list of one.

    Raises ConfigError for the first that is unknown or out of range.
    """
    values = _lists_of_one(schema, values)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain_validation(error, values)) from error


def _lists_of_one(schema: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """faults=plan.yaml means faults=[plan.yaml]: single values are wrapped where nothing but a list is wanted."""
    found = dict(values)
    for name, field in schema.model_fields.items():
        value, parts = found.get(name), list(_parts(field.annotation))
        if isinstance(value, Mapping):
            inner = [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]
            found[name] = _lists_of_one(inner[0], value) if len(inner) == 1 else value
        elif isinstance(value, str | int | float) and {typing.get_origin(part) or part for part in parts} <= LISTS:
            found[name] = [value]
    return found


def prepare(verb: str, schema: type[BaseModel], overrides: Sequence[str]) -> list[str]:
    """Overrides as Hydra takes them: any text as a value, any Gymnasium id as env=, any key in open mappings.

    config=<file>, as a run has left it in its folder, stands for the overrides that give that configuration.
    """
    prepared: list[str] = []
    for text in _with_file(verb, schema, overrides):
        override, text = _parse(text)
        key = str(override.key_or_group)
        if key in groups(verb) and _is_null(verb, key, override):
            continue
        if key == "env" and "env" in groups(verb):
            prepared += _env_overrides(override, text)
        elif (_is_open(schema, key) or _opens(schema, override)) and text[0] not in "+~":
            prepared.append("++" + text)
        else:
            prepared.append(text)
    return prepared


def groups(verb: str) -> dict[str, str]:
    """The verb's groups and the option that each has unless told otherwise."""
    defaults = yaml.safe_load(file_of(verb).read_text()).get("defaults", [])
    found = {}
    for entry in defaults:
        if isinstance(entry, dict):
            ((group, option),) = entry.items()
            if " " not in group:  # "optional budget" follows another choice
                found[group] = option
    return found


def file_of(verb: str) -> Path:
    """The verb's own configuration."""
    return CONFIGS / f"{verb.replace(' ', '-')}.yaml"


def options(group: str) -> list[str]:
    """What a group can be set to. Folders of the groups inside it, such as model/size, are none of its own."""
    folder = CONFIGS / group
    found = [path.relative_to(folder).with_suffix("") for path in folder.rglob("*.yaml")]
    return sorted(str(name) for name in found if f"{group}/{name.parts[0]}" not in INNER)


def swept(overrides: Sequence[str]) -> list[str]:
    """Keys that are given several values, to be run one after another."""
    parsed = [_parse(text)[0] for text in overrides]
    return [str(override.key_or_group) for override in parsed if override.is_sweep_override()]


def label(overrides: Sequence[str], fixed: Collection[str]) -> str:
    """key=value of all keys but the fixed ones, sorted, for people and for the names of folders.

    A text stands there as it is meant: with the quotes and backslashes of Hydra's grammar a folder does not open again
    under the name that one types.
    """
    words = []
    for text in overrides:
        override = OverridesParser.create().parse_override(text)
        if override.key_or_group not in fixed:
            value = override.value()
            words.append(f"{override.key_or_group}={value if isinstance(value, str) else text.partition('=')[2]}")
    return ",".join(sorted(words))


def dotted(values: Any) -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings as ("trainer.steps", 1000)."""
    return ((".".join(path), value) for path, value in _leaves(values))


def command(verb: str, config: BaseModel, choices: Mapping[str, str]) -> str:
    """The shortest command that gives exactly this configuration with the given group choices."""
    return " ".join(["worldsim", verb, *map(_quoted_for_shell, _words(verb, config, choices))])


def _words(verb: str, config: BaseModel, choices: Mapping[str, str]) -> list[str]:
    taken = {group: choices[group] for group in groups(verb) if group in choices}
    words = [f"{group}={option}" for group, option in taken.items() if option != str(groups(verb)[group])]
    asked = config.model_dump(mode="json")
    if taken.get("env") == "gymnasium":
        words = [f"env={asked['env']['id']}" if word == "env=gymnasium" else word for word in words]
    start = dict(dotted(_values(verb, prepare(verb, type(config), words))))
    for path, value in _leaves(asked):
        key = ".".join(path)
        not_chosen = (
            value is None and groups(verb).get(key, "") is None
        )  # of a group that is null unless told otherwise
        if not not_chosen and (key not in start or start[key] != value):
            words.append(_word(path, value))
    return words


def _leaves(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Leaves of nested mappings as (("trainer", "steps"), 1000)."""
    if isinstance(values, Mapping) and (values or not path):
        for key, value in values.items():
            yield from _leaves(value, (*path, str(key)))
    else:
        yield path, values


def _word(path: Sequence[str], value: Any) -> str:
    """key=value; from the first key on that is no name, which no override may have, they stand in the value."""
    names = next((i for i, key in enumerate(path) if not re.fullmatch(r"[\w-]+", key)), len(path))
    for key in reversed(path[names:]):
        value = {key: value}
    return f"{'.'.join(path[:names])}={_written(value)}"


def _with_file(verb: str, schema: type[BaseModel], overrides: Sequence[str]) -> list[str]:
    """The overrides with config=<file> replaced by what it holds; what else is typed wins, also whole groups."""
    given = [text for text in overrides if text.startswith("config=")]
    if not given:
        return list(overrides)
    if len(given) > 1:
        raise ConfigError(f"{' '.join(given)}: give one file")
    path = Path(given[0].removeprefix("config=")).expanduser()
    config = check(schema, _read(path))
    typed = [text for text in overrides if text != given[0]]
    choices = {group: option for group in groups(verb) if (option := _nearest_option(verb, group, config)) is not None}
    kept = _words(verb, config, choices)
    try:
        same = check(schema, plain(_composed(verb, prepare(verb, schema, kept)))) == config
    except (ConfigError, HydraException, OmegaConfBaseException):
        same = False
    if not same:
        raise ConfigError(f"config={path} cannot be typed as overrides; give its values one by one")
    whole = {text.partition("=")[0] for text in typed} & groups(verb).keys()
    return [word for word in kept if re.split(r"[.=]", word)[0] not in whole] + typed


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"config={path} cannot be read; give the config-<verb>.yaml of a run's folder") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"config={path} is not YAML ({_first_line(error)})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"config={path} holds no keys; give the config-<verb>.yaml of a run's folder")
    return values


def _option(group: str, option: str) -> dict[str, Any]:
    """The values of a group's file, on top of those that it begins with."""
    values: dict[str, Any] = yaml.safe_load((CONFIGS / group / f"{option}.yaml").read_text())
    below = [_option(group, name) for name in values.pop("defaults", []) if name != "_self_"]
    return {key: value for part in [*below, values] for key, value in part.items()}


def _nearest_option(verb: str, group: str, config: BaseModel) -> str | None:
    """The option of a group from which the least has to be changed; None where the configuration has no such part."""
    asked = config.model_dump(mode="json").get(group)
    if asked is None:
        return None

    def differing(option: str) -> tuple[bool, int]:
        have, want = dict(dotted(_option(group, option))), dict(dotted(asked))
        return bool(have.keys() - want.keys()), sum(key not in have or have[key] != want[key] for key in want)

    known = options(group)
    default = groups(verb)[group]
    return min(known, key=lambda option: (*differing(option), option != default))


def _described(group: str, word: str) -> str:
    """The words ". Did you mean ...?" with the one option whose file begins by naming it: dreamer is said of rssm."""
    about = {option: (CONFIGS / group / f"{option}.yaml").read_text().partition("\n")[0] for option in options(group)}
    told = [option for option, line in about.items() if len(word) > 3 and word.lower() in line.lower()]
    return f". Did you mean {told[0]}?" if len(told) == 1 else ""


def nearest(name: str, known: Sequence[str]) -> str:
    """The words ". Did you mean ...?", or nothing where no name is near."""
    last = {key.rpartition(".")[2]: key for key in reversed(known)}
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    close = close or [last[end] for end in difflib.get_close_matches(name.rpartition(".")[2], last, n=1)]
    close = close or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f". Did you mean {close[0]}?" if close else ""


def _composed(verb: str, overrides: Sequence[str]) -> DictConfig:
    """Composed by Hydra, also inside one of its jobs: that one's state is put back afterwards."""
    instance = GlobalHydra.instance()
    outer = instance.hydra
    instance.clear()
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return hydra_compose(file_of(verb).stem, list(overrides), return_hydra_config=True)
    finally:
        GlobalHydra.instance().hydra = outer


def _values(verb: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The composed values as they are, those that are not set as "???"."""
    composed = _composed(verb, overrides)
    values = OmegaConf.to_container(OmegaConf.masked_copy(composed, [str(k) for k in composed if k != "hydra"]))
    return typing.cast(dict[str, Any], values)


def _parse(text: str) -> tuple[Override, str]:
    """The override and its text, with the value quoted where it is plain text that Hydra's grammar has no room for."""
    key, equals, value = text.partition("=")
    if value.startswith("~/"):
        value = os.path.expanduser(value)
        text = f"{key}={value}"
    parser = OverridesParser.create()
    try:
        return parser.parse_override(text), text
    except HydraException as error:
        if not re.fullmatch(r"[+~]{0,2}[\w.@/]+", key) or not equals:
            raise ConfigError(f"'{text}' is not key=value, e.g. seed=1") from error
        if re.match(r"\s*[\[{'\"]", value):
            reason = _first_line(error)
            raise ConfigError(f"{text}: the value cannot be read ({reason}); check brackets and quotes") from error
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    text = f"{key}='{escaped}'"
    return parser.parse_override(text), text


def _is_null(verb: str, group: str, override: Override) -> bool:
    """Whether a group is given the null that it has anyway. Raises ConfigError for what else is no option's name."""
    if override.is_delete() or override.is_sweep_override() or isinstance(override.value(), str):
        return False
    if override.value() is None and groups(verb)[group] is None:
        return True
    known = ", ".join(options(group)) + (", or any Gymnasium id" if group == "env" else "")
    raise ConfigError(f"there is no {group}={_written(override.value())}; it is one of {known}")


def _env_overrides(override: Override, text: str) -> list[str]:
    """env=<a ready configuration> as it is; env=<anything else> is a Gymnasium id."""
    ready = config_names()
    if override.is_sweep_override():
        strange = [str(e) for e in text.partition("=")[2].split(",") if e.strip() not in ready]
        if strange:
            raise ConfigError(f"env={strange[0]} cannot be swept by its id; write env=gymnasium env.id=A-v1,B-v1")
        return [text]
    name = str(override.value())
    if name in ready:
        return [text]
    escaped = name.replace("'", "\\'")
    return ["env=gymnasium", f"env.id='{escaped}'"]


def _is_open(schema: type[BaseModel], key: str) -> bool:
    """Whether the key lies inside a mapping that may hold anything, such as env.kwargs."""
    first, _, rest = key.partition(".")
    field = next((f for n, f in schema.model_fields.items() if first in (n, f.alias)), None)
    if field is None or not rest:
        return False
    for part in _parts(field.annotation):
        if typing.get_origin(part) is dict:
            return True
        if isinstance(part, type) and issubclass(part, BaseModel) and _is_open(part, rest):
            return True
    return False


def _opens(schema: type[BaseModel], override: Override) -> bool:
    """Whether a mapping is given for one that may hold anything."""
    return isinstance(override.value(), Mapping) and _is_open(schema, f"{override.key_or_group}.anything")


def _parts(annotation: Any) -> Iterator[Any]:
    """The members of a union, through Annotated."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        for part in typing.get_args(annotation):
            yield from _parts(part)
    else:
        yield annotation


def explained(error: Exception, verb: str, overrides: Sequence[str]) -> ConfigError:
    """A Hydra error in one line, with the nearest name that exists."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        if error.missing_cfg_file.startswith("hydra/launcher/"):
            option = error.missing_cfg_file.rpartition("/")[2]
            return ConfigError(
                f"there is no launcher '{option}' here; pip install 'worldsim[sweeps]' has joblib and submitit"
            )
        known_groups = [group for group in groups(verb) if error.missing_cfg_file.startswith(f"{group}/")]
        group = max(known_groups, key=len, default=error.missing_cfg_file.partition("/")[0])
        option = error.missing_cfg_file.removeprefix(f"{group}/")
        known = options(group)
        hint = _described(group, option) or nearest(option, known) or f"; it is one of {', '.join(known)}"
        return ConfigError(f"there is no {group}={option}{hint}")
    unknown = re.search(r"Could not override '([^']+)'", str(error))
    unfit = re.match(r"Error merging override \W*(.+)", str(error))
    if unfit is not None:
        return ConfigError(f"{unfit[1]}: a value of this shape cannot stand there; see worldsim {verb} --help")
    if unknown is None:
        return ConfigError(_first_line(error))
    key = unknown[1]
    with_groups = [word for word in overrides if word.partition("=")[0] in groups(verb)]
    known = [*groups(verb), *(name for name, _ in dotted(_values(verb, with_groups)))]
    elsewhere = [path.stem.replace("-", " ") for path in sorted(CONFIGS.glob("*.yaml")) if key in groups(path.stem)]
    hint = f"; worldsim {elsewhere[0]} has" if elsewhere else nearest(key, known) or f"; see worldsim {verb} --help"
    return ConfigError(f"worldsim {verb} has no key '{key}'{hint}")


def _explain_validation(error: ValidationError, values: Mapping[str, Any]) -> str:
    # where a value may be of several kinds all of them complain; the one that came furthest into it knows most
    found = ((each, *_typed(each, values)) for each in error.errors())
    first, path, place = max(found, key=lambda each: len(each[1]))
    if path and isinstance(path[-1], int) and not isinstance(place, Mapping):
        path.pop()  # one of several values: it is told itself, and nobody has typed its number
    key = ".".join(map(str, path))
    if first["type"] == "extra_forbidden":
        known = [name for name, _ in dotted(values) if name != key]
        return f"there is no key '{key}'{nearest(key, known)}"
    if first["type"] == "missing":
        return f"{key} is not set; add {key}=..."
    said = SAID.get(first["type"]) or first["msg"].removeprefix("Value error, ").replace("Input should", "must")
    if isinstance(place, Mapping) and place:  # what is wrong with several keys together names them itself
        return f"{key}: {said}" if key else said
    return f"{key}={_written(place)}: {said}"


def _typed(error: ErrorDetails, values: Mapping[str, Any]) -> tuple[list[str | int], Any]:
    """Where in the values an error is, and what stands there."""
    place: Any = values
    path: list[str | int] = []
    for number, part in enumerate(error["loc"]):
        here = part in (place if isinstance(place, Mapping) else range(len(place)) if isinstance(place, list) else ())
        if here or (number == len(error["loc"]) - 1 and error["type"] == "missing"):
            path.append(part)
            place = place[part] if here else None
    return path, place


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _written(value: Any) -> str:
    """A value in Hydra's grammar."""
    if value is None or isinstance(value, bool):
        return str(value).lower() if value is not None else "null"
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, Mapping):
        keys = [str(key).replace(":", r"\:") for key in value]
        return "{" + ",".join(f"{key}:{_written(entry)}" for key, entry in zip(keys, value.values(), strict=True)) + "}"
    if not isinstance(value, str):
        return repr(value)
    if value and re.fullmatch(r"[\w./:+@-]*", value) and yaml.safe_load(value) == value:
        return value
    escaped = value.replace("'", "\\'")
    return f"'{escaped}'"


def _quoted_for_shell(word: str) -> str:
    if re.fullmatch(r"[\w./:+@=,~-]+", word):
        return word
    return f'"{word}"' if not re.search(r'["$`\\!]', word) else "'" + word.replace("'", "'\\''") + "'"
