"""Reads and writes overrides, key=value, in Hydra's grammar."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from worldsim.errors import ConfigError


def parse(text: str) -> tuple[Override, str]:
    """The parsed override and its text, in which a value that Hydra's grammar cannot parse is quoted.

    Raises ConfigError for text that is not key=value.
    """
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
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(f"{text}: the value cannot be read ({reason}); check brackets and quotes") from error
    text = f"{key}={quoted(value)}"
    return parser.parse_override(text), text


def swept(overrides: Sequence[str]) -> list[str]:
    """Keys with several values, of a sweep."""
    parsed = [parse(text)[0] for text in overrides]
    return [str(override.key_or_group) for override in parsed if override.is_sweep_override()]


def label(overrides: Sequence[str], shared: Sequence[str]) -> str:
    """The overrides of one job of a sweep that the others do not share, sorted: for messages and names of folders.

    shared: the overrides of the sweep; those with several values differ between jobs. Texts are written without the
    quotes and backslashes of Hydra's grammar, which would make folders hard to type.
    """
    parser = OverridesParser.create()
    before = parser.parse_overrides(list(shared))
    fixed = {each.key_or_group for each in before} - {each.key_or_group for each in before if each.is_sweep_override()}
    words = {}
    for text in overrides:
        override = parser.parse_override(text)
        if override.key_or_group not in fixed:
            value = override.value()
            words[override.key_or_group] = value if isinstance(value, str) else text.partition("=")[2]
    return ",".join(f"{key}={words[key]}" for key in sorted(words))


def word(path: Sequence[str], value: Any) -> str:
    """key=value. From the first key that Hydra does not allow in an override, keys become part of the value."""
    names = next((i for i, key in enumerate(path) if not re.fullmatch(r"[\w-]+", key)), len(path))
    for key in reversed(path[names:]):
        value = {key: value}
    return f"{'.'.join(path[:names])}={written(value)}"


def written(value: Any) -> str:
    """A value in Hydra's grammar."""
    if value is None or isinstance(value, bool):
        return str(value).lower() if value is not None else "null"
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, Mapping):
        keys = [str(key).replace(":", r"\:") for key in value]
        return "{" + ",".join(f"{key}:{written(entry)}" for key, entry in zip(keys, value.values(), strict=True)) + "}"
    if not isinstance(value, str):
        return repr(value)
    if value and re.fullmatch(r"[\w./:+@-]*", value) and yaml.safe_load(value) == value:
        return value
    return quoted(value)


def quoted(value: str) -> str:
    """A text in quotes, in Hydra's grammar."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"'{escaped}'"


def for_shell(text: str) -> str:
    """An argument, quoted for a shell if necessary."""
    if re.fullmatch(r"[\w./:+@=,~-]+", text):
        return text
    return f'"{text}"' if not re.search(r'["$`\\!]', text) else "'" + text.replace("'", "'\\''") + "'"
