"""Runs a scenario with httpx.AsyncClient and with PrefectHttpxClient, which must behave alike.

Everything that can be observed is noted as plain data, in order: what the transports were asked, what was returned or
raised, what event hooks and auth flows were called with, what was logged, and the clients' cookies and states.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import zip_longest
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self
from unittest.mock import patch

import anyio
import anyio.lowlevel
import httpx
import pytest

from prefect_http import PrefectHttpxClient, RetryPolicy
from support.scripted_transport import responded

P = ParamSpec("P")

URL = "http://server/path"
Answer = int | httpx.Response | Exception | Callable[[httpx.Request], "httpx.Response | Awaitable[httpx.Response]"]
Note = tuple[object, ...]
Scenario = Callable[["Run"], Awaitable[None]]

# The two ways to send a request: the response is read whole, or streamed and read later.
MODES = ("read", "streamed")
_CLIENTS: tuple[type[httpx.AsyncClient], ...] = (httpx.AsyncClient, PrefectHttpxClient)
_OURS = {"retry": RetryPolicy(max_retries=0), "raise_on_all_errors": False}
_USER_AGENT = re.compile(rb"(prefect-http/\S+ )?python-httpx2?/\S+")
_LOGGERS = ("httpx", "httpx2")


class Run:
    """One run of a scenario.

    Args:
        client_class: the class of the clients.
        mode: one of MODES, for ``request()``.
        **ours: more arguments for clients of our classes.

    Attributes:
        notes: what was observed.
    """

    def __init__(self, client_class: type[httpx.AsyncClient], mode: str = "read", **ours: Any) -> None:
        self.client_class = client_class
        self._is_streamed = mode == "streamed"
        self._ours = {**_OURS, **ours}
        self._clients: list[httpx.AsyncClient] = []
        self.notes: list[Note] = []

    def note(self, *what: object) -> None:
        """Note something that must be the same in both runs."""
        self.notes.append(what)

    def case(self, *name: object) -> None:
        """Note which row of a table follows; a difference that is found names it."""
        self.note("case", *map(repr, name))

    def client(self, *answers: Answer, **arguments: Any) -> httpx.AsyncClient:
        """Return a client for a server that gives these answers, or with a ``transport`` of its own."""
        if "transport" not in arguments:
            arguments["transport"] = self.transport(*answers)
        return self.instance_of(self.client_class, **arguments)

    def instance_of(self, client_class: type[httpx.AsyncClient], **arguments: Any) -> httpx.AsyncClient:
        """Return a client of another class; if that is one of ours, it neither retries nor raises for the status."""
        ours = self._ours if issubclass(client_class, PrefectHttpxClient) else {}
        client = client_class(**{**ours, **arguments})
        self._clients.append(client)
        return client

    def transport(self, *answers: Answer, name: str = "transport") -> Transport:
        """Return a transport that gives these answers, and notes what it was asked."""
        return Transport(self, answers, name)

    async def request(
        self, client: httpx.AsyncClient, method: str = "GET", url: httpx.URL | str = URL, **arguments: Any
    ) -> httpx.Response | None:
        """Make a request, in the mode of the run, and note the response or the error; return the response."""
        if not self._is_streamed:
            return await self.outcome(client.request(method, url, **arguments))
        response: httpx.Response | None = None
        try:
            async with client.stream(method, url, **arguments) as response:
                self.note("streamed", describe_response(response))
                await response.aread()
        except Exception as error:
            self.note("raised", describe_error(error))
        if response is not None:
            self.note("closed", describe_response(response))
        return response

    async def send(self, client: httpx.AsyncClient, request: httpx.Request, **arguments: Any) -> httpx.Response | None:
        """Send a request, in the mode of the run, and note the response or the error; return the response."""
        response = await self.outcome(client.send(request, stream=self._is_streamed, **arguments))
        if response is not None and self._is_streamed:
            await response.aread()
            self.note("read", describe_response(response))
        return response

    async def outcome(self, step: Awaitable[httpx.Response]) -> httpx.Response | None:
        """Note and return the response that a step returns, or note what it raises and return None."""
        try:
            response = await step
        except Exception as error:
            self.note("raised", describe_error(error))
            return None
        self.note("returned", describe_response(response))
        return response

    async def result(self, step: Awaitable[object]) -> None:
        """Note what a step returns or raises."""
        try:
            self.note("result", await step)
        except Exception as error:
            self.note("raised", describe_error(error))

    def hooks(self, *kinds: str) -> dict[str, list[Callable[..., Awaitable[None]]]]:
        """Return event hooks, of both kinds or of these, that note what they are called with."""

        async def on_request(request: httpx.Request) -> None:
            await anyio.lowlevel.checkpoint()
            self.note("request hook", describe_request(request))

        async def on_response(response: httpx.Response) -> None:
            await anyio.lowlevel.checkpoint()
            self.note("response hook", describe_response(response))

        hooks: dict[str, list[Callable[..., Awaitable[None]]]] = {"request": [on_request], "response": [on_response]}
        return {kind: hook for kind, hook in hooks.items() if not kinds or kind in kinds}

    def note_clients(self) -> None:
        """Note the state of the clients."""
        for client in self._clients:
            jar = client.cookies.jar
            cookies = sorted((each.domain, each.path, each.name, str(each.value), bool(each.expires)) for each in jar)
            self.note("client", client.is_closed, cookies, sorted(client.headers), str(client.params), client.timeout)


class Transport(httpx.AsyncBaseTransport):
    """Gives the answers of a script, and notes what it was asked, and when it was entered, left and closed.

    An answer is a status, a response, an error to raise, or a function of the request, async or not. If the last one
    is a function, it gives all further answers as well.
    """

    def __init__(self, run: Run, answers: tuple[Answer, ...], name: str) -> None:
        self._run = run
        self._answers = list(answers)
        self._name = name

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await anyio.lowlevel.checkpoint()
        assert isinstance(request.stream, httpx.AsyncByteStream)
        body = b"".join([chunk async for chunk in request.stream])
        self._run.note(self._name, describe_request(request), body)
        if not request.url.scheme or not request.url.host:
            raise httpx.UnsupportedProtocol("the URL is not absolute")  # as transports to the network do
        if not self._answers:
            pytest.fail(f"the script has no answer to {request!r}")
        answer = self._answers[0]
        if len(self._answers) > 1 or not callable(answer):
            del self._answers[0]
        return await responded(answer, request)

    async def __aenter__(self) -> Self:
        self._run.note(self._name, "entered")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._run.note(self._name, "left", exc_type and exc_type.__name__)

    async def aclose(self) -> None:
        self._run.note(self._name, "closed")


Part = bytes | BaseException | Callable[[], Awaitable[object]]


class Stream(httpx.AsyncByteStream):
    """A body in parts: bytes, errors to raise, and what to wait for. Notes when it is read and closed."""

    def __init__(self, run: Run, *parts: Part, name: str = "stream") -> None:
        self._run = run
        self._parts = parts
        self._name = name

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._run.note(self._name, "is read")
        return _Parts(self._parts)

    async def aclose(self) -> None:
        self._run.note(self._name, "is closed")


# Not a generator: trio warns about those that httpx does not close.
class _Parts(AsyncIterator[bytes]):
    def __init__(self, parts: tuple[Part, ...]) -> None:
        self._left = iter(parts)

    async def __anext__(self) -> bytes:
        await anyio.lowlevel.checkpoint()
        for part in self._left:
            if isinstance(part, BaseException):
                raise part
            if isinstance(part, bytes):
                return part
            await part()
        raise StopAsyncIteration


# --- Descriptions


def describe_request(request: httpx.Request) -> dict[str, object]:
    """Return what can be seen of a request, as plain data."""
    return {
        "method": request.method,
        "url": str(request.url),
        "headers": _headers(request),
        "extensions": {
            name: value
            for name, value in request.extensions.items()
            # Ours have a prefix; and httpx 0.27 sets no timeouts for requests that a client has not built.
            if not (name.startswith("prefect_http.") or (name == "timeout" and httpx.__version__.startswith("0.27.")))
        },
        "content": _outcome(lambda: request.content),
    }


def _headers(request: httpx.Request) -> list[tuple[bytes, bytes]]:
    """Return the headers in order; a User-Agent by default, which names the package, is the last."""
    headers = [(name, _USER_AGENT.sub(b"default", value)) for name, value in request.headers.raw]
    return sorted(headers, key=lambda header: header[1] == b"default")


def describe_response(response: httpx.Response, *, is_current: bool = True) -> dict[str, object]:
    """Return what can be seen of a response, as plain data."""
    next_request = response.next_request
    described: dict[str, object] = {
        "line": (response.http_version, response.status_code, response.reason_phrase),
        "headers": response.headers.raw,
        "request": _outcome(lambda: describe_request(response.request)),
        "url": _outcome(lambda: str(response.url)),
        "next_request": next_request and (describe_request(next_request), _body_of(next_request)),
        "is_closed": response.is_closed,
        "is_stream_consumed": response.is_stream_consumed,
        "num_bytes_downloaded": response.num_bytes_downloaded,
        "default_encoding": getattr(response.default_encoding, "__name__", response.default_encoding),
        "charset_encoding": response.charset_encoding,
        "encoding": _outcome(lambda: response.encoding),
        "content": _outcome(lambda: response.content),
        "text": _outcome(lambda: response.text),
        "has_elapsed": _outcome(lambda: response.elapsed.total_seconds() >= 0),
        "cookies": "Set-Cookie" in response.headers and _outcome(lambda: list(response.cookies.items())),
        "extensions": sorted(response.extensions),
        "is_success": (response.is_success, response.is_error, response.is_redirect, response.has_redirect_location),
        "links": "Link" in response.headers and response.links,
        "is_httpx": isinstance(response, httpx.Response),
    }
    if is_current:
        described["history"] = [describe_response(each, is_current=False) for each in response.history]
        described["lengths"] = [len(each.history) for each in response.history]
    return described


def describe_error(error: BaseException) -> tuple[object, ...]:
    """Return what can be seen of an error, as plain data; its notes are left out, because ours have some."""
    try:
        request = describe_request(error.request) if isinstance(error, httpx.RequestError) else None
    except RuntimeError:
        request = None
    cause = error.__cause__ and (type(error.__cause__).__name__, str(error.__cause__))
    message = str(error).replace("an sync request", "a sync request")  # httpx says so, and httpx2 does not
    if "auth" in message and isinstance(error, TypeError):
        message = "invalid auth"  # httpx quotes it, and ours does not, since it may be credentials
    return type(error).__name__, message, request, cause


def _outcome(attribute: Callable[[], object]) -> object:
    """Return the value of an attribute, or the error that it raises."""
    try:
        return attribute()
    except Exception as error:
        return type(error).__name__, str(error)


def _body_of(request: httpx.Request) -> bytes | None:
    stream = request.stream
    return b"".join(stream) if isinstance(stream, httpx.ByteStream) else None


# --- Comparison


async def observe(
    scenario: Scenario, client_class: type[httpx.AsyncClient], mode: str = "read", **ours: Any
) -> list[Note]:
    """Run a scenario with clients of a class, and return what was observed."""
    run = Run(client_class, mode, **ours)
    handler = _NotingHandler(run)
    with ExitStack() as stack:
        # Boundaries of multipart bodies and nonces of httpx.DigestAuth are random and depend on the clock.
        stack.enter_context(patch.object(os, "urandom", bytes))
        stack.enter_context(patch.object(time, "ctime", lambda: "now"))
        for name in _LOGGERS:
            stack.enter_context(_handling(logging.getLogger(name), handler))
        stack.enter_context(anyio.fail_after(10))
        await scenario(run)
    run.note_clients()
    return run.notes


async def compare(scenario: Scenario, modes: Sequence[str] = MODES) -> None:
    """Run a scenario with both classes, in each mode, and check that the same is observed."""
    for mode in modes:
        theirs, ours = [await observe(scenario, client_class, mode) for client_class in _CLIENTS]
        assert ours == theirs, f"{mode}: {_difference(ours, theirs)}"


async def compare_good(scenario: Scenario, mode: str) -> None:
    """The same with clients that raise for a bad status, unless there is one."""
    theirs = await observe(scenario, httpx.AsyncClient, mode)
    ours = await observe(scenario, PrefectHttpxClient, mode, raise_on_all_errors=True)
    has_bad = any(note[0] == "raised" and "PrefectHTTPStatusError" in str(note[1]) for note in ours)
    assert ours == theirs or has_bad, f"{mode}: {_difference(ours, theirs)}"


def _difference(ours: list[Note], theirs: list[Note]) -> str:
    """Return where two runs differ first."""
    case: object = "the only one"
    for own, other in zip_longest(ours, theirs, fillvalue=("nothing",)):
        if own != other:
            return f"in case {case}: {_first_difference(own, other, 'note')}"
        if own[0] == "case":
            case = own[1:]
    raise AssertionError("they do not differ")


def _first_difference(ours: object, theirs: object, path: str) -> str:
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        pairs: list[tuple[object, object, object]] = [(key, ours[key], theirs[key]) for key in ours]
    elif isinstance(ours, list | tuple) and isinstance(theirs, list | tuple) and len(ours) == len(theirs):
        pairs = [(index, *pair) for index, pair in enumerate(zip(ours, theirs, strict=True))]
    else:
        return f"{path} is\n  {ours!r}, httpx has\n  {theirs!r}"
    key, own, other = next(pair for pair in pairs if pair[1] != pair[2])
    return _first_difference(own, other, f"{path}[{key!r}]")


def _comparing(
    scenario: Callable[Concatenate[Run, P], Awaitable[None]], modes: Sequence[str]
) -> Callable[P, Coroutine[Any, Any, None]]:
    @functools.wraps(scenario)
    async def test(*args: P.args, **kwargs: P.kwargs) -> None:
        await compare(lambda run: scenario(run, *args, **kwargs), modes)

    signature = inspect.signature(scenario)
    vars(test)["__signature__"] = signature.replace(parameters=list(signature.parameters.values())[1:])
    return test


def beside_httpx(scenario: Callable[Concatenate[Run, P], Awaitable[None]]) -> Callable[P, Coroutine[Any, Any, None]]:
    """Make a test of a scenario: a function of a Run and of the test's own arguments."""
    return _comparing(scenario, MODES[:1])


def in_both_modes(scenario: Callable[Concatenate[Run, P], Awaitable[None]]) -> Callable[P, Coroutine[Any, Any, None]]:
    """Make a test of a scenario that is run once for responses that are read, and once for streamed ones."""
    return _comparing(scenario, MODES)


class _NotingHandler(logging.Handler):
    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    def emit(self, record: logging.LogRecord) -> None:
        message = re.sub("//[^/ ]*@", "//", record.getMessage())  # ours is without credentials
        self._run.note("log", record.name, record.levelname, message)


@contextmanager
def _handling(logger: logging.Logger, handler: logging.Handler) -> Generator[None]:
    level, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # pytest formats and keeps each record
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.propagate = propagates
        logger.removeHandler(handler)
