"""The runs of all apps that are held: one registry for each run of an event loop."""

from __future__ import annotations

from anyio.lowlevel import RunVar

from prefect_http._concurrency.backend import spawn_root_task
from prefect_http._concurrency.fair_lock import FairLock
from prefect_http._errors import LifespanError
from prefect_http._lifespan.run import AppRun
from prefect_http._types import ASGIApp

_WAITS_FOR_ITSELF = "an app's own startup or shutdown cannot enter the app's lifespan: it would wait for itself"
_MAY_BE_WAITED_FOR = (
    "a task that an app's own startup or shutdown has spawned cannot enter the app's lifespan until the startup is "
    "complete, nor during the shutdown, because the app may be waiting for that task. Enter it while the app is up, or "
    "call the app through ASGITransport(app, state=...), which does not enter the lifespan."
)


class Entry:
    """An app and its runs: the latest may still be open, those before it are coming to their end."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app  # kept alive, because the registry knows it by its id
        self.turn = FairLock()
        self.runs: list[AppRun] = []


_registry: RunVar[dict[int, Entry]] = RunVar("prefect_http_lifespans")


def current_entries() -> dict[int, Entry]:
    """Return the entries of the running event loop, by the ids of their apps."""
    try:
        return _registry.get()
    except LookupError:
        entries: dict[int, Entry] = {}
        _registry.set(entries)
        return entries


def hold(app: ASGIApp, startup_timeout: float, shutdown_timeout: float) -> AppRun:
    """Hold the app's open run; start one if there is none.

    Finding the run open and holding it is one step: nothing is awaited in between.

    Raises:
        LifespanError: the caller is part of the app's own startup or shutdown, or a task that was spawned there.
    """
    entries = current_entries()
    entry = entries.get(id(app)) or Entry(app)
    latest = entry.runs[-1] if entry.runs else None
    if latest is not None and latest.is_open and latest.is_up:
        latest.hold()
        return latest
    for run in entry.runs:
        if run.call.is_caller():
            raise LifespanError(_WAITS_FOR_ITSELF if run.call.is_in_own_task() else _MAY_BE_WAITED_FOR)
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
