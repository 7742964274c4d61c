"""Files for downloads: a server with ranges on a FakeNetwork, and the headers of parts."""

from __future__ import annotations

import random

from prefect_http.testing import ReceivedRequest, Reply

ETAG = '"v1"'
CONTENT = random.Random(16).randbytes(10_000)


def part_headers(start: int, end: int, total: int | str, etag: str | None = ETAG) -> dict[str, str]:
    """Return the headers of a 206 with the bytes from ``start`` up to ``end``."""
    headers = {"Content-Range": f"bytes {start}-{end - 1}/{total}"}
    return headers if etag is None else {**headers, "ETag": etag}


class FileServer:
    """Sends a file, or the rest of it, as servers do: to be passed to ``call()``.

    Attributes:
        content: of the file.
        etag: of the file; None: it has none.
    """

    def __init__(self, content: bytes = CONTENT, etag: str | None = ETAG) -> None:
        self.content = content
        self.etag = etag

    def __call__(self, request: ReceivedRequest) -> Reply:
        headers = {} if self.etag is None else {"ETag": self.etag}
        asked, total = request.headers.get("Range"), len(self.content)
        if asked is None or request.headers.get("If-Range", self.etag) != self.etag:
            return Reply(content=self.content, headers=headers)
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= total:
            return Reply(416, headers={"Content-Range": f"bytes */{total}"})
        return Reply(206, content=self.content[start:], headers=part_headers(start, total, total, self.etag))
