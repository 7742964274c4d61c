"""Verdicts: what came and what was expected, as tables. Pure."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Protocol

import httpx

from prefect_http._redact import one_line, safe_url
from prefect_http.testing._received import ReceivedRequest
from prefect_http.testing._rule import Rule

# The most rows of a table. The last ones tell most.
_MAX_ROWS = 20
_MAX_BODY = 60


class ServerRules(Protocol):
    """A server's rules."""

    @property
    def url(self) -> httpx.URL: ...
    @property
    def rules(self) -> Sequence[Rule]: ...


def no_rule(request: ReceivedRequest, path: str, server: ServerRules, requests: Sequence[ReceivedRequest]) -> str:
    """Return what to say of a request that no rule is for, or whose rule has no more steps.

    Args:
        request: the request.
        path: its path, below that of the server's URL, and its query.
        server: the server at which it has arrived.
        requests: all that has arrived, the request included.
    """
    its_own = [rule for rule in server.rules if _is_for(rule, request.method, path)]
    used_up = [rule for rule in its_own if rule.requests]
    if used_up:
        reason = f"the script of {used_up[0]} was for {_requests(len(used_up[0].requests))} and is used up"
    elif its_own:
        reason = f"the script of {its_own[0]} has no steps; add one, such as reply()"
    elif not path.startswith("/"):
        reason = f"the server's rules are for paths below {safe_url(server.url)}"
    elif server.rules:
        nearest = max(server.rules, key=lambda rule: _likeness(rule, request.method, path))
        reason = f"no rule is for it; the nearest is {nearest}, {_difference(nearest, request.method, path)}"
    else:
        reason = "the server has no rules"
    return "\n".join(
        (
            f"unexpected request: {request.method} {safe_url(request.url)}: {reason}",
            *_section("rules of " + safe_url(server.url), map(_rule_row, server.rules)),
            *_section("requests", map(_request_row, requests[-_MAX_ROWS:]), len(requests)),
        )
    )


def left_over(
    servers: Iterable[ServerRules], mistakes: Sequence[str], requests: Sequence[ReceivedRequest]
) -> str | None:
    """Return what to say at the end; None: all has come that was expected, and nothing else.

    Args:
        servers: the servers.
        mistakes: what went wrong in the test.
        requests: all that has arrived.
    """
    unused = [
        (server.url, rule, step, times) for server in servers for rule in server.rules for step, times in rule.unused()
    ]
    if not unused and not mistakes:
        return None
    rows = [(str(rule), str(step), _requests(times), safe_url(url)) for url, rule, step, times in unused]
    return "\n".join(
        (
            *mistakes,
            *_section("scripted, and never used", rows),
            *_section("requests", map(_request_row, requests[-_MAX_ROWS:]), len(requests)),
        )
    )


def pauses(requests: Sequence[ReceivedRequest]) -> list[float]:
    """Return the pauses between requests: from the end of each answer, or else from the request, to the next one."""
    ends = [request.time if request.ended_at is None else request.ended_at for request in requests]
    return [after.time - end for end, after in zip(ends, requests[1:], strict=False)]


def wrong_waits(
    waits: Sequence[float], expected: Sequence[float | tuple[float, float]], requests: Sequence[ReceivedRequest]
) -> str:
    """Return what to say of pauses that are not those that were expected."""
    rows: list[Sequence[str]] = []
    number = max(len(waits), len(expected))
    for index in range(min(number, _MAX_ROWS)):
        wait = f"{waits[index]:.3f} s" if index < len(waits) else "none"
        rows.append((wait, _range(expected[index]) if index < len(expected) else "none"))
    return "\n".join(
        (
            f"the pauses between {_requests(len(requests))} are not those that were expected",
            *_section("pauses", [("was", "expected"), *rows]),
            *([f"  ... {number - _MAX_ROWS} after these"] if number > _MAX_ROWS else []),
            *_section("requests", map(_request_row, requests[-_MAX_ROWS:]), len(requests)),
        )
    )


def wrong_order(expected: Sequence[str], requests: Sequence[ReceivedRequest]) -> str:
    """Return what to say of requests that have not arrived in the order that was expected."""
    return "\n".join(
        (
            "the requests did not arrive in this order: " + ", ".join(expected),
            *_section("requests", map(_request_row, requests[-_MAX_ROWS:]), len(requests)),
        )
    )


def _section(title: str, rows: Iterable[Sequence[str]], total: int | None = None) -> list[str]:
    """Return the lines of a table, the columns of which are aligned."""
    cells = [list(row) for row in rows]
    if not cells:
        return [f"{title}: none"]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
    dropped = 0 if total is None else total - len(cells)
    return [f"{title}:", *([f"  ... {dropped} before these"] if dropped > 0 else []), *lines]


def _rule_row(rule: Rule) -> Sequence[str]:
    left = [f"{step}{'' if times == 1 else f' {times} times'}" for step, times in rule.unused()]
    if rule.endless_step is not None:
        left.append(f"{rule.endless_step} for all further requests")
    used = f"used {_times(len(rule.requests))}"
    return rule.method or "any", rule.path or "any path", used, "left: " + (", ".join(left) or "nothing")


def _request_row(request: ReceivedRequest) -> Sequence[str]:
    body = one_line(request.body[: 4 * _MAX_BODY].decode("utf-8", "replace"), limit=_MAX_BODY)
    return (
        f"{request.time:.3f} s",
        request.method,
        safe_url(request.url),
        "no answer" if request.status is None else str(request.status),
        f"connection {request.connection.number}",
        body,
    )


def _is_for(rule: Rule, method: str, path: str) -> bool:
    path_only, _, query = path.partition("?")
    return rule.match(method, path_only, query) is not None


def _likeness(rule: Rule, method: str, path: str) -> float:
    likeness = difflib.SequenceMatcher(None, rule.path or path, path).ratio()
    return likeness + (0.3 if rule.method in (None, method) else 0.0)


def _difference(rule: Rule, method: str, path: str) -> str:
    if rule.method not in (None, method):
        is_same_path = rule.match(rule.method or method, *_parts(path)) is not None
        return "which is for another method" if is_same_path else "which is for another method and path"
    path_only, query = _parts(path)
    its_path, question_mark, _ = (rule.path or "").partition("?")
    if question_mark and Rule(None, its_path).match(method, path_only, query) is not None:
        return f"which is for another query, not {query or 'none'}"
    return "which is for another path"


def _parts(path: str) -> tuple[str, str]:
    path_only, _, query = path.partition("?")
    return path_only, query


def _requests(number: int) -> str:
    return f"{number} request{'' if number == 1 else 's'}"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _range(expected: float | tuple[float, float]) -> str:
    if isinstance(expected, tuple):
        least, most = expected
        return f"{least:g} s or more" if most == math.inf else f"{least:g} to {most:g} s"
    return f"{expected:g} s"
