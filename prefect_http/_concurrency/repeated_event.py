"""RepeatedEvent: an event that can be used again and again."""

from __future__ import annotations

from prefect_http._concurrency.backend import Event, new_event


class RepeatedEvent:
    """Wakes the tasks that wait for a change. What has changed, they look up themselves.

    It can be created outside an event loop, and costs nothing until a task waits.
    """

    _event: Event | None = None

    async def wait(self) -> None:
        """Wait for the next ``notify()``. One that came before does not count."""
        if self._event is None:
            self._event = new_event()
        await self._event.wait()

    def notify(self) -> None:
        """Wake all tasks that are waiting."""
        if self._event is not None:
            self._event.set()
            self._event = None
