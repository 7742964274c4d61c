"""Socks5Handshake: the messages of RFC 1928 and RFC 1929, in any pieces."""

from __future__ import annotations

import httpx
import pytest

from prefect_http import InvalidResponse
from prefect_http._internal_errors import TunnelFailed
from prefect_http._wire.proxy.socks5 import Credentials, Socks5Handshake

PROXY, PEER = "the proxy socks5://p:1080", "x.test:443"
NO_AUTH, PASSWORD = b"\5\0", b"\5\2"
GRANTED = b"\5\0\0\1\x7f\0\0\1\x1f\x90"
USER = Credentials(b"user", b"p\xc3\xa4ss")
CONNECT = b"\5\1\0\3\6x.test\1\xbb"
LOGIN = b"\1\4user\5p\xc3\xa4ss"


def new_handshake(host: bytes = b"x.test", port: int = 443, credentials: Credentials | None = None) -> Socks5Handshake:
    """Make a handshake."""
    return Socks5Handshake(PROXY, PEER, host, port, credentials)


def test_messages() -> None:
    """The client offers what it can, authenticates if it is asked to, and says where the tunnel leads."""
    for credentials, replies, expected in (
        (None, [NO_AUTH, GRANTED], [b"\5\1\0", CONNECT, b""]),
        (USER, [NO_AUTH, GRANTED], [b"\5\2\0\2", CONNECT, b""]),
        (USER, [PASSWORD, b"\1\0", GRANTED], [b"\5\2\0\2", LOGIN, CONNECT, b""]),
        (Credentials(b"", b""), [PASSWORD, b"\1\0", GRANTED], [b"\5\2\0\2", b"\1\0\0", CONNECT, b""]),
    ):
        handshake = new_handshake(credentials=credentials)
        assert [handshake.start(), *map(handshake.feed, replies)] == expected, (credentials, replies)
        assert (handshake.is_complete, handshake.trailing_data) == (True, b"")


def test_addresses() -> None:
    """Addresses are sent as such, and names as they are, for the proxy to resolve."""
    for host, port, encoded in (
        (b"127.0.0.1", 80, b"\1\x7f\0\0\1\0\x50"),
        (b"::1", 65535, b"\4" + bytes(15) + b"\1\xff\xff"),
        (b"x.test", 1, b"\3\6x.test\0\1"),
        (b"xn--tda.test.", 443, b"\3\rxn--tda.test.\1\xbb"),
        (b"1.2.3", 443, b"\3\x051.2.3\1\xbb"),
        (b"x" * 255, 443, b"\3\xff" + b"x" * 255 + b"\1\xbb"),
    ):
        handshake = new_handshake(host, port)
        assert handshake.feed(NO_AUTH) == b"\5\1\0" + encoded, host
    with pytest.raises(httpx.ConnectError, match=r"could not connect to x\.test:443: the name is too long"):
        new_handshake(b"x" * 256)


def test_pieces() -> None:
    """Replies may arrive byte by byte, or all at once, with data behind them; nothing is sent too early or twice."""
    for reply in (GRANTED, b"\5\0\0\4" + bytes(18), b"\5\0\0\3\0\0\0", b"\5\0\0\3\xff" + bytes(257)):
        stream = PASSWORD + b"\1\0" + reply + b"early"
        for size in (1, 2, 3, 7, len(stream)):
            handshake, sent = new_handshake(credentials=USER), b""
            trailing = b""
            for start in range(0, len(stream), size):
                piece = stream[start : start + size]
                if handshake.is_complete:
                    trailing += piece
                else:
                    sent += handshake.feed(piece)
            assert sent == LOGIN + CONNECT, (reply, size)
            assert handshake.is_complete
            assert handshake.trailing_data + trailing == b"early", (reply, size)


def test_what_has_not_arrived() -> None:
    """A reply that is cut is never taken for a whole one."""
    stream = PASSWORD + b"\1\0" + GRANTED
    for end in range(len(stream)):
        handshake = new_handshake(credentials=USER)
        handshake.feed(stream[:end])
        assert not handshake.is_complete, end
        assert handshake.trailing_data == b""


REFUSALS: list[tuple[Credentials | None, bytes, str]] = [
    (None, b"\5\xff", f"{PROXY} refuses to authenticate the client: it needs credentials"),
    (USER, b"\5\xff", f"{PROXY} refuses to authenticate the client: it accepts no user name and password"),
    (None, PASSWORD, f"{PROXY} asks for a user name and a password to authenticate, which was not offered"),
    (USER, b"\5\1", f"{PROXY} asks for GSSAPI to authenticate, which was not offered"),
    (None, b"\5\x80", f"{PROXY} asks for the unknown method 128 to authenticate, which was not offered"),
    (USER, PASSWORD + b"\1\1", f"{PROXY} does not accept the user name and the password"),
    (None, NO_AUTH + b"\5\1", f"{PROXY} could not connect to {PEER}: general failure"),
    (None, NO_AUTH + b"\5\2\0\1", f"{PROXY} refused a tunnel to {PEER}: not allowed by its rules"),
    (None, NO_AUTH + b"\5\3\0\1", f"{PROXY} could not connect to {PEER}: network unreachable"),
    (None, NO_AUTH + b"\5\4", f"{PROXY} could not connect to {PEER}: host unreachable"),
    (None, NO_AUTH + b"\5\5", f"{PROXY} could not connect to {PEER}: connection refused"),
    (None, NO_AUTH + b"\5\6", f"{PROXY} could not connect to {PEER}: TTL expired"),
    (None, NO_AUTH + b"\5\7", f"{PROXY} refused a tunnel to {PEER}: it does not support CONNECT"),
    (None, NO_AUTH + b"\5\x08", f"{PROXY} refused a tunnel to {PEER}: it does not support this type of address"),
    (None, NO_AUTH + b"\5\xfe", f"{PROXY} refused a tunnel to {PEER}: unknown error 254"),
]


def test_refusals() -> None:
    """A refusal is a ProxyError that says what the proxy said, and who is to blame."""
    for credentials, replies, message in REFUSALS:
        with pytest.raises(httpx.ProxyError) as caught:
            new_handshake(credentials=credentials).feed(replies)
        assert str(caught.value) == message
        assert isinstance(caught.value, TunnelFailed) == ("could not" in message), message


def test_other_protocols() -> None:
    """What is not SOCKS5 is an InvalidResponse at the first byte, wherever it comes."""
    for replies in (
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\4",
        b"\0\x5a",
        PASSWORD + b"\5\0",
        NO_AUTH + b"\1",
        NO_AUTH + b"\x15\3\1\0\2",
    ):
        with pytest.raises(InvalidResponse, match=f"^{PROXY} does not speak SOCKS5: its reply begins with b'"):
            new_handshake(credentials=USER).feed(replies)
    for kind in (0, 2, 5, 255):
        with pytest.raises(InvalidResponse, match=f"^{PROXY} sent an address of the unknown type {kind}$"):
            new_handshake().feed(NO_AUTH + b"\5\0\0%c\0" % kind)


def test_an_echo() -> None:
    """Once the proxy has been sent the credentials, errors do not quote what it sends."""
    for replies in (PASSWORD + b"s3cret", PASSWORD + b"\1\0s3cret"):
        with pytest.raises(InvalidResponse, match=r"its reply begins with b's'$"):
            new_handshake(credentials=USER).feed(replies)


def test_credentials() -> None:
    """User and password may have up to 255 bytes each; the error does not quote them."""
    Credentials(b"x" * 255, b"").check()
    Credentials(b"", b"x" * 255).check()
    for credentials in (Credentials(b"secret" * 50, b""), Credentials(b"", b"secret" * 50)):
        with pytest.raises(ValueError, match="have at most 255 bytes each") as caught:
            credentials.check()
        assert "secret" not in str(caught.value)
