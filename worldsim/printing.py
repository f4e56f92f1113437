"""What goes to a terminal. Names that come from users, their plans and traces are text there, and no commands."""

import re
from typing import Any

from rich.console import Console
from rich.text import Text

# C0 and C1 controls but for tab and newline, what turns the direction of writing round, and halves of characters, which
# no terminal takes (Python has them for bytes of file names that are not UTF-8).
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """A text with its control characters to be seen: an escape character is written as \\x1b."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Terminal(Console):
    """A console that prints strings, also those in tables, as they are: without rich's markup and names of emoji."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """As rich does it, with control characters to be seen."""
        return super().render_str(printable(text), **settings)
