"""The floors of the house, as the README draws them, against what every file really imports."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import worldsim

PACKAGE = Path(worldsim.__file__).parent
README = PACKAGE.parent / "README.md"


def floors() -> list[set[str]]:
    """Rooms by floor, the highest first: the words of each line of the picture."""
    found = re.search(r"<!-- floors -->\n```text\n(.*?)```", README.read_text(), re.DOTALL)
    assert found, "README.md has no picture of the floors"
    return [set(line.partition("#")[0].split()) for line in found[1].splitlines()]


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(file: Path) -> Iterator[tuple[int, str]]:
    """Line and room of every import of this package, wherever in the file it stands; those for types alone, too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            room = rest.partition(".")[0]
            if package == "worldsim" and ((PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").is_file()) and room:
                yield node.lineno, room


FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if file.parent != PACKAGE or not file.name.startswith("__")]


def test_every_room_is_on_one_floor() -> None:
    drawn = [room for floor in floors() for room in floor]
    assert sorted(drawn) == sorted({room_of(file) for file in FILES} - {"configs"})


def test_no_room_imports_from_a_floor_above_it() -> None:
    height = {room: -number for number, floor in enumerate(floors()) for room in floor}
    imports = [(file, line, room) for file in FILES for line, room in imported(file)]
    assert len(imports) > 500
    upwards = [
        f"{file.relative_to(PACKAGE)}:{line} imports {room}"
        for file, line, room in imports
        if height[room] > height[room_of(file)]
    ]
    assert not upwards


def test_no_rooms_import_each_other_in_a_circle() -> None:
    graph = {room_of(file): set[str]() for file in FILES}
    for file in FILES:
        graph[room_of(file)] |= {room for _, room in imported(file)} - {room_of(file)}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the rooms
