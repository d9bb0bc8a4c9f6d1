"""Celery beside ecs-prestop: a lease for each task, and no other task once ECS wants this worker gone.

    app = Celery("shop", broker=...)
    app.Task = LeasedTask
    watch_sidecar(app)

The worker runs with one task at a time for each of its processes: `--prefetch-multiplier 1`, acks late. It needs
nothing beyond Celery itself. `PRESTOP_PROTECT=true` and `PRESTOP_DRAIN=signal TERM worker` belong to it.
"""

import json
import os
import threading
import time
import urllib.error
import urllib.request

from celery import Task, signals
from celery.exceptions import Reject

SIDECAR = os.environ.get("PRESTOP_URL", "http://127.0.0.1:9911")

# Longer than any task: what a lost worker keeps protected at most.
LEASE = "2h"

# The sidecar answers within 22 s, however ECS does.
ANSWER_S = 25

# How often the sidecar on this host is looked at, which costs ECS nothing.
LOOK_S = 2


def ask(method, path, answer_s=ANSWER_S):
    """Status and body; no status where nobody answers."""
    request = urllib.request.Request(SIDECAR + path, method=method)
    try:
        with urllib.request.urlopen(request, timeout=answer_s) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as why:
        return why.code, why.read()
    except OSError as why:
        return None, str(why).encode()


class LeasedTask(Task):
    """Works under a lease. Without one the task goes back to its queue."""

    acks_late = True
    reject_on_worker_lost = True

    def __call__(self, *args, **kwargs):
        lease = f"/protect/{self.request.id}"
        status, why = ask("PUT", f"{lease}?for={LEASE}")
        if status != 200:
            # 409: this worker is to go. 502, 504: ECS does not agree. Somebody else may be luckier.
            time.sleep(LOOK_S)
            raise Reject(why.decode(errors="replace").strip(), requeue=True)
        try:
            return super().__call__(*args, **kwargs)
        finally:
            ask("DELETE", lease)


def watch_sidecar(app):
    """Stops taking tasks while ECS wants this worker gone, and takes them again after a rollback."""

    @signals.worker_ready.connect(weak=False)
    def ready(sender, **_):
        threading.Thread(target=watch, args=(app, sender), name="ecs-prestop", daemon=True).start()


def watch(app, consumer):
    queues = list(app.amqp.queues.consume_from)
    taking = True
    while True:
        time.sleep(LOOK_S)
        status, body = ask("GET", "/status", 5)
        if status != 200:
            continue
        state = json.loads(body)
        wanted = not state.get("superseded") and not state["reasons"]
        if wanted == taking:
            continue
        taking = wanted
        change = consumer.add_task_queue if wanted else consumer.cancel_task_queue
        for queue in queues:
            # In the worker's own thread.
            consumer.call_soon(change, queue)
