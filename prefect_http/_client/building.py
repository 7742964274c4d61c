"""Building requests, with less work for those that are like an earlier one.

httpx's ``build_request()`` takes 20 us, and parsing the URL another 17, of the 60 that a small request takes; with
parameters 40, and with cookies 60. Programs send the same headers and cookies again and again, and often to the same
URLs. So URLs, the default headers for a host, and the headers with cookies are remembered. Whatever is unusual is left
to httpx, which also says what is wrong with the arguments.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
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
        self._base_url: httpx.URL | None = None
        self._default_headers: list[tuple[bytes, bytes]] = []
        self._urls: dict[str, httpx.URL] = {}
        self._known: dict[str, tuple[httpx.URL, RequestModel]] = {}
        self._models: dict[bytes, RequestModel] = {}  # by host and port
        self._cookies = CookieHeaders()

    def build(
        self,
        client: httpx.AsyncClient,
        build: Callable[..., httpx.Request],
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
            build: the ``build_request()`` of httpx for the client.
            method: the method.
            url: the URL, which may be relative.
            arguments: the other arguments of ``build_request()``.
            may_copy: False if ``build`` has to be called for each request.
        """
        request: httpx.Request | None = None
        has_body = not arguments.keys() <= _ARGUMENTS_WITHOUT_BODY
        if may_copy and type(method) is str and (not has_body or arguments.keys() <= _ARGUMENTS):
            try:
                request = self._like_another(client, build, method, url, arguments, has_body=has_body)
            except Exception:  # httpx finds once more what is wrong, and which of several things comes first
                request = None
        if request is None:
            with contextlib.suppress(httpx.InvalidURL):  # as above
                url = self._parsed(url)
            request = build(method, url, **arguments)
            if (client.cookies.jar or arguments.get("cookies")) and not _is_given(b"cookie", client, arguments):
                request.extensions = {**request.extensions, COOKIES_OF_CLIENT: True}
        if not has_body:
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
        build: Callable[..., httpx.Request],
        method: str,
        url: httpx.URL | str,
        arguments: Mapping[str, Any],
        *,
        has_body: bool,
    ) -> httpx.Request | None:
        """Build a request from what is remembered; None if only httpx can tell."""
        base_url, defaults = client.base_url, client.headers.raw
        if base_url is not self._base_url or defaults != self._default_headers:
            self._forget(base_url, defaults)
        known = self._known.get(url) if type(url) is str else None
        known = known or self._look_up(client, build, url)
        if known is None:
            return None
        absolute, model = known
        params = arguments.get("params")
        if params or client.params:
            absolute, params = self._with_params(absolute, httpx.QueryParams(client.params).merge(params))
        is_bare = method in _METHODS_WITHOUT_BODY and params is None and not has_body
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
        self, client: httpx.AsyncClient, build: Callable[..., httpx.Request], url: httpx.URL | str
    ) -> tuple[httpx.URL, RequestModel] | None:
        """Return a URL, made absolute, and the model of requests to its host; None if only httpx can tell."""
        absolute = self._parsed(url)
        if type(absolute) is not httpx.URL:
            return None
        if absolute.is_relative_url:
            base = client.base_url
            absolute = base.copy_with(raw_path=base.raw_path + absolute.raw_path.lstrip(b"/"))
            if absolute.is_relative_url:
                return None
        netloc = absolute.netloc
        model = self._models.get(netloc)
        if model is None:
            request = build("GET", absolute)
            if request.url.netloc != netloc:  # httpx has normalized the port with the parameters
                return None
            if b"cookie" not in lower_names(client.headers):  # so it is made of cookies, which may change
                request.headers.pop("Cookie", None)
            model = RequestModel(request)
            remember(self._models, netloc, model, _MAX_HOSTS)
        if type(url) is str:
            remember(self._known, url, (absolute, model), _MAX_URLS)
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

    def _forget(self, base_url: httpx.URL, headers: list[tuple[bytes, bytes]]) -> None:
        """Forget what was built with defaults that the client no longer has."""
        self._base_url, self._default_headers = base_url, headers
        self._known.clear()
        self._models.clear()


def _with_headers(defaults: httpx.Headers, headers: Any) -> httpx.Headers | None:
    """Return the headers of a request: its own, and those that it has by default; None: only httpx can tell."""
    merged = httpx.Headers(defaults)
    if headers is None:
        return merged
    if not isinstance(headers, Mapping | list | tuple):  # an iterator can be used only once
        return None
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
