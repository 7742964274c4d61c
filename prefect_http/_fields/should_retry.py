"""Whether a response asks for a retry: ``x-should-retry: false``, as OpenAI and Anthropic send it. Pure."""

from __future__ import annotations


def parse_should_retry(value: str | None) -> bool | None:
    """Parse an ``x-should-retry`` field; None if it is absent or malformed. Of several values, "false" wins."""
    values = {member.strip().lower() for member in (value or "").split(",")}
    return "false" not in values if values and values <= {"true", "false"} else None
