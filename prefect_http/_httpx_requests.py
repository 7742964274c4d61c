"""Telling httpx's requests from those of httpx2, of which a client or a transport may be given the wrong one."""

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
    library = library_of(request)
    remedy = f"; an httpx2.AsyncClient takes prefect_http.httpx2.{name}" if library == "httpx2" else ""
    raise TypeError(f"prefect_http.{name} takes requests of {httpx.__name__}, not of {library}{remedy}")


def check_client_request(request: object) -> None:
    """Check that a request which was given to a client comes from the client's library.

    Raises:
        TypeError: it does not.
    """
    if not isinstance(request, httpx.Request):
        raise TypeError(
            f"the client takes requests of {httpx.__name__}, not of {library_of(request)}; "
            "create them with client.build_request()"
        )


def library_of(request: object) -> str:
    """Return the name of the library that a request, or something else, comes from."""
    return type(request).__module__.partition(".")[0]
