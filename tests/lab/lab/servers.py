"""The servers: how each is started as a container's first process, and how it drains best."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
APPS = ROOT / "tests/lab/apps"
LAB = ROOT / "target/lab"
VENV = LAB / "venv/bin"

PORT = 8080
ADMIN = "http://127.0.0.1"


@dataclass(frozen=True)
class Server:
    # Run in a folder of its own.
    command: Callable[[], list[str]]
    # Whether `server.js` stands behind it, in the same task, and outlives it.
    proxies: bool = False
    # What `curl` calls from a sidecar of a shell.
    drain_url: str | None = None
    # Settings of the sidecar beside what `add` writes.
    recipe: dict[str, str] = field(default_factory=dict)
    # What the recipe changes about the server itself.
    recipe_arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


def gunicorn(*arguments: str) -> Callable[[], list[str]]:
    return lambda: [str(VENV / "gunicorn"), "--chdir", str(APPS), "-b", f"0.0.0.0:{PORT}", *arguments, "wsgi:app"]


def python(program: str, *arguments: str) -> Callable[[], list[str]]:
    return lambda: [str(VENV / program), *arguments]


def debian(program: str, *arguments: str) -> Callable[[], list[str]]:
    return lambda: [shutil.which(program) or program, *arguments]


SERVERS = {
    "gunicorn-sync": Server(gunicorn("-w", "14")),
    "gunicorn-gthread": Server(gunicorn("-k", "gthread", "--threads", "32", "--keep-alive", "75")),
    "uvicorn": Server(
        python("uvicorn", "--app-dir", str(APPS), "--host", "0.0.0.0", "--port", str(PORT),
               "--timeout-keep-alive", "75", "--no-access-log", "asgi:app")
    ),
    "hypercorn": Server(
        python("hypercorn", "--bind", f"0.0.0.0:{PORT}", "--keep-alive", "75", "asgi:app"),
        environment={"PYTHONPATH": str(APPS)},
    ),
    "granian": Server(
        python("granian", "--interface", "asgi", "--host", "0.0.0.0", "--port", str(PORT),
               "--working-dir", str(APPS), "asgi:app")
    ),
    "puma": Server(
        debian("puma", "-b", f"tcp://0.0.0.0:{PORT}", "-t", "32:32", "-e", "production",
               "--control-url", "tcp://127.0.0.1:9293", "--control-token", "none",
               "-C", str(APPS / "puma.rb"), str(APPS / "config.ru")),
        drain_url=f"{ADMIN}:9293/stop?token=none",
    ),
    "node": Server(debian("node", str(APPS / "server.js"))),
    "node-init": Server(debian("tini", "--", "node", str(APPS / "server.js"))),
    "java": Server(debian("java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                          "-cp", str(LAB / "classes"), "Server")),
    "caddy": Server(
        debian("caddy", "run", "--adapter", "caddyfile", "--config", str(APPS / "Caddyfile")),
        proxies=True,
        drain_url=f"{ADMIN}:2019/stop",
    ),
    "nginx": Server(debian("nginx", "-c", str(APPS / "nginx.conf")), proxies=True),
    "envoy": Server(
        python("envoy", "-c", str(APPS / "envoy.yaml"), "--disable-hot-restart", "--concurrency", "2", "-l", "warning"),
        proxies=True,
        drain_url=f"{ADMIN}:9901/drain_listeners?graceful",
        recipe={"PRESTOP_DRAIN": f"POST {ADMIN}:9901/drain_listeners?graceful&skip_exit, quiet"},
    ),
}
