"""Pictures of what a throttle does, and of how fast the transport is; they need matplotlib."""

# pyright: reportUnknownMemberType=false
# Matplotlib's types are incomplete.

from __future__ import annotations

import importlib.util
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._limited_servers import SERVERS
from benchmarks._simulation import Outcome, Rates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DIRECTORY: ContextVar[Path | None] = ContextVar("DIRECTORY", default=None)
"""Where pictures are written, a folder that exists; None: none are drawn."""

_ACCEPTED, _REJECTED, _TRUE = "#2166ac", "#d6604d", "#888888"
_BIN = 0.25  # seconds
_SIZE = 10, 3.2  # inches


def draw_throttle(outcomes: Mapping[str, Outcome], rates: Mapping[str, Rates]) -> None:
    """Draw what a throttle does, or print why not.

    Args:
        outcomes: how requests at once to the server S1 ended, by client.
        rates: the rates that were learned, by server.
    """
    _save("throttle_requests.svg", lambda figure: _draw_requests(figure, outcomes))
    _save("throttle_rate.svg", lambda figure: _draw_rates(figure, rates))


def draw_flaky(outcomes: Mapping[str, tuple[Outcome, Outcome]]) -> None:
    """Draw how a job goes on at servers that fail now and then, or print why not.

    Args:
        outcomes: by server, how it ended with a throttle and without.
    """
    _save("throttle_flaky.svg", lambda figure: _draw_flaky(figure, outcomes))


def draw_wire(rates: Mapping[str, Mapping[int, float]]) -> None:
    """Draw requests per second over the number of tasks, or print why not.

    Args:
        rates: requests per second, by client and backend ("httpx, trio"), and by the number of tasks.
    """
    title = "Requests per second over loopback, by the number of tasks (one small response each)"
    label = "tasks, each with a connection"
    _save("wire_speed.svg", lambda figure: _draw_rates_by_tasks(figure, rates, title, label))


def draw_http2(rates: Mapping[str, Mapping[int, float]], server: str) -> None:
    """Draw requests per second over TLS by the number of tasks, or print why not.

    Args:
        rates: requests per second, by client and backend, and by the number of tasks.
        server: the server's name.
    """
    title = f"Requests per second over TLS, by the number of tasks (one small response each, {server})"
    _save("http2_speed.svg", lambda figure: _draw_rates_by_tasks(figure, rates, title, "tasks"))


def _save(name: str, fill: Callable[[Figure], object]) -> None:
    directory = DIRECTORY.get()
    if directory is None:
        return
    if importlib.util.find_spec("matplotlib") is None:
        print("No picture: matplotlib is not installed.")
        return
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Text stays text, and the same input makes the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "prefect_http", "font.size": 9}):
        figure = Figure(_SIZE, layout="constrained")
        fill(figure)
        figure.savefig(directory / name, metadata={"Date": None})
    print(f"Drawn: {directory / name}")


def _draw_rates_by_tasks(figure: Figure, rates: Mapping[str, Mapping[int, float]], title: str, label: str) -> None:
    """Draw a line for each client."""
    figure.suptitle(title)
    axes = figure.subplots()
    colors: dict[str, str] = {}
    for name, by_tasks in rates.items():
        client, backend = name.split(", ")
        axes.plot(
            list(by_tasks),
            list(by_tasks.values()),
            label=name,
            color=colors.setdefault(client, f"C{len(colors)}"),
            linestyle="--" if backend == "asyncio" else "-",
            marker="o",
            markersize=3,
        )
    axes.set_xscale("log")
    numbers = list(next(iter(rates.values())))
    axes.set_xticks(numbers, [f"{tasks:,}" for tasks in numbers])
    axes.set_xlabel(label)
    axes.set_ylabel("requests per second")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside right center", frameon=False)


def _draw_requests(figure: Figure, outcomes: Mapping[str, Outcome]) -> None:
    """Draw how many requests were accepted and rejected over time, for each client."""
    figure.suptitle("1,000 requests at once to a server that accepts 50 per second (burst 10, Retry-After)")
    panels = figure.subplots(1, len(outcomes), sharex=True, sharey=True)
    for axes, (client, outcome) in zip(panels, outcomes.items(), strict=True):
        accepted = [at for at, is_accepted in outcome.arrivals if is_accepted]
        rejected = [at for at, is_accepted in outcome.arrivals if not is_accepted]
        _draw_total(axes, rejected, outcome.seconds, _REJECTED, "rejected")
        _draw_total(axes, accepted, outcome.seconds, _ACCEPTED, "accepted")
        axes.set_title(client)
        words = f"{len(accepted):,} accepted\n{len(rejected):,} rejected\n{outcome.failed} failed"
        axes.text(0.97, 0.45, words, transform=axes.transAxes, ha="right", va="center")
        axes.set_xlabel("seconds")
    panels[0].set_ylabel("requests so far")
    panels[0].legend(loc="upper left", frameon=False)


def _draw_total(axes: Axes, times: Iterable[float], end: float, color: str, label: str) -> None:
    bins = Counter(math.ceil(at / _BIN) for at in times)
    numbers = range(math.ceil(end / _BIN) + 1)
    totals = list(itertools.accumulate(bins[number] for number in numbers))
    axes.plot([number * _BIN for number in numbers], totals, color=color, label=label)


def _draw_flaky(figure: Figure, outcomes: Mapping[str, tuple[Outcome, Outcome]]) -> None:
    """Draw how many requests were accepted over time, with a throttle and without."""
    figure.suptitle("5,000 requests by 50 workers to a server that has no limit, but fails now and then")
    panels = figure.subplots(1, len(outcomes), sharey=True)
    for axes, (server, pair) in zip(panels, outcomes.items(), strict=True):
        for outcome, color, label in zip(pair, (_ACCEPTED, _TRUE), ("with a throttle", "without"), strict=True):
            accepted = [at for at, is_accepted in outcome.arrivals if is_accepted]
            _draw_total(axes, accepted, outcome.seconds, color, label)
        axes.lines[-1].set_linestyle("--")
        axes.set_title(server)
        axes.set_xlabel("seconds")
    panels[0].set_ylabel("requests accepted so far")
    panels[0].legend(loc="lower right", frameon=False)


def _draw_rates(figure: Figure, rates: Mapping[str, Rates]) -> None:
    """Draw the rates that were learned, and the true ones, for each server."""
    figure.suptitle("The rate that the throttle has learned, and the true one")
    panels = figure.subplots(1, len(rates), sharey=True)
    for axes, (name, samples) in zip(panels, rates.items(), strict=True):
        server = SERVERS[name]
        assert server.true_rate is not None
        times = [at for at, _ in samples]
        axes.step(times, [server.true_rate(at) for at in times], color=_TRUE, linestyle="--", label="true")
        axes.plot(times, [rate for _, rate in samples], color=_ACCEPTED, label="learned")
        axes.set_title(f"{name}: {server.title}")
        axes.set_xlabel("seconds")
        axes.set_ylim(bottom=0)
    panels[0].set_ylabel("requests per second")
    panels[0].legend(loc="lower right", frameon=False)
