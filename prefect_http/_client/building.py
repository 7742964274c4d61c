"""Building requests, with less work for those that are like an earlier one.

httpx's ``build_request()`` takes 20 us, and parsing the URL another 17, of the 60 that a small request takes; with
parameters 40, and with cookies 60. Programs send the same headers and cookies again and again, and often to the same
URLs. So URLs, the default headers for a host, and the headers with cookies are remembered. Whatever is unusual is left
to httpx, which also says what is wrong with the arguments.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import httpx

from prefect_http._caching import remember
from prefect_http._client.cookie_headers import CookieHeaders, have_plain_jar
from prefect_http._client.cookies import COOKIES_OF_CLIENT
from prefect_http._client.file_body import as_file_body
from prefect_http._httpx_details import RequestModel, lower_names
from prefect_http._types import Headers

_MAX_URLS = 256
_MAX_HOSTS = 100
# A longer URL with parameters is not remembered; httpx limits the length of a text, but not that of its parts.
_MAX_TEXT = 2048
# Those that httpx adds no Content-Length to if there is no body.
_METHODS_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})
_ARGUMENTS_WITHOUT_BODY = frozenset({"headers", "timeout", "extensions", "params"})
_BODY = frozenset({"content", "data", "files", "json"})  # what an httpx.Request takes as well
_ARGUMENTS = _ARGUMENTS_WITHOUT_BODY | _BODY


class RequestBuilder:
    """Builds the requests of one client."""

    def __init__(self) -> None:
        self._urls: dict[str, httpx.URL] = {}
        self._built = _Built(httpx.URL(), [])
        self._cookies = CookieHeaders()

    def build(
        self,
        client: httpx.AsyncClient,
        build_request: Callable[..., httpx.Request],
        method: str,
        url: httpx.URL | str,
        arguments: Mapping[str, Any],
        *,
        may_copy: bool = True,
    ) -> httpx.Request:
        """Build a request.

        One with cookies has the extension `COOKIES_OF_CLIENT`, because httpx does not tell where a header is from.

        Args:
            client: has the defaults.
            build_request: httpx's, of the client.
            method: the method.
            url: the URL, which may be relative.
            arguments: the other arguments of ``build_request()``.
            may_copy: False if ``build_request()`` has to be called for each request.
        """
        request: httpx.Request | None = None
        headers = arguments.get("headers")
        if headers is not None and isinstance(headers, Iterator):
            # If httpx is asked after all, it would find the iterator exhausted.
            arguments = {**arguments, "headers": list(cast("Iterator[object]", headers))}
        may_have_body = not arguments.keys() <= _ARGUMENTS_WITHOUT_BODY
        if may_copy and type(method) is str and (not may_have_body or arguments.keys() <= _ARGUMENTS):
            try:
                request = self._like_another(client, build_request, method, url, arguments, may_have_body=may_have_body)
            except Exception:  # httpx finds once more what is wrong, and which of several things comes first
                request = None
        if request is None:
            with contextlib.suppress(httpx.InvalidURL):  # as above
                url = self._parsed(url)
            request = build_request(method, url, **arguments)
            if (client.cookies.jar or arguments.get("cookies")) and not _is_given(b"cookie", client, arguments):
                request.extensions = {**request.extensions, COOKIES_OF_CLIENT: True}
        if not may_have_body:
            return request
        data = arguments.get("data")
        is_data = data is not None and not isinstance(data, Mapping)  # which is sent in place of the content
        if not is_data and (body := as_file_body(arguments.get("content"))) is not None:
            request.stream = body
            has_length = b"content-length" in lower_names(request.headers)
            is_framed = has_length or _is_given(b"transfer-encoding", client, arguments)
            if body.size is not None and not is_framed:
                del request.headers["Transfer-Encoding"]  # httpx's, which does not know the length
                request.headers["Content-Length"] = str(body.size)
            request.headers = httpx.Headers(request.headers)  # without an encoding that may not fit other headers
        return request

    def _like_another(
        self,
        client: httpx.AsyncClient,
        build_request: Callable[..., httpx.Request],
        method: str,
        url: httpx.URL | str,
        arguments: Mapping[str, Any],
        *,
        may_have_body: bool,
    ) -> httpx.Request | None:
        """Build a request from what is remembered; None if only httpx can tell."""
        built, base_url, defaults = self._built, client.base_url, client.headers.raw
        if base_url is not built.base_url or defaults != built.headers:
            built = self._built = _Built(base_url, defaults)
        known = built.by_url.get(url) if type(url) is str else None
        known = known or self._look_up(client, build_request, url, built)
        if known is None:
            return None
        absolute, model = known
        params = arguments.get("params")
        if params or client.params:
            absolute, params = self._with_params(absolute, httpx.QueryParams(client.params).merge(params))
        is_bare = method in _METHODS_WITHOUT_BODY and params is None and not may_have_body
        headers = _with_headers(model.headers if is_bare else client.headers, arguments.get("headers"))
        if headers is None:
            return None
        extensions = _extensions(client, **arguments)
        if client.cookies.jar and b"cookie" not in lower_names(headers):
            if not have_plain_jar(client.cookies):
                return None
            extensions[COOKIES_OF_CLIENT] = True
            cookies = self._cookies.header(absolute, client.cookies)
            if cookies is not None and not cookies.isascii():  # it depends on the other headers if it can be sent
                return None
            if cookies is not None:
                headers["Cookie"] = cookies
        if is_bare:
            return model.copy(method, absolute, headers, extensions)
        body = {name: arguments[name] for name in _BODY & arguments.keys()}
        return httpx.Request(method, absolute, params=params, headers=headers, extensions=extensions, **body)

    def _look_up(
        self,
        client: httpx.AsyncClient,
        build_request: Callable[..., httpx.Request],
        url: httpx.URL | str,
        built: _Built,
    ) -> tuple[httpx.URL, RequestModel] | None:
        """Return a URL, made absolute, and the model of requests to its host; None if only httpx can tell."""
        absolute = self._parsed(url)
        if type(absolute) is not httpx.URL:
            return None
        if absolute.is_relative_url:
            base = built.base_url
            absolute = base.copy_with(raw_path=base.raw_path + absolute.raw_path.lstrip(b"/"))
            if absolute.is_relative_url:
                return None
        netloc = absolute.netloc
        model = built.by_host.get(netloc)
        if model is None:
            request = build_request("GET", absolute)
            if request.url.netloc != netloc:  # httpx has normalized the port with the parameters
                return None
            if client.headers.raw != built.headers:  # another thread has changed them
                return None
            if b"cookie" not in lower_names(client.headers):  # so it is made of cookies, which may change
                request.headers.pop("Cookie", None)
            model = RequestModel(request)
            remember(built.by_host, netloc, model, _MAX_HOSTS)
        if type(url) is str:
            remember(built.by_url, url, (absolute, model), _MAX_URLS)
        return absolute, model

    def _with_params(self, url: httpx.URL, params: httpx.QueryParams) -> tuple[httpx.URL, httpx.QueryParams | None]:
        """Return a URL with parameters, and None; or as they are, if only httpx can tell how they go together."""
        before, query = str(url), str(params)
        if query and len(before) + len(query) < _MAX_TEXT and not {"?", "#"} & set(before):
            whole = self._parsed(f"{before}?{query}")
            if isinstance(whole, httpx.URL) and whole.netloc == url.netloc:
                return whole, None
        return url, params

    def _parsed(self, url: httpx.URL | str) -> httpx.URL | str:
        """Return a URL, parsed, and if it is known, parsed before."""
        if type(url) is not str:
            return url
        parsed = self._urls.get(url)
        if parsed is None:
            parsed = httpx.URL(url)
            remember(self._urls, url, parsed, _MAX_URLS)
        return parsed


class _Built:
    """What has been built with the defaults of a client.

    It is replaced when they change, and never emptied, because another thread may be using it.

    Args:
        base_url: the default that relative URLs are merged with.
        headers: those that each request has by default.

    Attributes:
        base_url, headers: as given.
        by_url: absolute URLs, and the models of requests to their hosts, by the URL as it was given.
        by_host: those models, by host and port.
    """

    __slots__ = ("base_url", "by_host", "by_url", "headers")

    def __init__(self, base_url: httpx.URL, headers: list[tuple[bytes, bytes]]) -> None:
        self.base_url = base_url
        self.headers = headers
        self.by_url: dict[str, tuple[httpx.URL, RequestModel]] = {}
        self.by_host: dict[bytes, RequestModel] = {}


def _with_headers(defaults: httpx.Headers, headers: Any) -> httpx.Headers | None:
    """Return the headers of a request: its own, and those that it has by default; None: only httpx can tell."""
    merged = httpx.Headers(defaults)
    if headers is None:
        return merged
    own = httpx.Headers(cast("Headers", headers))
    if "Host" in own:
        return None
    merged.update(own)
    return httpx.Headers(merged)  # the other one may have remembered an encoding that no longer fits


def _extensions(
    client: httpx.AsyncClient,
    *,
    timeout: Any = httpx.USE_CLIENT_DEFAULT,
    extensions: Mapping[str, object] | None = None,
    **_: object,
) -> dict[str, object]:
    """Return the extensions of a request, the timeouts included."""
    if extensions is not None and "timeout" in extensions:
        return dict(extensions)
    seconds = client.timeout if timeout is httpx.USE_CLIENT_DEFAULT else httpx.Timeout(timeout)
    if not extensions:
        return {"timeout": seconds.as_dict()}
    return dict(**extensions, timeout=seconds.as_dict())  # as httpx does it: all names must be texts


def _is_given(name: bytes, client: httpx.AsyncClient, arguments: Mapping[str, Any]) -> bool:
    return name in lower_names(client.headers) or name in lower_names(httpx.Headers(arguments.get("headers")))
