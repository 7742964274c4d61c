"""How much of an error's body is read, and for how long."""

from __future__ import annotations

import anyio

# A bad response's body, for the error: enough for any message, whatever the server does. A body that is not
# streamed is what the caller asked for, so there the limit is generous.
STREAMED_ERROR_BYTES = 64 * 1024
ERROR_BYTES = 1024 * 1024
_ERROR_SECONDS = 5.0


def seconds_for_error() -> float:
    """Say for how long an error's body may be read, so that the error still comes before the caller's deadline."""
    # Half of what the caller has left: at the deadline itself the cancellation would win.
    return min(_ERROR_SECONDS, (anyio.current_effective_deadline() - anyio.current_time()) / 2)
