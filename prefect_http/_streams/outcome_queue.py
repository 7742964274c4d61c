"""The outcomes that are to be taken: as requests end, or in the order of the requests. Pure."""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class OutcomeQueue(Protocol[T]):
    """Outcomes on their way to the one that takes them."""

    def put(self, number: int, outcome: T) -> None:
        """Add the outcome of a request; requests are numbered from 0."""

    def is_ready(self) -> bool:
        """Return whether there is an outcome to take."""
        ...

    def take(self) -> T:
        """Remove the next outcome and return it; there must be one."""
        ...


class CompletionOrder(Generic[T]):
    """Outcomes in the order in which they are put."""

    def __init__(self) -> None:
        self._outcomes: deque[T] = deque()

    def put(self, number: int, outcome: T) -> None:
        """Add the outcome of a request."""
        self._outcomes.append(outcome)

    def is_ready(self) -> bool:
        """Return whether there is an outcome to take."""
        return bool(self._outcomes)

    def take(self) -> T:
        """Remove the first outcome and return it."""
        return self._outcomes.popleft()


class RequestOrder(Generic[T]):
    """Outcomes in the order of the requests."""

    def __init__(self) -> None:
        self._outcomes: dict[int, T] = {}
        self._next = 0

    def put(self, number: int, outcome: T) -> None:
        """Add the outcome of a request."""
        self._outcomes[number] = outcome

    def is_ready(self) -> bool:
        """Return whether the outcome of the next request is there."""
        return self._next in self._outcomes

    def take(self) -> T:
        """Remove the outcome of the next request and return it."""
        outcome = self._outcomes.pop(self._next)
        self._next += 1
        return outcome
