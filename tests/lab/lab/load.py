"""Clients: requests that come when they come, each asked for once and counted as lost unless its whole answer came."""

import asyncio
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field

# Longer than any request; a request that is not answered by then is lost.
PATIENCE = 20.0
# A round that has more than that under way is broken.
MOST_AT_ONCE = 400
UPLOAD_PARTS = 16
# What a browser and a balancer send along: how many bytes a request has matters to whoever counts them.
HEADERS = (
    "Host: app\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
    "Accept-Language: en-US,en;q=0.5\r\n"
    "Accept-Encoding: identity\r\n"
    "X-Forwarded-For: 203.0.113.7\r\n"
    "X-Forwarded-Proto: https\r\n"
    "X-Forwarded-Port: 443\r\n"
    "X-Amzn-Trace-Id: Root=1-67891233-abcdef012345678912345678\r\n"
)
UPLOAD_PART = 2048

# What is asked for, how often in a second, and how long it takes in milliseconds, from and to.
MIX = (
    ("short", 9.0, (5, 60)),
    ("medium", 3.0, (100, 1000)),
    ("long", 0.6, (1500, 3000)),
    ("longest", 0.6, (5000, 5000)),
    ("stream", 1.0, (400, 5000)),
    ("upload", 0.8, (300, 4000)),
)


@dataclass
class Asked:
    kind: str
    ms: int
    # On a connection that has served before.
    reused: bool
    at: float
    end: float = 0.0
    served_by: str = "-"
    status: int = 0
    why: str = ""
    closes: bool = False

    @property
    def lost(self) -> bool:
        return bool(self.why)


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader = reader
        self.writer = writer
        self.used = False

    async def ask(self, asked: Asked, close: bool) -> None:
        method = "POST" if asked.kind == "upload" else "GET"
        path = {"stream": "/stream", "upload": "/upload"}.get(asked.kind, "/work")
        head = f"{method} {path}?ms={asked.ms} HTTP/1.1\r\n{HEADERS}"
        if close:
            head += "Connection: close\r\n"
        if asked.kind == "upload":
            head += f"Content-Type: application/octet-stream\r\nContent-Length: {UPLOAD_PARTS * UPLOAD_PART}\r\n"
        self.writer.write(head.encode() + b"\r\n")
        if asked.kind == "upload":
            for _ in range(UPLOAD_PARTS):
                await asyncio.sleep(asked.ms / 1000 / UPLOAD_PARTS)
                self.writer.write(b"x" * UPLOAD_PART)
                await self.writer.drain()
        await self._answer(asked)

    async def _answer(self, asked: Asked) -> None:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        asked.status = int(lines[0].split()[1])
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        asked.served_by = headers.get("x-served-by", "-")
        asked.closes = headers.get("connection", "").lower() == "close"
        body = b""
        if "chunked" in headers.get("transfer-encoding", ""):
            while size := int(await self.reader.readline(), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readline()
        elif "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        else:
            asked.closes = True
            body = await self.reader.read()
        wanted = {"stream": b"end\n", "upload": b"taken %d\n" % (UPLOAD_PARTS * UPLOAD_PART)}.get(asked.kind, b"done\n")
        if asked.status != 200:
            asked.why = f"status {asked.status}"
        elif not body.endswith(wanted):
            asked.why = "the answer was cut off"

    def close(self) -> None:
        self.writer.close()


def fault(asked: Asked, why: Exception) -> str:
    """What happened to a request, in words that can be counted."""
    if isinstance(why, TimeoutError):
        return "no answer"
    if asked.status:
        return "the answer was cut off"
    if isinstance(why, asyncio.IncompleteReadError):
        return "the answer was cut off" if why.partial else "closed with no answer"
    return type(why).__name__


@dataclass
class Load:
    """Half of the requests come on new connections, half on those that are kept."""

    port: int
    # The same for every method, so that they meet the same requests.
    seed: str
    address: str = "127.0.0.1"
    kept_share: float = 0.5
    asked: list[Asked] = field(default_factory=list)
    _kept: list[Connection] = field(default_factory=list)
    _under_way: set[asyncio.Task] = field(default_factory=set)
    _arrivals: list[asyncio.Task] = field(default_factory=list)

    def start(self) -> None:
        for number, (kind, rate, between) in enumerate(MIX):
            chance = random.Random(f"{self.seed} {number}")
            self._arrivals.append(asyncio.create_task(self._arrive(kind, rate, between, chance)))

    async def _arrive(self, kind: str, rate: float, between: tuple[int, int], chance: random.Random) -> None:
        while True:
            await asyncio.sleep(chance.expovariate(rate))
            if len(self._under_way) < MOST_AT_ONCE:
                task = asyncio.create_task(self._one(kind, chance.randint(*between), chance.random() < self.kept_share))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)

    async def _one(self, kind: str, ms: int, keep: bool) -> None:
        connection = self._take() if keep else None
        asked = Asked(kind, ms, connection is not None, time.monotonic())
        self.asked.append(asked)
        try:
            async with asyncio.timeout(PATIENCE + ms / 1000):
                if connection is None:
                    connection = Connection(*await asyncio.open_connection(self.address, self.port))
                await connection.ask(asked, close=not keep)
        except (TimeoutError, OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as why:
            asked.why = fault(asked, why)
        except asyncio.CancelledError:
            asked.why = "no answer at the end of the round"
            raise
        finally:
            asked.end = time.monotonic()
            if connection is not None:
                if keep and not asked.lost and not asked.closes:
                    connection.used = True
                    self._kept.append(connection)
                else:
                    connection.close()

    def _take(self) -> Connection | None:
        """One that the other side has not closed, as every client's pool looks before it takes one."""
        while self._kept:
            connection = self._kept.pop(0)
            if not connection.reader.at_eof() and not connection.writer.is_closing():
                return connection
            connection.close()
        return None

    async def finish(self, patience: float = PATIENCE + 6) -> None:
        """Nothing new any more, and the end of all that is under way."""
        for task in self._arrivals:
            task.cancel()
        if self._under_way:
            _, late = await asyncio.wait(set(self._under_way), timeout=patience)
            for task in late:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*late, return_exceptions=True)
        for connection in self._kept:
            connection.close()
