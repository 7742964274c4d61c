"""Errors that are not the wire's: what an in-process app raised, and what the caller's own request body did.

Whatever their type, they say nothing about the connection or the server, so they are never retried, and never give way
to a bad status that came before them. They reach the caller plain, so they cannot be told by a type of ours.
"""

from __future__ import annotations

_MARK = "prefect_http: not the wire's"


def mark_foreign(error: BaseException) -> BaseException:
    """Mark an error as one that is not the wire's."""
    error.__dict__[_MARK] = True  # not setattr: some exceptions are frozen
    return error


def is_foreign(error: BaseException) -> bool:
    """Say whether an error has been marked as one that is not the wire's."""
    return _MARK in error.__dict__
