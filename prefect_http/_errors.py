"""The errors of the package.

    httpx.HTTPStatusError
     └─ PrefectHTTPStatusError       an answer with a bad status, and how it came to it

    httpx.PoolTimeout
     └─ ThrottleTimeout              a request that the throttle could not let out in time

    LifespanError                    an app's lifespan cannot be used the way it was asked for
     ├─ LifespanNotSupported         mode="on", and the app does not speak the lifespan protocol
     ├─ LifespanStartupError         the app's startup failed
     ├─ LifespanShutdownError        the app's shutdown failed
     ├─ LifespanCrashed              the app's lifespan ended with an exception while it was held
     └─ LifespanTimeoutError         startup or shutdown took too long; also a TimeoutError

What the app raised is the ``__cause__``. All of them reach the caller plain, never inside an exception group.
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
        response: the response; read, or as much of it as the limits allowed.
        attempts: every attempt that was made, oldest first; empty if the error did not come from a client.
        retry_after: what the response's ``Retry-After`` asks for, in seconds from the response; None if it has
            no valid one.
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
        # Exception's own way calls the class with `args` alone, which the keyword-only arguments refuse.
        return _without_init, (type(self), self.args), self.__dict__.copy()


def _without_init(cls: type[PrefectHTTPStatusError], args: tuple[object, ...]) -> PrefectHTTPStatusError:
    return cls.__new__(cls, *args)


class ThrottleTimeout(httpx.PoolTimeout):
    """A request could not be let through the throttle before the caller's deadline or ``max_wait``; it was not sent."""


class LifespanError(Exception):
    """An app's lifespan cannot be used the way it was asked for."""


class LifespanNotSupported(LifespanError):
    """The app does not speak the lifespan protocol, and ``mode="on"`` asked for it."""


class LifespanStartupError(LifespanError):
    """The app's startup failed; the message is the app's own, the cause what it raised, if it raised."""


class LifespanShutdownError(LifespanError):
    """The app's shutdown failed; the message is the app's own, the cause what it raised, if it raised."""


class LifespanCrashed(LifespanError):
    """The app's lifespan ended with an exception, the cause, while somebody held it."""


class LifespanTimeoutError(LifespanError, TimeoutError):
    """The app did not finish its startup or its shutdown in time."""
