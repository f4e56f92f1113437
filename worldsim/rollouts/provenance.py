"""The provenance of a data set: what is needed to collect it again and to check that it is the same."""

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gymnasium as gym

import worldsim
from worldsim.errors import DatasetError
from worldsim.files import SEAL, read_sealed, sealed, write_atomically

FORMAT = "worldsim-rollouts/1"
SEEDING = "env and policy of episode k: numpy.random.SeedSequence([seed, k]).generate_state(2) >> 1"


def plain(value: Any) -> dict[str, Any]:
    """The entries of a mapping that can be written as JSON."""
    kept = {}
    for key, entry in dict(value).items():
        try:
            kept[str(key)] = json.loads(json.dumps(entry))
        except (TypeError, ValueError):
            continue
    return kept


def wrapper_stack(env: gym.Env[Any, Any]) -> list[str]:
    """Class paths from the outermost wrapper to the environment itself."""
    stack = [env]
    while isinstance(stack[-1], gym.Wrapper):
        stack.append(stack[-1].env)
    return [f"{type(layer).__module__}.{type(layer).__qualname__}" for layer in stack]


def versions(env: gym.Env[Any, Any], policies: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of the packages that the data depends on, with those of the env and the agents."""
    owners = importlib.metadata.packages_distributions()
    modules = {type(env.unwrapped).__module__} | {p.partition(":")[0] for p in policies if ":" in p}
    found = {name for module in modules for name in owners.get(module.partition(".")[0], [])}
    if any(policy.endswith(".zip") for policy in policies):
        found |= {"stable-baselines3", "torch"}
    found |= {"gymnasium", "minari", "numpy", "opencv-python-headless"}
    known = {"python": platform.python_version(), "worldsim": worldsim.__version__}
    for name in sorted(found - {"worldsim"}):
        try:
            known[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return known


def git_sha() -> str | None:
    """The commit of the checkout that worldsim runs from, None where it is an installed package."""
    root = Path(worldsim.__file__).resolve().parent.parent
    command = ["git", "-C", str(root), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    return lines[1] if Path(lines[0]).resolve() == root else None


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises DatasetError where it was changed since it was written."""
    try:
        data = read_sealed(path)
    except ValueError as error:
        raise DatasetError(f"{path} is damaged ({error}); delete {path.parent} and collect again") from error
    data.pop(SEAL, None)
    return data


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file with a hash of itself, whole or not at all."""
    write_atomically(path, json.dumps(sealed(data), indent=1))
