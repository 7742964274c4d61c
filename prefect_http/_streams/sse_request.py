"""The requests of an event stream: one for each connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from prefect_http._fields.request_rules import is_field_value
from prefect_http._httpx_details import lower_names
from prefect_http._redact import without_credentials
from prefect_http._response import PrefectResponse
from prefect_http._retry.policy import RetryPolicy
from prefect_http._streams.repeated_request import RepeatedRequest

_LAST_EVENT_ID = b"Last-Event-ID"
_MAX_QUOTED = 100
_DEFAULTS = ((b"Accept", b"text/event-stream"), (b"Cache-Control", b"no-store"))


class EventRequests:
    """Makes and sends the requests of an event stream, which are alike but for the last event ID.

    Without a ``timeout`` of the caller's, they have no read timeout: an event stream may be quiet for any time.

    Args:
        client: the client.
        method: of the requests.
        url: of the requests.
        arguments: keywords of the client's ``stream()``.

    Attributes:
        last_event_id: the one that the caller has given as a header; "" if there is none.
    """

    def __init__(
        self, client: httpx.AsyncClient, method: str, url: httpx.URL | str, arguments: Mapping[str, Any]
    ) -> None:
        if "timeout" not in arguments and "timeout" not in (arguments.get("extensions") or {}):
            timeout = client.timeout
            quiet = httpx.Timeout(connect=timeout.connect, read=None, write=timeout.write, pool=timeout.pool)
            arguments = {**arguments, "timeout": quiet}
        self._requests = RepeatedRequest(client, method, url, arguments)
        given = self._requests.headers
        names = lower_names(given)
        # As bytes: an httpx.Headers may encode text as ASCII.
        self._headers = [pair for pair in given.raw if pair[0].lower() != _LAST_EVENT_ID.lower()]
        self._headers += [pair for pair in _DEFAULTS if pair[0].lower() not in names]
        ids = [value for name, value in given.raw if name.lower() == _LAST_EVENT_ID.lower()]
        self.last_event_id = ids[-1].decode("utf-8", "replace") if ids else ""

    def build(self, last_event_id: str, policy: RetryPolicy) -> httpx.Request:
        """Build a request.

        Args:
            last_event_id: the last event ID in force; "": none.
            policy: how the request is retried.

        Raises:
            httpx.LocalProtocolError: the ID is one of the server's, and cannot be sent back.
        """
        # No header has whitespace at its ends.
        value = last_event_id.strip(" \t").encode()
        if last_event_id != self.last_event_id and not is_field_value(value):
            request = self._requests.build(self._headers, policy)
            shown = without_credentials(last_event_id, request)[:_MAX_QUOTED]
            raise httpx.LocalProtocolError(
                f"the server's event ID {shown!r} has a control character, "
                "so it cannot be sent back as Last-Event-ID to continue the stream",
                request=request,
            )
        headers = [*self._headers, (_LAST_EVENT_ID, value)] if last_event_id else self._headers
        return self._requests.build(headers, policy)

    async def send(self, request: httpx.Request) -> PrefectResponse:
        """Send a request through the client, and return the response, open at the start of its body."""
        return await self._requests.send(request)
