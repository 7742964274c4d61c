"""What the tests of the in-process transport share."""

from __future__ import annotations

from typing import Any

import pytest
from support.virtual_time import virtual_time_backend


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run a test marked anyio on both backends, in virtual time."""
    return virtual_time_backend(request.param)
