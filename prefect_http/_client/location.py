"""A redirect whose Location is not a valid URL is an InvalidResponse, whatever the transport.

httpx raises whatever it meets on the way to the next request: a RemoteProtocolError, an InvalidURL, a UnicodeError; or
it lets the transport find out that there is no such port.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import httpx

from prefect_http._client.intermediate import bound_body
from prefect_http._errors import InvalidResponse
from prefect_http._ports import MAX_PORT


class LocationCheck(httpx.AsyncBaseTransport):
    """Checks the Location of redirects, and bounds what httpx reads of redirects and challenges.

    Args:
        transport: sends the requests. It is entered and closed with this one.

    Requests raise:
        InvalidResponse: the Location is not a valid URL.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and check the Location of its response if that is a redirect."""
        response = await self._transport.handle_async_request(request)
        if not 300 <= response.status_code <= 401:
            return response
        is_redirect = response.has_redirect_location
        if is_redirect:
            location = response.headers["Location"]
            problem = problem_of(location, request.url)
            if problem is not None:
                await response.aclose()
                # Credentials of the URL may be in what is said about it.
                reason = "" if "@" in location else f": {problem}"
                raise InvalidResponse(f"the Location of the {response.status_code} is not a valid URL{reason}")
        if is_redirect or response.status_code == 401:
            bound_body(response, request)
        return response

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        tb: TracebackType | None = None,
    ) -> None:
        await self._transport.__aexit__(exc_type, exc, tb)

    async def aclose(self) -> None:
        """Close the other transport."""
        await self._transport.aclose()


def problem_of(location: str, base: httpx.URL) -> str | None:
    """Return why httpx cannot make a request of a Location; None if it can."""
    try:
        url = httpx.URL(location)
        if not url.host and url.scheme:
            url.copy_with(host=base.host)  # as httpx does
    except (httpx.InvalidURL, UnicodeError) as error:
        return str(error)
    if url.port is not None and not 0 <= url.port <= MAX_PORT:
        return f"there is no port {url.port}"
    return None
