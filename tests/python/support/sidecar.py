"""What a sidecar sees from inside its task, and the sidecar itself as a process.

A `Host` is one machine: task metadata v4, the instance metadata, credentials of the task role, and the
app of each task. One server for all of it."""

import json
import signal
import subprocess
import threading
import time
import urllib.request
from datetime import UTC, datetime, timedelta

from support.aws import APP_PORT, CLUSTER, REGION
from support.ports import FreePort
from support.proxy import Handler, Server

KEY = "AKIDOFTHETASKROLE"
# The longest that an app holds its answer back.
APP_S = 60
LISTEN_S = 5
# With one of these a sidecar asks AWS at start, and says what came of it.
LOOKS_UP = [("PRESTOP_DEREGISTER", "true"), ("PRESTOP_DRAIN_INSTANCE", "true"), ("PRESTOP_STOP_TIMEOUT", "auto")]


class App:
    """Answers its drain call when it is released, and notes when it came."""

    def __init__(self, released=True):
        self.arrivals = []
        self.released = threading.Event()
        if released:
            self.released.set()


class Host(Server):
    def __init__(self):
        self.tasks, self.apps = {}, {}
        self.spot, self.credentials = None, True
        self.asked_credentials = 0
        self.closing = threading.Event()
        super().__init__(Metadata)

    def add(self, task, launch_type, released=True):
        self.tasks[task.id] = (task, launch_type)
        self.apps[task.id] = App(released)
        return self.apps[task.id]

    def announce_spot(self, ends_in_s):
        self.spot = (datetime.now(UTC) + timedelta(seconds=ends_in_s)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def close(self):
        self.closing.set()
        for app in self.apps.values():
            app.released.set()
        super().close()


class Metadata(Handler):
    def do_PUT(self):
        self.body()
        self.say(200, "token", "text/plain", x_aws_ec2_metadata_token_ttl_seconds="21600")

    def do_GET(self):
        path = self.path.rstrip("/")
        if path.startswith("/v4/"):
            id_, _, rest = path.removeprefix("/v4/").partition("/")
            return self.metadata(*self.server.tasks[id_], rest)
        if path == "/latest/meta-data/spot/instance-action" and self.server.spot:
            return self.say(200, json.dumps({"action": "terminate", "time": self.server.spot}))
        if path.startswith("/app/"):
            return self.work(self.server.apps[path.split("/")[2]])
        if path == "/credentials" and self.server.credentials:
            self.server.asked_credentials += 1
            until = (datetime.now(UTC) + timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ")
            return self.say(
                200, json.dumps({"AccessKeyId": KEY, "SecretAccessKey": "s", "Token": "t", "Expiration": until})
            )
        return self.say(404, "<html>404 - Not Found</html>", "text/html")

    def work(self, app):
        """What clients want of the app, until it is told to end."""
        if app.arrivals:
            self.close_connection = True
        else:
            self.say(200)

    def do_POST(self):
        arrived = time.time()
        self.body()
        app = self.server.apps[self.path.split("/")[2]]
        app.arrivals.append(arrived)
        app.released.wait(APP_S)
        self.say(200)

    def metadata(self, task, launch_type, rest):
        # Under `bridge` the app has an address of its own.
        network = {"NetworkMode": task.mode, "IPv4Addresses": [task.address]}
        ports = [{"ContainerPort": APP_PORT, "Protocol": "tcp", "HostPort": task.host_port}]
        containers = [
            {
                "DockerId": f"{task.id}-{name}",
                "Name": name,
                "DockerName": f"ecs-{task.family}-{name}",
                "Image": name,
                "ImageID": "sha256:0",
                "Labels": {},
                "DesiredStatus": "RUNNING",
                "KnownStatus": "RUNNING",
                "Limits": {"CPU": 2},
                "Type": "NORMAL",
                "Networks": [network],
                "Ports": ports if name == "app" else [],
            }
            for name in ("app", "prestop")
        ]
        if rest == "":
            return self.say(200, json.dumps(containers[1]))
        if rest != "task":
            return self.say(404, "404 page not found", "text/plain")
        return self.say(
            200,
            json.dumps(
                {
                    "Cluster": CLUSTER,
                    "TaskARN": task.arn,
                    "Family": task.family,
                    "Revision": task.revision,
                    "ServiceName": task.family,
                    "DesiredStatus": "RUNNING",
                    "KnownStatus": "RUNNING",
                    "AvailabilityZone": f"{REGION}a",
                    "LaunchType": launch_type,
                    "Containers": containers,
                }
            ),
        )


class Sidecar:
    """The real binary. Its log is read as it comes."""

    def __init__(self, binary, host, proxy, task, settings, listen=False):
        self.port = FreePort() if listen else None
        self.address = f"127.0.0.1:{self.port.number}" if listen else "off"
        environment = {
            "ECS_CONTAINER_METADATA_URI_V4": f"{host.url}/v4/{task.id}",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{host.url}/credentials",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": host.url,
            "AWS_ENDPOINT_URL": proxy.url,
            "PRESTOP_DRAIN": f"{host.url}/app/{task.id}/drain",
            "PRESTOP_WATCH": "none",
            "PRESTOP_LISTEN": self.address,
        } | settings
        environment = {name: value for name, value in environment.items() if value is not None}
        self.looks_up = any(environment.get(name) == value for name, value in LOOKS_UP)
        self.events, self.error = [], ""
        self.news = threading.Condition()
        self.process = subprocess.Popen(
            [binary],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.readers = [threading.Thread(target=read, daemon=True) for read in (self.read, self.read_errors)]
        for reader in self.readers:
            reader.start()

    def read(self):
        for line in self.process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"event": "?", "level": "error", "message": f"not JSON: {line!r}"}
            with self.news:
                self.events.append(event)
                self.news.notify_all()
        with self.news:
            self.news.notify_all()

    def read_errors(self):
        self.error = self.process.stderr.read().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for reader in self.readers:
            reader.join(timeout=5)
        self.process.stdout.close()
        self.process.stderr.close()
        if self.port:
            self.port.close()

    def sees(self, wanted, timeout_s):
        """The first event, past or to come, of which `wanted` holds; None if it does not come."""
        end = time.monotonic() + timeout_s
        with self.news:
            at = 0
            while True:
                for event in self.events[at:]:
                    if wanted(event):
                        return event
                at = len(self.events)
                left = end - time.monotonic()
                if left <= 0 or not self.readers[0].is_alive():
                    return None
                self.news.wait(min(left, 0.2))

    def settles(self, proxy, timeout_s=20):
        """Waits until it has started, and has asked AWS what it asks while all is calm."""
        if self.sees(lambda e: e["event"] == "start", timeout_s) is None:
            for reader in self.readers:
                reader.join(timeout=5)
            raise RuntimeError(f"it does not start: {self.error or self.events}")
        if self.looks_up and self.sees(looked_up, timeout_s) is None:
            raise RuntimeError(f"it says nothing of AWS: {self.events}")
        # After the line some more may be asked.
        end = time.monotonic() + timeout_s
        quiet_since = time.monotonic()
        while time.monotonic() < end:
            if time.monotonic() - quiet_since > 0.3:
                return
            calls = len(proxy.calls)
            time.sleep(0.05)
            if proxy.in_flight() or len(proxy.calls) > calls:
                quiet_since = time.monotonic()

    def sigterm(self):
        self.process.send_signal(signal.SIGTERM)

    def ends(self, timeout_s):
        """The exit code, or None if it still runs."""
        try:
            code = self.process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return None
        for reader in self.readers:
            reader.join(timeout=5)
        return code

    def status(self):
        with urllib.request.urlopen(f"http://{self.address}/status", timeout=LISTEN_S) as answer:
            return json.loads(answer.read())

    # -- what it has said ----------------------------------------------------------------------------

    def last(self):
        return next((event for event in self.events if event["event"] == "exit"), {})

    def timeline(self, name):
        return [entry for entry in self.last().get("timeline", []) if entry["event"] == name]

    def first_call_ms(self):
        """From the first notice to the first drain call."""
        started = self.timeline("step.start")
        return started[0]["ms"] if started else None

    def complaints(self):
        """Lines that a person would stop at."""
        with self.news:
            return [event for event in self.events if is_complaint(event)]


def looked_up(event):
    """How the calm look-ups went."""
    return event["event"] == "watch" and event.get("watch") == "aws"


def is_complaint(event):
    if event["event"] == "exit":
        return False
    return event["level"] in ("warn", "error") or (event["event"] == "aws.end" and event.get("outcome") == "failed")


def in_words(event):
    """A line without what every line has."""
    skipped = {"timestamp", "cluster", "task", "family", "timeline", "steps"}
    return json.dumps({name: value for name, value in event.items() if name not in skipped})
