"""The body of a request on its way into an app: one that is there, and one that the caller is still making."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

import anyio
import httpx

from prefect_http._concurrency.backend import new_cancel_scope
from prefect_http._concurrency.iteration import cancel_iteration
from prefect_http._concurrency.repeated_event import RepeatedEvent


class RequestBody(Protocol):
    """What an app takes its ``http.request`` messages from.

    Attributes:
        waits_for_app: whether there is content that the app has not taken.
        waits_for_caller: whether the caller has yet to produce what comes next.
    """

    waits_for_app: bool
    waits_for_caller: bool

    def take(self) -> tuple[bytes, bool] | None:
        """Give the next chunk, and whether more will follow; None if nothing is there yet, or not any more."""

    def stop(self) -> None:
        """Produce no more."""


class WholeBody:
    """A body that is there from the beginning."""

    __slots__ = ("_content", "waits_for_app")

    waits_for_caller = False

    def __init__(self, content: bytes) -> None:
        self._content: bytes | None = content
        self.waits_for_app = bool(content)

    def take(self) -> tuple[bytes, bool] | None:
        """Give the content, once."""
        content, self._content = self._content, None
        self.waits_for_app = False
        return None if content is None else (content, False)

    def stop(self) -> None:
        """Produce no more: there is no more."""


class StreamedBody:
    """A body that the caller's stream produces while the app takes it, chunk by chunk, one ahead.

    One task reads the stream from its first chunk to its last, whichever of its tasks the app receives in: the
    stream may have scopes and nurseries open across its chunks.
    """

    def __init__(
        self, stream: httpx.AsyncByteStream, on_change: Callable[[], None], on_error: Callable[[BaseException], None]
    ) -> None:
        self.waits_for_app = False
        self.waits_for_caller = True
        self._stream = stream
        self._on_change = on_change
        self._on_error = on_error
        self._offer: tuple[bytes, bool] | None = None
        self._taken = RepeatedEvent()
        self._scope = new_cancel_scope()

    async def produce(self) -> None:
        """Read the stream; for a task of its own."""
        try:
            with self._scope:
                await self._produce(aiter(self._stream))
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # the caller's own, so the caller shall have it
            self._on_error(error)
        finally:
            self.waits_for_caller = False

    async def _produce(self, chunks: AsyncIterator[bytes]) -> None:
        try:
            async for chunk in chunks:
                if chunk:
                    await self._hand_over(chunk)
        except anyio.get_cancelled_exc_class():
            # Not in a scope of our own, for the stream may have opened scopes that are still to be left.
            self._scope.cancel()
            await cancel_iteration(chunks)
            raise
        self.waits_for_caller = False
        self._offer = b"", False
        self._on_change()

    async def _hand_over(self, chunk: bytes) -> None:
        self._offer = chunk, True
        self.waits_for_app, self.waits_for_caller = True, False
        self._on_change()
        while self.waits_for_app:
            await self._taken.wait()

    def take(self) -> tuple[bytes, bool] | None:
        """Give the chunk on offer."""
        offer, self._offer = self._offer, None
        if self.waits_for_app:
            self.waits_for_app, self.waits_for_caller = False, True
            self._taken.notify()
        return offer

    def stop(self) -> None:
        """Produce no more."""
        self._scope.cancel()
