"""Bytes in random pieces."""

from __future__ import annotations

import random


def cut(source: random.Random, data: bytes) -> list[bytes]:
    """Return the data in random pieces."""
    pieces: list[bytes] = []
    while data:
        size = source.choice((1, 2, 3, 5, 9, 20, 1_000, 100_000))
        pieces.append(data[:size])
        data = data[size:]
    return pieces
