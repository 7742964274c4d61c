"""A toolkit for calling HTTP APIs and in-process ASGI apps, on httpx, anyio and trio."""

from prefect_http._asgi import ASGITransport
from prefect_http._client import PrefectHttpxClient
from prefect_http._errors import (
    LifespanCrashed,
    LifespanError,
    LifespanNotSupported,
    LifespanShutdownError,
    LifespanStartupError,
    LifespanTimeoutError,
    PrefectHTTPStatusError,
)
from prefect_http._lifespan import app_lifespan_context
from prefect_http._lifespan_run import Lifespan
from prefect_http._response import PrefectResponse
from prefect_http._retry import Attempt, RetryPolicy
from prefect_http._version import __version__

__all__ = [
    "ASGITransport",
    "Attempt",
    "Lifespan",
    "LifespanCrashed",
    "LifespanError",
    "LifespanNotSupported",
    "LifespanShutdownError",
    "LifespanStartupError",
    "LifespanTimeoutError",
    "PrefectHTTPStatusError",
    "PrefectHttpxClient",
    "PrefectResponse",
    "RetryPolicy",
    "__version__",
    "app_lifespan_context",
]
