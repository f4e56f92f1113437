"""Statuses and error texts of clients -> kinds of failure of the service."""

import re
from functools import lru_cache
from http import HTTPStatus
from typing import Final, NamedTuple

from worldsim.faults.calls import ERRORS

DEFAULT_FAILURE: Final = "server_error"  # what a failure is taken for that nothing more is known of

STATUSES = {  # of HTTP -> kind; other 4xx are the caller's own mistakes, other 5xx are errors of the server
    401: "unauthorized",
    402: "quota",
    403: "forbidden",
    407: "unauthorized",
    408: "timeout",
    420: "rate_limited",  # Twitter's and GitHub's before RFC 6585
    429: "rate_limited",
    502: "bad_gateway",
    503: "unavailable",
    504: "timeout",
    509: "quota",  # bandwidth limit exceeded
    520: "bad_gateway",  # 520 to 530: Cloudflare, of the server behind it
    521: "bad_gateway",
    522: "timeout",
    523: "bad_gateway",
    524: "timeout",
    525: "bad_gateway",
    526: "bad_gateway",
    529: "unavailable",  # overloaded, as Anthropic has it
    530: "bad_gateway",
}

GRPC: dict[str, str | None] = {  # names of status codes, in the order of their numbers from 1
    "CANCELLED": None,  # by the caller
    "DEFAULT_FAILURE": DEFAULT_FAILURE,
    "INVALID_ARGUMENT": None,
    "DEADLINE_EXCEEDED": "timeout",
    "NOT_FOUND": None,
    "ALREADY_EXISTS": None,
    "PERMISSION_DENIED": "forbidden",
    "RESOURCE_EXHAUSTED": "rate_limited",
    "FAILED_PRECONDITION": None,
    "ABORTED": None,  # a conflict, HTTP's 409
    "OUT_OF_RANGE": None,
    "UNIMPLEMENTED": None,
    "INTERNAL": DEFAULT_FAILURE,
    "UNAVAILABLE": "unavailable",
    "DATA_LOSS": DEFAULT_FAILURE,
    "UNAUTHENTICATED": "unauthorized",
}

JSON_RPC: dict[int, str | None] = {  # codes of JSON-RPC 2.0 and of the Model Context Protocol
    -32700: None,  # the request could not be parsed
    -32600: None,
    -32601: None,
    -32602: None,
    -32603: DEFAULT_FAILURE,
    -32001: "timeout",  # of MCP's TypeScript SDK
    -32002: None,  # resource not found
}

# Patterns in the order in which they are searched for, in texts that `_normalized` has made plain: the most specific
# come first, and the first match decides. A single word, such as "json" or "connect", is not enough.
TEXT_PATTERNS: tuple[tuple[str | None, str], ...] = (
    (
        "quota",
        r"insufficient quota|exceeded your current quota|quota (has been |was )?(exceeded|exhausted)(?!.*\bper\b)"
        r"|out of (credits|quota)|credit balance is too low|insufficient credits|payment required"
        r"|billing (hard )?limit|billing (is )?not active|usage limit (reached|exceeded)",
    ),
    (
        "rate_limited",
        r"rate ?limit|too many (requests|connections)|throttl|slow ?down\b|\brate exceeded|request limit exceeded"
        r"|resource exhausted|throughput exceeded|quota (has been |was )?exceeded.*\bper\b"
        r"|requests per (second|minute)",
    ),
    ("malformed", r"\b(response|output|result) validation"),
    (None, r"\b(malformed|invalid json in( the)?|bad) request\b|request (body|payload)|invalid request\b"),
    (
        None,  # arguments that do not fit, whatever else the name of the argument says
        r"(unknown|unexpected|unrecognized|unsupported|missing|invalid|extra|additional)"
        r"( required| positional| keyword)*"
        r" (field|option|parameter|param|argument|property|properties|key\b(?! error)|value|input|enum|type\b)"
        r"|required property|field required|\bmust be\b|must not be|input validation"
        r"|missing \d+ required|unexpected keyword",
    ),
    (
        "timeout",
        r"\btime ?d? ?out\b|timeout|deadline (was |has been )?exceeded|\besockettimedout|\betimedout|econnaborted"
        r"|took too long",
    ),
    (
        "unavailable",
        r"upstream connect error|no healthy upstream|overloaded|over capacity|at capacity|(down for|under) maintenance"
        r"|service (is )?(temporarily |currently )?(unavailable|not available)|(temporarily|server) unavailable"
        r"|server (is )?(too )?busy|circuit ?breaker (is )?open|try again later",
    ),
    (
        "bad_gateway",
        r"bad gateway|upstream prematurely closed|invalid response from (the )?upstream|web server is down",
    ),
    (
        "connection",
        r"\b(econnrefused|econnreset|epipe|enotfound|eai again|ehostunreach|enetunreach|ehostdown|enetdown)\b|hang up"
        r"|connection (was |is |has been |attempt )?(unexpectedly |forcibly )?"
        r"(refused|reset|closed|aborted|lost|dropped|terminated|failed|error|broken)"
        r"|\bconnect (error|exception|call failed)"
        r"|(failed|unable|could ?n[o']t|cannot|can't) to? ?(connect|reach|resolve)"
        r"|network (error|is unreachable|connection)|no route to host|host unreachable|broken pipe"
        r"|name resolution|name or service not known|nodename nor servname|could not resolve host|no such host"
        r"|getaddrinfo|unknown ?host|\bdns\b.*(fail|error|resol)"
        r"|(remote|server|peer|remote end|other side|stream|socket|session) (was |has |unexpectedly )?"
        r"(disconnected|closed|reset|terminated)|remote end closed|incomplete (chunked )?read|incomplete message"
        r"|premature close|unexpected eof|eof occurred|\bssl\b.*(error|fail|wrong|version)|\btls\b.*(error|fail|alert)"
        r"|certificate (verify|has expired|is not)|cert has expired|self signed cert|unable to verify leaf|handshake"
        r"|fetch failed|failed to fetch|max retries exceeded|goaway|err (connection|network|name)|proxy error",
    ),
    (
        "unauthorized",
        r"unauthori[sz]ed|unauthenticated|not authenticated|authentication|bad credentials"
        r"|(invalid|incorrect|expired|missing|wrong|no) (x )?(auth|api ?key|token|jwt|credentials?|access ?token"
        r"|client token|security token|bearer|grant|client\b|session)|api key (not|is not|is in)valid"
        r"|(token|jwt|key|session|signature|credentials?)( included in the request)? "
        r"(has |have |is |was |are )?(been )?(expired|invalid|revoked|not valid)"
        r"|unrecognized client|signature does ?n[o']t match|log ?in required|please log ?in",
    ),
    (
        "forbidden",
        r"forbidden|access (is )?denied|permission (was |is )?(denied|error)|permission denied|not authori[sz]ed"
        r"|insufficient (permission|scope|privilege|access)|(does not|don't|do not) have (the )?(permission|access)",
    ),
    (
        "malformed",
        r"json ?decode|\bjson ?(parse|parsing|syntax)|unexpected token|unexpected end of (json|data|input)"
        r"|expecting (value|property name|',' delimiter)|extra data line|unterminated string|not valid json"
        r"|invalid json"
        r"|(failed|unable|could not|cannot|error) (to )?(parse|decode|decoding|parsing|deserialize)|unicode ?decode"
        r"|(response|output|result)s? (body )?could not be|malformed|decod(e|ing) error"
        r"|(invalid|unexpected|unparsable) (response|content type|reply)|parse ?error|xml syntax|not well formed",
    ),
    (
        None,  # what the caller asked for does not exist or does not fit
        r"not found|no such|does ?n[o']t exist|already exists|unknown (tool|function|method)|not allowed|unprocessable"
        r"|\bconflict\b|validation ?(error|exception)|validation failed|bad request|not supported|unsupported"
        r"|\bcancell?ed\b|aborted by (the )?user|no results?",
    ),
)
_RULES = [(kind, re.compile(pattern)) for kind, pattern in TEXT_PATTERNS]

_PHRASES = "|".join(rf"{each.value}\W{{1,3}}{re.escape(each.phrase)}" for each in HTTPStatus if each >= 400)
_THEN = r"""(?=\s*$|\s*[-–:.,;)\]}'"(<{]|\s+(?:client|server|error|response)\b)"""  # and not "500 rows"
_STATUS = re.compile(
    rf"""
      ^\W*(?P<alone>[45]\d\d)\W*$
    | \b(?:https?(?:/\d(?:\.\d)?)?|status|status[ _-]?code|http[ _-]?(?:status|error|code)|response[ _]code)\b
      (?:[ _]?(?:code|error|status))?["']?\s*(?:[:=]|\bis\b|\bof\b)?\s*["'(\[]?(?P<labelled>[45]\d\d)\b
    | \b(?P<phrased>{_PHRASES}|[45]\d\d\W{{1,3}}(?:client|server)\ error)
    | (?:error|code|returned|responded|received|got|with|failed|occurred)\b
      ["']?\s*[:=]?\s*["'(\[]?(?P<reported>[45]\d\d)\b{_THEN}
    | ^\W*(?P<first>[45]\d\d)\s*[-–:\])]
    | too\ many\ (?P<retried>[45]\d\d)\ error\ responses
    """,
    re.VERBOSE | re.IGNORECASE,
)
_JSON_RPC = re.compile(r"(?<![\d.])-32[0-8]\d\d\b")
_GRPC = re.compile(rf"\b({'|'.join(GRPC)})\b|\bcode = (\w+)")
_SEPARATORS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[\s_\-./:]+")
LONGEST_TEXT = 2000  # characters of an error text that are looked at: what follows is its trace of the stack


class Verdict(NamedTuple):
    """The failure that a text describes: a kind of `ERRORS`, or None for an error of the caller."""

    failure: str | None


def failure_of(status: int | None, text: str) -> str | None:
    """Which kind of failure, one of `ERRORS`, a failed call is; None where the caller itself made the mistake.

    status: of HTTP, None or below 400 where there is none. text: the error's name, message, or both; may be empty.
    """
    if status is not None and status >= 400 and text not in ERRORS:
        return _of_status(status, text)
    verdict = classify(text)
    return DEFAULT_FAILURE if verdict is None else verdict.failure


@lru_cache(4096)  # services repeat their messages
def classify(text: str) -> Verdict | None:
    """The failure that an error text describes; None where no pattern matches.

    One of `ERRORS` means itself. Else a status of HTTP counts first, then codes of JSON-RPC and of gRPC, then words.
    """
    if text in ERRORS:
        return Verdict(text)
    text = text[:LONGEST_TEXT]
    if status := _STATUS.search(text):
        found_status = next(found for found in status.groups() if found)
        return Verdict(_of_status(int(found_status[:3]), text))
    if code := _JSON_RPC.search(text):
        number = int(code[0])
        if number in JSON_RPC:
            return Verdict(JSON_RPC[number])
    if name := _GRPC.search(text):
        known = name[1] or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name[2]).upper().replace("CANCELED", "CANCELLED")
        if known in GRPC:
            return Verdict(GRPC[known])
    plain = _normalized(text)
    return next((Verdict(kind) for kind, pattern in _RULES if pattern.search(plain)), None)


def grpc_name(number: int) -> str:
    """The name of a gRPC status code, 1 to 16; UNKNOWN for others."""
    return list(GRPC)[number - 1] if 1 <= number <= len(GRPC) else "UNKNOWN"


def _of_status(status: int, text: str) -> str | None:
    kind = STATUSES.get(status, None if status < 500 else DEFAULT_FAILURE)
    if kind in ("rate_limited", "forbidden"):  # used for quotas as well, and 403 for rate limits
        found_status = next((kind for kind, pattern in _RULES[:2] if pattern.search(_normalized(text))), None)
        return found_status or kind
    return kind


def _normalized(text: str) -> str:
    """Small letters and single spaces: RateLimitError, rate_limit_error and "Rate limit error" are one."""
    return _SEPARATORS.sub(" ", text).lower()
