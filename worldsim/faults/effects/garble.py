"""Replies that arrive as a text which cannot be parsed."""

from collections.abc import Callable
from dataclasses import dataclass

from worldsim.faults.effects.base import AffectedCalls
from worldsim.faults.effects.json_text import plain_payloads
from worldsim.faults.keys import CallRandom
from worldsim.faults.replies import Replies
from worldsim.faults.trees import as_text

WriteTexts = Callable[[Callable[[], list[str]], CallRandom], list[str]]
"""What arrives, as the caller's HTTP library decodes it, a text for each call. The argument gives what was sent."""


@dataclass(frozen=True)
class Garble:
    """A `Change` of replies into texts that cannot be parsed: error "malformed", and the text in `raw`."""

    kind: str
    write: WriteTexts

    def __call__(self, batch: AffectedCalls, replies: Replies) -> None:
        texts = self.write(lambda: sent(batch, replies), batch.random)
        lengths = [len(text) for text in texts]  # records last as long as the session: no texts of frames in them
        batch.record(self.kind, lambda: [{"characters": length} for length in lengths])
        replies.garble(batch.rows, texts)


def sent(batch: AffectedCalls, replies: Replies) -> list[str]:
    """The replies as JSON texts: objects and lists, for no beginning of one is JSON; others stand in an object."""
    texts = [as_text(payload) for payload in plain_payloads(replies, batch.rows)]
    return [text if text.startswith(("{", "[")) else f'{{"result": {text}}}' for text in texts]
