"""Runs the commands of documents as a reader would: python tests/run_docs.py README.md docs/*.md

Every fenced block of bash or python that follows a line <!-- run --> is run, those of one document one after another in
one empty folder. The first that fails ends everything with its exit code.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

MARKED = re.compile(r"^<!-- run -->\n```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A piece of a document that is to be run."""

    language: str
    text: str
    line: int


def blocks(document: str) -> list[Block]:
    """The marked blocks, with the lines that they begin at."""
    found = MARKED.finditer(document)
    return [Block(match[1], match[2], document[: match.start()].count("\n") + 3) for match in found]


def run(path: Path, folder: Path) -> int:
    """Runs a document's blocks in `folder`; returns the first exit code that is not 0, else 0."""
    for block in blocks(path.read_text()):
        print(f"--- {path}:{block.line}\n{block.text}", flush=True)
        shell = ["bash", "-euo", "pipefail", "-c"]
        command = [*(shell if block.language == "bash" else [sys.executable, "-c"]), block.text]
        code = subprocess.run(command, cwd=folder).returncode
        if code:
            print(f"{path}:{block.line} failed with exit code {code}", file=sys.stderr)
            return code
    return 0


def main(paths: list[str]) -> int:
    for path in paths:
        with tempfile.TemporaryDirectory() as folder:
            code = run(Path(path), Path(folder))
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
