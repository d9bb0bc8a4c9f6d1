"""One play: a server in a task's network namespace, a client outside of it, and the sidecar, which gets its SIGTERM in
the middle. Runs in the client's namespace.
"""

import asyncio
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lab.containers import Container, die_with_parent
from lab.network import ADDRESS

from . import clients

HERE = Path(__file__).parent
PORT = 8080
SIDECAR_UID = 65532
SIDECAR_STOP_TIMEOUT = 40
STARTS_WITHIN = 60.0
# The sidecar exits before its stop timeout, or is broken.
ENDS_WITHIN = SIDECAR_STOP_TIMEOUT + 10

# For how long an app is at it, or does not even look: several times the silence that `quiet` waits for.
LONG = 5.5
# The streams of `pausing` are silent for that long.
PAUSE = 3.0
LARGE = 8 << 20

PYTHON = (sys.executable, str(HERE / "server.py"))
QUIET = "quiet"
# Longer than any silence of an answer here.
MOVES = "quiet moves for 7s"


@dataclass(frozen=True)
class Protocol:
    server: tuple[str, ...]
    client: type[clients.Client]
    step: str
    # Whether the manual promises that the step is not over before the answer is.
    promised: bool = True


PROTOCOLS = {
    "HTTP/1.1, Python's http.server": Protocol((*PYTHON, "http"), clients.Http, QUIET),
    "HTTP/1.1, Node": Protocol(("node", str(HERE / "server.js")), clients.Http, QUIET),
    "TLS 1.3, Python's http.server": Protocol((*PYTHON, "https"), clients.Https, QUIET),
    "TLS 1.3, Node": Protocol(("node", str(HERE / "server.js")), clients.Https, QUIET),
    "SSE, aiohttp": Protocol((*PYTHON, "sse"), clients.Http, QUIET),
    "h2c, Hypercorn": Protocol((*PYTHON, "h2c"), clients.H2c, MOVES),
    "gRPC, grpcio": Protocol((*PYTHON, "grpc"), clients.Grpc, MOVES),
    "WebSocket, websockets": Protocol((*PYTHON, "websocket"), clients.WebSocket, MOVES),
    # Why there is `moves`.
    "h2c without `moves`": Protocol((*PYTHON, "h2c"), clients.H2c, QUIET, promised=False),
    "gRPC without `moves`": Protocol((*PYTHON, "grpc"), clients.Grpc, QUIET, promised=False),
}


@dataclass
class Order:
    protocol: str
    moment: str
    step: str
    round: int
    prefix: str
    folder: str
    binary: str
    certificate: str


@dataclass
class Stage:
    client: clients.Client
    server: Container
    chance: random.Random
    # The sidecar's SIGTERM comes a while after that.
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def do(self, what: Callable[..., None], *arguments: object) -> None:
        """In a thread, since clients block."""
        await asyncio.to_thread(what, *arguments)

    async def warm_up(self) -> None:
        """The client is connected and has had an answer."""
        await self.do(self.client.connect)
        await self.do(self.client.ask, "/work?ms=0")
        await self.do(self.client.read)

    async def maybe_warm_up(self) -> None:
        """What comes next may be the first request of its connection."""
        if self.chance.random() < 0.5:
            await self.warm_up()
        else:
            await self.do(self.client.connect)

    async def frozen_while(self, *what: Callable[[], None]) -> None:
        """The server does not read what the client sends, for a while."""

        def all_of_it() -> None:
            for one in what:
                one()

        await self.server.signal(signal.SIGSTOP)
        doing = asyncio.create_task(self.do(all_of_it))
        net = Path(f"/proc/{await self.server.first_process()}/net")
        while not doing.done() and not any(has_unread((net / table).read_text()) for table in ("tcp", "tcp6")):
            await asyncio.sleep(0.01)
        self.begun.set()
        await asyncio.sleep(LONG)
        await self.server.signal(signal.SIGCONT)
        await doing


def has_unread(table: str) -> bool:
    """Whether bytes lie unread in a connection to the server's port: a table of proc_net_tcp(5)."""
    rows = [line.split() for line in table.splitlines()[1:]]
    established = [row for row in rows if row[1].endswith(f":{PORT:04X}") and row[3] == "01"]
    return any(int(row[4].split(":")[1], 16) for row in established)


async def not_accepted(stage: Stage) -> None:
    client = stage.client
    await stage.frozen_while(client.connect, lambda: client.ask("/work?ms=0"), client.read)


async def not_read(stage: Stage) -> None:
    await stage.warm_up()
    await stage.frozen_while(lambda: stage.client.ask("/work?ms=0"), stage.client.read)


async def asked(stage: Stage, target: str, pace: clients.Pace = clients.at_once) -> None:
    await stage.maybe_warm_up()
    await stage.do(stage.client.ask, target)
    stage.begun.set()
    await stage.do(stage.client.read, pace)


async def worked_on(stage: Stage) -> None:
    await asked(stage, f"/work?ms={LONG * 1000:.0f}")


async def being_sent(stage: Stage) -> None:
    await stage.maybe_warm_up()
    loop = asyncio.get_running_loop()
    every = 0.3

    def sent() -> None:
        loop.call_soon_threadsafe(stage.begun.set)
        time.sleep(every)

    await stage.do(stage.client.upload, int(LONG / every), sent)
    await stage.do(stage.client.read)


async def streaming(stage: Stage) -> None:
    await asked(stage, f"/stream?ms={LONG * 1000:.0f}&every=300")


async def pausing(stage: Stage) -> None:
    await asked(stage, f"/stream?ms={2 * PAUSE * 1000:.0f}&every={PAUSE * 1000:.0f}")


async def slow_reader(stage: Stage) -> None:
    taken = 0

    def slowly(size: int) -> None:
        nonlocal taken
        before, taken = taken, taken + size
        time.sleep(size / LARGE * LONG / 2)
        if before < LARGE / 2 <= taken:
            time.sleep(LONG / 2)

    await asked(stage, f"/large?bytes={LARGE}", slowly)


async def idle(stage: Stage) -> None:
    await stage.warm_up()
    stage.begun.set()


async def half_closed(stage: Stage) -> None:
    await stage.maybe_warm_up()
    await stage.do(stage.client.ask, f"/work?ms={LONG * 1000:.0f}")
    await stage.do(stage.client.half_close)
    stage.begun.set()
    await stage.do(stage.client.read)


MOMENTS: dict[str, Callable[[Stage], Awaitable[None]]] = {
    "not accepted": not_accepted,
    "not read": not_read,
    "worked on": worked_on,
    "being sent": being_sent,
    "streaming": streaming,
    "pausing": pausing,
    "slow reader": slow_reader,
    "half-closed": half_closed,
    "idle": idle,
}
# By the exit code, which is there however busy the machine is.
RESULTS = {0: "drained", 3: "deadline", 4: "failed"}
NO_HALF_CLOSE = (clients.Grpc, clients.WebSocket)


def is_a_play(protocol: Protocol, moment: str) -> bool:
    return moment != "half-closed" or protocol.client not in NO_HALF_CLOSE


def may_hang_up(moment: str) -> bool:
    """Servers may, on a client that has half-closed, sidecar or none."""
    return moment == "half-closed"


def is_promised(protocol: Protocol, moment: str) -> bool:
    """`quiet` takes an answer that pauses for longer than its `for` for complete."""
    return protocol.promised and (moment != "pausing" or protocol.step == MOVES)


async def listens(server: Container) -> None:
    end = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < end and server.process.returncode is None:
        with suppress(OSError):
            socket.create_connection((ADDRESS["a"], PORT), 1).close()
            return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"{server.name} does not listen: {server.tail()}")


async def start_sidecar(order: Order, space: str, folder: Path) -> Container:
    settings = {
        "PRESTOP_DRAIN": order.step,
        "PRESTOP_STOP_TIMEOUT": str(SIDECAR_STOP_TIMEOUT),
        "PRESTOP_SETTLE": "0s",
        "PRESTOP_WATCH": "none",
        "PRESTOP_LOG_FORMAT": "json",
    }
    sidecar = await Container("sidecar", space, [order.binary], folder, settings, as_user=SIDECAR_UID).start()
    end = time.monotonic() + STARTS_WITHIN
    while '"event":"start"' not in sidecar.tail(100_000):
        if time.monotonic() > end or sidecar.process.returncode is not None:
            raise RuntimeError(f"the sidecar does not start: {sidecar.tail()}")
        await asyncio.sleep(0.05)
    return sidecar


async def play(order: Order) -> dict:
    folder = Path(order.folder)
    folder.mkdir(parents=True, exist_ok=True)
    space = f"{order.prefix}-a"
    protocol = PROTOCOLS[order.protocol]
    environment = {"CERTIFICATE": order.certificate} if protocol.client is clients.Https else {}
    server = await Container("server", space, list(protocol.server), folder, environment).start()
    await listens(server)
    sidecar = await start_sidecar(order, space, folder)
    chance = random.Random(f"{order.protocol} {order.moment} {order.round}")
    stage = Stage(protocol.client((ADDRESS["a"], PORT)), server, chance)

    async def stop() -> tuple[float, float]:
        await stage.begun.wait()
        # Anywhere in what takes LONG, but in its last moments.
        await asyncio.sleep(stage.client.sends_within + chance.uniform(0, LONG - 2))
        began = time.monotonic()
        await sidecar.signal(signal.SIGTERM)
        if not await sidecar.wait(ENDS_WITHIN):
            raise RuntimeError(f"the sidecar does not end: {sidecar.tail()}")
        return began, sidecar.ended_at

    stopping = asyncio.create_task(stop())
    no_answer = None
    try:
        await MOMENTS[order.moment](stage)
    except Exception as why:  # Whatever a client of whatever protocol raises: it has no answer.
        no_answer = f"{type(why).__name__}: {why}"[:300]
        stage.begun.set()
    hung_up_at = time.monotonic()
    began, ended = await stopping
    owed_until = hung_up_at if no_answer else stage.client.last
    code = sidecar.process.returncode
    return {
        "result": RESULTS.get(code, f"exit code {code}"),
        "sigterm_after_begin": round(began - owed_until, 3),
        "after_answer": round(ended - max(owed_until, began), 3),
        "no_answer": no_answer,
    }


def main() -> None:
    die_with_parent()
    order = Order(**json.loads(sys.argv[1]))
    try:
        row = asyncio.run(play(order))
    except Exception as why:  # A play that could not be played says why.
        row = {"broken": f"{type(why).__name__}: {why}"[:2000]}
    print(json.dumps({"protocol": order.protocol, "moment": order.moment, "step": order.step, "round": order.round} | row),
          flush=True)
    # Whatever a client's threads still wait for.
    os._exit(0)


if __name__ == "__main__":
    main()
