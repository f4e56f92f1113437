"""What results depend on besides settings: the code of the user's modules, and the versions of packages."""

import ast
import hashlib
import os
import platform
import re
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, NamedTuple

from worldsim.files import hash_of

MODULE = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?::[\w.]+)?")  # "package.module", "package.module:name"
LONGEST = 200  # length of a text that may name a module or a file
NOT_READ = {".log", ".py"}  # suffixes of files that are outputs, or that are handled as modules
OWN = "worldsim"  # its code is hashed separately (`evaluation.cells.code_digest`)

_read: dict[Path, tuple[ModuleSpec, str]] = {}  # spec and hash of loaded modules, by file


class Sources(NamedTuple):
    """The files and packages that modules depend on."""

    code: dict[str, str]  # SHA-256 of the user's own modules, by path
    data: dict[str, str]  # the same of files that they name
    packages: frozenset[str]  # top-level names of imported installed packages

    def as_json(self) -> dict[str, Any]:
        """As plain JSON, independent of the folders of the files."""
        named = {group: _by_name(getattr(self, group)) for group in ("code", "data")}
        return {**named, "packages": versions(self.packages)}


def sources(modules: Iterable[str]) -> Sources:
    """The user's own files behind modules, and the installed packages that they import.

    Follows all imports, also those within functions, and strings that name a module or a file, as `gym.register` and
    `import_module` take. A loaded module counts with the content that it had when it was first hashed.
    """
    code, data, packages = dict[str, str](), dict[str, str](), set[str]()
    waiting, visited = list(modules), {""}
    while waiting:
        name = waiting.pop()
        top = name.partition(".")[0]
        if name in visited or top == OWN:
            continue
        visited.add(name)
        spec = _spec(name)
        file = Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None
        if file is None or spec is None or not file.is_file():
            continue
        if _installed(file):
            packages.add(top)
            continue
        waiting.append(name.rpartition(".")[0])  # whose __init__ runs first
        code[str(file)] = _digest(file, spec)
        for kind, found in _references(file, spec):
            if kind == "module":
                waiting.append(found)
            else:
                data[found] = hash_of(Path(found))
    return Sources(code, data, frozenset(packages - sys.stdlib_module_names))


def own_code(modules: Iterable[str]) -> list[str]:
    """Names and hashes of the user's own files behind these modules; empty if all are installed packages."""
    return _by_name(sources(modules).code)


def _by_name(files: Mapping[str, str]) -> list[str]:
    return sorted({f"{Path(path).name} {digest}" for path, digest in files.items()})


@cache
def versions(packages: frozenset[str]) -> dict[str, str]:
    """Versions of Python, of worldsim's dependencies, of these packages, and of all that they require.

    By name: the version, and a hash of the installed files, which distinguishes builds of the same version.
    """
    owners = metadata.packages_distributions() if packages else {}
    waiting = [OWN, *(owner for package in packages for owner in owners.get(package, ()))]
    found = {"python": platform.python_version()}
    for package in packages - owners.keys():  # copied into site-packages by hand
        found[package] = _tree_digest(package)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            one = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # required on other systems only
            continue
        found[name] = f"{one.version} {hashlib.sha256((one.read_text('RECORD') or '').encode()).hexdigest()[:16]}"
        required = (each for each in one.requires or () if "extra ==" not in each)
        waiting += [re.split(r"[^\w.-]", each, maxsplit=1)[0] for each in required]
    found.pop(OWN, None)  # its version may change without its code, which has a hash of its own
    return dict(sorted(found.items()))


def _spec(name: str) -> ModuleSpec | None:
    """The spec of a module, found without importing anything."""
    loaded = sys.modules.get(name)
    spec = getattr(loaded, "__spec__", None)
    if isinstance(spec, ModuleSpec):
        return spec
    file = getattr(loaded, "__file__", None)  # of a script, which is loaded as __main__
    if file:
        script = ModuleSpec(name, None, origin=file)
        script.has_location = True
        return script
    parent = name.rpartition(".")[0]
    above = _spec(parent) if parent else None
    if parent and (above is None or above.submodule_search_locations is None):
        return None
    places = list(above.submodule_search_locations or ()) if above is not None else [*sys.path, os.getcwd()]
    try:
        return PathFinder.find_spec(name, places)
    except (ImportError, ValueError):
        return None


@cache
def _installed_below() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    named = [paths[key] for key in ("purelib", "platlib", "stdlib", "platstdlib")]
    return tuple(Path(path).resolve() for path in (*named, *site.getsitepackages(), site.getusersitepackages()))


def _installed(file: Path) -> bool:
    return any(file.resolve().is_relative_to(folder) for folder in _installed_below())


def _digest(file: Path, spec: ModuleSpec) -> str:
    """SHA-256 of a module's file; of a loaded module, as it was when first hashed, because later edits do not run."""
    known = _read.get(file)
    if known is not None and known[0] is spec:
        return known[1]
    found = hash_of(file)
    if getattr(sys.modules.get(spec.name), "__spec__", None) is spec:
        _read[file] = (spec, found)
    return found


def _references(file: Path, spec: ModuleSpec) -> Iterator[tuple[str, str]]:
    """Modules that a module may import and files that it may read: ("module" or "file", name)."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # an extension module, or a syntax error, which its import will report
        return
    package = spec.name if spec.submodule_search_locations is not None else spec.name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (("module", alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            levels = package.split(".")[: len(package.split(".")) - max(0, node.level - 1)] if node.level else []
            base = ".".join([*levels, *([node.module] if node.module else [])])
            yield "module", base
            yield from (("module", f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) <= LONGEST:
            yield from _names_in(node.value, file.parent)


def _names_in(text: str, folder: Path) -> Iterator[tuple[str, str]]:
    """The module that a text may name, and the file in `folder` or the current one that it names."""
    named = MODULE.fullmatch(text)
    if named:
        yield "module", named[1]
    if "\0" not in text and text.strip():
        for place in (folder / text, Path(text)):
            if place.is_file() and place.suffix not in NOT_READ and not _installed(place):
                yield "file", str(place.resolve())


def files_named(values: object) -> dict[str, str]:
    """SHA-256 of the files that strings inside plain JSON values name, by the string."""
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, list | tuple):
        return {name: found for value in values for name, found in files_named(value).items()}
    if isinstance(values, str) and 0 < len(values) <= LONGEST and "\0" not in values and Path(values).is_file():
        return {values: hash_of(Path(values))}
    return {}


def _tree_digest(package: str) -> str:
    spec = _spec(package)
    if spec is None or not spec.origin:
        return ""
    file = Path(spec.origin)
    files = sorted(file.parent.rglob("*.py")) if spec.submodule_search_locations is not None else [file]
    return hashlib.sha256(b"".join(each.read_bytes() for each in files)).hexdigest() if _installed(file) else ""
