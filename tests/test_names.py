"""A type's name means one thing in the whole project: no class and no type alias is defined in two modules."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import worldsim

ROOT = Path(worldsim.__file__).parent.parent
# `wrappers.StickyAction` puts `faults.StickyAction` on an environment: one thing, so one name.
KINDS, WRAPPERS = "worldsim/faults/kinds/", "worldsim/wrappers/named.py"


def modules() -> list[str]:
    """Paths from the root of the repository, tests left out."""
    found = [file for room in ("worldsim", "benchmarks", "docs") for file in (ROOT / room).rglob("*.py")]
    return sorted(file.relative_to(ROOT).as_posix() for file in [*found, ROOT / "train.py"])


def type_names(source: str) -> Iterator[str]:
    """Top-level classes, and aliases: CamelCase names given another type, not a constant, a TypeVar or an instance."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign) and isinstance(
            node.value, ast.Name | ast.Attribute | ast.Subscript | ast.BinOp
        ):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            yield from (name for name in names if re.match("_?[A-Z][A-Za-z]*[a-z]", name))


def test_it_finds_classes_and_aliases_alone() -> None:
    source = (
        "class A: pass\nRow = dict[str, int]\nEnv = gym.Env\nT = TypeVar('T')\nItem = TypeVar('Item')\nSIZE = A.size"
    )
    assert list(type_names(source)) == ["A", "Row", "Env"]


def test_every_type_has_a_name_of_its_own() -> None:
    owners = defaultdict[str, list[str]](list)
    for module in modules():
        for name in type_names((ROOT / module).read_text()):
            owners[name].append(module)
    assert len(owners) > 150
    wrapped = {name for name, where in owners.items() if where[1:] == [WRAPPERS] and where[0].startswith(KINDS)}
    assert len(wrapped) > 50
    assert {name: where for name, where in owners.items() if len(where) > 1 and name not in wrapped} == {}
