"""Calls as production recorded them: files of our own JSON lines, or of spans in any form that is known."""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from worldsim.errors import ConfigError
from worldsim.faults.learned.calls import TracedCall
from worldsim.faults.learned.formats.detection import CALL_EXAMPLE, read
from worldsim.faults.learned.span_calls import calls_from_spans
from worldsim.faults.learned.spans import TraceSpan

GZIP = b"\x1f\x8b"
_DECODER = json.JSONDecoder()


class Traces(NamedTuple):
    """Recorded calls."""

    calls: list[TracedCall]  # each once, in the order in which they started
    left_out: dict[str, int]  # what was not counted, and how many

    @property
    def notes(self) -> list[str]:
        """A line for each reason for which anything was not counted."""
        return [f"not counted, {what}: {count}" for what, count in self.left_out.items()]


def read_traces(path: Path) -> Traces:
    """The calls in a file, or in all the files of a folder, each of them once.

    Calls without a start come in the order of the file. Files may be packed by gzip and in any encoding that JSON may
    be in. Calls and spans that name no session are one session a file, or a trace.

    Raises ConfigError, with the line, for a file that cannot be read or holds anything else, or nothing.
    """
    left_out: Counter[str] = Counter()
    spans: list[TraceSpan] = []
    calls: list[TracedCall] = []
    for file in _files(path):
        for line, document in _documents(_text(file), file):
            for found in read(document, f"{file}:{line}"):
                if isinstance(found, TracedCall):
                    calls.append(found if found.session else found.model_copy(update={"session": str(file)}))
                else:
                    found.trace = found.trace or str(file)
                    spans.append(found)
    calls += calls_from_spans(spans, left_out)
    skipped = {what: count for what, count in left_out.items() if count}
    if not calls:
        raise ConfigError(
            f"traces={path} holds no calls{_why(spans, skipped)}; see docs/faults.md for what a trace holds"
        )
    return Traces(sorted(calls, key=lambda call: call.start_s), skipped)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    if not found:
        raise ConfigError(f"traces={path} is an empty folder; put traces into it")
    return found


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"traces={path} cannot be read ({error.strerror}); check the path") from error
    try:
        data = gzip.decompress(data) if data.startswith(GZIP) else data
        return data.decode(json.detect_encoding(data)).removeprefix("\ufeff")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"traces={path} is damaged or was cut off ({error}); copy it again") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"traces={path} is not text in UTF-8 or UTF-16; save it as that") from error


def _documents(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    """Each JSON document with its line: they follow upon each other, one a line or not."""
    line, reached, start = 1, 0, _next(text, 0)
    while start < len(text):
        line += text.count("\n", reached, start)
        try:
            document, reached = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}:{line}: not JSON ({error}); {CALL_EXAMPLE}, one a line") from error
        yield line, document
        line += text.count("\n", start, reached)
        start = _next(text, reached)


def _next(text: str, position: int) -> int:
    """Where the next document starts, past the white space of JSON."""
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _why(spans: list[TraceSpan], left_out: dict[str, int]) -> str:
    if not spans:
        return ""
    others = "".join(f"; {what}: {count}" for what, count in left_out.items())
    forms = " and ".join(sorted({span.format_name for span in spans}))
    return f" ({len(spans)} spans in {forms}, of which none that has ended names a tool or is of kind client{others})"
