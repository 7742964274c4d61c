"""Text for messages, notes and log lines, without credentials. Pure."""

from __future__ import annotations

import json
import re

import httpx

# Shorter ones occur in texts by chance.
_SHORTEST_SECRET = 4
_QUOTATION = re.compile(r"""(?:bytearray\()?(?:\bb)?['"]""")


def safe_url(url: httpx.URL) -> str:
    """Return a URL without its userinfo."""
    return str(url.copy_with(userinfo=b"") if url.userinfo else url)


def safe_exception(exception: BaseException) -> str:
    """Return an exception in one line: its class and its message.

    The message of a protocol error quotes the invalid header, which may be the ``Authorization`` or a cookie, so it is
    cut before the quotation.
    """
    try:
        text = str(exception)
    except Exception:  # from its own __str__
        text = ""
    if isinstance(exception, httpx.ProtocolError):
        text = _QUOTATION.split(text, maxsplit=1)[0].rstrip(" :")
    text = one_line(text, limit=200)
    return f"{type(exception).__name__}{text and ': '}{text}"


def without_credentials(text: str, request: httpx.Request) -> str:
    """Replace the credentials in the request's headers and URL; a server may echo them."""
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
    """Return a text as one line of at most ``limit`` printable characters."""
    # Only the beginning is processed: the text may be a whole response body.
    folded = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * limit]).split())
    return folded if len(folded) <= limit and len(text) <= 4 * limit else folded[: limit - 1].rstrip() + "…"
