"""Workers as `task-definitions/workers.md` has them, with their real brokers: no job is lost, and none is done twice.

Every play is one task of a service: a worker, the sidecar beside it, and a stop. By its own signal alone the worker
is stopped at once. With leases ECS first begins a deployment, and stops the task when nothing protects it any more.
Then another task does the rest of the jobs."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.definitions import ROOT

# How long a job takes; the recipes were tried with 30.
SECONDS = float(os.environ.get("WORKER_SECONDS", "5"))
# More than one worker does before it is told: two looks at ECS, 66 s at most.
JOBS = 60
# ECS takes a moment to see that a task is protected no longer, and to stop it.
UNPROTECTED_S = 2
LIMIT_S = 240

PAGE = (ROOT / "task-definitions" / "workers.md").read_text()
RECIPES = ROOT / "task-definitions" / "workers"

CELERY = """
import os, time
from celery import Celery
app = Celery("jobs", broker=os.environ["BROKER"])
app.conf.worker_prefetch_multiplier = 1
app.conf.task_acks_late = True
if "LEASES" in os.environ:
    from celery_prestop import LeasedTask, watch_sidecar
    app.Task = LeasedTask
    watch_sidecar(app)
@app.task(name="work")
def work(number, seconds):
    for what in "begin", "end":
        with open(os.environ["LEDGER"], "a") as ledger:
            ledger.write(f"{what} {number} {os.environ['WHO']}\\n")
        if what == "begin":
            time.sleep(seconds)
"""

SIDEKIQ = """
require "sidekiq"
Sidekiq.configure_client { |config| config.redis = { url: ENV.fetch("BROKER") } }
Sidekiq.configure_server do |config|
  config.redis = { url: ENV.fetch("BROKER") }
  if ENV["LEASES"]
    require "sidekiq_prestop"
    config.server_middleware { |chain| chain.add SidekiqPrestop }
  end
end
class Work
  include Sidekiq::Worker
  def perform(number, seconds)
    %w[begin end].each do |what|
      File.open(ENV["LEDGER"], "a") { |ledger| ledger.puts("#{what} #{number} #{ENV["WHO"]}") }
      sleep seconds if what == "begin"
    end
  end
end
"""

SHELL = """
next_job() { for job in queue/*; do [ -e "$job" ] && mv "$job" taken/ && basename "$job" && return; done; return 1; }
put_back() { mv "taken/$1" queue/; }
do_job() { echo "begin $1 $WHO" >>"$LEDGER"; sleep "$SECONDS_A_JOB"; echo "end $1 $WHO" >>"$LEDGER"; }
"""

PYTHON = """
import os, pathlib, time
def next_job():
    job = next(pathlib.Path("queue").iterdir(), None)
    return job and job.rename(pathlib.Path("taken", job.name)).name
def put_back(job):
    pathlib.Path("taken", job).rename(pathlib.Path("queue", job))
def do_job(job):
    for what in "begin", "end":
        with open(os.environ["LEDGER"], "a") as ledger:
            ledger.write(f"{what} {job} {os.environ['WHO']}\\n")
        if what == "begin":
            time.sleep(float(os.environ["SECONDS_A_JOB"]))
"""


def code(language, after):
    """The first block of that language behind a heading of the page."""
    return PAGE.split(f"## {after}\n", 1)[1].split(f"```{language}\n", 1)[1].split("```", 1)[0]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for(what, is_so, limit_s=LIMIT_S):
    end = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.1)


# A task has PIDs of its own: a `signal` step must not find the worker of the play beside it.
NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


def children_of(process):
    """The PIDs, as they are seen from here, of what such a command runs; none where that has ended."""
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    except OSError:
        return []
    return [int(pid) for pid in children]


def terminate(process):
    for pid in children_of(process):
        os.kill(pid, signal.SIGTERM)


class Play:
    """One task to its end, and what its successor does."""

    def __init__(self, binary, stand_in, worker, leases, folder):
        self.binary, self.stand_in = binary, stand_in
        self.worker, self.leases, self.folder = worker, leases, folder
        self.queued = worker in ("shell", "python")
        self.started = []
        self.ports = {name: free_port() for name in ("ecs", "sidecar", "redis")}
        self.ecs = f"http://127.0.0.1:{self.ports['ecs']}"
        self.sidecar = f"http://127.0.0.1:{self.ports['sidecar']}"

    def run(self):
        try:
            return self.play()
        finally:
            for process in self.started:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def start(self, name, command, **env):
        with open(self.folder / f"{name}.log", "w") as log:
            process = subprocess.Popen(
                [str(word) for word in command],
                env={**os.environ, **env},
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def start_inside(self, name, command, **env):
        inside = ["nsenter", "--target", self.namespace, "--pid", "--mount"]
        # The other mounts are another root, too.
        return self.start(name, [*inside, "sh", "-c", 'cd "$0" && exec "$@"', self.folder, *command], **env)

    def play(self):
        for name in "queue", "taken":
            (self.folder / name).mkdir()
        holder = self.start("namespace", [*NAMESPACE, "sleep", "600"])
        wait_for("there is a namespace", lambda: children_of(holder))
        self.namespace = children_of(holder)[0]
        self.start("ecs", [self.stand_in, "simulate", "--listen", f"127.0.0.1:{self.ports['ecs']}"])
        wait_for("the stand-in answers", lambda: self.answers(self.ports["ecs"]))
        if not self.queued:
            port = str(self.ports["redis"])
            self.start("redis", ["redis-server", "--port", port, "--save", "", "--dir", self.folder])
            wait_for("Redis answers", lambda: self.answers(self.ports["redis"]))
        self.enqueue()
        sidecar = self.start_sidecar()
        wait_for("the sidecar answers", lambda: self.answers(self.ports["sidecar"]))
        worker = self.start_worker("first", self.leases)
        wait_for("a job has begun", lambda: self.ledger("begin"))
        if self.leases:
            self.post("/_simulate/service?change=forced")
            self.await_unprotected()
        terminate(sidecar)
        code = sidecar.wait(LIMIT_S)
        terminate(worker)
        # With the drain it has nothing in hand.
        worker.wait(20)
        by_first = len(self.ledger("end"))
        if not self.queued:
            self.start_worker("second", False)
            wait_for("the next task has done the rest", lambda: len(set(self.ledger("end"))) == JOBS)
        told = '"event":"superseded"' in (self.folder / "sidecar.log").read_text()
        return {
            "code": code,
            "told": told,
            "by_first": by_first,
            "begun": sorted(self.ledger("begin")),
            "done": sorted(self.ledger("end")),
            "queue": sorted(job.name for job in (self.folder / "queue").iterdir()),
        }

    def enqueue(self):
        (self.folder / "jobs.py").write_text(CELERY)
        (self.folder / "jobs.rb").write_text(SIDEKIQ)
        if self.queued:
            for number in range(JOBS):
                (self.folder / "queue" / f"{number:03}").touch()
            return
        if self.worker == "celery":
            program = f"import jobs\nfor n in range({JOBS}): jobs.work.delay(f'{{n:03}}', {SECONDS})"
            command = [sys.executable, "-c", program]
        else:
            program = f"{JOBS}.times {{ |n| Work.perform_async(format('%03d', n), {SECONDS}) }}"
            command = ["ruby", "-r", "./jobs.rb", "-e", program]
        env = {**os.environ, "BROKER": self.broker()}
        subprocess.run(command, cwd=self.folder, env=env, check=True, stderr=subprocess.DEVNULL)

    def broker(self):
        return f"redis://127.0.0.1:{self.ports['redis']}/0"

    def start_sidecar(self):
        drain = {"celery": "signal TERM app", "sidekiq": "signal TERM app"}
        return self.start_inside(
            "sidecar",
            [self.binary],
            ECS_CONTAINER_METADATA_URI_V4=f"{self.ecs}/v4/prestop",
            ECS_AGENT_URI=f"{self.ecs}/api/prestop",
            AWS_ENDPOINT_URL=self.ecs,
            PRESTOP_DRAIN=drain.get(self.worker, "ack"),
            PRESTOP_PROTECT=str(self.leases).lower(),
            PRESTOP_WATCH="superseded" if self.leases else "none",
            PRESTOP_STOP_TIMEOUT="120s",
            PRESTOP_RESERVE="0s",
            PRESTOP_LISTEN=f"127.0.0.1:{self.ports['sidecar']}",
        )

    def start_worker(self, who, leases):
        env = {
            "WHO": who,
            "LEDGER": str(self.folder / "ledger"),
            "BROKER": self.broker(),
            "SECONDS_A_JOB": str(SECONDS),
            "PRESTOP_URL": self.sidecar,
            # By this the sidecar tells whose process it is.
            "ECS_CONTAINER_METADATA_URI_V4": f"{self.ecs}/v4/{'app' if who == 'first' else 'next'}",
        }
        if leases:
            env["LEASES"] = "true"
        at_once = 2 if who == "first" else 30

        def page(language, after):
            return code(language, after).replace("http://127.0.0.1:9911", self.sidecar)

        if self.worker == "celery":
            celery = Path(sys.executable).with_name("celery")
            command = [celery, "-A", "jobs", "worker", "-c", at_once, "-n", who, "--without-mingle"]
            env["PYTHONPATH"] = f"{self.folder}:{RECIPES}"
        elif self.worker == "sidekiq":
            command = ["sidekiq", "-r", "./jobs.rb", "-c", at_once, "-t", "110"]
            env["RUBYLIB"] = str(RECIPES)
        elif self.worker == "shell":
            command = ["sh", "-c", SHELL + page("sh", "In a shell")]
        else:
            command = [sys.executable, "-c", PYTHON + page("python", "In Python")]
        return self.start_inside(who, command, **env)

    def await_unprotected(self):
        since = None
        end = time.monotonic() + LIMIT_S
        while since is None or time.monotonic() - since < UNPROTECTED_S:
            assert time.monotonic() < end, "the task stays protected for ever"
            protected = '"protected": true' in self.read("/_simulate/")
            since = None if protected else since or time.monotonic()
            time.sleep(0.05)

    def ledger(self, what):
        path = self.folder / "ledger"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split()[1] for line in lines if line.startswith(f"{what} ")]

    def answers(self, port):
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", port)) == 0

    def read(self, path, method="GET"):
        from urllib.request import Request, urlopen

        with urlopen(Request(self.ecs + path, method=method), timeout=10) as answer:
            return answer.read().decode()

    def post(self, path):
        return self.read(path, "POST")


PLAYS = [
    ("celery", False),
    ("celery", True),
    ("sidekiq", False),
    ("sidekiq", True),
    ("shell", True),
    ("python", True),
]
NEEDS = {
    "celery": ("redis-server",),
    "sidekiq": ("redis-server", "sidekiq"),
    "shell": ("curl",),
    "python": (),
}


def missing(worker):
    if subprocess.run([*NAMESPACE, "true"], stderr=subprocess.DEVNULL).returncode != 0:
        return "the right to make a PID namespace"
    lacks = [name for name in NEEDS[worker] if shutil.which(name) is None]
    if worker == "celery" and not Path(sys.executable).with_name("celery").exists():
        lacks.append("celery")
    return ", ".join(lacks)


@pytest.fixture(scope="module")
def played(binary, stand_in, tmp_path_factory):
    """All of them beside each other, since they mostly wait."""
    with ThreadPoolExecutor(len(PLAYS)) as pool:
        return {
            play: pool.submit(Play(binary.path, stand_in, *play, tmp_path_factory.mktemp(play[0])).run)
            for play in PLAYS
            if not missing(play[0])
        }


@pytest.mark.parametrize("worker, leases", PLAYS, ids=[f"{w}{'-leases' * l}" for w, l in PLAYS])
def test_no_job_is_lost_and_none_is_done_twice(played, report, worker, leases):
    if missing(worker):
        pytest.skip(f"needs {missing(worker)}")
    seen = played[worker, leases].result()
    jobs = [f"{number:03}" for number in range(JOBS)]
    report.append(
        f"{worker}{' with leases' * leases}: jobs of {SECONDS:g} s, {seen['by_first']} by the worker that was stopped, "
        f"{len(jobs) - seen['by_first']} left to the next"
    )
    assert seen["code"] == 0, "it is drained"
    assert seen["told"] == leases
    assert 0 < seen["by_first"] < JOBS
    assert seen["begun"] == seen["done"], "what was begun was done, and once"
    assert sorted(seen["done"] + seen["queue"]) == jobs, "and the rest is there for the next"
