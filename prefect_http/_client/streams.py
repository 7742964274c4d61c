"""What a client does beyond single requests: events, downloads, many requests at once."""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Unpack

import httpx

import prefect_http
from prefect_http._client.arguments import BodyArguments, RequestArguments
from prefect_http._client.one_shot_body import mark_one_shot_body
from prefect_http._client.options import SendOptions, checked_policy
from prefect_http._client.verbs import VerbsWithRetry
from prefect_http._retry.policy import RetryPolicy
from prefect_http._types import Requests


class ClientWithStreams(VerbsWithRetry):
    """A client with ``sse()``, ``download()`` and ``send_many()``; what they do is in ``_streams``."""

    @functools.cached_property
    def _send_options(self) -> SendOptions:
        return SendOptions(RetryPolicy.from_env())

    def _policy_for(self, retry: object, extensions: Mapping[str, object] | None) -> RetryPolicy:
        """Return the policy for requests with these arguments."""
        if retry is not None:
            return checked_policy(retry, "retry")
        given = (extensions or {}).get("retry")
        return self._send_options.policy if given is None else checked_policy(given, 'extensions["retry"]')

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
        it, another one continues after the last event that had an ID, with the header ``Last-Event-ID``. Before that,
        the client waits for as long as the server's ``retry`` field says; without one, for the policy's backoff, which
        starts over after each event. It gives up when ``max_retries`` reconnections in a row have brought no event;
        with ``max_retries=0``, there is only one connection. The iteration ends when the server responds to a request
        with 204, and, without reconnection, at the end of the response.

        Args:
            method: the method. The requests have ``Accept: text/event-stream`` and ``Cache-Control: no-store``, unless
                ``headers`` has others. A ``Last-Event-ID`` in ``headers`` is where the first connection continues.
            url: the URL.
            reconnect: whether to open another connection when one ends. None: only if the method is GET. True allows a
                POST to be repeated.
            max_event_bytes: the largest size of an event, in bytes and decoded; 1 or more.
            retry: the policy for the requests and for reconnection; None: the client's.
            **request: keywords of the request, as for ``stream()``. Without ``timeout``, there is no read timeout, as
                an event stream may be quiet for long.

        Returns:
            The event stream. Entering it opens the first connection.

        Raises:
            TypeError: ``retry`` is not a RetryPolicy, or ``reconnect`` is neither a bool nor None.
            ValueError: ``max_event_bytes`` is invalid.

        Entering and iterating raise:
            PrefectHTTPStatusError: the response has a bad status, and ``send()`` has given up.
            InvalidResponse: the Content-Type of the response is not ``text/event-stream``.
            ResponseTooLarge: an event is larger than ``max_event_bytes``.
            httpx.RequestError: the last error, if the stream does not reconnect; a note says why. If the server has
                ended the response, it is an httpx.RemoteProtocolError.

        Cancellation:
            Closes the connection.
        """
        from prefect_http._streams.sse import EventStream

        if reconnect is not None and not isinstance(reconnect, bool):
            raise TypeError(f"reconnect must be True, False or None, not {reconnect!r}")
        if not isinstance(max_event_bytes, int) or isinstance(max_event_bytes, bool) or max_event_bytes < 1:
            raise ValueError(f"max_event_bytes must be an integer, 1 or more, not {max_event_bytes!r}")
        return EventStream(
            self,
            method,
            url,
            request,
            policy=self._policy_for(retry, request.get("extensions")),
            max_wait=self._send_options.max_wait,
            telemetry=self._send_options.telemetry,
            reconnect=reconnect,
            max_event_bytes=max_event_bytes,
            is_one_shot=lambda request: mark_one_shot_body(request) is not None,
        )

    async def download(
        self,
        url: httpx.URL | str,
        path: str | os.PathLike[str],
        *,
        progress: Callable[[int, int | None], object] | None = None,
        sha256: str | None = None,
        overwrite: bool = False,
        max_bytes: int | None = None,
        retry: RetryPolicy | None = None,
        **request: Unpack[RequestArguments],
    ) -> prefect_http.Download:
        """Download a file with a GET request. If the download is interrupted, it resumes where it stopped.

        Until the file is complete, its data is in ``path.part``, and ``path.part.json`` records which version of the
        file it belongs to. Both stay if the download fails, is cancelled, or its process is killed. The next download
        of the same URL to the same path then requests only the rest, provided that the server has sent a strong ETag,
        or else a Last-Modified that is a minute older than the response, and still has the same version. Otherwise, it
        starts over.

        If the connection breaks, the client requests the rest at once, as long as there is progress. Without progress,
        it waits for the policy's backoff, and gives up after ``max_retries`` retries in a row. If the file changes
        meanwhile, or the server does not support ranges, the download starts over, at most ``max_retries`` times. Each
        of the requests is also retried like any other.

        Args:
            url: the URL of the file.
            path: where to save it. The folder must exist.
            progress: called with the number of bytes received, and the total, or None until that is known: when a
                response begins, after each chunk, and when the file is complete. What an earlier download has left
                counts as received. It must not be async. An exception that it raises ends the download.
            sha256: the expected SHA-256 of the file, in hexadecimal; None: it is not checked.
            overwrite: whether to replace an existing file. It stays until the new one is complete.
            max_bytes: the largest size of the file, in bytes; 0 or more. None: no limit.
            retry: the policy; None: the client's.
            **request: the other arguments of ``get()``. The request has ``Accept-Encoding: identity``. If the server
                encodes the body nevertheless, it is decoded, and the download cannot be resumed.

        Returns:
            The path of the file, its size, whether the download was resumed, and the last response.

        Raises:
            FileExistsError: the file exists, and ``overwrite`` is False. If it exists from the start, nothing is sent.
            OSError: the file system refuses something: the folder does not exist, the disk is full, there is a device
                at the path, ``path.part`` has been removed or replaced. If that is known beforehand, nothing is sent.
            DownloadError: the file is larger than ``max_bytes``, or than the server announced, or has another digest,
                and nothing of it is left; the download has started over too often; the response is not a file, or
                cannot be decoded; or another download to the same path is running, in this process or another one.
            PrefectHTTPStatusError: the status is bad; see ``send()``.
            httpx.RequestError: the error that ended the last attempt. A note says what is left, as it does for a bad
                status.
            TypeError: ``progress`` is not callable, or is async.
            ValueError: ``sha256`` or ``max_bytes`` is invalid, or the headers ask for a range or an encoding.

        Cancellation:
            Ends the download as soon as what has been received is written to ``path.part``.
        """
        from prefect_http._streams.download import DownloadCall, DownloadOptions

        options = DownloadOptions(progress, sha256, overwrite, max_bytes)
        policy = self._policy_for(retry, request.get("extensions"))
        telemetry = self._send_options.telemetry
        return await DownloadCall(self, url, request, Path(path), options, policy, telemetry).run()

    def send_many(
        self, requests: Requests, *, max_at_once: int = 100, ordered: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[prefect_http.Outcome]]:
        """Send many requests, a limited number at once, and iterate over their outcomes.

        ::

            async with client.send_many(requests) as outcomes:
                async for outcome in outcomes:
                    ...

        Each request goes through ``send()``, with its retries and the client's throttle, and its response is read. If
        one fails, its outcome has the error, and the others continue. Requests are sent from the first iteration on.
        They are taken from the iterable as they are sent, and never more than ``max_at_once`` ahead of the outcomes
        that you have taken. So memory use stays constant, however many there are, and nothing more is sent while you do
        not iterate. Leaving the ``async with`` block cancels the requests that are still in flight, and waits until
        they have ended.

        Args:
            requests: an iterable or an async iterable of httpx.Request, httpx.URL or str. A URL stands for a GET, and
                may be relative to ``base_url``. Anything else becomes an outcome with an error. An iterable that is not
                async runs in the event loop, and must not block it. An async generator runs in a separate task; it is
                closed on leaving the block, and may take up to 5 s for that.
            max_at_once: the largest number of requests in flight plus outcomes that have not been taken yet; 1 or more.
            ordered: False: outcomes come in the order in which the requests complete. True: in the order of the
                requests, so a slow one holds up the others.

        Returns:
            An async context manager, to be entered once. Its value is an async iterator of Outcome, for one task at a
            time, within the block.

        Raises:
            TypeError: ``requests`` cannot be iterated over, or is a single one; or ``max_at_once`` is not an integer.
            ValueError: ``max_at_once`` is less than 1.

        Iterating raises:
            Exception: what the iterable of requests raises, after the outcomes of all earlier requests.
            RuntimeError: two tasks iterate at once, or the block has been left.

        Leaving raises:
            BaseException: what a request or the iterable raised that is not an Exception, such as KeyboardInterrupt. It
                is raised alone, not in a group, and cancels the block.
            Exception: the async generator of requests raised it while it was closed early, or cancelled where it
                waited. If the block has raised an exception, or has been cancelled, that takes precedence.

        Cancellation:
            Cancels all requests. An iteration that is cancelled loses no outcome.
        """
        from prefect_http._streams.send_many import SendMany

        client: Any = self  # its send() returns a PrefectResponse
        return SendMany(client, requests, max_at_once, ordered=ordered)
