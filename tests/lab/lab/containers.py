"""Containers without an engine: a process that is the first of a PID namespace in a task's network namespace."""

import asyncio
import ctypes
import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

SIGKILL_SOON = 5
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """Whatever ends a round ends everything that it has started."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Container:
    """`docker run` in short: a signal without a handler is ignored by the first process, as it is there."""

    def __init__(self, name: str, space: str, command: list[str], folder: Path, environment: dict[str, str] | None = None,
                 as_user: int | None = None, pids: "Container | None" = None):
        """`pids`: whose PID namespace it shares, as with `pidMode: task`; else it has one of its own."""
        self.name = name
        self.space = space
        self.command = command
        self.folder = folder
        self.environment = environment or {}
        self.as_user = as_user
        self.pids = pids
        self.log = folder / f"{name}.log"
        self.ended_at: float | None = None

    async def start(self) -> "Container":
        work = self.folder / self.name
        work.mkdir(parents=True, exist_ok=True)
        inner = self.command
        if self.as_user is not None:
            user = str(self.as_user)
            inner = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs",
                     "--bounding-set=-all", "--inh-caps=-all", *inner]
        own_pids = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
        if self.pids:
            own_pids = ["nsenter", "--target", str(await self.pids.first_process()), "--pid", "--mount"]
        outer = ["ip", "netns", "exec", self.space, *own_pids, *inner]
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *outer, cwd=work, env={**kept, **self.environment}, stdin=asyncio.subprocess.DEVNULL, stdout=log,
                stderr=log, preexec_fn=die_with_parent,
            )
        return self

    async def first_process(self) -> int | None:
        outer = self.process.pid
        for _ in range(100):
            with suppress(OSError):
                children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
                if children:
                    return int(children[0])
            if self.process.returncode is not None:
                return None
            await asyncio.sleep(0.01)
        return None

    async def signal(self, number: signal.Signals) -> None:
        first = await self.first_process()
        if first is not None:
            with suppress(ProcessLookupError):
                os.kill(first, number)

    async def wait(self, seconds: float | None = None) -> bool:
        """Whether it has ended in that time."""
        try:
            await asyncio.wait_for(asyncio.shield(self.process.wait()), seconds)
        except TimeoutError:
            return False
        if self.ended_at is None:
            self.ended_at = time.monotonic()
        return True

    async def stop(self, timeout: float) -> bool:
        """`docker stop`; whether it had to be killed."""
        await self.signal(signal.SIGTERM)
        if await self.wait(timeout):
            return False
        await self.kill()
        return True

    async def kill(self) -> None:
        await self.signal(signal.SIGKILL)
        if not await self.wait(SIGKILL_SOON):
            self.process.kill()
            await self.wait(SIGKILL_SOON)

    @staticmethod
    async def pause(space: str, folder: Path) -> "Container":
        """The first process of a shared PID namespace, by the name that it has under ECS."""
        program = folder / "pause"
        shutil.copy(shutil.which("sleep") or "sleep", program)
        return await Container("pids", space, [str(program), "infinity"], folder).start()

    def tail(self, characters: int = 1500) -> str:
        with suppress(OSError):
            return self.log.read_text(errors="replace")[-characters:]
        return ""
