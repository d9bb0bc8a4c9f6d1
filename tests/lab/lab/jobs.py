"""Jobs of a queue instead of requests: lost is what was asked for and is not done once the other worker rests."""

import asyncio
import subprocess
import time
from pathlib import Path

from .containers import Container
from .load import Asked
from .network import FRONT

BROKER_PORT = 6379
# As many as the two workers do in a minute.
JOBS = 160
# Both workers have begun when so many are done.
BEGUN = 6
STARTS_WITHIN = 60.0
# Of the worker that is left, with all that is still in the queue.
PATIENCE = 120.0
# No job takes longer: once as long as this nothing has been done, nothing will be.
LONGEST = 7.0


class Jobs:
    def __init__(self, space: str, folder: Path, enqueue: tuple[str, ...]):
        self.enqueue = enqueue
        self.broker = Container("broker", space, ["redis-server", "--bind", FRONT, "--port", str(BROKER_PORT), "--save", "",
                                                  "--protected-mode", "no"], folder)
        self.asked: list[Asked] = []

    async def start(self) -> None:
        """All jobs are asked for, and the workers are at it."""
        process = await asyncio.create_subprocess_exec(
            *self.enqueue, "0", str(JOBS), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if await process.wait():
            raise RuntimeError(f"{' '.join(self.enqueue)} failed")
        self.asked = [Asked("job", 0, False, time.monotonic()) for _ in range(JOBS)]
        end = time.monotonic() + STARTS_WITHIN
        while len(await self.done()) < BEGUN:
            if time.monotonic() > end:
                raise RuntimeError(f"fewer than {BEGUN} jobs were done within {STARTS_WITHIN:.0f} s")
            await asyncio.sleep(0.2)

    async def done(self) -> set[int]:
        process = await asyncio.create_subprocess_exec(
            "redis-cli", "-h", FRONT, "-p", str(BROKER_PORT), "smembers", "done", stdout=subprocess.PIPE)
        out, _ = await process.communicate()
        return {int(number) for number in out.split()}

    async def finish(self) -> None:
        end = time.monotonic() + PATIENCE
        done, since = await self.done(), time.monotonic()
        while time.monotonic() < end and len(done) < len(self.asked) and time.monotonic() - since < LONGEST:
            await asyncio.sleep(0.5)
            now = await self.done()
            if len(now) > len(done):
                done, since = now, time.monotonic()
        for number, asked in enumerate(self.asked):
            asked.end = time.monotonic()
            if number not in done:
                asked.why = "never done"
