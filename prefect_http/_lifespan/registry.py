"""Which run of an app's lifespan is held: one registry for each event loop."""

from __future__ import annotations

from anyio.lowlevel import RunVar

from prefect_http._concurrency.backend import Lock, new_lock, spawn_root_task
from prefect_http._errors import LifespanError
from prefect_http._lifespan.run import AppRun
from prefect_http._types import ASGIApp


class Entry:
    """An app that has a run, or several: one that may be held, after others that are coming to their end."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app  # kept alive, for the registry knows it by its id
        self.turn: Lock = new_lock()
        self.runs: list[AppRun] = []


_registry: RunVar[dict[int, Entry]] = RunVar("prefect_http_lifespans")


def current_entries() -> dict[int, Entry]:
    try:
        return _registry.get()
    except LookupError:
        entries: dict[int, Entry] = {}
        _registry.set(entries)
        return entries


def hold(app: ASGIApp, startup_timeout: float, shutdown_timeout: float) -> AppRun:
    """Hold the app's open run; start one if there is none.

    Nothing is awaited here: that the run is open, and that it is held, is one step.
    """
    entries = current_entries()
    entry = entries.get(id(app)) or Entry(app)
    latest = entry.runs[-1] if entry.runs else None
    if latest is not None and latest.is_open and latest.is_up:
        latest.hold()
        return latest
    if any(run.is_called_from_inside() for run in entry.runs):
        raise LifespanError(
            "the app's own startup or shutdown tries to enter the app's lifespan, and would wait for itself"
        )
    if latest is not None and latest.is_open:
        latest.hold()
        return latest

    def forget(run: AppRun) -> None:
        entry.runs.remove(run)
        if not entry.runs:
            del entries[id(app)]

    run = AppRun(
        app,
        startup_timeout=startup_timeout,
        shutdown_timeout=shutdown_timeout,
        turn=entry.turn,
        predecessors=tuple(entry.runs),
        on_end=forget,
    )
    run.hold()
    entry.runs.append(run)
    entries[id(app)] = entry
    try:
        run.root_task = spawn_root_task(run.main, "prefect_http lifespan", run.on_exit)
    except BaseException:
        forget(run)
        raise
    return run
