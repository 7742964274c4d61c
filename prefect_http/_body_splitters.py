"""Cutting a decoded body into pieces of a size, into text, or into lines, as httpx does. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from typing import AnyStr, Generic, Protocol, TypeVar

Piece = TypeVar("Piece", bound=bytes | str, covariant=True)


class Splitter(Protocol[Piece]):
    """Cuts a body that arrives in parts of any size. No piece is empty, but for lines."""

    def feed(self, data: bytes) -> Sequence[Piece]:
        """Return the pieces that the next part of the body completes."""
        ...

    def end(self) -> Sequence[Piece]:
        """Return what is left at the end of the body."""
        ...


class BytesSplitter:
    """Cuts a body into pieces of bytes.

    Args:
        size: of each piece but the last, in bytes, 1 or more; None: as the body arrives.
    """

    def __init__(self, size: int | None) -> None:
        self._pieces = _Pieces(size, b"".join)

    def feed(self, data: bytes) -> Sequence[bytes]:
        """Return the pieces that the next part of the body completes."""
        return self._pieces.feed(data)

    def end(self) -> Sequence[bytes]:
        """Return what is left at the end of the body."""
        return self._pieces.end()


class TextSplitter:
    """Cuts a body into pieces of text. What cannot be decoded is replaced.

    Args:
        encoding: of the text.
        size: of each piece but the last, in characters, 1 or more; None: as the body arrives.
    """

    def __init__(self, encoding: str, size: int | None) -> None:
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        self._pieces = _Pieces(size, "".join)

    def feed(self, data: bytes) -> Sequence[str]:
        """Return the pieces that the next part of the body completes."""
        return self._pieces.feed(self._decoder.decode(data))

    def end(self) -> Sequence[str]:
        """Return what is left at the end of the body."""
        return [*self._pieces.feed(self._decoder.decode(b"", final=True)), *self._pieces.end()]


class LineSplitter:
    """Cuts a body into lines without their ends, which are those of ``str.splitlines()``.

    Args:
        encoding: of the text.
    """

    def __init__(self, encoding: str) -> None:
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        self._line: list[str] = []  # the parts of the line that has not ended
        self._is_after_cr = False  # a carriage return came last: alone, or the first half of a line's end

    def feed(self, data: bytes) -> Sequence[str]:
        """Return the lines that the next part of the body completes."""
        return self._split(self._decoder.decode(data))

    def end(self) -> Sequence[str]:
        """Return the last line, if it has no end."""
        lines = self._split(self._decoder.decode(b"", final=True))
        if self._line or self._is_after_cr:
            lines.append("".join(self._line))
        return lines

    def _split(self, text: str) -> list[str]:
        if not text:
            return []
        if self._is_after_cr:
            text = "\r" + text
        self._is_after_cr = text.endswith("\r")
        if self._is_after_cr and not (text := text[:-1]):
            return []
        lines = text.splitlines()
        unfinished = None if text[-1].splitlines() == [""] else lines.pop()
        if lines:
            lines[0] = "".join(self._line) + lines[0]
            self._line = []
        if unfinished is not None:
            self._line.append(unfinished)
        return lines


def check_size(size: int | None) -> None:
    """Check the size of pieces.

    Raises:
        ValueError: it is less than 1.
    """
    if size is not None and size < 1:
        raise ValueError(f"chunk_size must be 1 or more, or None, not {size}")


class _Pieces(Generic[AnyStr]):
    """Joins parts into pieces of a given size."""

    def __init__(self, size: int | None, join: Callable[[list[AnyStr]], AnyStr]) -> None:
        self._size = size
        self._join: Callable[[list[AnyStr]], AnyStr] = join
        self._parts: list[AnyStr] = []
        self._length = 0

    def feed(self, part: AnyStr) -> Sequence[AnyStr]:
        if self._size is None:
            return [part] if part else []
        self._parts.append(part)
        self._length += len(part)
        if self._length < self._size:
            return []
        whole = self._join(self._parts)
        self._length = len(whole) % self._size
        end = len(whole) - self._length
        self._parts = [whole[end:]]
        return [whole[start : start + self._size] for start in range(0, end, self._size)]

    def end(self) -> Sequence[AnyStr]:
        rest = self._join(self._parts)
        return [rest] if rest else []
