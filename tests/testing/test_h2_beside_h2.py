"""Random conversations of H2Server with `h2` as the client: what one side sends arrives, and neither breaks a rule."""

from __future__ import annotations

import contextlib
import os
import random
from collections import defaultdict
from collections.abc import Generator

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from prefect_http.testing._events import BodyReceived, RequestBegun, RequestCancelled, RequestEnded
from prefect_http.testing._h2_server import H2Server

# The same examples each time, so that no unrelated change fails; HTTP_FUZZ=50000 looks for new ones.
_EXAMPLES = int(os.environ.get("HTTP_FUZZ", "0"))
FUZZ = settings(
    max_examples=_EXAMPLES or 6,
    derandomize=not _EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
)

S = h2.settings.SettingCodes
SIZES = (0, 1, 100, 5_000, 70_000, 200_000)
SETTINGS: tuple[dict[S | int, int], ...] = (
    {S.INITIAL_WINDOW_SIZE: 0},
    {S.INITIAL_WINDOW_SIZE: 10},
    {S.INITIAL_WINDOW_SIZE: 200_000},
    {S.HEADER_TABLE_SIZE: 0},
    {S.HEADER_TABLE_SIZE: 4096},
    {S.ENABLE_PUSH: 1},
)
MAX_STREAMS = 3


class Conversation:
    """A client, a server, and the bytes between them, which arrive in random pieces."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.may_cancel = self.random.random() < 0.5
        config = h2.config.H2Configuration(client_side=True, header_encoding=None)
        self.client = h2.connection.H2Connection(config)
        self.client.initiate_connection()
        self.server = H2Server(max_concurrent_streams=MAX_STREAMS)
        self.to_server, self.to_client = bytearray(), bytearray()
        self.uploads: dict[int, bytes] = {}
        self.answers: dict[int, bytes] = {}
        self.uploaded: defaultdict[int, bytearray] = defaultdict(bytearray)
        self.answered: defaultdict[int, bytearray] = defaultdict(bytearray)
        self.upload_left: dict[int, bytes] = {}
        self.answer_left: dict[int, bytes] = {}
        self.begun: set[int] = set()
        self.begun_answers: set[int] = set()
        self.complete: set[int] = set()
        self.cancelled: set[int] = set()
        self.reset: set[int] = set()
        self.reset_by_server: set[int] = set()  # the client may have ended it meanwhile
        self.unacknowledged: list[tuple[int, int]] = []
        self.may_change_settings = False  # h2 takes the first acknowledgement for one of all that it has changed

    # --- The client

    def request(self) -> None:
        if self.client.open_outbound_streams >= self.client.remote_settings.max_concurrent_streams:
            return
        number = self.client.get_next_available_stream_id()
        self.uploads[number] = upload = self.random.randbytes(self.random.choice(SIZES))
        self.answers[number] = self.random.randbytes(self.random.choice(SIZES))
        headers = [(":method", "POST"), (":scheme", "https"), (":authority", "a"), (":path", f"/{number}")]
        headers += [("x-big", "y" * 600)] * self.random.choice((0, 0, 40))
        if self.random.random() < 0.5:
            headers.append(("content-length", str(len(upload))))
        self.client.send_headers(number, headers, end_stream=not upload)
        if upload:
            self.upload_left[number] = upload

    def upload(self) -> None:
        for number, left in list(self.upload_left.items()):
            with self.unless_reset(number):
                room = min(self.client.local_flow_control_window(number), self.client.max_outbound_frame_size)
                size = min(room, len(left), self.random.choice((1, 1_000, 20_000)))
                if size <= 0:
                    continue
                is_last = len(left) == size
                has_trailers = is_last and self.random.random() < 0.3
                padding = self.random.choice((None, 5)) if room >= size + 6 else None
                self.client.send_data(number, left[:size], end_stream=is_last and not has_trailers, pad_length=padding)
                self.upload_left[number] = left[size:]
                if has_trailers:
                    self.client.send_headers(number, [("x-end", "1")], end_stream=True)
                if is_last:
                    del self.upload_left[number]

    @contextlib.contextmanager
    def unless_reset(self, number: int) -> Generator[None]:
        """Let the client fail to send on a stream that the server has reset."""
        try:
            yield
        except h2.exceptions.ProtocolError:
            if number not in self.reset:
                raise
            self.upload_left.pop(number, None)

    def cancel(self) -> None:
        open_streams = sorted(self.uploads.keys() - self.complete - self.reset - self.cancelled)
        if open_streams and self.may_cancel:
            number = self.random.choice(open_streams)
            self.client.reset_stream(number, h2.errors.ErrorCodes.CANCEL)
            self.cancelled.add(number)
            self.upload_left.pop(number, None)

    def change_settings(self, changed: dict[S | int, int] | None = None) -> None:
        if self.may_change_settings:
            self.may_change_settings = False
            self.client.update_settings(changed or self.random.choice(SETTINGS))

    def ping(self) -> None:
        self.client.ping(self.random.randbytes(8))

    def acknowledge(self) -> None:
        for size, number in self.unacknowledged:
            with contextlib.suppress(h2.exceptions.StreamClosedError):
                self.client.acknowledge_received_data(size, number)
        self.unacknowledged.clear()

    def receive(self, whole: bool = False) -> None:
        for event in self.client.receive_data(self.piece(self.to_client, whole)):
            match event:
                case h2.events.ResponseReceived():
                    assert (b"x-number", b"%d" % event.stream_id) in event.headers
                case h2.events.DataReceived():
                    self.answered[event.stream_id] += event.data
                    self.unacknowledged.append((event.flow_controlled_length, event.stream_id))
                case h2.events.StreamEnded():
                    self.complete.add(event.stream_id)
                case h2.events.SettingsAcknowledged():
                    self.may_change_settings = True
                case h2.events.StreamReset():
                    self.reset.add(event.stream_id)
                    self.upload_left.pop(event.stream_id, None)
                case _:
                    pass

    def piece(self, data: bytearray, whole: bool) -> bytes:
        """Take a piece of what is on its way."""
        size = len(data) if whole else self.random.choice((1, 10, 1_000, 100_000))
        piece = bytes(data[:size])
        del data[:size]
        return piece

    # --- The server

    def serve(self, whole: bool = False) -> None:
        self.to_server += self.client.data_to_send()
        for event in self.server.receive(self.piece(self.to_server, whole)):
            number = event.stream
            match event:
                case RequestBegun():
                    assert event.target == b"/%d" % number
                    assert event.is_last == (not self.uploads[number])
                    self.begun.add(number)
                    if event.is_last or self.random.random() < 0.2:
                        self.begin_answer(number)
                case BodyReceived():
                    self.uploaded[number] += event.data
                case RequestEnded():
                    assert self.uploaded[number] == self.uploads[number]
                    self.begin_answer(number)
                case RequestCancelled():
                    assert number in self.cancelled
                    self.answer_left.pop(number, None)

    def begin_answer(self, number: int) -> None:
        """Answer a request, unless it has been; some never are."""
        if number in self.begun_answers or self.random.random() < 0.1:
            return
        self.begun_answers.add(number)
        if self.random.random() < 0.2 and not self.may_cancel:  # h2 accepts none on a stream that it has reset
            self.server.send_head(number, 103, [(b"Link", b"x")], is_last=False)
        headers = [(b"X-Number", b"%d" % number), (b"Connection", b"close")]
        headers += [(b"X-Big", b"y" * 600)] * self.random.choice((0, 0, 40))
        answer = self.answers[number]
        self.server.send_head(number, 200, headers, is_last=not answer)
        if answer:
            self.answer_left[number] = answer

    def answer(self) -> None:
        for number, left in list(self.answer_left.items()):
            size = self.random.choice((1, 1_000, 100_000))
            self.server.send_body(number, left[:size])
            self.answer_left[number] = left[size:]
            if len(left) <= size:
                self.server.end(number)
                del self.answer_left[number]

    def reset_one(self) -> None:
        if self.begun:
            number = self.random.choice(sorted(self.begun))
            self.server.reset(number, 2)
            self.reset_by_server.add(number)

    def send(self) -> None:
        self.to_client += self.server.take_output()

    # --- Both

    def step(self) -> None:
        weights = {
            self.request: 4,
            self.upload: 6,
            self.cancel: 1,
            self.change_settings: 1,
            self.ping: 1,
            self.acknowledge: 4,
            self.receive: 8,
            self.serve: 8,
            self.answer: 8,
            self.reset_one: 1,
            self.send: 8,
        }
        self.random.choices(list(weights), list(weights.values()))[0]()

    def finish(self) -> None:
        """Let all that is open come to its end."""
        for _ in range(2_000):
            if self.client.local_settings.initial_window_size < 1_000_000:
                self.change_settings({S.INITIAL_WINDOW_SIZE: 1_000_000})
            self.upload()
            self.serve(whole=True)
            self.answer()
            self.send()
            self.receive(whole=True)
            self.acknowledge()
            self.to_server += self.client.data_to_send()
            self.send()
            is_sending = any(map(self.server.is_sending, self.begun))
            if not (self.upload_left or self.answer_left or self.to_server or self.to_client or is_sending):
                return
        raise AssertionError("it does not come to an end")

    def check(self) -> None:
        for number in self.uploads:
            if number in self.complete:
                assert self.answered[number] == self.answers[number]
            if number not in self.reset | self.reset_by_server | self.cancelled:
                assert self.uploaded[number] == self.uploads[number]
                assert number in self.complete or number not in self.begun_answers


@FUZZ
@given(seed=st.integers(0, 2**32), steps=st.integers(20, 150))
def test_conversations(seed: int, steps: int) -> None:
    """What either side sends arrives, however it is cut and in whatever order."""
    conversation = Conversation(seed)
    for _ in range(steps):
        conversation.step()
    conversation.finish()
    conversation.check()
