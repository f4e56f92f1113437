"""Every notebook's code runs from top to bottom; its own assertions are the test."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path) -> None:
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    assert any("assert" in line for cell in cells for line in cell["source"]), "a notebook that claims nothing"
    scope: dict[str, object] = {"__name__": "__main__"}
    for cell in cells:
        exec(compile("".join(cell["source"]), str(notebook), "exec"), scope)


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS
