"""Each request of an auth flow and of a chain of redirects has attempts of its own; in virtual time."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

import anyio
import httpx
import pytest
from support.rows import each_row
from support.scripted_transport import AT_ONCE, URL, Body, Server, notes_of
from support.virtual_time import virtual_time_backend

from prefect_http import (
    Attempt,
    InvalidResponse,
    PrefectHTTPStatusError,
    PrefectHttpxClient,
    PrefectResponse,
    RetryPolicy,
)

pytestmark = pytest.mark.anyio

CHALLENGE = {"WWW-Authenticate": 'Digest realm="r", nonce="abc", qop="auth", algorithm=MD5'}
FOLLOWED, FLOW, ANEW, GOOD, AGAIN = (
    "the redirect was followed",
    "the auth flow sent another request",
    "the auth flow was begun anew",
    "the response was accepted",
    "backoff of 0 s",
)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run on both backends, in virtual time."""
    return virtual_time_backend(str(request.param))


def redirect(to: str = "/b", status: int = 307, **more: Any) -> httpx.Response:
    """Return a redirect."""
    return httpx.Response(status, headers={"Location": to}, **more)


def challenge(**more: Any) -> httpx.Response:
    """Return a challenge of digest authentication."""
    return httpx.Response(401, headers=CHALLENGE, **more)


class Recorder:
    """Records in order what ``on_attempt`` and ``on_retry`` are called with.

    Attributes:
        calls: the name of the hook, the method and URL of the request, and the number of the attempt.
        attempts: those of ``on_attempt``.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, int]] = []
        self.attempts: list[Attempt] = []

    def on_attempt(self, request: httpx.Request, attempt: Attempt) -> None:
        """Record a call of ``on_attempt``."""
        self.calls.append(("attempt", request.url.path, attempt.number))
        self.attempts.append(attempt)

    def on_retry(self, request: httpx.Request, attempt: Attempt) -> None:
        """Record a call of ``on_retry``."""
        self.calls.append(("retry", request.url.path, attempt.number))


async def send(*script: object, stream: bool = False, retries: int = 3, **more: Any) -> tuple[Any, Recorder, Server]:
    """Send a request that follows redirects; return the response or the error, and what happened."""
    recorder, server = Recorder(), Server(*script)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(
            transport=server,
            retry=dataclasses.replace(AT_ONCE, max_retries=retries),
            on_attempt=recorder.on_attempt,
            on_retry=recorder.on_retry,
            **{"follow_redirects": True, "auth": httpx.DigestAuth("user", "pw"), **more},
        ) as client:
            try:
                response = await client.send(client.build_request("GET", URL), stream=stream)
                await response.aclose()
            except (httpx.RequestError, PrefectHTTPStatusError) as error:
                return error, recorder, server
    return response, recorder, server


def broken() -> httpx.ReadError:
    """Return an error of the network."""
    return httpx.ReadError("broken")


# What the server answers, the outcome and the reason of each attempt, and the history's statuses.
Row = tuple[Callable[[], list[object]], list[object], list[str], list[int]]
ROWS: dict[str, Row] = {
    "redirect": (lambda: [redirect(), 200], [307, 200], [FOLLOWED, GOOD], [307]),
    "two redirects": (
        lambda: [redirect(), redirect("/c"), 200],
        [307, 307, 200],
        [FOLLOWED, FOLLOWED, GOOD],
        [307, 307],
    ),
    "first hop": (lambda: [503, redirect(), 200], [503, 307, 200], [AGAIN, FOLLOWED, GOOD], [307]),
    "second hop": (lambda: [redirect(), 503, 200], [307, 503, 200], [FOLLOWED, AGAIN, GOOD], [307]),
    "both hops": (
        lambda: [broken(), redirect(), 429, broken(), 200],
        [httpx.ReadError, 307, 429, httpx.ReadError, 200],
        [AGAIN, FOLLOWED, AGAIN, AGAIN, GOOD],
        [307],
    ),
    "challenge": (lambda: [challenge(), 200], [401, 200], [FLOW, GOOD], [401]),
    "rejected challenge": (
        lambda: [503, challenge(), 503, 200],
        [503, 401, 503, 200],
        [AGAIN, FLOW, AGAIN, GOOD],
        [401],
    ),
    "challenge anew": (
        lambda: [challenge(), broken(), challenge(), 200],
        [401, httpx.ReadError, 401, 200],
        [FLOW, AGAIN, ANEW, GOOD],
        [401, 401],
    ),
    "challenge and redirect": (
        lambda: [challenge(), redirect(), 503, 200],
        [401, 307, 503, 200],
        [FLOW, FOLLOWED, AGAIN, GOOD],
        [401, 307],
    ),
    "redirect and challenge": (
        lambda: [redirect(), challenge(), 503, 200],
        [307, 401, 503, 200],
        [FOLLOWED, FLOW, AGAIN, GOOD],
        [401],
    ),
    "broken body of a redirect": (
        lambda: [redirect(stream=Body([b"x", broken()])), redirect(), 200],
        [httpx.ReadError, 307, 200],
        [AGAIN, FOLLOWED, GOOD],
        [307],
    ),
    "broken body behind a redirect": (
        lambda: [redirect(), httpx.Response(200, stream=Body([b"x", broken()])), 200],
        [307, httpx.ReadError, 200],
        [FOLLOWED, AGAIN, GOOD],
        [307],
    ),
    "broken body behind a challenge": (
        lambda: [challenge(), httpx.Response(200, stream=Body([b"x", broken()])), 200],
        [401, httpx.ReadError, 200],
        [FLOW, AGAIN, GOOD],
        [401],
    ),
}


@each_row("name", ROWS)
async def test_the_attempts(name: str) -> None:
    """The attempts run on through redirects and challenges, and each hook is called for each in order."""
    make, outcomes, reasons, history = ROWS[name]
    response, recorder, server = await send(*make())
    assert type(response) is PrefectResponse
    assert [attempt.status_code or type(attempt.exception) for attempt in response.attempts] == outcomes
    assert [attempt.reason for attempt in response.attempts] == reasons
    assert [attempt.number for attempt in response.attempts] == list(range(1, len(outcomes) + 1))
    assert [attempt.delay is not None for attempt in response.attempts] == [reason == AGAIN for reason in reasons]
    assert all(attempt.elapsed >= 0 for attempt in response.attempts)
    assert recorder.attempts == list(response.attempts)
    assert [earlier.status_code for earlier in response.history] == history
    assert [len(earlier.history) for earlier in response.history] == sorted(len(e.history) for e in response.history)
    expected = []
    for number, (reason, seen) in enumerate(zip(reasons, server.seen, strict=True), 1):
        path = httpx.URL(seen.url).path
        expected += [("attempt", path, number)] + [("retry", path, number)] * (reason == AGAIN)
    assert recorder.calls == expected


@each_row("auth", [None, ("user", "pw"), httpx.DigestAuth("user", "pw")], ids=["none", "basic", "digest"])
@each_row("stream", [False, True], ids=["read", "streamed"])
async def test_the_history_is_the_same_with_any_auth(auth: Any, stream: bool) -> None:
    """A request that is repeated behind a redirect has the redirect in its history."""
    body = httpx.Response(200, stream=Body([b"x", broken()]))
    response, _, server = await send(503, redirect(), 503 if stream else body, 200, stream=stream, auth=auth)
    assert [earlier.status_code for earlier in response.history] == [307]
    assert [httpx.URL(seen.url).path for seen in server.seen] == ["/path", "/path", "/b", "/b"]


@each_row("raises", [True, False], ids=["raised", "returned"])
@each_row("stream", [False, True], ids=["read", "streamed"])
@each_row(
    ("script", "made", "most"),
    [
        ([503, redirect, 503, 503], 4, 4),
        ([redirect, 503, 503, 503], 4, 4),
        ([503, challenge, 503, 503], 4, 4),
        ([503, challenge, redirect, 503, 503], 5, 5),
        ([challenge, redirect, 404], 3, 5),
        ([redirect, 503, 404], 3, 4),
    ],
)
async def test_retries_are_those_of_the_whole_call(
    script: list[Any], made: int, most: int, *, stream: bool, raises: bool
) -> None:
    """max_retries is for the whole send(), and the note says how many attempts there might have been."""
    answers = [answer if isinstance(answer, int) else answer() for answer in script]
    end, recorder, server = await send(*answers, stream=stream, retries=2, raise_on_all_errors=raises)
    assert server.count == made
    assert end.attempts == tuple(recorder.attempts)
    assert [attempt.number for attempt in end.attempts] == list(range(1, made + 1))
    response = end.response if raises else end
    assert response.status_code == script[-1]
    assert response.is_closed
    if raises:
        assert f"prefect_http made {made} of at most {most} attempts:" in notes_of(end)


async def test_the_note_shows_each_attempt() -> None:
    """The note has a line for each attempt, redirects and challenges included."""
    error, _, _ = await send(503, challenge(), redirect(), 404)
    assert notes_of(error).splitlines() == [
        "prefect_http made 4 of at most 6 attempts:",
        "  1: 503 after 0 s; waited 0 s (backoff of 0 s)",
        "  2: 401 after 0 s; the auth flow sent another request",
        "  3: 307 after 0 s; the redirect was followed",
        "  4: 404 after 0 s; 404 is not retried",
    ]


@pytest.mark.parametrize(
    "last", [httpx.DecodingError("no"), httpx.UnsupportedProtocol("no"), redirect("http://x:99999/")], ids=repr
)
async def test_the_note_of_an_error_behind_a_redirect(last: Any) -> None:
    """An error that is not retried has the attempts as well, and the request that failed."""
    error, recorder, _ = await send(redirect(), last)
    assert isinstance(error, httpx.RequestError)
    assert error.request.url.path == "/b"
    assert (
        "prefect_http made 2 of at most 5 attempts:\n  1: 307 after 0 s; the redirect was followed\n  2: "
        in notes_of(error)
    )
    assert [attempt.status_code for attempt in recorder.attempts] == [307, None]
    assert recorder.attempts[-1].exception is error


@each_row(
    ("script", "most", "numbers"),
    [
        ([redirect, redirect, redirect], 2, [1, 2, 3]),
        ([503, redirect, 503, redirect, redirect], 2, [1, 2, 3, 4, 5]),
        ([redirect], 0, [1]),
        ([challenge, redirect, redirect], 2, [1, 2, 3]),
    ],
)
async def test_too_many_redirects(script: list[Any], most: int, numbers: list[int]) -> None:
    """It is raised at once; each attempt is reported, and the note has them all. Challenges count, as in httpx."""
    answers = [answer if isinstance(answer, int) else answer() for answer in script]
    error, recorder, server = await send(*answers, max_redirects=most)
    assert type(error) is httpx.TooManyRedirects
    assert server.count == len(numbers)
    assert [attempt.number for attempt in recorder.attempts] == numbers
    assert recorder.attempts[-1].reason == f"max_redirects is {most}"
    assert f"  {numbers[-1]}: 307 after 0 s; max_redirects is {most}" in notes_of(error)
    assert error.request.url.path == "/b"


async def test_a_redirect_that_is_not_followed() -> None:
    """It is a bad status, which is not retried; its next_request can be sent, and has attempts of its own."""
    body = Body([b"moved"])
    error, recorder, _ = await send(redirect(stream=body), follow_redirects=False)
    assert isinstance(error, PrefectHTTPStatusError)
    assert "it redirects to http://server/b" in str(error)
    assert [attempt.reason for attempt in recorder.attempts] == ["307 is not retried"]
    assert error.response.next_request is not None
    assert body.is_closed
    server = Server(503, 200)
    async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
        response = await client.send(error.response.next_request)
    assert [attempt.number for attempt in response.attempts] == [1, 2]


async def test_credentials_in_a_redirect_that_is_not_followed() -> None:
    """The message hides credentials that are echoed in the Location, but its own words may be the user's name."""
    answer = httpx.Response(307, headers={"Location": "/b?user=redirects&password=s3cret"})
    async with PrefectHttpxClient(transport=Server(answer)) as client:
        with pytest.raises(PrefectHTTPStatusError) as caught:
            await client.get("http://redirects:s3cret@server/a")
    assert "it redirects to http://server/b?user=[secure]&password=[secure]" in str(caught.value)


async def test_a_status_that_is_both_retried_and_a_challenge() -> None:
    """With 401 among the statuses, the auth flow comes first; what it leaves is retried."""
    policy = dataclasses.replace(AT_ONCE, statuses=frozenset({401}))
    server = Server(challenge(), 401, 200)
    async with PrefectHttpxClient(transport=server, retry=policy, auth=httpx.DigestAuth("user", "pw")) as client:
        response = await client.get(URL)
    assert [attempt.reason for attempt in response.attempts] == [FLOW, AGAIN, GOOD]
    assert ["Authorization" in seen.headers for seen in server.seen] == [False, True, True]


async def test_the_policy_of_a_request_holds_behind_a_redirect() -> None:
    """The request's own policy is that of the whole send()."""
    server = Server(redirect(), 418, 200)
    policy = dataclasses.replace(AT_ONCE, statuses=frozenset({418}))
    async with PrefectHttpxClient(transport=server, follow_redirects=True) as client:
        assert len((await client.get(URL, retry=policy)).attempts) == 3


@pytest.mark.parametrize("kind", ["redirect", "challenge"])
async def test_on_attempt_that_raises(kind: str) -> None:
    """What on_attempt raises for a redirect or a challenge ends the request, with the response closed."""
    body = Body([b"x"])
    server = Server((redirect if kind == "redirect" else challenge)(stream=body))

    def on_attempt(request: httpx.Request, attempt: Attempt) -> None:
        raise KeyError(attempt.status_code)

    with anyio.fail_after(5):
        async with PrefectHttpxClient(
            transport=server, on_attempt=on_attempt, follow_redirects=True, auth=httpx.DigestAuth("user", "pw")
        ) as client:
            with pytest.raises(KeyError):
                await client.get(URL)
    assert (server.count, body.is_closed) == (1, True)


async def test_a_redirect_that_cannot_be_followed() -> None:
    """If the client has a cookie that cannot be sent, that is the error, as in httpx, and the redirect is closed."""
    body = Body([b"moved"])
    async with PrefectHttpxClient(transport=Server(redirect(stream=body)), follow_redirects=True) as client:
        request = client.build_request("GET", URL)
        client.cookies.set("a", "\u20ac")
        with pytest.raises(UnicodeEncodeError):
            await client.send(request)
    assert body.is_closed


async def test_a_flow_that_yields_no_request() -> None:
    """It is a TypeError that says so."""

    class Odd(httpx.Auth):
        def auth_flow(self, request: httpx.Request) -> Generator[Any, httpx.Response]:
            yield "http://server/"

    async with PrefectHttpxClient(transport=Server(), auth=Odd()) as client:
        with pytest.raises(
            TypeError, match=r"an auth flow must yield an httpx.Request, not an object of <class 'str'>"
        ):
            await client.get(URL)


async def test_a_redirect_of_a_streamed_request() -> None:
    """What went before is closed when the response is there, which stays open."""
    bodies = [Body([b"a"]), Body([b"b"]), Body([b"c"])]
    server = Server(
        redirect(stream=bodies[0]), httpx.Response(503, stream=bodies[1]), httpx.Response(200, stream=bodies[2])
    )
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE, follow_redirects=True) as client:
            async with client.stream("GET", URL) as response:
                assert [body.is_closed for body in bodies] == [True, True, False]
                assert len(response.attempts) == 3
                assert await response.aread() == b"c"
    assert bodies[2].is_closed


# --- Time


def slow(answer: int | httpx.Response, seconds: float) -> Callable[[httpx.Request], Any]:
    """Return an answer that takes its time."""

    async def respond(request: httpx.Request) -> httpx.Response:
        await anyio.sleep(seconds)
        return httpx.Response(answer) if isinstance(answer, int) else answer

    return respond


async def test_waits_grow_across_redirects() -> None:
    """The number of the retry is that of the whole send()."""
    server = Server(503, redirect(), 503, challenge(), 503, 200)
    async with PrefectHttpxClient(
        transport=server, retry=RetryPolicy(jitter=0), follow_redirects=True, auth=httpx.DigestAuth("user", "pw")
    ) as client:
        started = anyio.current_time()
        await client.get(URL)
    assert [time - started for time in server.times] == [0, 2, 2, 6, 6, 14]


@each_row(
    ("script", "notes"),
    [
        (lambda: [slow(redirect(), 6), slow(200, 6)], ["1: 307 after 6 s", "2: TimeoutException"]),
        (lambda: [slow(challenge(), 6), slow(200, 6)], ["1: 401 after 6 s", "2: TimeoutException"]),
        (
            lambda: [slow(503, 3), slow(redirect(), 3), slow(200, 6)],
            ["1: 503 after 3 s", "2: 307", "3: TimeoutException"],
        ),
        (lambda: [redirect(), httpx.Response(200, stream=Body([b"x", 100.0]))], ["1: 307", "2: TimeoutException"]),
        (lambda: [redirect(stream=Body([b"x", 100.0]))], ["1: TimeoutException"]),
        (lambda: [challenge(stream=Body([b"x", 100.0]))], ["1: 401"]),
    ],
    ids=["redirect", "challenge", "rejection", "body", "body of a redirect", "body of a challenge"],
)
async def test_total_timeout_is_that_of_the_whole_call(script: Callable[[], list[Any]], notes: list[str]) -> None:
    """It ends at the same time whatever has gone before, with all attempts in the note."""
    policy = RetryPolicy(jitter=0, backoff_base=0, total_timeout=10)
    started = anyio.current_time()
    async with PrefectHttpxClient(
        transport=Server(*script()), retry=policy, follow_redirects=True, auth=httpx.DigestAuth("user", "pw")
    ) as client:
        with pytest.raises(httpx.TimeoutException, match="total_timeout of 10 s has passed") as caught:
            await client.get(URL)
    assert anyio.current_time() == started + 10
    assert caught.value.request.url.path in {"/path", "/b"}
    for note in notes:
        assert note in notes_of(caught.value)


async def test_a_wait_that_cannot_fit_behind_a_redirect() -> None:
    """What is left of total_timeout decides about a wait on the second hop."""
    server = Server(slow(redirect(), 6), httpx.Response(503, headers={"Retry-After": "5"}))
    started = anyio.current_time()
    async with PrefectHttpxClient(
        transport=server, retry=RetryPolicy(jitter=0, total_timeout=10), follow_redirects=True
    ) as client:
        with pytest.raises(PrefectHTTPStatusError, match="503") as caught:
            await client.get(URL)
    assert anyio.current_time() == started + 6
    assert "total_timeout" in caught.value.attempts[-1].reason


class SlowAuth(httpx.Auth):
    """A flow that waits itself, before, between and behind its requests."""

    def __init__(self) -> None:
        self.is_closed = False

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        try:
            await anyio.sleep(1)
            yield httpx.Request("GET", "http://server/token")
            await anyio.sleep(1)
            yield request
            await anyio.sleep(1)
        finally:
            self.is_closed = True


def story(bodies: list[Body]) -> list[Callable[[httpx.Request], Any]]:
    """Return answers that each take a second, with bodies that take another, and note the bodies."""

    def answer(status: int, **headers: str) -> Callable[[httpx.Request], Any]:
        async def respond(request: httpx.Request) -> httpx.Response:
            await anyio.sleep(1)
            bodies.append(Body([b"x", 1.0]))
            return httpx.Response(status, headers=headers, stream=bodies[-1])

        return respond

    return [answer(503), answer(307, Location="/b"), answer(200), answer(307, Location="/c"), answer(503), answer(200)]


async def test_total_timeout_covers_an_auth_flow() -> None:
    """What a flow waits for itself counts, and ends at the same time; the flow and its response are closed."""
    for seconds in range(1, 20):
        bodies: list[Body] = []
        auth, server = SlowAuth(), Server(*story(bodies))
        policy = RetryPolicy(jitter=0, backoff_base=1, total_timeout=seconds + 0.5)
        started = anyio.current_time()
        failure: httpx.TimeoutException | PrefectHTTPStatusError | None = None
        async with PrefectHttpxClient(transport=server, retry=policy, follow_redirects=True, auth=auth) as client:
            try:
                await client.get(URL)
            except (httpx.TimeoutException, PrefectHTTPStatusError) as error:
                failure = error
        assert anyio.current_time() <= started + seconds + 0.5
        if failure is None:
            assert server.count == 6
        else:
            assert failure.request.url.host == "server"
            assert "prefect_http made " in notes_of(failure)
        assert auth.is_closed
        assert all(body.is_closed for body in bodies)


@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
async def test_cancelling_at_any_time(stream: bool) -> None:
    """Wherever a call is cancelled, it ends at once, and all responses and the auth flow are closed."""
    ends: list[bool] = []
    for step in range(40):
        bodies: list[Body] = []
        auth = SlowAuth()
        client = PrefectHttpxClient(
            transport=Server(*story(bodies)),
            retry=RetryPolicy(jitter=0, backoff_base=1),
            follow_redirects=True,
            auth=auth,
        )
        started = anyio.current_time()
        with anyio.move_on_after(step / 2 + 0.25) as scope:
            response = await client.send(client.build_request("GET", URL), stream=stream)
            with anyio.CancelScope(shield=True):
                await response.aclose()
        ends.append(scope.cancelled_caught)
        if scope.cancelled_caught:
            assert anyio.current_time() == started + step / 2 + 0.25
        assert auth.is_closed
        assert all(body.is_closed for body in bodies)
        await client.aclose()
    assert ends == sorted(ends, reverse=True)
    assert True in ends
    assert False in ends


async def test_a_bad_location_behind_a_redirect() -> None:
    """It is an InvalidResponse of the request that was redirected there."""
    error, recorder, _ = await send(redirect(), redirect("http://x:port/"))
    assert type(error) is InvalidResponse
    assert error.request.url.path == "/b"
    assert [attempt.number for attempt in recorder.attempts] == [1, 2]


# --- The first attempt, before anything is known of a second one


async def test_the_first_response_is_not_kept() -> None:
    """While a request waits to be sent again, its response is gone."""
    seen: list[weakref.ref[httpx.Response]] = []

    async def note(response: httpx.Response) -> None:
        seen.append(weakref.ref(response))

    policy = RetryPolicy(backoff_base=10)
    hooks: dict[str, list[Callable[..., object]]] = {"response": [note]}
    server = Server(httpx.Response(503, stream=Body([b"busy"])), httpx.Response(200))
    async with PrefectHttpxClient(transport=server, retry=policy, event_hooks=hooks) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.get, URL)
            await anyio.sleep(1)
            gc.collect()
            assert seen[0]() is None
    assert server.count == 2


@each_row("wrong", [5, RetryPolicy(max_retries=0)])
async def test_a_policy_that_a_hook_adds(wrong: object) -> None:
    """It comes too late for the request that is being sent."""

    async def add(request: httpx.Request) -> None:
        request.extensions["retry"] = wrong

    server = Server(httpx.ReadError("broken"), httpx.Response(503), httpx.Response(200))
    async with PrefectHttpxClient(transport=server, retry=AT_ONCE, event_hooks={"request": [add]}) as client:
        assert (await client.get(URL)).status_code == 200
    assert server.count == 3


async def test_fewer_than_no_redirects() -> None:
    """As with httpx, nothing is sent then."""
    server = Server(httpx.Response(200))
    async with PrefectHttpxClient(transport=server, max_redirects=-1) as client:
        with pytest.raises(httpx.TooManyRedirects):
            await client.get(URL)
    assert server.count == 0
