"""The transports of a client are those that a plain httpx.AsyncClient would use, each in a wrapper."""

from __future__ import annotations

import contextlib
import os
import ssl
import sys
from collections.abc import Callable, Generator, Mapping
from types import TracebackType
from typing import Any, Self, cast

import anyio
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rows import each_row
from support.servers import answer, raw_server

from prefect_http import HTTPTransport
from prefect_http._client import routing
from prefect_http._client.arguments import HttpxArguments
from prefect_http._client.routing import environment_proxies, make_transports
from prefect_http._wire.proxy.proxy_server import ProxyServer
from prefect_http._wire.wire import Wire


class Wrapper(httpx.AsyncBaseTransport):
    """A wrapper that passes everything on, and records the URLs."""

    def __init__(self, wrapped: httpx.AsyncBaseTransport) -> None:
        self.wrapped = wrapped
        self.urls: list[str] = []

    async def __aenter__(self) -> Self:
        await self.wrapped.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.wrapped.__aexit__(exc_type, exc_value, traceback)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.urls.append(str(request.url))
        return await self.wrapped.handle_async_request(request)


class Mounted(httpx.AsyncBaseTransport):
    """A user's transport that is neither hashable nor truthy, and records when it was entered and left."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self) -> None:
        self.log: list[str] = []

    def __eq__(self, other: object) -> bool:
        return True

    def __bool__(self) -> bool:
        return False

    async def __aenter__(self) -> Self:
        self.log.append("entered")
        return self

    async def aclose(self) -> None:
        self.log.append("closed")

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text="mounted")


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Generator[None, None, None]:
    """Set these variables, and unset all others that configure proxies."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.lower().endswith("_proxy") or name == "REQUEST_METHOD":
                patch.delenv(name)
        for name, text in variables.items():
            patch.setenv(name, text)
        yield


def new_client(arguments: Mapping[str, Any]) -> tuple[httpx.AsyncClient, list[Wrapper]]:
    """Return a client of wrapped transports, and the wrappers."""
    wrappers: list[Wrapper] = []

    def wrap(transport: httpx.AsyncBaseTransport) -> Wrapper:
        wrappers.append(Wrapper(transport))
        return wrappers[-1]

    changed = cast(HttpxArguments, dict(arguments))
    make_transports(changed, wrap)
    return httpx.AsyncClient(**changed), wrappers


# --- What serves which URL

URLS = [
    f"{scheme}://{host}/"
    for scheme in ("http", "https")
    for host in (
        *("x.org", "www.x.org", "wwwx.org", "x.org:8080", "www.x.org:8080", "y.org", "localhost", "www.localhost"),
        *("localhost:8080", "127.0.0.1", "10.1.2.3", "10.1.2.3:8080", "10.0.0.0"),
        *("[::1]", "[::1]:8080", "[fe80::1]", "[fe80::]"),
    )
]


def transport_for(client: Any, url: str) -> Any:
    """Return the transport that serves a URL, for which httpx has no public name."""
    return client._transport_for_url(httpx.URL(url))


def description(transport: Any) -> object:
    """Describe a transport by everything that it was made with, and one of the user's by its identity.

    An HTTPTransport that serves requests itself is described by what httpx's is that is made like it.
    """
    made: Any = transport
    if isinstance(transport, HTTPTransport):
        sender = made._wire
        made = as_made_by_httpx(sender) if isinstance(sender, Wire) else sender
    if not isinstance(made, httpx.AsyncHTTPTransport):
        return id(transport)
    pool: object = cast(Any, made)._pool
    facts: dict[str, object] = vars(pool)
    context = cast(ssl.SSLContext, facts["_ssl_context"])
    described = {
        name: repr(value).replace("socks5h", "socks5")  # the same to us
        for name, value in facts.items()
        if name.startswith("_proxy") or isinstance(value, bool | int | float | str | None)
    }
    return type(pool), described, context.verify_mode, context.check_hostname, len(context.get_ca_certs())


def as_made_by_httpx(wire: Any) -> httpx.AsyncHTTPTransport:
    """Return a transport of httpx's with the settings of a wire."""
    pool, connector = wire._pool, wire._connections.connector
    limits = httpx.Limits(
        max_connections=pool.max_connections,
        max_keepalive_connections=pool._max_idle,
        keepalive_expiry=pool._expiry,
    )
    return httpx.AsyncHTTPTransport(
        verify=connector.ssl_context,
        http1=connector.protocols.http1,
        http2=connector.protocols.http2,
        limits=limits,
        proxy=None if connector.proxy is None else as_named_by_users(connector.proxy),
        local_address=connector.opener.local_address,
        retries=connector.retries,
    )


def as_named_by_users(proxy: ProxyServer) -> httpx.Proxy:
    """Return what httpx has for a proxy."""
    user = proxy.credentials
    auth = None if user is None else (user.user.decode(), user.password.decode())
    return httpx.Proxy(proxy.origin.url, headers=dict(proxy.headers), auth=auth)


def unwrapped(transport: Any) -> Any:
    """Return what is inside the wrapper, which must be there exactly once."""
    assert type(transport) is Wrapper
    assert type(transport.wrapped) is not Wrapper
    return transport.wrapped


def outcome(make: Callable[[], tuple[httpx.AsyncClient, Callable[[Any], Any]]]) -> object:
    """Return which transport serves which URL, which of the URLs share one, or the error that is raised instead."""
    try:
        client, unwrap = make()
    except Exception as error:
        return type(error), str(error)
    serving = {url: unwrap(transport_for(client, url)) for url in URLS}
    descriptions = {id(transport): description(transport) for transport in serving.values()}
    seen: list[int] = []
    for transport in serving.values():
        if id(transport) not in seen:
            seen.append(id(transport))
    return [(url, descriptions[id(serving[url])], seen.index(id(serving[url]))) for url in URLS]


def compare(variables: Mapping[str, str], arguments: Mapping[str, Any]) -> object:
    """Check that both clients have the same outcome, and return it."""
    with environment(variables):
        expected = outcome(lambda: (httpx.AsyncClient(**arguments), lambda transport: transport))
        assert outcome(lambda: (new_client(arguments)[0], unwrapped)) == expected
    return expected


P, Q, R = "http://proxy-p:1", "http://proxy-q:2", "http://proxy-r:3"
ALL = {"ALL_PROXY": P}

ENVIRONMENTS: dict[str, dict[str, str]] = {
    "none": {},
    "http": {"HTTP_PROXY": P},
    "https": {"HTTPS_PROXY": P},
    "all": ALL,
    "each": {"HTTP_PROXY": P, "HTTPS_PROXY": Q, "ALL_PROXY": R},
    "lower case": {"http_proxy": P, "https_proxy": Q},
    "lower case first": {"http_proxy": P, "HTTP_PROXY": Q},
    "empty": {"HTTP_PROXY": "", "ALL_PROXY": P},
    "lower case empties it": {"http_proxy": "", "HTTP_PROXY": P},
    "socks userinfo": {"ALL_PROXY": "socks5://user:pw@proxy-p:1"},
    "no scheme": {"HTTP_PROXY": "proxy-p:1"},
    "userinfo": {"HTTP_PROXY": "http://user:p%40ss@proxy-p:1", "HTTPS_PROXY": "user:pw@proxy-p:1"},
    "https proxy": {"ALL_PROXY": "https://proxy-p:1"},
    "CGI": {"HTTP_PROXY": P, "HTTPS_PROXY": Q, "REQUEST_METHOD": "GET"},
    "not HTTP": {"FTP_PROXY": P, "TRAVIS_APT_PROXY": P},
    "no_proxy alone": {"NO_PROXY": "x.org"},
    "no_proxy lower case": {**ALL, "no_proxy": "x.org"},
    "socks": {"ALL_PROXY": "socks5://proxy-p:1"},
    "socks5h": {"HTTP_PROXY": "socks5h://proxy-p:1"},
    "unknown scheme": {"HTTP_PROXY": "gopher://proxy-p:1"},
    "bad port": {"HTTP_PROXY": "http://proxy-p:x"},
}

# Some are patterns for httpx, some only for httpx2, and some are errors in the former and ignored by the latter.
ENTRIES = (
    *("*", "", "x.org", ".x.org", "*.x.org", "*x.org", "*.", "X.ORG", "org", "x.org:8080", ".x.org:8080", "x.org/a"),
    *("localhost", "LocalHost", "localhost:8080", "127.0.0.1", "10.0.0.0/8", "10.0.0.0", "10.1.2.3:8080"),
    *("10.0.0.0/33", "10.0.0.0/x", "10.0.0.0/", "::1", "[::1]", "[::1]:8080", "[::1]:x", "[", "fe80::/10"),
    *("[fe80::]/10", "fe80::/x", "fe80::1%eth0", "::/0", "0.0.0.0/0", "http://x.org", "https://", "http://10.0.0.0/8"),
    *("all://*", "://", "http://[", "a b", "\u00e9.org", "%00", "1.2.3"),
)


@each_row("name", ENVIRONMENTS)
def test_the_environments_proxies(name: str) -> None:
    """The environment's proxies serve the same URLs as in httpx, with the same arguments."""
    compare(ENVIRONMENTS[name], {"verify": False})


def test_the_systems_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has proxies, as on macOS and Windows, they count though the environment names none."""
    monkeypatch.setattr(routing, "getproxies", lambda: {"http": P})
    arguments = HttpxArguments()
    with environment({}):
        make_transports(arguments)
    assert list(arguments.get("mounts") or ()) == ["http://"]


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_proxy(entry: str) -> None:
    """Each form of an entry of NO_PROXY, alone and among others, excludes the same URLs as in httpx."""
    compare({**ALL, "NO_PROXY": entry}, {"verify": False})
    compare({**ALL, "HTTP_PROXY": Q, "NO_PROXY": f"y.org, {entry} ,,localhost"}, {"verify": False})


@given(entries=st.lists(st.sampled_from(ENTRIES) | st.text("*.:/[]%19ax ", max_size=6), max_size=4))
@settings(max_examples=25)
def test_any_no_proxy(entries: list[str]) -> None:
    """So does any list of entries."""
    compare({**ALL, "HTTPS_PROXY": Q, "NO_PROXY": ",".join(entries)}, {"verify": False})


MOUNTED, OTHER = Mounted(), Mounted()
CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

ARGUMENTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "no environment": {"trust_env": False},
    "environment": {"trust_env": True},
    "no HTTP/1": {"http1": False, "http2": True},
    "HTTP/2": {"http2": True},
    "limits": {"limits": httpx.Limits(max_connections=7, max_keepalive_connections=3, keepalive_expiry=2)},
    "context": {"verify": CONTEXT},
    "proxy": {"proxy": Q},
    "proxy as URL": {"proxy": httpx.URL(Q)},
    "proxy as Proxy": {"proxy": httpx.Proxy(Q, auth=("user", "pw"), headers={"X-A": "1"})},
    "proxy, no environment": {"proxy": Q, "trust_env": False},
    "proxy with limits": {"proxy": Q, "limits": httpx.Limits(max_connections=7), "http2": True},
    "no proxy": {"proxy": None},
    "transport": {"transport": MOUNTED},
    "no transport": {"transport": None},
    "transport and proxy": {"transport": MOUNTED, "proxy": Q},
    "mounts": {"mounts": {"http://": MOUNTED, "all://x.org": OTHER}},
    "no mounts": {"mounts": None},
    "empty mounts": {"mounts": {}},
    "mounts that spare": {"mounts": {"all://x.org": None, "https://": None}},
    "mount in place of the proxy": {"mounts": {"all://": MOUNTED}, "proxy": Q},
    "mount without the proxy": {"mounts": {"all://": None}, "proxy": Q},
    "mounts and proxy": {"mounts": {"https://*.x.org": MOUNTED, "all://localhost:8080": None}, "proxy": Q},
    "mount in place of NO_PROXY": {"mounts": {"all://*x.org": MOUNTED}},
    "mounts that tie": {"mounts": {"http://y.org": MOUNTED, "http://*x.org": OTHER, "all://10.1.2.3": MOUNTED}},
    "one transport, many mounts": {"mounts": {"http://": MOUNTED, "all://x.org": MOUNTED}},
    "one transport for all": {"transport": MOUNTED, "mounts": {"http://": MOUNTED, "https://": None}},
    "mount of httpx's": {"mounts": {"http://": httpx.AsyncHTTPTransport(verify=False, http2=True)}},
    "all of them": {"transport": MOUNTED, "mounts": {"http://x.org": OTHER, "https://x.org": None}, "proxy": Q},
    "unused verify": {"transport": MOUNTED, "verify": "/nowhere"},
}

INVALID: dict[str, dict[str, Any]] = {
    "proxy of an unknown scheme": {"proxy": "gopher://proxy-p:1"},
    "proxy without a scheme": {"proxy": "proxy-p:1"},
    "empty proxy": {"proxy": ""},
    "proxy that is no proxy": {"proxy": 5},
    "proxy next to a transport": {"transport": MOUNTED, "proxy": "gopher://proxy-p:1"},
    "mount of a plain scheme": {"mounts": {"http": MOUNTED}},
    "mount that is no URL": {"mounts": {"http://[::1": MOUNTED, "all://x:y": MOUNTED}},
    "mounts that are no mapping": {"mounts": [("http://", MOUNTED)]},
    "limits that are none": {"limits": 5},
    "certificate that is missing": {"cert": "/nowhere"},
    "certificates that are missing": {"verify": "/nowhere"},
    "event hooks that are none": {"event_hooks": 5},
    "unknown argument": {"retries": 5},
}


@each_row("spared", ["", "x.org,10.1.2.3"], ids=["all", "NO_PROXY"])
@each_row("name", ARGUMENTS)
def test_the_arguments(name: str, spared: str) -> None:
    """Each argument affects which transport serves which URL as in httpx, beside the environment's proxies."""
    done = compare({**ALL, "NO_PROXY": spared}, {"verify": False, **ARGUMENTS[name]})
    assert isinstance(done, list)


@pytest.mark.filterwarnings("ignore:`(cert|verify)=:DeprecationWarning")
@each_row("name", INVALID)
def test_the_errors(name: str) -> None:
    """Invalid arguments raise httpx's own errors."""
    done = compare({}, {"verify": False, **INVALID[name]})
    assert isinstance(done, tuple)


def test_http2_without_h2() -> None:
    """HTTP/2 does not need h2, which httpx's does."""
    with environment({}), pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "h2", None)
        client, wrappers = new_client({"http2": True, "verify": False})
    assert [type(wrapper.wrapped) for wrapper in wrappers] == [HTTPTransport]
    assert not client.is_closed


def test_verification_is_httpxs() -> None:
    """By default, certificates are verified as in httpx."""
    compare(ALL, {})


@pytest.mark.parametrize("trust_env", [False, True])
def test_the_environments_certificates(*, trust_env: bool) -> None:
    """SSL_CERT_FILE is used if trust_env is true: a file without certificates is an error then."""
    done = compare({"SSL_CERT_FILE": __file__}, {"trust_env": trust_env})
    assert isinstance(done, tuple) is trust_env


def test_proxies_is_rejected() -> None:
    """The old argument, which httpx 0.27 still accepts, is rejected: its transports would not be wrapped."""
    with pytest.raises(TypeError, match="proxies= is not supported"):
        new_client({"proxies": {"all://": P}})


# --- What is wrapped, and how often


@each_row(
    ("arguments", "count"),
    [
        ({}, 2),
        ({"trust_env": False}, 1),
        ({"proxy": Q}, 2),
        ({"transport": MOUNTED}, 1),
        ({"transport": MOUNTED, "proxy": Q}, 2),
        ({"transport": MOUNTED, "mounts": {"http://": MOUNTED, "https://": MOUNTED, "all://x.org": None}}, 1),
        ({"transport": MOUNTED, "mounts": {"http://": OTHER, "https://": OTHER}}, 2),
        ({"mounts": {"all://": MOUNTED}}, 2),
        ({"mounts": {"all://": None}}, 1),
    ],
)
def test_each_transport_is_wrapped_once(arguments: dict[str, Any], count: int) -> None:
    """Each transport that serves anything is wrapped once, even if it is mounted several times."""
    with environment(ALL):
        client, wrappers = new_client({"verify": False, **arguments})
    assert len(wrappers) == count
    held: Any = client
    assert {id(each) for each in (held._transport, *held._mounts.values()) if each is not None} == set(
        map(id, wrappers)
    )


def test_the_client_makes_no_transports() -> None:
    """The arguments that make transports are replaced, and the others stay."""
    mounts = {"http://": MOUNTED}
    arguments: HttpxArguments = {"proxy": Q, "mounts": mounts, "verify": False, "timeout": 3, "trust_env": False}
    make_transports(arguments, Wrapper)
    assert set(arguments) == {"transport", "mounts", "verify", "timeout", "trust_env"}
    assert set(arguments["mounts"] or ()) == {"all://", "http://"}
    assert list(mounts) == ["http://"]
    assert mounts["http://"] is MOUNTED


def test_a_wrapper_that_fails() -> None:
    """If wrapping a transport fails, the arguments are not changed."""

    def refuse(_: httpx.AsyncBaseTransport) -> httpx.AsyncBaseTransport:
        raise ValueError("no")

    arguments: HttpxArguments = {"proxy": Q, "verify": False}
    with pytest.raises(ValueError, match="no"):
        make_transports(arguments, refuse)
    assert arguments == {"proxy": Q, "verify": False}


@pytest.mark.anyio
async def test_transports_are_entered_and_left_as_in_httpx() -> None:
    """Each transport is entered and left through its wrapper as often as in httpx."""
    logs: list[tuple[list[str], list[str]]] = []
    for is_wrapped in (False, True):
        default, mounted = Mounted(), Mounted()
        mounts = {"http://": mounted, "https://": mounted, "all://x.org": default, "all://y.org": None}
        arguments: dict[str, Any] = {"transport": default, "mounts": mounts}
        with anyio.fail_after(5):
            async with new_client(arguments)[0] if is_wrapped else httpx.AsyncClient(**arguments):
                pass
        logs.append((default.log, mounted.log))
    assert logs[0] == logs[1]
    assert "closed" in logs[1][0]


# --- NO_PROXY in each library

PATTERNS: dict[str, tuple[str | None, str | None]] = {
    "x.org": ("all://*x.org", "all://*x.org"),
    ".x.org": ("all://*.x.org", "all://*.x.org"),
    "*.x.org": ("all://**.x.org", "all://*.x.org"),
    "localhost": ("all://localhost", "all://localhost"),
    "127.0.0.1": ("all://127.0.0.1", "all://127.0.0.1"),
    "10.0.0.0/8": ("all://10.0.0.0/8", "all://10.0.0.0/8"),
    "::1": ("all://[::1]", "all://[::1]"),
    "fe80::1/10": ("all://[fe80::1/10]", "all://[fe80::1]/10"),
    "[::1]:80": ("all://*[::1]:80", "all://[::1]:80"),
    "[::1]:x": ("all://*[::1]:x", None),
    "x.org/a": ("all://*x.org/a", None),
    "10.0.0.0:x": ("all://*10.0.0.0:x", None),
    "": (None, None),
    "https://x.org": ("https://x.org", "https://x.org"),
}


@each_row("entry", PATTERNS)
def test_patterns(entry: str) -> None:
    """Each entry of NO_PROXY makes the same pattern as in httpx, or in httpx2; None: it is ignored."""
    for has_networks, pattern in zip((False, True), PATTERNS[entry], strict=True):
        expected = {} if pattern is None else {pattern: None}
        assert environment_proxies({"no": entry}, has_networks=has_networks) == expected


# --- Over loopback


@pytest.mark.anyio
async def test_a_request_goes_to_the_environments_proxy() -> None:
    """An http:// request is sent to the proxy, with the URL as its target and with the proxy's credentials."""
    async with raw_server(answer(body=b"proxied")) as proxy:
        with environment({"HTTP_PROXY": f"http://user:pw@127.0.0.1:{proxy.port}"}):
            client, wrappers = new_client({})
        async with client:
            response = await client.get("http://x.invalid/path?q=1")
    assert response.text == "proxied"
    assert [request.target for request in proxy.requests] == ["http://x.invalid/path?q=1"]
    assert proxy.requests[0].headers["proxy-authorization"] == "Basic dXNlcjpwdw=="
    assert [wrapper.urls for wrapper in wrappers if wrapper.urls] == [["http://x.invalid/path?q=1"]]


@pytest.mark.anyio
async def test_an_https_request_asks_the_proxy_for_a_tunnel() -> None:
    """An https:// request asks the proxy for a tunnel, and a rejection is httpx's error."""
    async with raw_server(answer(403)) as proxy:
        with environment({"HTTPS_PROXY": proxy.url}):
            client, _ = new_client({})
        async with client:
            with pytest.raises(httpx.ProxyError):
                await client.get("https://x.invalid/")
    assert [(request.method, request.target) for request in proxy.requests] == [("CONNECT", "x.invalid:443")]


@pytest.mark.anyio
@each_row(
    ("variables", "arguments"),
    [
        ({"NO_PROXY": "127.0.0.1"}, {}),
        ({"NO_PROXY": "*"}, {}),
        ({}, {"trust_env": False}),
        ({}, {"mounts": {"all://127.0.0.1": None}}),
    ],
    ids=["NO_PROXY", "NO_PROXY=*", "trust_env", "mounts"],
)
async def test_a_request_without_a_proxy(variables: dict[str, str], arguments: dict[str, Any]) -> None:
    """A request that is excluded from the proxy is sent to the server itself."""
    async with raw_server(answer()) as proxy, raw_server(answer(body=b"direct")) as server:
        with environment({"HTTP_PROXY": proxy.url, **variables}):
            client, wrappers = new_client(arguments)
        async with client:
            response = await client.get(server.url)
    assert response.text == "direct"
    assert [request.target for request in server.requests] == ["/"]
    assert proxy.requests == []
    assert [wrapper.urls for wrapper in wrappers if wrapper.urls] == [[server.url]]


@pytest.mark.anyio
async def test_the_proxy_of_the_client() -> None:
    """proxy= replaces the environment's proxies, and mounts= takes precedence over it."""
    async with raw_server(answer()) as other, raw_server(answer(body=b"proxied")) as proxy:
        with environment({"HTTP_PROXY": other.url}):
            client, wrappers = new_client({"proxy": proxy.url, "mounts": {"all://y.invalid": Mounted()}})
        async with client:
            texts = [(await client.get(f"http://{host}.invalid/")).text for host in "xyx"]
    assert texts == ["proxied", "mounted", "proxied"]
    assert [request.target for request in proxy.requests] == ["http://x.invalid/"] * 2
    assert proxy.connections == 1
    assert other.requests == []
    assert sorted(url for wrapper in wrappers for url in wrapper.urls) == [
        "http://x.invalid/",
        "http://x.invalid/",
        "http://y.invalid/",
    ]
