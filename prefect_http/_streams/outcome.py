"""Outcome: how one of many requests ended."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from prefect_http._redact import safe_exception, safe_url
from prefect_http._response import PrefectResponse


@dataclass(frozen=True, slots=True, repr=False)
class Outcome:
    """How one of the requests of ``client.send_many()`` ended: exactly one of ``response`` and ``error`` is set.

    Attributes:
        request: the request that was given, or that was made from a URL; None if the item was neither.
        response: the response, read; None if there is an error.
        error: what ``client.send()`` would have raised; None if there is a response. For an item that was not a request
            or a valid URL, a TypeError or an httpx.InvalidURL that says which item it was.
    """

    request: httpx.Request | None
    response: PrefectResponse | None
    error: Exception | None

    def __repr__(self) -> str:
        """Return the request and how it ended, without credentials."""
        sent = "no request" if self.request is None else f"{self.request.method} {safe_url(self.request.url)}"
        if self.response is not None:
            return f"Outcome({sent}: {self.response.status_code})"
        assert self.error is not None
        return f"Outcome({sent}: {safe_exception(self.error)})"
