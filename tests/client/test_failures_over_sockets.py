"""Requests that fail on the way, over real sockets."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable

import anyio
import anyio.abc
import httpx
import pytest
from support.rows import each_row
from support.servers import (
    Act,
    answer,
    drop,
    half_answer,
    raw_server,
    refusing_port,
    retrying_at_once,
    stall,
    stay_silent,
)
from support.tls_servers import TLS_1_2, TLS_1_3, authority, client_context, listening, server_context

from prefect_http import Attempt, InvalidResponse, PrefectHttpxClient, RetryPolicy

pytestmark = pytest.mark.anyio

FAILURES = [
    pytest.param(drop, httpx.RemoteProtocolError, id="dropped"),
    pytest.param(half_answer(), httpx.RemoteProtocolError, id="half-body"),
    pytest.param(stay_silent, httpx.ReadTimeout, id="slow-answer"),
    pytest.param(stall, httpx.ReadTimeout, id="slow-body"),
]


def new_client(error: type[Exception], max_retries: int = 5) -> PrefectHttpxClient:
    """Return a client with a short read timeout if that is the error to be tested."""
    timeout = httpx.Timeout(5, read=0.1 if error is httpx.ReadTimeout else 5)
    return PrefectHttpxClient(retry=retrying_at_once(max_retries), timeout=timeout, trust_env=False)


@each_row(("failure", "error"), FAILURES)
async def test_get_is_repeated_and_post_is_not(failure: Act, error: type[Exception]) -> None:
    """A GET that fails on the way is repeated on a new connection; a POST raises httpx's error, with a note."""
    async with raw_server(failure, answer(body=b"fine"), failure) as server, new_client(error) as client:
        response = await client.get(server.url)
        assert response.content == b"fine"
        assert (len(server.requests), server.connections) == (2, 2)
        with pytest.raises(error) as caught:
            await client.post(server.url, content=b"pay")
    assert type(caught.value) is error
    assert "the server may have acted on the POST" in caught.value.__notes__[0]
    assert len(server.requests) == 3


@pytest.mark.parametrize(("failure", "error"), FAILURES[:2])
async def test_post_with_an_idempotency_key_is_repeated(failure: Act, error: type[Exception]) -> None:
    """A POST with an Idempotency-Key that fails on the way is repeated whole and with the same key."""
    async with raw_server(failure, answer()) as server, new_client(error) as client:
        await client.post(server.url, content=b"pay", headers={"Idempotency-Key": "1"})
    assert [(request.body, request.headers["idempotency-key"]) for request in server.requests] == [(b"pay", "1")] * 2


@pytest.mark.parametrize(("failure", "error"), FAILURES[:2])
async def test_last_failure_is_raised(failure: Act, error: type[Exception]) -> None:
    """Once the retries are used up, the last failure is raised as httpx raises it, with every attempt in a note."""
    async with raw_server(failure) as server, new_client(error, max_retries=1) as client:
        with pytest.raises(error) as caught:
            await client.get(server.url)
    assert type(caught.value) is error
    assert "made 2 of at most 2 attempts" in caught.value.__notes__[0]
    assert len(server.requests) == 2


@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH_9.6\r\n", b"\x15\x03\x01\x00\x02\x02\x46"], ids=["ssh", "tls"])
async def test_what_is_not_an_http_server_is_not_asked_again(greeting: bytes) -> None:
    """An answer that is not HTTP, as from an SSH or a TLS port, ends the request at once."""

    async def greet(stream: anyio.abc.ByteStream) -> None:
        await stream.send(greeting)

    async with raw_server(greet) as server, new_client(InvalidResponse) as client:
        with pytest.raises(InvalidResponse) as caught:
            await client.get(server.url)
    assert type(caught.value) is InvalidResponse
    assert "InvalidResponse is not retried" in caught.value.__notes__[0]
    assert len(server.requests) == 1


@each_row(
    ("headers", "content"),
    [({"Authorization": "Bearer "}, b""), ({"Authorization": "Bearer key\n"}, b""), ({"Content-Length": "10"}, b"abc")],
    ids=["empty-token", "line-break", "length"],
)
async def test_what_cannot_be_sent_is_not_tried_again(headers: dict[str, str], content: bytes) -> None:
    """A request that cannot be sent ends at once, even if it would be safe to repeat."""
    async with raw_server(answer()) as server, new_client(httpx.LocalProtocolError) as client:
        with pytest.raises(httpx.LocalProtocolError) as caught:
            await client.put(server.url, headers=headers, content=content)
    assert "LocalProtocolError is not retried" in caught.value.__notes__[0]
    assert server.requests == []


@each_row("port", [99999, 65536, -5])
async def test_port_that_does_not_exist(port: int) -> None:
    """A port that does not exist is a ConnectError, as it is, on both backends."""
    async with new_client(httpx.ConnectError) as client:
        with anyio.fail_after(10), pytest.raises(httpx.ConnectError) as caught:
            await client.get(f"http://127.0.0.1:{port}/")
    assert type(caught.value) is httpx.ConnectError


async def test_half_a_streamed_body_reaches_its_reader() -> None:
    """If a body breaks off while the caller streams it, the caller gets what came and then the error."""
    chunks: list[bytes] = []

    async def read(client: PrefectHttpxClient, url: str) -> None:
        async with client.stream("GET", url) as response:
            async for chunk in response.aiter_raw():
                chunks.append(chunk)  # noqa: PERF401  # a comprehension would lose what came

    async with raw_server(half_answer()) as server, new_client(httpx.RemoteProtocolError) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await read(client, server.url)
    assert b"".join(chunks) == b"0123456789"
    assert len(server.requests) == 1


async def test_address_that_never_answered_fails_fast() -> None:
    """A connection that is refused by an address that has never answered is not retried."""
    attempts: list[Attempt] = []

    def note(_: httpx.Request, attempt: Attempt) -> None:
        attempts.append(attempt)

    async with PrefectHttpxClient(retry=retrying_at_once(), on_retry=note, trust_env=False) as client:
        with anyio.fail_after(10), pytest.raises(httpx.ConnectError) as caught:
            await client.get(f"http://127.0.0.1:{refusing_port()}/")
    assert attempts == []
    assert "made 1 of at most 6 attempts" in caught.value.__notes__[0]


async def _one_shot() -> AsyncIterator[bytes]:
    yield b"only "
    yield b"once"


@pytest.mark.parametrize("make_content", [lambda: b"only once", _one_shot], ids=["bytes", "one-shot-stream"])
async def test_request_survives_a_restart_of_the_server(
    make_content: Callable[[], bytes | AsyncIterator[bytes]],
) -> None:
    """If a server that has answered before restarts, requests are sent once it is back."""
    is_down, is_done = anyio.Event(), anyio.Event()
    bodies: list[bytes] = []

    def note(_: httpx.Request, attempt: Attempt) -> None:
        assert type(attempt.exception) is httpx.ConnectError
        is_down.set()

    async def restart(port: int) -> None:
        await is_down.wait()
        async with raw_server(answer(), port=port) as restarted:
            await is_done.wait()
        bodies.extend(request.body for request in restarted.requests)

    policy = RetryPolicy(max_retries=500, backoff_base=1, max_backoff=0.01, jitter=0)
    async with PrefectHttpxClient(retry=policy, on_retry=note, trust_env=False) as client:
        async with raw_server(answer()) as server:
            await client.get(server.url)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(restart, server.port)
                await client.post(server.url, content=make_content())
                is_done.set()
    assert bodies == [b"only once"]


# --- A dead proxy


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_dead_proxy_is_called_a_proxy(scheme: str) -> None:
    """If the proxy refuses the connection, the error and its note name the proxy, without its credentials."""
    port = refusing_port()
    proxy = f"http://user:s3cret@127.0.0.1:{port}"
    async with PrefectHttpxClient(retry=retrying_at_once(2), proxy=proxy, trust_env=False) as client:
        with pytest.raises(httpx.ConnectError) as caught:
            await client.get(f"{scheme}://server/")
    assert type(caught.value) is httpx.ConnectError
    assert str(caught.value).startswith(f"could not connect to the proxy http://127.0.0.1:{port}: ")
    assert f"the proxy http://127.0.0.1:{port}" in caught.value.__notes__[0]
    assert "s3cret" not in str(caught.value) + caught.value.__notes__[0]
    assert caught.value.request.url == f"{scheme}://server/"


async def test_a_proxy_that_does_not_answer_in_time() -> None:
    """A timeout while the connection is opened names the proxy, too."""

    async def ignore(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            async for _ in stream:
                pass

    async with listening(ignore) as port:
        proxy = httpx.Proxy(f"https://127.0.0.1:{port}")
        async with PrefectHttpxClient(retry=retrying_at_once(0), proxy=proxy, timeout=0.1, trust_env=False) as client:
            with pytest.raises(httpx.ConnectTimeout, match=r"handshake with the proxy https://127\.0\.0\.1"):
                await client.get("http://server/")


async def test_a_certificate_behind_a_proxy() -> None:
    """If TLS fails through a proxy, the proxy is named as what the connection went through."""

    async def tunnel(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 200 Connected\r\n\r\n")
            await stream.receive()
            await stream.send(b"this is not TLS")

    async with listening(tunnel) as port:
        proxy = f"http://127.0.0.1:{port}"
        message = f"^could not complete the TLS handshake with server:443 through the proxy {proxy}: "
        async with PrefectHttpxClient(retry=retrying_at_once(0), proxy=proxy, trust_env=False) as client:
            with pytest.raises(httpx.ConnectError, match=message):
                await client.get("https://server/")


# --- A missing client certificate


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
async def test_a_missing_client_certificate_is_not_repeated_for_a_minute(version: ssl.TLSVersion) -> None:
    """A server that wants a client certificate is asked twice at most, and the note says what may be missing."""
    context = server_context(version=version)
    context.verify_mode = ssl.CERT_REQUIRED
    authority().configure_trust(context)  # pyright: ignore[reportUnknownMemberType]
    attempts: list[Attempt] = []

    async def serve(stream: anyio.abc.ByteStream) -> None:
        pytest.fail("the handshake has succeeded")

    async with listening(serve, context) as port:
        async with PrefectHttpxClient(
            retry=retrying_at_once(5),
            verify=client_context(),
            on_attempt=lambda _, attempt: attempts.append(attempt),
            trust_env=False,
        ) as client:
            with pytest.raises(httpx.TransportError):
                await client.get(f"https://127.0.0.1:{port}/")
    assert len(attempts) == (1 if version is TLS_1_2 else 2)
    assert version is TLS_1_2 or attempts[-1].reason.endswith("it may require a client certificate")
