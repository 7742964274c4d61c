"""The verbs of httpx.AsyncClient, with ``retry=`` and with PrefectResponse as what they return."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Unpack, overload

import httpx

from prefect_http._client.arguments import BodyArguments, RequestArguments, with_parameters_of
from prefect_http._client.send import checked_policy
from prefect_http._httpx_details import LeanClient
from prefect_http._response import PrefectResponse
from prefect_http._retry.policy import RetryPolicy


def _with_policy(retry: object, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of a verb, with its policy among their extensions."""
    if retry is None:
        return arguments
    extensions: Mapping[str, object] = arguments.get("extensions") or {}
    return {**arguments, "extensions": {**extensions, "retry": checked_policy(retry, "retry")}}


def _taking_retry(method: Callable[..., Any]) -> Callable[..., object]:
    """Return a verb of httpx's with another parameter, ``retry``."""

    async def verb(self: object, *args: Any, retry: object = None, **arguments: Any) -> object:
        return await method(self, *args, **_with_policy(retry, arguments))

    def stream(self: object, *args: Any, retry: object = None, **arguments: Any) -> object:
        return method(self, *args, **_with_policy(retry, arguments))

    wrapper = functools.wraps(method)(verb if inspect.iscoroutinefunction(method) else stream)
    signature = inspect.signature(method)
    retry = inspect.Parameter("retry", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="RetryPolicy | None")
    vars(wrapper)["__signature__"] = signature.replace(parameters=[*signature.parameters.values(), retry])
    return wrapper


class VerbsWithRetry(LeanClient):
    """A client whose verbs take ``retry=``, which they hand to httpx's own among the request's extensions."""

    if not TYPE_CHECKING:
        request = _taking_retry(httpx.AsyncClient.request)
        get = _taking_retry(httpx.AsyncClient.get)
        options = _taking_retry(httpx.AsyncClient.options)
        head = _taking_retry(httpx.AsyncClient.head)
        post = _taking_retry(httpx.AsyncClient.post)
        put = _taking_retry(httpx.AsyncClient.put)
        patch = _taking_retry(httpx.AsyncClient.patch)
        delete = _taking_retry(httpx.AsyncClient.delete)
        stream = _taking_retry(httpx.AsyncClient.stream)

    if TYPE_CHECKING:
        # The first declaration of each verb has the parameters of whatever httpx is installed.

        @overload
        @with_parameters_of(httpx.AsyncClient.request)
        async def request(self, *args: Any, **arguments: Any) -> PrefectResponse: ...
        @overload
        async def request(
            self, method: str, url: httpx.URL | str, *, retry: RetryPolicy | None, **arguments: Unpack[BodyArguments]
        ) -> PrefectResponse: ...
        async def request(self, *args: Any, **arguments: Any) -> PrefectResponse: ...

        @overload
        @with_parameters_of(httpx.AsyncClient.get)
        async def get(self, *args: Any, **arguments: Any) -> PrefectResponse: ...
        @overload
        async def get(
            self, url: httpx.URL | str, *, retry: RetryPolicy | None, **arguments: Unpack[RequestArguments]
        ) -> PrefectResponse: ...
        async def get(self, *args: Any, **arguments: Any) -> PrefectResponse: ...

        @overload
        @with_parameters_of(httpx.AsyncClient.options)
        async def options(self, *args: Any, **arguments: Any) -> PrefectResponse: ...
        @overload
        async def options(
            self, url: httpx.URL | str, *, retry: RetryPolicy | None, **arguments: Unpack[RequestArguments]
        ) -> PrefectResponse: ...
        async def options(self, *args: Any, **arguments: Any) -> PrefectResponse: ...

        @overload
        @with_parameters_of(httpx.AsyncClient.head)
        async def head(self, *args: Any, **arguments: Any) -> PrefectResponse: ...
        @overload
        async def head(
            self, url: httpx.URL | str, *, retry: RetryPolicy | None, **arguments: Unpack[RequestArguments]
        ) -> PrefectResponse: ...
        async def head(self, *args: Any, **arguments: Any) -> PrefectResponse: ...

        @overload
        @with_parameters_of(httpx.AsyncClient.post)
        async def post(self, *args: Any, **arguments: Any) -> PrefectResponse: ...
        @overload
        async def post(
            self, url: httpx.URL | str, *, retry: RetryPolicy | None, **arguments: Unpack[BodyArguments]
        ) -> PrefectResponse: ...
        async def post(self, *args: Any, **arguments: Any) -> PrefectResponse: ...

        @overload
        @with_parameters_of(httpx.AsyncClient.put)
        async def put(self, *args: Any, **arguments: Any) -> PrefectResponse: ...
        @overload
        async def put(
            self, url: httpx.URL | str, *, retry: RetryPolicy | None, **arguments: Unpack[BodyArguments]
        ) -> PrefectResponse: ...
        async def put(self, *args: Any, **arguments: Any) -> PrefectResponse: ...

        @overload
        @with_parameters_of(httpx.AsyncClient.patch)
        async def patch(self, *args: Any, **arguments: Any) -> PrefectResponse: ...
        @overload
        async def patch(
            self, url: httpx.URL | str, *, retry: RetryPolicy | None, **arguments: Unpack[BodyArguments]
        ) -> PrefectResponse: ...
        async def patch(self, *args: Any, **arguments: Any) -> PrefectResponse: ...

        @overload
        @with_parameters_of(httpx.AsyncClient.delete)
        async def delete(self, *args: Any, **arguments: Any) -> PrefectResponse: ...
        @overload
        async def delete(
            self, url: httpx.URL | str, *, retry: RetryPolicy | None, **arguments: Unpack[RequestArguments]
        ) -> PrefectResponse: ...
        async def delete(self, *args: Any, **arguments: Any) -> PrefectResponse: ...

        @overload
        @with_parameters_of(httpx.AsyncClient.stream)
        @asynccontextmanager
        def stream(self, *args: Any, **arguments: Any) -> AsyncGenerator[PrefectResponse]: ...
        @overload
        @asynccontextmanager
        def stream(
            self, method: str, url: httpx.URL | str, *, retry: RetryPolicy | None, **arguments: Unpack[BodyArguments]
        ) -> AsyncGenerator[PrefectResponse]: ...
        @asynccontextmanager
        def stream(self, *args: Any, **arguments: Any) -> AsyncGenerator[PrefectResponse]: ...
