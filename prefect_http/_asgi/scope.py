"""The ASGI scope of a request, as a server on a socket would build it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from prefect_http._ports import port_of
from prefect_http._types import Scope


def http_scope(
    request: httpx.Request, *, root_path: str, client: tuple[str, int], state: Mapping[str, Any] | None
) -> Scope:
    """Build the scope of a request.

    Args:
        request: the request.
        root_path: the path that the app is mounted at.
        client: the host and port that the request claims to come from.
        state: the state of the app's lifespan, of which the scope gets a shallow copy; None: no ``state`` at all.

    https://asgi.readthedocs.io/en/latest/specs/www.html#http-connection-scope
    """
    url = request.url
    scope: Scope = {
        "type": "http",
        # 2.3 and not 2.4, which has send() raise after a disconnect. Here it does nothing, as in uvicorn and hypercorn.
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": url.scheme,
        "path": url.path,
        "raw_path": url.raw_path.partition(b"?")[0],
        "query_string": url.query,
        "root_path": root_path,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "client": client,
        "server": (url.host, port_of(url)),
    }
    if state is not None:
        scope["state"] = dict(state)
    return scope
