"""Observations that are texts: faults change the fields of the JSON in them, and the result is a text again."""

from gymnasium import spaces

from worldsim.faults.arrays import Rows
from worldsim.faults.calls import LOST, Reply
from worldsim.faults.payload_views import PayloadView, view_of
from worldsim.faults.replies import Replies


def reply_with_text(view: PayloadView, reply: Reply, space: spaces.Text, allow_out_of_space: bool) -> Reply:
    """A reply with a text again; one that its space does not hold is malformed, unless `allow_out_of_space`."""
    if reply.payload is LOST:
        return reply
    text = view.rebuild(reply.payload)
    if text in space or allow_out_of_space:
        return reply._replace(payload=text)
    return reply._replace(payload=LOST, ok=False, error="malformed", raw=text)


class TextObservations:
    """The texts of N environments, and how each was opened last. allow_out_of_space: as for `reply_with_text`."""

    def __init__(self, count: int, space: spaces.Text, allow_out_of_space: bool) -> None:
        self._space, self._allow_out_of_space = space, allow_out_of_space
        self._views: list[PayloadView] = [view_of("")] * count

    def parse(self, shown: Replies, rows: Rows) -> Replies:
        """The observations of the sessions `rows`, parsed for the faults."""
        for row in rows.tolist():
            self._views[row] = view_of(shown.payload(row))
        return Replies(shown.count, overrides={row: view.inner for row, view in enumerate(self._views)})

    def serialize(self, replies: Replies, shown: Replies, rows: Rows) -> Replies:
        """Replies to the sessions `rows` with texts again, in the place of what environments show."""
        for row in rows.tolist():
            shown.put(row, reply_with_text(self._views[row], replies.reply(row), self._space, self._allow_out_of_space))
        shown.latency_s = replies.latency_s
        return shown
