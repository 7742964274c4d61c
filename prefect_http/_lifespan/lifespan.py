"""Lifespan: what entering an app's lifespan returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefect_http._types import ASGIApp


@dataclass(frozen=True, slots=True, eq=False)
class Lifespan:
    """An app whose startup is complete.

    Attributes:
        app: the app.
        state: what the app's startup put into ``scope["state"]``; the same dict for all that hold the app.
        supported: whether the app supports the lifespan protocol; also False with ``mode="off"``.
    """

    app: ASGIApp
    state: dict[str, Any]
    supported: bool
