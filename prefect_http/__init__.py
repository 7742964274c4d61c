"""An httpx client that retries and shares rate limits, and in-process ASGI apps, on trio and asyncio."""

import importlib
import typing

from prefect_http._attempt import Attempt
from prefect_http._client.client import PrefectHttpxClient
from prefect_http._errors import (
    DownloadError,
    InvalidResponse,
    LifespanCrashed,
    LifespanError,
    LifespanNotSupported,
    LifespanShutdownError,
    LifespanStartupError,
    LifespanTimeoutError,
    PrefectHTTPStatusError,
    ResponseTooLarge,
    ThrottleTimeout,
)
from prefect_http._fields.rate_limit import RateLimit
from prefect_http._response import PrefectResponse
from prefect_http._retry.policy import RetryPolicy
from prefect_http._telemetry import AttemptObserver, ConnectionInfo, LifespanEvent, Telemetry
from prefect_http._types import ASGIApp, Message, Receive, Scope, Send
from prefect_http._version import __version__

if typing.TYPE_CHECKING:
    from prefect_http._asgi.transport import ASGITransport
    from prefect_http._lifespan.context import app_lifespan_context
    from prefect_http._lifespan.lifespan import Lifespan
    from prefect_http._streams.download import Download
    from prefect_http._streams.outcome import Outcome
    from prefect_http._streams.sse import EventStream
    from prefect_http._streams.sse_parser import ServerSentEvent
    from prefect_http._throttle.github import is_throttled_by_github
    from prefect_http._throttle.statistics import ThrottleEvent, ThrottleStatistics
    from prefect_http._throttle.store import SharedBackend
    from prefect_http._throttle.throttle import Throttle
    from prefect_http._throttle.transport import ThrottledTransport
    from prefect_http._wire.statistics import TransportStatistics
    from prefect_http._wire.transport import HTTPTransport
else:
    # Most programs do without an app or a throttle, and httpx as well loads what connects to the network only for the
    # first transport. All of it would double the time of the import. Where these names come from:
    _LOADED_WHEN_NEEDED = {
        "ASGITransport": "_asgi.transport",
        "EventStream": "_streams.sse",
        "Download": "_streams.download",
        "HTTPTransport": "_wire.transport",
        "Lifespan": "_lifespan.lifespan",
        "ServerSentEvent": "_streams.sse_parser",
        "Outcome": "_streams.outcome",
        "SharedBackend": "_throttle.store",
        "Throttle": "_throttle.throttle",
        "ThrottleEvent": "_throttle.statistics",
        "ThrottleStatistics": "_throttle.statistics",
        "ThrottledTransport": "_throttle.transport",
        "TransportStatistics": "_wire.statistics",
        "app_lifespan_context": "_lifespan.context",
        "is_throttled_by_github": "_throttle.github",
    }

    def __getattr__(name: str) -> object:
        if name not in _LOADED_WHEN_NEEDED:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(f"{__name__}.{_LOADED_WHEN_NEEDED[name]}"), name)
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted(globals().keys() | _LOADED_WHEN_NEEDED.keys())


__all__ = [
    "ASGIApp",
    "ASGITransport",
    "Attempt",
    "AttemptObserver",
    "ConnectionInfo",
    "Download",
    "DownloadError",
    "EventStream",
    "HTTPTransport",
    "InvalidResponse",
    "Lifespan",
    "LifespanCrashed",
    "LifespanError",
    "LifespanEvent",
    "LifespanNotSupported",
    "LifespanShutdownError",
    "LifespanStartupError",
    "LifespanTimeoutError",
    "Message",
    "Outcome",
    "PrefectHTTPStatusError",
    "PrefectHttpxClient",
    "PrefectResponse",
    "RateLimit",
    "Receive",
    "ResponseTooLarge",
    "RetryPolicy",
    "Scope",
    "Send",
    "ServerSentEvent",
    "SharedBackend",
    "Telemetry",
    "Throttle",
    "ThrottleEvent",
    "ThrottleStatistics",
    "ThrottleTimeout",
    "ThrottledTransport",
    "TransportStatistics",
    "__version__",
    "app_lifespan_context",
    "is_throttled_by_github",
]
