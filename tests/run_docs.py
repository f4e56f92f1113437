"""Runs the commands of documents as a reader would: python tests/run_docs.py README.md docs/*.md

Every fenced block of bash or python that follows a line <!-- run --> is run, those of one document one after another in
one empty folder; as many documents at once as there are cores. What a document printed is shown when it has ended. The
exit code is that of the first document that failed.
"""

import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

MARKED = re.compile(r"^<!-- run -->\n```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A piece of a document that is to be run."""

    language: str
    text: str
    line: int


class Outcome(NamedTuple):
    """What came of a document: the first exit code that was not 0, else 0; and all that was printed."""

    code: int
    printed: str


def blocks(document: str) -> list[Block]:
    """The marked blocks, with the lines that they begin at."""
    found = MARKED.finditer(document)
    return [Block(match[1], match[2], document[: match.start()].count("\n") + 3) for match in found]


def run(path: Path, folder: Path) -> Outcome:
    """Runs a document's blocks in `folder`, up to the first that fails."""
    printed = ""
    environment = {"OMP_NUM_THREADS": "1", **os.environ}  # threads of several documents would wait for each other
    for block in blocks(path.read_text()):
        printed += f"--- {path}:{block.line}\n{block.text}\n"
        shell = ["bash", "-euo", "pipefail", "-c"]
        command = [*(shell if block.language == "bash" else [sys.executable, "-c"]), block.text]
        done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        printed += done.stdout.decode(errors="replace")
        if done.returncode:
            return Outcome(done.returncode, f"{printed}{path}:{block.line} failed with exit code {done.returncode}\n")
    return Outcome(0, printed)


def run_alone(path: str) -> Outcome:
    """Runs a document in an empty folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(path), Path(folder))


def main(paths: list[str]) -> int:
    failed = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for outcome in pool.map(run_alone, paths):
            print(outcome.printed, end="", flush=True)
            failed = failed or outcome.code
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
