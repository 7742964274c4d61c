"""A server on loopback with a token bucket for each job, for the processes of fleet.py: a program that prints its port.

``GET /<job>/<rate>/<burst>`` is one request of a job, from the process that the header ``X-Process`` names. If it is
rejected, ``Retry-After`` says when there is a token again, in whole seconds. ``GET /report/<job>`` is what came so far.

The first request of a job named ``probe`` that arrives after all of these times is the probe of a throttle. It is never
answered.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from dataclasses import asdict, dataclass
from typing import cast

from prefect_http.testing import TokenBucket

_HEAD = re.compile(rb"GET (/\S+) .*?^X-Process: (\d+)\r$|GET (/\S+) ", re.DOTALL | re.MULTILINE | re.IGNORECASE)
_ACCEPTED = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
_REJECTED = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: %d\r\ncontent-length: 0\r\n\r\n"


@dataclass(slots=True)
class Job:
    """What came for a job.

    Attributes:
        accepted: how many requests were accepted.
        rejected: how many were rejected.
        retry_at: the longest of the times that a rejection has named.
        probed_by: which process has sent the probe; 0: there is none.
        next_at: when another process has sent the next request after that, on the clock that all processes share.
    """

    accepted: int = 0
    rejected: int = 0
    retry_at: float = math.inf
    probed_by: int = 0
    next_at: float = math.inf


_jobs: dict[str, Job] = {}
_buckets: dict[str, TokenBucket] = {}


class Connection(asyncio.Protocol):
    """Answers requests. Each must arrive in one piece, as small ones on loopback do."""

    _transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer a request."""
        head = _HEAD.search(data)
        assert head is not None, data
        match (head[1] or head[3]).decode().strip("/").split("/"):
            case ["report", name]:
                body = json.dumps(asdict(_jobs.get(name, Job()))).encode()
                self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
            case [name, rate, burst]:
                bucket = _buckets.setdefault(name, TokenBucket(float(rate), int(burst)))
                self._answer(_jobs.setdefault(name, Job()), bucket, name == "probe", int(head[2]))
            case path:
                raise ValueError(path)

    def _answer(self, job: Job, bucket: TokenBucket, is_probe_held: bool, process: int) -> None:
        now = time.monotonic()
        if is_probe_held and not job.probed_by and now >= job.retry_at:
            job.probed_by = process
            return
        if job.probed_by not in (0, process):
            job.next_at = min(job.next_at, now)
        if bucket.admit(now):
            job.accepted += 1
            self._transport.write(_ACCEPTED)
        else:
            job.rejected += 1
            seconds = max(1, math.ceil(bucket.free_at(now) - now))
            job.retry_at = now + seconds if math.isinf(job.retry_at) else max(job.retry_at, now + seconds)
            self._transport.write(_REJECTED % seconds)


async def serve() -> None:
    """Serve until this process is killed."""
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
