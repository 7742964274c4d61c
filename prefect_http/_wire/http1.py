"""The response of an exchange over HTTP/1.1, and how its connection is released."""

from __future__ import annotations

import httpx

from prefect_http._httpx_details import NO_HEADERS, ReadyResponse, hold_whole
from prefect_http._wire.close_reasons import (
    ENDED_RESPONSE,
    REQUEST_CLOSES,
    RESPONSE_CLOSES,
    TRAILING_DATA,
    TUNNEL,
    UNREAD,
    UNSENT,
)
from prefect_http._wire.connections import AnyConnection, Connections
from prefect_http._wire.h1.exchange import Exchange, OutgoingRequest
from prefect_http._wire.h1.response_body import ResponseBody, WholeBody
from prefect_http._wire.h1.response_head import Framing
from prefect_http._wire.network_stream import NetworkStream
from prefect_http._wire.pool_request import PoolRequest

# Every response is compared with these, and Python 3.11 takes 0.2 us to look up a member of an enum.
_TUNNEL, _UNTIL_CLOSE = Framing.TUNNEL, Framing.UNTIL_CLOSE
_CONTENT_TOO_LARGE = 413


def response_of(
    exchange: Exchange,
    request: OutgoingRequest,
    pool_request: PoolRequest[AnyConnection],
    connections: Connections,
    response_class: type[ReadyResponse],
) -> httpx.Response:
    """Return the response of an exchange.

    Args:
        exchange: has received the head of the response.
        request: what was sent.
        pool_request: what holds the connection. If all of the response has arrived, it is released now.
        connections: where to release it.
        response_class: of responses that have arrived whole.
    """
    connection, parser, initial_body = exchange.connection, exchange.parser, exchange.initial_body
    head, may_keep = parser.head, exchange.is_sent and not request.headers.close_after
    assert head is not None

    # Some servers close the connection now without having said so; after a 413, they may (RFC 9110 section 15.5.14).
    pool_request.is_doubtful = head.status >= 500 or head.status == _CONTENT_TOO_LARGE

    extensions: dict[str, object] = {
        "http_version": head.version,
        "reason_phrase": head.reason,
        "network_stream": connection.network_stream,
    }
    if parser.is_complete and request.trace is None and head.framing is not _TUNNEL:
        keep = may_keep and parser.can_reuse_connection
        reason = "" if keep else _why_not_kept(exchange, request)
        connections.release_nowait(pool_request, keep=keep, reason=reason)
        stream = WholeBody(initial_body)
        response = response_class(head.status, headers=NO_HEADERS, stream=stream, extensions=extensions)
        hold_whole(response, head.headers, head.names, initial_body)
        return response

    async def release(can_reuse: bool, failure: str) -> None:
        keep = can_reuse and may_keep
        reason = "" if keep else failure or _why_not_kept(exchange, request)
        await connections.release(pool_request, keep=keep, reason=reason)

    def drop() -> None:
        connections.drop(pool_request)

    read_timeout = request.timeouts.get("read")
    is_refusal = head.status >= 300 and request.body != b"" and head.framing is _UNTIL_CLOSE
    body = ResponseBody(
        connection, parser, initial_body, read_timeout, release, drop, request.trace, may_end_with_reset=is_refusal
    )
    if head.framing is _TUNNEL:
        extensions["network_stream"] = NetworkStream(connection.stream, parser.trailing_data, body)
    return httpx.Response(head.status, headers=head.headers, stream=body, extensions=extensions)


def _why_not_kept(exchange: Exchange, request: OutgoingRequest) -> str:
    """Return why the connection of an exchange that has a response cannot serve another request."""
    parser = exchange.parser
    assert parser.head is not None
    if parser.head.framing is _TUNNEL:
        return TUNNEL
    if not parser.is_complete:
        return UNREAD
    if not exchange.is_sent:
        return UNSENT
    if parser.has_trailing_data:
        return TRAILING_DATA
    if parser.head.framing is _UNTIL_CLOSE:
        return ENDED_RESPONSE
    return REQUEST_CLOSES if request.headers.close_after else RESPONSE_CLOSES
