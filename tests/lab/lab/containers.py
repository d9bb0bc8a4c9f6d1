"""Containers without an engine: a process that is the first of a PID namespace in a task's network namespace; and
those of Docker."""

import asyncio
import ctypes
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from .servers import ROOT

SIGKILL_SOON = 5
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """Whatever ends a round ends everything that it has started."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def kept() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}


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
            inner = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs", "--pdeathsig=KILL",
                     "--bounding-set=-all", "--inh-caps=-all", *inner]
        own_pids = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
        if self.pids:
            own_pids = ["nsenter", "--target", str(await self.pids.first_process()), "--pid", "--mount"]
        await self.run(["ip", "netns", "exec", self.space, *own_pids, *inner], work, {**kept(), **self.environment})
        return self

    async def run(self, outer: list[str], work: Path, environment: dict[str, str]) -> None:
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *outer, cwd=work, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=die_with_parent,
            )

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


class Docked(Container):
    """A container of Docker, in the network of the one that is named as the space is."""

    @property
    def full_name(self) -> str:
        return f"{self.space}-{self.name}"

    async def start(self) -> "Docked":
        work = self.folder / self.name
        work.mkdir(parents=True, exist_ok=True)
        user = []
        if self.as_user is not None:
            user = ["--user", f"{self.as_user}:{self.as_user}", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        variables = [word for pair in {**kept(), **self.environment}.items() for word in ("--env", "=".join(pair))]
        folders = [word for folder in docked_folders(self.folder) for word in ("--volume", folder)]
        program = Path(self.command[0])
        if program.is_absolute():
            folders += ["--volume", f"{program}:{program}:ro"]
        await self.run(["docker", "run", "--rm", "--name", self.full_name, "--network", f"container:{self.space}", *user,
                        *variables, *folders, "--workdir", str(work), DOCKED_IMAGE, *self.command], work, dict(os.environ))
        return self

    async def signal(self, number: signal.Signals) -> None:
        kill = await asyncio.create_subprocess_exec("docker", "kill", "--signal", number.name, self.full_name,
                                                    stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL)
        await kill.wait()


# Nothing can be pulled, and nothing is copied: its programs and libraries are this machine's, read-only.
DOCKED_IMAGE = "ecs-prestop-lab:dev"


def docked_folders(own: Path) -> list[str]:
    """What a container sees of this machine."""
    links = [f"/{name}" for name in ("bin", "sbin", "lib", "lib64") if Path(f"/{name}").exists()]
    # Where Python stands, if not in /usr.
    read = dict.fromkeys(["/usr", "/etc", str(ROOT), *links, sys.base_prefix])
    return [*(f"{folder}:{folder}:ro" for folder in read), f"{own}:{own}"]
