"""Subclasses of public errors that tell more. Logs, notes and spans name the public class."""

from __future__ import annotations

import httpx


class RequestNotProcessed(httpx.ConnectError):
    """The server says that it has not processed a request, so that it may be sent again, whatever its method.

    As with a ConnectError, the request can be considered not sent.
    """


class TunnelFailed(httpx.ProxyError):
    """A proxy could not connect to the server, so the request was not sent. As with a ConnectError, it may be retried.

    Args:
        message: what the proxy said.
        response: its response to CONNECT, without the body; None: it speaks SOCKS.
    """

    def __init__(self, message: str, response: httpx.Response | None = None) -> None:
        super().__init__(message)
        self.response = response


class TunnelDelayed(TunnelFailed):
    """A proxy has been asked for too many tunnels, so the request was not sent. It may be retried."""


_NOT_PUBLIC = frozenset({RequestNotProcessed, TunnelFailed, TunnelDelayed})


def public_class(error: BaseException) -> type[BaseException]:
    """Return the class of an exception, or if that is not public, the one that it is derived from."""
    return next(each for each in type(error).__mro__ if each not in _NOT_PUBLIC)


def full_name(error: BaseException) -> str:
    """Return the full name of the class of an exception, as users import it, such as ``httpx.ConnectError``."""
    cls = public_class(error)
    module = __package__ if cls.__module__ == f"{__package__}._errors" else cls.__module__
    return cls.__qualname__ if module == "builtins" else f"{module}.{cls.__qualname__}"
