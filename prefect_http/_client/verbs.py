"""The verbs of httpx.AsyncClient, with ``retry=`` and with PrefectResponse as what they return."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Unpack, cast, overload

import httpx

from prefect_http._client.arguments import BodyArguments, RequestArguments, with_parameters_of
from prefect_http._client.inheritance import REQUESTING, overridden
from prefect_http._client.options import checked_policy
from prefect_http._response import PrefectResponse
from prefect_http._retry.policy import RetryPolicy


def _with_policy(retry: object, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of a verb, with its policy among their extensions."""
    if retry is None:
        return arguments
    extensions: Mapping[str, object] = arguments.get("extensions") or {}
    return {**arguments, "extensions": {**extensions, "retry": checked_policy(retry, "retry")}}


@functools.cache
def _signature(name: str) -> inspect.Signature:
    return inspect.signature(getattr(httpx.AsyncClient, name))


def _parameters(name: str) -> frozenset[str]:
    return frozenset(_signature(name).parameters)


def _like_httpx(name: str, verb: Callable[..., object]) -> Callable[..., object]:
    """Return a verb with the name, the docstring and the signature of httpx's, and ``retry``."""
    method = getattr(httpx.AsyncClient, name)
    wrapper = functools.wraps(method)(verb)
    signature = _signature(name)
    retry = inspect.Parameter("retry", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="RetryPolicy | None")
    vars(wrapper)["__signature__"] = signature.replace(parameters=[*signature.parameters.values(), retry])
    return wrapper


# httpx warns of cookies.
_KNOWN = _parameters("request") - {"cookies"}


def _sending(self: Any, method: str, url: object, retry: object, arguments: dict[str, Any]) -> Awaitable[object]:
    """Build a request, and return an awaitable that sends it."""
    if retry is not None:
        arguments = _with_policy(retry, arguments)
    if not (self._has_httpx_builders and arguments.keys() <= _KNOWN):
        base: Any = super(VerbsWithRetry, self)
        return cast("Awaitable[object]", base.request(method, url, **arguments))
    auth = arguments.pop("auth", httpx.USE_CLIENT_DEFAULT)
    follow_redirects = arguments.pop("follow_redirects", httpx.USE_CLIENT_DEFAULT)
    built = self.build_request(method, url, **arguments)
    return cast("Awaitable[object]", self.send(built, auth=auth, follow_redirects=follow_redirects))


async def _request(self: Any, method: str, url: object, *, retry: object = None, **arguments: Any) -> object:
    return await _sending(self, method, url, retry, arguments)


def _verb(name: str) -> Callable[..., object]:
    known, method = _parameters(name), name.upper()

    async def verb(self: Any, url: object, *, retry: object = None, **arguments: Any) -> object:
        if not (self._has_httpx_builders and arguments.keys() <= known):
            return await getattr(super(VerbsWithRetry, self), name)(url, **_with_policy(retry, arguments))
        if getattr(self.request, "__func__", None) is not _request:  # a mock
            return await self.request(method, url, retry=retry, **arguments)
        return await _sending(self, method, url, retry, arguments)  # one frame less, while it waits

    return _like_httpx(name, verb)


def _stream() -> Callable[..., object]:
    def stream(self: Any, *args: Any, retry: object = None, **arguments: Any) -> object:
        base: Any = super(VerbsWithRetry, self)
        return base.stream(*args, **_with_policy(retry, arguments))

    return _like_httpx("stream", stream)


class VerbsWithRetry(httpx.AsyncClient):
    """A client whose verbs take ``retry=``, which they pass on among the request's extensions.

    If no subclass, and no other base class, overrides how requests are made, ``get()`` and the others go straight to
    ``build_request()`` and ``send()``. Otherwise they go the way of httpx's own methods, with all arguments.
    """

    _has_httpx_builders = True

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        cls._has_httpx_builders = overridden(cls.__mro__).isdisjoint(REQUESTING)

    if not TYPE_CHECKING:
        request = _like_httpx("request", _request)
        get = _verb("get")
        options = _verb("options")
        head = _verb("head")
        post = _verb("post")
        put = _verb("put")
        patch = _verb("patch")
        delete = _verb("delete")
        stream = _stream()

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
