"""Virtual time on both backends: no test needs to wait on the real clock."""

from __future__ import annotations

from typing import Any

from trio.testing import MockClock

from prefect_http.testing._virtual_time import virtual_time_loop


def virtual_time_backend(name: str) -> tuple[str, dict[str, Any]]:
    """Return a backend, by name, with virtual time, as the ``anyio_backend`` of anyio's pytest plugin."""
    if name == "trio":
        return name, {"clock": MockClock(autojump_threshold=0)}
    return name, {"loop_factory": virtual_time_loop}
