"""Redirects, authentication, cookies, hooks and the rest work as in httpx, with retries or without."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Generator
from typing import Any

import anyio
import httpx
import pytest
import trio
from support.rows import each_row
from support.scripted_transport import AT_ONCE, URL, Body, Server, notes_of
from trio.testing import MockClock

from prefect_http import PrefectHTTPStatusError, PrefectHttpxClient, PrefectResponse, RetryPolicy

BASE = "http://server"
CHALLENGE = {"WWW-Authenticate": 'Digest realm="r", nonce="abc", qop="auth", algorithm=MD5'}


def redirect(to: str, status: int = 302, **more: Any) -> httpx.Response:
    """Return a redirect."""
    return httpx.Response(status, headers={"Location": to}, **more)


def asked(server: Server) -> list[tuple[str, str]]:
    """Return the methods and URLs that the server was asked for."""
    return [(seen.method, seen.url) for seen in server.seen]


# --- Redirects


@pytest.mark.anyio
async def test_redirects_are_followed_on_request() -> None:
    """With follow_redirects=True redirects are followed, and the history lists them."""
    server = Server(redirect("/b"), redirect("/c", 307), httpx.Response(200, text="there"))
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, follow_redirects=True) as client:
            response = await client.get(f"{BASE}/a")
    assert asked(server) == [("GET", f"{BASE}/{name}") for name in "abc"]
    assert response.text == "there"
    assert response.url == f"{BASE}/c"
    assert [(earlier.status_code, earlier.url.path) for earlier in response.history] == [(302, "/a"), (307, "/b")]


@pytest.mark.anyio
async def test_a_request_may_say_whether_redirects_are_followed() -> None:
    """The request's own follow_redirects overrides the client's."""
    server = Server(redirect("/b"), 200, redirect("/b"))
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server) as client:
            await client.get(URL, follow_redirects=True)
            with pytest.raises(PrefectHTTPStatusError, match="302"):
                await client.get(URL)
    assert server.count == 3


@pytest.mark.anyio
async def test_a_retry_repeats_only_the_request_that_failed() -> None:
    """What fails after redirects is retried from there on, and the history is that of the redirects."""
    server = Server(redirect("/b"), 503, redirect("/c"), 503, 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE, follow_redirects=True) as client:
            response = await client.get(f"{BASE}/a")
    assert asked(server) == [("GET", f"{BASE}/{name}") for name in "abbcc"]
    assert [earlier.url.path for earlier in response.history] == ["/a", "/b"]


@pytest.mark.anyio
async def test_the_error_after_redirects_names_the_last_url() -> None:
    """The error is about the request that got the bad status, and its response has the history."""
    server = Server(redirect("/b"), 404)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, follow_redirects=True) as client:
            with pytest.raises(PrefectHTTPStatusError, match=r"404 Not Found for GET http://server/b") as caught:
                await client.get(f"{BASE}/a")
    assert caught.value.request.url == f"{BASE}/b"
    assert [earlier.status_code for earlier in caught.value.response.history] == [302]


@pytest.mark.anyio
@each_row(
    "failure",
    [
        503,
        httpx.ReadTimeout("slow"),
        httpx.ConnectTimeout("no"),
        httpx.PoolTimeout("no"),
        httpx.ConnectError("refused"),
        httpx.Response(200, stream=Body([b"half", httpx.ReadError("broken")])),
    ],
    ids=["status", "ReadTimeout", "ConnectTimeout", "PoolTimeout", "ConnectError", "body"],
)
@each_row("status", [301, 302, 303])
async def test_a_post_that_was_carried_out_is_not_sent_again(status: int, failure: object) -> None:
    """A POST that was redirected to a GET has been carried out: if the GET fails, only that is repeated."""
    server = Server(redirect("/done", status), failure, 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE, follow_redirects=True) as client:
            await client.post(URL, json={"pay": 1})
    assert asked(server) == [("POST", URL), ("GET", f"{BASE}/done"), ("GET", f"{BASE}/done")]


@pytest.mark.anyio
@pytest.mark.parametrize("status", [307, 308])
async def test_a_post_that_was_sent_elsewhere_is_retried(status: int) -> None:
    """A redirect that keeps the method keeps the body, which is sent again with a retry."""
    server = Server(redirect("/b", status), 503, 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE, follow_redirects=True) as client:
            await client.post(URL, content=b"body")
    assert [seen.body for seen in server.seen] == [b"body"] * 3


@pytest.mark.anyio
async def test_too_many_redirects_are_raised() -> None:
    """A circle of redirects is httpx's TooManyRedirects after one attempt, with a note."""
    server = Server(redirect("/a"), ...)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(
            transport=server, retry=AT_ONCE, follow_redirects=True, max_redirects=3
        ) as client:
            with pytest.raises(httpx.TooManyRedirects) as caught:
                await client.get(URL)
    assert server.count == 4
    assert "prefect_http made 4 of at most" in notes_of(caught.value)
    assert "; max_redirects is 3" in notes_of(caught.value)


@pytest.mark.anyio
async def test_a_long_way_costs_its_length_only() -> None:
    """Noting which origins answered takes linear time, though each redirect has a history of its own."""
    looks = 0

    class Counting(httpx.Response):
        @property
        def url(self) -> httpx.URL:
            nonlocal looks
            looks += 1
            return super().url

    hops = 16
    server = Server(
        *(Counting(302, headers={"Location": f"http://host{hop}/"}) for hop in range(hops)),
        Counting(200),
    )
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, follow_redirects=True) as client:
            assert len((await client.get(URL)).history) == hops
    assert looks < 10 * hops


# --- Authentication


@pytest.mark.anyio
async def test_basic_auth_goes_with_every_attempt() -> None:
    """Each attempt is authenticated."""
    server = Server(503, httpx.ReadError("broken"), 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE, auth=("user", "pw")) as client:
            await client.get(URL)
    agents = [seen.headers["Authorization"] for seen in server.seen]
    assert agents == [agents[0]] * 3


@pytest.mark.anyio
async def test_a_requests_own_auth_counts() -> None:
    """The auth of a request replaces the client's, and None disables it, in every attempt."""
    server = Server(503, 200, 503, 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE, auth=("user", "pw")) as client:
            await client.get(URL, auth=("other", "pw"))
            await client.get(URL, auth=None)
    agents = [seen.headers.get("Authorization") for seen in server.seen]
    assert agents[0] is not None
    assert agents == [agents[0], agents[0], None, None]


@pytest.mark.anyio
async def test_auth_does_not_follow_to_another_host() -> None:
    """A redirect to another origin loses the Authorization, and so does its retry."""
    server = Server(503, redirect("http://elsewhere/"), 503, 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(
            transport=server, retry=AT_ONCE, auth=("user", "pw"), follow_redirects=True
        ) as client:
            await client.get(URL)
    assert ["Authorization" in seen.headers for seen in server.seen] == [True, True, False, False]


@pytest.mark.anyio
async def test_digest_auth() -> None:
    """A digest challenge is answered within the attempt and is not a failure."""
    server = Server(httpx.Response(401, headers=CHALLENGE), 200)
    seen: list[object] = []
    with anyio.fail_after(5):
        async with PrefectHttpxClient(
            transport=server, retry=AT_ONCE, on_retry=lambda *args: seen.append(args)
        ) as client:
            response = await client.get(URL, auth=httpx.DigestAuth("user", "pw"))
    assert [earlier.status_code for earlier in response.history] == [401]
    assert server.seen[1].headers["Authorization"].startswith("Digest ")
    assert seen == []


@pytest.mark.anyio
async def test_digest_auth_with_retries() -> None:
    """A request that fails after its challenge is repeated, and not what led to it."""
    server = Server(503, httpx.Response(401, headers=CHALLENGE), 503, httpx.ReadError("broken"), 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE, auth=httpx.DigestAuth("user", "pw")) as client:
            await client.post(URL, content=b"body", headers={"Idempotency-Key": "k"})
    counts = [re.search(r"nc=(\w+)", seen.headers.get("Authorization", "")) for seen in server.seen]
    assert [count and int(count[1], 16) for count in counts] == [None, None, 1, 1, 1]
    assert [seen.body for seen in server.seen] == [b"body"] * 5


@pytest.mark.anyio
async def test_digest_auth_that_fails_is_raised() -> None:
    """Wrong credentials are a 401, raised after one challenge."""
    server = Server(httpx.Response(401, headers=CHALLENGE), httpx.Response(401, headers=CHALLENGE))
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            with pytest.raises(PrefectHTTPStatusError, match="401") as caught:
                await client.get(URL, auth=httpx.DigestAuth("user", "pw"))
    assert server.count == 2
    assert [attempt.reason for attempt in caught.value.attempts] == [
        "the auth flow sent another request",
        "401 is not retried",
    ]


@pytest.mark.anyio
async def test_digest_auth_is_begun_anew_after_a_replay() -> None:
    """A server may refuse credentials that it has seen. So a 401 to a repeated request starts the flow anew."""
    challenge = httpx.Response(401, headers=CHALLENGE)
    server = Server(challenge, httpx.ReadError("broken"), challenge, 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            response = await client.get(URL, auth=httpx.DigestAuth("user", "pw"))
    counts = [re.search(r"nc=(\w+)", seen.headers.get("Authorization", "")) for seen in server.seen]
    assert [count and int(count[1], 16) for count in counts] == [None, 1, 1, 2]
    assert [earlier.status_code for earlier in response.history] == [401, 401]


class TokenAuth(httpx.Auth):
    """Fetch a token first, and again when it has expired."""

    requires_response_body = True

    def __init__(self) -> None:
        self.finished = 0

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        try:
            token = yield httpx.Request("GET", f"{BASE}/token")
            request.headers["Authorization"] = token.text
            yield request
        finally:
            self.finished += 1


@pytest.mark.anyio
async def test_each_request_of_an_auth_flow_is_repeated_by_itself() -> None:
    """A flow of several requests runs once, and each of its requests has its own retries."""
    auth = TokenAuth()
    broken = httpx.Response(200, stream=Body([b"t", httpx.ReadError("broken")]))
    server = Server(503, broken, httpx.Response(200, text="t1"), 503, httpx.ReadError("broken"), 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE, auth=auth) as client:
            response = await client.get(URL)
    assert [(seen.url.removeprefix(BASE), seen.headers.get("Authorization")) for seen in server.seen] == [
        *[("/token", None)] * 3,
        *[("/path", "t1")] * 3,
    ]
    assert [attempt.number for attempt in response.attempts] == [1, 2, 3, 4, 5, 6]
    assert [attempt.status_code for attempt in response.attempts] == [503, None, 200, 503, None, 200]
    assert auth.finished == 1


class BodyAuth(httpx.Auth):
    """Sign the body."""

    requires_request_body = True

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["X-Length"] = str(len(request.content))
        yield request


@pytest.mark.anyio
async def test_an_auth_flow_may_need_the_body() -> None:
    """An auth flow that reads the body gets it, and the body is sent whole."""
    server = Server(503, 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE, auth=BodyAuth()) as client:
            await client.post(URL, content=b"body")
    assert [(seen.headers["X-Length"], seen.body) for seen in server.seen] == [("4", b"body")] * 2


class BrokenAuth(httpx.Auth):
    """Raise an error of its own."""

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        yield request
        raise RuntimeError("auth")


@pytest.mark.anyio
async def test_an_auth_flow_that_raises_closes_the_response() -> None:
    """What an auth flow raises is raised unchanged, with the response closed."""
    body = Body([b"x"])
    server = Server(httpx.Response(200, stream=body))
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE, auth=BrokenAuth()) as client:
            with pytest.raises(RuntimeError, match="auth"):
                await client.get(URL)
    assert body.is_closed


# --- Cookies


@pytest.mark.anyio
async def test_cookies_are_kept() -> None:
    """A cookie that the server sets is sent with the next request."""
    server = Server(httpx.Response(200, headers={"Set-Cookie": "c=1"}), 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server) as client:
            await client.get(URL)
            await client.get(URL)
    assert server.seen[1].headers["Cookie"] == "c=1"


@pytest.mark.anyio
async def test_cookies_of_discarded_responses_are_kept() -> None:
    """A response that is discarded sets its cookies nevertheless."""
    server = Server(httpx.Response(503, headers={"Set-Cookie": "c=1"}), 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            await client.get(URL)
            assert client.cookies["c"] == "1"


# --- Event hooks


@pytest.mark.anyio
async def test_event_hooks_are_called_once_for_each_attempt() -> None:
    """Each attempt calls each hook once, in order."""
    story: list[object] = []

    async def on_request(request: httpx.Request) -> None:
        story.append(request.method)

    async def on_response(response: httpx.Response) -> None:
        story.append(response.status_code)

    server = Server(503, httpx.ReadError("broken"), 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(
            transport=server, retry=AT_ONCE, event_hooks={"request": [on_request], "response": [on_response]}
        ) as client:
            await client.get(URL)
    assert story == ["GET", 503, "GET", "GET", 200]


@pytest.mark.anyio
async def test_an_event_hook_may_read_the_response() -> None:
    """A hook that reads each response affects neither retries nor errors."""

    async def read(response: httpx.Response) -> None:
        await response.aread()

    bodies = [Body([b"first"]), Body([b"second"]), Body([b"third"])]
    server = Server(*(httpx.Response(status, stream=b) for status, b in zip((503, 200, 404), bodies, strict=True)))
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE, event_hooks={"response": [read]}) as client:
            assert (await client.get(URL)).text == "second"
            with pytest.raises(PrefectHTTPStatusError, match="third"):
                await client.get(URL)
    assert all(body.is_closed for body in bodies)


@pytest.mark.anyio
async def test_an_event_hook_may_close_the_response() -> None:
    """A hook that closes bad responses affects neither retries nor errors; the message just has no text."""

    async def close_bad(response: httpx.Response) -> None:
        if response.is_error:
            await response.aclose()

    bodies = [Body([b"first"]), Body([b"second"]), Body([b"third"])]
    server = Server(*(httpx.Response(status, stream=b) for status, b in zip((503, 200, 404), bodies, strict=True)))
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE, event_hooks={"response": [close_bad]}) as client:
            assert (await client.get(URL)).text == "second"
            with pytest.raises(PrefectHTTPStatusError, match="404 Not Found for GET") as caught:
                await client.get(URL)
    assert "third" not in str(caught.value)
    assert all(body.is_closed for body in bodies)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["request", "response"])
async def test_an_event_hook_that_raises_ends_the_request(kind: str) -> None:
    """What a hook raises is raised at once, with the response closed."""
    body = Body([b"x"])

    async def broken(_: object) -> None:
        raise RuntimeError("hook")

    server = Server(httpx.Response(503, stream=body), 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE, event_hooks={kind: [broken]}) as client:
            with pytest.raises(RuntimeError, match="hook"):
                await client.get(URL)
    assert server.count == (1 if kind == "response" else 0)
    assert body.is_closed is (kind == "response")


@pytest.mark.anyio
async def test_an_event_hook_sees_a_plain_status_error_of_its_own() -> None:
    """A hook that raises for the status, as httpx suggests, ends the request with its error."""

    async def strict(response: httpx.Response) -> None:
        response.raise_for_status()

    server = Server(503, 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE, event_hooks={"response": [strict]}) as client:
            with pytest.raises(httpx.HTTPStatusError):
                await client.get(URL)
    assert server.count == 1


# --- What a response has


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
async def test_elapsed(stream: bool) -> None:
    """The elapsed time is there once the response has been read."""
    server = Server(503, httpx.Response(200, stream=Body([b"x"])))
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            response = await client.send(client.build_request("GET", URL), stream=stream)
            await response.aread()
    assert 0 < response.elapsed.total_seconds() < 5


@pytest.mark.anyio
async def test_extensions_of_a_response() -> None:
    """The response keeps the transport's extensions."""
    server = Server(httpx.Response(200, extensions={"http_version": b"HTTP/2", "reason_phrase": b"Fine", "own": 1}))
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server) as client:
            response = await client.get(URL)
    assert (response.http_version, response.reason_phrase, response.extensions["own"]) == ("HTTP/2", "Fine", 1)


@pytest.mark.anyio
async def test_extensions_of_a_request() -> None:
    """Other extensions of a request, and its timeouts, reach the transport in every attempt."""
    seen: list[tuple[object, object]] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.extensions["own"], request.extensions["timeout"]))
        return httpx.Response(503 if len(seen) == 1 else 200)

    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(answer, ...), retry=AT_ONCE) as client:
            await client.get(URL, extensions={"own": 1}, timeout=httpx.Timeout(7))
    assert seen == [(1, httpx.Timeout(7).as_dict())] * 2


@pytest.mark.anyio
async def test_a_request_that_httpx_has_not_built() -> None:
    """An httpx.Request that the client has not built is sent and retried."""
    server = Server(503, 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            response = await client.send(httpx.Request("GET", URL))
    assert type(response) is PrefectResponse
    assert server.count == 2


# --- Opening and closing the client


@pytest.mark.anyio
async def test_a_closed_client_says_so() -> None:
    """A request on a closed client is httpx's RuntimeError."""
    server = Server(200)
    async with PrefectHttpxClient(transport=server) as client:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        await client.get(URL)
    assert client.is_closed
    assert server.count == 0


@pytest.mark.anyio
async def test_a_client_works_without_being_entered() -> None:
    """As in httpx, a client may be used without a block and closed with aclose()."""
    client = PrefectHttpxClient(transport=Server(503, 200), retry=AT_ONCE)
    with anyio.fail_after(5):
        assert (await client.get(URL)).status_code == 200
    await client.aclose()
    assert client.is_closed


@pytest.mark.trio
async def test_a_client_that_is_closed_during_a_wait_says_so(autojump_clock: MockClock) -> None:
    """A client that is closed while a request waits makes no further attempt."""
    server = Server(503, 200)
    client = PrefectHttpxClient(transport=server, retry=RetryPolicy(jitter=0))

    async def get() -> None:
        with pytest.raises(RuntimeError, match="closed"):
            await client.get(URL)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(get)
            await trio.sleep(1)
            await client.aclose()
    assert server.count == 1


@pytest.mark.anyio
async def test_mounted_transports_are_retried_like_any_other() -> None:
    """Mounted transports are retried as well."""
    mounted = Server(503, 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(), mounts={"http://server": mounted}, retry=AT_ONCE) as client:
            await client.get(URL)
    assert mounted.count == 2


@pytest.mark.anyio
async def test_a_mock_transport_will_do() -> None:
    """httpx.MockTransport works with retries, bodies and errors."""
    answers = iter([httpx.Response(503), httpx.Response(200, json={"a": 1}), httpx.Response(404, text="no")])
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=httpx.MockTransport(lambda _: next(answers)), retry=AT_ONCE) as client:
            assert (await client.post(URL, json={"b": 2})).json() == {"a": 1}
            with pytest.raises(PrefectHTTPStatusError, match="no"):
                await client.get(URL)
