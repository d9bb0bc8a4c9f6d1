"""Network namespaces: one for the balancer and its clients, one for each replica, as `awsvpc` gives each task.

The addresses are the same in every round, since rounds cannot see each other.
"""

import subprocess
from contextlib import suppress

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


# Packets are dropped, not refused: as of a host that is gone.
SILENCE = """
table inet silence {
    chain in { type filter hook input priority 0; policy drop; }
    chain out { type filter hook output priority 0; policy drop; }
}
"""


def silence(space: str) -> None:
    subprocess.run(["ip", "netns", "exec", space, "nft", "-f", "-"], input=SILENCE, text=True, check=True)
