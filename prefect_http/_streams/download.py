"""One ``download()``: its requests, one after the other, until the file is whole.

What has been received is in a `PartFile`. `plan_response()` says what to do with a response, and `decide()` what to do
after a break, as for any request.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import logging
import math
import random
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import anyio
import httpx

from prefect_http._attempt import format_seconds
from prefect_http._bounded_body import body_of, read_up_to
from prefect_http._callbacks import is_async
from prefect_http._concurrency.backend import checkpoint, clock
from prefect_http._concurrency.blocking import run_blocking
from prefect_http._content_encoding import ContentDecoder, package_for, undecodable
from prefect_http._error_limits import STREAMED_ERROR_BYTES, seconds_for_error
from prefect_http._errors import DownloadError, PrefectHTTPStatusError
from prefect_http._foreign_errors import is_foreign
from prefect_http._redact import one_line, safe_exception, safe_url, without_credentials
from prefect_http._response import REJECTED, PrefectResponse, is_success, status_error
from prefect_http._retry.decision import FailedAttempt, GiveUp, classify, decide
from prefect_http._retry.policy import RetryPolicy
from prefect_http._streams.download_plan import (
    AskAgain,
    Finished,
    Kept,
    Receive,
    Refuse,
    plan_response,
    range_headers,
)
from prefect_http._streams.download_retries import DownloadRetries
from prefect_http._streams.part_file import Block, PartFile
from prefect_http._streams.repeated_request import RepeatedRequest
from prefect_http._streams.write_buffer import WriteBuffer
from prefect_http._telemetry import Telemetry, call_safely
from prefect_http._wording import are, counted

Progress = Callable[[int, int | None], object]

PROGRESS_MUST_BE = "progress must be a sync function that takes the bytes received and the total, or None"

# Written at once: as fast as loopback is, a quarter of it takes 1.2 times as long, and twice as much no less.
_BLOCK = 1024 * 1024
# When a chunk arrives, none is held for longer than this.
_MAX_SECONDS = 1.0
_UNSATISFIED = 416
_MAX_QUOTED = 100
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
# What the download sets itself.
_RESERVED = ("Range", "If-Range")
_logger = logging.getLogger("prefect_http")


@dataclass(frozen=True, slots=True)
class Download:
    """A file that has been downloaded.

    Attributes:
        path: where it is, as an absolute path.
        bytes: its size.
        resumed: whether the file has data from more than one response: data that an earlier download had left, or that
            had been received before a connection broke.
        response: the last response, closed, without its body. Its status is 416 if an earlier download had left the
            whole file.
    """

    path: Path
    bytes: int
    resumed: bool
    response: PrefectResponse


@dataclass(frozen=True, slots=True)
class DownloadOptions:
    """What users give to ``download()``, checked; see there.

    Raises:
        TypeError: ``progress`` is not callable, or is async.
        ValueError: ``sha256`` or ``max_bytes`` is invalid.
    """

    progress: Progress | None
    sha256: str | None
    overwrite: bool
    max_bytes: int | None

    def __post_init__(self) -> None:
        if self.progress is not None and (not callable(self.progress) or is_async(self.progress)):
            raise TypeError(f"{PROGRESS_MUST_BE}, not {self.progress!r}")
        if self.sha256 is not None and not (isinstance(self.sha256, str) and _SHA256.fullmatch(self.sha256)):
            raise ValueError(f"sha256 must be 64 hexadecimal digits, not {self.sha256!r}")
        limit = self.max_bytes
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
            raise ValueError(f"max_bytes must be None or an integer, 0 or more, not {limit!r}")


class DownloadCall:
    """One ``download()``.

    Args:
        client: the client.
        url: of the file.
        arguments: keywords of the client's ``get()``.
        path: where the file will be.
        options: what else the user has given.
        policy: how often to go on, and when.
        telemetry: is told of each wait; None: nothing is.

    Raises:
        ValueError: the headers ask for a range, or for a content coding.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        url: httpx.URL | str,
        arguments: Mapping[str, Any],
        path: Path,
        options: DownloadOptions,
        policy: RetryPolicy,
        telemetry: Telemetry | None,
    ) -> None:
        self._telemetry = telemetry
        self._requests = RepeatedRequest(client, "GET", url, arguments)
        self._options = options
        self._policy = policy
        self._request = self._build({})
        _check_headers(self._requests.headers, self._request.headers)
        self._part = PartFile(
            path.absolute(),  # so that the program may change to another folder meanwhile
            _source(self._request.url),
            overwrite=options.overwrite,
            with_digest=options.sha256 is not None,
        )
        self._retries = DownloadRetries(0)
        self._received = 0  # with what was there before
        self._resumed = False
        self._buffer = WriteBuffer(_BLOCK)
        self._written_at = 0.0
        self._progress_has_failed = False
        self._last_break = ""
        self._now = clock()

    async def run(self) -> Download:
        """Download the file."""
        part = self._part
        try:
            if not await run_blocking(part.open):
                raise self._error(f"another download to this path is running, and has locked {part.part}")
            self._retries = DownloadRetries(part.size)
            while await run_blocking(part.hash_some):
                pass
            while (response := await self._fetch()) is None:
                pass
            await self._check_digest()
            await run_blocking(part.finish)
            return Download(part.path, part.size, self._resumed, response)
        finally:
            last = [self._buffer.take()]
            try:
                with anyio.CancelScope(shield=True):  # closing a file ends in bounded time
                    await run_blocking(partial(part.close, last))
            finally:  # an asyncio task may be cancelled a second time, which no scope shields from
                part.close(last)

    # --- One request

    def _build(self, more: dict[str, str]) -> httpx.Request:
        headers = self._requests.headers.copy()
        headers.update(more)
        return self._requests.build(headers, self._policy)

    async def _fetch(self) -> PrefectResponse | None:
        """Send a request for what is missing; return its response if the file is whole."""
        kept = self._part.kept
        response = await self._response(kept)
        try:
            async with body_of(response) as body:
                plan = self._plan(kept, response)
                if isinstance(plan, Refuse):
                    raise self._error(plan.reason)
                if isinstance(plan, Finished):
                    return await self._finish_at_once(response)
                if isinstance(plan, AskAgain):
                    await self._restart(plan.reason, is_other_version=True)
                    await run_blocking(partial(self._part.begin, None, None))
                    return None
                await self._begin(plan)
                await self._receive(response, body, plan)
            is_whole = self._check_end(plan, response)
        except httpx.RequestError as error:
            if self._progress_has_failed:
                raise
            error.request = response.request
            if isinstance(error, DownloadError):
                raise
            await self._flush()
            if is_foreign(error, response.request) or (delay := self._delay_after(error)) is None:
                raise
        else:
            if is_whole:
                return response
            self._retries.note_break(self._part.size)  # it got further
            return None
        await anyio.sleep(delay)
        return None

    async def _response(self, kept: Kept | None) -> PrefectResponse:
        """Send a request, and return a response that is good, or a 416 if that may be good as well."""
        try:
            response = await self._requests.send(self._build(range_headers(kept)))
            if is_success(response):
                return response
            # With raise_on_all_errors=False, any other response comes here.
            with anyio.move_on_after(seconds_for_error()), contextlib.suppress(httpx.RequestError):
                await read_up_to(response, STREAMED_ERROR_BYTES)
            raise status_error(response, response.attempts)
        except (PrefectHTTPStatusError, httpx.RequestError) as error:
            if kept is None:
                raise
            if isinstance(error, PrefectHTTPStatusError) and error.response.status_code == _UNSATISFIED:
                return PrefectResponse.from_httpx_response(error.response)
            error.add_note(self._kept_note())
            raise

    def _plan(self, kept: Kept | None, response: PrefectResponse) -> Receive | Finished | AskAgain | Refuse:
        if REJECTED in response.extensions:
            return Refuse("the server has rejected the request, as the throttle says")
        plan = plan_response(kept, response.status_code, response.headers)
        if isinstance(plan, Receive) and plan.is_encoded and (reason := _why_not_decoded(response)):
            return Refuse(without_credentials(reason, response.request))
        return plan

    async def _finish_at_once(self, response: PrefectResponse) -> PrefectResponse:
        await self._check_size(self._part.size)
        self._resumed = True
        self._report(self._part.size, self._part.size)
        return response

    # --- The body

    async def _begin(self, plan: Receive) -> None:
        """Make the part ready for a body."""
        part = self._part
        if plan.start == 0 and part.size > 0:
            is_other_version = part.kept is not None and plan.validator != part.kept.validator
            has_changed = is_other_version and plan.validator is not None
            reason = "the file has changed on the server" if has_changed else "the server sent the whole file again"
            await self._restart(reason, is_other_version=is_other_version)
        await self._check_size(max(plan.start, plan.total or 0))
        if plan.start == 0:
            await run_blocking(partial(part.begin, plan.validator, plan.total))
        else:
            part.total = plan.total
        self._resumed = plan.start > 0
        self._received = plan.start
        self._written_at = self._now()
        self._report(plan.start, plan.total)

    async def _receive(self, response: PrefectResponse, body: AsyncIterator[bytes], plan: Receive) -> None:
        if response.is_stream_consumed and not (plan.is_encoded and _is_as_sent(response)):
            await self._take(response.content, plan)
        elif plan.is_encoded:
            decoder = ContentDecoder(response.headers["Content-Encoding"], for_file=True)
            async for chunk in body:
                for piece in decoder.decode(chunk):  # some are empty
                    await self._take(piece, plan)
                    await checkpoint()
            if decoder.is_incomplete:
                raise httpx.RemoteProtocolError("the body ended in the middle of its compressed data")
        else:
            async for chunk in body:
                await self._take(chunk, plan)
        await self._flush()

    async def _take(self, chunk: bytes, plan: Receive) -> None:
        """Take the next bytes of the file."""
        self._received += len(chunk)
        if plan.end is not None and self._received > plan.end:
            await self._discard(f"the server sent more than the {counted(plan.end, 'byte')} that it had announced")
        await self._check_size(self._received)
        if not self._buffer.add(chunk):
            await self._write([self._buffer.take(), chunk])
        elif self._now() - self._written_at >= _MAX_SECONDS:
            await self._flush()
        self._report(self._received, plan.total)

    async def _flush(self) -> None:
        if block := self._buffer.take():
            await self._write([block])

    async def _write(self, blocks: list[Block]) -> None:
        """Write blocks, one of which may be the buffer's; it is not filled again until that has ended."""
        self._written_at = self._now()
        await run_blocking(partial(self._part.write, blocks))

    def _report(self, received: int, total: int | None) -> None:
        progress = self._options.progress
        if progress is not None:
            try:
                returned = progress(received, total)
            except BaseException:
                self._progress_has_failed = True
                raise
            if inspect.iscoroutine(returned):
                returned.close()
                raise TypeError(f"{PROGRESS_MUST_BE}, not the async {progress!r}")

    def _check_end(self, plan: Receive, response: PrefectResponse) -> bool:
        """Whether a body that has ended is the last of the file.

        Raises:
            httpx.RemoteProtocolError: it is shorter than the server has announced.
        """
        if plan.end is None:  # nothing says how long it should be, so the end of the response is that of the file
            self._report(self._received, self._received)
            return True
        if self._received < plan.end:
            announced, received = plan.end - plan.start, self._received - plan.start
            raise httpx.RemoteProtocolError(f"the body ended after {received} of {counted(announced, 'byte')}")
        return plan.end == plan.total

    # --- What goes wrong

    def _delay_after(self, error: httpx.RequestError) -> float | None:
        """Return how long to wait before going on; None if there is no use in it, with a note on the error."""
        self._last_break = safe_exception(error)
        breaks = self._retries.note_break(self._part.size)
        left = (
            anyio.current_effective_deadline() - self._now() if breaks else math.inf
        )  # after progress, it goes on at once
        failed = FailedAttempt(max(breaks, 1), classify(error), type(error).__name__, deadline_left=left)
        decision = decide(self._policy, failed, random.random())
        if isinstance(decision, GiveUp):
            error.add_note(self._kept_note(decision.reason))
            return None
        delay = decision.delay if breaks else 0.0
        _logger.debug(
            "GET %s: the download broke off at %d bytes: %s; it resumes in %s s",
            safe_url(self._request.url),
            self._part.size,
            safe_exception(error),
            format_seconds(delay),
        )
        if self._telemetry is not None and delay:
            call_safely(self._telemetry.wait, self._request, delay, decision.reason)
        return delay

    def _kept_note(self, reason: str = "") -> str:
        part = self._part
        why = f": {reason}" if reason else ""
        note = f"prefect_http gave up the download of {part.path}{why}."
        if part.kept is None:
            return note
        return (
            f"{note} {counted(part.size, 'byte')} of it {are(part.size)} in {part.part}; "
            "another download of the same URL to the same path resumes there."
        )

    async def _restart(self, reason: str, *, is_other_version: bool) -> None:
        """Note that what is there is to be dropped.

        Raises:
            DownloadError: that has happened too often.
        """
        restarts = self._retries.note_restart(is_other_version=is_other_version)
        _logger.debug("GET %s: the download starts again: %s", safe_url(self._request.url), reason)
        if restarts > self._policy.max_retries:
            times = counted(restarts - 1, "time")
            ended = f"; the last connection ended with {self._last_break}" if self._last_break else ""
            raise self._error(
                f"{reason}, and the download has started again {times}, as often as max_retries allows{ended}"
            )

    async def _check_size(self, size: int) -> None:
        limit = self._options.max_bytes
        if limit is not None and size > limit:
            await self._discard(f"the file is larger than max_bytes of {counted(limit, 'byte')}")

    async def _check_digest(self) -> None:
        if self._options.sha256 is not None and (digest := self._part.digest()) != self._options.sha256.lower():
            await self._discard(f"the SHA-256 of the file is {digest}, not {self._options.sha256.lower()}")

    async def _discard(self, reason: str) -> NoReturn:
        """Remove what is there, and raise a DownloadError."""
        self._buffer.take()
        await run_blocking(self._part.discard)
        raise self._error(reason)

    def _error(self, reason: str) -> DownloadError:
        message = f"cannot download {safe_url(self._request.url)} to {self._part.path}: {reason}"
        return DownloadError(message, request=self._request)


def _check_headers(given: httpx.Headers, sent: httpx.Headers) -> None:
    """Refuse headers with which no file could be downloaded.

    Args:
        given: those of the call.
        sent: with those of the client, of which the Accept-Encoding is for its other requests.
    """
    for name in _RESERVED:
        if name in sent:
            raise ValueError(f"the header {name} cannot be given, because the download sets it")
    coding = given.get("Accept-Encoding", "identity")
    if coding.strip().lower() != "identity":
        raise ValueError(
            f"the Accept-Encoding of a download must be 'identity', not {coding!r}, so that it can be resumed"
        )


def _is_as_sent(response: httpx.Response) -> bool:
    """Whether a body that has been read is still there as it was sent, as that of a mock is."""
    return type(response.stream) is httpx.ByteStream


def _why_not_decoded(response: httpx.Response) -> str:
    """Return why a body with a content coding cannot be decoded, and what can be done; empty if it can."""
    encodings = response.headers["Content-Encoding"]
    shown = one_line(encodings, limit=_MAX_QUOTED)
    if response.is_stream_consumed and not _is_as_sent(response):
        return (
            "it has been read before, by an event hook or the transport, without a check that it is complete; "
            f"the server sent it with Content-Encoding: {shown}, although the request asked for none"
        )
    coding = undecodable(encodings)
    if coding is None:
        try:
            ContentDecoder(encodings, for_file=True)
        except httpx.DecodingError as error:
            return f"the server sent it with Content-Encoding: {shown}: {error}"
        return ""
    package = package_for(coding)
    if package is not None:
        return f"the server sent it with Content-Encoding: {coding}, which needs a package: pip install '{package}'"
    return (
        f"the server sent it with the unknown Content-Encoding {one_line(coding, limit=_MAX_QUOTED)!r}, "
        "although the request asked for none; stream() and aiter_raw() return it as it is sent"
    )


def _source(url: httpx.URL) -> str:
    """Return what identifies a URL without disclosing it: its query may be a credential."""
    return hashlib.sha256(str(url.copy_with(userinfo=b"", fragment=None)).encode()).hexdigest()
