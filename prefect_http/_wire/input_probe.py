"""Whether something has come on an idle connection, asked without waiting."""

from __future__ import annotations

import select
import ssl
from collections.abc import Callable
from types import ModuleType


def input_probe(fileno: int, module: ModuleType = select) -> Callable[[], bool]:
    """Make a function that says whether something can be read from a socket, be it only its end."""
    if fileno < 0:  # it has been closed
        return lambda: True
    if not hasattr(module, "poll"):  # on Windows, where select() takes sockets of any number

        def select_input() -> bool:
            try:
                return bool(module.select([fileno], [], [], 0)[0])
            except OSError:  # the socket has been closed
                return True

        return select_input
    # Made once for a connection, it takes 0.3 us.
    poll = module.poll()
    poll.register(fileno, module.POLLIN)
    return lambda: bool(poll.poll(0))


def has_plain_input(ssl_object: ssl.SSLObject) -> bool:
    """Say whether TLS holds data that nobody has read, decrypted or not, or the end."""
    try:
        ssl_object.read(1)
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:
        return True
    return True
