"""Random conversations with `h2` as the server: what one side sends arrives, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import random
from collections import defaultdict
from collections.abc import Generator
from typing import NamedTuple

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from prefect_http._wire.h2.connection import H2Connection
from prefect_http._wire.h2.errors import FailureKind
from prefect_http._wire.h2.request_fields import request_fields
from prefect_http._wire.h2.settings import CONNECTION_WINDOW, STREAM_WINDOW
from prefect_http._wire.h2.stream import Stream

# The same examples each time, so that no unrelated change fails; HTTP_FUZZ=50000 looks for new ones.
_EXAMPLES = int(os.environ.get("HTTP_FUZZ", "0"))
FUZZ = settings(
    max_examples=_EXAMPLES or 6,
    derandomize=not _EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # a failing seed need not be small
)

S = h2.settings.SettingCodes
SIZES = (0, 1, 100, 5_000, 70_000, 300_000)
SETTINGS: tuple[dict[S | int, int], ...] = (
    {S.INITIAL_WINDOW_SIZE: 0},
    {S.INITIAL_WINDOW_SIZE: 10},
    {S.INITIAL_WINDOW_SIZE: 1_000},
    {S.INITIAL_WINDOW_SIZE: 200_000},
    {S.MAX_CONCURRENT_STREAMS: 0},
    {S.MAX_CONCURRENT_STREAMS: 2},
    {S.MAX_CONCURRENT_STREAMS: 50},
    {S.HEADER_TABLE_SIZE: 0},
    {S.HEADER_TABLE_SIZE: 300},
    {S.HEADER_TABLE_SIZE: 4096},
    {S.MAX_HEADER_LIST_SIZE: 50_000},
)


class Call(NamedTuple):
    """A request, what is to be sent, and what is to be answered."""

    stream: Stream
    upload: bytes
    answer: bytes
    has_trailers: bool
    received: bytearray


class Conversation:
    """A client, a server, and the bytes between them, which arrive in random pieces."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.client = H2Connection()
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self.server = h2.connection.H2Connection(config)
        self.server.initiate_connection()
        self.to_server, self.to_client = bytearray(), bytearray()
        self.calls: dict[int, Call] = {}
        self.cancelled: set[int] = set()
        self.uploaded: defaultdict[int, bytearray] = defaultdict(bytearray)
        self.upload_left: dict[int, bytes] = {}
        self.answering: dict[int, bytes] = {}  # what the server has not sent yet
        self.refused: set[int] = set()
        self.unacknowledged: list[tuple[int, int]] = []
        self.may_change_settings = False  # h2 takes the first acknowledgement for one of all that it has changed

    # --- The client

    def request(self) -> None:
        if not self.client.free_streams:
            return
        upload = self.random.randbytes(self.random.choice(SIZES))
        answer = self.random.randbytes(self.random.choice(SIZES))
        headers = [(b"Host", b"a"), (b"X-Number", b"%d" % self.random.randrange(5))]
        fields = request_fields(b"POST", b"https", b"/", headers)
        stream = self.client.send_request(fields, end_stream=not upload, wake=lambda: None)
        self.calls[stream.id] = Call(stream, upload, answer, self.random.random() < 0.3, bytearray())
        self.upload_left[stream.id] = upload

    def upload(self) -> None:
        for number, left in list(self.upload_left.items()):
            stream = self.calls[number].stream
            if not left or stream.is_request_complete or number in self.cancelled:
                del self.upload_left[number]
            elif not stream.unsent:
                size = self.random.choice((1, 1_000, 100_000))
                self.client.send_body(stream, left[:size], end_stream=len(left) <= size)
                self.upload_left[number] = left[size:]

    def read(self, share: float = 0.5) -> None:
        for call in self.calls.values():
            if self.random.random() < share:
                call.received.extend(self.client.take_body(call.stream))

    def cancel(self) -> None:
        stream = self.random.choice(list(self.calls.values())).stream if self.calls else None
        if stream is not None and not stream.is_finished:
            self.client.cancel(stream)
            self.cancelled.add(stream.id)

    def send(self) -> None:
        has_data = self.client.has_data_to_send
        data = self.client.data_to_send(self.random.choice((1, 65_536)))
        assert has_data == bool(data)
        self.to_server += data

    # --- The server

    def serve(self, whole: bool = False) -> None:
        size = len(self.to_server) if whole else self.random.choice((1, 10, 1_000, 100_000))
        piece = bytes(self.to_server[:size])
        del self.to_server[:size]
        for event in self.server.receive_data(piece):
            match event:
                case h2.events.RequestReceived():
                    assert event.stream_id in self.calls
                    if self.random.random() < 0.1:
                        self.refuse(event.stream_id)
                case h2.events.DataReceived():
                    self.uploaded[event.stream_id] += event.data
                    self.unacknowledged.append((event.flow_controlled_length, event.stream_id))
                case h2.events.StreamEnded():
                    if event.stream_id not in self.refused:
                        with self.unless_cancelled(event.stream_id):
                            self.begin_answer(event.stream_id)
                case h2.events.SettingsAcknowledged():
                    self.may_change_settings = True
                case h2.events.StreamReset():
                    self.answering.pop(event.stream_id, None)
                case _:
                    pass

    @contextlib.contextmanager
    def unless_cancelled(self, number: int) -> Generator[None]:
        """Let the server fail to send on a stream that the client has cancelled."""
        try:
            yield
        except h2.exceptions.ProtocolError:
            if number not in self.cancelled:
                raise
            self.answering.pop(number, None)

    def refuse(self, number: int) -> None:
        self.refused.add(number)
        with self.unless_cancelled(number):
            self.server.reset_stream(number, h2.errors.ErrorCodes.REFUSED_STREAM)

    def begin_answer(self, number: int) -> None:
        answer = self.calls[number].answer
        if self.random.random() < 0.2:
            self.server.send_headers(number, [(":status", "103"), ("link", "x")])
        # More than a frame takes.
        big = [("x-big", f"{at}" + "y" * 600) for at in range(self.random.choice((0, 0, 0, 40)))]
        headers = [(":status", "200"), ("x-number", str(number)), *big]
        if self.random.random() < 0.5:
            headers.append(("content-length", str(len(answer))))
        ends = not answer and not self.calls[number].has_trailers
        self.server.send_headers(number, headers, end_stream=ends)
        if not ends:
            self.answering[number] = answer

    def answer(self) -> None:
        for number in list(self.answering):
            with self.unless_cancelled(number):
                self.answer_one(number)

    def answer_one(self, number: int) -> None:
        left, call = self.answering[number], self.calls[number]
        room = min(self.server.local_flow_control_window(number), self.server.max_outbound_frame_size)
        size = min(room, len(left), self.random.choice((1, 1_000, 20_000)))
        if left and size <= 0:
            return
        is_last = len(left) <= size
        padding = self.random.choice((None, None, 5)) if room >= size + 6 else None
        self.server.send_data(number, left[:size], end_stream=is_last and not call.has_trailers, pad_length=padding)
        self.answering[number] = left[size:]
        if is_last:
            del self.answering[number]
            if call.has_trailers:
                self.server.send_headers(number, [("x-end", str(number))], end_stream=True)

    def acknowledge(self) -> None:
        for size, number in self.unacknowledged:
            with contextlib.suppress(h2.exceptions.StreamClosedError):
                self.server.acknowledge_received_data(size, number)
        self.unacknowledged.clear()

    def change_settings(self, settings: dict[S | int, int] | None = None) -> None:
        if self.may_change_settings:
            self.may_change_settings = False
            self.server.update_settings(settings or self.random.choice(SETTINGS))

    def ping(self) -> None:
        self.server.ping(self.random.randbytes(8))

    def deliver(self, whole: bool = False) -> None:
        self.to_client += self.server.data_to_send()
        size = len(self.to_client) if whole else self.random.choice((1, 10, 1_000, 100_000))
        self.client.receive(bytes(self.to_client[:size]))
        del self.to_client[:size]
        for stream in self.client.take_changed():
            assert stream.id not in self.cancelled
        assert self.client.error is None

    # --- Both

    def step(self) -> None:
        weights = {
            self.request: 4,
            self.upload: 6,
            self.read: 4,
            self.cancel: 1,
            self.send: 8,
            self.serve: 8,
            self.answer: 8,
            self.acknowledge: 4,
            self.change_settings: 1,
            self.ping: 1,
            self.deliver: 8,
        }
        self.random.choices(list(weights), list(weights.values()))[0]()

    def finish(self) -> None:
        """Let all that is open come to its end."""
        for _ in range(2_000):
            if self.server.local_settings.initial_window_size < 1_000_000:
                self.change_settings({S.INITIAL_WINDOW_SIZE: 1_000_000})
            self.upload()
            self.send()
            self.serve(whole=True)
            self.acknowledge()
            self.answer()
            self.deliver(whole=True)
            self.read(share=1)
            if not (self.client.open_streams or self.client.has_data_to_send or self.client.is_ping_pending):
                return
        raise AssertionError("it does not come to an end")

    def check(self) -> None:
        for number, call in self.calls.items():
            stream = call.stream
            if number in self.cancelled:
                continue
            if number in self.refused:
                assert stream.failure is not None
                assert stream.failure.kind is FailureKind.NEVER_PROCESSED
                continue
            assert stream.is_complete
            assert stream.failure is None
            assert self.uploaded[number] == call.upload
            assert call.received == call.answer
            assert dict(stream.headers)[b"x-number"] == b"%d" % number
            assert stream.trailers == ([(b"x-end", b"%d" % number)] if call.has_trailers else None)
            assert (stream.unsent, stream.has_body) == (0, False)
        assert self.client.open_streams == 0
        assert self.client.free_streams == self.server.local_settings.max_concurrent_streams
        # Both sides agree on the windows.
        assert CONNECTION_WINDOW // 2 < self.server.outbound_flow_control_window <= CONNECTION_WINDOW
        assert self.client.send_window == self.server.inbound_flow_control_window
        assert self.server.remote_settings.initial_window_size == STREAM_WINDOW


@FUZZ
@given(seed=st.integers(0, 2**32), steps=st.integers(20, 150))
def test_conversations(seed: int, steps: int) -> None:
    """What either side sends arrives, however it is cut and in whatever order; no stream and no window is left."""
    conversation = Conversation(seed)
    for _ in range(steps):
        conversation.step()
    conversation.finish()
    conversation.check()
