"""Cookies that cost next to nothing where none come."""

from __future__ import annotations

import httpx

_SETTING_COOKIES = frozenset({b"set-cookie", b"set-cookie2"})


class LeanCookies(httpx.Cookies):
    """httpx.Cookies that look for a ``Set-Cookie`` first.

    httpx puts the request and all headers of every response together for the standard library, which then finds that
    there is none: 27 us of the 182 that a small request takes with 100 tasks. httpx2 looks first by itself.
    """

    def extract_cookies(self, response: httpx.Response) -> None:
        """Take the cookies from a response."""
        for name, _ in response.headers.raw:
            if name.lower() in _SETTING_COOKIES:
                super().extract_cookies(response)
                return
