"""Output to a terminal. Control characters in names from users, plans and traces are escaped."""

import re
from typing import Any

from rich.console import Console
from rich.text import Text

# C0 and C1 controls except tab and newline, changes of writing direction, and lone surrogates, which Python uses for
# bytes of file names that are not UTF-8 and which cannot be encoded.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """A text with control characters escaped, e.g. as \\x1b."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Terminal(Console):
    """A console that prints strings literally, also in tables: without rich's markup and emoji names."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """As in rich, with control characters escaped."""
        return super().render_str(printable(text), **settings)
