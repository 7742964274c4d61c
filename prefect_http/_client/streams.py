"""What a client does beyond single requests: events, downloads, many requests at once."""

from __future__ import annotations

from prefect_http._client.verbs import VerbsWithRetry


class ClientWithStreams(VerbsWithRetry):
    """A client with ``sse()``, ``download()`` and ``send_many()``; what they do is in ``_streams``."""
