"""Telling httpx's requests from those of httpx2, whose client may have been given the wrong transport."""

from __future__ import annotations

import httpx


def check_request(request: object, name: str) -> None:
    """Check that a request comes from the library that the transport is for.

    Args:
        request: the request.
        name: the public name of the transport, also of one that is a subclass.

    Raises:
        TypeError: it does not. The message names the transport to use.
    """
    if isinstance(request, httpx.Request):
        return
    library = type(request).__module__.partition(".")[0]
    remedy = f"; an httpx2.AsyncClient takes prefect_http.httpx2.{name}" if library == "httpx2" else ""
    raise TypeError(f"prefect_http.{name} takes requests of {httpx.__name__}, not of {library}{remedy}")
