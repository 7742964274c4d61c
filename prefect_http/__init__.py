"""An httpx client that retries and shares rate limits, and in-process ASGI apps, on trio and asyncio."""

from prefect_http._asgi.transport import ASGITransport
from prefect_http._attempt import Attempt
from prefect_http._client.client import PrefectHttpxClient
from prefect_http._errors import (
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
from prefect_http._lifespan.context import app_lifespan_context
from prefect_http._lifespan.lifespan import Lifespan
from prefect_http._response import PrefectResponse
from prefect_http._retry.policy import RetryPolicy
from prefect_http._throttle.github import is_throttled_by_github
from prefect_http._throttle.statistics import ThrottleEvent, ThrottleStatistics
from prefect_http._throttle.throttle import Throttle
from prefect_http._throttle.transport import ThrottledTransport
from prefect_http._types import ASGIApp, Message, Receive, Scope, Send
from prefect_http._version import __version__
from prefect_http._wire.transport import HTTPTransport
from prefect_http._wire.wire import TransportStatistics

__all__ = [
    "ASGIApp",
    "ASGITransport",
    "Attempt",
    "HTTPTransport",
    "InvalidResponse",
    "Lifespan",
    "LifespanCrashed",
    "LifespanError",
    "LifespanNotSupported",
    "LifespanShutdownError",
    "LifespanStartupError",
    "LifespanTimeoutError",
    "Message",
    "PrefectHTTPStatusError",
    "PrefectHttpxClient",
    "PrefectResponse",
    "RateLimit",
    "Receive",
    "ResponseTooLarge",
    "RetryPolicy",
    "Scope",
    "Send",
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
