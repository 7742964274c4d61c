"""A stream that reads all that there is, and otherwise is the one that it stands for."""

from __future__ import annotations

import anyio
import anyio.abc
import pytest

from prefect_http._wire.read_ahead_stream import ReadAheadStream

pytestmark = pytest.mark.anyio


async def test_it_reads_all_that_there_is() -> None:
    """However little is asked for, all that has come is given; the rest is the other stream's."""

    async def answer(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            assert await stream.receive() == b"ask"
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
            await stream.send(b"x" * 100)
        tasks.cancel_scope.cancel()

    with anyio.fail_after(5):
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, answer)
                socket = await anyio.connect_tcp("127.0.0.1", port)
                stream = ReadAheadStream(socket, 1000)
                assert stream.extra(anyio.abc.SocketAttribute.remote_port) == port
                await stream.send(b"ask")
                await stream.send_eof()
                assert await stream.receive(1) == b"x" * 100
                await stream.aclose()
                with pytest.raises(anyio.ClosedResourceError):
                    await socket.receive()
