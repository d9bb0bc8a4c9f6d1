"""The servers: how each is started as a container's first process, and how it drains best."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
APPS = ROOT / "tests/lab/apps"
LAB = ROOT / "target/lab"
VENV = LAB / "venv/bin"

PORT = 8080
LOOPBACK = "http://127.0.0.1"

NODE = ("node", str(APPS / "server.js"))
PHP = ("php-fpm", "--fpm-config", str(APPS / "php-fpm.conf"), "--nodaemonize")


@dataclass(frozen=True)
class Server:
    command: tuple[str, ...]
    # What stands behind it in the same task, at port 9000 of loopback.
    behind: tuple[str, ...] = ()
    # Whether that gets its SIGTERM together with the server; else it outlives it, so that only the server is tried.
    behind_stops_too: bool = False
    # What `curl` calls from a sidecar of a shell.
    drain_url: str | None = None
    # Settings of the sidecar beside what `add` writes, and arguments of the server that belong to them.
    recipe: dict[str, str] = field(default_factory=dict)
    recipe_arguments: tuple[str, ...] = ()
    # Whether the recipe needs `pidMode: task` and the sidecar's user 0.
    recipe_signals: bool = False
    # What asks for jobs, where it is a worker that has no port.
    enqueue: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    # What turns its keep-alive off: more arguments, variables, and what stands in its configuration instead.
    closing_arguments: tuple[str, ...] = ()
    closing_environment: dict[str, str] = field(default_factory=dict)
    closing_file: tuple[str, str] | None = None

    @property
    def can_close(self) -> bool:
        return bool(self.closing_arguments or self.closing_environment or self.closing_file)

    def start(self, folder: Path, method: str) -> tuple[list[str], dict[str, str]]:
        """Command and environment; where a word is a file of ours, with what it holds filled in."""
        command = list(self.command)
        environment = dict(self.environment)
        if method == "recipe":
            command += self.recipe_arguments
        if method == "closing":
            command += self.closing_arguments
            environment |= self.closing_environment
        for n, word in enumerate(command):
            file = APPS / word.removeprefix("apps/")
            if word.startswith("apps/"):
                text = file.read_text().replace("@APPS@", str(APPS)).replace("@HERE@", str(folder))
                if method == "closing" and self.closing_file:
                    assert self.closing_file[0] in text, f"{file} has no {self.closing_file[0]}"
                    text = text.replace(*self.closing_file)
                filled = folder / file.name
                filled.write_text(text)
                command[n] = str(filled)
        own = VENV / command[0]
        command[0] = str(own) if own.exists() else shutil.which(command[0]) or command[0]
        return command, environment


def gunicorn(*arguments: str) -> tuple[str, ...]:
    return ("gunicorn", "--chdir", str(APPS), "-b", f"0.0.0.0:{PORT}", *arguments, "wsgi:app")


SERVERS = {
    "gunicorn-sync": Server(gunicorn("-w", "14")),
    "gunicorn-gthread": Server(
        gunicorn("-k", "gthread", "--threads", "32", "--keep-alive", "75"),
        closing_arguments=("--keep-alive", "0"),
    ),
    "uvicorn": Server(
        ("uvicorn", "--app-dir", str(APPS), "--host", "0.0.0.0", "--port", str(PORT), "--timeout-keep-alive", "75",
         "--no-access-log", "asgi:app"),
        closing_arguments=("--header", "Connection:close"),
    ),
    "hypercorn": Server(
        ("hypercorn", "--bind", f"0.0.0.0:{PORT}", "--keep-alive", "75", "asgi:app"),
        environment={"PYTHONPATH": str(APPS)},
        closing_environment={"CLOSE": "yes"},
    ),
    "granian": Server(
        ("granian", "--interface", "asgi", "--host", "0.0.0.0", "--port", str(PORT), "--working-dir", str(APPS), "asgi:app"),
        closing_arguments=("--no-http1-keep-alive",),
    ),
    "puma": Server(
        ("puma", "-b", f"tcp://0.0.0.0:{PORT}", "-t", "32:32", "-e", "production", "--control-url", "tcp://127.0.0.1:9293",
         "--control-token", "none", "-C", str(APPS / "puma.rb"), str(APPS / "config.ru")),
        drain_url=f"{LOOPBACK}:9293/stop?token=none",
    ),
    "rails": Server(
        ("puma", "-b", f"tcp://0.0.0.0:{PORT}", "-t", "32:32", "-e", "production", "-C", str(APPS / "puma.rb"),
         str(APPS / "rails.ru")),
    ),
    "node": Server(NODE),
    "node-init": Server(("tini", "--", *NODE)),
    "java": Server(("java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", str(LAB / "classes"), "Server")),
    "caddy": Server(
        ("caddy", "run", "--adapter", "caddyfile", "--config", "apps/Caddyfile"),
        behind=NODE,
        drain_url=f"{LOOPBACK}:2019/stop",
        recipe={"PRESTOP_DRAIN": "quiet, POST http://app:2019/stop"},
        closing_file=("reverse_proxy", "header Connection close\n\treverse_proxy"),
    ),
    "nginx": Server(
        ("nginx", "-c", "apps/nginx.conf"),
        behind=NODE,
        recipe={"PRESTOP_DRAIN": "quiet, signal QUIT app"},
        recipe_signals=True,
        closing_file=("keepalive_timeout 75s", "keepalive_timeout 0"),
    ),
    "envoy": Server(
        ("envoy", "-c", "apps/envoy.yaml", "--disable-hot-restart", "--concurrency", "2", "-l", "warning"),
        behind=NODE,
        drain_url=f"{LOOPBACK}:9901/drain_listeners?graceful",
        recipe={"PRESTOP_DRAIN": f"POST {LOOPBACK}:9901/drain_listeners?graceful&skip_exit, quiet"},
        recipe_arguments=("--drain-strategy", "immediate"),
        closing_file=("idle_timeout: 75s", "max_requests_per_connection: 1"),
    ),
    "apache": Server(
        ("apache2", "-DFOREGROUND", "-f", "apps/apache.conf"),
        behind=NODE,
        recipe={"PRESTOP_DRAIN": "quiet, signal WINCH app"},
        recipe_signals=True,
        closing_arguments=("-c", "KeepAlive Off"),
    ),
    "uwsgi": Server(
        ("uwsgi", "--plugin", "python3", "--http-socket", f"0.0.0.0:{PORT}", "--chdir", str(APPS), "--wsgi-file", "wsgi.py",
         "--callable", "app", "--add-header", "Connection: close", "--master", "--processes", "1", "--threads", "24",
         "--disable-logging"),
        recipe={"PRESTOP_DRAIN": "quiet"},
        recipe_arguments=("--die-on-term",),
    ),
    "php-fpm": Server(
        ("nginx", "-c", "apps/nginx-php.conf"),
        behind=PHP,
        behind_stops_too=True,
        closing_file=("keepalive_timeout 75s", "keepalive_timeout 0"),
    ),
    "celery": Server(
        ("celery", "-A", "celery_jobs", "worker", "--concurrency", "4", "-l", "warning"),
        environment={"PYTHONPATH": str(APPS)},
        enqueue=(str(VENV / "python"), str(APPS / "celery_jobs.py"), "enqueue"),
        recipe={"PRESTOP_DRAIN": "signal TERM app"},
        recipe_signals=True,
    ),
    "sidekiq": Server(
        ("sidekiq", "-r", str(APPS / "sidekiq_jobs.rb"), "-c", "4"),
        enqueue=("ruby", str(APPS / "sidekiq_jobs.rb"), "enqueue"),
        recipe={"PRESTOP_DRAIN": "signal TERM app"},
        recipe_signals=True,
    ),
}

WORKERS = tuple(name for name, server in SERVERS.items() if server.enqueue)
