"""The apps that are called: each as small as it can be, so that the client's share shows most."""

from __future__ import annotations

from prefect_http._asgi_types import Receive, Scope, Send


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """Start and stop without any hooks."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
