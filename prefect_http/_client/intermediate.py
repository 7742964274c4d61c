"""The bodies of redirects and challenges, which httpx reads whole, and then throws away.

It reads a redirect before it follows it, and a 401 before it sends the request again with credentials. A body of a few
kilobytes may decompress to gigabytes there as well as anywhere else.
"""

from __future__ import annotations

from typing import cast

import httpx

from prefect_http._bounded_body import read_up_to
from prefect_http._error_limits import ERROR_BYTES
from prefect_http._httpx_details import change_class

# A request extension: an event hook or an auth flow may want all of the body of a redirect or a challenge.
_NEEDS_ALL = "prefect_http.needs_all"


class _IntermediateResponse(httpx.Response):
    """A response that is read up to 1 MiB, while httpx has it; more than any redirect or challenge needs.

    If the body cannot be decoded, perhaps because the installed brotli cannot do it in steps, the headers are enough.
    """

    async def aread(self) -> bytes:
        """Read the beginning of the body, and close the response."""
        if self.is_closed or self.is_stream_consumed:
            return await super().aread()
        return await read_up_to(self, ERROR_BYTES)


def mark_if_all_is_needed(request: httpx.Request, client: httpx.AsyncClient, auth: object) -> None:
    """Mark a request of whose redirects and challenges all of the body may be needed.

    Args:
        request: the request.
        client: the client.
        auth: as given to the client's ``send()``.
    """
    flow = client.auth if auth is httpx.USE_CLIENT_DEFAULT else auth
    if client.event_hooks["response"] or getattr(flow, "requires_response_body", False):
        request.extensions = {**request.extensions, _NEEDS_ALL: True}


def bound_body(response: httpx.Response, request: httpx.Request) -> None:
    """Bound what httpx reads of a redirect or a challenge, unless the request is marked."""
    if _NEEDS_ALL not in request.extensions:
        change_class(response, _IntermediateResponse)


def unbound_body(response: httpx.Response) -> None:
    """Undo ``bound_body()``, for the response that httpx has returned: that was neither followed nor answered."""
    if type(response) is _IntermediateResponse:
        cast(httpx.Response, response).__class__ = httpx.Response
