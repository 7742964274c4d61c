"""The requests of one ``sse()`` or ``download()``, which are alike but for some headers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import httpx

from prefect_http._response import PrefectResponse
from prefect_http._retry.policy import RetryPolicy
from prefect_http._types import Headers

# Arguments of send(); the others are those of build_request().
_SENDING = frozenset({"auth", "follow_redirects"})


class RepeatedRequest:
    """Builds and sends requests.

    Args:
        client: the client.
        method: of the requests.
        url: of the requests.
        arguments: keywords of the client's ``stream()``.

    Attributes:
        headers: those among the arguments.
    """

    def __init__(
        self, client: httpx.AsyncClient, method: str, url: httpx.URL | str, arguments: Mapping[str, Any]
    ) -> None:
        self._client = client
        self._method = method
        self._url = url
        self._sending = {name: value for name, value in arguments.items() if name in _SENDING}
        self._building = {name: value for name, value in arguments.items() if name not in _SENDING}
        self._extensions: Mapping[str, object] = self._building.pop("extensions", None) or {}
        self.headers = httpx.Headers(cast("Headers | None", self._building.pop("headers", None)))

    def build(self, headers: Headers, policy: RetryPolicy) -> httpx.Request:
        """Build a request.

        Args:
            headers: its headers, instead of those among the arguments.
            policy: how it is retried.
        """
        extensions = {**self._extensions, "retry": policy}
        return self._client.build_request(
            self._method, self._url, headers=headers, extensions=extensions, **self._building
        )

    async def send(self, request: httpx.Request) -> PrefectResponse:
        """Send a request through the client, and return the response, open at the start of its body."""
        response = await self._client.send(request, stream=True, **self._sending)
        return PrefectResponse.from_httpx_response(response)
