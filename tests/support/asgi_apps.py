"""ASGI apps for requests: one that does as a test says and writes down how it ended, and what tests send with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx
import pytest

from prefect_http import ASGITransport, PrefectHttpxClient, RetryPolicy
from prefect_http._types import ASGIApp, Message, Receive, Scope, Send

ONCE = RetryPolicy(max_retries=0)


class Boom(Exception):
    """What an app raises."""


@dataclass(eq=False)
class FakeApp:
    """An app that answers each request with a handler.

    Attributes:
        handler: what answers a request.
        log: how each call ended: "returned", "cancelled" or "raised"; "startup" and "shutdown"; and what handlers add.
        scopes: the scopes of the requests.
        running: how many calls have not ended.
        state: what the startup puts into the state of the lifespan.
    """

    handler: ASGIApp
    log: list[str] = field(default_factory=list[str])
    scopes: list[Scope] = field(default_factory=list[Scope])
    running: int = 0
    state: dict[str, Any] = field(default_factory=dict[str, Any])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or run the lifespan."""
        if scope["type"] == "lifespan":
            await self._run_lifespan(scope, receive, send)
            return
        self.scopes.append(scope)
        self.running += 1
        try:
            await self.handler(scope, receive, send)
        except anyio.get_cancelled_exc_class():
            self.log.append("cancelled")
            raise
        except BaseException:
            self.log.append("raised")
            raise
        else:
            self.log.append("returned")
        finally:
            self.running -= 1

    async def _run_lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        scope["state"].update(self.state)
        self.log.append("startup")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.log.append("shutdown")
        await send({"type": "lifespan.shutdown.complete"})


def start(status: int = 200, headers: Sequence[tuple[bytes, bytes]] = ()) -> Message:
    """Return the message that starts a response."""
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def part(body: bytes) -> Message:
    """Return a message with a part of a body that is not the last."""
    return {"type": "http.response.body", "body": body, "more_body": True}


def last(body: bytes = b"") -> Message:
    """Return the message that ends a response."""
    return {"type": "http.response.body", "body": body}


def sending(*messages: Message) -> ASGIApp:
    """Return a handler that sends these messages."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return handler


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a greeting."""
    await send(start())
    await send(last(b"hello"))


async def hang(scope: Scope, receive: Receive, send: Send) -> None:
    """Receive the request, and never answer."""
    await receive()
    await anyio.sleep_forever()


async def listen(scope: Scope, receive: Receive, send: Send) -> None:
    """Receive until the disconnect."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def endless(scope: Scope, receive: Receive, send: Send) -> None:
    """Send a tick each second, forever."""
    await send(start())
    while True:
        await send(part(b"tick"))
        await anyio.sleep(1)


def plain_client(app: ASGIApp, **transport_arguments: Any) -> httpx.AsyncClient:
    """Return a client of httpx's on ASGITransport, without timeouts: each request runs the app in a root task."""
    return httpx.AsyncClient(
        transport=ASGITransport(app, **transport_arguments), base_url="http://app", timeout=None, trust_env=False
    )


def app_client(app: ASGIApp, retry: RetryPolicy = ONCE, **arguments: Any) -> PrefectHttpxClient:
    """Return our own client of an app, without retries and timeouts: get() and post() run the app in their own task."""
    return PrefectHttpxClient(app=app, retry=retry, base_url="http://app", timeout=None, trust_env=False, **arguments)


MakeClient = Callable[[ASGIApp], httpx.AsyncClient]
"""plain_client or app_client."""

both_clients = pytest.mark.parametrize("make_client", [plain_client, app_client])


async def wait_until(condition: Callable[[], object]) -> None:
    """Let other tasks run until a condition holds."""
    with anyio.fail_after(5):
        while not condition():  # noqa: ASYNC110  # there is no event to wait for
            await anyio.sleep(0.001)


async def read(response: httpx.Response) -> list[bytes]:
    """Read the chunks of a response to the end."""
    return [chunk async for chunk in response.aiter_raw()]
