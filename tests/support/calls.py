"""Which functions of the package are called: a cost that neither the machine nor its load changes."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import httpx

import prefect_http

_PACKAGE = str(Path(prefect_http.__file__).parent)


async def calls_of(transport: httpx.AsyncBaseTransport, request: httpx.Request) -> Counter[str]:
    """Send a request, read the response, and return which functions of the package were called, or resumed."""
    calls = Counter[str]()

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(_PACKAGE):
            calls[f"{frame.f_code.co_filename.removeprefix(_PACKAGE)}:{frame.f_code.co_qualname}"] += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        response = await transport.handle_async_request(request)
        await response.aread()
        await response.aclose()
    finally:
        sys.setprofile(before)
    return calls
