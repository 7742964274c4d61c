"""Decoding in bounded steps: with zlib, with stand-ins for the packages, and with those where they are installed."""

from __future__ import annotations

import gzip
import importlib
import random
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterable
from types import ModuleType

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.compression import OLD_BROTLI, STAND_INS, gzip_bomb, gzip_of_nothing
from support.rows import each_row

from prefect_http._content_encoding import ContentDecoder, package_for, undecodable

KIB, MIB = 1024, 1024 * 1024
STEP = 64 * KIB
PACKAGES = {"br": ("brotli", "brotlicffi"), "zstd": ("compression.zstd", "backports.zstd", "zstandard")}
TEXTS = {
    "nothing": b"",
    "short": b"told in short",
    "long": b" ".join(b"line %d" % number for number in range(30_000)),
    "zeros": bytes(MIB),
    "random": random.Random(1).randbytes(300_000),
    "a step": bytes(STEP),
}


def raw_deflate(content: bytes) -> bytes:
    """Compress without the header of zlib, as some servers do."""
    return zlib.compress(content)[2:-4]


def decoded(encodings: str, chunks: Iterable[bytes]) -> bytes:
    """Return what a body decodes to."""
    decoder = ContentDecoder(encodings)
    return b"".join(piece for chunk in chunks for piece in decoder.decode(chunk))


def in_pieces(data: bytes, size: int) -> list[bytes]:
    """Cut data into pieces."""
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install exactly the stand-ins of these packages, instead of what is there."""

    def install(*names: str, **modules: ModuleType) -> None:
        for name in (name for names in PACKAGES.values() for name in names):
            monkeypatch.setitem(sys.modules, name, STAND_INS[name] if name in names else None)
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)

    return install


# --- What it decodes

COMPRESS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "none": ("", bytes),
    "identity": ("identity", bytes),
    "unknown": ("rot13", bytes),
    "gzip": ("gzip", gzip.compress),
    "GZIP": (" GZip ", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "gzip twice": ("gzip, gzip", lambda content: gzip.compress(gzip.compress(content))),
    "two": ("deflate, identity, gzip", lambda content: gzip.compress(zlib.compress(content))),
}


@each_row("text", TEXTS)
@each_row("kind", COMPRESS)
def test_a_body_is_decoded(kind: str, text: str) -> None:
    """A body is decoded, in whatever pieces it arrives."""
    encodings, compress = COMPRESS[kind]
    body = compress(TEXTS[text])
    for size in (1, 7, 1000, 10**9):
        if len(body) / size < 5_000:
            assert decoded(encodings, in_pieces(body, size)) == TEXTS[text], f"in pieces of {size} bytes"


@settings(max_examples=50)
@given(st.binary(max_size=1000), st.lists(st.sampled_from(["gzip", "deflate"]), max_size=4), st.integers(1, 100))
def test_any_body(content: bytes, encodings: list[str], size: int) -> None:
    """Any body is decoded as httpx decodes it."""
    body = content
    for encoding in encodings:
        body = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    assert decoded(", ".join(encodings), in_pieces(body, size)) == content


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    ("encoding", "package"), [(encoding, name) for encoding, names in PACKAGES.items() for name in names]
)
def test_each_package_decodes(encoding: str, package: str, text: str, install: Callable[..., None]) -> None:
    """Whichever of the packages is installed is used."""
    install(package)
    assert decoded(encoding, in_pieces(gzip.compress(TEXTS[text]), 1000)) == TEXTS[text]


@pytest.mark.parametrize("package", PACKAGES["zstd"])
def test_frames_of_zstd_follow_one_another(package: str, install: Callable[..., None]) -> None:
    """A body of zstd may have several frames, also within one piece."""
    install(package)
    for size in (1, 50, 10**9):
        assert decoded("zstd", in_pieces(gzip.compress(b"one ") + gzip.compress(b"two"), size)) == b"one two"


@pytest.mark.parametrize("package", PACKAGES["zstd"])
def test_the_end_of_zstd_must_not_be_missing(package: str, install: Callable[..., None]) -> None:
    """If the end of a frame of zstd is missing, that is an error at the end of the body, as in httpx."""
    install(package)
    frame, following = gzip.compress(b"one "), gzip.compress(b"two")
    for size in (1, 10**9):
        for body in (b"", frame, frame + following):
            decoder = ContentDecoder("zstd")
            for chunk in in_pieces(body, size):
                list(decoder.decode(chunk))
            decoder.end()
            for chunk in in_pieces(frame[:-1], size):
                list(decoder.decode(chunk))
            with pytest.raises(httpx.DecodingError, match="ends before"):
                decoder.end()


def test_members_of_gzip() -> None:
    """All members of gzip are decoded on request, in whatever pieces they arrive, and what follows them is ignored."""
    members = gzip.compress(TEXTS["a step"]) + gzip.compress(b"") + gzip.compress(b"end")
    for rest in (b"", b"\0\0\0", b"\x1fsomething else"):
        for size in (1, 7, 10**9):
            decoder = ContentDecoder("gzip", for_file=True)
            chunks = in_pieces(members + rest, size)
            assert b"".join(piece for chunk in chunks for piece in decoder.decode(chunk)) == TEXTS["a step"] + b"end"
            assert not decoder.is_incomplete
            list(decoder.decode(b"more"))
            assert not decoder.is_incomplete
    decoder = ContentDecoder("gzip", for_file=True)
    list(decoder.decode(members + b"\x1f"))
    assert decoder.is_incomplete, "another member begins"
    assert decoded("gzip", [members]) == TEXTS["a step"]


@each_row("for_file", [False, True])
def test_what_follows_the_end_is_passed_over_in_steps(for_file: bool) -> None:
    """Even if it unpacks from little, to an amount that takes seconds, other tasks can run in between."""
    inner = gzip.compress(b"x") + bytes(10 * 2**20)
    pieces = list(ContentDecoder("gzip, gzip", for_file=for_file).decode(gzip.compress(inner)))
    assert b"".join(pieces) == b"x"
    assert len(pieces) > 160


def test_another_name_of_gzip() -> None:
    """Gzip may be called x-gzip, but not where a body is decoded as by httpx."""
    body = gzip.compress(b"all")
    assert b"".join(ContentDecoder("x-gzip", for_file=True).decode(body)) == b"all"
    assert ContentDecoder("x-gzip").is_identity


@each_row("encoding", ["gzip", "deflate", "br", "zstd", "deflate, gzip"])
def test_whether_the_end_is_missing(encoding: str) -> None:
    """Whether the end of a body is missing is known of each encoding, also if that is no error."""
    content = TEXTS["short"]
    body = {
        "deflate": zlib.compress(content),
        "deflate, gzip": gzip.compress(zlib.compress(content)),
    }.get(encoding, gzip.compress(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "brotli", STAND_INS["brotli"])
        patch.setitem(sys.modules, "compression.zstd", STAND_INS["compression.zstd"])
        for for_file in (False, True):
            decoder = ContentDecoder(encoding, for_file=for_file)
            assert not decoder.is_incomplete
            for number, byte in enumerate(body, 1):
                list(decoder.decode(bytes([byte])))
                assert decoder.is_incomplete is (number < len(body))
                if encoding != "zstd":
                    decoder.end()


def test_the_second_member_must_not_be_cut() -> None:
    """A member that begins must end."""
    decoder = ContentDecoder("gzip", for_file=True)
    list(decoder.decode(gzip.compress(b"one") + gzip.compress(b"two")[:-1]))
    assert decoder.is_incomplete


def test_what_cannot_be_decoded(install: Callable[..., None]) -> None:
    """The first encoding that is unknown, or lacks its package, can be asked for."""
    install()
    for encodings, found in {
        "": None,
        "identity, GZIP, deflate, x-gzip": None,
        "gzip, Br , rot13": "br",
        "rot13": "rot13",
        "zstd": "zstd",
    }.items():
        assert undecodable(encodings) == found
    install("brotli", "zstandard")
    assert undecodable("br, zstd") is None
    assert (package_for("br"), package_for("zstd"), package_for("gzip")) == ("brotli>=1.2", "zstandard", None)


@pytest.mark.parametrize("encoding", PACKAGES)
def test_an_encoding_without_its_package_is_passed_over(encoding: str, install: Callable[..., None]) -> None:
    """If no package is installed, the body is left as it is, as by httpx."""
    install()
    assert decoded(encoding, [b"encoded"]) == b"encoded"
    assert ContentDecoder(encoding).is_identity


def test_what_follows_the_end_is_ignored(install: Callable[..., None]) -> None:
    """What follows the end of gzip, deflate or br is ignored, as by httpx."""
    install("brotli")
    for encoding, compress in (("gzip", gzip.compress), ("deflate", zlib.compress), ("br", gzip.compress)):
        assert decoded(encoding, [compress(b"all"), b"more", b"and more"]) == b"all"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_the_beginning_of_a_body_that_is_cut(encoding: str, install: Callable[..., None]) -> None:
    """Of a body that breaks off, the beginning is decoded."""
    install("brotli", "zstandard")
    text = TEXTS["long"]
    body = zlib.compress(text) if encoding == "deflate" else gzip.compress(text)
    beginning = decoded(encoding, [body[: len(body) // 2]])
    assert len(beginning) > len(text) // 4
    assert text.startswith(beginning)


# --- What it refuses


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, deflate"])
def test_what_does_not_match_is_an_error(encoding: str, install: Callable[..., None]) -> None:
    """A body that does not match its encoding is a DecodingError."""
    install("brotli", "zstandard")
    with pytest.raises(httpx.DecodingError):
        decoded(encoding, [b"this is something else"])


def test_an_error_in_the_middle() -> None:
    """What does not match later is an error as well, also for deflate, which is tried in two ways at first only."""
    body = zlib.compress(TEXTS["long"])
    broken = body[:5000] + b"\xff" * 5000
    with pytest.raises(httpx.DecodingError):
        decoded("deflate", in_pieces(broken, 100))


def test_a_package_that_cannot_limit_its_output(install: Callable[..., None]) -> None:
    """An old brotli cannot decode in steps, so it does not decode."""
    install(brotli=OLD_BROTLI)
    with pytest.raises(httpx.DecodingError, match=r"1\.2"):
        ContentDecoder("br")


def test_a_package_without_a_limit_will_do_where_none_is_needed(install: Callable[..., None]) -> None:
    """A body that is streamed is decoded, in steps of the size that arrives."""

    class Decompressor:
        def process(self, data: bytes) -> bytes:
            return 2 * data

    package = ModuleType("brotli")
    vars(package).update(Decompressor=Decompressor)
    install(brotli=package)
    assert list(ContentDecoder("br", needs_limit=False).decode(b"ab")) == [b"abab"]


def test_too_many_encodings() -> None:
    """More than five encodings are refused."""
    assert not ContentDecoder(", ".join(["gzip"] * 5)).is_identity
    with pytest.raises(httpx.DecodingError, match="6 encodings"):
        ContentDecoder(", ".join(["gzip"] * 6))


# --- Bombs


def assert_steps_are_bounded(encodings: str, bomb: bytes, *, step: int = STEP, pieces: int = 100) -> None:
    """Decode the beginning of a bomb, and look at the size of each piece and at the memory that it takes."""
    decoder = ContentDecoder(encodings)
    tracemalloc.start()
    try:
        for number, piece in enumerate(decoder.decode(bomb)):
            assert len(piece) <= step
            if number > pieces:
                break
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_step_is_bounded(layers: int) -> None:
    """A step makes at most 64 KiB, however much there is to unpack, and in however many layers."""
    assert_steps_are_bounded(", ".join(["gzip"] * layers), gzip_bomb(64 * MIB, layers=layers))


@pytest.mark.parametrize("package", ["brotli", "compression.zstd"])
def test_a_step_of_a_package_is_bounded(package: str, install: Callable[..., None]) -> None:
    """So does a step with a package that has a limit."""
    install(package)
    assert_steps_are_bounded("br" if package == "brotli" else "zstd", gzip_bomb(64 * MIB))


def test_what_unpacks_to_nothing_comes_in_steps() -> None:
    """What unpacks to nothing makes empty pieces, and the bytes in between are counted."""
    decoder = ContentDecoder("gzip, gzip")
    pieces = list(decoder.decode(gzip_of_nothing(10 * MIB)))
    assert len(pieces) >= 10 * MIB // STEP
    assert not any(pieces)
    assert 10 * MIB <= decoder.intermediate <= 11 * MIB


# --- The packages themselves


def compressor(*names: str) -> Callable[[bytes], bytes]:
    """Return the function that compresses of the first package that is installed, or skip the test."""
    for name in names:
        try:
            package = importlib.import_module(name)
        except ImportError:
            continue
        if name == "zstandard":
            return lambda content: bytes(package.ZstdCompressor().compress(content))
        if name in PACKAGES["br"]:
            return lambda content: bytes(package.compress(content, quality=5))  # 11, the default, takes much longer
        return lambda content: bytes(package.compress(content))
    pytest.skip(f"none of {names} is installed")


@each_row("text", TEXTS)
@each_row("encoding", PACKAGES)
def test_the_installed_packages(encoding: str, text: str) -> None:
    """The packages themselves have the interfaces of the stand-ins."""
    body = compressor(*PACKAGES[encoding])(TEXTS[text])
    for size in (1, 1000, 10**9):
        if len(body) / size < 5_000:
            assert decoded(encoding, in_pieces(body, size)) == TEXTS[text]
    with pytest.raises(httpx.DecodingError):
        decoded(encoding, [b"this is something else, and long enough to be noticed" * 10])


@pytest.mark.parametrize("encoding", PACKAGES)
def test_bombs_for_the_installed_packages(encoding: str) -> None:
    """A step of theirs is bounded to a few MiB."""
    assert_steps_are_bounded(encoding, compressor(*PACKAGES[encoding])(bytes(16 * MIB)), step=5 * MIB, pieces=20)
