"""FakeServer: a scripted server of a FakeNetwork, as users see it."""

from __future__ import annotations

from collections.abc import Sequence

from prefect_http._redact import safe_url
from prefect_http.testing._arguments import check_status
from prefect_http.testing._faults import Fault
from prefect_http.testing._limits import Limit
from prefect_http.testing._rate_limit_headers import HeaderStyle, header_styles
from prefect_http.testing._route import Route, new_route
from prefect_http.testing._server_script import Limited, ServerScript


class FakeServer:
    """A scripted server. Created by ``FakeNetwork.serve()``.

    ``get()`` and the other methods return the Route whose script answers such requests; for the same path, they return
    the same route. A path is that of the URL, below the path of the server's own URL, percent-encoded or not. With a
    query, it matches those parameters, in any order; without one, any query. ``{name}`` in it matches one segment, and
    ``{name:path}`` several; the values are in the request's ``path_parameters``.

    If several routes match a request, the first of them that has a step left is used; those for any path come last.
    """

    _script: ServerScript

    def __repr__(self) -> str:
        return f"<FakeServer({safe_url(self._script.url)})>"

    def get(self, path: str) -> Route:
        """Return the route for GET requests for a path."""
        return self.route("GET", path)

    def head(self, path: str) -> Route:
        """Return the route for HEAD requests for a path."""
        return self.route("HEAD", path)

    def options(self, path: str) -> Route:
        """Return the route for OPTIONS requests for a path."""
        return self.route("OPTIONS", path)

    def post(self, path: str) -> Route:
        """Return the route for POST requests to a path."""
        return self.route("POST", path)

    def put(self, path: str) -> Route:
        """Return the route for PUT requests to a path."""
        return self.route("PUT", path)

    def patch(self, path: str) -> Route:
        """Return the route for PATCH requests to a path."""
        return self.route("PATCH", path)

    def delete(self, path: str) -> Route:
        """Return the route for DELETE requests for a path."""
        return self.route("DELETE", path)

    def any(self, path: str | None = None) -> Route:
        """Return the route for all methods, for a path or for any path."""
        return self.route(None, path)

    def route(self, method: str | None, path: str | None) -> Route:
        """Return the route for a method and a path; None: any.

        Raises:
            ValueError: the path does not begin with a slash, or its braces are invalid.
        """
        return new_route(self._script.rule(method, path))

    def limit(
        self,
        limit: Limit,
        *,
        status: int = 429,
        headers: HeaderStyle | Sequence[HeaderStyle] | None = "retry-after",
    ) -> FakeServer:
        """Limit the rate of requests. Rejected requests do not use a step of a script.

        Args:
            limit: what is admitted, such as a TokenBucket. Several servers may share one; each must admit a request.
            status: the status of rejections.
            headers: how the responses announce the limit: ``"retry-after"`` (rejections only), ``"ratelimit"``,
                ``"ratelimit-legacy"``, ``"x-ratelimit"``, several of these, or None: nothing.

        Returns:
            The server.

        Raises:
            TypeError: ``limit`` does not have the methods of a Limit.
            ValueError: ``status`` or ``headers`` is invalid.
        """
        _check_methods("limit", limit, ("admit", "release", "free_at", "left"), "TokenBucket(10)")
        check_status(status)
        self._script.limits.append(Limited(limit, status, header_styles(headers)))
        return self

    def fault(self, fault: Fault) -> FakeServer:
        """Let some requests fail, with Flaky or Restarts. They do not use a step of a script, or count towards a limit.

        Returns:
            The server.

        Raises:
            TypeError: ``fault`` does not have the methods of a Fault.
        """
        _check_methods("fault", fault, ("strikes",), "Flaky(0.1)")
        self._script.faults.append(fault)
        return self


def new_server(script: ServerScript) -> FakeServer:
    """Return the server that does what a script says."""
    server = FakeServer()
    server._script = script  # pyright: ignore[reportPrivateUsage]
    return server


def _check_methods(name: str, value: object, methods: Sequence[str], example: str) -> None:
    """Raise a TypeError unless a value is an object with these methods."""
    if isinstance(value, type) or not all(callable(getattr(value, method, None)) for method in methods):
        raise TypeError(f"{name}() takes an object such as {example}, not {value!r}")
