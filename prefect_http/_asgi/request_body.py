"""The body of a request on its way into an app: one that is whole, or one that the caller is still producing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

import anyio
import httpx

from prefect_http._concurrency.backend import new_cancel_scope
from prefect_http._concurrency.iteration import cancel_iteration, end_iteration
from prefect_http._concurrency.repeated_event import RepeatedEvent
from prefect_http._fields.request_rules import BodyLength


class RequestBody(Protocol):
    """What an app takes its ``http.request`` messages from.

    Attributes:
        waits_for_app: whether there is content that the app has not taken.
        waits_for_caller: whether the caller has yet to produce the next part.
    """

    waits_for_app: bool
    waits_for_caller: bool

    def take(self) -> tuple[bytes, bool] | None:
        """Return the next chunk, and whether more may follow; None if there is nothing to take, or not yet."""

    def stop(self) -> None:
        """Produce nothing more."""


class WholeBody:
    """A body that is complete from the beginning."""

    __slots__ = ("_content", "waits_for_app")

    waits_for_caller = False

    def __init__(self, content: bytes) -> None:
        self._content: bytes | None = content
        self.waits_for_app = bool(content)

    def take(self) -> tuple[bytes, bool] | None:
        """Return the content, the first time."""
        content, self._content = self._content, None
        self.waits_for_app = False
        return None if content is None else (content, False)

    def stop(self) -> None:
        """Do nothing: there is nothing more to produce."""


class StreamedBody:
    """A body that the caller's stream produces while the app takes it, chunk by chunk, one chunk ahead.

    One task reads the stream from its first chunk to its last, in whichever of its tasks the app receives: the stream
    may have cancel scopes and nurseries open across its chunks.

    Args:
        stream: the caller's stream.
        content_length: how many bytes it has to produce; None: any number.
    """

    def __init__(self, stream: httpx.AsyncByteStream, content_length: int | None = None) -> None:
        self._length = BodyLength(content_length)
        self.waits_for_app = False
        self.waits_for_caller = True
        self._stream = stream
        self._offer: tuple[bytes, bool] | None = None
        self._taken = RepeatedEvent()
        self._scope = new_cancel_scope()

    async def produce(self, on_change: Callable[[], None], on_error: Callable[[BaseException], None]) -> None:
        """Read the stream, to its end or until ``stop()``; for a task of its own.

        Args:
            on_change: called when there is something new to take.
            on_error: called with what the stream has raised, which is not raised here; or with the
                httpx.LocalProtocolError for one that is longer or shorter than its Content-Length.

        Cancellation:
            Reaches the stream, and everything that it reads from.
        """
        try:
            with self._scope:
                await self._produce(aiter(self._stream), on_change)
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:
            on_error(error)
        finally:
            self.waits_for_caller = False

    async def _produce(self, chunks: AsyncIterator[bytes], on_change: Callable[[], None]) -> None:
        try:
            async for chunk in chunks:
                self._length.count(chunk)
                if chunk:
                    await self._hand_over(chunk, on_change)
        except anyio.get_cancelled_exc_class():
            # Not in a scope of our own, because the stream may have opened scopes that have yet to be left.
            self._scope.cancel()
            await cancel_iteration(chunks)
            raise
        except httpx.LocalProtocolError:
            await end_iteration(chunks)
            raise
        self._length.check_end()
        self.waits_for_caller = False
        self._offer = b"", False
        on_change()

    async def _hand_over(self, chunk: bytes, on_change: Callable[[], None]) -> None:
        self._offer = chunk, True
        self.waits_for_app, self.waits_for_caller = True, False
        on_change()
        while self.waits_for_app:
            await self._taken.wait()

    def take(self) -> tuple[bytes, bool] | None:
        """Return the chunk on offer, and whether more may follow; None if there is none at the moment."""
        offer, self._offer = self._offer, None
        if self.waits_for_app:
            self.waits_for_app, self.waits_for_caller = False, True
            self._taken.notify()
        return offer

    def stop(self) -> None:
        """Stop reading the stream, and have it closed."""
        self._scope.cancel()


def request_body(request: httpx.Request, content_length: int | None) -> RequestBody:
    """Return the body of a request.

    Args:
        request: the request.
        content_length: the length of the body in bytes, as the headers say; None: they do not say.

    Raises:
        httpx.LocalProtocolError: it is longer or shorter than that. A stream has yet to be read, to find out.
        RuntimeError: it is a sync stream.
    """
    if isinstance(request.stream, httpx.ByteStream):
        content = request.read()
        if content_length is not None and len(content) != content_length:
            length = BodyLength(content_length)
            length.count(content)
            length.check_end()
        return WholeBody(content)
    if not isinstance(request.stream, httpx.AsyncByteStream):
        raise RuntimeError("the request has a sync body, which an async transport cannot send")
    return StreamedBody(request.stream, content_length)
