"""One request and its response: the event hooks, the transport, the cookies, and httpx's log line."""

from __future__ import annotations

import logging
import time

import httpx

from prefect_http._client.error_body import close
from prefect_http._client.options import SendOptions
from prefect_http._client.routes import Routes
from prefect_http._httpx_details import header_names
from prefect_http._httpx_requests import check_client_request
from prefect_http._redact import safe_url, without_credentials
from prefect_http._response import PrefectResponse, take_over

# A part of httpx's behaviour that it documents, here without credentials: https://www.python-httpx.org/logging/
_logger = logging.getLogger(httpx.__name__)


async def exchange(
    client: httpx.AsyncClient, routes: Routes[httpx.AsyncBaseTransport], options: SendOptions, request: httpx.Request
) -> PrefectResponse:
    """Send a request, and return its response, with the body still to be read.

    Args:
        client: has the hooks and the cookies.
        routes: lead to the transports.
        options: those of the client.
        request: the request.

    Raises:
        httpx.RequestError: there is no response; the error has the request.
        RuntimeError: its body can only be sent by a sync client.
        TypeError: it is a request of another library, such as httpx2.
        Exception: what a hook, or the policy of the client's cookies, raises. The response is closed.
    """
    hooks = client.event_hooks
    for hook in hooks["request"]:
        await hook(request)
    if not isinstance(request.stream, httpx.AsyncByteStream):
        check_client_request(request)
        error = RuntimeError("Attempted to send a sync request with an AsyncClient instance.")
        error.add_note(
            "The request body is a sync iterable. "
            "Pass bytes, an async iterable, or a file that was opened with anyio.open_file() or trio.open_file()."
        )
        raise error
    transport = routes.find(request.url)
    sent_at = time.perf_counter()
    try:
        answer = await transport.handle_async_request(request)
    except httpx.RequestError as error:
        error.request = request
        raise
    if not isinstance(answer.stream, httpx.AsyncByteStream):
        raise AssertionError  # as httpx does: pytest would add a text to an assert statement
    response = take_over(answer, request, sent_at, options.max_response_bytes)
    try:
        _take_cookies(client, response)
        response.default_encoding = options.default_encoding
        if _logger.isEnabledFor(logging.INFO):
            _logger.info(
                'HTTP Request: %s %s "%s %d %s"',
                request.method,
                safe_url(request.url),
                response.http_version,
                response.status_code,
                without_credentials(response.reason_phrase, request),
            )
        for hook in hooks["response"]:
            await hook(response)
    except BaseException:
        await close(response)
        raise
    return response


def _take_cookies(client: httpx.AsyncClient, response: PrefectResponse) -> None:
    # httpx converts the request and all headers of every response for the standard library to find no cookie: 27 us.
    names = header_names(response)
    if b"set-cookie" in names or b"set-cookie2" in names:
        client.cookies.extract_cookies(response)
