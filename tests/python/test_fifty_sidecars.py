"""Fifty sidecars of one container instance see one Spot notice in the same second."""

import time
from collections import Counter

from support.case import CALL_S, JITTER_S
from support.proxy import Proxy
from support.sidecar import Host, Sidecar, looked_up

SIDECARS = 50
# Where AWS answers as fast as it does. On a busy machine those may be more that ask before they can know.
MOST_CHANGES = 3
START_S = 40
SPOT_S = 120
SETTLED_S = 3
ALONE = {"PRESTOP_WATCH": "spot", "PRESTOP_DRAIN_INSTANCE": "true"}
EVERYTHING = ALONE | {"PRESTOP_DEREGISTER": "true", "PRESTOP_STOP_TIMEOUT": "60s"}


def test_a_notice_alone_changes_the_instance_a_few_times_at_most_and_throttles_nobody(rig, report):
    ends, throttled, complaints = play(rig, ALONE, report, sigterm=False)
    # All have done it, or have seen that it is done.
    assert "failed" not in ends
    assert throttled == {}
    assert complaints == []


def test_a_notice_and_a_sigterm_with_every_feature_change_the_instance_a_few_times_at_most(rig, report):
    """The agent stops all tasks a second after the notice. What ECS throttles then is tried again; how much
    it is, is only reported, and one of fifty may give up: the others have set the state."""
    _, _, complaints = play(rig, EVERYTHING, report, sigterm=True)
    said = Counter(line_of(event) for event in complaints)
    report.extend(f"  {count} say: {line}" for line, count in said.most_common())


def play(rig, settings, report, sigterm):
    """How they ended, what was throttled, and what they complained of."""
    instance = rig.aws.instance()
    tasks = [rig.aws.bridge_task(instance, register="PRESTOP_DEREGISTER" in settings) for _ in range(SIDECARS)]
    running = []
    with Host() as host, Proxy(rig.aws.moto.port, rig.aws.amend, buckets=True) as proxy:
        try:
            for task in tasks:
                host.add(task, "EC2", released=not sigterm)
                running.append(Sidecar(rig.binary, host, proxy, task, settings))
            # Each says that it is ready, or that it is not.
            blind = [one for one in running if one.sees(looked_up, START_S) is None]
            assert not blind, f"{len(blind)} say nothing of AWS at start"
            time.sleep(SETTLED_S)
            at_start, throttled_at_start = proxy.counted(), +proxy.throttled
            calls_at_start = len(proxy.calls)
            host.announce_spot(SPOT_S)
            if sigterm:
                time.sleep(1)
                for task, one in zip(tasks, running, strict=True):
                    rig.aws.extra[task.arn]["stopCode"] = "ServiceSchedulerInitiated"
                    one.sigterm()
            ends = [one.sees(instance_done, JITTER_S + CALL_S + 10) for one in running]
            counted, throttled = proxy.counted(), +proxy.throttled
            later = proxy.calls[calls_at_start:]
            for task, one in zip(tasks, running, strict=True):
                host.apps[task.id].released.set()
                one.sigterm()
            codes = Counter(one.ends(10) for one in running)
            firsts = sorted(one.first_call_ms() or 0 for one in running)
            complaints = [event for one in running for event in one.complaints()]
        finally:
            for one in running:
                one.__exit__()
    report += [
        f"fifty sidecars, {'with every feature and a SIGTERM' if sigterm else 'with a notice alone'}:",
        f"  at start: {in_words(at_start)}; throttled: {in_words(throttled_at_start)}",
        f"  after the notice: {in_words(counted - at_start)}; throttled: {in_words(throttled - throttled_at_start)}",
        f"  ms to the first drain call: {firsts[SIDECARS // 2]} in the middle, {firsts[-1]} at most",
    ]
    outcomes = Counter("none" if end is None else end["outcome"] for end in ends)
    assert "none" not in outcomes
    changes = [call for call in later if call.action == "ecs:UpdateContainerInstancesState"]
    done_at = next(call.at + call.took_s for call in changes if call.fault is None)
    looks = [call for call in later if call.action == "ecs:DescribeContainerInstances" and call.at < done_at]
    assert len(changes) <= max(MOST_CHANGES, len(looks)), "some have changed it though they saw that it was changed"
    assert codes == {0: SIDECARS}
    assert rig.aws.instance_status(instance) == "DRAINING"
    return outcomes, throttled, complaints


def instance_done(event):
    return event["event"] == "aws.end" and event.get("call") == "drain-instance"


def line_of(event):
    return f"{event['level']} {event['event']}: {event.get('message') or event.get('detail')}"


def in_words(counts):
    return ", ".join(f"{count} {action.split(':')[1]}" for action, count in counts.most_common()) or "none"
