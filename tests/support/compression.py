"""Stand-ins for the packages that decode br and zstd, with their interfaces, on top of zlib; and bombs."""

from __future__ import annotations

import functools
import gzip
import math
import struct
import zlib
from types import ModuleType, SimpleNamespace
from typing import Any

MIB = 1024 * 1024


class _Stepwise:
    """zlib with a limit for its output, one member after the other."""

    def __init__(self, **_: object) -> None:
        self._zlib = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._limit_reached = False

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._limit_reached

    def decompress(self, data: bytes, max_length: int = 0) -> bytes:
        piece = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self._limit_reached = 0 < max_length == len(piece)
        return piece


class _Brotli(_Stepwise):
    def process(self, data: bytes, output_buffer_limit: int) -> bytes:
        return self.decompress(data, output_buffer_limit)

    def can_accept_more_data(self) -> bool:
        return self.needs_input

    def is_finished(self) -> bool:
        return self.eof


class _Zstandard:
    def __init__(self, max_window_size: int) -> None:
        assert max_window_size == 8 * 1024 * 1024
        self.decompressobj = _Stepwise


def _module(**names: Any) -> ModuleType:
    module = ModuleType("stand_in")
    vars(module).update(names)
    return module


STAND_INS = {
    "brotli": _module(Decompressor=_Brotli),
    "brotlicffi": _module(Decompressor=_Brotli),
    "compression.zstd": _module(
        ZstdDecompressor=_Stepwise, DecompressionParameter=SimpleNamespace(window_log_max="window_log_max")
    ),
    "zstandard": _module(ZstdDecompressor=_Zstandard),
}
STAND_INS["backports.zstd"] = STAND_INS["compression.zstd"]
# A version without a limit for its output.
OLD_BROTLI = _module(Decompressor=_Stepwise)


@functools.cache
def gzip_bomb(size: int, *, layers: int = 1) -> bytes:
    """Return a little gzip that unpacks, layer by layer, to so many zeros."""
    bomb = _gzip_of_repeated(b"", bytes(MIB), size // MIB)
    for _ in range(layers - 1):
        bomb = gzip.compress(bomb)
    return bomb


@functools.cache
def gzip_of_nothing(size: int) -> bytes:
    """Return a little gzip that unpacks to at least so many bytes of gzip that unpack to nothing."""
    empty_blocks = b"\x00\x00\x00\xff\xff" * 100_000  # stored, not the last
    head = gzip.compress(b"")[:10]
    return _gzip_of_repeated(head, empty_blocks, math.ceil(size / len(empty_blocks)))


def _gzip_of_repeated(start: bytes, part: bytes, times: int) -> bytes:
    """Compress a start and a part that follows it many times, at the cost of compressing that part once."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    # What follows a full flush does not refer to what was before it, so it can be repeated.
    first, repeated = (compressor.compress(data) + compressor.flush(zlib.Z_FULL_FLUSH) for data in (start, part))
    checksum = zlib.crc32(start)
    for _ in range(times):
        checksum = zlib.crc32(part, checksum)
    length = len(start) + len(part) * times
    header = gzip.compress(b"")[:10]
    return header + first + repeated * times + compressor.flush() + struct.pack("<LL", checksum, length)
