"""Protocols: which of them a connection may use."""

from __future__ import annotations

from support.rows import each_row

from prefect_http._wire.origin import Origin
from prefect_http._wire.protocols import Protocols

PLAIN, SECURE = Origin(b"http", b"a", 80, "a"), Origin(b"https", b"a", 443, "a")


@each_row(("http1", "alpn", "is_http2"), [(True, None, False), (True, "h2", True), (False, None, True)])
def test_chosen(http1: bool, alpn: str | None, is_http2: bool) -> None:
    """A connection is HTTP/2 if the server has chosen it, or if there is nothing else."""
    assert Protocols(http1=http1, http2=True).is_http2(alpn) is is_http2


@each_row(
    ("http1", "http2", "where", "may_be_http2", "alpn"),
    [
        (True, False, PLAIN, False, ["http/1.1"]),
        (True, False, SECURE, False, ["http/1.1"]),
        (True, True, PLAIN, False, ["h2", "http/1.1"]),
        (True, True, SECURE, True, ["h2", "http/1.1"]),
        (False, True, PLAIN, True, ["h2"]),
        (False, True, SECURE, True, ["h2"]),
        (True, True, SECURE._replace(scheme=b"wss"), False, ["http/1.1"]),
        (False, True, SECURE._replace(scheme=b"ws"), False, ["http/1.1"]),
    ],
)
def test_before_anything_is_known(http1: bool, http2: bool, where: Origin, may_be_http2: bool, alpn: list[str]) -> None:
    """HTTP/2 is possible where the server can choose it, or where there is nothing else."""
    protocols = Protocols(http1=http1, http2=http2)
    assert (protocols.may_be_http2(where), protocols.alpn(where)) == (may_be_http2, alpn)


def test_for_upgrade() -> None:
    """What only HTTP/1.1 can carry has connections of its own, unless there is no HTTP/1.1."""
    both, only = Protocols(http1=True, http2=True), Protocols(http1=False, http2=True)
    for where in (PLAIN, SECURE):
        assert not both.may_be_http2(both.for_upgrade(where))
        assert both.for_upgrade(where).is_secure is where.is_secure
        assert only.for_upgrade(where) == where


def test_remembered() -> None:
    """What a server has chosen is remembered, until it chooses otherwise; it is offered both all the same."""
    protocols, other = Protocols(http1=True, http2=True), SECURE._replace(port=444)
    for is_http2 in (False, True, False, False):
        protocols.remember(SECURE, is_http2=is_http2)
        assert protocols.may_be_http2(SECURE) is is_http2
        assert protocols.may_be_http2(other)
        assert protocols.alpn(SECURE) == ["h2", "http/1.1"]


def test_http1_is_required() -> None:
    """A server that requires HTTP/1.1 is offered nothing else from then on."""
    protocols = Protocols(http1=True, http2=True)
    assert protocols.require_http1(SECURE)
    assert not Protocols(http1=False, http2=True).require_http1(SECURE)
    for _ in range(2):
        assert (protocols.may_be_http2(SECURE), protocols.alpn(SECURE)) == (False, ["http/1.1"])
        protocols.remember(SECURE, is_http2=False)


def test_memory_is_bounded() -> None:
    """Only the last thousand servers are remembered."""
    protocols = Protocols(http1=True, http2=True)
    for port in range(1, 1102):
        protocols.remember(SECURE._replace(port=port), is_http2=False)
    assert [port for port in range(1, 1102) if protocols.may_be_http2(SECURE._replace(port=port))] == [*range(1, 102)]
