"""URLs, exceptions and texts without their credentials."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.rows import each_row

from prefect_http._redact import one_line, safe_exception, safe_url, without_credentials


@each_row(
    ("url", "shown"),
    [
        ("http://host/", "http://host/"),
        ("https://user:s3cret@host/path?q=1#f", "https://host/path?q=1#f"),
        ("https://s3cret@host", "https://host"),
        ("https://:s3cret@host:8443/", "https://host:8443/"),
        ("https://user%40mail:s3%2Fcret@host/", "https://host/"),
        ("https://user:s3:cret@[::1]:8000/", "https://[::1]:8000/"),
        ("https://host/user:pass@elsewhere", "https://host/user:pass@elsewhere"),
    ],
)
def test_safe_url(url: str, shown: str) -> None:
    """A URL is shown without its userinfo."""
    assert safe_url(httpx.URL(url)) == shown


def test_safe_url_leaves_the_url_alone() -> None:
    """The URL itself is not modified."""
    url = httpx.URL("https://user:s3cret@host/")
    safe_url(url)
    assert url.password == "s3cret"


@given(
    st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: text not in "https://host/"),
    st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: text not in "https://host/"),
)
def test_no_userinfo_is_ever_shown(user: str, password: str) -> None:
    """Nothing of the userinfo is left, whatever it is."""
    url = httpx.URL("https://host/", username=user, password=password)
    assert safe_url(url) == "https://host/"


class Unprintable(Exception):
    """An exception whose text cannot be had."""

    def __str__(self) -> str:
        raise ValueError


@each_row(
    ("exception", "shown"),
    [
        (httpx.ReadTimeout(""), "ReadTimeout"),
        (
            httpx.LocalProtocolError("Illegal header value: b'a' or b'b' it is"),
            "LocalProtocolError: Illegal header value: [secure] or [secure] it is",
        ),
        (
            httpx.RemoteProtocolError("headers must be pairs of bytes, not ('content-type', 'text/plain'), before it"),
            "RemoteProtocolError: headers must be pairs of bytes, not ('content-type', 'text/plain'), before it",
        ),
        (
            httpx.RemoteProtocolError("headers must be pairs of bytes, not ('set-cookie', 'a=s3cret'), before it"),
            "RemoteProtocolError: headers must be pairs of bytes, not ([secure], [secure]), before it",
        ),
        (
            httpx.RemoteProtocolError("illegal status line: bytearray(b'SSH-2.0-OpenSSH')"),
            "RemoteProtocolError: illegal status line: bytearray(b'SSH-2.0-OpenSSH')",
        ),
        (httpx.LocalProtocolError("invalid method 'GE T'"), "LocalProtocolError: invalid method 'GE T'"),
        (
            httpx.RemoteProtocolError("the server's cookie isn't valid: b'a', so it's ignored"),
            "RemoteProtocolError: the server's cookie isn't valid: [secure], so it's ignored",
        ),
        (httpx.ReadError("it said 'no'"), "ReadError: it said 'no'"),
        (Unprintable(), "Unprintable"),
        (httpx.ReadError("connection reset"), "ReadError: connection reset"),
        (httpx.ConnectError("first\r\nsecond\tthird"), "ConnectError: first second third"),
        (httpx.RemoteProtocolError("Server disconnected"), "RemoteProtocolError: Server disconnected"),
        (httpx.ConnectError("x" * 500), "ConnectError: " + "x" * 500),
        (httpx.ConnectError("x" * 501), "ConnectError: " + "x" * 499 + "…"),
    ],
)
def test_safe_exception(exception: Exception, shown: str) -> None:
    """An exception is shown as its class and its message, in one line of bounded length."""
    assert safe_exception(exception) == shown


def test_an_exception_without_a_message() -> None:
    """An exception whose message cannot be made is shown as its class."""

    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert safe_exception(Broken()) == "Broken"


@each_row(
    "exception",
    [
        # h11 quotes the request's header that it refuses to send, and the response's that it cannot parse.
        httpx.LocalProtocolError("Illegal header value b'Bearer s3cret\\n'"),
        httpx.RemoteProtocolError("illegal header line: bytearray(b'Set-Cookie : sid=s3cret')"),
        # h2 quotes the decoded header.
        httpx.LocalProtocolError("Received header value surrounded by whitespace ' s3cret '"),
        httpx.LocalProtocolError('Illegal header value b"s3cret\'s"'),
        httpx.LocalProtocolError("Illegal header value b'a\\' s3cret'"),
        httpx.LocalProtocolError("Illegal header value b'a s3cret"),
        httpx.LocalProtocolError("Illegal header value b'a s3cret\\"),
    ],
    ids=["request", "response", "text", "double quotes", "escaped", "cut off", "cut off in an escape"],
)
def test_an_exception_that_quotes_a_header_is_shown_without_it(exception: Exception) -> None:
    """The header values in a protocol error's message are not shown."""
    shown = safe_exception(exception)
    assert shown.startswith(type(exception).__name__)
    assert "s3cret" not in shown


@each_row(
    ("name", "value", "text"),
    [
        ("Authorization", "Bearer s3cret", "Authorization: Bearer s3cret"),
        ("authorization", "s3cret", "you sent s3cret, didn't you"),
        ("Authorization", "Basic dXNlcjpzM2NyZXQ=", "dXNlcjpzM2NyZXQ="),
        ("Proxy-Authorization", "Basic s3cret", "s3cret"),
        ("Cookie", "a=1; session=s3cret", "a=1; session=s3cret"),
        ("Cookie", "session=s3cret==; b=2", "s3cret=="),
        ("Cookie", "s3cret", "Cookie: s3cret"),
        ("Authorization", "Basic dXNlcjpzM2NyZXQ=", "user, s3cret is wrong"),
        ("Authorization", "basic dXNlcjpzM2NyZXQ=", "no user:s3cret here"),
        ("Proxy-Authorization", "Basic dXNlcjpzM2NyZXQ=", "s3cret"),
        ("Authorization", "Basic s3cret!", "s3cret!"),
        ("Authorization", "Basic  dXNlcjpzM2NyZXQ", "s3cret, dXNlcjpzM2NyZXQ"),
        ("Authorization", "Basic /////w==", "/////w== as %2F%2F%2F%2F%2Fw%3D%3D"),
    ],
    ids=[
        *("bearer", "bare", "basic", "proxy", "cookie", "padded cookie", "nameless cookie"),
        *("password", "user and password", "proxy's password", "no base64", "no padding", "no text"),
    ],
)
def test_credentials_that_a_server_echoes_are_replaced(name: str, value: str, text: str) -> None:
    """Credentials in the request's headers are replaced if the server echoes them."""
    shown = without_credentials(text, httpx.Request("GET", "http://server/", headers={name: value}))
    assert "s3cret" not in shown
    assert "dXNlcj" not in shown


def test_credentials_in_several_headers_of_one_name() -> None:
    """All of them are replaced."""
    headers = [("Authorization", "Bearer first"), ("Authorization", "Basic dXNlcjpzM2NyZXQ="), ("Cookie", "a=third")]
    request = httpx.Request("GET", "http://server/", headers=[*headers, ("Cookie", "b=fourth")])
    assert without_credentials("first s3cret third fourth", request) == " ".join(["[secure]"] * 4)


def test_an_exception_that_echoes_a_credential_of_its_request() -> None:
    """Whatever an error quotes, such as the name of a header, the credentials of its request are not shown."""
    request = httpx.Request("GET", "http://user:s3cret@server/", headers={"Authorization": "Bearer t0ken"})
    error = httpx.RemoteProtocolError("illegal header line: b't0ken-s3cret: x'", request=request)
    assert safe_exception(error) == "RemoteProtocolError: illegal header line: b'[secure]-[secure]: x'"


@each_row(
    ("url", "headers", "text", "shown"),
    [
        ("http://t0ken@server/", {}, "bad key t0ken", "bad key [secure]"),
        ("http://t0ken:x-oauth-basic@server/", {}, "bad key t0ken", "bad key [secure]"),
        ("http://me%40home:s3cret@server/", {}, "no me@home, me%40home", "no [secure], [secure]"),
        ("http://server/", {"Authorization": "Basic dDBrZW46"}, "t0ken: bad", "[secure] bad"),
        ("http://server/", {"Authorization": "Basic dDBrZW46"}, "bad key t0ken", "bad key [secure]"),
        ("http://server/", {"Proxy-Authorization": "Basic dDBrZW46czNjcmV0"}, "t0ken", "[secure]"),
        ("http://server/", {"Authorization": 'Digest username="me@home", nonce="1"'}, "me@home 1", "[secure] 1"),
        ("http://abc@server/", {}, "abc", "abc"),
        ("http://secure:also@server/", {}, "secure, also", "[secure], [secure]"),
        ("http://secu:longpassword@server/", {}, "longpassword", "[secure]"),
        ("http://name@name.test/", {}, "there is no https://name.test/", "there is no https://name.test/"),
        ("http://name@server/name/", {}, "no name", "no name"),
    ],
)
def test_a_user_name_that_a_server_echoes_is_replaced(url: str, headers: dict[str, str], text: str, shown: str) -> None:
    """A user name is replaced, since it may be a key; but not if the URL, which is shown, has it elsewhere as well."""
    assert without_credentials(text, httpx.Request("GET", url, headers=headers)) == shown


@each_row(
    ("error", "shown"),
    [
        (httpx.ReadTimeout("data.test sent no data for 5 s"), "ReadTimeout: data.test sent no data for 5 s"),
        (
            httpx.RemoteProtocolError("data.test sent invalid data: b'data, s3cret'"),
            "RemoteProtocolError: data.test sent invalid data: b'[secure], [secure]'",
        ),
        (httpx.RemoteProtocolError("no 's3cret' data s3cret"), "RemoteProtocolError: no '[secure]' data [secure]"),
        (ValueError("data, s3cret"), "ValueError: data, [secure]"),
    ],
)
def test_the_own_words_of_a_message_may_contain_a_user_name(error: Exception, shown: str) -> None:
    """A user name that is also a word of the message is replaced only in what the message quotes from the server."""
    request = httpx.Request("GET", "http://data:s3cret@server/")
    assert safe_exception(error, request) == shown


def test_overlapping_credentials() -> None:
    """Nothing is left of one that begins within another one, and each text is replaced once."""
    headers = {"Authorization": "Basic c3ZjLXByb2Q6cHJvZC05ZjNrMng="}  # svc-prod:prod-9f3k2x
    request = httpx.Request("GET", "http://server/", headers=headers)
    assert without_credentials("login svc-prod-9f3k2x failed", request) == "login [secure] failed"


def test_many_long_credentials_that_begin_alike() -> None:
    """A server chooses the cookies and the text: with a time that grows with their product, this takes a minute."""
    cookies = "; ".join("c=" + "a" * (4000 - number) + "b" for number in range(20))
    request = httpx.Request("GET", "http://server/", headers={"Cookie": cookies})
    text = "a" * 2**20
    assert without_credentials(text, request) == text


def test_a_user_name_without_a_password_is_no_more_than_the_name() -> None:
    """In the message's own words, they are not replaced."""
    request = httpx.Request("GET", "http://test/", headers={"Authorization": "Basic c2VydmVyOg=="})  # server:
    assert safe_exception(httpx.ReadError("server:80 failed"), request) == "ReadError: server:80 failed"
    assert without_credentials("server:80 failed", request) == "[secure]80 failed"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3cret is no password", "[secure] is no password"),
        ("not s3cret, nor s3cret", "not [secure], nor [secure]"),
        ('{"password": "s3cret"}', '{"password": "[secure]"}'),
    ],
)
def test_a_password_that_a_server_echoes_is_replaced(text: str, shown: str) -> None:
    """So is the password of the URL."""
    assert without_credentials(text, httpx.Request("GET", "http://user:s3cret@server/")) == shown


@each_row(
    ("password", "echoed"),
    [
        ("s3/cr?t", "s3%2Fcr%3Ft"),
        ("s3 cr?t", "s3%20cr%3Ft"),
        ("s3 cr?t", "s3+cr%3Ft"),
        ("abcd", "abcd"),
        ('p"w\\d', '{"echo": "p\\"w\\\\d"}'),
        ('p"wörd', '{"echo": "p\\"wörd"}'),
        ("pässword", '"p\\u00e4ssword"'),
    ],
)
def test_a_credential_is_found_as_json_and_urls_write_it(password: str, echoed: str) -> None:
    """A credential of four characters or more is replaced also where JSON or a URL has escaped it."""
    shown = without_credentials(
        echoed, httpx.Request("GET", httpx.URL("http://server/", username="u", password=password))
    )
    assert shown.strip('{}" ').removeprefix('echo": "') == "[secure]"


def test_a_text_without_credentials_is_unchanged() -> None:
    """Nothing else is replaced: neither the auth scheme nor a cookie as short as any word."""
    headers = {"Authorization": "Bearer s3cret", "Cookie": "a=1; b=; c"}
    request = httpx.Request("GET", "http://server/", headers=headers)
    text = "Bearer a=1 is not enough; a b c"
    assert without_credentials(text, request) == text


@each_row(
    ("text", "limit", "shown"),
    [
        ("", 10, ""),
        ("short", 10, "short"),
        ("exactly 10", 10, "exactly 10"),
        ("eleven char", 10, "eleven ch…"),
        ("a\nb\r\nc\td\x0be\x0cf\x85g\u2028h", 80, "a b c d e f g h"),
        ("  much   space  ", 80, "much space"),
        ("\x1b[31mred\x1b[0m", 80, "[31mred [0m"),
        ("null\x00 and \ud800 and \u202egnp", 80, "null and and gnp"),
        ("ends in a space", 11, "ends in a…"),
        (" " * 1000 + "hidden", 10, "…"),
        (" " * 36 + "four", 10, "four"),
        (" " * 37 + "five!", 10, "fiv…"),
        ("日本語のメッセージ", 5, "日本語の…"),
    ],
)
def test_one_line(text: str, limit: int, shown: str) -> None:
    """A text becomes one line of printable characters, and ends with an ellipsis if it was cut."""
    assert one_line(text, limit=limit) == shown


@given(st.text(), st.integers(1, 50))
def test_one_line_is_one_line(text: str, limit: int) -> None:
    """Whatever the text is, the result is one printable line within the limit."""
    line = one_line(text, limit=limit)
    assert len(line) <= limit
    assert line.isprintable()
    assert line.strip() == line


@given(st.text(st.characters(categories=["L", "N"]), max_size=50))
def test_a_short_word_is_unchanged(text: str) -> None:
    """Printable text within the limit is unchanged."""
    assert one_line(text, limit=50) == text
