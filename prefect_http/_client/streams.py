"""What a client does beyond single requests: events, downloads, many requests at once."""

from __future__ import annotations

import functools
from typing import Unpack

import httpx

import prefect_http
from prefect_http._client.arguments import BodyArguments
from prefect_http._client.one_shot_body import mark_one_shot_body
from prefect_http._client.options import SendOptions, checked_policy
from prefect_http._client.verbs import VerbsWithRetry
from prefect_http._retry.policy import RetryPolicy


class ClientWithStreams(VerbsWithRetry):
    """A client with ``sse()``, ``download()`` and ``send_many()``; what they do is in ``_streams``."""

    @functools.cached_property
    def _send_options(self) -> SendOptions:
        return SendOptions(RetryPolicy.from_env())

    def sse(
        self,
        method: str,
        url: httpx.URL | str,
        *,
        reconnect: bool | None = None,
        max_event_bytes: int = 1 << 20,
        retry: RetryPolicy | None = None,
        **request: Unpack[BodyArguments],
    ) -> prefect_http.EventStream:
        """Receive server-sent events, over as many connections as it takes.

        Used as ``async with client.sse("GET", url) as events:``, and then ``async for event in events:``. Each
        connection is one ``send()``, which is retried as the policy says. When a connection breaks or the server ends
        it, another one is made behind the last event that had an ID, by the header ``Last-Event-ID``. Before that, the
        client waits for as long as the server's ``retry`` field says; without one, for the policy's backoff, which
        starts anew with each event. If connections end ``max_retries`` times in a row and one more, without any event,
        it gives up; with ``max_retries=0``, there is one connection only. The iteration ends when the server responds
        to a request with 204, and, without reconnection, at the end of the response.

        Args:
            method: the method. The requests have ``Accept: text/event-stream`` and ``Cache-Control: no-store``, unless
                ``headers`` has others. A ``Last-Event-ID`` in ``headers`` is where the first connection begins.
            url: the URL.
            reconnect: whether to make another connection when one ends. None: if the method is GET. True allows a POST
                to be repeated.
            max_event_bytes: the largest size of an event, in bytes and decoded; 1 or more.
            retry: the policy for the requests and for reconnection; None: the client's.
            **request: keywords of the request, as for ``stream()``. Without ``timeout``, there is no read timeout, as
                an event stream may be quiet for long.

        Returns:
            The events, to be entered. That makes the first connection.

        Raises:
            TypeError: ``retry`` is not a RetryPolicy.
            ValueError: ``max_event_bytes`` is invalid.

        Entering and iterating raise:
            PrefectHTTPStatusError: the response has a bad status, and ``send()`` has given up.
            InvalidResponse: the Content-Type of the response is not ``text/event-stream``.
            ResponseTooLarge: an event is larger than ``max_event_bytes``.
            httpx.RequestError: what came last, if there is no other connection; a note says why there is none. If the
                server has ended the response, it is an httpx.RemoteProtocolError.

        Cancellation:
            Closes the connection.
        """
        from prefect_http._streams.sse import EventStream

        if not isinstance(max_event_bytes, int) or isinstance(max_event_bytes, bool) or max_event_bytes < 1:
            raise ValueError(f"max_event_bytes must be an integer, 1 or more, not {max_event_bytes!r}")
        options, policy = self._send_options, retry
        if policy is None:
            given = (request.get("extensions") or {}).get("retry")
            policy = options.policy if given is None else checked_policy(given, 'extensions["retry"]')
        return EventStream(
            self,
            method,
            url,
            request,
            policy=checked_policy(policy, "retry"),
            max_wait=options.max_wait,
            reconnect=reconnect,
            max_event_bytes=max_event_bytes,
            is_one_shot=lambda request: mark_one_shot_body(request) is not None,
        )
