"""What a server does with requests: its limits and faults, its rules, its app."""

from __future__ import annotations

import functools
from typing import NamedTuple

import httpx

from prefect_http._redact import safe_exception
from prefect_http.testing._errors import UnexpectedRequest
from prefect_http.testing._faults import Fault
from prefect_http.testing._limits import Limit
from prefect_http.testing._log import Log
from prefect_http.testing._operations import Fields
from prefect_http.testing._rate_limit_headers import HeaderStyle, limit_headers
from prefect_http.testing._received import ReceivedRequest
from prefect_http.testing._reply import Reply
from prefect_http.testing._rule import Rule, normalized_path
from prefect_http.testing._steps import ReplyStep, ResetStep, Step
from prefect_http.testing._verdicts import no_rule

# How many targets of requests are remembered.
_MAX_TARGETS = 256


class Limited(NamedTuple):
    """A limit of a server.

    Attributes:
        limit: what it admits.
        status: the status of its rejections.
        styles: what its headers say.
    """

    limit: Limit
    status: int
    styles: tuple[HeaderStyle, ...]

    def fields(self, now: float, *, is_rejection: bool) -> Fields:
        """Return the header fields of a response."""
        headers = limit_headers(self.styles, self.limit, now, is_rejection=is_rejection)
        return tuple((name.encode("ascii"), value.encode("ascii")) for name, value in headers)


class ServerScript:
    """What a server does with requests.

    Args:
        url: where it is. Its path is where the paths of the rules begin.
        log: keeps what happens.
        accepts_http2: whether it chooses HTTP/2 if a client offers that.

    Attributes:
        url: as given.
        accepts_http2: as given.
        rules: the rules, in the order in which they are tried. Those for any path come last.
        limits: its limits.
        faults: what requests fail by, whatever they are for.
        app: what serves the requests that no rule is for; None: nothing does.
    """

    def __init__(self, url: httpx.URL, log: Log, *, accepts_http2: bool) -> None:
        self.url = url
        self.accepts_http2 = accepts_http2
        self.rules: list[Rule] = []
        self.limits: list[Limited] = []
        self.faults: list[Fault] = []
        self.app: Step | None = None
        self._log = log
        self._prefix = normalized_path(url.raw_path.decode("ascii")).rstrip("/")
        self._admitted: dict[ReceivedRequest, list[Limit]] = {}

    def rule(self, method: str | None, path: str | None) -> Rule:
        """Return the rule for a method and a path; a new one, or the one that there is."""
        new = Rule(method, path)
        for rule in self.rules:
            if (rule.method, rule.path) == (new.method, path):
                return rule
        self.rules.append(new)
        self.rules.sort(key=lambda rule: rule.path is None)
        return new

    def refuses(self, now: float) -> bool:
        """Return whether a connection is refused now."""
        if any(fault.status is None and fault.strikes(now) for fault in self.faults):
            return True
        for rule in self.rules:
            if rule.is_refusing:
                rule.take()
                return True
        return False

    def is_down(self) -> bool:
        """Return whether the next step of a script refuses connections."""
        for rule in self.rules:  # noqa: SIM110  (twice for each request, and any() takes five times as long)
            if rule.is_refusing:
                return True
        return False

    def begin(self, request: ReceivedRequest) -> tuple[Step, Fields]:
        """Return what is to be done with a request whose head has arrived, and the fields to add to the answer.

        Raises:
            UnexpectedRequest: nothing is.
        """
        self._log.requests.append(request)
        now = request.time
        for fault in self.faults:
            if fault.strikes(now):
                return ResetStep() if fault.status is None else ReplyStep(Reply(fault.status)), ()
        fields: Fields = ()
        for limited in self.limits:
            if not limited.limit.admit(now):
                return ReplyStep(Reply(limited.status)), limited.fields(now, is_rejection=True)
            self._admitted.setdefault(request, []).append(limited.limit)
            fields += limited.fields(now, is_rejection=False)
        return self._step_for(request), fields

    def ended(self, request: ReceivedRequest, now: float) -> None:
        """Take note that the answer to a request has ended, whole or not."""
        request.ended_at = now
        for limit in self._admitted.pop(request, ()):
            limit.release(now)

    def failed(self, error: Exception) -> None:
        """Take note of a mistake in the test."""
        # Without the tables, which come with the verdict.
        is_told = isinstance(error, UnexpectedRequest)
        self._log.mistakes.append(str(error).partition("\n")[0] if is_told else safe_exception(error))

    def _step_for(self, request: ReceivedRequest) -> Step:
        target = request.target
        if not target.startswith("/"):  # a URL, as to a proxy
            target = request.url.raw_path.decode("ascii")
        path, query = _path_and_query(target, self._prefix)
        method = request.method
        for rule in self.rules:
            step = rule.next_step
            if step is not None and (values := rule.match(method, path, query)) is not None:
                request.path_parameters = values
                rule.requests.append(request)
                if not rule.is_refusing:  # which counts the connections that are refused
                    rule.take()
                return step
        if self.app is not None:
            return self.app
        raise UnexpectedRequest(no_rule(request, f"{path}?{query}" if query else path, self, self._log.requests))


@functools.lru_cache(_MAX_TARGETS)
def _path_and_query(target: str, prefix: str) -> tuple[str, str]:
    """Return the normalized path of a target, below a prefix, and its query. The path is empty if it is not below."""
    path, _, query = target.partition("?")
    path = normalized_path(path)
    if prefix:
        path = path.removeprefix(prefix) if path.startswith(prefix + "/") else ""
    return path, query
