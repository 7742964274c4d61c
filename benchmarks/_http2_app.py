"""What hypercorn serves, where nginx is not installed: see _http2_servers.py."""

from __future__ import annotations

from benchmarks._apps import Download, hello, lifespan, upload
from benchmarks._http2_servers import DOWNLOAD
from prefect_http._types import Receive, Scope, Send

_PIECE = 64 * 1024
_download = Download(DOWNLOAD // _PIECE, _PIECE)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer by the path."""
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    elif scope["path"] == "/download":
        await _download(scope, receive, send)
    else:
        await (upload if scope["path"] == "/upload" else hello)(scope, receive, send)
