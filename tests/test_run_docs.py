"""The runner of documents finds what is marked, runs it in order and stops at what fails."""

from pathlib import Path

import pytest

from tests.run_docs import blocks, main

ROOT = Path(__file__).parent.parent


def test_only_marked_blocks_are_run_in_one_folder_and_in_order(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    document = tmp_path / "page.md"
    document.write_text(
        "# Page\n\n```bash\nexit 3\n```\n\n<!-- run -->\n```bash\necho one > here\n```\n\n"
        f"<!-- run -->\n```python\nopen({str(seen)!r}, 'w').write(open('here').read())\n```\n"
    )
    assert [(block.language, block.line) for block in blocks(document.read_text())] == [("bash", 9), ("python", 14)]
    assert main([str(document)]) == 0
    assert seen.read_text() == "one\n"


def test_a_failing_block_fails_the_run(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("<!-- run -->\n```bash\nfalse\ntrue\n```\n")
    assert main([str(document)]) == 1


def test_the_readme_has_marked_blocks_and_both_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert blocks(text)
    assert "pip install -e . -c constraints.txt && worldsim quickstart" in text
    assert 'pip install -e ".[test]" -c constraints.txt && pytest' in text


def test_a_failing_document_hides_no_other_and_gives_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, command in (("first", "echo fine; sleep 0.2"), ("second", "exit 5"), ("third", "echo also")):
        (tmp_path / f"{name}.md").write_text(f"<!-- run -->\n```bash\n{command}\n```\n")
    assert main([str(tmp_path / f"{name}.md") for name in ("first", "second", "third")]) == 5
    printed = capsys.readouterr().out
    assert printed.index("\nfine\n") < printed.index("second.md:3 failed with exit code 5") < printed.index("\nalso\n")
