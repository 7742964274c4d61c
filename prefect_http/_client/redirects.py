"""The request that follows a redirect. Pure. RFC 9110 section 15.4, and where that leaves a choice, as httpx chooses.

httpx raises whatever it meets when a Location is not a valid URL: a RemoteProtocolError, an InvalidURL, a UnicodeError;
or it lets the transport find out that there is no such port. Here all of these are an InvalidResponse.
"""

from __future__ import annotations

import httpx

from prefect_http._client.cookies import COOKIES_OF_CLIENT
from prefect_http._errors import InvalidResponse
from prefect_http._ports import MAX_PORT
from prefect_http._redact import quoting_no_credentials

_DEFAULT_PORTS = {"http": 80, "https": 443}


def redirect_url(response: httpx.Response, request: httpx.Request) -> httpx.URL:
    """Return the URL that a redirect leads to.

    Args:
        response: a response that has a Location.
        request: the request that was redirected.

    Raises:
        InvalidResponse: the Location is not a valid URL.
    """
    location, url = response.headers["Location"], request.url
    try:
        target = httpx.URL(location)
        if not target.host and target.scheme:  # "https:///path"; a host that is not valid fails here
            target = target.copy_with(host=url.host)
        if target.is_relative_url:
            target = url.join(target)
        if target.port is not None and not 0 <= target.port <= MAX_PORT:
            raise httpx.InvalidURL(f"Invalid port: '{target.port}'")
    except (httpx.InvalidURL, UnicodeError) as error:
        # It may quote the userinfo of the Location, which is not known as the request's.
        reason = "" if "@" in location else f": {error}"
    else:
        return target.copy_with(fragment=url.fragment) if url.fragment and not target.fragment else target
    # Not above, where the error that quotes the Location would be its context.
    message = f"the Location of the {response.status_code} is not a valid URL{reason}"
    raise InvalidResponse(quoting_no_credentials(message, request))


def redirect_request(
    request: httpx.Request, response: httpx.Response, url: httpx.URL, cookies: httpx.Cookies
) -> httpx.Request:
    """Return the request that follows a redirect.

    Args:
        request: the request that was redirected.
        response: the redirect.
        url: where it leads.
        cookies: those of the client.
    """
    method = _method(request.method, response.status_code)
    headers = httpx.Headers(request.headers)
    if _origin(url) != _origin(request.url):
        if not _is_upgrade(request.url, url):
            headers.pop("Authorization", None)  # they were for the other origin
        headers["Host"] = url.netloc.decode("ascii")
    stream: httpx.SyncByteStream | httpx.AsyncByteStream | None = request.stream
    if method != request.method and method == "GET":
        headers.pop("Content-Length", None)
        headers.pop("Transfer-Encoding", None)
        stream = None
    headers.pop("Cookie", None)
    return httpx.Request(
        method,
        url,
        headers=headers,
        cookies=httpx.Cookies(cookies),
        stream=stream,
        extensions={**request.extensions, COOKIES_OF_CLIENT: True},
    )


def _method(method: str, status: int) -> str:
    """Return the method of the next request. As browsers do, a 301 or 302 turns a POST into a GET.

    A 302 keeps a QUERY (RFC 10008 section 2.5).
    """
    is_changed = {301: method == "POST", 302: method not in {"HEAD", "QUERY"}, 303: method != "HEAD"}
    return "GET" if is_changed.get(status, False) else method


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or _DEFAULT_PORTS.get(url.scheme)


def _is_upgrade(url: httpx.URL, target: httpx.URL) -> bool:
    """Whether a redirect only leads from http to https, on the default ports."""
    return (
        url.host == target.host
        and _origin(url) == ("http", url.host, 80)
        and _origin(target) == ("https", target.host, 443)
    )
