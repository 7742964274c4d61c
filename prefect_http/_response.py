"""PrefectResponse: a response whose error tells what went wrong."""

from __future__ import annotations

import codecs
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Self, cast

import httpx

from prefect_http._attempt import Attempt
from prefect_http._errors import PrefectHTTPStatusError
from prefect_http._fields.rate_limit import RateLimit
from prefect_http._fields.rate_limit_parser import parse_rate_limit
from prefect_http._fields.retry_after import parse_retry_after
from prefect_http._httpx_details import ReadyResponse
from prefect_http._redact import one_line, safe_url, without_credentials

# A response extension: a throttle takes the response for a rejection, whatever its status.
REJECTED = "prefect_http.rejected"

_MAX_DETAIL = 500
# https://docs.python.org/3/library/codecs.html#text-encodings: for programs, and not for what comes over the web.
_PYTHONS_OWN = frozenset(
    {"idna", "mbcs", "oem", "palmos", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"}
)


class PrefectResponse(httpx.Response):
    """An httpx.Response whose ``raise_for_status()`` raises PrefectHTTPStatusError."""

    def raise_for_status(self) -> Self:
        """Return the response if its status is 2xx or 101.

        Raises:
            PrefectHTTPStatusError: any other status. The body shows in the message if it has been read.
            RuntimeError: the response has no request, as in httpx.
        """
        if is_success(self):
            return self
        raise status_error(self)

    @property
    def rate_limit(self) -> RateLimit | None:
        """What the response's headers say of the server's limit; None if they say nothing, or nothing sensible.

        ``RateLimit`` and ``RateLimit-Policy``, in the forms of all drafts, and ``X-RateLimit-*``.
        https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
        """
        return rate_limit(self)

    @classmethod
    def from_httpx_response(cls, response: httpx.Response) -> Self:
        """Give a response of this class that shares the other's stream, and leave the other as it is.

        The new response may be read in place of the old one, whole or streamed; reading and closing reach the
        old one, too. A response of this class already is given back as it is.
        """
        if isinstance(response, cls):
            return response
        new = cls.__new__(cls)
        # Not copy.copy(): it goes the way of pickling, which loses the stream and the extensions.
        new.__dict__.update(response.__dict__)
        new.headers = response.headers.copy()
        new.extensions = dict(response.extensions)
        new.history = list(response.history)
        new.stream = shared = _SharedStream(response, new)
        shared.copy_elapsed()
        return new


class _SharedStream(httpx.AsyncByteStream, httpx.SyncByteStream):
    """The stream of a response, read through a second one. The first keeps the accounts that httpx sets up."""

    def __init__(self, first: httpx.Response, second: httpx.Response) -> None:
        self._first = first
        self._second = second

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._first.aiter_raw():
            yield chunk

    async def aclose(self) -> None:
        await self._first.aclose()
        self.copy_elapsed()

    def __iter__(self) -> Iterator[bytes]:
        yield from self._first.iter_raw()

    def close(self) -> None:
        self._first.close()
        self.copy_elapsed()

    def copy_elapsed(self) -> None:
        """Take over the elapsed time, once there is one; httpx keeps it on the response, httpx2 on the stream."""
        with contextlib.suppress(RuntimeError):  # a response that no client has sent has none
            self._second.elapsed = self._first.elapsed


def is_success(response: httpx.Response) -> bool:
    """Say whether the status is 2xx, or 101, which hands over its stream."""
    return 200 <= response.status_code < 300 or response.status_code == 101


def as_prefect_response(response: httpx.Response) -> PrefectResponse:
    """Make a PrefectResponse of a response that is ours to change; in place, where its class is none of others."""
    if type(response) in (httpx.Response, ReadyResponse):
        response.__class__ = PrefectResponse
        response.__dict__.pop("_body", None)  # of a ReadyResponse that is read as a stream
    return response if isinstance(response, PrefectResponse) else PrefectResponse.from_httpx_response(response)


def status_error(response: httpx.Response, attempts: tuple[Attempt, ...] = ()) -> PrefectHTTPStatusError:
    """Make the error for a response with a bad status."""
    return PrefectHTTPStatusError(
        _message(response),
        request=response.request,
        response=response,
        attempts=attempts,
        retry_after=retry_after(response),
    )


def retry_after(response: httpx.Response) -> float | None:
    """Say how many seconds the response asks to wait; None if it does not say or is malformed."""
    headers = response.headers
    return parse_retry_after(headers.get("Retry-After"), date=headers.get("Date"), now=time.time())


def rate_limit(response: httpx.Response) -> RateLimit | None:
    """Say what the response tells of the server's limit."""
    for name, _ in response.headers.raw:
        if b"rate" in name.lower():  # most responses tell nothing, and this many ask
            break
    else:
        return None
    return parse_rate_limit(response.headers, date=response.headers.get("Date"), now=time.time())


def _message(response: httpx.Response) -> str:
    request, redirect = response.request, response.next_request
    status = f"{response.status_code} {response.reason_phrase}".rstrip()
    detail = _detail(response) if redirect is None else f"it redirects to {safe_url(redirect.url)}"
    detail = one_line(without_credentials(detail, request), limit=_MAX_DETAIL)
    return one_line(f"{status} for {request.method} ", limit=200) + f" {safe_url(request.url)}{detail and ': '}{detail}"


def _detail(response: httpx.Response) -> str:
    """Give the ``detail`` of a JSON body or the start of the text; nothing if the body has not been read."""
    try:
        content = response.content
    except httpx.ResponseNotRead:
        return ""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):  # not JSON, or nested deeper than Python goes
        body = None
    detail = cast("dict[str, object]", body).get("detail") if isinstance(body, dict) else None
    if detail:
        return detail if isinstance(detail, str) else json.dumps(detail)
    # Not response.text: it fails on a charset that is no text encoding, and the server names the charset.
    beginning = content[: 8 * _MAX_DETAIL]
    try:
        charset = codecs.lookup(response.charset_encoding or "utf-8").name
        return beginning.decode("ascii" if charset in _PYTHONS_OWN else charset, errors="replace")
    except Exception:  # Python's codecs fail in many ways
        return beginning.decode("ascii", errors="replace")
