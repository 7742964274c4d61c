"""The cookies of a request that is sent again."""

from __future__ import annotations

import httpx

# A request extension: its ``Cookie`` header, if there is one, is made of cookies, and not given by hand.
COOKIES_OF_CLIENT = "prefect_http.cookies"


def renew_cookies(request: httpx.Request, response: httpx.Response, cookies: httpx.Cookies) -> None:
    """Let a request that is sent again have the cookies that its last response has set.

    A load balancer may set one that leads to another server. A ``Cookie`` header by hand is left as it is.

    Args:
        request: the request, which is changed.
        response: its response.
        cookies: those of the client, into which they have been taken, as far as its policy allows.
    """
    names = {_name(field) for field in response.headers.get_list("Set-Cookie")}
    if not names or ("Cookie" in request.headers and COOKIES_OF_CLIENT not in request.extensions):
        return
    # httpx knows which of them go to the URL, and cannot put one that is not ASCII into the headers of the request.
    current = _pairs(httpx.Request("GET", request.url, cookies=cookies))
    new = [pair for pair in current if _name(pair) in names and pair.isascii()]
    pairs = [pair for pair in _pairs(request) if _name(pair) not in names] + new
    request.headers.pop("Cookie", None)
    if pairs:
        request.headers["Cookie"] = "; ".join(pairs)
        request.extensions = {**request.extensions, COOKIES_OF_CLIENT: True}


def _pairs(request: httpx.Request) -> list[str]:
    return [pair for pair in request.headers.get("Cookie", "").split("; ") if pair]


def _name(pair: str) -> str:
    return pair.partition("=")[0].strip()
