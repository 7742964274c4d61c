"""An in-memory network for tests of clients: scripted servers under the real transport, in virtual time."""

from prefect_http.testing._errors import UnexpectedRequest
from prefect_http.testing._faults import Fault, Flaky, Restarts
from prefect_http.testing._limits import ConcurrencyLimit, FixedWindow, Limit, SlidingLog, TokenBucket
from prefect_http.testing._network import FakeNetwork
from prefect_http.testing._received import FakeConnection, ReceivedRequest
from prefect_http.testing._reply import Reply
from prefect_http.testing._route import Route
from prefect_http.testing._server import FakeServer
from prefect_http.testing._virtual_time import Deadlock, virtual_time_loop

__all__ = [
    "ConcurrencyLimit",
    "Deadlock",
    "FakeConnection",
    "FakeNetwork",
    "FakeServer",
    "Fault",
    "FixedWindow",
    "Flaky",
    "Limit",
    "ReceivedRequest",
    "Reply",
    "Restarts",
    "Route",
    "SlidingLog",
    "TokenBucket",
    "UnexpectedRequest",
    "virtual_time_loop",
]
