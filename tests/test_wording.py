"""Numbers in messages."""

from __future__ import annotations

from support.rows import each_row

from prefect_http._wording import are, counted


@each_row(
    ("number", "shown"),
    [(0, "0 bytes are missing"), (1, "1 byte is missing"), (2, "2 bytes are missing"), (21, "21 bytes are missing")],
)
def test_singular_and_plural(number: int, shown: str) -> None:
    """The noun and the verb go with the number."""
    assert f"{counted(number, 'byte')} {are(number)} missing" == shown
