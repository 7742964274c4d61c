"""EventStream: the events of a server, over as many connections as it takes.

An `EventRequests` makes the requests, an `EventConnection` is the body of one response, and an `EventParser` finds the
events in it. Here is what happens in between: what becomes of a connection that ends.

    an event          the connection may break once more, as often as ``max_retries`` allows
    the end, a break  a wait, and another connection, or an error; without reconnection, the end of the iteration
    204               the end of the iteration
    any other error   is raised
"""

from __future__ import annotations

import dataclasses
import logging
import math
import random
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import anyio
import httpx

from prefect_http._attempt import format_seconds
from prefect_http._concurrency.backend import CancelScope, Event, checkpoint, new_cancel_scope, new_event, wait_shielded
from prefect_http._errors import ResponseTooLarge
from prefect_http._foreign_errors import is_foreign
from prefect_http._redact import safe_exception, safe_url
from prefect_http._response import PrefectResponse
from prefect_http._retry.decision import FailedAttempt, GiveUp, Retry, classify, decide
from prefect_http._retry.policy import RetryPolicy
from prefect_http._streams.sse_connection import EventConnection
from prefect_http._streams.sse_parser import EventParser, ServerSentEvent
from prefect_http._streams.sse_request import EventRequests
from prefect_http._telemetry import Telemetry, call_safely

_NO_CONTENT = 204
_LEAVE_SECONDS = 10.0

_logger = logging.getLogger("prefect_http")


class EventStream:
    """An event stream: an async context manager, and within it an async iterator. Created by ``client.sse()``.

    Entering opens the first connection, so a bad status or a wrong content type raises an error there. Leaving closes
    the connection, even in the middle of the iteration. Only one task at a time can wait for the next event.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        method: str,
        url: httpx.URL | str,
        arguments: Mapping[str, Any],
        *,
        policy: RetryPolicy,
        max_wait: float | None,
        telemetry: Telemetry | None,
        reconnect: bool | None,
        max_event_bytes: int,
        is_one_shot: Callable[[httpx.Request], bool],
    ) -> None:
        self._client = client
        self._requests = EventRequests(client, method, url, arguments)
        self._policy = policy
        # Letting a stream reconnect means that its request may be repeated, whatever the method.
        self._policy_afterwards = dataclasses.replace(policy, retry_non_idempotent=True)
        self._max_wait = max_wait
        self._telemetry = telemetry
        self._reconnects = policy.max_retries > 0 and (method.upper() == "GET" if reconnect is None else reconnect)
        self._is_one_shot = is_one_shot
        self._parser = EventParser(max_event_bytes, self._requests.last_event_id)
        self._events: Iterator[ServerSentEvent] = iter(())  # those that have arrived
        self._response: PrefectResponse | None = None
        self._connection: EventConnection | None = None
        self._body_is_spent = False
        self._breaks = 0  # in a row, without an event
        self._resume_at = -math.inf  # when to reconnect, on the event loop's clock
        self._is_entered = self._has_ended = self._is_left = False
        self._reader: CancelScope | None = None  # around the wait for an event
        self._reader_left: Event | None = None

    @property
    def response(self) -> PrefectResponse:
        """The response of the current connection, or of the last one. Its body cannot be read."""
        if self._response is None:
            raise RuntimeError("there is no response yet: use `async with client.sse(...) as events`")
        return self._response

    @property
    def last_event_id(self) -> str:
        """The last event ID, after which a new connection continues. "" at first."""
        return self._parser.last_event_id

    async def __aenter__(self) -> Self:
        if self._is_entered:
            raise RuntimeError("an event stream can be entered only once: call sse() again")
        self._is_entered = True
        await self._connect(self._policy)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._is_left = True
        try:
            if self._reader is not None:
                self._reader_left = new_event()
                self._reader.cancel()
                await wait_shielded(self._reader_left, anyio.current_time() + _LEAVE_SECONDS)
        finally:
            await self._disconnect()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ServerSentEvent:
        """Wait for the next event.

        Raises:
            httpx.RequestError: the connection broke and the stream does not reconnect, or ``send()`` failed; a note
                says why.
            PrefectHTTPStatusError: a new connection was refused.
            RuntimeError: the stream has not been entered, or has been left; or another task is waiting.

        Cancellation:
            Loses no event that has arrived. If no event has arrived yet, the connection is closed, and the next call
            opens another one, if the stream reconnects.
        """
        self._check_usable()
        while True:
            await checkpoint()
            event = await self._take()
            if event is None:
                await self._wait()
                event = await self._take()
            if event is not None:
                self._breaks = 0
                return event

    def _check_usable(self) -> None:
        if not self._is_entered:
            raise RuntimeError("an event stream must be entered: use `async with client.sse(...) as events`")
        if self._is_left:
            raise RuntimeError("the event stream has been left")
        if self._reader is not None:
            raise RuntimeError("another task is already waiting for the next event of this stream")

    async def _wait(self) -> None:
        """Receive, or connect again, until another task leaves the stream."""
        self._check_usable()
        self._reader = scope = new_cancel_scope()
        try:
            with scope:
                if self._connection is not None:
                    await self._receive(self._connection)
                else:
                    await self._reconnect()
                return
        finally:
            self._reader = None
            if self._reader_left is not None:
                self._reader_left.set()
        raise RuntimeError("the event stream was left while a task was waiting for its next event")

    async def _take(self) -> ServerSentEvent | None:
        """Return the next event that has arrived; None if there is none."""
        try:
            return next(self._events, None)
        except ResponseTooLarge as error:
            error.request = self.response.request
            self._has_ended = True
            await self._disconnect()
            raise

    # --- Connections

    async def _connect(self, policy: RetryPolicy) -> None:
        """Make a connection, or note that the server has ended the stream."""
        try:
            request = self._requests.build(self.last_event_id, policy)
            self._body_is_spent = self._is_one_shot(request)
            self._response = response = await self._requests.send(request)
            connection = EventConnection(response)
            # Leaving may have given up on a task that does not react to its cancellation, and will not close this.
            if response.status_code == _NO_CONTENT or self._is_left:
                self._has_ended = True
                await connection.aclose()
            else:
                await connection.check()
                self._parser.start()
                self._connection = connection
        except Exception:
            self._has_ended = True
            raise

    async def _reconnect(self) -> None:
        if self._has_ended:
            raise StopAsyncIteration
        if not self._reconnects or self._body_is_spent:
            raise RuntimeError("the event stream does not reconnect, and a cancelled wait has closed its connection")
        await anyio.sleep_until(self._resume_at)
        await self._connect(self._policy_afterwards)

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()

    async def _receive(self, connection: EventConnection) -> None:
        """Receive what comes next: a piece of the body, its end, or an error."""
        try:
            piece = await connection.receive()
        except BaseException as error:
            self._connection = None  # it has been closed
            if not isinstance(error, Exception):
                raise
            if not isinstance(error, httpx.RequestError) or is_foreign(error, self.response.request):
                self._has_ended = True
                raise
            if not await self._may_reconnect(error):
                raise
            return
        if piece is not None:
            self._events = self._parser.feed(piece)
            return
        await self._disconnect()
        ended = httpx.RemoteProtocolError("the server has ended the event stream", request=self.response.request)
        if not await self._may_reconnect(ended) and self._reconnects:
            try:
                raise ended
            finally:
                del ended  # or it would hold the frame that holds it

    # --- Reconnection

    async def _may_reconnect(self, error: httpx.RequestError) -> bool:
        """Decide whether a connection that has ended is followed by another one, and when.

        Args:
            error: how it ended. If there is no other one, a note on it says why.
        """
        if not self._reconnects:
            self._has_ended = True
            return False
        self._breaks += 1
        # A cancellation that is due comes first. The next connection is then made at once, as after any cancelled wait.
        await checkpoint()
        now, retry = anyio.current_time(), self._parser.retry
        facts = FailedAttempt(
            retry=self._breaks,
            failure=classify(error),
            label=type(error).__name__,
            retry_after=None if retry is None else retry / 1000,
            retry_after_name="retry field",
            max_wait=self._max_wait,
            body_is_spent=self._body_is_spent,
            client_is_closed=self._client.is_closed,
            deadline_left=anyio.current_effective_deadline() - now,
        )
        decision = decide(self._policy, facts, random.random())
        if isinstance(decision, GiveUp):
            self._has_ended = True
            error.add_note(f"prefect_http did not reconnect: {decision.reason}")
            return False
        self._resume_at = now + decision.delay
        self._report_reconnection(error, decision)
        return True

    def _report_reconnection(self, error: httpx.RequestError, retry: Retry) -> None:
        request = self.response.request
        method, url = request.method, safe_url(request.url)
        _logger.debug(
            "%s %s: %s; reconnection %d/%d in %s s (%s)",
            method,
            url,
            safe_exception(error),
            self._breaks,
            self._policy.max_retries,
            format_seconds(retry.delay),
            retry.reason,
            extra={"http_method": method, "http_url": url, "delay": retry.delay, "reason": retry.reason},
        )
        if self._telemetry is not None:
            call_safely(self._telemetry.wait, request, retry.delay, retry.reason)
