"""YAML with the line of every key and item, so that errors can name file and line."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from worldsim.errors import ConfigError
from worldsim.faults.parameters import LocatedError
from worldsim.faults.trees import TreePath


@dataclass(frozen=True)
class YAMLSource:
    """Where data was written down. It is no part of the data's value: all sources are equal."""

    name: str = field(default="", compare=False)
    lines: Mapping[TreePath, int] = field(default_factory=dict, compare=False)  # from 1

    def located(self, mistake: LocatedError) -> ConfigError:
        """The mistake with the file and line that it is in, or as it is where there is no file."""
        if not self.name:
            return mistake
        at = mistake.at
        while at and at not in self.lines:
            at = at[:-1]
        return ConfigError(f"{self.name}:{self.lines.get(at, 1)}: {mistake}")


def read_yaml(text: str, name: str) -> tuple[Any, YAMLSource]:
    """The data in a YAML text, and where everything in it is. `name` stands for the text in messages.

    Raises ConfigError, with the line, for what is not YAML and for keys that are given twice.
    """
    import yaml

    try:
        loader = _loader()(text)
        node = loader.get_single_node()
        source = YAMLSource(name, _lines_of(node, name))
        return (None if node is None else loader.construct_document(node)), source
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{name}:{line}: not YAML: {error.problem}; check indentation and quotes") from error
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        message = " ".join(str(error).split())
        raise ConfigError(f"{name}:1: not YAML: {message}; check that it is a text file in UTF-8") from error


def _lines_of(root: Any, name: str) -> dict[TreePath, int]:
    """The line of every key and item. What an alias stands for is where the alias is."""
    lines: dict[TreePath, int] = {(): 1}
    visited: set[int] = set()

    def walk(node: Any, at: TreePath) -> None:
        if node is None or id(node) in visited:
            return
        visited.add(id(node))
        for position, item in enumerate(node.value if node.id in ("sequence", "mapping") else ()):
            key, value = (position, item) if node.id == "sequence" else (str(item[0].value), item[1])
            line, inner = (item if node.id == "sequence" else item[0]).start_mark.line + 1, (*at, key)
            if inner in lines:
                raise ConfigError(f"{name}:{line}: '{key}' is given twice, first in line {lines[inner]}; keep one")
            lines[inner] = line
            walk(value, inner)

    walk(root, ())
    return lines


def write_yaml(data: Any) -> str:
    """Data as a YAML text that `read_yaml` reads: texts that look like numbers to it are quoted."""
    import yaml

    dumper = _as_yaml_1_2(yaml.SafeDumper)
    return str(yaml.dump(data, Dumper=dumper, sort_keys=False, allow_unicode=True, width=120))


def _loader() -> Any:
    """PyYAML's safe loader, with numbers such as 1e9 as YAML 1.2 and Hydra read them."""
    import yaml

    return _as_yaml_1_2(yaml.SafeLoader)


def _as_yaml_1_2(base: Any) -> Any:
    extended: Any = type(base.__name__, (base,), {})
    exponent = re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
    extended.add_implicit_resolver("tag:yaml.org,2002:float", exponent, list("-+0123456789"))
    return extended
