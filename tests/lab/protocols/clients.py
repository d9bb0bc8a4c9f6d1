"""One client of each protocol: connects, asks, and reads to the end of the answer, as slowly as it is told.

All of them block; a play runs them in a thread.
"""

import http.client
import os
import queue
import socket
import ssl
import time
from collections.abc import Callable

# Small, so that what a slow reader has not read waits at the server.
RECEIVE_BUFFER = 65536
PIECE = 16384
# Longer than any play: a client that hangs ends with an error, and not never.
PATIENCE = 60

# What is done after each piece of that many bytes: nothing, or a pause.
Pace = Callable[[int], None]


def at_once(_: int) -> None:
    pass


class Client:
    # What it has been told to send is on its way by then.
    sends_within = 0.0

    def __init__(self, address: tuple[str, int]):
        self.address = address
        # When the last byte of the last answer was read.
        self.last = 0.0

    def connect(self) -> None:
        raise NotImplementedError

    def ask(self, target: str) -> None:
        """Sends a request, all of it."""
        raise NotImplementedError

    def upload(self, pieces: int, sent: Callable[[], None]) -> None:
        """Sends a request whose body takes its time; `sent` is called after each piece."""
        raise NotImplementedError

    def take(self, pace: Pace) -> None:
        """Reads an answer to its end, or raises an error."""
        raise NotImplementedError

    def half_close(self) -> None:
        """Says that it will send no more; not in every protocol."""
        raise NotImplementedError

    def read(self, pace: Pace = at_once) -> None:
        self.take(pace)
        self.last = time.monotonic()

    def open(self) -> socket.socket:
        opened = socket.socket()
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.settimeout(PATIENCE)
        opened.connect(self.address)
        return opened


class Http(Client):
    def connect(self) -> None:
        self.connection = http.client.HTTPConnection(*self.address)
        self.connection.sock = self.open()

    def ask(self, target: str) -> None:
        self.connection.request("GET", target)

    def upload(self, pieces: int, sent: Callable[[], None]) -> None:
        def body():
            for _ in range(pieces):
                yield bytes(1000)
                sent()

        self.connection.request("POST", "/upload", body(), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})

    def take(self, pace: Pace) -> None:
        response = self.connection.getresponse()
        assert response.status == 200, response.status
        while piece := response.read(PIECE):
            pace(len(piece))

    def half_close(self) -> None:
        # Below TLS, which has nothing of the kind.
        with socket.socket(fileno=os.dup(self.connection.sock.fileno())) as same:
            same.shutdown(socket.SHUT_WR)


class Https(Http):
    def connect(self) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.connection = http.client.HTTPConnection(*self.address)
        self.connection.sock = context.wrap_socket(self.open())


class H2c(Client):
    def connect(self) -> None:
        from h2.connection import H2Connection

        self.socket, self.state = self.open(), H2Connection()
        self.state.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.socket.sendall(self.state.data_to_send())

    def begin(self, target: str, over: bool) -> None:
        self.stream = self.state.get_next_available_stream_id()
        method = "GET" if over else "POST"
        headers = {":method": method, ":path": target, ":scheme": "http", ":authority": "app"}
        self.state.send_headers(self.stream, headers.items(), end_stream=over)
        self.flush()

    def ask(self, target: str) -> None:
        self.begin(target, over=True)

    def upload(self, pieces: int, sent: Callable[[], None]) -> None:
        self.begin("/upload", over=False)
        for _ in range(pieces):
            self.state.send_data(self.stream, bytes(1000))
            self.flush()
            sent()
        self.state.end_stream(self.stream)
        self.flush()

    def take(self, pace: Pace) -> None:
        from h2 import events

        while True:
            received = self.socket.recv(PIECE)
            if not received:
                raise ConnectionError("hung up")
            over = False
            for event in self.state.receive_data(received):
                if isinstance(event, events.DataReceived):
                    pace(len(event.data))
                    self.state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                over |= isinstance(event, events.StreamEnded)
                if isinstance(event, (events.StreamReset, events.ConnectionTerminated)):
                    raise ConnectionError(f"{event}")
            self.flush()
            if over:
                return

    def half_close(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)


class Grpc(Client):
    # A thread of its own sends.
    sends_within = 1.0

    def connect(self) -> None:
        import grpc

        # Each play has a network of its own, but all have the same addresses.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        self.channel = grpc.insecure_channel("%s:%d" % self.address, options)
        self.call = self.channel.stream_stream("/app.App/Call")

    def ask(self, target: str) -> None:
        self.answer = self.call(iter([target.encode()]), timeout=PATIENCE, wait_for_ready=True)

    def upload(self, pieces: int, sent: Callable[[], None]) -> None:
        to_send: queue.Queue[bytes | None] = queue.Queue()
        to_send.put(b"/upload")
        self.answer = self.call(iter(to_send.get, None), timeout=PATIENCE)
        for _ in range(pieces):
            to_send.put(bytes(1000))
            sent()
        to_send.put(None)

    def take(self, pace: Pace) -> None:
        for part in self.answer:
            pace(len(part))


class WebSocket(Client):
    def connect(self) -> None:
        from websockets.sync.client import connect

        self.connection = connect("ws://app/", sock=self.open(), compression=None, max_queue=1)

    def ask(self, target: str) -> None:
        self.connection.send(target)

    def upload(self, pieces: int, sent: Callable[[], None]) -> None:
        self.connection.send("/upload")
        for _ in range(pieces):
            self.connection.send(bytes(1000))
            sent()
        self.connection.send(b"end")

    def take(self, pace: Pace) -> None:
        while True:
            part = self.connection.recv(timeout=PATIENCE)
            if part == b"end":
                return
            pace(len(part))
