"""The runner of documents finds what is marked, runs it in order and stops at what fails."""

from pathlib import Path

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
