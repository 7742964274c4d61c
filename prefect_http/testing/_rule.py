"""Rule: which requests a script is for, and how far the script has come. Pure."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote

from prefect_http.testing._received import ReceivedRequest
from prefect_http.testing._steps import Refuse, Step

_BRACES = re.compile(r"\{([A-Za-z_]\w*)(:path)?\}")
_LOOKS_LIKE_BRACES = re.compile(r"\{[^{}]*\}")
_UNQUOTED = "".join(map(chr, range(0x20, 0x7F))).translate({ord("%"): None, ord("/"): None})


@dataclass(slots=True)
class _Repeated:
    step: Step
    times: int | None
    used: int = 0


class Rule:
    """A script, and the requests that it is for.

    Args:
        method: their method, in whatever case; None: any.
        path: their path, as in a URL, with a query or without, for any query. ``{name}`` stands for one segment,
            ``{name:path}`` for several. None: any. The parameters of the query may come in any order.

    Attributes:
        method: as given.
        path: as given.
        requests: what it was used for.
        next_step: what is to be done with the next request; None: the script has no more.
        is_refusing: whether that refuses connections.

    Raises:
        ValueError: the path does not begin with a slash, or its braces are invalid.
    """

    __slots__ = ("_literal", "_pattern", "_query", "_steps", "is_refusing", "method", "next_step", "path", "requests")

    def __init__(self, method: str | None, path: str | None) -> None:
        if path is not None and not path.startswith("/"):
            raise ValueError(f"a path must begin with a slash, not {path!r}; None stands for any path")
        self.method = None if method is None else method.upper()  # as httpx sends it
        self.path = path
        self.requests: list[ReceivedRequest] = []
        self.next_step: Step | None = None
        self.is_refusing = False
        self._steps: deque[_Repeated] = deque()
        path_only, question_mark, query = (path or "").partition("?")
        self._query = _parameters(query) if question_mark else None
        self._pattern = re.compile(_regex(path_only), re.DOTALL) if _LOOKS_LIKE_BRACES.search(path_only) else None
        self._literal = None if path is None or self._pattern is not None else normalized_path(path_only)

    def __str__(self) -> str:
        return f"{self.method or 'any method'} {self.path or 'any path'}"

    def match(self, method: str, path: str, query: str) -> dict[str, str] | None:
        """Return what the braces stand for, if the rule is for a request; else None.

        Args:
            method: the method.
            path: the path, from `normalized_path`.
            query: the query, as it is.
        """
        if self.method is not None and method != self.method:
            return None
        values: dict[str, str] = {}
        if self._pattern is not None:
            found = self._pattern.fullmatch(path)
            if found is None:
                return None
            values = {name: unquote(value) for name, value in found.groupdict().items()}
        elif self._literal is not None and path != self._literal:
            return None
        return None if self._query is not None and _parameters(query) != self._query else values

    def add(self, step: Step, times: int | None) -> None:
        """Add a step to the script.

        Args:
            step: the step.
            times: for how many requests; None: for all that follow.

        Raises:
            ValueError: ``times`` is invalid, or the step would never be reached.
        """
        if times is not None and (not isinstance(times, int) or isinstance(times, bool) or times < 1):
            raise ValueError(f"times must be None or an integer, 1 or more, not {times!r}")
        if self.endless_step is not None:
            raise ValueError(f"{self}: {self.endless_step} is for all further requests, so {step} is never reached")
        self._steps.append(_Repeated(step, times))
        self._next_changed()

    def take(self) -> None:
        """Use the next step."""
        first = self._steps[0]
        first.used += 1
        if first.used == first.times:
            self._steps.popleft()
            self._next_changed()

    def _next_changed(self) -> None:
        self.next_step = self._steps[0].step if self._steps else None
        self.is_refusing = isinstance(self.next_step, Refuse)

    @property
    def endless_step(self) -> Step | None:
        """The step for all further requests, if there is one."""
        return self._steps[-1].step if self._steps and self._steps[-1].times is None else None

    def unused(self) -> list[tuple[Step, int]]:
        """Return the steps that are left, and for how many requests each.

        A step for all further requests is none of them: it need not be used.
        """
        return [(each.step, each.times - each.used) for each in self._steps if each.times is not None]


def normalized_path(path: str) -> str:
    """Return a path with nothing percent-encoded but what has to be, so that what means the same is the same.

    An encoded slash stays encoded, since it does not separate segments.
    """
    if "%" not in path and path.isascii():
        return path
    return "/".join(quote(unquote(segment), safe=_UNQUOTED) for segment in path.split("/"))


def _parameters(query: str) -> list[tuple[str, str]]:
    """Return the parameters of a query, sorted by their names: those of the same name are in order."""
    return sorted(parse_qsl(query, keep_blank_values=True), key=lambda parameter: parameter[0])


def _regex(path: str) -> str:
    """Return a regular expression for the normalized path.

    Raises:
        ValueError: the braces are invalid.
    """
    parts: list[str] = []
    names = set[str]()
    end = 0
    for each in _LOOKS_LIKE_BRACES.finditer(path):
        found = _BRACES.fullmatch(each[0])
        if found is None:
            raise ValueError(f"the path {path!r} has {each[0]}, not {{name}} or {{name:path}}; %7B stands for a brace")
        if found[1] in names:
            raise ValueError(f"the path {path!r} has {{{found[1]}}} twice")
        names.add(found[1])
        parts.append(re.escape(normalized_path(path[end : each.start()])))
        parts.append(f"(?P<{found[1]}>{'.+' if found[2] else '[^/]+'})")
        end = each.end()
    return "".join((*parts, re.escape(normalized_path(path[end:]))))
