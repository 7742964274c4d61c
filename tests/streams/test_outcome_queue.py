"""In which order outcomes are taken."""

from __future__ import annotations

import itertools

from support.rows import each_row

from prefect_http._streams.outcome_queue import CompletionOrder, OutcomeQueue, RequestOrder


def taken(queue: OutcomeQueue[str]) -> str:
    """Take all that can be taken."""
    letters = ""
    while queue.is_ready():
        letters += queue.take()
    return letters


@each_row("order", itertools.permutations(range(4)))
def test_order(order: tuple[int, ...]) -> None:
    """Outcomes are taken as they are put, or in the order of the requests, each as soon as those before it are."""
    by_completion, by_request = CompletionOrder[str](), RequestOrder[str]()
    in_order = ""
    for count, number in enumerate(order, 1):
        letter = "abcd"[number]
        by_completion.put(number, letter)
        assert taken(by_completion) == letter
        by_request.put(number, letter)
        in_order += taken(by_request)
        complete = next(end for end in range(5) if end not in order[:count])
        assert in_order == "abcd"[:complete]
