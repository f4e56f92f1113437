"""Error texts as clients, SDKs and proxies write them get the kind of failure that an operator would give them."""

import pytest

from worldsim.faults.learned.calls import TracedCall
from worldsim.faults.learned.errors import ERRORS, GRPC, failure_of, grpc_name

OWN = None  # the caller's own mistake: the service did nothing wrong

# text, kind, why; `pytest -rA -k table tests/faults/test_error_texts.py` prints it
TABLE: list[tuple[str, str | None, str]] = [
    ("429 Too Many Requests", "rate_limited", "status"),
    ("401", "unauthorized", "status alone"),
    ("HTTP 503", "unavailable", "status"),
    ("HTTP/1.1 502 Bad Gateway", "bad_gateway", "status line"),
    ("HTTP Error 500: Internal Server Error", "server_error", "urllib"),
    ("Request failed with status code 504", "timeout", "axios"),
    ("Request failed with status code 404", OWN, "axios; asked for what is not there"),
    ("404 Client Error: Not Found for url: https://api.example.com/v1/orders/9", OWN, "requests"),
    ("503 Server Error: Service Unavailable for url: https://api.example.com", "unavailable", "requests"),
    ("Client error '422 Unprocessable Entity' for url 'https://api.example.com/pay'", OWN, "httpx"),
    ("Server error '500 Internal Server Error' for url 'https://api.example.com/pay'", "server_error", "httpx"),
    ("The remote server returned an error: (502) Bad Gateway.", "bad_gateway", ".NET"),
    ("Unexpected response: status=403, body={}", "forbidden", "status in a pair"),
    ('{"statusCode": 408, "message": "Request Timeout"}', "timeout", "status in JSON"),
    ("Error code: 400 - {'error': {'message': 'Invalid value'}}", OWN, "OpenAI's SDK"),
    ("Error code: 529 - {'type': 'error', 'error': {'type': 'overloaded_error'}}", "unavailable", "Anthropic's SDK"),
    ("529", "unavailable", "Anthropic: overloaded"),
    ("overloaded_error", "unavailable", "Anthropic's type of it"),
    ("Error 524: a timeout occurred", "timeout", "Cloudflare"),
    ("Error 521: Web server is down", "bad_gateway", "Cloudflare: nobody behind it"),
    ("HTTPSConnectionPool: Max retries exceeded (Caused by ResponseError('too many 503 error responses'))",
     "unavailable", "urllib3: what it got each time"),
    ("An error occurred (503) when calling the HeadObject operation", "unavailable", "botocore"),
    ("402 Payment Required", "quota", "status"),
    ("407 Proxy Authentication Required", "unauthorized", "status"),
    # rates and quotas
    ("RateLimitError", "rate_limited", "name of an SDK's exception"),
    ("openai.RateLimitError: Error code: 429 - {'error': {'code': 'insufficient_quota'}}", "quota", "429 of a quota"),
    ("insufficient_quota", "quota", "OpenAI: no money left, waiting does not help"),
    ("You exceeded your current quota, please check your plan and billing details.", "quota", "OpenAI"),
    ("403 Forbidden: API rate limit exceeded for user ID 1.", "rate_limited", "GitHub says it with 403"),
    ("Quota exceeded for quota metric 'Read requests' and limit 'Read requests per minute'", "rate_limited", "Google"),
    ("An error occurred (ThrottlingException) when calling the Converse operation: Rate exceeded",
     "rate_limited", "botocore"),
    ("ProvisionedThroughputExceededException", "rate_limited", "DynamoDB"),
    ("SlowDown: Please reduce your request rate.", "rate_limited", "S3"),
    ("TooManyRequestsException", "rate_limited", "AWS"),
    ("ServiceQuotaExceededException", "quota", "AWS"),
    ("Your credit balance is too low to access the Anthropic API.", "quota", "Anthropic"),
    ("quota exceeded", "quota", "nothing says that it comes back"),
    # time-outs
    ("ETIMEDOUT", "timeout", "errno"),
    ("connect ETIMEDOUT 10.0.0.1:443", "timeout", "Node; whether it had connected nobody knows"),
    ("ESOCKETTIMEDOUT", "timeout", "Node"),
    ("timeout of 5000ms exceeded", "timeout", "axios; 5000 is no status"),
    ("MCP error -32001: Request timed out", "timeout", "MCP's TypeScript SDK"),
    ("context deadline exceeded (Client.Timeout exceeded while awaiting headers)", "timeout", "Go"),
    ("httpx.ReadTimeout", "timeout", "httpx"),
    ("httpx.ConnectTimeout: timed out", "timeout", "httpx"),
    ("java.net.SocketTimeoutException: Read timed out", "timeout", "Java"),
    ("asyncio.exceptions.TimeoutError", "timeout", "Python"),
    ("Gateway Time-out", "timeout", "nginx's page, without its number"),
    ("The operation was aborted due to timeout", "timeout", "fetch with AbortSignal.timeout"),
    ("tool pay timed out after 500 ms", "timeout", "500 is no status"),
    # connections
    ("connect ECONNREFUSED 127.0.0.1:3000", "connection", "Node"),
    ("ECONNRESET", "connection", "errno"),
    ("read ECONNRESET", "connection", "Node"),
    ("socket hang up", "connection", "Node"),
    ("getaddrinfo ENOTFOUND api.example.com", "connection", "Node: no such host, not no such thing"),
    ("getaddrinfo EAI_AGAIN api.example.com", "connection", "Node: DNS"),
    ("write EPIPE", "connection", "errno"),
    ("TypeError: fetch failed", "connection", "undici"),
    ("ConnectionResetError: [Errno 104] Connection reset by peer", "connection", "Python"),
    ("('Connection aborted.', RemoteDisconnected('Remote end closed connection without response'))",
     "connection", "requests"),
    ("requests.exceptions.ConnectionError", "connection", "requests"),
    ("httpx.ConnectError: All connection attempts failed", "connection", "httpx"),
    ("httpx.RemoteProtocolError: Server disconnected without sending a response.", "connection", "httpx"),
    ("peer closed connection without sending complete message body", "connection", "httpcore"),
    ("[Errno -2] Name or service not known", "connection", "DNS"),
    ("[Errno -3] Temporary failure in name resolution", "connection", "DNS"),
    ("dial tcp: lookup api.example.com: no such host", "connection", "Go"),
    ("dial tcp 10.0.0.1:443: connect: connection refused", "connection", "Go"),
    ("unexpected EOF", "connection", "Go"),
    ("http2: server sent GOAWAY and closed the connection", "connection", "Go"),
    ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer", "connection", "TLS"),
    ("ssl.SSLError: [SSL: WRONG_VERSION_NUMBER] wrong version number", "connection", "TLS"),
    ("CERT_HAS_EXPIRED", "connection", "Node, TLS"),
    ("net::ERR_CONNECTION_RESET", "connection", "Chrome"),
    ("MCP error -32000: Connection closed", "connection", "MCP's SDKs"),
    ("Client network socket disconnected before secure TLS connection was established", "connection", "Node"),
    ("OSError: [Errno 113] No route to host", "connection", "errno"),
    # service down
    ("Service Unavailable", "unavailable", "reason of 503"),
    ("upstream connect error or disconnect/reset before headers. reset reason: connection failure",
     "unavailable", "Envoy's text of 503"),
    ("no healthy upstream", "unavailable", "Envoy"),
    ("The engine is currently overloaded, please try again later", "unavailable", "OpenAI"),
    ("CircuitBreakerOpenException: circuit breaker is open", "unavailable", "nothing was sent"),
    ("Bad Gateway", "bad_gateway", "reason of 502"),
    ("upstream prematurely closed connection while reading response header", "bad_gateway", "nginx"),
    # who may
    ("AuthenticationError: Incorrect API key provided", "unauthorized", "OpenAI"),
    ("invalid_grant: Token has been expired or revoked.", "unauthorized", "OAuth"),
    ("jwt expired", "unauthorized", "jsonwebtoken"),
    ("ExpiredTokenException: The security token included in the request is expired", "unauthorized", "AWS"),
    ("UnrecognizedClientException", "unauthorized", "AWS"),
    ("invalid x-api-key", "unauthorized", "Anthropic"),
    ("AccessDeniedException: User is not authorized to perform: bedrock:InvokeModel", "forbidden", "AWS"),
    ("PermissionDeniedError", "forbidden", "OpenAI"),
    ("Resource not accessible: insufficient_scope", "forbidden", "OAuth"),
    # replies that cannot be read
    ("Unexpected token < in JSON at position 0", "malformed", "an error page where JSON was expected"),
    ("SyntaxError: Unexpected token '<', \"<!DOCTYPE \"... is not valid JSON", "malformed", "the same, newer Node"),
    ("Unexpected end of JSON input", "malformed", "cut off"),
    ("json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)", "malformed", "Python"),
    ("JSONDecodeError", "malformed", "Python"),
    ("UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff", "malformed", "wrong encoding"),
    ("APIResponseValidationError: Data returned by API invalid for expected schema.", "malformed", "OpenAI's SDK"),
    ("Output validation error: 'id' is a required property of the result", "malformed", "MCP"),
    # JSON-RPC, MCP
    ("-32602", OWN, "invalid params"),
    ("MCP error -32602: Invalid arguments for tool pay", OWN, "MCP"),
    ("MCP error -32601: Method not found", OWN, "MCP"),
    ("MCP error -32603: Internal error", "server_error", "MCP"),
    ("MCP error -32603: Request failed with status code 429", "rate_limited", "the status behind it says more"),
    # gRPC
    ("4 DEADLINE_EXCEEDED: Deadline exceeded after 5.001s", "timeout", "grpc-js"),
    ("14 UNAVAILABLE: No connection established", "unavailable", "grpc-js; by its status"),
    ("rpc error: code = Unavailable desc = transport is closing", "unavailable", "grpc-go"),
    ("rpc error: code = ResourceExhausted desc = quota", "rate_limited", "grpc-go: HTTP's 429"),
    ("StatusCode.UNAUTHENTICATED", "unauthorized", "grpcio"),
    ("7 PERMISSION_DENIED: caller does not have permission", "forbidden", "grpc-js"),
    ("rpc error: code = InvalidArgument desc = amount", OWN, "grpc-go"),
    ("13 INTERNAL: Received RST_STREAM with code 2", "server_error", "grpc-js"),
    ("1 CANCELLED: Cancelled on client", OWN, "the caller hung up"),
    # the caller's own
    ("ValidationError: 1 validation error for PayArguments", OWN, "arguments that the tool's schema refuses"),
    ("Input validation error: 'amount' is a required property", OWN, "MCP"),
    ("TypeError: pay() got an unexpected keyword argument 'sum'", OWN, "Python"),
    ("unknown field json_schema", OWN, "no trouble with JSON"),
    ("invalid value for connector settings", OWN, "no trouble with a connection"),
    ("unknown parameter: timeout", OWN, "no time-out"),
    ("order 429 not found", OWN, "429 is an order"),
    ("invalid_request_error", OWN, "OpenAI, Anthropic"),
    ("The model `gpt-9` does not exist", OWN, "asked for what is not there"),
    ("Method Not Allowed", OWN, "405"),
    ("Unknown tool: pay_twice", OWN, "MCP"),
    # nothing is known of these but that they failed
    ("Internal Server Error", "server_error", "reason of 500"),
    ("InternalServerError", "server_error", "name of an SDK's exception"),
    ("KeyError: 'total'", "server_error", "the tool broke"),
    ("the ledger returned 500 rows and one was off", "server_error", "500 is no status"),
    ("connector settings were not loaded", "server_error", "no trouble with a connection"),
    ("", "server_error", "nothing said"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "why"), TABLE, ids=[text[:60] or "(empty)" for text, _, _ in TABLE])
def test_an_error_text_is_judged_as_an_operator_would(text: str, kind: str | None, why: str) -> None:
    assert failure_of(None, text) == kind, why
    assert TracedCall(tool="pay", latency_s=1, ok=False, error=text).failure == kind


def test_the_table_of_texts() -> None:
    print(f"\n{'kind':13} text, and why")
    for text, kind, why in TABLE:
        print(f"{kind or '(own mistake)':13} {text!r}: {why}")
    assert {kind for _, kind, _ in TABLE} == {*ERRORS, None}, "every kind of failure stands in the table"
    assert len(TABLE) >= 50


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (500, "timed out", "server_error"),  # the status counts
        (404, "Service Unavailable", OWN),
        (429, "insufficient_quota", "quota"),
        (403, "rateLimitExceeded", "rate_limited"),  # as Google's APIs say it
        (200, "JSONDecodeError", "malformed"),
        (418, "", OWN),
        (599, "", "server_error"),
        (500, "forbidden", "forbidden"),  # one of our own words is not a text
    ],
)
def test_a_status_counts_more_than_words(status: int, text: str, kind: str | None) -> None:
    assert failure_of(status, text) == kind


def test_grpcs_codes_are_in_the_order_of_their_numbers() -> None:
    """https://grpc.io/docs/guides/status-codes/"""
    assert (len(GRPC), grpc_name(1), grpc_name(4), grpc_name(14), grpc_name(16)) == (
        16,
        "CANCELLED",
        "DEADLINE_EXCEEDED",
        "UNAVAILABLE",
        "UNAUTHENTICATED",
    )
    assert grpc_name(99) == "UNKNOWN"
