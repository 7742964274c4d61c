"""PrefectHttpxClient: its constructor and ``send()``, whose parts are in send.py. The verbs are in verbs.py."""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

import httpx

import prefect_http
from prefect_http._attempt import Attempt
from prefect_http._client.arguments import HttpxArguments, refuse_unknown, with_parameters_of
from prefect_http._client.authentication import authentication
from prefect_http._client.building import RequestBuilder
from prefect_http._client.exchange import exchange
from prefect_http._client.inheritance import USED_IN_BUILDING, HttpxSending, bases_after, overridden
from prefect_http._client.options import SendOptions, check_open, check_telemetry, checked_hook, checked_policy
from prefect_http._client.routes import Routes
from prefect_http._client.routing import make_transports, routes_to
from prefect_http._client.send import SendCall, accept_whole, is_plain
from prefect_http._client.streams import ClientWithStreams
from prefect_http._errors import InvalidResponse
from prefect_http._foreign_errors import clear_mark, is_foreign
from prefect_http._httpx_details import lower_names
from prefect_http._response import PrefectResponse, note_attempts, take_over
from prefect_http._retry.policy import RetryPolicy
from prefect_http._telemetry import Telemetry
from prefect_http._types import ASGIApp, Headers
from prefect_http._version import __version__

if TYPE_CHECKING:
    from prefect_http._asgi.lifespan_transport import AppTransport
    from prefect_http._throttle.transport import ThrottledTransport

_USER_AGENT = f"prefect-http/{__version__} python-httpx/{httpx.__version__}"
_HEADERS = cast(property, httpx.AsyncClient.headers)


class PrefectHttpxClient(ClientWithStreams):
    """An httpx.AsyncClient that retries what is safe to retry, waits as the server asks, and raises for a bad status.

    It can do everything that httpx.AsyncClient can. Every verb (``request()``, ``get()``, ..., ``stream()``) goes
    through ``send()`` and returns a PrefectResponse. ``send()`` repeats a request as its RetryPolicy says: the
    client's, or the request's own, which every verb takes as ``retry=``, and ``send()`` in
    ``extensions={"retry": policy}``. A bad status is anything but 2xx and 101. A response that is followed by a retry
    is closed before the wait, so no connection is held during it. Every ``send()`` that returns is a checkpoint, even
    if an app or a mock responds without waiting.

    Args:
        retry: what is retried and when; None: ``RetryPolicy.from_env()``.
        app: an ASGI app that is called in this process, without a network; see ASGITransport. While the client is open,
            it holds the app's lifespan, as ``app_lifespan_context`` does, and each request has the lifespan's state.
            Closing the client ends the requests that are still running before the app's shutdown begins. URLs may be
            relative, to ``http://localhost`` unless there is a ``base_url``.
        throttle: holds back requests to rate-limited hosts, including requests made for a redirect or by an auth flow;
            it may be shared with other clients. A request that waits in the queue holds no connection. Waiting does not
            count as an attempt; being rejected by the server does. Its ``max_wait`` replaces the ``max_retry_after`` of
            the policies.
        raise_on_all_errors: False: a response with a bad status is returned when there are no more retries.
        on_retry: called before each wait, with the request and the attempt that failed. It must not be async. Its
            return value is ignored, and an exception that it raises ends the request.
        on_attempt: called after each attempt that got a response or failed with an httpx.RequestError, including the
            last one, with the request and the attempt. It is called before ``on_retry``, and must not be async either.
            An exception of an app in this process, or of the stream of a request body, does not end an attempt in this
            sense.
        telemetry: is notified of each attempt, wait and connection, and of the events of the throttle and of the app's
            lifespan; see Telemetry.
        max_response_bytes: the largest size, in bytes and decoded, of a body that is read whole, as by ``get()`` or
            ``aread()``; 0 or more. None: no limit. A body that is streamed is not limited.
        **httpx_arguments: every keyword of httpx.AsyncClient. The ``User-Agent`` names this package, unless
            ``headers`` has one.

    Raises:
        TypeError: ``retry`` is not a RetryPolicy, ``throttle`` is not a Throttle, ``telemetry`` is not a Telemetry,
            ``on_retry`` or ``on_attempt`` is async or not callable, ``app`` is not an ASGI 3 app, or ``app`` is given
            with ``transport``, ``mounts`` or ``proxy``.
        ValueError: an environment variable of RetryPolicy, or ``max_response_bytes``, is invalid.

    Entering raises:
        LifespanError: ``app`` cannot be started; see ``app_lifespan_context``.

    Leaving raises:
        LifespanError: ``app`` has crashed, or its shutdown failed; see ``app_lifespan_context``. After a crash,
            requests raise LifespanCrashed as well.
    """

    # So it is, with the defaults, if a base class calls the constructor of httpx.AsyncClient, and not this one's.
    _routes: Routes[httpx.AsyncBaseTransport] | None = None
    _httpx_sending: HttpxSending | None = None
    if TYPE_CHECKING:
        _app_transport: AppTransport | None
    _app_transport = None
    _has_sent = False
    _sends_through_base = False
    _overrides_building = False
    _is_constructed_through_base = False

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        names = overridden(bases_after(cls, PrefectHttpxClient))
        cls._sends_through_base = "send" in names
        cls._overrides_building = not overridden(cls.__mro__).isdisjoint(USED_IN_BUILDING)
        cls._is_constructed_through_base = "__init__" in names

    def __init__(
        self,
        *,
        retry: RetryPolicy | None = None,
        app: ASGIApp | None = None,
        throttle: prefect_http.Throttle | None = None,
        raise_on_all_errors: bool = True,
        on_retry: Callable[[httpx.Request, Attempt], object] | None = None,
        on_attempt: Callable[[httpx.Request, Attempt], object] | None = None,
        telemetry: Telemetry | None = None,
        max_response_bytes: int | None = None,
        **httpx_arguments: Unpack[HttpxArguments],
    ) -> None:
        check_telemetry(telemetry)
        if app is not None:
            self._app_transport = _replace_network(httpx_arguments, app, telemetry)
        max_wait, behind_throttle = (None, None) if throttle is None else _behind(throttle, telemetry)
        self._send_options = SendOptions(
            RetryPolicy.from_env() if retry is None else checked_policy(retry, "retry"),
            raise_on_all_errors=raise_on_all_errors,
            on_retry=checked_hook(on_retry, "on_retry"),
            on_attempt=checked_hook(on_attempt, "on_attempt"),
            max_response_bytes=_checked_limit(max_response_bytes),
            max_wait=max_wait,
            is_in_process=app is not None,
            default_encoding=httpx_arguments.get("default_encoding", "utf-8"),
            telemetry=telemetry,
        )
        make_transports(httpx_arguments, behind_throttle, telemetry)
        if not self._is_constructed_through_base:
            refuse_unknown(httpx_arguments)
        super().__init__(**httpx_arguments)
        self._routes = routes_to(httpx_arguments)
        self._httpx_sending = HttpxSending(self)

    @functools.cached_property
    def _builder(self) -> RequestBuilder:
        return RequestBuilder()

    if not TYPE_CHECKING:

        def _set_headers(self, headers: Headers | None) -> None:
            given = headers if isinstance(headers, httpx.Headers) else httpx.Headers(headers)
            _HEADERS.__set__(self, given)
            if not given or b"user-agent" not in lower_names(given):
                self.headers["User-Agent"] = _USER_AGENT

        # Each request reads the headers: with httpx's own getter, that costs nothing extra.
        headers = _HEADERS.setter(_set_headers)

        def build_request(self, method: str, url: httpx.URL | str, **arguments: object) -> httpx.Request:
            """Build a request, as httpx does."""
            build = super().build_request
            sending = self._httpx_sending
            may_copy = not self._overrides_building and sending is not None and sending.builds_like_httpx(build)
            return self._builder.build(self, build, method, url, arguments, may_copy=may_copy)

    async def __aenter__(self) -> Self:
        if self._has_sent and not self.is_closed:
            raise RuntimeError("Cannot open a client instance more than once.")
        return await super().__aenter__()

    @property
    def lifespan(self) -> prefect_http.Lifespan | None:
        """The lifespan of the client's app while the client is entered; otherwise, and without an app, None.

        Its ``state`` is what the app's startup has put into ``scope["state"]``.
        """
        return None if self._app_transport is None else self._app_transport.lifespan

    @with_parameters_of(httpx.AsyncClient.send)
    async def send(
        self,
        request: httpx.Request,
        *,
        stream: bool = False,
        auth: object = httpx.USE_CLIENT_DEFAULT,
        follow_redirects: object = httpx.USE_CLIENT_DEFAULT,
    ) -> PrefectResponse:
        """Send a request, and retry it as its RetryPolicy says. The arguments are those of httpx.AsyncClient.send.

        Returns:
            The response, read; or with ``stream=True``, open at the start of its body.

        Raises:
            PrefectHTTPStatusError: the last response has a bad status. Its body is read up to 64 KiB if streamed,
                otherwise up to 1 MiB, for at most 5 s, and the response is closed.
            ResponseTooLarge: the body is larger than ``max_response_bytes``; the response is closed, and not retried.
            ThrottleTimeout: the throttle could not let the request through in time, so it was not sent; or the server
                rejected it, and asked for a longer wait than the throttle's ``max_wait``: the PrefectHTTPStatusError is
                the cause. It is not retried.
            httpx.RequestError: the error that ended the last attempt, as httpx raised it; httpx.TimeoutException also
                if ``total_timeout`` ended during an attempt. All of these have a note that lists the attempts.
            TypeError: ``extensions["retry"]`` is not a RetryPolicy.

        Cancellation:
            Ends the attempt or the wait at once, and closes the response.
        """
        if self.is_closed:
            check_open(self)
        self._has_sent = True
        if "timeout" not in request.extensions:
            request.extensions = {**request.extensions, "timeout": self.timeout.as_dict()}
        flow = authentication(auth, self.auth, request.url)
        follows = self.follow_redirects if follow_redirects is httpx.USE_CLIENT_DEFAULT else bool(follow_redirects)
        options = self._send_options
        policy = request.extensions.get("retry")
        policy = options.policy if policy is None else checked_policy(policy, 'extensions["retry"]')
        if flow is not None or stream or not is_plain(request, options, policy, self.max_redirects):
            call = SendCall(self, self._exchange, options, policy, request, follows, stream=stream, auth=flow)
            return await call.run()
        # Almost all requests are sent once, and their responses accepted. Without a SendCall and its three coroutines,
        # they take a twentieth less time, and 1 KiB less memory while they wait.
        clear_mark(request)
        now = options.clock()
        started = now()
        try:
            response = await self._exchange(request)
        except httpx.RequestError as error:
            call = SendCall(self, self._exchange, options, policy, request, follows)
            if not await call.retries_after(error, started):
                raise
        else:
            if accept_whole(request, response, options):
                note_attempts(response, (), now() - started)
                return response
            call = SendCall(self, self._exchange, options, policy, request, follows)
            call.go_on_with(response, started)
            del response  # it is closed and freed before a wait
        return await call.run()

    def _exchange(self, request: httpx.Request) -> Awaitable[PrefectResponse]:
        """Return an awaitable that sends a request once, and is the response."""
        routes, sending = self._routes, self._httpx_sending
        if routes is None or sending is None or self._sends_through_base or sending.is_replaced(self):
            return self._exchange_through_base(request)
        return exchange(self, routes, self._send_options, request)

    async def _exchange_through_base(self, request: httpx.Request) -> PrefectResponse:
        """Send a request once through the ``send()`` of the next base class.

        That is not httpx's own, or finds a transport that other code has put in; or a base class has called the
        constructor of httpx.AsyncClient instead of this one's.
        """
        sent_at = time.perf_counter()
        try:
            response = await super().send(request, stream=True, auth=httpx.Auth(), follow_redirects=False)
        except (httpx.InvalidURL, httpx.RemoteProtocolError, UnicodeError) as error:
            if not _is_about_location(error, request):
                raise
            # Without the cause, which may quote credentials.
            raise InvalidResponse("the Location of the response is not a valid URL") from None
        response.next_request = None
        return take_over(response, request, sent_at, self._send_options.max_response_bytes)


def _is_about_location(error: Exception, request: httpx.Request) -> bool:
    """Whether httpx has raised an error because the Location of a response is not a valid URL."""
    if is_foreign(error, request):
        return False
    if isinstance(error, httpx.RemoteProtocolError):
        return isinstance(error.__context__, httpx.InvalidURL)
    # A host that cannot be decoded is an error of idna's. Those of codecs come from elsewhere, as from an event hook.
    return not isinstance(error, UnicodeEncodeError | UnicodeDecodeError)


def _checked_limit(max_bytes: object) -> int | None:
    if max_bytes is None or (isinstance(max_bytes, int) and not isinstance(max_bytes, bool) and max_bytes >= 0):
        return max_bytes
    raise ValueError(f"max_response_bytes must be None or an integer, 0 or more, not {max_bytes!r}")


def _behind(
    throttle: prefect_http.Throttle, telemetry: Telemetry | None
) -> tuple[float, Callable[[httpx.AsyncBaseTransport], ThrottledTransport]]:
    """Return how many seconds a throttle lets a request wait, and a function that puts a transport behind it."""
    from prefect_http._throttle.throttle import gates_of
    from prefect_http._throttle.transport import observed_transport

    gates = gates_of(throttle)
    if telemetry is not None:
        gates.tell(telemetry)
    return gates.max_wait, lambda transport: observed_transport(transport, throttle, telemetry)


def _replace_network(httpx_arguments: HttpxArguments, app: ASGIApp, telemetry: Telemetry | None) -> AppTransport:
    """Change the arguments, in place, so that requests go to the app; return the transport that does that."""
    for name in ("transport", "mounts", "proxy"):
        if httpx_arguments.get(name) is not None:
            raise TypeError(f"app= replaces the network, so {name}= cannot be given as well")
    from prefect_http._asgi.lifespan_transport import AppTransport

    httpx_arguments["transport"] = transport = AppTransport(app, telemetry)
    if httpx_arguments.get("base_url") in (None, ""):
        httpx_arguments["base_url"] = "http://localhost"
    return transport
