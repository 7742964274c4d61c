"""Redirects are followed, or not, as by httpx.AsyncClient."""

from __future__ import annotations

import io
import itertools
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from support.beside_httpx import MODES, URL, Answer, Run, Stream, beside_httpx, in_both_modes, observe

from prefect_http import PrefectHttpxClient


def redirect(to: str, status: int = 302, **more: Any) -> httpx.Response:
    """Return a redirect."""
    headers = {b"Location": to.encode(), **more.pop("headers", {})}
    return httpx.Response(status, headers=headers, **more)


def final(request: httpx.Request) -> httpx.Response:
    """Return the response at the end of a way."""
    return httpx.Response(200, text=f"at {request.url.path}")


async def _chunks() -> AsyncIterator[bytes]:
    yield b"one-"
    yield b"two"


# --- Statuses, methods and bodies


@pytest.mark.trio
@beside_httpx
async def test_statuses_and_methods(run: Run) -> None:
    """Each status is followed or not, and keeps or changes each method."""
    for status in range(300, 309):
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"):
            if (status, method) == (302, "QUERY"):  # httpx2 keeps it (RFC 10008 section 2.5), httpx does not
                continue
            run.case(status, method)
            client = run.client(redirect("/there", status, text="moved"), final, follow_redirects=True)
            await run.request(client, method, headers={"X-Own": "1"}, content=b"body")


@pytest.mark.trio
@in_both_modes
async def test_other_statuses_with_a_location(run: Run) -> None:
    """A Location is followed for no other status."""
    for status in (200, 201, 304, 401, 404, 429, 500, 503):
        run.case(status)
        await run.request(run.client(redirect("/there", status), follow_redirects=True))


@pytest.mark.trio
@in_both_modes
async def test_redirects_without_a_location(run: Run) -> None:
    """Without a Location they are responses like any other."""
    for status in (301, 302, 303, 307, 308):
        run.case(status)
        await run.request(run.client(status, follow_redirects=True))


_BODIES: dict[str, Any] = {
    "bytes": lambda: {"content": b"body"},
    "json": lambda: {"json": {"a": 1}},
    "form": lambda: {"data": {"a": "1"}},
    "multipart": lambda: {"files": {"f": io.BytesIO(b"file")}},
    "own length": lambda: {"content": b"body", "headers": {"Content-Length": "4", "Content-Type": "text/own"}},
}


@pytest.mark.trio
@beside_httpx
async def test_bodies(run: Run) -> None:
    """A body is sent again, or left out together with its length."""
    for kind, arguments in _BODIES.items():
        for status in (301, 303, 307):
            run.case(kind, status)
            client = run.client(redirect("/a", status), redirect("/b", status), final, follow_redirects=True)
            await run.request(client, "POST", **arguments())
            await run.request(client, "PUT", **arguments())


@pytest.mark.trio
@in_both_modes
async def test_a_generator_that_is_not_needed_again(run: Run) -> None:
    """A body that can be read only once is sent once; the GET behind it has none."""
    for status in (301, 302, 303):
        async with run.client(redirect("/there", status), final, follow_redirects=True) as client:
            await run.request(client, "POST", content=_chunks())


@pytest.mark.trio
@pytest.mark.parametrize("status", [307, 308])
async def test_a_generator_that_would_be_needed_again(status: int) -> None:
    """It is an error. Ours says what to do, and never is a StreamConsumed."""

    async def scenario(run: Run) -> None:
        async with run.client(redirect("/there", status), final, follow_redirects=True) as client:
            await run.request(client, "POST", content=_chunks())

    for mode in MODES:
        theirs = await observe(scenario, httpx.AsyncClient, mode)
        ours = await observe(scenario, PrefectHttpxClient, mode)
        # Of the requests, only the first has come so far that the transport could note it.
        assert [note[0] for note in ours] == [note[0] for note in theirs]
        errors = [next(note[1] for note in notes if note[0] == "raised") for notes in (theirs, ours)]
        assert [error[0] for error in errors] == ["StreamConsumed", "LocalProtocolError"]  # type: ignore[index]


# --- Locations

LOCATIONS = [
    *("http://server/x", "/x", "x", "../x", "?q=1", "#f", "/x#other", "", ".", "//server/x", "//other/x"),
    *("http://other/x", "https://server/x", "http://server:80/x", "http://server:8080/x", "http://SERVER/x"),
    *("http:///x", "https:///x", "http://:8080/x", "https://other:443/", "custom://server/x", "http://sub.server/"),
    *("/x y", "/ü", "http://bücher.example/", "/%e4", "http://user:pw@server/", "http://user@other/", "/a/./b/../c"),
    *("https://server:443/x", "https://server:8443/x", "HTTP://server/", "/x;p?q#f", "http://[::1]/x"),
]
_HEADERS = {"Authorization": "Secret", "Cookie": "by=hand", "Host": "own", "X-Own": "1"}


@pytest.mark.trio
@pytest.mark.parametrize("base", ["http://server/a/b?c#frag", "https://server/a", "http://server:8080/a"])
@beside_httpx
async def test_locations(run: Run, base: str) -> None:
    """Where a redirect leads, and which of the caller's headers go there."""
    for location in LOCATIONS:
        run.case(location)
        client = run.client(redirect(location), final, follow_redirects=True)
        await run.request(client, url=base, headers=_HEADERS)


@pytest.mark.trio
@pytest.mark.parametrize("auth", ["client", "request", "url"])
@beside_httpx
async def test_credentials(run: Run, auth: str) -> None:
    """Credentials go along within the origin, and to its https."""
    of_client = {"auth": ("user", "pw")} if auth == "client" else {}
    of_request: dict[str, Any] = {"auth": ("user", "pw")} if auth == "request" else {}
    url = "http://user:pw@server/" if auth == "url" else URL
    for location in ("/x", "http://other/x", "https://server/x", "http://server:8080/"):
        run.case(location)
        answers: list[Answer] = [redirect(location), redirect("/y"), redirect(URL), final]
        await run.request(run.client(*answers, follow_redirects=True, **of_client), url=url, **of_request)


@pytest.mark.trio
@beside_httpx
async def test_several_locations(run: Run) -> None:
    """The first of several counts, or whatever httpx makes of them."""
    answer = httpx.Response(302, headers=[("Location", "/one"), ("Location", "/two")])
    async with run.client(answer, final, follow_redirects=True) as client:
        await run.request(client)


# Where httpx raises one of several errors, or sends the request to a port that does not exist.
MALFORMED = ["http://server:port/", "https://😇/", "http://server:99999/", "\x00"]


@pytest.mark.trio
@pytest.mark.parametrize("follows", [True, False])
async def test_malformed_locations(follows: bool) -> None:
    """They are an InvalidResponse, and what is observed up to then is the same."""
    for location, mode in itertools.product(MALFORMED, MODES):

        async def scenario(run: Run, location: str = location) -> None:
            client = run.client(redirect(location, stream=Stream(run, b"body")), final, follow_redirects=follows)
            await run.request(client)

        theirs = await observe(scenario, httpx.AsyncClient, mode)
        ours = await observe(scenario, PrefectHttpxClient, mode)
        assert ours[0] == theirs[0]
        assert [note[0] for note in ours if note[0] != "log"] == ["transport", "stream", "raised", "client"], location
        error: Any = ours[-2][1]
        assert error[0] == "InvalidResponse"
        assert error[2]["url"] == URL
        assert any("is closed" in note for note in ours)


# --- How many


@pytest.mark.trio
@in_both_modes
async def test_max_redirects(run: Run) -> None:
    """Two redirects may be too many."""
    for max_redirects in range(4):
        run.case(max_redirects)
        answers: list[Answer] = [redirect("/a"), redirect("/b"), final]
        client = run.client(
            *answers, follow_redirects=True, max_redirects=max_redirects, event_hooks=run.hooks("request")
        )
        await run.request(client)
        client.max_redirects = 20
        await run.request(client)


@pytest.mark.trio
@beside_httpx
async def test_a_circle(run: Run) -> None:
    """A circle ends after 20 redirects."""
    async with run.client(lambda _: redirect("/again"), follow_redirects=True) as client:
        await run.request(client, "POST", content=b"x")


# --- Who follows


@pytest.mark.trio
@in_both_modes
async def test_who_decides(run: Run) -> None:
    """The request decides, else the client."""
    default = httpx.USE_CLIENT_DEFAULT
    for of_client, of_request in itertools.product((True, False), (True, False, None, default)):
        run.case(of_client, of_request is default or of_request)
        client = run.client(redirect("/x", text="moved"), final, follow_redirects=of_client)
        await run.request(client, follow_redirects=of_request)
        client.follow_redirects = not of_client
        await run.request(client, follow_redirects=of_request)
        client = run.client(redirect("/x", text="moved"), final, follow_redirects=of_client)
        await run.send(client, client.build_request("GET", URL), follow_redirects=of_request)


@pytest.mark.trio
@pytest.mark.parametrize("status", [301, 307])
@in_both_modes
async def test_next_requests(run: Run, status: int) -> None:
    """Redirects are followed by hand, with next_request."""
    async with run.client(
        redirect("/a", status, headers={b"Set-Cookie": b"a=1"}),
        redirect("http://other/b", status),
        final,
        auth=("user", "pw"),
        event_hooks=run.hooks(),
    ) as client:
        response = await run.request(client, "POST", content=b"body", extensions={"own": 1})
        while response is not None and response.next_request is not None:
            response = await run.send(client, response.next_request)


@pytest.mark.trio
@beside_httpx
async def test_next_request_with_a_generator(run: Run) -> None:
    """A next_request may have a body that cannot be sent again."""
    async with run.client(redirect("/a", 303), redirect("/b", 303), final) as client:
        response = await run.request(client, "POST", content=_chunks())
        assert response is not None
        assert response.next_request is not None
        await run.send(client, response.next_request)


# --- What is read and closed


@pytest.mark.trio
@pytest.mark.parametrize("follows", [True, False])
@in_both_modes
async def test_bodies_of_redirects(run: Run, follows: bool) -> None:
    """The body of a redirect is read before it is followed, and closed."""
    async with run.client(
        redirect("/a", stream=Stream(run, b"one", b"two", name="first")),
        redirect("/b", stream=Stream(run, name="second")),
        httpx.Response(200, stream=Stream(run, b"last", name="third")),
        follow_redirects=follows,
        event_hooks=run.hooks(),
    ) as client:
        await run.request(client)


@pytest.mark.trio
@in_both_modes
async def test_a_redirect_whose_body_breaks_off(run: Run) -> None:
    """It is an error, and the response is closed."""
    for error in (httpx.ReadError("broken"), httpx.ReadTimeout("slow"), ZeroDivisionError("x")):
        run.case(error)
        stream = Stream(run, b"one", error)
        await run.request(run.client(redirect("/a", stream=stream), final, follow_redirects=True))


@pytest.mark.trio
@in_both_modes
async def test_a_failure_behind_a_redirect(run: Run) -> None:
    """The error has the request that failed."""
    async with run.client(redirect("/a"), httpx.ConnectError("refused"), follow_redirects=True) as client:
        await run.request(client, "POST", content=b"x")


@pytest.mark.trio
@in_both_modes
async def test_a_request_object_is_sent_twice(run: Run) -> None:
    """Neither send changes the request."""
    async with run.client(
        redirect("/a"), final, follow_redirects=True, auth=("u", "p"), cookies={"c": "1"}, default_encoding="latin-1"
    ) as client:
        request = client.build_request("PUT", URL, content=b"body")
        await run.send(client, request)
        await run.send(client, request)


@pytest.mark.trio
@beside_httpx
async def test_a_redirect_to_another_transport(run: Run) -> None:
    """Each request of a way goes to the transport that is mounted for its URL."""
    mounts = {"http://other": run.transport(redirect("custom://x/"), name="other"), "custom://": run.transport(final)}
    async with run.client(redirect("http://other/"), follow_redirects=True, mounts=mounts) as client:
        await run.request(client)
