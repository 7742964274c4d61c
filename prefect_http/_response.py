"""PrefectResponse, and the error for a bad status, whose message says what went wrong."""

# What functions here do would be public names of PrefectResponse as methods.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import codecs
import contextlib
import datetime
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self, cast

import httpx

from prefect_http._attempt import Attempt
from prefect_http._body_iterator import BodyReading, ChunkIterator, OneChunk, PieceIterator
from prefect_http._body_splitters import BytesSplitter, LineSplitter, TextSplitter, check_size
from prefect_http._bounded_body import read_whole_within
from prefect_http._errors import PrefectHTTPStatusError
from prefect_http._fields.rate_limit import RateLimit
from prefect_http._httpx_details import ReadyResponse, copy_of, hold_body
from prefect_http._redact import one_line, safe_url, without_credentials

# A response extension: a throttle has judged the response to be a rejection, whatever its status.
REJECTED = "prefect_http.rejected"

_ELAPSED = cast(property, httpx.Response.elapsed)
_MAX_DETAIL = 500
# Python's own, for use inside programs: https://docs.python.org/3/library/codecs.html#python-specific-encodings
_PYTHON_ENCODINGS = frozenset(
    {"idna", "mbcs", "oem", "palmos", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"}
)


class PrefectResponse(ReadyResponse):
    """An httpx.Response whose ``raise_for_status()`` raises PrefectHTTPStatusError."""

    _earlier_attempts: tuple[Attempt, ...] = ()
    # What the last attempt is made of when `attempts` is asked for, since most responses never are.
    _seconds_of_last: float | None = None
    _max_bytes: int | None = None
    _reading: BodyReading | None = None  # while a stream is read
    _sent_at: float | None = None  # on the clock of time.perf_counter()
    _seconds: float | None = None  # what `elapsed` is made of when it is asked for

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """All attempts of the ``send()`` that led to the response, oldest first; its own is the last.

        These include attempts whose responses were redirects or challenges. Exceptions have no traceback. Empty if the
        response does not come from a PrefectHttpxClient.
        """
        if self._seconds_of_last is None:
            return self._earlier_attempts
        number = len(self._earlier_attempts) + 1
        last = Attempt(number, self.status_code, None, None, "the response was accepted", self._seconds_of_last)
        return (*self._earlier_attempts, last)

    @property
    def elapsed(self) -> datetime.timedelta:
        """The time from sending the request until the response was closed, as in httpx."""
        seconds = self._seconds  # another thread may ask as well
        if seconds is not None:
            self.elapsed = datetime.timedelta(seconds=seconds)
        return super().elapsed

    @elapsed.setter
    def elapsed(self, elapsed: datetime.timedelta) -> None:
        _ELAPSED.__set__(self, elapsed)
        self._seconds = None

    @property
    def num_bytes_downloaded(self) -> int:
        """The number of bytes of the body that have been read, before decoding."""
        return super().num_bytes_downloaded if self._reading is None else self._reading.size

    async def aread(self) -> bytes:
        """Return the whole body, decoded.

        Raises:
            ResponseTooLarge: it is larger than the ``max_response_bytes`` of the client.
        """
        if self._max_bytes is None or self.is_closed or self.is_stream_consumed:
            return await super().aread()
        return await read_whole_within(self, self._max_bytes)

    def aiter_raw(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        """Return an iterator over the body as it arrives. Like all iterators here, it may be left at any time.

        Args:
            chunk_size: the size of each piece but the last, 1 or more; None: what arrives at a time.
        """
        check_size(chunk_size)
        chunks = ChunkIterator(self, lambda: self._begin_reading(""))
        return chunks if chunk_size is None else PieceIterator(chunks, lambda: BytesSplitter(chunk_size))

    def aiter_bytes(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        """Return an iterator over the body, decoded. Compressed data is decompressed in bounded steps.

        Args:
            chunk_size: the size of each piece but the last, 1 or more; None: what arrives, or is decoded, at a time.
        """
        check_size(chunk_size)
        chunks = ChunkIterator(self, self._begin)
        if chunk_size is None and "Content-Encoding" not in self.headers:
            return chunks
        return PieceIterator(chunks, lambda: BytesSplitter(chunk_size))

    def aiter_text(self, chunk_size: int | None = None) -> AsyncIterator[str]:
        """Return an iterator over the body as text.

        Args:
            chunk_size: the number of characters in each piece but the last, 1 or more; None: what arrives at a time.
        """
        check_size(chunk_size)
        return PieceIterator(
            ChunkIterator(self, self._begin), lambda: TextSplitter(self.encoding or "utf-8", chunk_size)
        )

    def aiter_lines(self) -> AsyncIterator[str]:
        """Return an iterator over the body's lines, without their line ends."""
        return PieceIterator(ChunkIterator(self, self._begin), lambda: LineSplitter(self.encoding or "utf-8"))

    def _begin(self) -> BodyReading:
        """Begin to read the body and to decode it, or begin with the content if the body has been read."""
        try:
            return BodyReading(OneChunk(self.content), "")
        except httpx.ResponseNotRead:
            return self._begin_reading(self.headers.get("Content-Encoding", ""))

    def _begin_reading(self, encodings: str) -> BodyReading:
        if self.is_stream_consumed:
            raise httpx.StreamConsumed
        if self.is_closed:
            raise httpx.StreamClosed
        if not isinstance(self.stream, httpx.AsyncByteStream):
            raise RuntimeError("the response has a sync stream, which only the sync methods can read")
        self._reading = BodyReading(aiter(self.stream), encodings)
        self.is_stream_consumed = True
        return self._reading

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: as in httpx, nothing that is still to be read."""
        state = super().__getstate__()
        if state.pop("_reading", None) is not None:
            state["_downloaded"] = self.num_bytes_downloaded
        return state

    async def aclose(self) -> None:
        """Close the response, and return its connection to the pool."""
        if self.is_closed:
            return
        self.note_end()
        reading, self._reading = self._reading, None
        if reading is None:
            await super().aclose()
            return
        self._downloaded = reading.size
        try:
            await reading.end()
        finally:
            await super().aclose()

    def note_end(self) -> None:
        """Note how long the response took, for ``elapsed``."""
        if self._sent_at is not None:
            self._seconds = time.perf_counter() - self._sent_at

    def raise_for_status(self) -> Self:
        """Return the response if its status is 2xx or 101.

        Raises:
            PrefectHTTPStatusError: any other status. The message shows the body if it has been read.
            RuntimeError: the response has no request, as in httpx.
        """
        if is_success(self):
            return self
        raise status_error(self)

    @property
    def rate_limit(self) -> RateLimit | None:
        """What the response's headers say about the server's rate limit; None if they say nothing valid.

        Read from ``RateLimit`` and ``RateLimit-Policy``, in the forms of all drafts, and from ``X-RateLimit-*``, with
        the variants of OpenAI, Anthropic, Kong and others. If there are several limits, the tightest is returned.
        https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
        """
        return rate_limit(self)

    @classmethod
    def from_httpx_response(cls, response: httpx.Response) -> Self:
        """Return a response of this class that shares the stream of ``response``.

        ``response`` keeps its class. The new response may be read in its place, whole or streamed; reading and closing
        it also affects the original. A response that is already of this class is returned unchanged.

        Raises:
            TypeError: ``response`` is not a response.
        """
        if isinstance(response, cls):
            return response
        if isinstance(response, type) or not hasattr(response, "aiter_raw"):
            raise TypeError(f"from_httpx_response() takes an httpx.Response, not {response!r}")
        new = copy_of(response, cls)
        new.headers = response.headers.copy()
        new.extensions = dict(response.extensions)
        new.history = list(response.history)
        new.stream = shared = _SharedStream(response, new)
        shared.copy_elapsed()
        return new


class _SharedStream(httpx.AsyncByteStream, httpx.SyncByteStream):
    """The stream of a response, for a second one to read. What httpx tracks is tracked on the first one."""

    def __init__(self, first: httpx.Response, second: httpx.Response) -> None:
        self._first = first
        self._second = second

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._first.aiter_raw():
            yield chunk

    async def aclose(self) -> None:
        await self._first.aclose()
        self.copy_elapsed()

    def __iter__(self) -> Iterator[bytes]:
        yield from self._first.iter_raw()

    def close(self) -> None:
        self._first.close()
        self.copy_elapsed()

    def copy_elapsed(self) -> None:
        """Copy the elapsed time, if there is one yet; httpx keeps it on the response, httpx2 on the stream."""
        with contextlib.suppress(RuntimeError):  # a response that did not come through a client has none
            self._second.elapsed = self._first.elapsed


def is_success(response: httpx.Response) -> bool:
    """Whether the status is 2xx, or 101, which hands over its stream."""
    return 200 <= response.status_code < 300 or response.status_code == 101


def take_over(
    response: httpx.Response, request: httpx.Request, sent_at: float, max_bytes: int | None
) -> PrefectResponse:
    """Return a PrefectResponse in place of the response that a transport has returned.

    One of httpx's own class is not used any more; one of the transport's own class is read and closed as well.

    Args:
        response: the response.
        request: its request.
        sent_at: when that was sent, on the clock of ``time.perf_counter()``.
        max_bytes: the limit for its body if it is read whole; None: no limit.
    """
    if type(response) is PrefectResponse:
        taken = response
    elif type(response) is httpx.Response:
        taken = copy_of(response, PrefectResponse)
        # A mock may return it again.
        taken.headers, taken.extensions = httpx.Headers(response.headers), dict(response.extensions)
        if type(response.stream) is httpx.ByteStream:
            hold_body(taken, b"".join(response.stream))
    elif type(response) is ReadyResponse:
        taken = copy_of(response, PrefectResponse)
    else:
        taken = PrefectResponse.from_httpx_response(response)
    taken.request = request
    taken._sent_at, taken._max_bytes = sent_at, max_bytes
    return taken


def note_attempts(response: PrefectResponse, earlier: tuple[Attempt, ...], seconds_of_last: float | None) -> None:
    """Note which attempts led to a response.

    Args:
        response: the response.
        earlier: the attempts.
        seconds_of_last: for how many seconds the last attempt took, if that was good and is not among ``earlier``.
    """
    response._earlier_attempts, response._seconds_of_last = earlier, seconds_of_last


def status_error(response: httpx.Response, attempts: tuple[Attempt, ...] = ()) -> PrefectHTTPStatusError:
    """Return the error for a response with a bad status."""
    return PrefectHTTPStatusError(
        _message(response),
        request=response.request,
        response=response,
        attempts=attempts,
        retry_after=retry_after(response),
    )


def retry_after(response: httpx.Response) -> float | None:
    """Return how many seconds the response asks to wait; None if it does not ask, or not in a valid form."""
    from prefect_http._fields.retry_after import parse_retry_after_fields

    return parse_retry_after_fields(response.headers, now=time.time())


def rate_limit(response: httpx.Response) -> RateLimit | None:
    """Return what the response says about the server's rate limit."""
    from prefect_http._fields.rate_limit_parser import parse_rate_limit

    return parse_rate_limit(response.headers, date=response.headers.get("Date"), now=time.time())


def _message(response: httpx.Response) -> str:
    request, redirect = response.request, response.next_request
    phrase = without_credentials(response.reason_phrase, request)
    phrase = phrase or httpx.codes.get_reason_phrase(response.status_code)  # many servers send none
    status = f"{response.status_code} {phrase}".rstrip()
    detail = without_credentials(_detail(response) if redirect is None else safe_url(redirect.url), request)
    detail = one_line(detail if redirect is None else f"it redirects to {detail}", limit=_MAX_DETAIL)
    return one_line(f"{status} for {request.method} ", limit=200) + f" {safe_url(request.url)}{detail and ': '}{detail}"


def _detail(response: httpx.Response) -> str:
    """Return the ``detail`` of a JSON body or the start of the text; empty if the body has not been read."""
    try:
        content = response.content
    except httpx.ResponseNotRead:
        return ""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):  # not JSON, or nested too deeply for Python
        body = None
    detail = cast("dict[str, object]", body).get("detail") if isinstance(body, dict) else None
    if detail:
        return detail if isinstance(detail, str) else json.dumps(detail)
    # Not response.text: it fails if the charset, which the server chooses, is not a text encoding.
    beginning = content[: 8 * _MAX_DETAIL]
    try:
        charset = codecs.lookup(response.charset_encoding or "utf-8").name
        return beginning.decode("ascii" if charset in _PYTHON_ENCODINGS else charset, errors="replace")
    except Exception:  # Python's codecs raise many kinds of errors
        return beginning.decode("ascii", errors="replace")
