"""CookieHeaders: the Cookie headers of a client's requests, remembered for as long as its cookies stay the same."""

from __future__ import annotations

import math
import time
from http.cookiejar import Cookie

import httpx

from prefect_http._caching import remember

_MAX_HEADERS = 256
_JAR = type(httpx.Cookies().jar)


def have_plain_jar(cookies: httpx.Cookies) -> bool:
    """Return whether cookies are in a jar of httpx's own kind. One of another class may have rules of its own."""
    return type(cookies.jar) is _JAR


class CookieHeaders:
    """Makes Cookie headers as httpx does, which takes 27 us for each, and remembers them.

    A header depends on the scheme and the authority of the URL, the cookies and the time, and on the path if a cookie
    is for some paths only.
    """

    __slots__ = ("_made",)

    def __init__(self) -> None:
        self._made = _Made([], -1, has_paths=False)

    def header(self, url: httpx.URL, cookies: httpx.Cookies) -> str | None:
        """Return the header for a URL; None: no cookie goes there.

        Args:
            url: the URL.
            cookies: those of the client, if they ``have_plain_jar()``.

        Raises:
            UnicodeEncodeError: one of them is not ASCII. It may be in the header instead.
        """
        now, jar = int(time.time()), list(cookies.jar)  # the jar compares whole seconds as well
        made = self._made
        if not made.is_still_right(jar, now):
            made = self._made = _Made(jar, now, has_paths=made.has_paths)
        path = url.raw_path.partition(b"?")[0] if made.has_paths else b""
        key = url.raw_scheme, url.userinfo, url.netloc, path
        try:
            return made.headers[key]
        except KeyError:
            header: str | None = httpx.Request("GET", url, cookies=cookies).headers.get("Cookie")
        remember(made.headers, key, header, _MAX_HEADERS)
        return header


class _Made:
    """The headers that have been made of cookies.

    It is replaced when they change, and never emptied, because another thread may be using it.

    Args:
        jar: the cookies.
        now: the time on the clock of their expiry.
        has_paths: whether there has been a cookie for some paths only. A jar sorts them by the paths that they had.

    Attributes:
        has_paths: whether there is one, or has been.
        headers: by scheme, userinfo, host with port, and path if ``has_paths``.
    """

    __slots__ = ("_since", "_state", "_until", "has_paths", "headers")

    def __init__(self, jar: list[Cookie], now: int, *, has_paths: bool) -> None:
        self._state = [dict(vars(cookie)) for cookie in jar]
        self._since = now
        expiries = [cookie.expires for cookie in jar if cookie.expires is not None]
        self._until = min((expiry for expiry in expiries if expiry > now), default=math.inf)
        self.has_paths = has_paths or any(cookie.path != "/" for cookie in jar)
        self.headers: dict[tuple[bytes, bytes, bytes, bytes], str | None] = {}

    def is_still_right(self, jar: list[Cookie], now: int) -> bool:
        """Return whether the cookies are the same, and none of them has expired, or is no longer, meanwhile."""
        return self._since <= now < self._until and [vars(cookie) for cookie in jar] == self._state
