"""Fifty sidecars of one container instance see one Spot notice in the same second."""

import time
from collections import Counter

from case import CALL_S, JITTER_S, unless
from proxy import Proxy
from task import Host, Sidecar, told

SIDECARS = 50
MOST_CHANGES = 3
START_S = 40
SPOT_S = 120
SETTLED_S = 3
ALONE = {"PRESTOP_WATCH": "spot", "PRESTOP_DRAIN_INSTANCE": "true"}
EVERYTHING = ALONE | {"PRESTOP_DEREGISTER": "true", "PRESTOP_STOP_TIMEOUT": "60s"}


def alone(rig):
    """As the promise is: the notice, and nothing else."""
    what = f"fifty sidecars: at most {MOST_CHANGES} state changes, no throttling"
    problems, report, throttled, complaints = play(rig, ALONE, sigterm=False)
    problems += unless(not throttled, f"throttled: {dict(throttled)}")
    problems += unless(not complaints, f"{len(complaints)} complaints, such as {complaints[:1]}")
    return what, problems, report


def everything(rig):
    """The agent stops all tasks a second after the notice, and each sidecar has every feature. What ECS
    throttles then is tried again; how much it is, is only reported."""
    what = f"fifty sidecars with every feature and a SIGTERM: at most {MOST_CHANGES} state changes"
    problems, report, _, complaints = play(rig, EVERYTHING, sigterm=True)
    said = Counter(line_of(event) for event in complaints)
    return what, problems, report + [f"  {count} say: {line}" for line, count in said.most_common()]


def play(rig, settings, sigterm):
    instance = rig.world.instance()
    tasks = [rig.world.bridge_task(instance, register="PRESTOP_DEREGISTER" in settings) for _ in range(SIDECARS)]
    running = []
    with Host() as host, Proxy(rig.world.moto.port, rig.world.amend, buckets=True) as proxy:
        try:
            for task in tasks:
                host.add(task, "EC2", released=not sigterm)
                running.append(Sidecar(rig.binary, host, proxy, task, settings))
            # Each says that it is ready, or that it is not.
            blind = [one for one in running if one.sees(told, START_S) is None]
            problems = unless(not blind, f"{len(blind)} say nothing of AWS at start")
            time.sleep(SETTLED_S)
            at_start, throttled_at_start = proxy.counted(), +proxy.throttled
            host.announce_spot(SPOT_S)
            if sigterm:
                time.sleep(1)
                for task, one in zip(tasks, running, strict=True):
                    rig.world.extra[task.arn]["stopCode"] = "ServiceSchedulerInitiated"
                    one.sigterm()
            ends = [one.sees(instance_done, JITTER_S + CALL_S + 10) for one in running]
            counted, throttled = proxy.counted(), +proxy.throttled
            for task, one in zip(tasks, running, strict=True):
                host.apps[task.id].released.set()
                one.sigterm()
            codes = Counter(one.ends(10) for one in running)
            firsts = sorted(one.first_call_ms() or 0 for one in running)
            complaints = [event for one in running for event in one.complaints()]
        finally:
            for one in running:
                one.__exit__()
    outcomes = Counter("none" if end is None else end["outcome"] for end in ends)
    changes = counted["ecs:UpdateContainerInstancesState"]
    # Where ECS throttles, one of fifty may give up: the others have set the state.
    wrong = {"none"} if sigterm else {"none", "failed"}
    problems += unless(set(outcomes).isdisjoint(wrong), f"ended as {dict(outcomes)}")
    problems += unless(1 <= changes <= MOST_CHANGES, f"{changes} state changes")
    problems += unless(codes == {0: SIDECARS}, f"exit codes {dict(codes)}")
    status = rig.world.instance_status(instance)
    problems += unless(status == "DRAINING", f"moto says {status}")
    later = counted - at_start
    report = [
        f"  at start: {in_words(at_start)}; throttled: {in_words(throttled_at_start)}",
        f"  after the notice: {in_words(later)}; throttled: {in_words(throttled - throttled_at_start)}",
        f"  ms to the first drain call: {firsts[SIDECARS // 2]} in the middle, {firsts[-1]} at most",
    ]
    return problems, report, throttled, complaints


def instance_done(event):
    return event["event"] == "aws.end" and event.get("call") == "drain-instance"


def line_of(event):
    return f"{event['level']} {event['event']}: {event.get('message') or event.get('detail')}"


def in_words(counts):
    return ", ".join(f"{count} {action.split(':')[1]}" for action, count in counts.most_common()) or "none"
