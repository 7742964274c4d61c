"""The arguments of httpx.AsyncClient and of its methods, typed. httpx has no public names for these types."""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import Callable, Mapping
from typing import Concatenate, ParamSpec, TypedDict, TypeVar

import httpx

from prefect_http._retry.policy import RetryPolicy
from prefect_http._types import Auth, Certificate, Content, Cookies, Files, Headers, QueryParams, Timeout

P = ParamSpec("P")
Client = TypeVar("Client")
Returned = TypeVar("Returned")

_OF_POLICY = frozenset(field.name for field in dataclasses.fields(RetryPolicy))


class HttpxArguments(TypedDict, total=False):
    """Every keyword of httpx.AsyncClient, with httpx's meaning and default."""

    auth: Auth | None
    params: QueryParams | None
    headers: Headers | None
    cookies: Cookies | None
    verify: ssl.SSLContext | str | bool
    cert: Certificate | None
    http1: bool
    http2: bool
    proxy: httpx.URL | str | httpx.Proxy | None
    mounts: Mapping[str, httpx.AsyncBaseTransport | None] | None
    timeout: Timeout
    follow_redirects: bool
    limits: httpx.Limits
    max_redirects: int
    event_hooks: Mapping[str, list[Callable[..., object]]] | None
    base_url: httpx.URL | str
    transport: httpx.AsyncBaseTransport | None
    trust_env: bool
    default_encoding: str | Callable[[bytes], str]


class RequestArguments(TypedDict, total=False):
    """Keywords of every verb, with httpx's meaning and default."""

    params: QueryParams | None
    headers: Headers | None
    cookies: Cookies | None
    auth: Auth | None
    follow_redirects: bool
    timeout: Timeout
    extensions: Mapping[str, object] | None


class BodyArguments(RequestArguments, total=False):
    """Keywords of the verbs that send a body, with httpx's meaning and default."""

    content: Content | None
    data: Mapping[str, object] | None
    files: Files | None
    json: object


def refuse_unknown(arguments: HttpxArguments) -> None:
    """Refuse what is not in ``HttpxArguments``, even if a newer httpx.AsyncClient knows it.

    That would only pass it on to transports that it makes itself, and it makes none here, so it would have no effect.

    Raises:
        TypeError: there is an unknown argument.
    """
    for name in arguments.keys() - HttpxArguments.__annotations__.keys():
        field = "max_retries" if name == "retries" else name
        hint = f"; use retry=RetryPolicy({field}=...)" if field in _OF_POLICY else ""
        raise TypeError(f"PrefectHttpxClient() got an unexpected keyword argument {name!r}{hint}")


def with_parameters_of(
    method: Callable[Concatenate[Client, P], object],
) -> Callable[[Callable[..., Returned]], Callable[Concatenate[Client, P], Returned]]:
    """Return a decorator that declares a method with the parameters of another, and its own return type.

    So they are those of whatever httpx is installed. At run time the method stays as it is.
    """
    return lambda decorated: decorated
