"""What the conventions of OpenTelemetry say about methods, servers, URLs and errors."""

from __future__ import annotations

import httpx
from support.rows import each_row

from prefect_http._otel.conventions import (
    SENSITIVE_QUERY_PARAMETERS,
    known_methods,
    protocol_version,
    redacted_url,
    server_of,
)


@each_row(
    "value, methods",
    [
        (None, {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}),
        ("", {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}),
        ("GET, PURGE,", {"GET", "PURGE"}),
    ],
)
def test_known_methods(value: str | None, methods: set[str]) -> None:
    """The environment variable replaces the usual methods, and does not add to them."""
    assert known_methods({} if value is None else {"OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS": value}) == methods


@each_row(
    "scheme, authority, server",
    [
        ("http", "example.com", ("example.com", 80)),
        ("https", "example.com", ("example.com", 443)),
        ("https", "example.com:8443", ("example.com", 8443)),
        ("https", "example.com:", ("example.com", 443)),
        ("http", "127.0.0.1:4200", ("127.0.0.1", 4200)),
        ("http", "[::1]", ("::1", 80)),
        ("http", "[::1]:4200", ("::1", 4200)),
        ("all", "example.com", ("example.com", None)),
        ("http", "no:host:at:all", ("no:host:at:all", 80)),
        ("http", "example.com:port", ("example.com:port", 80)),
    ],
)
def test_server(scheme: str, authority: str, server: tuple[str, int | None]) -> None:
    """The server is that of the Host header, with the default port of the scheme."""
    assert server_of(scheme, authority) == server


@each_row(
    "url, expected",
    [
        ("https://example.com", "https://example.com"),
        ("https://example.com/a?b=c#d", "https://example.com/a?b=c#d"),
        ("https://user:password@example.com/", "https://REDACTED:REDACTED@example.com/"),
        ("https://token@example.com/", "https://REDACTED:REDACTED@example.com/"),
        ("https://example.com/@a", "https://example.com/@a"),
        ("https://example.com/?sig=secret", "https://example.com/?sig=REDACTED"),
        ("https://example.com/?Sig=open&sig", "https://example.com/?Sig=open&sig"),
        ("https://example.com/?a=b&sig=secret&c=d#sig=e", "https://example.com/?a=b&sig=REDACTED&c=d#sig=e"),
        ("https://example.com/#a?sig=open", "https://example.com/#a?sig=open"),
        ("https://example.com/?%73ig=secret&a=sig=b", "https://example.com/?%73ig=REDACTED&a=sig=b"),
        (
            "https://e.com/?X-Amz-Signature=s&X-Goog-Signature=t",
            "https://e.com/?X-Amz-Signature=REDACTED&X-Goog-Signature=REDACTED",
        ),
        (
            "https://e.com/?X-Amz-Credential=s&X-Amz-Security-Token=t",
            "https://e.com/?X-Amz-Credential=REDACTED&X-Amz-Security-Token=REDACTED",
        ),
        ("https://e.com/?AWSAccessKeyId=s&Signature=t", "https://e.com/?AWSAccessKeyId=REDACTED&Signature=REDACTED"),
    ],
)
def test_url(url: str, expected: str) -> None:
    """A URL is reported without credentials, and is left as it is otherwise."""
    assert redacted_url(httpx.URL(url), SENSITIVE_QUERY_PARAMETERS) == expected


def test_other_sensitive_parameters() -> None:
    """Names that are given replace those of the conventions."""
    assert redacted_url(httpx.URL("http://a/?sig=b&key=c"), {"key"}) == "http://a/?sig=b&key=REDACTED"


@each_row("text, version", [("HTTP/1.1", "1.1"), ("HTTP/2", "2"), ("HTTP/1.0", "1.0")])
def test_protocol_version(text: str, version: str) -> None:
    """The version is reported without the name of the protocol."""
    assert protocol_version(text) == version
