"""What all tests share."""

from __future__ import annotations

import gc

import pytest
from hypothesis import settings

# A busy machine is no failure; what may not hang stands under a fail_after.
settings.register_profile("prefect_http", deadline=None)
settings.load_profile("prefect_http")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run a test marked anyio on both backends."""
    return str(request.param)


def pytest_collection_finish() -> None:
    """Spare the garbage collector what is there to stay: many tests collect, and each time would look at all of it."""
    gc.collect()
    gc.freeze()
