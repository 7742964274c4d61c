"""What transports raise is raised as by httpx.AsyncClient, with the request that failed."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from support.beside_httpx import URL, Run, Stream, in_both_modes

ERRORS: list[type[httpx.RequestError]] = [
    *(httpx.ConnectTimeout, httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout, httpx.TimeoutException),
    *(httpx.ConnectError, httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.NetworkError),
    *(httpx.LocalProtocolError, httpx.RemoteProtocolError, httpx.ProxyError, httpx.UnsupportedProtocol),
    *(httpx.TransportError, httpx.DecodingError, httpx.TooManyRedirects, httpx.RequestError),
]


@pytest.mark.trio
@in_both_modes
async def test_errors_of_transports(run: Run) -> None:
    """They are raised themselves, with the request, unless they have one already."""
    other = httpx.Request("PUT", "http://other/")
    for kind in ERRORS:
        run.case(kind.__name__)
        for error in (kind("without a request"), kind("with a request", request=other)):
            await run.request(run.client(error), "POST", content=b"body")


@pytest.mark.trio
@in_both_modes
async def test_errors_of_bodies(run: Run) -> None:
    """The same for errors of the stream of a response."""
    for kind in ERRORS:
        run.case(kind.__name__)
        await run.request(run.client(httpx.Response(200, stream=Stream(run, b"begun", kind("broken")))))


@pytest.mark.trio
@in_both_modes
async def test_other_errors(run: Run) -> None:
    """Whatever else a transport or a stream raises is raised as it is."""
    errors: list[Exception] = [
        *(ValueError("x"), RuntimeError("x"), OSError(7, "x"), KeyError("x"), TimeoutError(), StopAsyncIteration("x")),
        *(httpx.InvalidURL("x"), httpx.StreamClosed(), httpx.StreamConsumed(), httpx.ResponseNotRead()),
        *(httpx.CookieConflict("x"), ExceptionGroup("x", [ValueError("y")])),
    ]
    for error in errors:
        run.case(repr(error))
        await run.request(run.client(error))
        if not isinstance(error, StopAsyncIteration):  # is the end of a generator
            await run.request(run.client(httpx.Response(200, stream=Stream(run, b"begun", error))))


@pytest.mark.trio
@in_both_modes
async def test_the_cause_of_an_error(run: Run) -> None:
    """An error keeps its cause."""

    def fail(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("broken") from OSError(104, "reset")

    await run.request(run.client(fail))


@pytest.mark.trio
@in_both_modes
async def test_a_stream_that_cannot_be_closed(run: Run) -> None:
    """What closing the stream of a good response raises is raised."""

    class Unclosable(Stream):
        async def aclose(self) -> None:
            await super().aclose()
            raise ZeroDivisionError("in aclose")

    run.note(URL)
    for kind in (Stream, Unclosable):
        response: Any = httpx.Response(200, stream=kind(run, b"x"))
        await run.request(run.client(response))
