"""What OpenTelemetry's conventions for HTTP clients say about methods, servers, URLs and errors. Pure.

https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-client-span, as of version 1.44.0
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping
from urllib.parse import unquote_plus

import httpx

from prefect_http._ports import DEFAULT_PORTS

Attributes = dict[str, str | int | float | list[str]]

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

# https://opentelemetry.io/docs/specs/semconv/http/http-metrics/#metric-httpclientrequestduration
REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
# https://opentelemetry.io/docs/specs/semconv/http/http-metrics/#metric-httpclientconnectionduration
CONNECTION_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)

# https://opentelemetry.io/docs/specs/semconv/registry/attributes/url/#url-full; the match is case-sensitive.
SENSITIVE_QUERY_PARAMETERS = frozenset(
    {
        "AWSAccessKeyId",
        "Signature",
        "X-Amz-Credential",
        "X-Amz-Security-Token",
        "X-Amz-Signature",
        "X-Goog-Signature",
        "sig",
    }
)
REDACTED = "REDACTED"
# The values of these are never reported.
SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization", "set-cookie"})

# https://opentelemetry.io/docs/specs/semconv/registry/attributes/http/#http-request-method
OTHER_METHOD = "_OTHER"
_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
_METHODS_VARIABLE = "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS"

_AUTHORITY = re.compile(r"(?P<host>\[[^]]*\]|[^:]*)(?::(?P<port>[0-9]{0,5}))?")


def known_methods(environ: Mapping[str, str]) -> frozenset[str]:
    """Return the methods that are reported by their names: those of the environment variable, or the usual ones."""
    names = environ.get(_METHODS_VARIABLE, "")
    return frozenset(filter(None, map(str.strip, names.split(",")))) or _METHODS


@functools.lru_cache(maxsize=256)
def server_of(scheme: str, authority: str) -> tuple[str, int | None]:
    """Return the server's address and port.

    Args:
        scheme: of the URL.
        authority: the ``Host`` header, which names the server even if the URL has the address of a machine.

    Returns:
        The address, without the brackets of an IPv6 address; and the port, None if it is not known.
    """
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return authority, DEFAULT_PORTS.get(scheme)
    port = match["port"]
    return match["host"].strip("[]"), int(port) if port else DEFAULT_PORTS.get(scheme)


def redacted_url(url: httpx.URL, sensitive: Collection[str]) -> str:
    """Return a URL without its userinfo, and without the values of sensitive parameters of its query."""
    text = str(url)
    if "@" in text and url.userinfo:
        text = str(url.copy_with(userinfo=f"{REDACTED}:{REDACTED}".encode()))
    if "?" not in text:
        return text
    before, hash_sign, fragment = text.partition("#")
    before, question_mark, query = before.partition("?")
    query = "&".join(_redacted(pair, sensitive) for pair in query.split("&"))
    return f"{before}{question_mark}{query}{hash_sign}{fragment}"


def _redacted(pair: str, sensitive: Collection[str]) -> str:
    name, equals, _ = pair.partition("=")
    return f"{name}={REDACTED}" if equals and unquote_plus(name) in sensitive else pair


def protocol_version(http_version: str) -> str:
    """Return the version in "HTTP/1.1" or "HTTP/2"."""
    return http_version.rpartition("/")[2]
