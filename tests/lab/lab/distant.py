"""Clients that connect directly, from afar: what a Network Load Balancer is to a task.

Connections that stand stay with their task, whatever the balancer is told; bytes and ends take their time both ways,
so that a request may be on its way while the server closes.
"""

import asyncio
import random
import time
from contextlib import suppress

from .load import Asked, Connection, fault
from .network import ADDRESS
from .servers import PORT

# Each way: a client on the same continent.
DELAY = 0.025
LANES = 24
# Of one connection, in the mean.
IDLE = 2.0
PATIENCE = 20.0
PIECE = 65536


class Relay:
    """Passes bytes on, each piece after its delay, in order."""

    def __init__(self) -> None:
        self.registered = ["a", "b"]
        self.turn = 0
        self.server: asyncio.Server | None = None

    async def start(self, port: int) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", port)

    async def deregister(self) -> None:
        self.registered = ["b"]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.turn += 1
        replica = self.registered[self.turn % len(self.registered)]
        await asyncio.sleep(DELAY)
        try:
            there = await asyncio.open_connection(ADDRESS[replica], PORT)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(self._pass(reader, there[1]), self._pass(there[0], writer))

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, piece = await pieces.get()
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if not piece:
                    target.close()
                    return
                target.write(piece)
                with suppress(OSError):
                    await target.drain()

        delivery = asyncio.create_task(deliver())
        piece = b"-"
        while piece:
            try:
                piece = await source.read(PIECE)
            except OSError:
                piece = b""
            pieces.put_nowait((time.monotonic() + DELAY, piece))
        await delivery


class Lanes:
    """Each lane keeps its connection for as long as the server does, and rests between two requests."""

    def __init__(self, port: int, seed: str):
        self.port = port
        self.seed = seed
        self.asked: list[Asked] = []
        self.tasks: list[asyncio.Task] = []
        self.over = False

    def start(self) -> None:
        self.tasks = [asyncio.create_task(self._lane(number)) for number in range(LANES)]

    async def _lane(self, number: int) -> None:
        chance = random.Random(f"{self.seed} {number}")
        connection: Connection | None = None
        while not self.over:
            await asyncio.sleep(chance.expovariate(1 / IDLE))
            if self.over:
                break
            # Every client looks whether the other side has hung up before it sends.
            if connection and (connection.reader.at_eof() or connection.writer.is_closing()):
                connection.close()
                connection = None
            asked = Asked("kept", chance.randint(5, 200), connection is not None, time.monotonic())
            self.asked.append(asked)
            try:
                async with asyncio.timeout(PATIENCE):
                    connection = connection or Connection(*await asyncio.open_connection("127.0.0.1", self.port))
                    await connection.ask(asked, close=False)
            except (TimeoutError, OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as why:
                asked.why = fault(asked, why)
            asked.end = time.monotonic()
            if connection and (asked.lost or asked.closes):
                connection.close()
                connection = None

    async def finish(self) -> None:
        self.over = True
        _, late = await asyncio.wait(self.tasks, timeout=PATIENCE + 10 * IDLE)
        for task in late:
            task.cancel()
