"""Each feature end to end, and what moto says afterwards. A check gives its line, what is wrong, and the
actions that the feature called, by the policy file that must grant them."""

import socket
import threading
import time
from contextlib import ExitStack, contextmanager

from case import CALL_S, JITTER_S, SLACK_S, WHY, unless
from proxy import ELB
from task import KEY, in_words, told
from world import REGION, STOP_TIMEOUT_S

SPOT = {"PRESTOP_WATCH": "spot", "PRESTOP_POLL_INTERVAL": "200ms"}
DRAINING_ANSWERS = 2
# Beyond the spread of the first look-up.
PORTS_S = 4


def deregister(rig, task, launch_type, what, variables=("AWS_ENDPOINT_URL",)):
    """The targets are still draining for a while; the app is asked once they are not."""
    rig.world.draining[task.target["Id"]] = DRAINING_ANSWERS
    settings = {"PRESTOP_DEREGISTER": "true", "PRESTOP_STOP_TIMEOUT": "20s"}
    with rig.case(task, settings, launch_type, endpoints=variables) as case:
        case.sidecar.sigterm()
        problems = case.ending(0, 25)
        calls = [call for call in case.proxy.calls if call.action == f"{ELB}:DeregisterTargets"]
        groups = len(task.groups)
        problems += unless(len(calls) == groups, f"{len(calls)} DeregisterTargets for {groups} groups")
        problems += unless(
            all(f"Port={task.host_port}" in call.body and f"Id={task.target['Id']}" in call.body for call in calls),
            f"not {task.target}: {[call.body for call in calls]}",
        )
        left = [call.at for call in case.proxy.calls if call.action == f"{ELB}:DescribeTargetHealth"]
        problems += unless(len(left) > DRAINING_ANSWERS, f"asked {len(left)} times whether they had let go")
        arrivals = case.app.arrivals
        problems += unless(len(arrivals) == 1, f"{len(arrivals)} drain calls")
        problems += unless(not left or not arrivals or arrivals[0] > left[-1], "the drain began before they had let go")
        problems += unless(not case.complaints(), f"complaints: {case.complaints()}")
        problems += unless(
            {call.key for call in case.proxy.calls} == {KEY}, f"keys {({call.key for call in case.proxy.calls})}"
        )
        problems += unless(
            {call.region for call in case.proxy.calls} == {REGION}, "the region is not that of the task's ARN"
        )
        states = rig.world.target_states(task)
        problems += unless(set(states) == {"unused"}, f"moto says {states}")
        return f"deregister, {what}", problems, {"deregister": case.own_actions()}


def deregister_awsvpc(rig):
    return deregister(rig, rig.world.awsvpc_task(), "FARGATE", "awsvpc on Fargate, two target groups")


def deregister_bridge(rig):
    task = rig.world.bridge_task(rig.world.instance())
    variables = ("AWS_ENDPOINT_URL_ECS", "AWS_ENDPOINT_URL_ELASTIC_LOAD_BALANCING_V2")
    return deregister(rig, task, "EC2", "bridge on EC2, by instance and host port, endpoints of their own", variables)


def deregister_late_ports(rig):
    """ECS learns the ports of the host after the sidecar has asked for the first time."""
    task = rig.world.bridge_task(rig.world.instance())
    facts = rig.world.extra[task.arn]
    rig.world.extra[task.arn] = facts | {"containers": [{"name": "app", "networkBindings": []}]}
    known = threading.Timer(PORTS_S, rig.world.extra.update, [{task.arn: facts}])
    known.start()
    result = deregister(rig, task, "EC2", "bridge on EC2, the ports are known late")
    known.join()
    return result


def deregister_nothing(rig):
    """A task of no service: nothing to do, nothing to wait for."""
    task = rig.world.loose_task()
    with rig.case(task, {"PRESTOP_DEREGISTER": "true", "PRESTOP_STOP_TIMEOUT": "20s"}) as case:
        case.sidecar.sigterm()
        problems = case.ending(0, 25)
        ms = case.sidecar.first_call_ms()
        problems += unless(ms is not None and ms < SLACK_S * 1000, f"the first step after {ms} ms")
        problems += unless(len(case.complaints()) <= 1, f"complaints: {case.complaints()}")
        return "deregister, a task of no service: no wait", problems, {}


def deregister_long_delay(rig):
    """Half of the budget is 0.9 s, and the target groups keep connections for longer: said at start."""
    task = rig.world.awsvpc_task()
    with rig.case(task, {"PRESTOP_DEREGISTER": "true", "PRESTOP_STOP_TIMEOUT": "2s"}) as case:
        said = case.complaints()
        names = ["web-public", "web-internal"]
        missing = [name for name in names if not any(name in line and "delay" in line for line in said)]
        problems = unless(not missing, f"nothing is said of {missing}: {said}")
        case.sidecar.sigterm()
        problems += case.ending(0, 5)
        return "deregister, a delay that does not fit is said at start", problems, {}


def drain_instance(rig):
    instance = rig.world.instance()
    first, second = (rig.world.bridge_task(instance, register=False) for _ in range(2))
    problems, used = [], set()
    for task, changes in ((first, 1), (second, 0)):
        with rig.case(task, {"PRESTOP_DRAIN_INSTANCE": "true"} | SPOT) as case:
            case.host.announce_spot(60)
            end = case.ended("drain-instance", JITTER_S + 8)
            problems += unless(end and end["outcome"] != "failed", f"aws.end: {end and in_words(end)}")
            case.sidecar.sigterm()
            problems += case.ending(0, 10)
            made = case.proxy.counted()["ecs:UpdateContainerInstancesState"]
            problems += unless(made == changes, f"{made} state changes, not {changes}")
            problems += unless(not case.complaints(), f"complaints: {case.complaints()}")
            used |= case.own_actions()
    status = rig.world.instance_status(instance)
    problems += unless(status == "DRAINING", f"moto says {status}")
    return "drain-instance on a Spot notice; the next task of it leaves it", problems, {"drain-instance": used}


def drain_instance_and_exit(rig):
    """The app drains at once, and the sidecar would leave before its turn."""
    instance = rig.world.instance()
    task = rig.world.bridge_task(instance, register=False)
    with rig.case(task, {"PRESTOP_DRAIN_INSTANCE": "true", "PRESTOP_AFTER_DRAIN": "exit"} | SPOT) as case:
        case.host.announce_spot(60)
        problems = case.ending(0, JITTER_S + 10)
        status = rig.world.instance_status(instance)
        problems += unless(status == "DRAINING", f"moto says {status}")
        return "drain-instance with PRESTOP_AFTER_DRAIN=exit", problems, {}


def stop_task(rig):
    task = rig.world.awsvpc_task()
    with rig.case(task, {"PRESTOP_AFTER_DRAIN": "stop-task"} | SPOT) as case:
        case.host.announce_spot(60)
        end = case.ended("stop-task", 10)
        problems = unless(end and end["outcome"] != "failed", f"aws.end: {end and in_words(end)}")
        state = rig.world.task_state(task)
        wanted = ("STOPPED", "ecs-prestop: drained after spot-interruption")
        problems += unless(state == wanted, f"moto says {state}")
        # ECS now stops the task.
        case.sidecar.sigterm()
        problems += case.ending(0, 5)
        problems += unless(not case.complaints(), f"complaints: {case.complaints()}")
        return "stop-task once drained, with the reason", problems, {"stop-task": case.own_actions()}


def stop_timeout(rig):
    task = rig.world.awsvpc_task()
    with rig.case(task, {"PRESTOP_STOP_TIMEOUT": "auto"}) as case:
        case.sidecar.sigterm()
        problems = case.ending(0, 10)
        # A tenth is the margin.
        budget, wanted = case.sidecar.last().get("budget_ms"), STOP_TIMEOUT_S * 900
        problems += unless(budget is not None and abs(budget - wanted) < 50, f"a budget of {budget} ms, not {wanted}")
        problems += unless(not case.complaints(), f"complaints: {case.complaints()}")
        return "stop-timeout auto, from the task definition", problems, {"stop-timeout": case.own_actions()}


def why(rig, stop_code, extra, wanted_ms):
    task = rig.world.awsvpc_task()
    rig.world.extra[task.arn] = {"stopCode": stop_code, "stoppedReason": "ECS says so."} | extra
    with rig.case(task, {"PRESTOP_STOP_TIMEOUT": "120s"}, "FARGATE", released=False, listen=True) as case:
        case.sidecar.sigterm()
        end = case.ended("why", 10)
        problems = unless(end and end["outcome"] != "failed", f"aws.end: {end and in_words(end)}")
        status = str(case.sidecar.status())
        problems += unless(stop_code in status, f"/status does not say {stop_code}: {status}")
        log = [event for event in case.sidecar.events if event["event"] != "exit" and stop_code in str(event)]
        problems += unless(len(log) == 1, f"{len(log)} log lines say {stop_code}")
        case.app.released.set()
        problems += case.ending(0, 10)
        budget = case.sidecar.last().get("budget_ms")
        right = budget is not None and abs(budget - wanted_ms) < 50
        problems += unless(right, f"a budget of {budget} ms, not {wanted_ms}")
        problems += unless(not case.complaints(), f"complaints: {case.complaints()}")
        actions = {call.action for call in case.proxy.calls}
        return f"why: {stop_code} in the log, in /status and in the deadline", problems, {"why": actions}


def why_spot(rig):
    return why(rig, "SpotInterruption", {"capacityProviderName": "FARGATE_SPOT"}, 110_000)


def why_scale_in(rig):
    return why(rig, "ServiceSchedulerInitiated", {"capacityProviderName": "FARGATE"}, 119_000)


def no_credentials(rig):
    """Said once at start, naming what is missing; the drain goes on, and nothing is waited for."""
    task = rig.world.awsvpc_task()
    settings = {
        "PRESTOP_DEREGISTER": "true",
        "PRESTOP_STOP_TIMEOUT": "20s",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": None,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with rig.case(task, settings) as case:
        case.sidecar.sees(told, 10)
        # Time enough to say it again.
        time.sleep(3)
        said = case.complaints()
        named = [line for line in said if all(part in line for part in ("credentials", WHY, "sidecar-deregister.json"))]
        problems = unless(named, f"no line names credentials, {WHY} and sidecar-deregister.json: {said}")
        problems += unless(len(said) == 1, f"{len(said)} complaints at start: {said}")
        case.sidecar.sigterm()
        problems += case.ending(0, 25)
        ms = case.sidecar.first_call_ms()
        problems += unless(ms is not None and ms < SLACK_S * 1000, f"the first step after {ms} ms")
        return "no credentials: said, with the policy file; drained all the same", problems, {}


def no_way_out(rig):
    """A private subnet without a way to AWS: nothing answers the first packet."""
    with silence() as endpoint:
        settings = {"PRESTOP_DEREGISTER": "true", "PRESTOP_STOP_TIMEOUT": "20s", "AWS_ENDPOINT_URL": endpoint}
        with rig.case(rig.world.awsvpc_task(), settings) as case:
            case.sidecar.sees(told, 10)
            case.sidecar.sigterm()
            problems = case.ending(0, 25)
            ms = case.sidecar.first_call_ms()
            problems += unless(ms is not None and ms < (CALL_S + SLACK_S) * 1000, f"the first step after {ms} ms")
            said = case.complaints()
            named = [line for line in said if "time" in line or "reach" in line]
            problems += unless(named and len(said) <= 3, f"{len(said)} complaints: {said}")
    return "no way to AWS: said, and drained after one call's time", problems, {}


@contextmanager
def silence():
    """An address that drops every packet that would open a connection: its queue is full."""
    with ExitStack() as open_sockets:
        deaf = open_sockets.enter_context(socket.socket())
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(2):
            waiting = open_sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        yield f"http://127.0.0.1:{deaf.getsockname()[1]}"


def without(rig):
    """No feature: nothing is called but the question why."""
    task = rig.world.awsvpc_task()
    with rig.case(task, {}) as case:
        case.sidecar.sigterm()
        problems = case.ending(0, 10)
        extra = set(case.proxy.counted()) - {WHY}
        problems += unless(not extra, f"called {sorted(extra)}")
        problems += unless(not case.complaints(), f"complaints: {case.complaints()}")
        return "no feature: nothing is called but why", problems, {}


CHECKS = [
    drain_instance,
    drain_instance_and_exit,
    deregister_awsvpc,
    deregister_bridge,
    deregister_late_ports,
    deregister_nothing,
    deregister_long_delay,
    stop_task,
    stop_timeout,
    why_spot,
    why_scale_in,
    no_credentials,
    no_way_out,
    without,
]
