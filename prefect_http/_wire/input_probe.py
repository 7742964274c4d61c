"""Whether something has arrived on an idle connection, found out without waiting."""

from __future__ import annotations

import select
from collections.abc import Callable
from functools import partial
from types import ModuleType

from anyio.abc import ByteStream

from prefect_http._wire.raw_socket import peek_of, raw_socket_of


def input_probe_of(stream: ByteStream, *, without_socket: bool = True) -> Callable[[], bool]:
    """Return a function that returns whether a stream has input, the end of the stream included.

    Args:
        stream: the stream.
        without_socket: what the function returns if there is no socket: it has been closed, or there has never been
            one, as with some streams that users open.
    """
    raw_socket, peek = raw_socket_of(stream), peek_of(stream)
    is_readable = partial(bool, without_socket) if raw_socket is None else input_probe(raw_socket.fileno())
    return is_readable if peek is None else lambda: peek() is not None or is_readable()


def input_probe(fileno: int, module: ModuleType = select) -> Callable[[], bool]:
    """Return a function that returns whether a socket is readable, the end of the stream included.

    Args:
        fileno: the socket's file descriptor; negative: the socket is closed.
        module: the select module; a fake in tests.
    """
    if fileno < 0:
        return lambda: True
    if not hasattr(module, "poll"):  # on Windows, where select() takes file descriptors of any size

        def select_input() -> bool:
            try:
                return bool(module.select([fileno], [], [], 0)[0])
            except OSError:  # the socket has been closed
                return True

        return select_input
    # One poll object for each connection, since asking it again takes only 0.3 us.
    poll = module.poll()
    poll.register(fileno, module.POLLIN)
    return lambda: bool(poll.poll(0))
