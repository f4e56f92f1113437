"""Imports modules that a user names in a configuration: "module:Env-v0", "package.module:factory"."""

import importlib
import os
import sys
from traceback import extract_tb
from types import ModuleType

from worldsim.errors import ConfigError


def load_module(name: str, wanted_by: str) -> ModuleType:
    """Imports a module; the current folder is searched last.

    wanted_by: start of the error message, e.g. "agent 'my_agents:Payer'". Raises ConfigError with the exception and
    its line for anything that the import raises, because it runs user code.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ConfigError(f"{wanted_by}: cannot import {name} ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """The exception, with its file and line unless the module was not found at all."""
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):  # its message has the line already
        return message
    place = extract_tb(error.__traceback__)[-1]
    return message if "importlib" in place.filename else f"{message}, {place.filename} line {place.lineno}"
