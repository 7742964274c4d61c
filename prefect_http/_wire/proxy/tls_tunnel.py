"""TLSTunnel: a tunnel through a proxy that is itself reached over TLS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute

from prefect_http._concurrency.backend import checkpoint
from prefect_http._concurrency.socket_attributes import InputAttribute, Peek
from prefect_http._wire.raw_socket import peek_of
from prefect_http._wire.tls import take_tls_input


class TLSTunnel(ByteStream):
    """A stream over TLS that another stream is built on, so that its input is not seen in the socket alone.

    Args:
        stream: encrypted between here and the proxy.
    """

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._seen = b""  # what a look at the input has taken out of TLS

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive what arrives next."""
        if self._seen:
            await checkpoint()
            data, self._seen = self._seen, b""
            return data
        return await self._stream.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        """Send all of the data."""
        await self._stream.send(item)

    async def send_eof(self) -> None:
        """Not possible with TLS."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the stream below."""
        await self._stream.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """Those of the stream below, with a ``peek`` that sees what TLS has received, its end included."""
        below = cast("Mapping[Any, Callable[[], Any]]", self._stream.extra_attributes)  # pyright: ignore[reportUnknownMemberType]
        return {**below, InputAttribute.peek: self._peek_function}

    def _peek_function(self) -> Peek:
        ssl_object, peek = self._stream.extra(TLSAttribute.ssl_object), peek_of(self._stream)

        def look() -> bytes | None:
            found = self._seen or take_tls_input(ssl_object)
            if found is None:
                return None if peek is None else peek()
            self._seen = found
            return found

        return look
