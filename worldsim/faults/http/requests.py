"""Requests as calls: method and path template name the tool, and all that a request asks for is its arguments."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode

from worldsim.errors import ConfigError
from worldsim.faults.http.bodies import is_json, library_of, media_type
from worldsim.faults.trees import alike

_ID = re.compile(  # numbers, UUIDs, and hashes, each as a whole segment of a path
    r"(?<=/)(?:[0-9]+|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{16,})(?=/|$)", re.IGNORECASE
)
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")
_FORM = "application/x-www-form-urlencoded"


class PathParameter(NamedTuple):
    """A parameter of a path, and where it is in it."""

    name: str
    start: int
    end: int


class RouteMatch(NamedTuple):
    """A path that matches a template: the tool that it names, and its parameters."""

    tool: str
    path: str
    spans: tuple[PathParameter, ...]


class PathTemplate:
    """A path with parameters, `/orders/{id}`, of one method or of all. name: of the tool, by default method and path.

    Raises ConfigError for what is none.
    """

    def __init__(self, text: str, name: str | None = None) -> None:
        method, _, path = text.rpartition(" ")
        if not path.startswith("/") or not (not method or method.isalpha()):
            raise ConfigError(f"templates: '{text}' must be a path such as '/orders/{{id}}' or 'GET /orders/{{id}}'")
        pieces = re.split(r"\{(\w+)\}", path)
        self.method, self.path, self.name = method.upper(), path, name
        self.names = pieces[1::2]
        if len(set(self.names)) < len(self.names):
            raise ConfigError(f"templates: '{text}' has two parameters of one name; rename one of them")
        parts = [re.escape(piece) if at % 2 == 0 else "([^/]+)" for at, piece in enumerate(pieces)]
        self._pattern = re.compile("".join(parts))

    def match(self, method: str, path: str) -> RouteMatch | None:
        """None for another method or path."""
        found = self._pattern.fullmatch(path) if self.method in ("", method) else None
        if found is None:
            return None
        spans = tuple(PathParameter(name, *found.span(at + 1)) for at, name in enumerate(self.names))
        return RouteMatch(self.name or f"{method} {self.path}", path, spans)


class PathTemplates:
    """Names of tools for paths. Of several templates that match, the one with the fewest parameters counts.

    given: templates, or templates with the names of their tools. Where none matches, numbers, UUIDs and hashes in the
    path are parameters.
    """

    def __init__(self, given: Sequence[str] | Mapping[str, str]) -> None:
        given = [given] if isinstance(given, str) else given
        named = given.items() if isinstance(given, Mapping) else [(text, None) for text in given]
        each = [PathTemplate(text, name) for text, name in named]
        self._templates = sorted(each, key=lambda template: (len(template.names), not template.method))

    def match(self, method: str, path: str) -> RouteMatch:
        """Which tool a request calls."""
        for template in self._templates:
            found = template.match(method, path)
            if found is not None:
                return found
        spans = tuple(
            PathParameter("id" if at == 0 else f"id{at + 1}", *found.span())
            for at, found in enumerate(_ID.finditer(path))
        )
        return RouteMatch(f"{method} {_filled(path, spans, {span: f'{{{span.name}}}' for span in spans})}", path, spans)


def _filled(path: str, spans: Sequence[PathParameter], values: Mapping[PathParameter, str]) -> str:
    for span in reversed(spans):
        path = path[: span.start] + values.get(span, path[span.start : span.end]) + path[span.end :]
    return path


class ParameterLocation(NamedTuple):
    """Where an argument is in a request: its part, "path", "query" or "body", and its name there.

    key: its name there; None: it is the whole body.
    """

    part: str
    key: str | None


class Arguments(dict[str, Any]):
    """What a request asks for, by name. asked: the request; faults that ask for the same later have it, too."""

    parsed: "ParsedRequest"


class ParsedRequest:
    """A request whose body was read, and where each of its arguments stands.

    Parameters of the path come first, then the query, then the fields of the body; where two have one name the later
    one is called `query.name` or `body.name`. A body without fields is `body`: JSON, a text, or of other bytes their
    number and hash.
    """

    def __init__(self, request: Any, matched: RouteMatch) -> None:
        self.request, self.tool, self._matched = request, matched.tool, matched
        self.arguments, self._places = Arguments(), dict[str, ParameterLocation]()
        self.arguments.parsed = self
        for span in matched.spans:
            self._add(ParameterLocation("path", span.name), _number(unquote(matched.path[span.start : span.end])))
        self._query: list[tuple[str, str]] = parse_qsl(request.url.query.decode("ascii"), keep_blank_values=True)
        self._add_fields("query", self._query)
        self._add_body(request.content)

    def __deepcopy__(self, memo: Any) -> "ParsedRequest":
        return self  # requests do not change

    def _add(self, place: ParameterLocation, value: Any) -> None:
        name = place.key or place.part
        name = f"{place.part}.{name}" if name in self.arguments else name
        self.arguments[name], self._places[name] = value, place

    def _add_fields(self, part: str, items: Sequence[tuple[str, str]]) -> None:
        """Fields, whose values are texts; of those that come several times, lists."""
        for key in dict.fromkeys(key for key, _ in items):
            values = [_number(value) for name, value in items if name == key]
            self._add(ParameterLocation(part, key), values[0] if len(values) == 1 else values)

    def _add_body(self, content: bytes) -> None:
        self._body: Any = None  # JSON, or the fields of a form
        kind = media_type(self.request)
        if not content:
            return
        if kind == _FORM:
            self._body = parse_qsl(content.decode("utf-8", "replace"), keep_blank_values=True)
            self._add_fields("body", self._body)
            return
        text = _text(content)
        if text is not None and is_json(kind):
            try:
                self._body = json.loads(text)
            except ValueError:
                self._add(ParameterLocation("body", None), text)
                return
            if isinstance(self._body, dict):
                for key, value in self._body.items():
                    self._add(ParameterLocation("body", key), value)
            else:
                self._add(ParameterLocation("body", None), self._body)
        elif text is not None and not kind.startswith("multipart/"):
            self._add(ParameterLocation("body", None), text)
        else:  # parts of a form are divided by a text that is drawn anew for each try
            digest = {} if kind.startswith("multipart/") else {"sha256": hashlib.sha256(content).hexdigest()}
            self._add(ParameterLocation("body", None), {"bytes": len(content), **digest})

    def with_arguments(self, arguments: Mapping[str, Any]) -> Any:
        """The request with other arguments; the same object where none differs."""
        # Only the parts with changed arguments are written anew: the rest stays the same to the byte.
        changed = {
            name
            for name in [*self.arguments, *arguments]
            if name not in arguments or name not in self.arguments or not alike(arguments[name], self.arguments[name])
        }
        if not changed:
            return self.request
        part = {name: self._places.get(name) or ParameterLocation(self._for_new, name) for name in changed}
        touched = {place.part for place in part.values()}
        new_values = {part.get(name) or self._places[name]: value for name, value in arguments.items()}
        path, query, content = self._matched.path, self.request.url.query, self.request.content
        if "path" in touched:
            values = {
                span: quote(_written(new_values[place]), safe="")
                for span in self._matched.spans
                for place in [ParameterLocation("path", span.name)]
                if place in new_values
            }
            path = _filled(path, self._matched.spans, values)
        if "query" in touched:
            query = urlencode(_fields("query", self._query, new_values)).encode("ascii")
        if "body" in touched:
            content = self._content(new_values)
        target = path.encode("ascii") + (b"?" + query if query else b"")
        library = library_of(self.request)
        return library.Request(
            self.request.method,
            self.request.url.copy_with(raw_path=target),
            headers=with_length(self.request.headers, len(content)) if "body" in touched else self.request.headers,
            stream=library.ByteStream(content),
            extensions=self.request.extensions,
        )

    @property
    def _for_new(self) -> str:
        """The part of the request where new arguments go."""
        return "body" if isinstance(self._body, dict) or media_type(self.request) == _FORM else "query"

    def _content(self, new_values: Mapping[ParameterLocation, Any]) -> bytes:
        if media_type(self.request) == _FORM:
            return urlencode(_fields("body", self._body, new_values)).encode()
        if isinstance(self._body, dict):
            fields = {place.key: value for place, value in new_values.items() if place.part == "body"}
            return _json(fields)
        whole = new_values.get(ParameterLocation("body", None), "")
        if self._body is None and isinstance(whole, str):
            return whole.encode()
        return _json(whole)


def _fields(
    part: str, items: Sequence[tuple[str, str]], new_values: Mapping[ParameterLocation, Any]
) -> list[tuple[str, str]]:
    """The fields of a query or form, in their order, with other values."""
    keys = dict.fromkeys([*[key for key, _ in items], *[place.key or "" for place in new_values if place.part == part]])
    found = []
    for key in keys:
        value = new_values.get(ParameterLocation(part, key), _NONE)
        values = value if isinstance(value, list) else [] if value is _NONE else [value]
        found += [(key, _written(each)) for each in values]
    return found


_NONE = object()


def with_length(headers: Any, length: int, *dropping: bytes) -> list[tuple[bytes, bytes]]:
    """Headers for a body of so many bytes that is sent in one piece, and without those named in `dropping`."""
    replaced_headers = (b"content-length", b"transfer-encoding", *dropping)
    return [(key, value) for key, value in headers.raw if key.lower() not in replaced_headers] + [
        (b"Content-Length", str(length).encode())
    ]


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _written(value: Any) -> str:
    """A value as it stands in a path or query."""
    return value if isinstance(value, str) else json.dumps(value)


def _number(text: str) -> Any:
    """Whole numbers as such, so that a fault can turn a page; other texts as they are."""
    return int(text) if _WHOLE.fullmatch(text) else text


def _text(content: bytes) -> str | None:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None
