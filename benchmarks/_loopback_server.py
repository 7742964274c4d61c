"""A server on loopback, for the clients that are measured: a program that prints its port.

It answers each GET of ``/`` with the same bytes, but for the Date, which changes once a second. uvicorn with httptools
is too slow to measure the fastest client with: while pyreqwest took 120 us of processor time for a request, with 100
tasks on a busy machine, uvicorn took 100 us, or 80 on uvloop, and this server 20. It checks nothing; a request may
arrive in pieces, but not two at once.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
import ssl
import sys
from collections.abc import Iterator
from email.utils import formatdate
from typing import cast

# What uvicorn would answer.
_HEAD = b"HTTP/1.1 200 OK\r\ndate: %s\r\nserver: loopback\r\ncontent-type: text/plain\r\n"
_BODY = b"content-length: 13\r\n\r\nHello, world!"

_PIECE = 64 * 1024
_BURST = 256 * 1024
_LAST_CHUNK = b"0\r\n\r\n"


class Connection(asyncio.Protocol):
    """Answers by the path: ``/length/<bytes>`` and ``/chunked/<bytes>`` with a long body, ``/hold`` never.

    ``/paced/<bytes per second>/<bytes>`` is the first of these, as fast as it says. ``/distinct`` is like ``/``, with
    an identifier of its own in each head.

    ``/held`` is answered with the number of requests that are held. A POST must have a chunked body, and is answered
    with the number of bytes that it took.
    """

    held = 0
    answers = itertools.count(1)
    head = b""
    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._received = b""
        self._uploaded: int | None = None  # bytes so far, while a request body arrives
        self._download: Iterator[bytes] = iter(())
        self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        """Answer, if the request is complete."""
        if self._uploaded is not None:
            self._receive_body(data)
            return
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        self._received = b""
        if head.startswith(b"POST"):
            self._uploaded = 0
            self._receive_body(rest)
        elif head.startswith(b"GET / "):
            self._transport.write(self.head + _BODY)
        elif head.startswith(b"GET /distinct "):
            self._transport.write(b"%sx-request-id: %032x\r\n%s" % (self.head, next(self.answers), _BODY))
        else:
            self._answer(head.split(b" ", 2)[1].decode())

    def _answer(self, path: str) -> None:
        match path.strip("/").split("/"):
            case ["hold"]:
                Connection.held += 1
            case ["held"]:
                self._send(b"%d" % Connection.held)
            case ["length", length]:
                self._transport.write(self.head + b"content-length: %s\r\n\r\n" % length.encode())
                self._stream(_pieces(int(length), b"x" * _PIECE))
            case ["paced", rate, length]:
                self._transport.write(self.head + b"content-length: %s\r\n\r\n" % length.encode())
                self._send_slowly(int(length), int(rate), asyncio.get_running_loop().time())
            case ["chunked", length]:
                self._transport.write(self.head + b"transfer-encoding: chunked\r\n\r\n")
                self._stream(_pieces(int(length), b"%x\r\n%s\r\n" % (_PIECE, b"x" * _PIECE), _LAST_CHUNK))
            case _:
                raise ValueError(path)

    def _send(self, body: bytes) -> None:
        self._transport.write(self.head + b"content-length: %d\r\n\r\n%s" % (len(body), body))

    def _receive_body(self, data: bytes) -> None:
        assert self._uploaded is not None
        self._uploaded += len(data)
        self._received = (self._received + data[-len(_LAST_CHUNK) :])[-len(_LAST_CHUNK) :]
        if self._received == _LAST_CHUNK:
            self._send(b"%d" % self._uploaded)
            self._received, self._uploaded = b"", None

    def _send_slowly(self, left: int, rate: int, due: float) -> None:
        """Send a burst when it is due, and see to the next one."""
        size = min(left, _BURST)
        self._transport.write(b"x" * size)
        if left > size:
            due += size / rate
            asyncio.get_running_loop().call_at(due, self._send_slowly, left - size, rate, due)

    def _stream(self, pieces: Iterator[bytes]) -> None:
        self._download = pieces
        self._is_paused = False
        self.resume_writing()

    def pause_writing(self) -> None:
        """Stop sending a long body, until the client has taken what was sent."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Go on with it."""
        self._is_paused = False
        while not self._is_paused and (piece := next(self._download, b"")):
            self._transport.write(piece)


def _pieces(length: int, piece: bytes, end: bytes = b"") -> Iterator[bytes]:
    for _ in range(length // _PIECE):
        yield piece
    if end:
        yield end


def _tell_time() -> None:
    """Set the Date, now and each second."""
    Connection.head = _HEAD % formatdate(usegmt=True).encode()
    asyncio.get_running_loop().call_later(1, _tell_time)


async def serve(certificate: str | None) -> None:
    """Serve until this process is killed; with TLS, if there is a certificate."""
    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    _tell_time()
    # Asyncio sets TCP_NODELAY; without it, each answer would take 40 ms.
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=4096, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main(core: str, certificate: str | None = None) -> None:
    """Run the server on a core, if one is named."""
    if core:
        os.sched_setaffinity(0, {int(core)})
    if importlib.util.find_spec("uvloop"):
        import uvloop

        uvloop.run(serve(certificate))
    else:
        asyncio.run(serve(certificate))


if __name__ == "__main__":
    main(*sys.argv[1:])
