"""One round: two replicas, a balancer, clients, and one stop of the first replica. Runs in the front namespace.

The order in which containers stop is that of the ECS agent: what depends on the app first, the app once that has
exited, each with SIGTERM and, after its stop timeout, SIGKILL.
"""

import asyncio
import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from .balancer import FRONTEND, Balancer
from .containers import Container, Docked, die_with_parent
from .distant import Lanes, Relay
from .jobs import BROKER_PORT, Jobs
from .load import Load
from .network import ADDRESS, FRONT, silence
from .servers import APPS, PORT, SERVERS, Server

# Methods with the sidecar: as `add` writes it, with the server's recipe, and with the server's keep-alive turned off.
OURS = ("ours", "recipe", "closing")

TASKS = APPS.parent / "tasks"
SIDECAR_UID = 65532
STAND_IN_PORT = 51678
STAND_IN = f"http://{FRONT}:{STAND_IN_PORT}"

# Before the stop, so that requests of every length are under way.
WARM_UP = 6.5
# The clients go on after the app has ended, and meet it where nobody has told the balancer.
AFTERWARDS = 3.0
# How long a balancer takes to look away once it is told, where ECS or the sidecar tells it.
LOOKS_AWAY = 1.0
# Fargate Spot: ECS begins to deregister before SIGTERM, and waits for nothing.
JUST_BEFORE = 0.2
DELAY_SHORT = 2.0
DELAY_LONG = 7.0
# The notice of EC2 Spot comes two minutes ahead; this is as much of them as a round has.
SPOT_AHEAD = 30

APP_STOP_TIMEOUT = 10.0
# The entry point sleeps, then stops its server; both are within the container's stop timeout.
ENTRY_POINT_SLEEP = 10
ENTRY_POINT_STOP_TIMEOUT = 30.0
SHELL_SIDECAR_STOP_TIMEOUT = 30.0
# Rails, beside others on a busy machine.
STARTS_WITHIN = 120.0

ENTRY_POINT = f'"$@" & app=$!; trap \'sleep {ENTRY_POINT_SLEEP}; kill -TERM $app\' TERM; wait $app; wait $app'
SHELL_SIDECAR = "trap 'curl -sS -m 25 -X POST \"$0\"; exit 0' TERM; while :; do sleep 1 & wait $!; done"


@dataclass
class Order:
    server: str
    stop: str
    method: str
    round: int
    retries: bool
    prefix: str
    folder: str
    # What adds the sidecar and plays ECS.
    binary: str
    docked: bool = False
    # What runs as the sidecar, if not that.
    sidecar: str = ""

    @property
    def kind(self) -> type[Container]:
        return Docked if self.docked else Container


@dataclass
class Stage:
    order: Order
    server: Server
    balancer: Balancer | Relay
    app: Container
    sidecar: Container | None
    # What is stopped together with the app.
    beside: Container | None = None
    moments: dict[str, float] = field(default_factory=dict)
    notes: dict[str, object] = field(default_factory=dict)

    def mark(self, moment: str) -> None:
        self.moments.setdefault(moment, time.monotonic())

    async def deregister(self) -> None:
        self.mark("told")
        await self.balancer.deregister()

    async def stop_task(self) -> None:
        """As the agent does it."""
        if self.sidecar:
            self.mark("sidecar_sigterm")
            timeout = self.notes.get("sidecar_stop_timeout", SHELL_SIDECAR_STOP_TIMEOUT)
            self.notes["sidecar_killed"] = await self.sidecar.stop(timeout)
            self.notes["sidecar_exit"] = self.sidecar.process.returncode
            self.mark("sidecar_ended")
        self.mark("app_sigterm")
        timeout = ENTRY_POINT_STOP_TIMEOUT if self.order.method == "sleep" else APP_STOP_TIMEOUT
        stopping = [self.app.stop(timeout)]
        if self.beside:
            stopping.append(self.beside.stop(timeout))
        self.notes["app_killed"], *_ = await asyncio.gather(*stopping)
        self.mark("app_ended")


# What the sidecar's task definition is made of.
def template(stop: str) -> tuple[str, list[str]]:
    if stop in ("deregister", "ec2-spot"):
        return "ec2-spot.json", ["--capacity", "spot"]
    return {"ready": "web-ready.json", "fargate-spot": "web-spot.json"}.get(stop, "web.json"), []


async def deploy(stage: Stage, delay: float) -> None:
    await stage.deregister()
    await asyncio.sleep(delay)
    await stage.stop_task()


async def deploy_and_cut(stage: Stage) -> None:
    """The balancer closes at the end of the delay what is still under way: nothing behind it can help that."""
    await stage.deregister()
    await asyncio.sleep(DELAY_SHORT)
    await stage.balancer.cut()
    await stage.stop_task()


async def told_at_once(stage: Stage) -> None:
    async def told() -> None:
        await asyncio.sleep(LOOKS_AWAY)
        await stage.deregister()

    await asyncio.gather(told(), stage.stop_task())


async def fargate_spot(stage: Stage) -> None:
    await stage.deregister()
    await asyncio.sleep(JUST_BEFORE)
    await stage.stop_task()


async def untold(stage: Stage) -> None:
    await stage.stop_task()


def stand_in(path: str, method: str = "GET") -> dict:
    request = urllib.request.Request(f"{STAND_IN}{path}", method=method)
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.load(answer)


async def pass_on_deregistration(stage: Stage) -> None:
    """The stand-in plays Elastic Load Balancing's API; what it is told, HAProxy does."""
    while True:
        await asyncio.sleep(0.1)
        state = await asyncio.to_thread(stand_in, "/_simulate/state")
        targets = [target for group in state["aws"]["target_groups"] for target in group["targets"]]
        if any(target["id"] == ADDRESS["a"] and target["state"] == "draining" for target in targets):
            await asyncio.sleep(LOOKS_AWAY)
            return await stage.deregister()


async def deregistered_by_the_sidecar(stage: Stage) -> None:
    passing = asyncio.create_task(pass_on_deregistration(stage))
    await stage.stop_task()
    passing.cancel()


async def ec2_spot(stage: Stage) -> None:
    """A notice and nothing else; then the host is gone, and its packets with it."""
    passing = None
    if stage.sidecar and "stand_in" in stage.notes:
        passing = asyncio.create_task(pass_on_deregistration(stage))
        await asyncio.to_thread(stand_in, f"/_simulate/spot?action=terminate&in={SPOT_AHEAD}s", "POST")
    await asyncio.sleep(SPOT_AHEAD)
    stage.mark("host_silent")
    await asyncio.to_thread(silence, stage.app.space)
    if passing:
        passing.cancel()
    if stage.sidecar:
        stage.notes["sidecar_exit"] = stage.sidecar.process.returncode


STOPS: dict[str, Callable[[Stage], Awaitable[None]]] = {
    "deploy-long": lambda stage: deploy(stage, DELAY_LONG),
    "deploy-short": lambda stage: deploy(stage, DELAY_SHORT),
    "deploy-cut": deploy_and_cut,
    "stop-task": told_at_once,
    "nlb": told_at_once,
    "fargate-spot": fargate_spot,
    "never": untold,
    "ready": untold,
    "deregister": deregistered_by_the_sidecar,
    "ec2-spot": ec2_spot,
}


async def play(order: Order) -> dict:
    folder = Path(order.folder)
    folder.mkdir(parents=True, exist_ok=True)
    server = SERVERS[order.server]
    spaces = {who: f"{order.prefix}-{who}" for who in ("front", "a", "b")}
    ours = order.method in OURS
    check = ("sidecar" if ours else "app") if order.stop == "ready" else None
    balancer = Relay() if order.stop == "nlb" else Balancer(spaces["front"], folder, order.retries, check)

    jobs = Jobs(spaces["front"], folder, server.enqueue) if server.enqueue else None
    if jobs:
        await jobs.broker.start()
        await listens(spaces["front"], FRONT, BROKER_PORT)
    shares_pids = order.method == "recipe" and server.recipe_signals
    pids = await Container.pause(spaces["a"], folder) if shares_pids else None

    replicas, behind = await start_replicas(order, spaces, folder, pids)
    stage = Stage(order, server, balancer, replicas["a"], None)
    if server.behind_stops_too:
        stage.beside = behind["a"]
    for who in () if jobs else ("a", "b"):
        await answers(ADDRESS[who], PORT, replicas[who])
    if ours:
        stage.sidecar = await start_sidecar(stage, spaces, folder, pids)
    elif order.method == "curl":
        if server.drain_url:
            command = ["sh", "-c", SHELL_SIDECAR, server.drain_url]
            stage.sidecar = await order.kind("sidecar", spaces["a"], command, folder).start()
    seed = f"{order.server} {order.stop} {order.round}"
    await balancer.start()
    load = jobs or (Lanes(seed) if order.stop == "nlb" else Load(FRONTEND, seed))
    if isinstance(load, Load):
        await answers("127.0.0.1", FRONTEND, balancer.container)
    await load.start()
    await asyncio.sleep(WARM_UP)
    stage.mark("stop")
    await STOPS[order.stop](stage)
    await asyncio.sleep(AFTERWARDS)
    await load.finish()
    return account(stage, load)


async def start_replicas(order: Order, spaces: dict[str, str], folder: Path, pids: Container | None) -> tuple[dict, dict]:
    """The servers, and what stands behind them."""
    server = SERVERS[order.server]
    replicas: dict[str, Container] = {}
    behind: dict[str, Container] = {}
    for who in ("a", "b"):
        if server.behind:
            program = shutil.which(server.behind[0]) or next(Path("/usr/sbin").glob(f"{server.behind[0]}*"))
            behind[who] = order.kind(f"behind-{who}", spaces[who], [str(program), *server.behind[1:]], folder,
                                    {"HOST": "127.0.0.1", "PORT": "9000"})
            await behind[who].start()
            await listens(spaces[who], "127.0.0.1", 9000)
        work = folder / who
        work.mkdir(exist_ok=True)
        command, environment = server.start(work, order.method)
        if order.method == "sleep" and who == "a":
            command = ["sh", "-c", ENTRY_POINT, "sh", *command]
        if pids:
            environment["ECS_CONTAINER_METADATA_URI_V4"] = f"{STAND_IN}/v4/app"
        shared = pids if who == "a" else None
        replicas[who] = await order.kind(who, spaces[who], command, folder, environment, pids=shared).start()
    return replicas, behind


async def start_sidecar(stage: Stage, spaces: dict[str, str], folder: Path, pids: Container | None) -> Container:
    order = stage.order
    file, options = template(order.stop)
    added = subprocess.run([order.binary, "add", str(TASKS / file), "--to", "app", "--image", "ecs-prestop:dev", *options],
                           capture_output=True, text=True, check=True).stdout
    (folder / "task.json").write_text(added)
    containers = json.loads(added)["Resources"]["Task"]["Properties"]["ContainerDefinitions"]
    sidecar = next(container for container in containers if container["Name"] == "prestop")
    environment = {variable["Name"]: variable["Value"] for variable in sidecar["Environment"]}
    stage.notes["sidecar_stop_timeout"] = float(sidecar["StopTimeout"])
    if order.method == "recipe":
        environment |= stage.server.recipe
    stage.notes["settings"] = dict(environment)
    await Container("stand-in", spaces["front"],
                    [order.binary, "simulate", "--task-definition", str(folder / "task.json"), "--listen",
                     f"{FRONT}:{STAND_IN_PORT}"], folder).start()
    stage.notes["stand_in"] = True
    await listens(spaces["front"], FRONT, STAND_IN_PORT)
    environment |= {
        "ECS_CONTAINER_METADATA_URI_V4": f"{STAND_IN}/v4/prestop",
        "ECS_AGENT_URI": f"{STAND_IN}/api/prestop",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": STAND_IN,
        "AWS_ENDPOINT_URL": STAND_IN,
        "AWS_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
    }
    # A process may signal those of its own uid.
    uid = 0 if pids else SIDECAR_UID
    container = await order.kind("sidecar", spaces["a"], [order.sidecar or order.binary], folder, environment, as_user=uid, pids=pids).start()
    end = time.monotonic() + STARTS_WITHIN
    while '"event":"start"' not in container.tail(100_000):
        if time.monotonic() > end or container.process.returncode is not None:
            raise RuntimeError(f"the sidecar does not start: {container.tail()}")
        await asyncio.sleep(0.05)
    return container


async def listens(space: str, address: str, port: int) -> None:
    """Looks without a connection, which a server would count."""
    end = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < end:
        seen = subprocess.run(["ip", "netns", "exec", space, "ss", "-Hltn", f"sport = :{port}"],
                              capture_output=True, text=True).stdout
        if str(port) in seen:
            return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"nothing listens on {address}:{port} in {space}")


async def answers(address: str, port: int, container: Container) -> None:
    end = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < end:
        if container.process.returncode is not None:
            break
        with contextlib.suppress(OSError, TimeoutError, ValueError, IndexError):
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection(address, port)
                writer.write(b"GET /work?ms=0 HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n")
                status = int((await reader.readline()).split()[1])
                writer.close()
                if status == 200:
                    return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"{container.name} does not answer at {address}:{port}: {container.tail()}")


def account(stage: Stage, load: Load | Lanes | Jobs) -> dict:
    order = stage.order
    began = stage.moments["stop"]
    lost = [asked for asked in load.asked if asked.lost]
    before = [asked for asked in lost if asked.end < began]
    sigterm = stage.moments.get("app_sigterm")
    # Where the balancer sent it nothing before, its stop shows nothing.
    served = sum(asked.served_by == "a" and asked.end < began for asked in load.asked)
    idle = 0 if order.stop == "nlb" or stage.server.enqueue or served else 1
    moments = {name: round(at - began, 3) for name, at in stage.moments.items()}
    row = {
        "server": order.server, "stop": order.stop, "method": order.method, "round": order.round,
        "retries": order.retries, "void": len(before) + idle, "served_before": served,
        "requests": len(load.asked), "lost": len(lost),
        "reused": sum(asked.reused for asked in load.asked),
        "lost_by": dict(Counter(f"{asked.kind}: {asked.why} ({asked.served_by})" for asked in lost)),
        "lost_first": [
            {"at": round(asked.at - began, 3), "end": round(asked.end - began, 3), "kind": asked.kind, "ms": asked.ms,
             "reused": asked.reused, "by": asked.served_by, "why": asked.why} for asked in lost[:12]
        ],
        "moments": moments, **stage.notes,
    }
    if stage.sidecar and order.method in OURS:
        events = [json.loads(line) for line in stage.sidecar.log.read_text().splitlines() if line.startswith("{")]
        exits = [event for event in events if event.get("event") == "exit"]
        row["result"] = exits[-1]["result"] if exits else None
        row["exit_line"] = exits[-1] if exits else None
        by_a = [asked.end for asked in load.asked if asked.served_by == "a" and not asked.lost]
        if sigterm is not None and exits:
            by_a = [end for end in by_a if end <= sigterm]
            settle = next((moment["for_ms"] for moment in exits[-1]["timeline"] if moment["event"] == "settle"), 0)
            settled = stage.moments["sidecar_sigterm"] + settle / 1000
            row["after_last_answer"] = round(sigterm - max([settled, *by_a]), 3)
        row["last_answer"] = round(max(by_a) - began, 3) if by_a else None
    return row


def main() -> None:
    die_with_parent()
    order = Order(**json.loads(sys.argv[1]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        row = asyncio.run(play(order))
    except Exception as why:  # A round that could not be played is void, and says why.
        row = {"server": order.server, "stop": order.stop, "method": order.method, "round": order.round,
               "retries": order.retries, "void": 1, "requests": 0, "lost": 0, "broken": f"{type(why).__name__}: {why}"[:2000]}
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
