"""The differences to httpx.AsyncClient, all of them: what httpx does, and what ours does instead.

Everything else that the tests of this folder observe is the same. Beyond these, a policy that allows retries, and
``raise_on_all_errors``, differ by design; the notes of errors and the names of classes are ours.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from support.beside_httpx import URL, Note, Run, Scenario, Stream, observe
from support.rows import each_row

from prefect_http import PrefectHttpxClient


async def _chunks() -> AsyncIterator[bytes]:
    yield b"one-"
    yield b"two"


async def _user_agent(run: Run) -> None:
    """The User-Agent names this package as well."""
    response = await run.client(200).get(URL)
    run.note(response.request.headers["User-Agent"].startswith(("prefect-http/", "python-httpx")))
    run.note(response.request.headers["User-Agent"].partition("/")[0].removesuffix("2"))


async def _malformed_location(run: Run) -> None:
    """A Location that is not a URL is an InvalidResponse, whatever the transport."""
    answer = httpx.Response(302, headers={"Location": "http://server:port/"})
    await _note_error(run, run.client(answer, follow_redirects=True).get(URL))


async def _one_shot_body(run: Run) -> None:
    """A body that can be read only once is not read again; the error says what to do."""
    answer = httpx.Response(307, headers={"Location": "/next"})
    await _note_error(run, run.client(answer, 200, follow_redirects=True).post(URL, content=_chunks()))


async def _switching_protocols(run: Run) -> None:
    """A 101 hands over its stream, so it is not read; and it is not a bad status."""
    response = await run.client(httpx.Response(101, stream=Stream(run, b"x"))).get(URL)
    run.note("closed", response.is_closed)
    await _note_error(run, _raise_for_status(response))


async def _status_errors(run: Run) -> None:
    """The error for a bad status is of a class of ours, with a message in one line."""
    response = await run.client(httpx.Response(404, text="which one?")).get(URL)
    await _note_error(run, _raise_for_status(response))


async def _request_of_a_hook(run: Run) -> None:
    """An httpx.RequestError that an event hook raises without a request has one."""

    async def hook(_: httpx.Request) -> None:
        raise httpx.ReadError("of the hook")

    try:
        await run.client(200, event_hooks={"request": [hook]}).get(URL)
    except httpx.ReadError as error:
        try:
            run.note(str(error.request.url))
        except RuntimeError:
            run.note("no request")


async def _large_redirects(run: Run) -> None:
    """Of a redirect that is followed and of a challenge that is answered, at most 1 MiB is read."""
    answer = httpx.Response(302, headers={"Location": "/next"}, stream=Stream(run, *[bytes(1 << 20)] * 3))
    response = await run.client(answer, 200, follow_redirects=True).get(URL)
    run.note(len(response.history[0].content) >> 20)


async def _streamed_by_a_hook(run: Run) -> None:
    """A redirect whose body an event hook has streamed is followed."""

    async def hook(response: httpx.Response) -> None:
        if response.has_redirect_location:
            assert [chunk async for chunk in response.aiter_raw()] == [b"x"]

    answer = httpx.Response(302, headers={"Location": "/next"}, stream=Stream(run, b"x"))
    await _note_error(run, run.client(answer, 200, follow_redirects=True, event_hooks={"response": [hook]}).get(URL))


async def _no_request(run: Run) -> None:
    """An auth flow must yield requests; the error says so."""
    await _note_error(run, run.client(200).get(URL, auth=lambda _: None))  # type: ignore[arg-type]


async def _query(run: Run) -> None:
    """A 302 keeps a QUERY (RFC 10008 section 2.5)."""
    answer = httpx.Response(302, headers={"Location": "/next"})
    response = await run.client(answer, 200, follow_redirects=True).request("QUERY", URL)
    run.note(response.request.method)


async def _no_host(run: Run) -> None:
    """A URL without a host is the transport's business; before httpx2, the standard library's cookies fail at it."""
    client = run.client(transport=httpx.MockTransport(lambda _: httpx.Response(200)))
    await _note_error(run, client.get("/relative"))


async def _note_error(run: Run, step: Any) -> None:
    try:
        await step
    except Exception as error:
        run.note(type(error).__name__)
    else:
        run.note("no error")


async def _raise_for_status(response: httpx.Response) -> None:
    response.raise_for_status()


_ON_HTTPX2 = httpx.__name__ == "httpx2"
_READ: list[Note] = [("stream", "is read"), ("stream", "is closed")]
_ALL: list[tuple[Scenario, list[Note], list[Note]]] = [
    (_user_agent, [(True,), ("python-httpx",)], [(True,), ("prefect-http",)]),
    (_malformed_location, [("RemoteProtocolError",)], [("InvalidResponse",)]),
    (_one_shot_body, [("StreamConsumed",)], [("LocalProtocolError",)]),
    (
        _switching_protocols,
        [*_READ, ("closed", True), ("HTTPStatusError",)],
        [("closed", False), ("no error",)],
    ),
    (_status_errors, [("HTTPStatusError",)], [("PrefectHTTPStatusError",)]),
    (_request_of_a_hook, [("no request",)], [(URL,)]),
    (_large_redirects, [*_READ, (3,)], [*_READ, (1,)]),
    (_streamed_by_a_hook, [*_READ, ("StreamConsumed",)], [*_READ, ("no error",)]),
    (_no_request, [("AttributeError",)], [("TypeError",)]),
    (_query, [("QUERY",) if _ON_HTTPX2 else ("GET",)], [("QUERY",)]),
    (_no_host, [("no error",) if _ON_HTTPX2 else ("ValueError",)], [("no error",)]),
]


@pytest.mark.trio
@each_row(("scenario", "theirs", "ours"), _ALL)
async def test_a_difference(scenario: Scenario, theirs: list[Note], ours: list[Note]) -> None:
    """Both sides do what the table says."""
    for client_class, expected in ((httpx.AsyncClient, theirs), (PrefectHttpxClient, ours)):
        notes = await observe(scenario, client_class)
        assert [note for note in notes if note[0] not in {"transport", "log", "client"}] == expected
