"""What the client logs, and what appears in no log line, message or note."""

from __future__ import annotations

import base64
import contextlib
import logging
import pickle
from typing import Any

import anyio
import httpx
import pytest
import trio
from support.rows import each_row
from support.scripted_servers import send, send_and_close
from support.scripted_transport import AT_ONCE, URL, Body, Server, notes_of
from support.servers import raw_server
from trio.testing import MockClock

from prefect_http import HTTPTransport, PrefectHTTPStatusError, PrefectHttpxClient, RetryPolicy
from prefect_http._internal_errors import TunnelFailed

SECRET = "s3cret"
ONE_RETRY = RetryPolicy(max_retries=1, backoff_base=0, jitter=0)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """Collect what the package logs."""
    caplog.set_level(logging.DEBUG, logger="prefect_http")
    return Lines(caplog)


class Lines:
    """The package's own log records, without those of httpx's logger."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    @property
    def records(self) -> list[logging.LogRecord]:
        """The records, oldest first."""
        return [record for record in self._caplog.records if record.name.startswith("prefect_http")]

    @property
    def texts(self) -> list[str]:
        """Their messages."""
        return [record.getMessage() for record in self.records]


async def fail(server: Server, url: str = URL, *, retry: RetryPolicy = ONE_RETRY, **more: Any) -> httpx.HTTPError:
    """Send a request that must fail, and return the error."""
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=retry) as client:
            with pytest.raises(httpx.HTTPError) as caught:
                await client.request("GET", url, **more)
    return caught.value


# --- A line for each attempt


@pytest.mark.trio
async def test_a_line_for_each_attempt(lines: Lines, autojump_clock: MockClock) -> None:
    """Each attempt is a DEBUG line: what happened, which attempt of how many, the wait if there is one, and why."""
    busy = httpx.Response(503, headers={"Retry-After": "7"})
    with trio.fail_after(60):
        async with PrefectHttpxClient(
            transport=Server(busy, httpx.ReadTimeout("slow"), 200), retry=RetryPolicy(jitter=0)
        ) as client:
            await client.get(URL)
    assert lines.texts == [
        "GET http://server/path: 503, attempt 1/6; the next one in 7 s (Retry-After of 7 s)",
        "GET http://server/path: ReadTimeout: slow, attempt 2/6; the next one in 4 s (backoff of 4 s)",
        "GET http://server/path: 200, attempt 3/6 (the response was accepted)",
    ]
    assert {(record.name, record.levelno) for record in lines.records} == {("prefect_http", logging.DEBUG)}


@pytest.mark.anyio
async def test_attempts_are_counted_by_the_policy(lines: Lines) -> None:
    """The line has the number of attempts that the request's own policy allows."""
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(503, 503, 200)) as client:
            await client.get(URL, extensions={"retry": RetryPolicy(max_retries=2, backoff_base=0, jitter=0)})
    assert ["attempt 1/3" in lines.texts[0], "attempt 2/3" in lines.texts[1]] == [True, True]


@pytest.mark.anyio
async def test_the_line_is_there_before_on_retry_is_called(lines: Lines) -> None:
    """The line is logged even if on_retry raises."""

    def on_retry(*_: object) -> None:
        raise RuntimeError("hook")

    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(503), retry=AT_ONCE, on_retry=on_retry) as client:
            with pytest.raises(RuntimeError, match="hook"):
                await client.get(URL)
    assert len(lines.texts) == 1


@pytest.mark.anyio
@each_row(
    "answer, line",
    [
        (200, "200, attempt 1/6 (the response was accepted)"),
        (404, "404, attempt 1/6 (404 is not retried)"),
        (
            httpx.UnsupportedProtocol("odd"),
            "UnsupportedProtocol: odd, attempt 1/6 (UnsupportedProtocol is not retried)",
        ),
    ],
    ids=["success", "status", "error"],
)
async def test_the_last_attempt_has_a_line(answer: object, line: str, lines: Lines) -> None:
    """It is logged as well, be it good or bad."""
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(answer), retry=AT_ONCE) as client:
            with contextlib.suppress(httpx.HTTPError):
                await client.get(URL)
    assert lines.texts[-1:] == [f"GET http://server/path: {line}"]


@pytest.mark.anyio
async def test_redirects_and_challenges_have_lines(lines: Lines) -> None:
    """Each request that is sent is an attempt."""
    challenge = httpx.Response(401, headers={"WWW-Authenticate": 'Digest realm="a", nonce="b", qop="auth"'})
    server = Server(challenge, httpx.Response(307, headers={"Location": "/other"}), 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            await client.get(URL, auth=httpx.DigestAuth("user", "password"), follow_redirects=True)
    assert lines.texts == [
        "GET http://server/path: 401, attempt 1/6 (the auth flow sent another request)",
        "GET http://server/path: 307, attempt 2/7 (the redirect was followed)",
        "GET http://server/other: 200, attempt 3/8 (the response was accepted)",
    ]


@pytest.mark.trio
async def test_a_line_has_fields(lines: Lines, autojump_clock: MockClock) -> None:
    """Programs read its parts from the record."""
    names = ("http_method", "http_url", "http_status", "error_type", "attempt", "max_attempts", "delay", "reason")
    server = Server(httpx.ReadTimeout("slow"), 200)
    async with PrefectHttpxClient(transport=server, retry=RetryPolicy(jitter=0)) as client:
        await client.get(f"http://user:{SECRET}@server/path")
    assert [tuple(vars(record)[name] for name in names) for record in lines.records] == [
        ("GET", "http://server/path", None, f"{httpx.__name__}.ReadTimeout", 1, 6, 2.0, "backoff of 2 s"),
        ("GET", "http://server/path", 200, None, 2, 6, None, "the response was accepted"),
    ]
    assert all(vars(record)["elapsed"] >= 0 for record in lines.records)


@pytest.mark.anyio
async def test_only_public_classes_are_named(lines: Lines) -> None:
    """In the line, in its fields, and in the notes of the error."""
    error = await fail(Server(TunnelFailed("no tunnel"), TunnelFailed("no tunnel")))
    assert "ProxyError" in notes_of(error)
    assert "Tunnel" not in said(error, lines)
    assert {vars(record)["error_type"] for record in lines.records} == {f"{httpx.__name__}.ProxyError"}


@pytest.mark.anyio
async def test_a_line_is_one_line(lines: Lines) -> None:
    """A log line has no line breaks, whatever the exception's message."""
    await fail(Server(httpx.ReadError("one\ntwo\r\n\x1b[31mthree"), 404))
    assert all(text.isprintable() for text in lines.texts)
    assert "one two" in lines.texts[0]


# --- No credentials

URLS = [
    f"http://user:{SECRET}@server/path",
    f"http://{SECRET}@server/path",
    f"http://{SECRET}:pw@server/path",
]
FAILURES: dict[str, Any] = {
    "status": lambda: (503, 404),
    "exception": lambda: (httpx.ReadTimeout("slow"), httpx.ReadTimeout("slow")),
}


def said(error: BaseException, lines: Lines) -> str:
    """Return all texts: the message, the notes, the log lines and the reasons."""
    attempts = [attempt.reason for attempt in getattr(error, "attempts", ())]
    return "\n".join([str(error), notes_of(error), *lines.texts, *attempts])


@pytest.mark.anyio
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("url", URLS)
async def test_no_userinfo_is_shown(failure: str, url: str, lines: Lines) -> None:
    """The userinfo of a URL is in no message, note or log line."""
    server = Server(*FAILURES[failure]())
    text = said(await fail(server, url), lines)
    assert server.count == 2
    assert lines.texts
    assert SECRET not in text
    assert "server/path" in text


@pytest.mark.anyio
async def test_no_userinfo_of_a_redirect_is_shown(lines: Lines) -> None:
    """Nor is the userinfo of a URL that a redirect leads to."""
    redirect = httpx.Response(307, headers={"Location": f"http://user:{SECRET}@elsewhere/"})
    server = Server(redirect, 503, redirect, 404)
    text = said(await fail(server, follow_redirects=True), lines)
    assert server.count == 4
    assert SECRET not in text


@pytest.mark.anyio
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize(
    "arguments",
    [
        {"headers": {"Authorization": f"Bearer {SECRET}"}},
        {"auth": ("user", SECRET)},
        {"headers": {"Cookie": f"session={SECRET}"}},
        {"headers": {"Proxy-Authorization": f"Basic {SECRET}"}},
    ],
    ids=["authorization", "auth", "cookie", "proxy"],
)
async def test_no_credentials_of_headers_are_shown(failure: str, arguments: dict[str, Any], lines: Lines) -> None:
    """Credentials in headers are in no message, note or log line."""
    text = said(await fail(Server(*FAILURES[failure]()), **arguments), lines)
    assert lines.texts
    assert SECRET not in text


@pytest.mark.anyio
async def test_the_line_of_httpx_has_no_credentials(caplog: pytest.LogCaptureFixture) -> None:
    """Nor has httpx's own line, even if the server echoes them in its reason phrase."""
    caplog.set_level(logging.INFO, logger=httpx.__name__)
    response = httpx.Response(200, extensions={"reason_phrase": f"Hello {SECRET}".encode()})
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(response)) as client:
            await client.get(f"http://user:{SECRET}@server/path")
    assert [record.getMessage() for record in caplog.records if record.name == httpx.__name__] == [
        'HTTP Request: GET http://server/path "HTTP/1.1 200 Hello [secure]"'
    ]


BASIC = base64.b64encode(f"user:{SECRET}".encode())
ECHO = b"user:%b or Basic %b" % (SECRET.encode(), BASIC)
REFUSAL = b"HTTP/1.1 503 bad %b\r\nContent-Length: %d\r\n\r\n%b" % (BASIC, len(ECHO), ECHO)


@pytest.mark.anyio
@pytest.mark.parametrize("is_mounted", [False, True], ids=["proxy", "mounts"])
async def test_no_credentials_for_a_proxy_are_shown(is_mounted: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A proxy that forwards a request may echo the credentials for it, and the message, notes and logs hide them."""
    caplog.set_level(logging.DEBUG, logger="prefect_http")
    caplog.set_level(logging.INFO, logger=httpx.__name__)
    invalid = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: %b\r\n\r\n" % SECRET.encode()
    async with raw_server(send(REFUSAL), send(invalid)) as proxy:
        url = proxy.url.replace("//", f"//user:{SECRET}@")
        way: Any = {"mounts": {"http://": HTTPTransport(proxy=url)}} if is_mounted else {"proxy": url}
        errors: list[Exception] = []
        async with PrefectHttpxClient(**way, retry=ONE_RETRY) as client:
            for retries in (0, 1):
                with pytest.raises(httpx.HTTPError) as caught:
                    await client.get("http://server.test/", retry=RetryPolicy(max_retries=retries))
                errors.append(caught.value)
    assert "503 bad [secure] for GET http://server.test/: [secure] or Basic [secure]" in str(errors[0])
    text = "\n".join([*map(str, errors), *map(notes_of, errors), *(record.getMessage() for record in caplog.records)])
    assert text.count('"HTTP/1.1 503 bad [secure]"') == 1
    assert SECRET not in text
    assert BASIC.decode() not in text


@pytest.mark.anyio
async def test_no_credentials_for_an_earlier_proxy_are_shown() -> None:
    """If a retry goes through another proxy, the credentials for the first one are hidden as well."""
    other = base64.b64encode(b"user:0ther").decode()
    invalid = "HTTP/1.1 502 bad user:0ther " + BASIC.decode() + f"Basic {other}"

    class Alternating(httpx.AsyncBaseTransport):
        def __init__(self, *urls: str) -> None:
            self._transports = [HTTPTransport(proxy=url) for url in urls]

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            self._transports.reverse()
            return await self._transports[0].handle_async_request(request)

    ending = f"{invalid}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
    async with raw_server(send_and_close(ending)) as proxy:
        urls = [proxy.url.replace("//", f"//{userinfo}@") for userinfo in (f"user:{SECRET}", "user:0ther")]
        async with PrefectHttpxClient(transport=Alternating(*urls), retry=ONE_RETRY) as client:
            with pytest.raises(PrefectHTTPStatusError) as caught:
                await client.get("http://server.test/")
    request = caught.value.request
    assert len(caught.value.attempts) == 2
    for shown in (str(caught.value), repr(request), repr(request.extensions)):
        assert SECRET not in shown
        assert "0ther" not in shown
        assert BASIC.decode() not in shown
    assert BASIC not in pickle.dumps(caught.value.response)


@pytest.mark.anyio
async def test_no_cookies_of_a_response_are_shown(lines: Lines) -> None:
    """Nor are the cookies that a server sets."""
    answers = [httpx.Response(status, headers={"Set-Cookie": f"session={SECRET}"}) for status in (503, 404)]
    assert SECRET not in said(await fail(Server(*answers)), lines)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "error",
    [
        # The messages of h11, of h2, and of h11 about the response.
        httpx.LocalProtocolError(f"Illegal header value b'Bearer {SECRET}\\n'"),
        httpx.LocalProtocolError(f"Received header value surrounded by whitespace b' {SECRET}'"),
        httpx.RemoteProtocolError(f"illegal header line: bytearray(b'Set-Cookie : session={SECRET}')"),
    ],
    ids=["h11", "h2", "answer"],
)
async def test_no_exception_quotes_a_header_in_what_we_say(error: httpx.RequestError, lines: Lines) -> None:
    """An exception that quotes a header is shown without the quotation in log lines and notes."""
    raised = await fail(Server(error, error))
    assert raised is error
    text = "\n".join([notes_of(error), *lines.texts])  # the exception's own message is not ours
    assert type(error).__name__ in text
    assert SECRET not in text


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("header", "value"),
    [("Authorization", f"Bearer {SECRET}"), ("Cookie", f"session={SECRET}; theme=dark")],
    ids=["authorization", "cookie"],
)
async def test_an_answer_that_echoes_the_request_is_not_repeated(header: str, value: str, lines: Lines) -> None:
    """If a debug page lists the request's headers, their credentials are not in the message."""

    async def echo(request: httpx.Request) -> httpx.Response:
        listing = "\n".join(f"{name}: {request.headers[name]}" for name in request.headers)
        return httpx.Response(500, text=f"Something broke.\n{listing}")

    text = said(await fail(Server(echo), headers={header: value}), lines)
    assert "Something broke" in text
    assert SECRET not in text


@pytest.mark.anyio
@pytest.mark.parametrize(
    "value",
    [f"Bearer {SECRET}", f'Digest username="user", response="{SECRET}"', f"Bearer Größe-{SECRET}"],
    ids=["bearer", "digest", "no ASCII"],
)
async def test_a_json_answer_that_echoes_the_request_is_not_repeated(value: str, lines: Lines) -> None:
    """The same if the list is JSON, in which quotes and non-ASCII letters are escaped."""

    async def echo(request: httpx.Request) -> httpx.Response:
        return httpx.Response(500, json={"detail": {"why": "broke", "headers": dict(request.headers)}})

    text = said(await fail(Server(echo), headers={b"Authorization": value.encode()}), lines)
    assert "broke" in text
    assert SECRET not in text


@pytest.mark.anyio
async def test_the_body_of_a_request_is_not_shown(lines: Lines) -> None:
    """The request's body is in no message, note or log line."""
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(503, 404), retry=ONE_RETRY) as client:
            with pytest.raises(httpx.HTTPError) as caught:
                await client.post(URL, json={"password": SECRET})
    assert SECRET not in said(caught.value, lines)


@pytest.mark.anyio
async def test_a_one_shot_note_has_no_credentials(lines: Lines) -> None:
    """The note about a one-shot body does not quote it."""
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(503), retry=ONE_RETRY) as client:
            with pytest.raises(httpx.HTTPError) as caught:
                await client.post(f"http://user:{SECRET}@server/", content=Body([SECRET.encode()]))
    text = said(caught.value, lines)
    assert "one-shot" in text
    assert SECRET not in text
