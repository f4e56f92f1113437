"""Modules of the user's: found in the current folder, and an error in one is reported with its line."""

import sys
from pathlib import Path

import pytest

from worldsim.errors import ConfigError
from worldsim.modules import load_module

WRITTEN = {
    "import nothing_like_it\n": r"ModuleNotFoundError: No module named 'nothing_like_it', .*its_own.py line 1\)$",
    "def f(:\n": r"SyntaxError: .*\(its_own.py, line 1\)\)$",
    "x = 1\ny = x / 0\n": r"ZeroDivisionError: division by zero, .*its_own.py line 2\)$",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.delitem(sys.modules, "its_own", raising=False)
    return tmp_path


def test_the_current_folder_is_searched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "its_own.py").write_text("value = 7\n")
    assert load_module("its_own", "env").value == 7
    monkeypatch.delitem(sys.modules, "its_own")


@pytest.mark.parametrize("text", WRITTEN)
def test_an_error_in_it_is_reported_with_its_line(folder: Path, text: str) -> None:
    (folder / "its_own.py").write_text(text)
    with pytest.raises(ConfigError, match=r"^env 'its_own:X-v0': cannot import its_own \(" + WRITTEN[text]):
        load_module("its_own", "env 'its_own:X-v0'")


def test_one_that_does_not_exist_has_no_line() -> None:
    with pytest.raises(ConfigError, match=r"\(ModuleNotFoundError: No module named 'no_such'\)$"):
        load_module("no_such", "agent 'no_such:f'")
