"""The cookies of a request that is sent again."""

from __future__ import annotations

from collections.abc import Iterable

import httpx

from prefect_http._httpx_details import COOKIES_OF_CLIENT


def renew_cookies(request: httpx.Request, response: httpx.Response, cookies: httpx.Cookies) -> None:
    """Let a request that is sent again have the cookies that its last response has set.

    A load balancer may set one that leads to another server. A ``Cookie`` header by hand is left as it is.

    Args:
        request: the request, which is changed.
        response: its response, whose history may have set cookies as well.
        cookies: those of the client, into which they have been taken, as far as its policy allows.
    """
    responses = (*response.history, response)
    names = _names_set_by(responses)
    if not names or ("Cookie" in request.headers and COOKIES_OF_CLIENT not in request.extensions):
        return
    # httpx knows which of them go to the URL, and cannot put one that is not ASCII into the headers of the request.
    current = _pairs(httpx.Request("GET", request.url, cookies=cookies))
    new = [pair for pair in current if _name(pair) in names and pair.isascii()]
    # Another host, where a redirect led to, may set a cookie with the same name, but not delete this one.
    own = _names_set_by(each for each in responses if each.url.host == request.url.host)
    replaced = own | {_name(pair) for pair in new}
    pairs = [pair for pair in _pairs(request) if _name(pair) not in replaced] + new
    request.headers.pop("Cookie", None)
    if pairs:
        request.headers["Cookie"] = "; ".join(pairs)
        request.extensions = {**request.extensions, COOKIES_OF_CLIENT: True}


def _pairs(request: httpx.Request) -> list[str]:
    return [pair for pair in request.headers.get("Cookie", "").split("; ") if pair]


def _names_set_by(responses: Iterable[httpx.Response]) -> set[str]:
    return {_name(field) for each in responses for field in each.headers.get_list("Set-Cookie")}


def _name(pair: str) -> str:
    return pair.partition("=")[0].strip()
