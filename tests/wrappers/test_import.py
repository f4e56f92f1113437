"""An agent team that only breaks its own tools does not wait for torch."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
import {}
print(*{{name.partition(".")[0] for name in sys.modules}})
"""
HEAVY = {"torch", "scipy", "hydra", "omegaconf", "matplotlib", "minari", "pandas", "wandb", "imageio", "cv2"}


def loaded(module: str) -> set[str]:
    """The packages that importing a module loads."""
    command = [sys.executable, "-c", PROGRAM.format(module)]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("module", ["worldsim", "worldsim.faults", "worldsim.wrappers", "worldsim.sandbox"])
def test_importing_it_loads_nothing_heavy(module: str) -> None:
    assert not loaded(module) & HEAVY


def test_importing_the_wrappers_loads_no_more_than_gymnasium_and_pydantic() -> None:
    found = loaded("worldsim.wrappers")
    needed = loaded("gymnasium, gymnasium.vector, pydantic, yaml")
    others = found - needed - set(sys.stdlib_module_names)
    assert {name for name in others if not name.startswith("_")} <= {"worldsim", "annotated_types"}
