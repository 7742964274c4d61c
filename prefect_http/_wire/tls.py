"""TLS on a stream: the handshake, the stream above it, and what is needed to see all that has arrived.

OpenSSL works in memory (`ssl.MemoryBIO`), straight between the connection and the stream below. anyio's TLSStream costs
a small request 50 us: it asks OpenSSL for data before there can be any, returns one record at a time, and hides what it
has received and not decrypted yet.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ParamSpec, cast

import anyio
import anyio.to_thread
import httpx
from anyio import TypedAttributeSet, typed_attribute
from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute

from prefect_http._concurrency.backend import Event, checkpoint, max_receive_bytes, new_event
from prefect_http._concurrency.eager_stream import Data, EagerStream, sender_of
from prefect_http._concurrency.fair_lock import FairLock
from prefect_http._wire.network_errors import close_forcefully, reason_for, with_timeout

# The most that a record holds (RFC 8446 section 5.1), and so the most that OpenSSL returns at once. Python allocates as
# much as is asked for: with 256 KiB, it took 17 us to read a small response, instead of 1.5.
_MAX_RECORD = 16 * 1024
# The most to encrypt before it is sent, so that there is never a second copy of a large part.
_MAX_ENCRYPTED = 256 * 1024

P = ParamSpec("P")


class TLSInMemory(TypedAttributeSet):
    """What a stream in memory has that stands for an encrypted one, without certificates.

    Attributes:
        start: called with the protocols to offer (ALPN), instead of a handshake, returns the stream to use.
    """

    start: Callable[[list[str]], ByteStream] = typed_attribute()


async def start_tls(
    stream: ByteStream,
    ssl_context: ssl.SSLContext,
    server_name: str | None,
    timeout: float | None,
    peer: str,
    *,
    is_proxy: bool = False,
) -> ByteStream:
    """Do the TLS handshake on a stream. If it fails, the stream is closed.

    Args:
        stream: the stream to use.
        ssl_context: the context to use.
        server_name: the name that the certificate must be for.
        timeout: in seconds; None: no limit.
        peer: who is at the other end, for messages.
        is_proxy: whether that is a proxy.

    Raises:
        httpx.ConnectTimeout: it takes longer than ``timeout``.
        httpx.ConnectError: the handshake fails.
    """

    async def wrap() -> ByteStream:
        incoming, outgoing, name = ssl.MemoryBIO(), ssl.MemoryBIO(), _encoded(server_name)

        def make() -> ssl.SSLObject:
            return ssl_context.wrap_bio(incoming, outgoing, server_hostname=name)

        # Another library's context may have to read files for it.
        is_plain = type(ssl_context) is ssl.SSLContext
        tls_stream = TLSStream(stream, make() if is_plain else await anyio.to_thread.run_sync(make), incoming, outgoing)
        await tls_stream.do_handshake()
        return tls_stream

    try:
        failure = f"could not complete the TLS handshake with {peer}"
        reason = partial(_reason, is_proxy=is_proxy)
        return await with_timeout(timeout, wrap, httpx.ConnectTimeout, httpx.ConnectError, failure, reason)
    except BaseException:
        await close_forcefully(stream)
        raise


async def start_tls_in_memory(
    start: Callable[[list[str]], ByteStream], alpn: list[str], peer: str, *, is_proxy: bool = False
) -> ByteStream:
    """Start what stands for TLS on a stream in memory.

    Raises:
        httpx.ConnectError: the other side does not speak TLS.
    """
    await checkpoint()
    try:
        return start(alpn)
    except ssl.SSLError as error:
        reason = _reason(error, is_proxy=is_proxy)
        raise httpx.ConnectError(f"could not complete the TLS handshake with {peer}: {reason}") from error


def _reason(error: BaseException, *, is_proxy: bool) -> str:
    """Return why a handshake failed, and the remedy if what has arrived is not TLS."""
    reason = reason_for(error)
    if "WRONG_VERSION_NUMBER" not in reason:
        return reason
    who, url = ("the proxy", "the URL of the proxy") if is_proxy else ("the server", "the URL")
    return f"{reason}; if {who} does not use TLS on this port, {url} must start with http://"


def _encoded(server_name: str | None) -> bytes | None:
    """Return a server name as TLS wants it; the ssl module would use an outdated standard (IDNA 2003)."""
    if server_name is None:
        return None
    if server_name.isascii():
        return server_name.encode()
    return httpx.URL(scheme="https", host=server_name).raw_host


class TLSStream(EagerStream):
    """A stream of bytes that are encrypted on another stream.

    The end of the stream below is the end of this one, even without a close_notify: HTTP itself says where a response
    ends, and many servers close the connection without one. Closing sends none either.

    Args:
        stream: the stream below.
        ssl_object: encrypts and decrypts.
        incoming: what has been received of the stream below, and not decrypted.
        outgoing: what has been encrypted, and not sent.

    Cancellation:
        Nothing is lost if receiving is cancelled. If sending is, once it has begun, nothing more can be sent, because
        the other side cannot decrypt anything after a record that it has not received whole.
    """

    def __init__(
        self, stream: ByteStream, ssl_object: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> None:
        self._stream = stream
        self._send_below = sender_of(stream)
        self._send_nowait_below = stream.send_nowait if isinstance(stream, EagerStream) else None
        self._tls = ssl_object
        self._incoming = incoming
        self._outgoing = outgoing
        # All that has arrived is received, however little is requested, so that nothing is out of sight: see there.
        self._max_bytes = max_receive_bytes()
        self._is_broken = False
        self._is_flushing = False
        self._to_send = FairLock()
        self._left: Data | None = None  # what the stream below has left, to be sent before anything else
        self._flushed: Event | None = None  # what a task that sends waits for while another one flushes
        self._failures: list[Exception] = []  # one at most, to be raised once the data before it has been received
        self._has_ended = False  # whether OpenSSL has found the end, or an error, or will when it is asked

    async def do_handshake(self) -> None:
        """Do the handshake.

        Raises:
            ssl.SSLError, anyio.EndOfStream, anyio.BrokenResourceError: it fails.
        """
        await self._complete(self._tls.do_handshake)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive what has arrived, or what arrives next."""
        if self._has_pending():
            await checkpoint()
        else:
            await self._receive_more()  # before OpenSSL is asked, which would only raise an SSLWantReadError
        while not (data := self._decrypt(max_bytes)):
            if self._outgoing.pending:
                await self._flush()  # a reply to a renegotiation or a change of keys
            await self._receive_more()
        return data

    async def send(self, item: Data) -> None:
        """Send all of the data, and what ``send_nowait()`` has left. Tasks that send at the same time take turns."""
        await self._to_send.acquire()
        try:
            await self._send_whole(item)
        finally:
            self._to_send.release()

    async def _send_whole(self, item: Data) -> None:
        is_cut = len(item) > _MAX_ENCRYPTED
        try:
            if not item:
                await self._complete(lambda: None)
            while item:
                piece, item = _cut(item)
                await self._complete(self._tls.write, piece)
        except BaseException:
            # What follows a part of the data would be taken for the rest of it.
            self._is_broken = self._is_broken or is_cut
            raise

    def send_nowait(self, item: Data) -> Data | None:
        """See EagerStream. What the stream below does not take is kept for ``send()``: a record is sent whole."""
        while item:
            is_busy = self._to_send.is_held or self._is_flushing or self._left is not None
            if is_busy or self._send_nowait_below is None:
                return item
            if self._is_broken:
                raise anyio.BrokenResourceError
            piece, rest = _cut(item)
            try:
                self._tls.write(piece)
            except ssl.SSLWantReadError:  # the server renegotiates
                return item
            except ssl.SSLError as error:
                raise self._failed(error) from None
            try:
                self._left = self._send_nowait_below(self._outgoing.read())
            except BaseException:
                self._is_broken = True
                raise
            item = rest
        return None if self._left is None else b""

    async def _complete(self, step: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Let OpenSSL do a step, for which it may have to receive something, and send what it has encrypted."""
        while True:
            if self._is_broken:
                raise anyio.BrokenResourceError
            try:
                step(*args, **kwargs)
            except ssl.SSLWantReadError:  # the handshake goes on, or the server renegotiates
                await self._flush()
                await self._receive_more()
            except ssl.SSLError as error:
                raise self._failed(error) from None
            else:
                await self._flush()
                if self._is_flushing:
                    await self._wait_until_flushed()
                return

    def has_input(self) -> bool:
        """Return whether anything has arrived that has not been received, or the end of the stream.

        OpenSSL is asked only if there is something, which may be no input. If there is nothing, it answers with an
        exception, which takes 9 us.
        """
        return self._has_pending() and has_tls_input(self._tls)

    async def send_eof(self) -> None:
        """Not possible, as with anyio's TLSStream: up to TLS 1.2, the other side has to close the connection as well.

        Nothing in the package calls it. It is there because each ByteStream has it.
        """
        raise NotImplementedError("a TLS connection cannot be closed in one direction only")

    async def aclose(self) -> None:
        await self._stream.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        tls = self._tls
        attribute: Any = TLSAttribute  # whose members have the types of their values
        below = cast("Mapping[Any, Callable[[], Any]]", self._stream.extra_attributes)  # pyright: ignore[reportUnknownMemberType]
        return {
            **below,
            attribute.alpn_protocol: tls.selected_alpn_protocol,
            attribute.channel_binding_tls_unique: tls.get_channel_binding,
            attribute.cipher: tls.cipher,
            attribute.peer_certificate: lambda: tls.getpeercert(False),
            attribute.peer_certificate_binary: lambda: tls.getpeercert(True),
            attribute.server_side: lambda: False,
            attribute.shared_ciphers: lambda: None,
            attribute.ssl_object: lambda: tls,
            attribute.standard_compatible: lambda: False,
            attribute.tls_version: tls.version,
        }

    def _has_pending(self) -> bool:
        return self._has_ended or self._incoming.pending > 0 or self._tls.pending() > 0

    def _decrypt(self, max_bytes: int) -> bytes:
        """Return what can be decrypted of what has arrived, of several records if they are whole.

        Raises:
            anyio.EndOfStream: nothing follows.
            ssl.SSLError: it is not TLS, or the server says that something is wrong.
        """
        if self._failures:
            raise self._failures.pop()
        records: list[bytes] = []
        size = 0
        while size < max_bytes and (not size or self._has_pending()):
            try:
                record = self._tls.read(min(max_bytes - size, _MAX_RECORD))
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError as error:
                self._has_ended = True
                failure = self._failed(error)
                if records:
                    self._failures.append(failure.with_traceback(None))  # OpenSSL would tell of an end the next time
                    break
                raise failure from None
            if not record:  # a close_notify
                self._has_ended = True
                if records:
                    break
                raise anyio.EndOfStream
            records.append(record)
            size += len(record)
        return records[0] if size and len(records) == 1 else b"".join(records)

    async def _receive_more(self) -> None:
        try:
            self._incoming.write(await self._stream.receive(self._max_bytes))
        except anyio.EndOfStream:
            self._incoming.write_eof()
            self._has_ended = True

    async def _flush(self) -> None:
        """Send what has been encrypted. If another task is doing so, it sends this as well."""
        if self._is_flushing or self._is_broken:
            return
        self._is_flushing = True
        try:
            while self._left is not None or self._outgoing.pending:
                left, self._left = self._left, None
                await self._send_below(self._outgoing.read() if left is None else left)
        except BaseException:
            self._is_broken = True
            raise
        finally:
            self._is_flushing = False
            if self._flushed is not None:
                self._flushed.set()
                self._flushed = None

    async def _wait_until_flushed(self) -> None:
        """Wait until another task has sent what has been encrypted, as if this one sent it."""
        flushed = self._flushed = new_event()
        await flushed.wait()
        if self._is_broken:
            raise anyio.BrokenResourceError

    def _failed(self, error: ssl.SSLError) -> Exception:
        """Return what to raise for an error of OpenSSL's."""
        self._incoming.write_eof()
        self._outgoing.write_eof()
        if isinstance(error, ssl.SSLEOFError) or "UNEXPECTED_EOF_WHILE_READING" in (error.strerror or ""):
            return anyio.EndOfStream()
        return error


def _cut(data: Data) -> tuple[Data, Data]:
    """Return as much of the data as is encrypted at once, and the rest."""
    if len(data) <= _MAX_ENCRYPTED:
        return data, b""
    view = memoryview(data)
    return view[:_MAX_ENCRYPTED], view[_MAX_ENCRYPTED:]


def tls_input_probe_of(stream: ByteStream, ssl_object: ssl.SSLObject) -> Callable[[], bool]:
    """Return a function that returns whether a TLS connection holds input; of a stream that may not be one of ours."""
    return stream.has_input if isinstance(stream, TLSStream) else lambda: has_tls_input(ssl_object)


def has_tls_input(ssl_object: ssl.SSLObject) -> bool:
    """Return whether TLS holds data that has not been read, decrypted or not, or the end of the stream.

    If there is data, its first byte is taken out. The connection is of no use then.
    """
    return take_tls_input(ssl_object) is not None


def take_tls_input(ssl_object: ssl.SSLObject) -> bytes | None:
    """Take out the first byte of what TLS holds; ``b""`` at the end of the stream, or after an error; None: nothing."""
    try:
        return ssl_object.read(1)
    except ssl.SSLWantReadError:
        return None
    except ssl.SSLError:
        return b""


def has_early_tls_data(ssl_object: ssl.SSLObject) -> bool:
    """Return whether data has arrived along with the end of the handshake; if so, the first byte of it is taken out.

    That is possible up to TLS 1.2. In TLS 1.3, the client is the one that ends the handshake.
    """
    with contextlib.suppress(ssl.SSLError):
        return bool(ssl_object.read(1))
    return False
