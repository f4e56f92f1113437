"""Modules that a user names in a configuration: "module:Env-v0", "package.module:factory"."""

import importlib
import os
import sys
from traceback import extract_tb
from types import ModuleType

from worldsim.errors import ConfigError


def load_module(name: str, wanted_by: str) -> ModuleType:
    """The module, imported. The current folder is searched last, as `python -m` searches it first.

    `wanted_by`: what begins the message, e.g. "agent 'my_agents:Payer'". Raises ConfigError with the reason and the
    line of whatever goes wrong on the way: the module is the user's own.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ConfigError(f"{wanted_by}: cannot import {name} ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """What went wrong, and in which line of which file; an import that finds nothing has no such line."""
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):  # tells its own place
        return said
    place = extract_tb(error.__traceback__)[-1]
    return said if "importlib" in place.filename else f"{said}, {place.filename} line {place.lineno}"
