"""Text for messages, notes and log lines, without credentials. Pure."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from urllib.parse import quote, quote_plus

import httpx

from prefect_http._internal_errors import public_class

# Shorter ones occur in texts by chance.
_SHORTEST_SECRET = 4
_SECURE = "[secure]"
_MAX_MESSAGE = 500
# What Python's repr() makes of bytes and strings; one that is cut off goes on to the end.
_LITERAL = r"""b?(?:'(?:[^'\\]|\\.)*(?:'|\\?$)|"(?:[^"\\]|\\.)*(?:"|\\?$))"""
_QUOTATION = re.compile(rf"(?<!\w)(?:bytearray\({_LITERAL}\)?|{_LITERAL})", re.DOTALL)
# Quotations in a message with these words may be credentials, of the request and of the response.
_OUTGOING = re.compile(r"header|value|cookie|authorization", re.IGNORECASE)
_INCOMING = re.compile(r"value|cookie|authorization", re.IGNORECASE)


def safe_url(url: httpx.URL) -> str:
    """Return a URL without its userinfo."""
    return str(url.copy_with(userinfo=b"") if url.userinfo else url)


def safe_exception(exception: BaseException) -> str:
    """Return an exception in one line: its class and its message, without credentials."""
    text = safe_message(exception)
    return f"{public_class(exception).__name__}{text and ': '}{text}"


def safe_message(exception: BaseException) -> str:
    """Return the message of an exception in one line, without credentials.

    That of a protocol error quotes the header that is invalid, which may be the ``Authorization`` or a cookie.
    """
    try:
        text = str(exception)
    except Exception:  # from its own __str__
        text = ""
    if isinstance(exception, httpx.ProtocolError):
        words = _OUTGOING if isinstance(exception, httpx.LocalProtocolError) else _INCOMING
        if words.search(text):
            text = _QUOTATION.sub(_SECURE, text)
    if isinstance(exception, httpx.RequestError):
        with contextlib.suppress(RuntimeError):  # it has no request
            text = without_credentials(text, exception.request)
    return one_line(text, limit=_MAX_MESSAGE)


def without_credentials(text: str, request: httpx.Request) -> str:
    """Replace the credentials in the request's headers and URL; a server may echo them."""
    secrets = {request.url.password}
    for name in ("Authorization", "Proxy-Authorization"):
        field = request.headers.get(name, "")
        scheme, _, credentials = field.partition(" ")
        secrets.add(credentials.strip() or field)
        if scheme.lower() == "basic":
            secrets.update(_basic_credentials(credentials))
    for cookie in request.headers.get("Cookie", "").split(";"):
        secrets.add((cookie.partition("=")[2] or cookie).strip())
    # The longest first, because one may be a part of another.
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            for form in (secret, json.dumps(secret)[1:-1], quote(secret, safe=""), quote_plus(secret)):
                text = text.replace(form, _SECURE)
    return text


def _basic_credentials(encoded: str) -> tuple[str, ...]:
    """Return user and password together, and the password alone."""
    try:
        decoded = base64.b64decode(encoded, validate=True).decode()
    except ValueError:
        return ()
    return decoded, decoded.partition(":")[2]


def one_line(text: str, *, limit: int) -> str:
    """Return a text as one line of at most ``limit`` printable characters."""
    # Only the beginning is processed: the text may be a whole response body.
    folded = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * limit]).split())
    return folded if len(folded) <= limit and len(text) <= 4 * limit else folded[: limit - 1].rstrip() + "…"
