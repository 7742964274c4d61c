"""The errors of the package.

    httpx.HTTPStatusError
     └─ PrefectHTTPStatusError       a response with a bad status, and the attempts that led to it

    httpx.PoolTimeout
     └─ ThrottleTimeout              a request that the throttle cannot let through in time

    httpx.RemoteProtocolError
     └─ InvalidResponse              a response that is not valid HTTP, a redirect to what is not a valid URL, or no
                                     event stream where sse() expects one
    httpx.RequestError
     ├─ ResponseTooLarge             a response body beyond the limit of the client, or an event beyond that of sse()
     └─ DownloadError                a file that cannot be downloaded, or is not what it should be

    LifespanError                    an app's lifespan cannot be used as requested
     ├─ LifespanNotSupported         mode="on", and the app does not support the lifespan protocol
     ├─ LifespanStartupError         the app's startup failed
     ├─ LifespanShutdownError        the app's shutdown failed
     ├─ LifespanCrashed              the app's lifespan ended with an exception while it was in use
     └─ LifespanTimeoutError         startup or shutdown took too long; also a TimeoutError

The ``__cause__`` is what the app raised. None of them is raised inside an exception group.
"""

from __future__ import annotations

import httpx

from prefect_http._attempt import Attempt


class PrefectHTTPStatusError(httpx.HTTPStatusError):
    """A response had a bad status: anything but 2xx and 101.

    The message is one line: the status, the URL without its userinfo, and the ``detail`` of a JSON body or the
    start of the text. The error can be pickled.

    Attributes:
        request: the request that got the response, after redirects.
        response: the response, closed; its body is read, or as much of it as the limits allowed.
        attempts: all attempts, oldest first; empty if the error was not raised by a client.
        retry_after: the seconds to wait that the response's ``Retry-After`` asks for, counted from the response; None
            if it does not have a valid one.
    """

    def __init__(
        self,
        message: str,
        *,
        request: httpx.Request,
        response: httpx.Response,
        attempts: tuple[Attempt, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, request=request, response=response)
        self.attempts = attempts
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        # Exception's own calls the class with `args` alone, without the keyword-only arguments.
        return _without_init, (type(self), self.args), self.__dict__.copy()


def _without_init(cls: type[PrefectHTTPStatusError], args: tuple[object, ...]) -> PrefectHTTPStatusError:
    return cls.__new__(cls, *args)


class ThrottleTimeout(httpx.PoolTimeout):
    """A request could not be let through the throttle before the caller's deadline or ``max_wait``.

    The message says why, and until when if that is known. The request was not sent; but if the cause (``__cause__``) is
    a PrefectHTTPStatusError, it was sent and rejected, and the server asked for a longer wait than ``max_wait``.
    """


class InvalidResponse(httpx.RemoteProtocolError):
    """The server's response is not valid HTTP, or redirects to something that is not a valid URL. It is never retried.

    ``sse()`` raises it as well, for a response whose Content-Type is not ``text/event-stream``.

    Possibly the server does not speak HTTP: it is an SSH port, or a TLS port that is used with ``http://``. If a
    connection is closed too early, a plain httpx.RemoteProtocolError is raised.
    """


class ResponseTooLarge(httpx.RequestError):
    """A response body, once decoded, is larger than the client's ``max_response_bytes``. It is not retried.

    ``sse()`` raises it for an event that is larger than ``max_event_bytes``.
    """


class DownloadError(httpx.RequestError):
    """A file could not be downloaded, or is not the expected one. No file that looks complete is left behind.

    The message says why: the file is too large, its digest is wrong, it keeps changing on the server, it has a
    Content-Encoding that cannot be decoded, or another download to the same path is running.
    """


class LifespanError(Exception):
    """An app's lifespan cannot be used as requested."""


class LifespanNotSupported(LifespanError):
    """The app does not support the lifespan protocol, which ``mode="on"`` requires."""


class LifespanStartupError(LifespanError):
    """The app's startup failed. The message is the app's own; the cause is what it raised, if anything."""


class LifespanShutdownError(LifespanError):
    """The app's shutdown failed. The message is the app's own; the cause is what it raised, if anything."""


class LifespanCrashed(LifespanError):
    """The app's lifespan ended with an exception, which is the cause, while it was in use."""


class LifespanTimeoutError(LifespanError, TimeoutError):
    """The app did not finish its startup or its shutdown in time."""
