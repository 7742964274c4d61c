"""The ASGI scope of a request, as a server on a socket would build it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import httpx

from prefect_http._fields.request_rules import check_headers, check_method
from prefect_http._ports import port_of
from prefect_http._types import Scope


class RequestHead(NamedTuple):
    """What an app gets of a request's headers, and what they say about the body.

    Attributes:
        headers: names in lower case, and values.
        content_length: the length of the body in bytes; None: they do not say.
    """

    headers: tuple[tuple[bytes, bytes], ...]
    content_length: int | None


def read_head(method: str, headers: tuple[tuple[bytes, bytes], ...]) -> RequestHead:
    """Check a request's method and headers as if it were sent over a network, and read them.

    What a network needs besides, a Host and the length of a body, may be missing, as with httpx.ASGITransport.

    Raises:
        httpx.LocalProtocolError: one of them could not be sent.
    """
    check_method(method)
    checked = check_headers(headers)
    return RequestHead(tuple((name.lower(), value) for name, value in checked.headers), checked.content_length)


def http_scope(
    request: httpx.Request,
    headers: Iterable[tuple[bytes, bytes]],
    *,
    root_path: str,
    client: tuple[str, int],
    state: Mapping[str, Any] | None,
) -> Scope:
    """Build the scope of a request.

    Args:
        request: the request.
        headers: its headers, with names in lower case.
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
        "headers": list(headers),
        "client": client,
        "server": (url.host, port_of(url)),
    }
    if state is not None:
        scope["state"] = dict(state)
    return scope
