"""Faults between an HTTP client and its service: transports for httpx, on which most SDKs of models and services stand.

    client = httpx.Client(transport=FaultTransport("flaky_vendor", templates=["/orders/{id}"]))

The client is whatever uses it: `OpenAI(http_client=client)`. Requests are calls, of tools named by method and path
template (`GET /orders/{id}`); responses are replies; and what a fault has done looks like what a network or a service
does to a client: an exception of httpx, a status with Retry-After, a body that ends in the middle.
"""

from worldsim.errors import MissingExtraError

try:
    from worldsim.faults.http.transport import AsyncFaultTransport, FaultTransport
except ModuleNotFoundError as error:
    if error.name != "httpx":
        raise
    raise MissingExtraError("faults of HTTP need httpx: pip install 'worldsim[http]'") from error

__all__ = ["AsyncFaultTransport", "FaultTransport"]
