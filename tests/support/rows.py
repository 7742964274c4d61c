"""Tables of cases that are one test, because pytest takes 3 ms for a test, however little the test does."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

_PARAM = type(pytest.param())


def each_row(
    names: str | Sequence[str], rows: Iterable[Any], *, ids: Iterable[str] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Call a test with each row of a table, like ``pytest.mark.parametrize``, but all within one test.

    It ends at the first row that fails; a note on the error names the row. Fixtures are the same for all rows.
    """
    arguments = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    rows = list(rows)
    cases = [_values(row, arguments) for row in rows]
    labels = [_label(row) for row in rows] if ids is None else list(ids)
    assert len(labels) == len(cases) > 0

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(test):

            @functools.wraps(test)
            async def call_async(**fixtures: Any) -> None:
                for label, values in zip(labels, cases, strict=True):
                    with _noted(label):
                        await test(**values, **fixtures)

            call: Callable[..., Any] = call_async
        else:

            @functools.wraps(test)
            def call(**fixtures: Any) -> None:
                for label, values in zip(labels, cases, strict=True):
                    with _noted(label):
                        test(**values, **fixtures)

        signature = inspect.signature(test)
        fixtures = [fixture for name, fixture in signature.parameters.items() if name not in arguments]
        assert len(fixtures) + len(arguments) == len(signature.parameters), f"{test.__name__} lacks one of {arguments}"
        call.__signature__ = signature.replace(parameters=fixtures)  # type: ignore[attr-defined]
        return call

    return decorate


def _values(row: Any, arguments: Sequence[str]) -> dict[str, object]:
    """Return the arguments of a row, which is a value, a tuple of them, or a pytest.param()."""
    if isinstance(row, _PARAM):
        assert not row.marks, "a row cannot have marks of its own"
        row = row.values if len(arguments) > 1 else row.values[0]
    return dict(zip(arguments, row if len(arguments) > 1 else [row], strict=True))


def _label(row: Any) -> str:
    return row.id if isinstance(row, _PARAM) and isinstance(row.id, str) else repr(row)


@contextmanager
def _noted(label: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"in the row {label}")
        raise
