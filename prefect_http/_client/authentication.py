"""The authentication of a request: which httpx.Auth applies to it, as httpx decides."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import cast

import httpx


class _FunctionAuth(httpx.Auth):
    """Lets a function change each request."""

    def __init__(self, function: Callable[[httpx.Request], httpx.Request]) -> None:
        self._function = function

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        """Yield the changed request."""
        yield self._function(request)


def authentication(auth: object, default: httpx.Auth | None, url: httpx.URL) -> httpx.Auth | None:
    """Return the auth flow for a request; None: it needs none.

    Args:
        auth: as given to ``send()``.
        default: that of the client.
        url: of the request; if there is no other, its userinfo is used.

    Raises:
        TypeError: ``auth`` is not valid.
    """
    flow = default if auth is httpx.USE_CLIENT_DEFAULT else _as_auth(auth)
    if flow is None and url.userinfo and (url.username or url.password):
        return httpx.BasicAuth(username=url.username, password=url.password)
    return flow


def _as_auth(auth: object) -> httpx.Auth | None:
    if auth is None or isinstance(auth, httpx.Auth):
        return auth
    if isinstance(auth, tuple):
        pair = cast("tuple[str | bytes, str | bytes]", auth)
        return httpx.BasicAuth(username=pair[0], password=pair[1])
    if callable(auth):
        return _FunctionAuth(cast("Callable[[httpx.Request], httpx.Request]", auth))
    # Without the object itself, which may be credentials.
    raise TypeError(f"auth must be a pair of username and password, an httpx.Auth or a function, not a {type(auth)!r}")
