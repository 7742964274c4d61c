"""Asking ``is_throttled`` whether a response is a rejection. Whatever that function does, there is an answer."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable

import anyio
import httpx

from prefect_http._attempt import drop_tracebacks
from prefect_http._httpx_details import ReadyResponse, copy_of
from prefect_http._redact import safe_exception, safe_url, without_credentials
from prefect_http._response import PrefectResponse
from prefect_http._throttle.body_beginning import readable_beginning
from prefect_http._throttle.replayed_body import HTTPX, Library

# The statuses of rejections, unless the user has a function that tells.
THROTTLED = frozenset({429, 503})
# A response extension: how many seconds the gate waits at first if the response is a rejection that does not say for
# how long; twice as long each time that the next request is rejected. Without it, the throttle's own backoff applies.
BACKOFF = "prefect_http.backoff"

_MAX_SECONDS = 10.0
_logger = logging.getLogger("prefect_http.throttle")


async def ask(
    is_throttled: Callable[[httpx.Response], bool | Awaitable[bool]], response: httpx.Response, library: Library
) -> bool:
    """Call ``is_throttled``; if it is async, it may read the beginning of the response meanwhile.

    Returns:
        Its result; False if it raises an Exception, or takes longer than 10 s. Either is logged.

    Cancellation:
        Passed on to ``is_throttled``.
    """
    asked = response
    if library is HTTPX and type(response) in (ReadyResponse, httpx.Response):
        asked = copy_of(response, PrefectResponse)  # a loop over its body may be left early
    try:
        verdict: object = is_throttled(asked)
        if isinstance(verdict, bool) or not inspect.isawaitable(verdict):
            return bool(verdict)
        with anyio.move_on_after(_MAX_SECONDS), readable_beginning(asked, library):
            return bool(await verdict)
    except Exception as error:
        _warn(response, safe_exception(error))
        drop_tracebacks(error)  # the body may hold it, to raise it again
    else:
        _warn(response, f"it took longer than {_MAX_SECONDS:g} s")
    finally:
        response.stream = asked.stream  # what was read of it is read again
    return False


def _warn(response: httpx.Response, reason: str) -> None:
    """Log that ``is_throttled`` failed, in one line and without credentials."""
    request = response.request
    _logger.warning(
        "is_throttled failed for %s %s, so that the response of status %d does not count as a rejection: %s",
        request.method,
        safe_url(request.url),
        response.status_code,
        without_credentials(reason, request),
    )
