"""Foreign errors: exceptions raised by an in-process app, or by the stream of a request body.

Whatever their type, they say nothing about the connection or the server. So they are never retried, and they take
precedence over a bad status that came before them. They reach the caller unwrapped, so their type cannot mark them.
"""

from __future__ import annotations

_MARK = "prefect_http: foreign"


def mark_foreign(error: BaseException) -> BaseException:
    """Mark an error as foreign, and return it."""
    error.__dict__[_MARK] = True  # not by setattr(), because some exceptions are frozen
    return error


def is_foreign(error: BaseException) -> bool:
    """Whether an error has been marked as foreign."""
    return _MARK in error.__dict__
