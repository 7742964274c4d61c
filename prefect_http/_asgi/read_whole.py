"""The request extension by which a client announces that it will read the whole response before it returns it.

In a file of its own, because every client needs it, and few of them the transport for apps.
"""

from __future__ import annotations

# Its value is how many bytes the client wants of the body of an error; None: all of it.
READ_WHOLE = "prefect_http.read_whole"
