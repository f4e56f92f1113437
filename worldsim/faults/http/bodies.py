"""Response bodies as payloads, and payloads as response bodies; streams that end in the middle."""

import codecs
import json
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from types import ModuleType
from typing import Any

from worldsim.faults.payload_views import json_like
from worldsim.faults.trees import alike, as_text

_REMEMBERED = 64  # responses of a tool: faults that replay old ones go back a few
_STREAM_CHARACTERS = 2000  # what a stream whose length nobody knows counts as: some dozens of events
_BINARY = ("image", "audio", "video", "font")


def library_of(message: Any) -> Any:
    """The library that a request or response is of: httpx, or its successor httpx2, which has the same interface."""
    return sys.modules[type(message).__module__.partition(".")[0]]


def media_type(message: Any) -> str:
    """Of the body of a request or response: `application/json`; "" where it is not said."""
    kind: str = message.headers.get("content-type", "")
    return kind.partition(";")[0].strip().lower()


def is_json(kind: str) -> bool:
    """Whether a media type is one of JSON."""
    return kind == "application/json" or kind.endswith("+json")


class UpstreamResponse:
    """A response of the service, and its body where that was read.

    chunks: of the body, as they came; None: it was not read. passed: the chunks of a body that was streamed to the
    client instead.
    """

    def __init__(self, response: Any) -> None:
        self.response = response
        self.chunks: list[bytes] | None = None
        self.passed: list[bytes] = []

    def __deepcopy__(self, memo: Any) -> "UpstreamResponse":
        return self  # responses do not change

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is a stream of server-sent events, which a client reads as they come."""
        return media_type(self.response) == "text/event-stream"

    @property
    def body(self) -> bytes:
        """The bytes as they came."""
        return b"".join(self.chunks if self.chunks is not None else self.passed)

    @cached_property
    def charset(self) -> str:
        found: str = self.response.charset_encoding or "utf-8"
        return found

    @cached_property
    def text(self) -> str | None:
        """The body as a text; None for one that is none, or that was not read."""
        kind = media_type(self.response)
        if not self.body or self.chunks is None or kind.split("/")[0] in _BINARY or kind == "application/octet-stream":
            return None
        library = library_of(self.response)
        try:
            decoded = library.Response(200, headers=self.response.headers, content=self.body).content
            return str(decoded.decode(self.charset))
        except (UnicodeDecodeError, LookupError, library.DecodingError):
            return None

    @cached_property
    def _parsed(self) -> Any:
        """The JSON that the text is; the text where it is none, or says nothing of itself and is no object or list."""
        text = self.text or ""
        if not is_json(media_type(self.response)) and not text.lstrip().startswith(("{", "[")):
            return text
        try:
            return json.loads(text)
        except ValueError:
            return text

    @cached_property
    def payload(self) -> Any:
        """The payload for faults: JSON, a text, or an `OpaqueBody`."""
        if self.text is None:
            return OpaqueBody(self)
        found: Any = self._parsed
        if isinstance(found, dict):
            found = _JSONObject(found)
            found.upstream = self
        return found

    @cached_property
    def sent_text(self) -> str:
        """The payload as faults that make it malformed write it."""
        text = as_text(self.payload)
        return text if text.startswith(("{", "[")) else f'{{"result": {text}}}'

    def encode(self, payload: Any) -> bytes:
        """Another payload as bytes, in the form of this one."""
        if isinstance(payload, str) and (self.text is None or self._parsed is self.text):
            text = payload
        else:
            text = json_like(payload, self.text or "")
        return text.encode(self.charset, "replace")

    def equals_payload(self, payload: Any) -> bool:
        """Whether a payload is that of this response."""
        return payload is self.payload or alike(payload, self.payload)


class _JSONObject(dict[str, Any]):
    """A payload with its response: when it is replayed, so are the status and the headers.

    To whoever compares payloads it is a dict like any other, which cannot be said of lists and texts of a class of
    their own; for those, see `RecentResponses`.
    """

    upstream: UpstreamResponse


class RecentResponses:
    """The last responses of a tool, to be found again by their payloads."""

    def __init__(self) -> None:
        self._last: deque[UpstreamResponse] = deque(maxlen=_REMEMBERED)

    def add(self, upstream: UpstreamResponse) -> None:
        """Remember a response, unless its payload refers to it anyway."""
        if not isinstance(upstream.payload, _JSONObject | OpaqueBody):
            self._last.appendleft(upstream)

    def find(self, payload: Any) -> UpstreamResponse | None:
        """The newest one with this payload; None for none."""
        return next((upstream for upstream in tuple(self._last) if upstream.equals_payload(payload)), None)


class OpaqueBody:
    """A body that faults can delay, lose or cut, but not change: bytes that are no text, or a stream."""

    def __init__(self, upstream: UpstreamResponse) -> None:
        self.upstream = upstream

    def __deepcopy__(self, memo: Any) -> "OpaqueBody":
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OpaqueBody) or self.upstream.chunks is None or other.upstream.chunks is None:
            return self is other
        return self.upstream.body == other.upstream.body

    __hash__ = object.__hash__

    def __str__(self) -> str:
        """Something as long as the body, for faults to whom the length matters."""
        return "." * (_STREAM_CHARACTERS if self.upstream.chunks is None else len(self.upstream.body))


# --- streams ---


class _FixedStream:
    """A stream of given chunks, which may end in an error."""

    def __init__(self, chunks: Sequence[bytes], error: Exception | None = None) -> None:
        self._chunks, self._error = chunks, error

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks
        if self._error is not None:
            raise self._error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk


Chunk = tuple[bytes, Exception | None]
"""What arrives of a chunk, and the error with which the stream breaks off after it."""


class _ChangedStream:
    """A body whose chunks are changed as they come. change: what arrives of a chunk; of None: when all have come."""

    def __init__(self, stream: Any, change: Callable[[bytes | None], Chunk]) -> None:
        self._stream, self._change = stream, change

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            yield from self._arriving(chunk)
        yield from self._arriving(None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            for each in self._arriving(chunk):
                yield each
        for each in self._arriving(None):
            yield each

    def _arriving(self, chunk: bytes | None) -> Iterator[bytes]:
        arrives, error = self._change(chunk)
        if arrives or chunk == b"":
            yield arrives
        if error is not None:
            raise error

    def close(self) -> None:
        self._stream.close()

    async def aclose(self) -> None:
        await self._stream.aclose()


@lru_cache
def _stream_class(library: ModuleType, kind: type) -> Any:
    """A class of streams as a library's clients take them, sync and async."""
    return type(kind.__name__, (kind, library.SyncByteStream, library.AsyncByteStream), {})


def fixed_stream(library: Any, given: Sequence[bytes], error: Exception | None = None) -> Any:
    """A stream of given chunks, which may end in an error."""
    return _stream_class(library, _FixedStream)(given, error)


def changed_stream(library: Any, stream: Any, change: Callable[[bytes | None], Chunk]) -> Any:
    """A stream whose chunks are changed as they come."""
    return _stream_class(library, _ChangedStream)(stream, change)


def cut_after(count: int, error: Exception) -> Callable[[bytes | None], Chunk]:
    """Passes so many bytes, or all there are, and breaks off."""
    left = count

    def change(chunk: bytes | None) -> Chunk:
        nonlocal left
        arrives = (chunk or b"")[:left]
        left -= len(arrives)
        return arrives, error if chunk is None or left <= 0 else None

    return change


BYTE_ORDER_TWICE = b"\xff\xfe\xff\xfe"
"""How a body in UTF-16 begins. Once would be read as intended: Python's json looks for it, whatever the header says."""


def as_utf16(charset: str) -> Callable[[bytes | None], Chunk]:
    """Passes a text on in UTF-16."""
    decode = codecs.getincrementaldecoder(charset)("replace").decode
    begin = BYTE_ORDER_TWICE

    def change(chunk: bytes | None) -> Chunk:
        nonlocal begin
        arrives, begin = begin + decode(chunk or b"", chunk is None).encode("utf-16-le", "surrogatepass"), b""
        return arrives, None

    return change


def record_chunks(upstream: UpstreamResponse) -> Callable[[bytes | None], Chunk]:
    """Passes everything on, and keeps it for when the response is replayed."""

    def change(chunk: bytes | None) -> Chunk:
        upstream.passed += [] if chunk is None else [chunk]
        return chunk or b"", None

    return change


def response_of(payload: Any) -> UpstreamResponse | None:
    """The response of a payload, where it refers to one."""
    found: UpstreamResponse | None = getattr(payload, "upstream", None)
    return found
