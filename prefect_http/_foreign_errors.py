"""Foreign errors: exceptions raised by an in-process app, or by the stream of a request body.

Whatever their type, they say nothing about the connection or the server. So they are never retried, and they take
precedence over a bad status that came before them. They reach the caller unwrapped, so their type cannot mark them.
Nor can the exception object: an app may raise an object that another transport has raised, or raises later. So the
request is marked.
"""

from __future__ import annotations

import httpx

_MARK = "prefect_http.foreign"


def mark_foreign(error: BaseException, request: httpx.Request) -> None:
    """Mark an error as foreign where it is raised by this request."""
    # By its id: a reference would make a garbage cycle, because the error refers to the request. A new dict, because
    # older versions of httpx share the caller's among requests.
    request.extensions = {**request.extensions, _MARK: id(error)}


def clear_mark(request: httpx.Request) -> None:
    """Forget a mark of an earlier ``send()``: its error may be gone, and another one have the same id."""
    request.extensions.pop(_MARK, None)


def is_foreign(error: BaseException, request: httpx.Request) -> bool:
    """Whether an error that this request has raised was marked as foreign."""
    return request.extensions.get(_MARK) == id(error)
