"""Transports for httpx that put a plan of faults between a client and what it calls."""

from typing import Any

import httpx

from worldsim.faults.calls import Call, Reply
from worldsim.faults.http.bodies import library_of
from worldsim.faults.http.exchange import FaultTransportBase, HTTPExchange
from worldsim.faults.pipeline import ForwardContext


class FaultTransport(FaultTransportBase, httpx.BaseTransport):
    """Puts faults between an httpx client and its service: `httpx.Client(transport=FaultTransport(faults))`.

    A request is a call of the tool `GET /orders/{id}`: its method, and the template that its path matches. What a fault
    has done looks to the client like what a network or a service does: an exception of httpx, a status with
    Retry-After, a body that ends in the middle. A response that no fault touches is passed on as it comes, and one of
    an error status is an answer like any other. A client's read timeout is a ceiling for what faults hold up.

    Clients of httpx2 are served as well, with its exceptions.

    Args:
        faults: `Faults`, or whatever stands for a plan.
        transport: what carries requests out; by default the network.
        templates: paths with parameters, `/orders/{id}` or `GET /orders/{id}`, or a mapping of them to names of tools.
            Where none matches, numbers, UUIDs and hashes in the path are `{id}`.
        session: the name of a header that names the session of a request, or a function of requests that does. By
            default, and where the header is missing, it is the current one of `faults`.

    Raises ConfigError for a template that is none.
    """

    def handle_request(self, request: Any) -> Any:
        inner, route = self._transport(request), self.match_route(request)
        if route is None:
            return inner.handle_request(request)
        exchange = HTTPExchange(self, request, route)
        if self.is_targeted(route.tool):
            request.read()

        def execute(call: Call, context: ForwardContext) -> Reply:
            for each in exchange.superseded():
                each.response.close()
            upstream = exchange.receive(inner.handle_request(exchange.outgoing_request(call, context)))
            if exchange.needs_body(call, context, upstream):
                read = [*upstream.response.stream]
                upstream.response.close()
                exchange.set_body(upstream, read)
            return Reply(upstream.payload)

        try:
            reply, records = exchange.session.call_with_records(
                exchange.tool, exchange.arguments(), execute, exchange.timeout_s
            )
            return exchange.response(reply, records)
        finally:
            for each in exchange.unread():
                each.response.close()

    def _transport(self, request: Any) -> Any:
        if self._inner is None:
            self._inner = library_of(request).HTTPTransport()
        return self._inner

    def close(self) -> None:
        if self._inner is not None:
            self._inner.close()


class AsyncFaultTransport(FaultTransportBase, httpx.AsyncBaseTransport):
    """`FaultTransport` for `httpx.AsyncClient`, under asyncio."""

    async def handle_async_request(self, request: Any) -> Any:
        inner, route = self._transport(request), self.match_route(request)
        if route is None:
            return await inner.handle_async_request(request)
        exchange = HTTPExchange(self, request, route)
        if self.is_targeted(route.tool):
            await request.aread()

        async def execute(call: Call, context: ForwardContext) -> Reply:
            for each in exchange.superseded():
                await each.response.aclose()
            upstream = exchange.receive(await inner.handle_async_request(exchange.outgoing_request(call, context)))
            if exchange.needs_body(call, context, upstream):
                read = [chunk async for chunk in upstream.response.stream]
                await upstream.response.aclose()
                exchange.set_body(upstream, read)
            return Reply(upstream.payload)

        try:
            reply, records = await exchange.session.acall_with_records(
                exchange.tool, exchange.arguments(), execute, exchange.timeout_s
            )
            return exchange.response(reply, records)
        finally:
            for each in exchange.unread():
                await each.response.aclose()

    def _transport(self, request: Any) -> Any:
        if self._inner is None:
            self._inner = library_of(request).AsyncHTTPTransport()
        return self._inner

    async def aclose(self) -> None:
        if self._inner is not None:
            await self._inner.aclose()
