"""The log line of an attempt, for people and, as fields of the record, for programs."""

from __future__ import annotations

import logging

import httpx

from prefect_http._attempt import Attempt, format_outcome, format_seconds
from prefect_http._internal_errors import full_name
from prefect_http._redact import safe_url

_logger = logging.getLogger("prefect_http")


def log_attempt(attempt: Attempt, request: httpx.Request, max_attempts: int) -> None:
    """Log an attempt at level DEBUG.

    Formatters that write JSON, and structlog, get its parts as fields of the record; docs/client.md lists them.

    Args:
        attempt: the attempt.
        request: the request.
        max_attempts: how many attempts there may be.
    """
    url, error = safe_url(request.url), attempt.exception
    delay = "" if attempt.delay is None else f"; the next one in {format_seconds(attempt.delay)} s"
    fields = {
        "http_method": request.method,
        "http_url": url,
        "http_status": attempt.status_code,
        "error_type": None if error is None else full_name(error),
        "attempt": attempt.number,
        "max_attempts": max_attempts,
        "elapsed": attempt.elapsed,
        "delay": attempt.delay,
        "reason": attempt.reason,
    }
    _logger.debug(
        "%s %s: %s, attempt %d/%d%s (%s)",
        request.method,
        url,
        format_outcome(attempt),
        attempt.number,
        max_attempts,
        delay,
        attempt.reason,
        extra=fields,
    )
