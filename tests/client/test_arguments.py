"""The client's arguments: those that it accepts, and those that it rejects."""

from __future__ import annotations

import functools
import inspect
import ssl
import typing
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest
from support.rows import each_row
from support.scripted_transport import AT_ONCE, URL, Body, Server
from support.servers import answer, raw_server

from prefect_http import (
    Attempt,
    AttemptObserver,
    HTTPTransport,
    PrefectHttpxClient,
    RetryPolicy,
    Telemetry,
    __version__,
)
from prefect_http._client.arguments import HttpxArguments

# httpx 0.27 still accepts these, with a deprecation warning.
DEPRECATED = {"app", "proxies"}


async def user_agent(*, headers: Any = None, request_headers: Any = None) -> str:
    """Return the User-Agent that the server gets."""
    server = Server(200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, headers=headers) as client:
            await client.get(URL, headers=request_headers)
    return server.seen[0].headers["User-Agent"]


# --- User-Agent


@pytest.mark.anyio
async def test_the_user_agent_names_the_package() -> None:
    """Unless the user sets one, the User-Agent is prefect-http/<version>, and more."""
    agent = await user_agent()
    assert agent.startswith(f"prefect-http/{__version__} ")
    assert f"python-httpx/{httpx.__version__}" in agent


@pytest.mark.anyio
@each_row(
    "headers",
    [
        {"User-Agent": "mine/1"},
        {"user-agent": "mine/1"},
        {b"User-Agent": b"mine/1"},
        [("USER-AGENT", "mine/1")],
        httpx.Headers({"User-Agent": "mine/1"}),
    ],
    ids=["dict", "lower", "bytes", "list", "Headers"],
)
async def test_the_users_own_user_agent(headers: object) -> None:
    """A User-Agent in the client's headers is used, whatever its case and type."""
    assert await user_agent(headers=headers) == "mine/1"


@pytest.mark.anyio
async def test_a_requests_own_user_agent() -> None:
    """A User-Agent in a request's headers is used."""
    assert await user_agent(request_headers={"User-Agent": "mine/2"}) == "mine/2"


@pytest.mark.anyio
@each_row("headers", [None, {}, {"X-Other": "1"}], ids=["none", "empty", "other"])
async def test_other_headers_keep_the_user_agent(headers: object) -> None:
    """Headers without a User-Agent do not remove it."""
    assert (await user_agent(headers=headers)).startswith("prefect-http/")


@pytest.mark.anyio
async def test_headers_that_are_set_later_keep_the_user_agent() -> None:
    """Nor do headers that are assigned later."""
    server = Server(200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server) as client:
            client.headers = httpx.Headers({"X-Other": "1"})
            await client.get(URL)
    assert server.seen[0].headers["User-Agent"].startswith("prefect-http/")
    assert server.seen[0].headers["X-Other"] == "1"


@pytest.mark.anyio
async def test_the_users_headers_are_not_changed() -> None:
    """The headers that are passed in are not modified."""
    headers = httpx.Headers({"X-Other": "1"})
    async with PrefectHttpxClient(transport=Server(), headers=headers):
        pass
    assert dict(headers) == {"x-other": "1"}


# --- The keywords of httpx


def test_every_keyword_of_httpx_is_accepted() -> None:
    """The typed keywords are exactly those of httpx.AsyncClient."""
    theirs = set(inspect.signature(httpx.AsyncClient.__init__).parameters) - {"self"} - DEPRECATED
    assert set(typing.get_type_hints(HttpxArguments)) == theirs


def test_our_own_keywords_are_documented() -> None:
    """The client's own arguments are keyword-only, as are httpx's."""
    parameters = inspect.signature(PrefectHttpxClient.__init__).parameters
    assert {"retry", "raise_on_all_errors", "on_retry"} <= set(parameters)
    assert all(
        parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD)
        for name, parameter in parameters.items()
        if name != "self"
    )


async def hook(_: object) -> None:
    """Do nothing, as an event hook."""


ARGUMENTS: dict[str, Callable[[], Any]] = {
    "auth": lambda: ("user", "pw"),
    "params": lambda: {"q": "1"},
    "headers": lambda: {"X-A": "1"},
    "cookies": lambda: {"c": "1"},
    "verify": ssl.create_default_context,
    "cert": lambda: None,
    "http1": lambda: True,
    "http2": lambda: False,
    "proxy": lambda: None,
    "mounts": lambda: {"all://elsewhere": Server()},
    "timeout": lambda: httpx.Timeout(3),
    "follow_redirects": lambda: True,
    "limits": lambda: httpx.Limits(max_connections=1),
    "max_redirects": lambda: 3,
    "event_hooks": lambda: {"request": [hook], "response": [hook]},
    "base_url": lambda: "http://base/",
    "transport": lambda: Server(200),
    "trust_env": lambda: False,
    "default_encoding": lambda: "latin-1",
}


def test_the_table_of_arguments_is_complete() -> None:
    """Every keyword is tested below."""
    assert set(ARGUMENTS) == set(typing.get_type_hints(HttpxArguments))


@pytest.mark.anyio
@each_row("name", ARGUMENTS)
async def test_each_keyword_is_accepted(name: str) -> None:
    """Each keyword of httpx.AsyncClient is accepted beside our own."""
    arguments: dict[str, Any] = {"transport": Server(200), name: ARGUMENTS[name]()}
    with anyio.fail_after(5):
        async with PrefectHttpxClient(retry=AT_ONCE, **arguments) as client:
            assert (await client.get(URL)).status_code == 200


@pytest.mark.anyio
async def test_the_keywords_have_their_effect() -> None:
    """The keywords have the effect that they have in httpx."""
    server = Server(200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(
            transport=server,
            base_url="http://base/api",
            params={"q": "1"},
            headers={"X-A": "1"},
            cookies={"c": "1"},
            auth=("user", "pw"),
            default_encoding="latin-1",
        ) as client:
            response = await client.get("flows")
    (seen,) = server.seen
    assert seen.url == "http://base/api/flows?q=1"
    assert seen.headers["X-A"] == "1"
    assert seen.headers["Cookie"] == "c=1"
    assert seen.headers["Authorization"].startswith("Basic ")
    assert response.encoding == "latin-1"


def test_an_unknown_keyword_is_rejected() -> None:
    """A misspelled keyword is a TypeError that names it."""
    with pytest.raises(TypeError, match="retries"):
        PrefectHttpxClient(retries=3)  # type: ignore[call-arg]


def test_a_keyword_of_a_newer_httpx_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A keyword that only a newer httpx knows is rejected as well: it would have no effect on our transports."""
    init = httpx.AsyncClient.__init__

    def newer(self: httpx.AsyncClient, *, http3: bool = False, **arguments: Any) -> None:
        init(self, **arguments)

    monkeypatch.setattr(httpx.AsyncClient, "__init__", newer)
    PrefectHttpxClient(trust_env=False)
    with pytest.raises(TypeError, match="unexpected keyword argument 'http3'"):
        PrefectHttpxClient(http3=True)  # type: ignore[call-arg]


def test_a_keyword_of_the_policy_is_rejected_with_a_hint() -> None:
    """A keyword that belongs to the RetryPolicy, or that transports have, is an error that says where it goes."""
    for name in ("max_retries", "retries"):
        hint = rf"'{name}'; use retry=RetryPolicy\(max_retries=\.\.\.\)$"
        with pytest.raises(TypeError, match="unexpected keyword argument " + hint):
            PrefectHttpxClient(**{name: 3})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "transport",
    [HTTPTransport, httpx.HTTPTransport(), httpx.WSGITransport(lambda *_: []), "https://example.com"],
)
def test_no_transport(transport: Any) -> None:
    """What is not an async transport is an error at once, and not only when the client is entered."""
    for arguments in ({"transport": transport}, {"mounts": {"https://": transport}}):
        with pytest.raises(TypeError, match=r"must be an httpx\.AsyncBaseTransport, not ") as caught:
            PrefectHttpxClient(**arguments)
        remedy = "; that is a sync transport, use prefect_http.HTTPTransport"
        assert str(caught.value).endswith(remedy) == isinstance(transport, httpx.HTTPTransport)


def test_positional_arguments_are_rejected() -> None:
    """There are no positional arguments."""
    with pytest.raises(TypeError):
        PrefectHttpxClient(RetryPolicy())  # type: ignore[call-arg]


# --- retry


@each_row("retry", [3, 0, False, True, "5", {}, {"max_retries": 3}, RetryPolicy, ...])
def test_a_retry_of_the_wrong_type_is_rejected(retry: Any) -> None:
    """A retry that is not a RetryPolicy is a TypeError."""
    with pytest.raises(TypeError, match=r"^retry must be a RetryPolicy"):
        PrefectHttpxClient(retry=retry)


@pytest.mark.anyio
@each_row("retry", [3, 0, False, "", {}, RetryPolicy])
async def test_a_retry_of_the_wrong_type_in_a_request_is_rejected(retry: object) -> None:
    """An extension "retry" that is not a RetryPolicy is a TypeError that names it, and nothing is sent."""
    server = Server(200, 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server) as client:
            with pytest.raises(TypeError, match=r'extensions\["retry"\] must be a RetryPolicy'):
                await client.get(URL, extensions={"retry": retry})
            with pytest.raises(TypeError, match=r'extensions\["retry"\] must be a RetryPolicy'):
                async with client.stream("GET", URL, extensions={"retry": retry}):
                    pass
    assert server.count == 0


@pytest.mark.anyio
async def test_a_subclass_of_the_policy_is_a_policy() -> None:
    """A subclass of RetryPolicy is accepted in both places."""

    class Stubborn(RetryPolicy):
        pass

    server = Server(503, 200, 503, 200)
    policy = Stubborn(backoff_base=0, jitter=0)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=policy) as client:
            await client.get(URL)
        async with PrefectHttpxClient(transport=server, retry=RetryPolicy(max_retries=0)) as client:
            await client.get(URL, extensions={"retry": policy})
    assert server.count == 4


# --- The environment


@pytest.mark.anyio
async def test_the_environment_makes_the_default_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without retry= the policy comes from the environment at the time the client is made."""
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "0")
    client = PrefectHttpxClient(transport=(server := Server(503)))
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "3")
    with anyio.fail_after(5):
        async with client:
            with pytest.raises(httpx.HTTPStatusError):
                await client.get(URL)
    assert server.count == 1


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PREFECT_CLIENT_MAX_RETRIES", "many"),
        ("PREFECT_CLIENT_RETRY_EXTRA_CODES", "teapot"),
        ("PREFECT_CLIENT_RETRY_JITTER_FACTOR", "2"),
    ],
)
def test_a_bad_variable_is_rejected(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An invalid variable is a ValueError that names it when the client is made."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=variable):
        PrefectHttpxClient()


def test_a_bad_variable_does_not_matter_with_a_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """With retry= the environment is ignored."""
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "many")
    PrefectHttpxClient(retry=RetryPolicy(), transport=Server())


# --- on_retry


async def async_function(_: httpx.Request, __: Attempt) -> None:
    """An async function, which on_retry= must not be."""


class AsyncCallable:
    async def __call__(self, _: httpx.Request, __: Attempt) -> None:
        """Be async as an object."""


class Methods:
    async def hook(self, _: httpx.Request, __: Attempt) -> None:
        """Be async as a method."""


@pytest.mark.parametrize(
    "on_retry",
    [async_function, functools.partial(async_function), Methods().hook],
    ids=["function", "partial", "method"],
)
def test_an_async_on_retry_is_rejected(on_retry: Callable[..., object]) -> None:
    """An async on_retry would never be awaited, so it is a TypeError when the client is made."""
    with pytest.raises(TypeError, match="on_retry"):
        PrefectHttpxClient(on_retry=on_retry)


@pytest.mark.anyio
@each_row(
    "on_retry",
    [AsyncCallable(), functools.partial(AsyncCallable()), lambda *args: async_function(*args)],
    ids=["object", "partial object", "lambda"],
)
async def test_an_async_on_retry_that_cannot_be_recognized(on_retry: Callable[..., object]) -> None:
    """If it cannot be recognized earlier, it is a TypeError when it is called, and the response is closed."""
    body = Body([b"no"])
    server = Server(httpx.Response(503, stream=body), 200)

    async def use() -> None:
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE, on_retry=on_retry) as client:
            await client.get(URL)

    with anyio.fail_after(5), pytest.raises(TypeError, match="on_retry"):
        await use()
    assert server.count <= 1
    assert body.is_closed or not server.count


@each_row("on_retry", ["log", 3, True, [print]])
def test_an_on_retry_that_is_not_callable_is_rejected(on_retry: Any) -> None:
    """An on_retry that is not callable is a TypeError when the client is made."""
    with pytest.raises(TypeError, match="on_retry"):
        PrefectHttpxClient(on_retry=on_retry)


@pytest.mark.anyio
async def test_any_plain_callable_is_an_on_retry() -> None:
    """Methods, partials and callable objects are accepted."""

    class Counter:
        count = 0

        def __call__(self, _: httpx.Request, __: Attempt) -> None:
            self.count += 1

        def method(self, request: httpx.Request, attempt: Attempt) -> None:
            self(request, attempt)

    counter = Counter()
    with anyio.fail_after(5):
        for on_retry in (counter, counter.method, functools.partial(counter)):
            async with PrefectHttpxClient(transport=Server(503, 200), retry=AT_ONCE, on_retry=on_retry) as client:
                await client.get(URL)
    assert counter.count == 3


@pytest.mark.anyio
async def test_observers_that_are_false_are_told_all_the_same() -> None:
    """A list that can be called is false as long as it is empty, and so is a telemetry with such a list's length."""

    class Attempts(list[Attempt]):
        def __call__(self, _: httpx.Request, attempt: Attempt) -> None:
            self.append(attempt)

    class Recorder(Telemetry):
        def __init__(self) -> None:
            self.attempts: list[httpx.Request] = []

        def __len__(self) -> int:
            return len(self.attempts)

        def attempt(self, request: httpx.Request, resend_count: int) -> AttemptObserver:
            self.attempts.append(request)
            return super().attempt(request, resend_count)

    attempts, recorder = Attempts(), Recorder()
    async with raw_server(answer()) as server:
        for observer in ({"on_attempt": attempts}, {"telemetry": recorder}):
            async with PrefectHttpxClient(trust_env=False, **observer) as client:
                await client.get(server.url)
    assert (len(attempts), len(recorder)) == (1, 1)
