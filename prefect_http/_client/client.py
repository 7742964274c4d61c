"""PrefectHttpxClient: its constructor and its verbs. What a ``send()`` does is in send.py."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any, Unpack

import httpx

from prefect_http._asgi.lifespan_transport import AppTransport
from prefect_http._attempt import Attempt
from prefect_http._callbacks import is_async
from prefect_http._client.answered_origins import AnsweredOrigins
from prefect_http._client.arguments import HttpxArguments, refuse_unknown, with_parameters_of
from prefect_http._client.location import LocationCheck
from prefect_http._client.routing import make_transports
from prefect_http._client.send import ON_RETRY_MUST_BE, SendCall, SendOptions, checked_policy
from prefect_http._httpx_details import LeanClient
from prefect_http._response import PrefectResponse
from prefect_http._retry.policy import RetryPolicy
from prefect_http._throttle.throttle import Throttle
from prefect_http._throttle.transport import ThrottledTransport
from prefect_http._types import ASGIApp
from prefect_http._version import __version__

_USER_AGENT = f"prefect-http/{__version__} python-httpx/{httpx.__version__}"


class PrefectHttpxClient(LeanClient):
    """An httpx.AsyncClient that retries what is safe to retry, waits as the server asks, and raises for a bad status.

    It does whatever httpx.AsyncClient does. Every verb (``request()``, ``get()``, ..., ``stream()``) goes through
    ``send()`` and returns a PrefectResponse. ``send()`` repeats a request as its RetryPolicy says: the client's, or
    the one in the request's ``extensions={"retry": policy}``. A response that is not wanted is closed before the
    wait, so a stream that is being retried never holds a connection.

    Args:
        retry: what is repeated and when; None: ``RetryPolicy.from_env()``.
        app: an ASGI app to call in this process instead of a network; see ASGITransport. While the client is entered,
            it holds the app's lifespan, as ``app_lifespan_context`` does, and each request has the lifespan's state.
            Closing the client ends the requests that are still running before the app's shutdown begins. URLs may be
            relative, to ``http://localhost`` unless there is a ``base_url``.
        throttle: holds back requests to hosts that limit their rate, including those that follow a redirect or belong
            to an auth flow; it may be shared with other clients. A request that waits for its turn holds no
            connection, and waiting does not count as an attempt; being rejected by the server does.
        raise_on_all_errors: False returns a response with a bad status once it is not retried any more.
        on_retry: called before each wait, with the request and the attempt that failed. A plain function, whose
            return value is ignored; an exception from it ends the request.
        **httpx_arguments: every keyword of httpx.AsyncClient. The ``User-Agent`` names this package, unless
            ``headers`` has one.

    Raises:
        TypeError: ``retry`` is not a RetryPolicy, ``throttle`` is not a Throttle, ``on_retry`` is not a plain
            function, ``app`` is not callable, or ``app`` comes with ``transport``, ``mounts`` or ``proxy``.
        ValueError: an environment variable of RetryPolicy is bad.

    Entering raises, with ``app``:
        LifespanError: the app does not start; see ``app_lifespan_context``.

    Leaving raises, with ``app``:
        LifespanError: the app has crashed, or its shutdown failed; see ``app_lifespan_context``. After a crash,
            requests raise LifespanCrashed as well.
    """

    def __init__(
        self,
        *,
        retry: RetryPolicy | None = None,
        app: ASGIApp | None = None,
        throttle: Throttle | None = None,
        raise_on_all_errors: bool = True,
        on_retry: Callable[[httpx.Request, Attempt], object] | None = None,
        **httpx_arguments: Unpack[HttpxArguments],
    ) -> None:
        if on_retry is not None and (not callable(on_retry) or is_async(on_retry)):
            raise TypeError(f"{ON_RETRY_MUST_BE}, not {on_retry!r}")
        self._send_options = SendOptions(
            policy=RetryPolicy.from_env() if retry is None else checked_policy(retry, "retry"),
            raise_on_all_errors=raise_on_all_errors,
            on_retry=on_retry,
            is_in_process=app is not None,
            answered=AnsweredOrigins(),
        )
        if app is not None:
            _replace_network(httpx_arguments, app)
        make_transports(
            httpx_arguments,
            lambda transport: LocationCheck(transport if throttle is None else ThrottledTransport(transport, throttle)),
        )
        refuse_unknown(httpx_arguments)
        super().__init__(user_agent=_USER_AGENT, **httpx_arguments)

    @with_parameters_of(httpx.AsyncClient.send)
    async def send(
        self,
        request: httpx.Request,
        *,
        stream: bool = False,
        auth: object = httpx.USE_CLIENT_DEFAULT,
        follow_redirects: object = httpx.USE_CLIENT_DEFAULT,
    ) -> PrefectResponse:
        """Send a request, and repeat it as its RetryPolicy says. The arguments are those of httpx.AsyncClient.send.

        Returns:
            The response, read; or with ``stream=True``, open at the start of its body.

        Raises:
            PrefectHTTPStatusError: the last response has a bad status. Its body is read up to 64 KiB if streamed,
                otherwise up to 1 MiB, for at most 5 s, and the response is closed.
            ThrottleTimeout: the throttle could not let the request through in time; it was not sent and is not
                retried.
            httpx.RequestError: what ended the last attempt, as httpx raised it; httpx.TimeoutException also if
                ``total_timeout`` passed during an attempt. Each of these carries a note that lists the attempts.
            TypeError: ``extensions["retry"]`` is not a RetryPolicy.

        Cancellation:
            Ends the attempt or the wait at once, with the response closed.
        """
        # Positional, because every request passes here.
        call = SendCall(self, super().send, self._send_options, request, stream, auth, follow_redirects)
        return await call.run()

    if TYPE_CHECKING:
        # At run time the verbs are httpx's own, which return what send() returns.

        @with_parameters_of(httpx.AsyncClient.request)
        async def request(self, *args: Any, **kwargs: Any) -> PrefectResponse: ...

        @with_parameters_of(httpx.AsyncClient.get)
        async def get(self, *args: Any, **kwargs: Any) -> PrefectResponse: ...

        @with_parameters_of(httpx.AsyncClient.options)
        async def options(self, *args: Any, **kwargs: Any) -> PrefectResponse: ...

        @with_parameters_of(httpx.AsyncClient.head)
        async def head(self, *args: Any, **kwargs: Any) -> PrefectResponse: ...

        @with_parameters_of(httpx.AsyncClient.post)
        async def post(self, *args: Any, **kwargs: Any) -> PrefectResponse: ...

        @with_parameters_of(httpx.AsyncClient.put)
        async def put(self, *args: Any, **kwargs: Any) -> PrefectResponse: ...

        @with_parameters_of(httpx.AsyncClient.patch)
        async def patch(self, *args: Any, **kwargs: Any) -> PrefectResponse: ...

        @with_parameters_of(httpx.AsyncClient.delete)
        async def delete(self, *args: Any, **kwargs: Any) -> PrefectResponse: ...

        @with_parameters_of(httpx.AsyncClient.stream)
        @contextlib.asynccontextmanager
        def stream(self, *args: Any, **kwargs: Any) -> AsyncGenerator[PrefectResponse]: ...


def _replace_network(httpx_arguments: HttpxArguments, app: ASGIApp) -> None:
    """Change the arguments, in place, so that requests go to the app."""
    for name in ("transport", "mounts", "proxy"):
        if httpx_arguments.get(name) is not None:
            raise TypeError(f"app= takes the place of the network, so {name}= cannot be given as well")
    httpx_arguments["transport"] = AppTransport(app)
    if httpx_arguments.get("base_url") in (None, ""):
        httpx_arguments["base_url"] = "http://localhost"
