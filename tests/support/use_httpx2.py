"""A pytest plugin that puts httpx2 in the place of httpx, as an application would: ``pytest -p support.use_httpx2``."""

from __future__ import annotations

import httpx2

httpx2.alias_httpx()
