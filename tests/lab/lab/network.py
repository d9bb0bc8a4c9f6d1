"""Network namespaces: one for the balancer and its clients, one for each replica, as `awsvpc` gives each task.

The addresses are the same in every round, since rounds cannot see each other.
"""

import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from .containers import DOCKED_IMAGE, docked_folders
from .servers import LAB

FRONT = "10.0.2.1"
# The task's address in what the stand-in for ECS answers, and its neighbour.
ADDRESS = {"a": "10.0.2.106", "b": "10.0.2.107"}


def ip(*arguments: str, inside: str | None = None) -> None:
    where = ["-n", inside] if inside else []
    subprocess.run(["ip", *where, *arguments], check=True, capture_output=True, text=True)


def names(prefix: str) -> dict[str, str]:
    return {who: f"{prefix}-{who}" for who in ("front", "a", "b")}


def build(prefix: str) -> dict[str, str]:
    """The namespaces' names."""
    spaces = names(prefix)
    destroy(prefix)
    for space in spaces.values():
        ip("netns", "add", space)
        ip("link", "set", "lo", "up", inside=space)
    front = spaces["front"]
    ip("addr", "add", f"{FRONT}/32", "dev", "lo", inside=front)
    for who, address in ADDRESS.items():
        ip("link", "add", f"to-{who}", "type", "veth", "peer", "name", "eth0", "netns", spaces[who], inside=front)
        ip("link", "set", f"to-{who}", "up", inside=front)
        ip("route", "add", address, "dev", f"to-{who}", "src", FRONT, inside=front)
        ip("addr", "add", f"{address}/24", "dev", "eth0", inside=spaces[who])
        ip("link", "set", "eth0", "up", inside=spaces[who])
    return spaces


def destroy(prefix: str) -> None:
    for space in names(prefix).values():
        with suppress(subprocess.CalledProcessError):
            ip("netns", "del", space)


# Beside those of the others: the bridge itself.
GATEWAY = "10.0.2.254"


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def build_docked(prefix: str) -> None:
    """The same by Docker: a network of its own, and a container that does nothing for each namespace, as ECS has it."""
    destroy_docked(prefix)
    # An image of nothing: see `docked_folders`.
    if not docker("images", "--quiet", DOCKED_IMAGE):
        with tempfile.TemporaryDirectory() as nothing:
            # What programs write to, and nginx does not make.
            for folder in ("tmp", "run", "var/lib/nginx", "var/log/nginx"):
                (Path(nothing) / folder).mkdir(parents=True)
                (Path(nothing) / folder).chmod(0o1777)
            tar = subprocess.run(["tar", "-C", nothing, "-c", "."], check=True, capture_output=True).stdout
            subprocess.run(["docker", "import", "-", DOCKED_IMAGE], input=tar, check=True, capture_output=True)
    docker("network", "create", "--subnet", "10.0.2.0/24", "--gateway", GATEWAY, prefix)
    folders = [word for folder in docked_folders(LAB) for word in ("--volume", folder)]
    for who, space in names(prefix).items():
        docker("run", "--detach", "--name", space, "--network", prefix, "--ip", ADDRESS.get(who, FRONT), *folders,
               DOCKED_IMAGE, "/usr/bin/sleep", "infinity")
        ip("netns", "attach", space, docker("inspect", "--format", "{{.State.Pid}}", space))


def destroy_docked(prefix: str) -> None:
    """With all that is within."""
    destroy(prefix)
    with suppress(subprocess.CalledProcessError):
        within = docker("ps", "--all", "--quiet", "--filter", f"name=^{prefix}-").split()
        if within:
            docker("rm", "--force", *within)
    with suppress(subprocess.CalledProcessError):
        docker("network", "rm", prefix)


# Packets are dropped, not refused: as of a host that is gone.
SILENCE = """
table inet silence {
    chain in { type filter hook input priority 0; policy drop; }
    chain out { type filter hook output priority 0; policy drop; }
}
"""


def silence(space: str) -> None:
    subprocess.run(["ip", "netns", "exec", space, "nft", "-f", "-"], input=SILENCE, text=True, check=True)
