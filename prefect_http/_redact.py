"""What of a request may be shown in messages, notes and log lines. Credentials may not. Pure."""

from __future__ import annotations

import json
import re

import httpx

# Shorter ones stand in texts by chance.
_SHORTEST_SECRET = 4
_QUOTATION = re.compile(r"""(?:bytearray\()?(?:\bb)?['"]""")


def safe_url(url: httpx.URL) -> str:
    """Write a URL without its userinfo."""
    return str(url.copy_with(userinfo=b"") if url.userinfo else url)


def safe_exception(exception: BaseException) -> str:
    """Write an exception in one line: its class and its message.

    A protocol error quotes the header that it refuses, and that may be the ``Authorization`` or a cookie. Its
    message goes as far as the quotation.
    """
    try:
        text = str(exception)
    except Exception:  # it may have one of its own
        text = ""
    if isinstance(exception, httpx.ProtocolError):
        text = _QUOTATION.split(text, maxsplit=1)[0].rstrip(" :")
    text = one_line(text, limit=200)
    return f"{type(exception).__name__}{text and ': '}{text}"


def without_credentials(text: str, request: httpx.Request) -> str:
    """Blot out what the request's headers and URL say in confidence; a server may echo it."""
    secrets = {request.url.password}
    for name in ("Authorization", "Proxy-Authorization"):
        secrets.add(request.headers.get(name, "").partition(" ")[2] or request.headers.get(name, ""))
    for cookie in request.headers.get("Cookie", "").split(";"):
        secrets.add((cookie.partition("=")[2] or cookie).strip())
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "[secure]").replace(json.dumps(secret)[1:-1], "[secure]")
    return text


def one_line(text: str, *, limit: int) -> str:
    """Fold a text into one line of at most ``limit`` printable characters."""
    # A limit on what is folded as well: the text may be a whole response body.
    folded = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * limit]).split())
    return folded if len(folded) <= limit and len(text) <= 4 * limit else folded[: limit - 1].rstrip() + "…"
