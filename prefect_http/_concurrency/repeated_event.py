"""RepeatedEvent: wakes those who wait for something to change."""

from __future__ import annotations

from prefect_http._concurrency.backend import Event, new_event


class RepeatedEvent:
    """Tells all who wait that something has changed; what it is, they look up themselves.

    Unlike an event, it can be used again and again, and it costs nothing until somebody waits.
    """

    _event: Event | None = None

    async def wait(self) -> None:
        """Wait for the next ``notify()``."""
        if self._event is None:
            self._event = new_event()
        await self._event.wait()

    def notify(self) -> None:
        """Wake everyone who waits."""
        if self._event is not None:
            self._event.set()
            self._event = None
