"""Stands between the sidecar and moto: counts calls by action, breaks them on demand, and keeps ECS's
token buckets. One proxy a case, each with a port of its own, all in front of the same moto."""

import http.client
import json
import select
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

ECS, ELB = "ecs", "elasticloadbalancing"
MOTO_S = 20
# Longer than the sidecar waits for anything but its deadline.
HANG_S = 60
LOOK_S = 0.1

# ECS developer guide, "Request throttling for the Amazon ECS API": burst and tokens a second of each
# category, for the account and Region. UpdateContainerInstancesState is "UpdateContainerInstancesStates" there.
BUCKETS = {
    "cluster resource read": (100, 20, {"DescribeContainerInstances", "DescribeTasks"}),
    "cluster resource modify": (100, 40, {"StopTask", "UpdateContainerInstancesState"}),
    "service read": (100, 20, {"DescribeServices"}),
    "task definition read": (50, 20, {"DescribeTaskDefinition"}),
}

# What each API says: status, code. (ECS: JSON 1.1, errors are 400. Elastic Load Balancing: query and XML.)
REFUSALS = {
    "500": {ECS: (500, "ServerException", "Server error"), ELB: (500, "InternalFailure", "Server error")},
    "throttling": {ECS: (400, "ThrottlingException", "Rate exceeded"), ELB: (400, "Throttling", "Rate exceeded")},
    "denied": {
        ECS: (400, "AccessDeniedException", "User: {user} is not authorized to perform: {action} on resource: *"),
        ELB: (403, "AccessDenied", "User: {user} is not authorized to perform: {action}"),
    },
    "expired": {
        ECS: (400, "ExpiredTokenException", "The security token included in the request is expired"),
        ELB: (403, "ExpiredToken", "The security token included in the request is expired"),
    },
}
FAULTS = ["time-out", "reset", "500", "503", "throttling", "denied", "expired", "garbage", "trickle"]
USER = "arn:aws:sts::123456789012:assumed-role/task/1"


@dataclass
class Call:
    action: str
    body: str
    key: str
    region: str
    at: float
    headers: dict
    fault: str | None = None
    status: int | None = None
    took_s: float | None = None


@dataclass
class Bucket:
    burst: int
    rate: int
    tokens: float = 0
    at: float = field(default_factory=time.monotonic)

    def __post_init__(self):
        self.tokens = self.burst

    def take(self):
        now = time.monotonic()
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def handle_error(self, request, address):
        """Sidecars hang up as they please."""

    def close(self):
        self.shutdown()
        self.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def body(self):
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def say(self, status, body=b"", content_type="application/json", **headers):
        body = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


class Proxy(Server):
    """`amend(action, request, answer)` may put into moto's answers what moto leaves out."""

    def __init__(self, moto_port, amend=None, buckets=False):
        self.moto_port, self.amend = moto_port, amend
        self.calls, self.throttled, self.lock = [], Counter(), threading.Lock()
        self.kind, self.only = None, None
        self.closing = threading.Event()
        self.buckets = {}
        for burst, rate, actions in BUCKETS.values() if buckets else ():
            self.buckets.update(dict.fromkeys((f"{ECS}:{action}" for action in actions), Bucket(burst, rate)))
        super().__init__(Connection)

    def breaks(self, kind, only=None):
        """From now on these actions fail in this way; `None` is all of them."""
        self.kind, self.only = kind, only

    def counted(self):
        with self.lock:
            return Counter(call.action for call in self.calls)

    def faulted(self):
        with self.lock:
            return [call for call in self.calls if call.fault]

    def in_flight(self):
        with self.lock:
            return [call for call in self.calls if call.took_s is None]

    def enter(self, call):
        with self.lock:
            if self.kind and (self.only is None or call.action in self.only):
                call.fault = self.kind
            bucket = self.buckets.get(call.action)
            if bucket and not bucket.take():
                self.throttled[call.action] += 1
                call.fault = "throttling"
            self.calls.append(call)

    def close(self):
        self.closing.set()
        super().close()


class Connection(Handler):
    """One connection of a sidecar."""

    def do_POST(self):
        body = self.body().decode()
        target = self.headers.get("x-amz-target")
        name = target.split(".")[-1] if target else parse_qs(body).get("Action", ["?"])[0]
        scope = self.headers.get("authorization", "").partition("Credential=")[2].split(",")[0].split("/")
        key, _, region, service = (scope + ["", "", "", ""])[:4]
        self.call = Call(f"{service}:{name}", body, key, region, time.time(), dict(self.headers))
        self.server.enter(self.call)
        try:
            self.answer(service, body)
        except OSError:
            self.close_connection = True
        finally:
            self.call.took_s = time.time() - self.call.at

    def answer(self, service, body):
        kind = self.call.fault
        if kind is None:
            self.forward(body)
        elif kind in REFUSALS:
            self.refuse(*REFUSALS[kind].get(service, REFUSALS[kind][ECS]), xml=service == ELB)
        elif kind == "503":
            # From something in between.
            self.say(503, "<html><body>Service Unavailable</body></html>", "text/html")
        elif kind == "garbage":
            self.say(200, bytes(range(256)) * 4, "application/octet-stream")
        elif kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            # Both, or the socket stays open and is closed in an orderly way later.
            self.rfile.close()
            self.connection.close()
        elif kind == "trickle":
            self.send_response(200)
            self.send_header("content-type", "application/x-amz-json-1.1")
            self.send_header("content-length", "1000")
            self.end_headers()
            self.until_hung_up(lambda: self.wfile.write(b" "))
        else:
            self.until_hung_up()

    def refuse(self, status, code, message, xml):
        self.call.status = status
        message = message.format(user=USER, action=self.call.action)
        if xml:
            space = "http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/"
            error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
            answer = f'<ErrorResponse xmlns="{space}">{error}<RequestId>1</RequestId></ErrorResponse>'
            self.say(status, answer, "text/xml")
        else:
            self.say(status, json.dumps({"__type": code, "message": message}), "application/x-amz-json-1.1")

    def until_hung_up(self, each_second=lambda: None):
        self.close_connection = True
        end = time.monotonic() + HANG_S
        next_second = time.monotonic()
        while time.monotonic() < end and not self.server.closing.is_set():
            if time.monotonic() >= next_second:
                each_second()
                next_second += 1
            if select.select([self.connection], [], [], LOOK_S)[0]:
                return

    def forward(self, body):
        moto = http.client.HTTPConnection("127.0.0.1", self.server.moto_port, timeout=MOTO_S)
        hop = {"host", "connection", "content-length"}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in hop}
        try:
            moto.request("POST", self.path, body.encode(), headers)
            answer = moto.getresponse()
            status, kind, content = answer.status, answer.headers["content-type"], answer.read()
        finally:
            moto.close()
        self.call.status = status
        if self.server.amend and status == 200:
            content = self.server.amend(self.call.action, body, content)
        self.say(status, content, kind)
