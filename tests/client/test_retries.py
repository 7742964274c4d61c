"""What the client repeats, what it never repeats, and how it reports that."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
import re
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest
from support.rows import each_row
from support.scripted_transport import AT_ONCE, ONCE, URL, Body, Server, notes_of

from prefect_http import (
    Attempt,
    InvalidResponse,
    PrefectHTTPStatusError,
    PrefectHttpxClient,
    PrefectResponse,
    RetryPolicy,
)

SAFE = ("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE")
UNSAFE = ("POST", "PATCH", "CONNECT", "PROPFIND")
NEVER_SENT = (httpx.ConnectTimeout, httpx.PoolTimeout)
AMBIGUOUS = (
    httpx.ReadTimeout,
    httpx.WriteTimeout,
    httpx.ReadError,
    httpx.WriteError,
    httpx.RemoteProtocolError,
)
FINAL = (
    httpx.LocalProtocolError,
    InvalidResponse,
    httpx.CloseError,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.DecodingError,
    httpx.TooManyRedirects,
    httpx.NetworkError,
    httpx.ProtocolError,
    httpx.TimeoutException,
    httpx.TransportError,
    httpx.RequestError,
)

Kind = type[httpx.RequestError]

# Every kind of error with one method, and every method with one kind. The decision itself is tested with all pairs.
AMBIGUOUS_AND_SAFE = [*((kind, "GET") for kind in AMBIGUOUS), *((httpx.ReadError, method) for method in SAFE[1:])]
AMBIGUOUS_AND_UNSAFE = [*((kind, "POST") for kind in AMBIGUOUS), *((httpx.ReadError, method) for method in UNSAFE[1:])]


async def send(server: Server, method: str = "GET", *, retry: RetryPolicy = AT_ONCE, **more: Any) -> httpx.Response:
    """Send one request with a new client."""
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=retry) as client:
            return await client.request(method, URL, **more)


# --- Statuses


@pytest.mark.anyio
@each_row(("status", "method"), [(429, "GET"), (502, "GET"), *((503, method) for method in (*SAFE, *UNSAFE))])
async def test_a_listed_status_is_repeated_for_any_method(status: int, method: str) -> None:
    """429, 502 and 503 are repeated, whatever the method."""
    server = Server(status, 200)
    assert (await send(server, method)).status_code == 200
    assert [seen.method for seen in server.seen] == [method, method]


@pytest.mark.anyio
@each_row("status", [400, 408, 425, 500, 504, 599])
async def test_no_other_status_is_repeated(status: int) -> None:
    """No other status is repeated, not even with a Retry-After."""
    server = Server(httpx.Response(status, headers={"Retry-After": "1"}), 200)
    with pytest.raises(PrefectHTTPStatusError) as caught:
        await send(server)
    assert server.count == 1
    assert caught.value.retry_after == 1.0


@pytest.mark.anyio
async def test_extra_codes_are_repeated_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """PREFECT_CLIENT_RETRY_EXTRA_CODES adds to the default statuses."""
    monkeypatch.setenv("PREFECT_CLIENT_RETRY_EXTRA_CODES", "408,504")
    policy = dataclasses.replace(RetryPolicy.from_env(), backoff_base=0, jitter=0)
    server = Server(408, 504, 429, 502, 503, 200)
    await send(server, retry=policy)
    assert server.count == 6


@pytest.mark.anyio
async def test_statuses_are_the_policys() -> None:
    """Only the statuses of the policy are repeated."""
    server = Server(500, 503)
    with pytest.raises(PrefectHTTPStatusError) as caught:
        await send(server, retry=RetryPolicy(statuses={500}, backoff_base=0, jitter=0))
    assert [attempt.status_code for attempt in caught.value.attempts] == [500, 503]


@pytest.mark.anyio
@each_row("status", [300, 600, 777, 999])
async def test_a_policy_may_list_any_bad_status(status: int) -> None:
    """Servers send codes above 599, and a policy may list them."""
    server = Server(status, 200)
    assert (await send(server, retry=dataclasses.replace(AT_ONCE, statuses={status}))).status_code == 200
    assert server.count == 2


@pytest.mark.anyio
@each_row("raises", [True, False], ids=["raised", "returned"])
@each_row(
    ("status", "method", "value", "count"),
    [
        (503, "GET", "false", 1),
        (503, "POST", "true", 2),
        (500, "GET", "true", 2),
        (500, "PUT", "True", 2),
        (500, "POST", "true", 1),
        (500, "GET", "maybe", 1),
        (409, "GET", "true", 2),
        (304, "GET", "true", 1),
    ],
)
async def test_a_response_may_say_whether_to_retry(
    status: int, method: str, value: str, count: int, *, raises: bool
) -> None:
    """``x-should-retry`` forbids a retry of any status, and allows one where repeating the method is safe."""
    server = Server(httpx.Response(status, headers={"x-should-retry": value}), 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE, raise_on_all_errors=raises) as client:
            with contextlib.suppress(PrefectHTTPStatusError):
                await client.request(method, URL)
    assert server.count == count


@pytest.mark.anyio
async def test_a_good_response_is_not_retried_whatever_it_says() -> None:
    """``x-should-retry`` is for bad statuses."""
    server = Server(httpx.Response(200, headers={"x-should-retry": "true"}))
    await send(server)
    assert server.count == 1


# --- Exceptions


@pytest.mark.anyio
@each_row("kind", NEVER_SENT)
@each_row("method", ["GET", "POST"])
async def test_what_was_never_sent_is_repeated_for_any_method(kind: Kind, method: str) -> None:
    """A request that was never sent is repeated, whatever the method, even if the origin has never answered."""
    server = Server(kind("no"), 200)
    assert (await send(server, method)).status_code == 200
    assert server.count == 2


@pytest.mark.anyio
@each_row(("kind", "method"), AMBIGUOUS_AND_SAFE)
async def test_what_failed_on_the_way_is_repeated_for_safe_methods(kind: Kind, method: str) -> None:
    """What broke off is repeated for idempotent methods."""
    server = Server(kind("no"), 200)
    assert (await send(server, method)).status_code == 200
    assert server.count == 2


@pytest.mark.anyio
@each_row(("kind", "method"), AMBIGUOUS_AND_UNSAFE)
async def test_what_failed_on_the_way_is_not_repeated_otherwise(kind: Kind, method: str) -> None:
    """What broke off is not repeated for other methods: the server may have acted on it."""
    server = Server(error := kind("no"), 200)
    with pytest.raises(kind) as caught:
        await send(server, method)
    assert server.count == 1
    assert caught.value is error
    assert f"may have acted on the {method}" in notes_of(error)


@pytest.mark.anyio
@each_row("method", UNSAFE)
async def test_an_idempotency_key_makes_it_safe(method: str) -> None:
    """With an Idempotency-Key, in whatever case, any method is repeated with the same key."""
    server = Server(httpx.ReadError("no"), 200)
    await send(server, method, headers={"idempotency-KEY": "k1"})
    assert [seen.headers["Idempotency-Key"] for seen in server.seen] == ["k1", "k1"]


@pytest.mark.anyio
@each_row("method", UNSAFE)
async def test_retry_non_idempotent_allows_it(method: str) -> None:
    """With retry_non_idempotent=True any method is repeated."""
    server = Server(httpx.ReadError("no"), 200)
    await send(server, method, retry=dataclasses.replace(AT_ONCE, retry_non_idempotent=True))
    assert server.count == 2


@pytest.mark.anyio
@each_row("kind", FINAL)
async def test_no_other_exception_is_repeated(kind: Kind) -> None:
    """No other exception of httpx is repeated, whatever the policy, and it is raised with a note."""
    server = Server(error := kind("no"), 200)
    with pytest.raises(kind) as caught:
        await send(
            server, headers={"Idempotency-Key": "k"}, retry=dataclasses.replace(AT_ONCE, retry_non_idempotent=True)
        )
    assert server.count == 1
    assert caught.value is error
    assert f"{kind.__name__} is not retried" in notes_of(error)


@pytest.mark.anyio
@each_row("status", [200, 404, 503])
async def test_a_connect_error_is_repeated_once_the_origin_has_answered(status: int) -> None:
    """A server that has answered before, with whatever status, is probably restarting."""
    server = Server(status, httpx.ConnectError("refused"), httpx.ConnectError("refused"), 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(
            transport=server, retry=dataclasses.replace(AT_ONCE, statuses=frozenset()), raise_on_all_errors=False
        ) as client:
            await client.get(URL)
            assert (await client.post(URL)).status_code == 200
    assert server.count == 4


@pytest.mark.anyio
async def test_a_connect_error_fails_fast_at_first() -> None:
    """An address that has never answered fails at once, however often it is tried."""
    server = Server(httpx.ConnectError("refused"), ...)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(URL)
            with pytest.raises(httpx.ConnectError, match="refused") as caught:
                await client.get(URL)
    assert server.count == 2
    assert "never answered" in notes_of(caught.value)


@pytest.mark.anyio
@each_row(
    ("url", "script", "count"),
    [
        ("https://server/", [httpx.ReadError("reset"), ...], 2),
        ("https://server/", [httpx.WriteError("reset"), httpx.ReadError("reset"), ...], 2),
        ("https://server/", [httpx.ReadError("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED]"), ...], 1),
        ("https://server/", [httpx.ReadError("reset"), 503, httpx.ReadError("reset"), ...], 6),
        ("https://server/", [503, httpx.ReadError("reset"), ...], 6),
        ("https://server/", [httpx.RemoteProtocolError("Server disconnected without"), ...], 2),
        ("https://server/", [httpx.RemoteProtocolError("bad"), ...], 6),
        ("https://server/", [httpx.ReadTimeout("slow"), ...], 6),
        ("http://server/", [httpx.ReadError("reset"), ...], 6),
    ],
)
async def test_a_server_that_breaks_off_behind_the_handshake(url: str, script: list[object], count: int) -> None:
    """A reset over TLS, by a server that has never answered, is repeated once: it may want a client certificate."""
    server = Server(*script)
    with anyio.fail_after(5), pytest.raises(httpx.RequestError) as caught:
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            await client.get(url)
    assert server.count == count
    assert ("client certificate" in notes_of(caught.value)) is (count < 6)


@pytest.mark.anyio
async def test_a_late_reset_is_not_about_a_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that breaks off after a while has looked at the request, and not at the certificate."""
    monkeypatch.setattr("prefect_http._client.retry_state._BEHIND_HANDSHAKE", 0.0)
    server = Server(httpx.ReadError("reset"), ...)
    with anyio.fail_after(5), pytest.raises(httpx.ReadError):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            await client.get("https://server/")
    assert server.count == 6


@pytest.mark.anyio
async def test_an_answer_within_the_same_send_counts() -> None:
    """A 503 counts as an answer for the next attempt of the same request."""
    server = Server(503, httpx.ConnectError("refused"), 200)
    assert (await send(server)).status_code == 200
    assert server.count == 3


@pytest.mark.anyio
@each_row(
    ("url", "known"),
    [
        ("http://server/other?q=1", True),
        ("http://SERVER:80/", True),
        ("http://user:pw@server/", True),
        ("https://server/", False),
        ("http://server:8080/", False),
        ("http://server2/", False),
    ],
)
async def test_an_origin_is_scheme_host_and_port(url: str, *, known: bool) -> None:
    """The origin must have answered: another port or scheme is another server."""
    server = Server(200, httpx.ConnectError("refused"), 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            await client.get("http://server/")
            if known:
                await client.get(url)
            else:
                with pytest.raises(httpx.ConnectError):
                    await client.get(url)
    assert server.count == (3 if known else 2)


@pytest.mark.anyio
async def test_origins_are_each_clients_own() -> None:
    """Each client knows only the origins that have answered itself."""
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(200), retry=AT_ONCE) as client:
            await client.get(URL)
        server = Server(httpx.ConnectError("refused"), 200)
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(URL)
    assert server.count == 1


@pytest.mark.anyio
async def test_an_origin_that_redirected_has_answered() -> None:
    """A redirect counts as an answer of its origin, though its target fails, and not as one of its target."""
    elsewhere = httpx.Response(307, headers={"Location": "http://elsewhere/"})
    refused = httpx.ConnectError("refused")
    server = Server(elsewhere, refused, refused, elsewhere, 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE, follow_redirects=True) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(URL)
            assert (await client.get(URL)).status_code == 200
    assert server.count == 5


@pytest.mark.anyio
async def test_every_origin_of_successful_redirects_has_answered() -> None:
    """After a redirect both servers have answered."""
    server = Server(
        httpx.Response(307, headers={"Location": "http://elsewhere/"}),
        200,
        *(httpx.ConnectError("refused"), 200),
        *(httpx.ConnectError("refused"), 200),
    )
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            await client.get(URL, follow_redirects=True)
            await client.get(URL)
            await client.get("http://elsewhere/")
    assert server.count == 6


@pytest.mark.anyio
async def test_the_target_of_a_redirect_must_have_answered() -> None:
    """A redirect to an address that has never answered fails at once."""
    server = Server(httpx.Response(307, headers={"Location": "http://elsewhere/"}), httpx.ConnectError("refused"), 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE, follow_redirects=True) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(URL)
    assert server.count == 2


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_a_body_that_breaks_off_is_repeated_if_safe(method: str) -> None:
    """If a body breaks off, the response is closed and the request repeated."""
    body = Body([b"half of", httpx.ReadError("broken")])
    server = Server(httpx.Response(200, stream=body), httpx.Response(200, text="all of it"))
    assert (await send(server, method)).text == "all of it"
    assert body.is_closed
    assert server.count == 2


@pytest.mark.anyio
async def test_a_body_that_breaks_off_is_not_repeated_otherwise() -> None:
    """A POST is not repeated because its response broke off."""
    body = Body([b"half of", httpx.ReadError("broken")])
    server = Server(httpx.Response(200, stream=body), 200)
    with pytest.raises(httpx.ReadError):
        await send(server, "POST")
    assert body.is_closed
    assert server.count == 1


@pytest.mark.anyio
async def test_a_body_that_cannot_be_decoded_is_not_repeated() -> None:
    """A body that does not match its Content-Encoding is httpx's error, without a retry."""
    body = Body([b"not gzip"])
    server = Server(httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=body), 200)
    with pytest.raises(httpx.DecodingError):
        await send(server)
    assert body.is_closed
    assert server.count == 1


# --- How often


@pytest.mark.anyio
async def test_by_default_there_are_six_attempts() -> None:
    """There are five retries, and then the last response is raised."""
    server = Server(503, ...)
    with pytest.raises(PrefectHTTPStatusError) as caught:
        await send(server)
    assert server.count == 6
    assert [attempt.number for attempt in caught.value.attempts] == [1, 2, 3, 4, 5, 6]


@pytest.mark.anyio
@each_row("max_retries", [0, 1, 3])
@each_row("failure", [503, httpx.ReadTimeout("slow")])
async def test_max_retries(failure: object, max_retries: int) -> None:
    """A request is repeated max_retries times."""
    server = Server(failure, ...)
    with pytest.raises((PrefectHTTPStatusError, httpx.ReadTimeout)) as caught:
        await send(server, retry=dataclasses.replace(AT_ONCE, max_retries=max_retries))
    assert server.count == max_retries + 1
    assert f"made {max_retries + 1} of at most {max_retries + 1} attempt" in notes_of(caught.value)


@pytest.mark.anyio
async def test_all_kinds_of_failures_count_together() -> None:
    """Statuses and exceptions use up the same retries."""
    server = Server(503, httpx.ReadError("broken"), 429, httpx.ConnectTimeout("no"))
    with pytest.raises(httpx.ConnectTimeout):
        await send(server, retry=dataclasses.replace(AT_ONCE, max_retries=3))
    assert server.count == 4


@pytest.mark.anyio
async def test_each_send_has_its_own_retries() -> None:
    """Each request has all its retries."""
    server = Server(503, 503, 200, 503, 503, 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=dataclasses.replace(AT_ONCE, max_retries=2)) as client:
            await client.get(URL)
            await client.get(URL)
    assert server.count == 6


# --- One request's own policy


@pytest.mark.anyio
async def test_a_request_may_have_its_own_policy() -> None:
    """extensions={"retry": ...} replaces the client's policy for that request."""
    server = Server(500, 500, 200, 500)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            own = dataclasses.replace(AT_ONCE, statuses={500})
            await client.get(URL, extensions={"retry": own})
            with pytest.raises(PrefectHTTPStatusError):
                await client.get(URL)
    assert server.count == 4


@pytest.mark.anyio
async def test_a_streamed_request_may_have_its_own_policy() -> None:
    """client.stream() accepts the extension as well."""
    server = Server(503, 200)
    with anyio.fail_after(5):
        async with (
            PrefectHttpxClient(transport=server, retry=RetryPolicy(max_retries=0)) as client,
            client.stream("GET", URL, extensions={"retry": AT_ONCE}) as response,
        ):
            assert response.status_code == 200


VERBS = ("get", "options", "head", "post", "put", "patch", "delete")


@pytest.mark.anyio
@each_row("verb", VERBS)
async def test_every_verb_takes_a_policy(verb: str) -> None:
    """``retry=`` replaces the client's policy for one request, in whatever way it is sent."""
    server = Server(503, 200, 503)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=ONCE) as client:
            send = getattr(client, verb)
            response = await send(URL, retry=AT_ONCE, headers={"X-A": "b"}, extensions={"timeout": {"read": 5}})
            assert response.request.method == verb.upper()
            assert response.request.extensions["timeout"] == {"read": 5}
            with pytest.raises(PrefectHTTPStatusError):
                await send(URL, retry=None)
    assert [seen.headers["X-A"] for seen in server.seen[:2]] == ["b", "b"]


@pytest.mark.anyio
async def test_request_and_stream_take_a_policy() -> None:
    """So do request() and stream()."""
    server = Server(503, 200, 503, 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=ONCE) as client:
            await client.request("GET", URL, retry=AT_ONCE)
            async with client.stream("POST", URL, content=b"body", retry=AT_ONCE) as response:
                assert response.status_code == 200
    assert [seen.body for seen in server.seen] == [b"", b"", b"body", b"body"]


@pytest.mark.anyio
async def test_the_verbs_policy_wins() -> None:
    """``retry=`` wins over the extension, which is left as it was."""
    server = Server(503)
    extensions = {"retry": AT_ONCE, "mine": 1}
    with anyio.fail_after(5), pytest.raises(PrefectHTTPStatusError) as caught:
        async with PrefectHttpxClient(transport=server) as client:
            await client.get(URL, retry=ONCE, extensions=extensions)
    assert caught.value.request.extensions["mine"] == 1
    assert extensions == {"retry": AT_ONCE, "mine": 1}


@pytest.mark.anyio
@each_row("wrong", [5, "never", True, {"max_retries": 1}, RetryPolicy])
async def test_a_verb_refuses_what_is_no_policy(wrong: Any) -> None:
    """Anything but a RetryPolicy is a TypeError, before the request is sent."""
    async with PrefectHttpxClient(transport=Server()) as client:
        with pytest.raises(TypeError, match=r"^retry must be a RetryPolicy, not "):
            await client.get(URL, retry=wrong)
        with pytest.raises(TypeError, match=r"^retry must be a RetryPolicy, not "):
            client.stream("GET", URL, retry=wrong)


@pytest.mark.anyio
async def test_a_requests_policy_survives_a_redirect() -> None:
    """The request's policy also holds for its redirects."""
    server = Server(httpx.Response(307, headers={"Location": "/b"}), 500, 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(
            transport=server, retry=RetryPolicy(max_retries=0), follow_redirects=True
        ) as client:
            await client.get(URL, extensions={"retry": dataclasses.replace(AT_ONCE, statuses={500})})
    assert [seen.url for seen in server.seen] == [URL, "http://server/b", "http://server/b"]


@pytest.mark.anyio
async def test_no_policy_is_the_clients() -> None:
    """With extensions={"retry": None} the client's policy holds."""
    server = Server(503, 200)
    await send(server, extensions={"retry": None})
    assert server.count == 2


# --- How it is reported


@pytest.mark.anyio
async def test_the_error_has_every_attempt() -> None:
    """The attempts are in order, each with exactly one of a status and an exception."""
    timeout = httpx.ReadTimeout("slow")
    server = Server(503, timeout, httpx.Response(429, headers={"Retry-After": "0"}), 404)
    with pytest.raises(PrefectHTTPStatusError) as caught:
        await send(server)
    attempts = caught.value.attempts
    assert isinstance(attempts, tuple)
    assert [(a.number, a.status_code, a.exception, a.delay, a.reason) for a in attempts] == [
        (1, 503, None, 0.0, "backoff of 0 s"),
        (2, None, timeout, 0.0, "backoff of 0 s"),
        (3, 429, None, 0.0, "Retry-After of 0 s"),
        (4, 404, None, None, "404 is not retried"),
    ]
    assert all((a.status_code is None) is not (a.exception is None) for a in attempts)
    assert all(isinstance(a.delay, float | None) for a in attempts)


@pytest.mark.anyio
async def test_a_status_error_has_one_note_with_every_attempt() -> None:
    """The error has one note, with a line for each attempt and why no further one was made."""
    server = Server(httpx.ReadTimeout("slow"), 503)
    with pytest.raises(PrefectHTTPStatusError) as caught:
        await send(server, retry=dataclasses.replace(AT_ONCE, max_retries=1))
    (note,) = caught.value.__notes__
    head, first, last = note.splitlines()
    assert head == "prefect_http made 2 of at most 2 attempts:"
    assert re.match(r"  1: ReadTimeout after [\d.]+ s: slow; waited ", first)
    assert "503" in last
    assert last.endswith("all retries are used up")


@pytest.mark.anyio
async def test_an_exception_has_one_note_with_every_attempt() -> None:
    """So has an exception of httpx, which is the one that the transport raised."""
    last = httpx.ReadError("broken")
    server = Server(503, last)
    with pytest.raises(httpx.ReadError) as caught:
        await send(server, retry=dataclasses.replace(AT_ONCE, max_retries=1))
    assert caught.value is last
    assert type(caught.value) is httpx.ReadError
    (note,) = caught.value.__notes__
    assert "1: 503" in note
    assert re.search(r"  2: ReadError after [\d.]+ s: broken; ", note)
    assert note.endswith("all retries are used up")


@pytest.mark.anyio
async def test_exceptions_on_the_way_have_no_note() -> None:
    """An exception that was retried has no note."""
    first, second = httpx.ReadError("first"), httpx.ReadError("second")
    with pytest.raises(httpx.ReadError):
        await send(Server(first, second), retry=dataclasses.replace(AT_ONCE, max_retries=1))
    assert notes_of(first) == ""


@pytest.mark.anyio
async def test_the_clients_error_can_be_pickled() -> None:
    """An error is pickled with its attempts and notes."""
    server = Server(httpx.ReadTimeout("slow"), httpx.Response(404, json={"detail": "no such flow"}))
    with pytest.raises(PrefectHTTPStatusError) as caught:
        await send(server)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert [attempt.number for attempt in again.attempts] == [1, 2]
    assert isinstance(again.attempts[0].exception, httpx.ReadTimeout)
    assert again.__notes__ == caught.value.__notes__
    assert again.response.json() == {"detail": "no such flow"}


@pytest.mark.anyio
@each_row(
    "make",
    [
        lambda: 503,
        lambda: httpx.ReadError("broken"),
        lambda: httpx.Response(200, stream=Body([httpx.ReadError("broken")])),
        lambda: httpx.Response(503, stream=Body([httpx.ReadError("broken")])),
    ],
    ids=["status", "exception", "body", "error body"],
)
async def test_errors_are_raised_plain(make: Callable[[], object]) -> None:
    """The error is not inside an exception group, on either backend."""
    with pytest.raises((PrefectHTTPStatusError, httpx.ReadError)):
        await send(Server(make()), retry=RetryPolicy(max_retries=0, total_timeout=100))


# --- on_retry


@pytest.mark.anyio
async def test_on_retry_is_called_before_each_wait() -> None:
    """on_retry gets the request and the attempt that failed, before the next one."""
    story: list[object] = []
    bodies = [Body([b"no"]), Body([b"no"])]

    def answer_with(status: int, body: Body) -> Callable[[httpx.Request], object]:
        async def answer(request: httpx.Request) -> httpx.Response:
            story.append("sent")
            return httpx.Response(status, stream=body)

        return answer

    def on_retry(request: httpx.Request, attempt: Attempt) -> None:
        assert request is sent
        story.append((attempt.number, attempt.status_code, attempt.delay, bodies[attempt.number - 1].is_closed))

    server = Server(*(answer_with(503, body) for body in bodies), answer_with(200, Body()))
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE, on_retry=on_retry) as client:
            sent = client.build_request("GET", URL)
            await client.send(sent)
    assert story == ["sent", (1, 503, 0.0, True), "sent", (2, 503, 0.0, True), "sent"]


@pytest.mark.anyio
async def test_on_retry_is_called_for_exceptions() -> None:
    """on_retry is called for exceptions as well as for statuses."""
    seen: list[Exception | None] = []
    error = httpx.ReadError("broken")
    with anyio.fail_after(5):
        async with PrefectHttpxClient(
            transport=Server(error, 200),
            retry=AT_ONCE,
            on_retry=lambda _, attempt: seen.append(attempt.exception),
        ) as client:
            await client.get(URL)
    assert seen == [error]


@pytest.mark.anyio
@each_row("last", [200, 404, 503, httpx.ReadError("broken")])
async def test_on_retry_is_not_called_without_a_wait(last: object) -> None:
    """on_retry is not called for the last attempt."""
    seen: list[Attempt] = []
    with anyio.fail_after(5):
        async with PrefectHttpxClient(
            transport=Server(last),
            retry=RetryPolicy(max_retries=0),
            raise_on_all_errors=False,
            on_retry=lambda _, attempt: seen.append(attempt),
        ) as client:
            with contextlib.suppress(httpx.ReadError):
                await client.get(URL)
    assert seen == []


@pytest.mark.anyio
async def test_what_on_retry_returns_does_not_matter() -> None:
    """The return value of on_retry is ignored."""
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(503, 200), retry=AT_ONCE, on_retry=lambda *_: False) as client:
            assert (await client.get(URL)).status_code == 200


@pytest.mark.anyio
@pytest.mark.parametrize(
    "error",
    [RuntimeError("hook"), httpx.ReadError("hook"), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
async def test_an_exception_from_on_retry_ends_the_request(error: BaseException) -> None:
    """What on_retry raises ends the request, with the response closed."""
    body = Body([b"no"])
    server = Server(httpx.Response(503, stream=body), 200)

    def on_retry(*_: object) -> None:
        raise error

    raised: BaseException | None = None
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE, on_retry=on_retry) as client:
            try:
                await client.get(URL)
            except BaseException as caught:
                raised = caught
    assert raised is error
    assert server.count == 1
    assert body.is_closed


# --- on_attempt and response.attempts


async def recorded(
    *script: object, stream: bool = False, **more: Any
) -> tuple[list[Attempt], httpx.Response | Exception]:
    """Return the attempts that on_attempt was told of, and how the request ended."""
    seen: list[Attempt] = []
    client = PrefectHttpxClient(
        transport=Server(*script),
        retry=dataclasses.replace(AT_ONCE, max_retries=2),
        on_attempt=lambda _, attempt: seen.append(attempt),
        **more,
    )
    with anyio.fail_after(5):
        async with client:
            try:
                response = await client.send(client.build_request("GET", URL), stream=stream)
            except (httpx.RequestError, PrefectHTTPStatusError) as error:
                return seen, error
            await response.aclose()
            return seen, response


@pytest.mark.anyio
@each_row("stream", [False, True], ids=["read", "streamed"])
@each_row(
    ("script", "outcomes"),
    [
        ((200,), [200]),
        ((503, 200), [503, 200]),
        ((429, httpx.ReadError("broken"), 204), [429, httpx.ReadError, 204]),
        ((404,), [404]),
        ((503, 502, 503), [503, 502, 503]),
        ((503, httpx.ProxyError("no")), [503, httpx.ProxyError]),
    ],
    ids=["good", "retried", "error", "bad", "used up", "final"],
)
@each_row("raises", [True, False], ids=["raised", "returned"])
async def test_on_attempt_is_called_after_each_attempt(
    script: tuple[object, ...], outcomes: list[object], *, raises: bool, stream: bool
) -> None:
    """on_attempt gets every attempt, the last one included, and the response and the error have the same ones."""
    seen, end = await recorded(*script, stream=stream, raise_on_all_errors=raises)
    assert [attempt.status_code or type(attempt.exception) for attempt in seen] == outcomes
    assert [attempt.number for attempt in seen] == list(range(1, len(script) + 1))
    assert [attempt.delay is None for attempt in seen] == [*[False] * (len(script) - 1), True]
    assert all(attempt.elapsed >= 0 and attempt.reason for attempt in seen)
    if isinstance(end, PrefectHTTPStatusError):
        assert end.attempts == tuple(seen)
        end = end.response
    if isinstance(end, httpx.Response):
        assert isinstance(end, PrefectResponse)
        assert end.attempts == tuple(seen)


@pytest.mark.anyio
async def test_on_attempt_comes_before_on_retry() -> None:
    """on_attempt is called before on_retry, with the same request and attempt; the response is closed by then."""
    story: list[object] = []
    body = Body([b"no"])
    with anyio.fail_after(5):
        async with PrefectHttpxClient(
            transport=Server(httpx.Response(503, stream=body), 200),
            retry=AT_ONCE,
            on_attempt=lambda request, attempt: story.append(("attempt", request, attempt.number, body.is_closed)),
            on_retry=lambda request, attempt: story.append(("retry", request, attempt.number, body.is_closed)),
        ) as client:
            sent = client.build_request("GET", URL)
            await client.send(sent)
    assert story == [("attempt", sent, 1, True), ("retry", sent, 1, True), ("attempt", sent, 2, True)]


@pytest.mark.anyio
async def test_on_attempt_is_called_once_the_body_is_there() -> None:
    """A response that is read whole is an attempt only then, and one whose body breaks off is a failed one."""
    seen, end = await recorded(httpx.Response(200, stream=Body([b"half", httpx.ReadError("broken")])), 200)
    assert [(attempt.status_code, type(attempt.exception)) for attempt in seen] == [
        (None, httpx.ReadError),
        (200, type(None)),
    ]
    assert isinstance(end, PrefectResponse)


@pytest.mark.anyio
@each_row("stream", [False, True], ids=["read", "streamed"])
@each_row("raises", [True, False], ids=["raised", "returned"])
@each_row("status", [200, 503, 404])
@each_row("error", [RuntimeError("hook"), KeyboardInterrupt()])
async def test_an_exception_from_on_attempt_ends_the_request(
    error: BaseException, status: int, *, raises: bool, stream: bool
) -> None:
    """What on_attempt raises ends the request, with the response closed."""
    body = Body([b"body"])
    server = Server(httpx.Response(status, stream=body), 200)

    def on_attempt(*_: object) -> None:
        raise error

    raised: BaseException | None = None
    with anyio.fail_after(5):
        async with PrefectHttpxClient(
            transport=server, retry=AT_ONCE, on_attempt=on_attempt, raise_on_all_errors=raises
        ) as client:
            try:
                await client.send(client.build_request("GET", URL), stream=stream)
            except BaseException as caught:
                raised = caught
    assert raised is error
    assert server.count == 1
    assert body.is_closed


@pytest.mark.anyio
async def test_on_attempt_must_be_a_plain_function() -> None:
    """An async function, or what is no function, is a TypeError; a coroutine that is returned as well."""

    async def hook(*_: object) -> None: ...

    for wrong in (hook, 5):
        with pytest.raises(
            TypeError, match=r"^on_attempt must be a sync function that takes a request and an attempt, not "
        ):
            PrefectHttpxClient(on_attempt=wrong)  # type: ignore[arg-type]
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(200), on_attempt=lambda *_: hook()) as client:
            with pytest.raises(TypeError, match="on_attempt must be a sync function"):
                await client.get(URL)


@pytest.mark.anyio
async def test_attempts_are_pickled_with_the_response() -> None:
    """A response is pickled with its attempts, whose exceptions have no traceback."""
    response = await send(Server(503, httpx.ReadTimeout("slow"), 200))
    assert isinstance(response, PrefectResponse)
    again = pickle.loads(pickle.dumps(response))
    for attempts in (response.attempts, again.attempts):
        assert [attempt.status_code for attempt in attempts] == [503, None, 200]
        assert isinstance(attempts[1].exception, httpx.ReadTimeout)
        assert attempts[1].exception.__traceback__ is None
    assert again.attempts[-1] == response.attempts[-1]


def test_a_response_without_a_client_has_no_attempts() -> None:
    """A response that does not come from the client has no attempts."""
    assert PrefectResponse.from_httpx_response(httpx.Response(200)).attempts == ()
