"""Building requests, with less work for those that are like an earlier one.

httpx's ``build_request()`` takes 20 us, and parsing the URL another 17, of the 60 that a small request takes; with
parameters 40, and with cookies 60. Programs send the same headers and cookies again and again, and often to the same
URLs. So a request is made of what is known of an earlier one to the same host, with a URL that has been parsed before:
a copy, if it has no body and no parameters; else, httpx makes an httpx.Request, but merges nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import httpx

from prefect_http._client.cookie_headers import CookieHeaders, have_plain_jar
from prefect_http._client.cookies import COOKIES_OF_CLIENT
from prefect_http._client.file_body import as_file_body
from prefect_http._httpx_details import RequestModel
from prefect_http._types import Headers

_MAX_URLS = 256
_MAX_HOSTS = 100
# Without a body, and without a Content-Length that says so.
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
        if may_copy and (not has_body or arguments.keys() <= _ARGUMENTS):
            try:
                request = self._like_another(client, build, method, url, arguments, has_body=has_body)
            except UnicodeEncodeError:  # if a cookie is not ASCII, it depends on the other headers if it can be sent
                request = None
            if request is not None and not has_body:
                return request
        if request is None:
            request = build(method, self._parsed(url), **arguments)
            if (client.cookies.jar or arguments.get("cookies")) and not _is_given("Cookie", client, arguments):
                request.extensions = {**request.extensions, COOKIES_OF_CLIENT: True}
        if (body := as_file_body(arguments.get("content"))) is not None:
            request.stream = body
            is_framed = "Content-Length" in request.headers or _is_given("Transfer-Encoding", client, arguments)
            if body.size is not None and not is_framed:
                del request.headers["Transfer-Encoding"]  # httpx's, which does not know the length
                request.headers["Content-Length"] = str(body.size)
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
        """Make a request of what is known of others; None if only httpx can tell."""
        base_url, defaults = client.base_url, client.headers.raw
        if base_url is not self._base_url or defaults != self._default_headers:
            self._forget(base_url, defaults)
        known = self._known.get(url) if type(url) is str else None
        known = known or self._look_up(url, base_url, build, client)
        if known is None:
            return None
        absolute, model = known
        params = arguments.get("params")
        if params or client.params:
            params, text = client.params.merge(params), str(absolute)
            # A host that httpx has quoted would be quoted again, in another way.
            if params and "?" not in text and "#" not in text and b"%" not in absolute.netloc:
                absolute, params = self._parsed_text(f"{text}?{params}"), None
        is_bare = method in _METHODS_WITHOUT_BODY and params is None and not has_body
        headers = _with_headers(model.headers if is_bare else client.headers, arguments.get("headers"))
        if headers is None:
            return None
        extensions = _extensions(client, **arguments)
        if client.cookies.jar and "Cookie" not in headers:
            if not have_plain_jar(client.cookies):
                return None
            extensions[COOKIES_OF_CLIENT] = True
            cookies = self._cookies.header(absolute, client.cookies)
            if cookies is not None:
                headers["Cookie"] = cookies
        if is_bare:
            return model.copy(method, absolute, headers, extensions)
        body = {name: arguments[name] for name in _BODY & arguments.keys()}
        return httpx.Request(method, absolute, params=params, headers=headers, extensions=extensions, **body)

    def _look_up(
        self, url: httpx.URL | str, base: httpx.URL, build: Callable[..., httpx.Request], client: httpx.AsyncClient
    ) -> tuple[httpx.URL, RequestModel] | None:
        """Return a URL, made absolute, and the model of requests to its host; None if only httpx can tell."""
        absolute = self._parsed(url)
        if type(absolute) is not httpx.URL:
            return None
        if absolute.is_relative_url:
            absolute = base.copy_with(raw_path=base.raw_path + absolute.raw_path.lstrip(b"/"))
            if absolute.is_relative_url:
                return None
        netloc = absolute.netloc
        model = self._models.get(netloc)
        if model is None:
            request = build("GET", absolute)
            if "Cookie" not in client.headers:  # those of the client may change
                request.headers.pop("Cookie", None)
            model = RequestModel(request)
            _add(self._models, netloc, model, _MAX_HOSTS)
        if type(url) is str:
            _add(self._known, url, (absolute, model), _MAX_URLS)
        return absolute, model

    def _parsed(self, url: httpx.URL | str) -> httpx.URL | str:
        """Return a URL that is a string as an object."""
        return self._parsed_text(url) if type(url) is str else url

    def _parsed_text(self, url: str) -> httpx.URL:
        """Return a URL, parsed before if it is known."""
        parsed = self._urls.get(url)
        if parsed is None:
            parsed = httpx.URL(url)
            _add(self._urls, url, parsed, _MAX_URLS)
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
    return {**(extensions or {}), "timeout": seconds.as_dict()}


def _is_given(header: str, client: httpx.AsyncClient, arguments: Mapping[str, Any]) -> bool:
    return header in client.headers or header in httpx.Headers(arguments.get("headers"))


def _add(cache: dict[Any, Any], key: str | bytes, value: object, size: int) -> None:
    """Add an entry to a cache, in place of the oldest one if it is full."""
    if len(cache) == size:
        del cache[next(iter(cache))]
    cache[key] = value
