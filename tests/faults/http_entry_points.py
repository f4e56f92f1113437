"""HTTP as an entry point: the calls of a script as requests of an httpx client, whose answers are JSON."""

import asyncio
import json
from typing import Any, ClassVar

import httpx

from worldsim.faults.calls import LOST, Call, Reply
from worldsim.faults.definition import Fault
from worldsim.faults.entry_points import TOOLS, FaultsCall, ObservedCall
from worldsim.faults.http import AsyncFaultTransport, FaultTransport
from worldsim.faults.tools import STATUSES
from worldsim.faults.trees import as_text

_NAMED = {f"POST /{name}": name for name in TOOLS}


class Http(FaultsCall):
    """`FaultTransport`."""

    transports: ClassVar[Any] = FaultTransport

    def _open(self, faults: list[tuple[Fault, int]], session: str) -> None:
        super()._open(faults, session)
        self.transport = self.transports(self.faults, httpx.MockTransport(self._served), templates=_NAMED)

    def _served(self, request: httpx.Request) -> httpx.Response:
        call = Call(request.url.path[1:], json.loads(request.content), self.observed.number)
        content = as_text(self.observed.execute(call).payload)
        return httpx.Response(200, headers={"Content-Type": "application/json"}, content=content)

    def _reply(self, observed: ObservedCall) -> Reply:
        """What the client got; the fields of a failure that no client sees are those of the reply behind it."""
        self.observed, replies = observed, list[Reply]()
        session = self.faults.current
        arrived = session._finish_call

        def observe(*arguments: Any) -> Reply:
            replies.append(arrived(*arguments))
            return replies[-1]

        session._finish_call = observe  # type: ignore[method-assign]
        try:
            response = self._response(observed)
        except (httpx.ReadTimeout, httpx.ReadError, httpx.RemoteProtocolError) as error:
            kind = {httpx.ReadTimeout: "timeout", httpx.ReadError: "connection"}.get(type(error), "malformed")
            assert replies[-1].error == kind, f"{error!r} is what the client sees of {replies[-1]}"
            return replies[-1]
        finally:
            del session._finish_call
        if not replies:  # no fault is aimed at this tool, and the request went by all of them
            return Reply(response.json())
        (reply,) = replies
        if reply.payload is not LOST:
            assert response.status_code == 200
            return reply._replace(payload=response.json())
        if reply.error == "malformed":
            try:
                response.json()
            except ValueError:
                return reply
            raise AssertionError(f"{response.content!r} is JSON, and stands for {reply}")
        assert response.status_code == STATUSES[str(reply.error)]
        assert ("retry-after" in response.headers) == (reply.retry_after_s is not None)
        assert reply.raw is None or response.text == reply.raw
        return reply

    def _response(self, observed: ObservedCall) -> httpx.Response:
        with httpx.Client(transport=self.transport, base_url="http://service", timeout=None) as client:
            return client.post(f"/{observed.scripted.tool}", json=observed.arguments)


class AsyncHttp(Http):
    """`AsyncFaultTransport`."""

    transports = AsyncFaultTransport

    def _response(self, observed: ObservedCall) -> httpx.Response:
        async def run() -> httpx.Response:
            async with httpx.AsyncClient(transport=self.transport, base_url="http://service", timeout=None) as client:
                return await client.post(f"/{observed.scripted.tool}", json=observed.arguments)

        return asyncio.run(run())
