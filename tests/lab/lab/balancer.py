"""HAProxy in front of the two replicas, as Elastic Load Balancing would stand there."""

import asyncio
from pathlib import Path

from .containers import Container
from .network import ADDRESS
from .servers import PORT

FRONTEND = 8000
READY_PORT = 9911

# No connection of a client outlives its round by them; each is longer than the longest request.
CONFIG = """
global
    stats socket {folder}/haproxy.sock mode 600 level admin
    log stdout format raw local0
    maxconn 2000
defaults
    mode http
    log global
    timeout connect 3s
    timeout client 30s
    timeout server 15s
    timeout http-request 30s
    timeout http-keep-alive 60s
    {retries}
frontend web
    bind 127.0.0.1:{frontend}
    log-format "%[date(0,ms)] %ci:%cp %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %tsc %rc %HM %HU"
    http-after-response set-header X-Served-By %s
    default_backend app
backend app
    balance roundrobin
    option http-keep-alive
    {check}
    {no_second_upload}
    server a {a}:{port} {a_check}
    server b {b}:{port}
"""

RETRIES = """retries 3
    option redispatch 1
    retry-on conn-failure empty-response"""
NO_SECOND_UPLOAD = "http-request disable-l7-retry if METH_POST"


CHECK = """option httpchk
    http-check send meth GET uri {path} ver HTTP/1.1 hdr Host 127.0.0.1"""


class Balancer:
    def __init__(self, space: str, folder: Path, retries: bool, check: str | None):
        """`check`: the path of the health check that the first replica gets, on the sidecar's port or its own."""
        self.socket = folder / "haproxy.sock"
        port, path = (READY_PORT, "/ready") if check == "sidecar" else (PORT, "/healthz")
        config = CONFIG.format(
            folder=folder, frontend=FRONTEND, port=PORT, a=ADDRESS["a"], b=ADDRESS["b"],
            retries=RETRIES if retries else "retries 0",
            check=CHECK.format(path=path) if check else "",
            no_second_upload=NO_SECOND_UPLOAD if retries else "",
            a_check=f"check port {port} inter 1s fall 2 rise 1" if check else "",
        )
        file = folder / "haproxy.cfg"
        file.write_text(config)
        self.container = Container("haproxy", space, ["haproxy", "-db", "-f", str(file)], folder)

    async def start(self) -> None:
        await self.container.start()

    async def say(self, command: str) -> str:
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        writer.write(command.encode() + b"\n")
        await writer.drain()
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return answer.decode()

    async def deregister(self) -> None:
        """Nothing new goes to it; what is under way goes on."""
        answer = (await self.say("set server app/a state drain")).strip()
        assert not answer, answer

    async def cut(self) -> None:
        """The end of a deregistration delay at a balancer that closes what is still open."""
        await self.say("shutdown sessions server app/a")
