"""Everything that relies on how an httpx.Response works inside, though it only uses httpx's public names.

httpx reads a body through three async generators, and a body of bytes through two plain ones: 12 us of the 60 that a
small request takes. A `ReadyResponse` keeps a body that has arrived and is not encoded as it is. It overrides the
public names by which the rest of httpx.Response gets at the body. It also keeps the headers as they arrived, until
somebody asks for them: httpx.Headers takes a microsecond for four.

tests/test_httpx_details.py fails if a version of httpx, or of httpx2, works differently.
"""

# What functions here do would be public names of PrefectResponse as methods.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import codecs
import contextlib
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import httpx

R = TypeVar("R", bound=httpx.Response)

_ENCODING = cast(property, httpx.Response.encoding)
NO_HEADERS = httpx.Headers()
"""For a response that is passed to `hold_whole()`: httpx copies empty headers faster than it makes them."""


class _HeldHeaders:
    """The ``headers`` of a ReadyResponse: made of what has arrived, when they are first asked for.

    A non-data descriptor, so only until they are in the response's ``__dict__``, where httpx puts its own: Python looks
    there first.
    """

    def __get__(self, response: ReadyResponse | None, owner: object = None) -> object:
        if response is None:
            return self
        # If two threads ask at once, both get the same, and what they change is not lost.
        return response.__dict__.setdefault("headers", httpx.Headers(response._fields))


class ReadyResponse(httpx.Response):
    """An httpx.Response whose body may be at hand, as `hold_body()` says, and its headers, as `hold_whole()` does."""

    stream: httpx.SyncByteStream | httpx.AsyncByteStream
    is_closed: bool
    _fields: Sequence[tuple[bytes, bytes]] = ()  # the headers as they arrived
    _names: Sequence[bytes] = ()  # the names among the fields, in lower case
    _held: bytes | None = None  # the whole body, as it arrived, until it is read
    _held_stream: object = None  # the stream that yields it
    _body: bytes | None = None  # the body, decoded, once it has been read or kept
    _has_encoding = False  # whether that of the text has been set, or asked for
    _downloaded = 0  # how much of it arrived, if it is kept

    if TYPE_CHECKING:
        headers: httpx.Headers
    else:
        headers = _HeldHeaders()

    @property
    def content(self) -> bytes:
        """The body, decoded, once it has been read."""
        return super().content if self._body is None else self._body

    @property
    def encoding(self) -> str | None:
        """The encoding of the text, as in httpx."""
        detect, body = self.default_encoding, self._body
        if not (body is None or isinstance(detect, str) or self._has_encoding or _is_codec(self.charset_encoding)):
            self.encoding = detect(body) or "utf-8"  # httpx would pass it only a body that it has read itself
        self._has_encoding = True
        return super().encoding

    @encoding.setter
    def encoding(self, value: str) -> None:
        _ENCODING.__set__(self, value)
        self._has_encoding = True

    @property
    def num_bytes_downloaded(self) -> int:
        """The size of what has been read of the body, before decoding."""
        return self._downloaded or super().num_bytes_downloaded

    def read(self) -> bytes:
        """Return the body, decoded."""
        return super().read() if self._body is None else self._body

    async def aread(self) -> bytes:
        """Return the body, decoded."""
        if self._body is not None:
            return self._body
        body = _held_body(self)
        if body is None:
            return await super().aread()
        if not read_held_body(self):
            return await self._read_encoded(body)
        assert isinstance(self.stream, httpx.AsyncByteStream)
        await self.stream.aclose()
        return self.content

    async def _read_encoded(self, body: bytes) -> bytes:
        """Let httpx decode the body."""
        stream, self.stream = self.stream, httpx.ByteStream(body)
        try:
            return self.read()
        finally:
            self.stream, self.is_closed = stream, False
            await self.aclose()

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled, as in httpx: the headers, and nothing of a body that has not been read."""
        state = {**super().__getstate__(), "headers": self.headers}
        for name in ("_fields", "_names", "_held", "_held_stream"):
            state.pop(name, None)
        return state

    def note_end(self) -> None:
        """Do what is to be done just before the stream is closed."""

    def iter_bytes(self, chunk_size: int | None = None) -> Iterator[bytes]:
        """Iterate over the body, decoded."""
        return super().iter_bytes(chunk_size) if self._body is None else _slices(self._body, chunk_size)

    def aiter_bytes(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        """Iterate over the body, decoded."""
        return super().aiter_bytes(chunk_size) if self._body is None else _async_slices(self._body, chunk_size)


def hold_body(response: ReadyResponse, body: bytes) -> None:
    """Note that the whole body of a response has arrived. Its stream must yield the same, and need not be closed."""
    response._held, response._held_stream = body, response.stream


def hold_whole(
    response: ReadyResponse, fields: Sequence[tuple[bytes, bytes]], names: Sequence[bytes], body: bytes
) -> None:
    """Note the headers, and their names in lower case, of a response that has arrived whole; and its body."""
    response._fields, response._names = fields, names
    del response.headers
    hold_body(response, body)


def lower_names(headers: httpx.Headers) -> list[bytes]:
    """Return the names of headers, in lower case.

    ``in`` would make httpx.Headers remember an encoding, and then they take no values that it does not have.
    """
    return [name.lower() for name, _ in headers.raw]


def header_names(response: httpx.Response) -> Sequence[bytes]:
    """Return the names of a response's headers, in lower case. To look one of them up there is faster than in httpx."""
    if isinstance(response, ReadyResponse) and "headers" not in response.__dict__:
        return response._names
    return lower_names(response.headers)


def read_held_body(response: ReadyResponse) -> bool:
    """Read a body that has arrived, and close the response, but for its stream. Return whether that was possible.

    It is not if the body has not arrived, is encoded, or has been read before, or if another stream is to be read.
    """
    body = _held_body(response)
    if body is None or b"content-encoding" in header_names(response):
        return False
    response._held = response._held_stream = None
    response._body, response._downloaded = body, len(body)
    response.is_stream_consumed = response.is_closed = True
    response.note_end()
    return True


def _held_body(response: ReadyResponse) -> bytes | None:
    """Return a body that has arrived; None if there is none, or if it is not what reading the response would yield.

    An event hook, or a transport around the one that received it, may have put another stream in the place of its own.
    """
    if response._held is None or response.is_stream_consumed or response.is_closed:
        return None
    stream, own = response.stream, response._held_stream
    # An httpx.AsyncClient puts the stream into one that notes the elapsed time.
    is_own = stream is own or (_is_of_httpx(stream) and getattr(stream, "_stream", None) is own)
    return response._held if is_own else None


def _is_of_httpx(stream: object) -> bool:
    return type(stream).__module__.partition(".")[0] == httpx.__name__


def keep_content(response: ReadyResponse, content: bytes, downloaded: int) -> None:
    """Let a response have a content that is decoded already, as if it had been read. Its stream is still to be closed.

    The content of an httpx.Response cannot be set, and without it neither ``text`` nor ``json()`` works.

    Args:
        response: the response.
        content: decoded.
        downloaded: how many bytes that was before.
    """
    response._body, response._downloaded = content, downloaded
    response.is_stream_consumed = True


class RequestModel:
    """Makes requests that are like another one, whose body is at hand.

    That takes 2 us; to make a request of the same parts takes 5.

    Args:
        request: the other request.

    Attributes:
        headers: those of the request, which are not to be changed.
    """

    __slots__ = ("_state", "_stream", "headers")

    def __init__(self, request: httpx.Request) -> None:
        self._state = request.__getstate__()
        self._stream = request.stream
        self.headers = httpx.Headers(request.headers)

    def copy(self, method: str, url: httpx.URL, headers: httpx.Headers, extensions: dict[str, object]) -> httpx.Request:
        """Return a request like the other one, but for the arguments."""
        new = httpx.Request.__new__(httpx.Request)
        new.__setstate__(self._state)
        new.method, new.url, new.headers = method, url, headers
        new.stream, new.extensions = self._stream, extensions
        return new


def copy_of(response: httpx.Response, cls: type[R]) -> R:
    """Return a response of ``cls`` in the same state, with the same stream and extensions.

    Of what pickling leaves out, it adds what httpx has public names for.
    """
    new = cls.__new__(cls)
    new.__setstate__(response.__getstate__())
    new.stream, new.is_closed, new.extensions = response.stream, response.is_closed, response.extensions
    if isinstance(response, ReadyResponse) and isinstance(new, ReadyResponse):
        new._held, new._held_stream = response._held, response._held_stream
    return new


@contextlib.contextmanager
def lent(response: httpx.Response, stream: httpx.AsyncByteStream, headers: httpx.Headers) -> Generator[None]:
    """Let an unread response be read from another stream, with other headers; afterwards it is unread again.

    Reading changes half a dozen attributes, most of them private.
    """
    state = dict(response.__dict__)
    response.__dict__.pop("_held", None)  # a ReadyResponse would not read the stream
    response.stream, response.headers = stream, headers
    try:
        yield
    finally:
        response.__dict__.clear()
        response.__dict__.update(state)


def _is_codec(name: str | None) -> bool:
    try:
        return name is not None and bool(codecs.lookup(name))
    except LookupError:
        return False


def _slices(body: bytes, size: int | None) -> Iterator[bytes]:
    size = len(body) if size is None else size
    for start in range(0, len(body), max(size, 1)):
        yield body[start : start + size]


async def _async_slices(body: bytes, size: int | None) -> AsyncIterator[bytes]:
    for piece in _slices(body, size):
        yield piece
