"""Decoding a body (``Content-Encoding``, RFC 9110 section 8.4) in steps that are bounded in memory and time. Pure.

httpx decodes whatever has arrived in one step, however much it unpacks to: 4 KiB of gzip in gzip make gigabytes. Here
a step makes 64 KiB with zlib, brotli and Python's zstd, and a few MiB at most with the package zstandard, which has no
limit of its own. An encoding that is unknown, or whose package is not installed, is passed over, as by httpx.

Also as by httpx, gzip has one member, and only zstd must have its end. For a file that is not good enough, so a
download asks for more: for all members, for what `undecodable()` says, and for `is_incomplete`.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Protocol

import httpx

_STEP = 64 * 1024
# More than one is rare, and each keeps its state.
_MAX_ENCODINGS = 5
_ZLIB_HEADER = 2
_GZIP = zlib.MAX_WBITS | 16
_GZIP_MAGIC = b"\x1f\x8b"
_PACKAGES = {"br": "brotli>=1.2", "zstd": "zstandard"}
# RFC 9659: what a decoder of HTTP must support, and need not exceed.
_ZSTD_WINDOW_LOG = 23
# A block of zstd takes at least 4 bytes, and makes 128 KiB at most: 4 MiB per slice.
_ZSTD_SLICE = 128


class ContentDecoder:
    """Decodes a body in bounded steps.

    Args:
        encodings: the value of ``Content-Encoding``.
        needs_limit: False: a brotli without a limit for its output will do.
        for_file: whether gzip may have several members (RFC 1952 section 2.2), and be called x-gzip (RFC 9110 section
            8.4.1.3). httpx decodes the first member, and passes over the other name.

    Attributes:
        is_identity: whether there is nothing to decode.
        intermediate: how many bytes have been unpacked only to be decoded once more.

    Raises:
        httpx.DecodingError: there are too many encodings, or one that the installed package cannot decode in steps.
    """

    def __init__(self, encodings: str, *, needs_limit: bool = True, for_file: bool = False) -> None:
        found = [
            decoder
            for name in reversed(_names(encodings))
            if (decoder := _decoder(name, needs_limit=needs_limit, for_file=for_file)) is not None
        ]
        if len(found) > _MAX_ENCODINGS:
            raise httpx.DecodingError(f"the body has {len(found)} encodings, more than the limit of {_MAX_ENCODINGS}")
        self._decoders = found
        self.is_identity = not found
        self.intermediate = 0

    @property
    def is_incomplete(self) -> bool:
        """Whether the data so far lacks its end. Without any data, it does not."""
        return any(decoder.is_incomplete for decoder in self._decoders)

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Yield what the data decodes to, in pieces. Some are empty: each is made in one step.

        Raises:
            httpx.DecodingError: the data does not match the encoding.
        """
        return self._decode(data, 0)

    def end(self) -> None:
        """Note that the body has ended.

        Raises:
            httpx.DecodingError: a frame of zstd lacks its end. gzip, deflate and br may end anywhere, as in httpx.
        """
        if any(decoder.is_incomplete and not decoder.may_lack_end for decoder in self._decoders):
            raise httpx.DecodingError("the body ends before its encoding does")

    def _decode(self, data: bytes, number: int) -> Iterator[bytes]:
        if number == len(self._decoders):
            yield data
            return
        if number:
            self.intermediate += len(data)
        for start in range(0, len(data), _STEP):
            is_ignored = True
            for piece in self._steps(data[start : start + _STEP], number):
                is_ignored = False
                if piece:
                    yield from self._decode(piece, number + 1)
                else:
                    yield b""
            if is_ignored:  # data after the end, of which there may be any amount
                yield b""

    def _steps(self, data: bytes, number: int) -> Iterator[bytes]:
        try:
            yield from self._decoders[number].decode(data)
        except Exception as error:  # each package has its own
            raise httpx.DecodingError(str(error)) from error


def undecodable(encodings: str) -> str | None:
    """Return the first encoding of a file that is unknown, or whose package is not installed; None if there is none.

    Args:
        encodings: the value of ``Content-Encoding``.
    """
    for name in _names(encodings):
        if name not in ("", "identity") and _decoder(name, needs_limit=False, for_file=True) is None:
            return name
    return None


def package_for(encoding: str) -> str | None:
    """Return the package that decodes an encoding, as pip takes it; None if there is none, or none is needed."""
    return _PACKAGES.get(encoding)


def _names(encodings: str) -> list[str]:
    return [name.strip().lower() for name in encodings.split(",")]


class _Decoder(Protocol):
    """Decodes one encoding.

    Attributes:
        is_incomplete: whether the end is missing, or that of a frame or a member.
        may_lack_end: whether httpx takes it without its end.
    """

    is_incomplete: bool = False
    may_lack_end: bool = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Yield what the data decodes to, each piece made in one step."""
        ...


class _ZlibDecoder(_Decoder):
    """One member of gzip, or deflate, which some servers send without the header of zlib."""

    may_lack_end = True

    def __init__(self, wbits: int, other_wbits: int | None = None) -> None:
        self._zlib = zlib.decompressobj(wbits)
        self._other_wbits = other_wbits
        self._beginning = b""

    def decode(self, data: bytes) -> Iterator[bytes]:
        piece = b""
        while (data or len(piece) == _STEP) and not self._zlib.eof:
            piece = self._decompress(data)
            data = self._zlib.unconsumed_tail
            self.is_incomplete = not self._zlib.eof
            yield piece

    @property
    def rest(self) -> bytes:
        """What followed the end, in the data with the end."""
        return self._zlib.unused_data

    def _decompress(self, data: bytes) -> bytes:
        if self._other_wbits is None:
            return self._zlib.decompress(data, _STEP)
        self._beginning += data
        try:
            piece = self._zlib.decompress(data, _STEP)
        except zlib.error:
            self._zlib = zlib.decompressobj(self._other_wbits)
            piece = self._zlib.decompress(self._beginning, _STEP)
        if len(self._beginning) >= _ZLIB_HEADER:
            self._other_wbits, self._beginning = None, b""
        return piece


class _MembersDecoder(_Decoder):
    """gzip with any number of members (RFC 1952 section 2.2). What follows them is ignored."""

    may_lack_end = True

    def __init__(self) -> None:
        self._member = _ZlibDecoder(_GZIP)
        self._beginning: bytes | None = None  # of what follows a member

    def decode(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._beginning is not None:
                data = self._beginning + data
                if not data.startswith(_GZIP_MAGIC):
                    self._beginning = data[: len(_GZIP_MAGIC)]
                    self.is_incomplete = self._beginning == _GZIP_MAGIC[:1]
                    return
                self._member, self._beginning = _ZlibDecoder(_GZIP), None
            yield from self._member.decode(data)
            self.is_incomplete = self._member.is_incomplete
            if self.is_incomplete:
                return
            data, self._beginning = self._member.rest, b""


class _BrotliDecoder(_Decoder):
    """br, with the packages brotli or brotlicffi; in bounded steps since 1.2."""

    may_lack_end = True

    def __init__(self, package: Any, *, needs_limit: bool) -> None:
        self._brotli = package.Decompressor()
        self._has_limit = hasattr(self._brotli, "can_accept_more_data")
        if needs_limit and not self._has_limit:
            raise httpx.DecodingError("the installed version of brotli has no limit for its output; 1.2 has one")

    def decode(self, data: bytes) -> Iterator[bytes]:
        if not self._has_limit:
            yield self._brotli.process(data)
            return
        size = 0
        # It also "can accept more data" when it has stopped at the limit, and would then mix up the two.
        while not self._brotli.is_finished() and (data or size >= _STEP or not self._brotli.can_accept_more_data()):
            piece = self._brotli.process(data, output_buffer_limit=_STEP)
            data, size = b"", len(piece)
            self.is_incomplete = not self._brotli.is_finished()
            yield piece


class _ZstdDecoder(_Decoder):
    """zstd, with the module of Python 3.14 or its backport."""

    def __init__(self, package: Any) -> None:
        options = {package.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
        self._new: Callable[[], Any] = lambda: package.ZstdDecompressor(options=options)
        self._zstd = self._new()

    def decode(self, data: bytes) -> Iterator[bytes]:
        while True:
            piece, data = self._zstd.decompress(data, _STEP), b""
            self.is_incomplete = not self._zstd.eof
            yield piece
            if self._zstd.eof:
                data = self._zstd.unused_data
                self._zstd = self._new()
            if not data and self._zstd.needs_input:
                return


class _SlicedZstdDecoder(_Decoder):
    """zstd, with the package zstandard."""

    def __init__(self, package: Any) -> None:
        self._new: Callable[[], Any] = package.ZstdDecompressor(max_window_size=1 << _ZSTD_WINDOW_LOG).decompressobj
        self._zstd = self._new()

    def decode(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _ZSTD_SLICE):
            rest = data[start : start + _ZSTD_SLICE]
            while rest:
                piece = self._zstd.decompress(rest)
                self.is_incomplete = not self._zstd.eof
                yield piece
                rest = self._zstd.unused_data
                if self._zstd.eof:
                    self._zstd = self._new()


def _decoder(encoding: str, *, needs_limit: bool, for_file: bool) -> _Decoder | None:
    """Return a decoder; None if the encoding is to be passed over."""
    if for_file and encoding in ("gzip", "x-gzip"):
        return _MembersDecoder()
    if encoding == "gzip":
        return _ZlibDecoder(_GZIP)
    if encoding == "deflate":
        return _ZlibDecoder(zlib.MAX_WBITS, -zlib.MAX_WBITS)
    if encoding == "br" and (package := _first_of("brotli", "brotlicffi")):
        return _BrotliDecoder(package, needs_limit=needs_limit)
    if encoding == "zstd":
        if package := _first_of("compression.zstd", "backports.zstd"):
            return _ZstdDecoder(package)
        if package := _first_of("zstandard"):
            return _SlicedZstdDecoder(package)
    return None


def _first_of(*names: str) -> ModuleType | None:
    """Return the first module that is installed."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None
