"""What CONTRIBUTING.md says about a fault of one's own, done as written there: files saved, commands run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTION = re.split(r"^## ", PAGE.partition("## A fault of your own\n")[2], flags=re.MULTILINE)[0]
FILES = dict(re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^```bash\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def run(command: str, folder: Path) -> str:
    """What a command prints, in a shell where this Python and its scripts come first. It must succeed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    where = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=folder, env=where, capture_output=True)
    output = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, output
    return output


def test_the_section_can_be_followed_word_by_word(folder: Path) -> None:
    assert set(FILES) == {"maintenance.py", "test_maintenance.py", "plan.yaml", "shop.py"} and len(COMMANDS) == 1
    output = run(COMMANDS[0], folder)
    assert "1 passed" in output
    assert len(re.findall(r"^{'refunded': \d+}$", output, re.MULTILINE)) == 20 - output.count("refund: unavailable 503")
    assert 2 <= output.count("refund: unavailable 503; retry after 3600 s") <= 15


def test_the_short_name_will_do_where_the_module_is_imported(folder: Path) -> None:
    plan = FILES["plan.yaml"].replace("maintenance:maintenance", "maintenance")
    (folder / "plan.yaml").write_text(plan, encoding="utf-8")
    imported = "import maintenance, runpy; runpy.run_path('shop.py')"
    assert "refund: unavailable 503" in run(f'python -c "{imported}"', folder)


def test_how_to_is_ten_lines_and_the_suite_finds_a_careless_fault(folder: Path) -> None:
    assert len([line for line in SECTION.partition("`maintenance.py`")[0].splitlines() if line]) <= 12
    careless = FILES["maintenance.py"].replace('    context.record(lost="request")\n', "")
    (folder / "maintenance.py").write_text(careless, encoding="utf-8")
    command = f"{COMMANDS[0].splitlines()[0]} || true"
    assert "AssertionError: maintenance: call" in run(command, folder)
