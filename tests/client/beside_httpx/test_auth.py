"""Credentials are sent as by httpx.AsyncClient: basic, digest, from a netrc file, and by functions."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.beside_httpx import Answer, Run, Stream, beside_httpx, describe_error, in_both_modes

# --- Who decides


class _Header(httpx.Auth):
    def auth_flow(self, request: httpx.Request) -> Any:
        request.headers["Authorization"] = "Own"
        yield request


def _function(request: httpx.Request) -> httpx.Request:
    request.headers["Authorization"] = "Function"
    return request


_AUTHS: dict[str, Any] = {
    "default": httpx.USE_CLIENT_DEFAULT,
    "None": None,
    "tuple": ("user", "pä:ss"),
    "tuple of bytes": (b"user", b""),
    "BasicAuth": httpx.BasicAuth("user", "pw"),
    "Auth": httpx.Auth(),
    "own": _Header(),
    "function": _function,
    "str": "user",
    "list": ["user", "pw"],
    "short tuple": ("user",),
    "number": 7,
}
_URLS = ["http://me:s%20ecret@server/", "http://me@server/", "http://:only@server/", "http://@server/"]


@pytest.mark.trio
@pytest.mark.parametrize("of_client", ["None", "tuple", "function"])
@beside_httpx
async def test_who_decides(run: Run, of_client: str) -> None:
    """The request decides, else the client, else the URL."""
    client = run.client(lambda _: httpx.Response(200), auth=_AUTHS[of_client])
    for name, auth in _AUTHS.items():
        run.case(name)
        await run.request(client, headers={"Authorization": "By hand"}, auth=auth)
        await run.request(client, url=_URLS[0], auth=auth)
        await run.send(client, httpx.Request("GET", _URLS[0]), auth=auth)
    for url in _URLS[1:]:
        run.case(url)
        await run.request(client, url=url)
        await run.request(client, url=url, auth=None)


@pytest.mark.trio
@beside_httpx
async def test_the_auth_of_a_client(run: Run) -> None:
    """What the constructor and the property accept."""
    for name, auth in _AUTHS.items():
        run.case(name)
        try:
            run.note(type(run.client(auth=auth).auth))
        except Exception as error:
            run.note(describe_error(error))
        client = run.client(lambda _: httpx.Response(200))
        try:
            client.auth = auth
        except Exception as error:
            run.note(describe_error(error))
        run.note(type(client.auth))
        await run.request(client)


@pytest.mark.trio
@beside_httpx
async def test_netrc(run: Run, tmp_path: Path) -> None:
    """A netrc file has credentials for some hosts."""
    file = tmp_path / "netrc"
    file.write_text("machine server login user password pw\nmachine other login only password x\n")
    async with run.client(lambda _: httpx.Response(200), auth=httpx.NetRCAuth(str(file))) as client:
        for host in ("server", "other", "unknown"):
            await run.request(client, url=f"http://{host}/")


@pytest.mark.trio
@in_both_modes
async def test_basic_auth_of_a_rejected_request(run: Run) -> None:
    """A 401 is a response like any other, if the flow has ended."""
    answer = httpx.Response(401, headers={"WWW-Authenticate": "Basic"}, stream=Stream(run, b"no"))
    async with run.client(answer, auth=("user", "pw"), event_hooks=run.hooks()) as client:
        await run.request(client)


# --- Digest

_CHALLENGE = 'Digest realm="r", nonce="{nonce}", qop="{qop}", algorithm={algorithm}, opaque="o"'


def challenge(
    nonce: str = "abc", *, qop: str = "auth", algorithm: str = "MD5", status: int = 401, **more: Any
) -> httpx.Response:
    """Return a challenge."""
    field = _CHALLENGE.format(nonce=nonce, qop=qop, algorithm=algorithm)
    return httpx.Response(status, headers={"WWW-Authenticate": field, **more.pop("headers", {})}, **more)


@pytest.mark.trio
@in_both_modes
async def test_digest_algorithms(run: Run) -> None:
    """Each algorithm is answered."""
    for algorithm in ("MD5", "MD5-SESS", "SHA", "SHA-SESS", "SHA-256", "SHA-256-SESS", "SHA-512", "md5", "NONE"):
        run.case(algorithm)
        client = run.client(challenge(algorithm=algorithm), 200, auth=httpx.DigestAuth("user", "pw"))
        await run.request(client, url="http://server/a%20b?c=d&e")


@pytest.mark.trio
@beside_httpx
async def test_digest_qops(run: Run) -> None:
    """Each quality of protection is answered or refused."""
    for qop in ("auth", "auth, auth-int", "auth-int,auth", "auth-int", "other", ""):
        run.case(qop)
        client = run.client(challenge(qop=qop), 200, auth=httpx.DigestAuth("user", "pw"))
        await run.request(client, "POST", content=b"body")


_FIELDS = [
    *("", "Basic", 'Digest realm="r"', "Digest", "digest realm=r,nonce=n", 'Digest realm="r", nonce="n"', "Dig"),
    *('Digest realm="r", nonce="n", qop="auth", algorithm=MD5, stale=true', 'Digest realm="r\\"s", nonce="n"'),
    *("Digest realm=r, nonce=n, broken", 'Basic, Digest realm="r", nonce="n", qop="auth"'),
]


@pytest.mark.trio
@in_both_modes
async def test_digest_challenges(run: Run) -> None:
    """A challenge may be of another scheme or malformed."""
    for field in _FIELDS:
        run.case(field)
        answer = httpx.Response(401, headers={"WWW-Authenticate": field}, stream=Stream(run, b"no"))
        await run.request(run.client(answer, 200, auth=httpx.DigestAuth("user", "pw")))


@pytest.mark.trio
@beside_httpx
async def test_several_challenges(run: Run) -> None:
    """The digest challenge is found among several."""
    digest = challenge().headers["WWW-Authenticate"]
    fields = [("WWW-Authenticate", "Basic realm=r"), ("WWW-Authenticate", digest)]
    async with run.client(httpx.Response(401, headers=fields), 200, auth=httpx.DigestAuth("user", "pw")) as client:
        await run.request(client)


@pytest.mark.trio
@in_both_modes
async def test_digest_reuses_a_challenge(run: Run) -> None:
    """Later requests use the nonce of the last challenge, with a count, until it is stale."""
    first, second = challenge("one"), challenge("two")
    answers: list[Answer] = [first, 200, 200, 200, second, 200, 200, challenge("three"), challenge("four")]
    async with run.client(*answers, auth=httpx.DigestAuth("user", "pw"), event_hooks=run.hooks()) as client:
        for method in ("GET", "GET", "POST", "GET", "GET", "DELETE"):
            await run.request(client, method)


@pytest.mark.trio
@in_both_modes
async def test_digest_with_a_wrong_password(run: Run) -> None:
    """The second challenge is returned."""
    answers = [challenge(stream=Stream(run, b"no", name=name)) for name in ("first", "second")]
    async with run.client(*answers, auth=httpx.DigestAuth("user", "wrong")) as client:
        await run.request(client)


@pytest.mark.trio
@beside_httpx
async def test_a_challenge_with_another_status(run: Run) -> None:
    """Only a 401 is answered."""
    for status in (200, 403, 407, 503):
        await run.request(run.client(challenge(status=status), 200, auth=httpx.DigestAuth("user", "pw")))


@pytest.mark.trio
@in_both_modes
async def test_digest_and_cookies(run: Run) -> None:
    """A cookie of the challenge goes with the answer to it."""
    answers: list[Answer] = [challenge(headers={"Set-Cookie": "session=1"}), 200, 200]
    async with run.client(*answers, auth=httpx.DigestAuth("user", "pw")) as client:
        await run.request(client, headers={"X-A": "1"})
        await run.request(client)


@pytest.mark.trio
@in_both_modes
async def test_digest_and_redirects(run: Run) -> None:
    """A redirect may come before and after the challenge; it may lead elsewhere."""
    there = httpx.Response(302, headers={"Location": "http://other/x"}, text="moved")
    ways: list[list[Answer]] = [
        [httpx.Response(307, headers={"Location": "/x"}), challenge(), 200],
        [challenge(), httpx.Response(307, headers={"Location": "/x"}), 200, 200],
        [there, challenge(), 200],
        [challenge(), there, challenge("other"), 200],
    ]
    for answers in ways:
        async with run.client(
            *answers, auth=httpx.DigestAuth("user", "pw"), follow_redirects=True, event_hooks=run.hooks()
        ) as client:
            await run.request(client, "POST", content=b"body")


@pytest.mark.trio
@beside_httpx
async def test_challenges_count_as_redirects(run: Run) -> None:
    """A challenge is in the history, whose length is limited."""
    for max_redirects in range(3):
        run.case(max_redirects)
        answers: list[Answer] = [challenge(), httpx.Response(302, headers={"Location": "/x"}), 200]
        settings = {"follow_redirects": True, "max_redirects": max_redirects}
        await run.request(run.client(*answers, auth=httpx.DigestAuth("user", "pw"), **settings))


@pytest.mark.trio
@pytest.mark.parametrize("follows", [True, False])
@in_both_modes
async def test_digest_for_a_next_request(run: Run, follows: bool) -> None:
    """A redirect behind a challenge has it in its history."""
    answers: list[Answer] = [challenge(text="no"), httpx.Response(302, headers={"Location": "/x"}, text="moved"), 200]
    async with run.client(*answers, auth=httpx.DigestAuth("user", "pw"), follow_redirects=follows) as client:
        response = await run.request(client)
        if response is not None and response.next_request is not None:
            await run.send(client, response.next_request)


@pytest.mark.trio
@in_both_modes
async def test_a_challenge_whose_body_breaks_off(run: Run) -> None:
    """It is an error, and the response is closed."""
    answer = challenge(stream=Stream(run, b"one", httpx.ReadError("broken")))
    async with run.client(answer, 200, auth=httpx.DigestAuth("user", "pw")) as client:
        await run.request(client)


@pytest.mark.trio
@in_both_modes
async def test_a_failure_behind_a_challenge(run: Run) -> None:
    """The error has the request that failed."""
    answers: list[Answer] = [challenge(), httpx.ReadTimeout("slow"), 200]
    async with run.client(*answers, auth=httpx.DigestAuth("user", "pw")) as client:
        await run.request(client)
        await run.request(client)


@pytest.mark.trio
@beside_httpx
async def test_an_auth_that_is_shared(run: Run) -> None:
    """One DigestAuth may serve two clients, and single requests."""
    auth = httpx.DigestAuth("user", "pw")
    counter = itertools.count()
    clients = [run.client(lambda _: challenge() if next(counter) == 0 else httpx.Response(200)) for _ in range(2)]
    for client in (*clients, *clients):
        await run.request(client, auth=auth)
