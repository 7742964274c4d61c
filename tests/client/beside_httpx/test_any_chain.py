"""Whatever chain of answers a server gives, and whatever the settings of the client, the same is observed."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
from hypothesis import given, settings
from hypothesis import strategies as st
from support.beside_httpx import MODES, URL, Answer, Run, Stream, compare, compare_good

_CHALLENGES = [
    'Digest realm="r", nonce="n", qop="auth"',
    'Digest realm="r", nonce="m", qop="auth", algorithm=SHA-256, stale=true',
    'Digest realm="r", nonce="n"',
    "Digest broken",
    "Basic realm=r",
]
_COOKIES = ["a=1", "a=2; Path=/", "b=1; Path=/b", "a=; Max-Age=0", "s=1; Secure", "o=1; Domain=other"]
_LOCATIONS = [
    *("/b", "b?c#d", URL, "http://other/b", "https://server/", "//other/", "http://server:8080/", "#f", ""),
    "http://u:p@other/",
]
_BODIES: list[dict[str, Any]] = [{}, {"content": b"body"}, {"json": {"a": 1}}, {"data": {"a": "1"}}]

# What one answer is made of: a status, a Location, a challenge, cookies, a body.
_answers = st.tuples(
    st.sampled_from([200, 204, 301, 302, 303, 307, 308, 401, 401, 404, 503]),
    st.sampled_from(_LOCATIONS),
    st.sampled_from(_CHALLENGES),
    st.lists(st.sampled_from(_COOKIES), max_size=2),
    st.sampled_from([b"", b"body"]),
)
_failures = st.sampled_from([httpx.ReadTimeout, httpx.ConnectError])
_scripts = st.lists(_answers | _failures, min_size=1, max_size=6)
_auths = st.sampled_from(["none", "basic", "digest", "function", "tokens"])
_clients = st.fixed_dictionaries(
    {},
    optional={
        "follow_redirects": st.booleans(),
        "max_redirects": st.integers(0, 3),
        "cookies": st.just({"client": "1"}),
        "headers": st.just({"X-Client": "1", "Authorization": "By hand"}),
        "params": st.just({"p": "1"}),
        "default_encoding": st.sampled_from(["utf-8", "latin-1"]),
        "base_url": st.just("http://base/api"),
        "timeout": st.none() | st.just(3),
    },
)
_requests = st.lists(
    st.tuples(
        st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE"]),
        st.sampled_from([URL, "http://server/b", "http://user:pw@server/", "https://other/#frag"]),
        st.sampled_from(_BODIES),
        st.fixed_dictionaries(
            {},
            optional={
                "follow_redirects": st.booleans(),
                "headers": st.just({"Cookie": "by=hand", "Host": "own", "Authorization": "Own"}),
                "auth": st.just(("user", "pw")) | st.none(),
                "params": st.just({"q": "2"}),
            },
        ),
    ),
    min_size=1,
    max_size=3,
)


class Tokens(httpx.Auth):
    """Asks for a token first, and once more behind a 401."""

    def __init__(self, body: str) -> None:
        self.requires_request_body = body == "request"
        self.requires_response_body = body == "response"

    def auth_flow(self, request: httpx.Request) -> Any:
        token = yield httpx.Request("POST", "http://tokens/", content=b"grant")
        request.headers["Authorization"] = f"Bearer {token.status_code}"
        response = yield request
        if response.status_code == 401:
            request.headers["Authorization"] = "Bearer again"
            yield request


def _header(request: httpx.Request) -> httpx.Request:
    request.headers["Authorization"] = "Function"
    return request


def _auth(kind: str, body: str) -> Any:
    return {
        "none": None,
        "basic": ("user", "pw"),
        "digest": httpx.DigestAuth("user", "pw"),
        "function": _header,
        "tokens": Tokens(body),
    }[kind]


def _answer(run: Run, made_of: Any) -> Answer:
    if isinstance(made_of, type):
        failure: Exception = made_of("failed")
        return failure
    status, location, challenge, cookies, body = made_of
    headers = [("Set-Cookie", cookie) for cookie in cookies]
    if 300 <= status < 400:
        headers.append(("Location", location))
    if status == 401:
        headers.append(("WWW-Authenticate", challenge))
    return httpx.Response(status, headers=headers, stream=Stream(run, body))


@given(
    script=_scripts,
    client=_clients,
    requests=_requests,
    auth=_auths,
    body=st.sampled_from(["", "request", "response"]),
    hooks=st.sampled_from([[], ["request"], ["response"], ["request", "response"]]),
    mode=st.sampled_from(MODES),
    raises=st.booleans(),
    backend=st.sampled_from(["asyncio", "trio"]),
)
@settings(max_examples=30)
def test_any_chain(
    *,
    script: list[Any],
    client: dict[str, Any],
    requests: list[Any],
    auth: str,
    body: str,
    hooks: list[str],
    mode: str,
    raises: bool,
    backend: str,
) -> None:
    """Requests, responses, histories, cookies, hooks and errors are the same, whether or not a bad status raises."""

    async def scenario(run: Run) -> None:
        answers = [_answer(run, made_of) for made_of in script]
        async with run.client(
            *answers,
            lambda _: httpx.Response(200, text="at last"),
            auth=_auth(auth, body),
            event_hooks=run.hooks(*hooks) if hooks else {},
            **client,
        ) as opened:
            for method, url, content, arguments in requests:
                response = await run.request(opened, method, url, **content, **arguments)
                if response is not None and response.next_request is not None:
                    await run.send(opened, response.next_request)

    if raises:
        anyio.run(compare_good, scenario, mode, backend=backend)
    else:
        anyio.run(compare, scenario, [mode], backend=backend)
