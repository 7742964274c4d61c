"""Text for messages, notes and log lines, without credentials. Pure."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from dataclasses import dataclass, field
from urllib.parse import quote, quote_plus

import httpx

from prefect_http._internal_errors import public_class

# Shorter ones occur in texts by chance.
_SHORTEST_SECRET = 4
_SECURE = "[secure]"
_MAX_MESSAGE = 500
# A request extension: the headers that proxies got along with the request, which are not among its own.
_PROXY_HEADERS = "prefect_http.proxy_headers"
_RawHeaders = tuple[tuple[bytes, bytes], ...]
# What Python's repr() makes of bytes and strings; one that is cut off goes on to the end.
_LITERAL = r"""b?(?:'(?:[^'\\]|\\.)*(?:'|\\?$)|"(?:[^"\\]|\\.)*(?:"|\\?$))"""
_QUOTATION = re.compile(rf"(?<!\w)(?:bytearray\({_LITERAL}\)?|{_LITERAL})", re.DOTALL)
# Quotations in a message with these words may be credentials, of the request and of the response.
_OUTGOING = re.compile(r"header|value|cookie|authorization", re.IGNORECASE)
_INCOMING = re.compile(r"value|cookie|authorization", re.IGNORECASE)
# Of digest authentication (RFC 7616 section 3.4).
_DIGEST_PARTS = re.compile(r'\b(?:username|response|nonce|cnonce)="([^"]+)"')


def safe_url(url: httpx.URL) -> str:
    """Return a URL without its userinfo."""
    return str(url.copy_with(userinfo=b"") if url.userinfo else url)


def safe_exception(exception: BaseException, request: httpx.Request | None = None) -> str:
    """Return an exception in one line: its class and its message, without credentials.

    Args:
        exception: the exception.
        request: what it is about, if that is known, and not told by an ``httpx.RequestError`` itself.
    """
    text = safe_message(exception, request)
    return f"{public_class(exception).__name__}{text and ': '}{text}"


def safe_message(exception: BaseException, request: httpx.Request | None = None) -> str:
    """Return the message of an exception in one line, without credentials; see ``safe_exception()``.

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
            request = exception.request
    if request is not None:
        # Only what is wrong with a response is said in the server's words.
        quotes_server = isinstance(exception, httpx.RemoteProtocolError)
        text = quoting_no_credentials(text, request) if quotes_server else _replaced(text, _credentials(request)[0])
    return one_line(text, limit=_MAX_MESSAGE)


def without_credentials(text: str, request: httpx.Request) -> str:
    """Replace the credentials of a request, and those for proxies, in a text from a server, which may echo them."""
    secrets, names = _credentials(request)
    return _replaced(text, secrets | names)


def quoting_no_credentials(message: str, request: httpx.Request) -> str:
    """Replace the credentials of a request in a message that quotes a text from a server.

    User names are replaced only in the quotations, since the message's own words may contain them by chance.
    """
    secrets, names = _credentials(request)
    message = _QUOTATION.sub(lambda quotation: _replaced(quotation[0], secrets | names), message)
    return _replaced(message, secrets)


def _replaced(text: str, secrets: set[str]) -> str:
    # Not with a regular expression: re would keep the credentials in its cache, and a server could make it slow.
    found: list[tuple[int, int]] = []
    for form in {form for secret in secrets if len(secret) >= _SHORTEST_SECRET for form in _forms(secret)}:
        start = text.find(form)
        while start >= 0:
            end = start + len(form)
            found.append((start, end))
            start = text.find(form, end)
    pieces: list[str] = []
    done = 0  # up to where the text has been dealt with
    for start, end in sorted(found):
        if start >= done:
            pieces += text[done:start], _SECURE
        done = max(done, end)  # they may overlap
    return "".join([*pieces, text[done:]])


def _forms(secret: str) -> tuple[str, ...]:
    """Return a secret as it is, and as JSON and URLs write it."""
    json_forms = (json.dumps(secret, ensure_ascii=ensure_ascii)[1:-1] for ensure_ascii in (True, False))
    return secret, *json_forms, quote(secret, safe=""), quote_plus(secret)


@dataclass(frozen=True, slots=True)
class _ProxyHeaders:
    """What proxies got along with a request. Its repr() shows nothing of that."""

    of_each: tuple[_RawHeaders, ...] = field(repr=False)


def note_proxy_headers(request: httpx.Request, headers: _RawHeaders) -> None:
    """Note the headers that a proxy gets along with a request, so that they can be hidden in messages.

    Those that other proxies got before are kept: the errors of earlier attempts may quote them.
    """
    noted = _proxy_headers(request)
    if headers not in noted:
        request.extensions = {**request.extensions, _PROXY_HEADERS: _ProxyHeaders((*noted, headers))}


def _proxy_headers(request: httpx.Request) -> tuple[_RawHeaders, ...]:
    noted = request.extensions.get(_PROXY_HEADERS)
    return noted.of_each if isinstance(noted, _ProxyHeaders) else ()


def _credentials(request: httpx.Request) -> tuple[set[str], set[str]]:
    """Return the secrets in the headers and the URL of a request, or sent to proxies; and the user names.

    Names, and parts of a digest, are only replaced in the words of a server: they may occur in others by chance. Those
    that can be seen in the URL anyway are left out.
    """
    secrets, names = {request.url.password}, {request.url.username}
    for headers in (request.headers, *map(httpx.Headers, _proxy_headers(request))):
        for name in ("Authorization", "Proxy-Authorization"):
            for value in headers.get_list(name):
                scheme, _, credentials = value.partition(" ")
                credentials = credentials.strip()
                secrets.add(credentials or value)
                names.update(_DIGEST_PARTS.findall(credentials))
                if scheme.lower() == "basic":
                    decoded = _decoded(credentials)
                    user, _, password = decoded.partition(":")
                    names.add(user)
                    (secrets if password else names).add(decoded)
                    secrets.add(password)
        for cookies in headers.get_list("Cookie"):
            for cookie in cookies.split(";"):
                secrets.add((cookie.partition("=")[2] or cookie).strip())
    url = safe_url(request.url)
    return secrets, {name for name in names if name not in url}


def _decoded(credentials: str) -> str:
    """Return the user name and the password of basic authentication; empty if they cannot be decoded."""
    try:
        # Servers accept them without the padding.
        return base64.b64decode(credentials + "=" * (-len(credentials) % 4), validate=True).decode()
    except ValueError:
        return ""


def one_line(text: str, *, limit: int) -> str:
    """Return a text as one line of at most ``limit`` printable characters."""
    # Only the beginning is processed: the text may be a whole response body.
    folded = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * limit]).split())
    return folded if len(folded) <= limit and len(text) <= 4 * limit else folded[: limit - 1].rstrip() + "…"
