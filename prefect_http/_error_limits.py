"""How much of an error's body is read, and for how long."""

from __future__ import annotations

import anyio

# Enough for any error message, whatever the server does. Without streaming the caller wants the whole body, so there
# the limit is generous.
STREAMED_ERROR_BYTES = 64 * 1024
ERROR_BYTES = 1024 * 1024
_ERROR_SECONDS = 5.0


def seconds_for_error() -> float:
    """Return for how long an error's body may be read, so that the error is raised before the caller's deadline."""
    # Half of what is left: at the deadline itself the cancellation would win.
    return min(_ERROR_SECONDS, (anyio.current_effective_deadline() - anyio.current_time()) / 2)
