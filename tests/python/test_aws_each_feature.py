"""Each feature that asks AWS, end to end with the real binary, and what moto says afterwards; and the policy
files, held against what was called."""

import json
import socket
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest

from support.aws import REGION, STOP_TIMEOUT_S
from support.case import CALL_S, JITTER_S, SLACK_S, SPOT, WHY
from support.definitions import EXAMPLES
from support.proxy import ELB
from support.sidecar import KEY, looked_up

DEREGISTER = {"PRESTOP_DEREGISTER": "true", "PRESTOP_STOP_TIMEOUT": "20s"}
DRAINING_ANSWERS = 2
# Beyond the spread of the first look-up.
PORTS_S = 4


# -- draining the container instance: the longest first ----------------------------------------------


@pytest.mark.at_once
def test_the_instance_is_drained_on_a_spot_notice_and_the_next_task_of_it_leaves_it(rig):
    instance = rig.aws.instance()
    first, second = (rig.aws.bridge_task(instance, register=False) for _ in range(2))
    for task, changes in ((first, 1), (second, 0)):
        with rig.case(task, {"PRESTOP_DRAIN_INSTANCE": "true"} | SPOT) as case:
            case.host.announce_spot(60)
            case.succeeds("drain-instance", JITTER_S + 8)
            case.sidecar.sigterm()
            case.ends(0, 10)
            assert case.proxy.counted()["ecs:UpdateContainerInstancesState"] == changes
            assert case.complaints() == []
            rig.called["drain-instance"] |= case.own_actions()
    assert rig.aws.instance_status(instance) == "DRAINING"


@pytest.mark.at_once
def test_the_instance_is_drained_by_a_sidecar_that_would_have_left_before_its_turn(rig):
    instance = rig.aws.instance()
    task = rig.aws.bridge_task(instance, register=False)
    with rig.case(task, {"PRESTOP_DRAIN_INSTANCE": "true", "PRESTOP_AFTER_DRAIN": "exit"} | SPOT) as case:
        case.host.announce_spot(60)
        case.ends(0, JITTER_S + 10)
        assert rig.aws.instance_status(instance) == "DRAINING"


# -- deregistration ----------------------------------------------------------------------------------


def deregisters(rig, task, launch_type, variables=("AWS_ENDPOINT_URL",)):
    """The targets are still draining for a while; the app is asked once they are not."""
    rig.aws.draining[task.target["Id"]] = DRAINING_ANSWERS
    with rig.case(task, DEREGISTER, launch_type, endpoints=variables) as case:
        case.sidecar.sigterm()
        case.ends(0, 25)
        calls = [call for call in case.proxy.calls if call.action == f"{ELB}:DeregisterTargets"]
        assert len(calls) == len(task.groups)
        for call in calls:
            assert f"Port={task.host_port}" in call.body
            assert f"Id={task.target['Id']}" in call.body
        looks = [call.at for call in case.proxy.calls if call.action == f"{ELB}:DescribeTargetHealth"]
        assert len(looks) > DRAINING_ANSWERS
        assert len(case.app.arrivals) == 1
        assert case.app.arrivals[0] > looks[-1], "the drain began before they had let go"
        assert case.complaints() == []
        assert {call.key for call in case.proxy.calls} == {KEY}
        assert {call.region for call in case.proxy.calls} == {REGION}, "that of the task's ARN"
        assert set(rig.aws.target_states(task)) == {"unused"}
        rig.called["deregister"] |= case.own_actions()


@pytest.mark.at_once
def test_two_target_groups_let_go_of_a_task_on_fargate(rig):
    deregisters(rig, rig.aws.awsvpc_task(), "FARGATE")


@pytest.mark.at_once
def test_a_bridge_task_is_deregistered_by_instance_and_host_port_at_endpoints_of_their_own(rig):
    variables = ("AWS_ENDPOINT_URL_ECS", "AWS_ENDPOINT_URL_ELASTIC_LOAD_BALANCING_V2")
    deregisters(rig, rig.aws.bridge_task(rig.aws.instance()), "EC2", variables)


@pytest.mark.at_once
def test_ports_of_the_host_that_ecs_learns_late_are_waited_for(rig):
    task = rig.aws.bridge_task(rig.aws.instance())
    facts = rig.aws.extra[task.arn]
    rig.aws.extra[task.arn] = facts | {"containers": [{"name": "app", "networkBindings": []}]}
    known = threading.Timer(PORTS_S, rig.aws.extra.update, [{task.arn: facts}])
    known.start()
    deregisters(rig, task, "EC2")
    known.join()


@pytest.mark.at_once
def test_a_task_of_no_service_has_nothing_to_wait_for(rig):
    with rig.case(rig.aws.loose_task(), DEREGISTER) as case:
        case.sidecar.sigterm()
        case.ends(0, 25)
        case.first_step_within(SLACK_S)
        assert len(case.complaints()) <= 1, case.complaints()


@pytest.mark.at_once
def test_a_deregistration_delay_that_does_not_fit_is_said_at_start(rig):
    # Half of the budget is 0.9 s, and the target groups keep connections for longer.
    with rig.case(rig.aws.awsvpc_task(), DEREGISTER | {"PRESTOP_STOP_TIMEOUT": "2s"}) as case:
        said = case.complaints()
        for name in ("web-public", "web-internal"):
            assert any(name in line and "delay" in line for line in said), f"nothing is said of {name}: {said}"
        case.sidecar.sigterm()
        case.ends(0, 5)


# -- stopping the task, its stop timeout, and why it stops -------------------------------------------


@pytest.mark.at_once
def test_the_task_is_stopped_once_drained_with_the_reason(rig):
    task = rig.aws.awsvpc_task()
    with rig.case(task, {"PRESTOP_AFTER_DRAIN": "stop-task"} | SPOT) as case:
        case.host.announce_spot(60)
        case.succeeds("stop-task", 10)
        assert rig.aws.task_state(task) == ("STOPPED", "ecs-prestop: drained after spot-interruption")
        # ECS now stops the task.
        case.sidecar.sigterm()
        case.ends(0, 5)
        assert case.complaints() == []
        rig.called["stop-task"] |= case.own_actions()


@pytest.mark.at_once
def test_the_stop_timeout_is_read_from_the_task_definition(rig):
    with rig.case(rig.aws.awsvpc_task(), {"PRESTOP_STOP_TIMEOUT": "auto"}) as case:
        case.sidecar.sigterm()
        case.ends(0, 10)
        # A tenth is the margin.
        case.has_budget(STOP_TIMEOUT_S * 900)
        assert case.complaints() == []
        rig.called["stop-timeout"] |= case.own_actions()


@pytest.mark.at_once
@pytest.mark.parametrize(
    ("stop_code", "provider", "budget_ms"),
    [("SpotInterruption", "FARGATE_SPOT", 110_000), ("ServiceSchedulerInitiated", "FARGATE", 119_000)],
)
def test_why_the_task_stops_is_in_the_log_in_status_and_in_the_deadline(rig, stop_code, provider, budget_ms):
    task = rig.aws.awsvpc_task()
    facts = {"stopCode": stop_code, "stoppedReason": "ECS says so.", "capacityProviderName": provider}
    rig.aws.extra[task.arn] = facts
    with rig.case(task, {"PRESTOP_STOP_TIMEOUT": "120s"}, "FARGATE", released=False, listen=True) as case:
        case.sidecar.sigterm()
        case.succeeds("why", 10)
        assert stop_code in str(case.sidecar.status())
        log = [event for event in case.sidecar.events if event["event"] != "exit" and stop_code in str(event)]
        assert len(log) == 1, log
        case.app.released.set()
        case.ends(0, 10)
        case.has_budget(budget_ms)
        assert case.complaints() == []
        rig.called["why"] |= {call.action for call in case.proxy.calls}


# -- without AWS -------------------------------------------------------------------------------------


@pytest.mark.at_once
def test_missing_credentials_are_said_once_with_the_policy_file_and_it_drains_all_the_same(rig):
    settings = DEREGISTER | {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": None,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with rig.case(rig.aws.awsvpc_task(), settings) as case:
        case.sidecar.sees(looked_up, 10)
        # Time enough to say it again.
        time.sleep(3)
        said = case.complaints()
        assert len(said) == 1, said
        for part in ("credentials", WHY, "sidecar-deregister.json"):
            assert part in said[0]
        case.sidecar.sigterm()
        case.ends(0, 25)
        case.first_step_within(SLACK_S)


@pytest.mark.at_once
def test_no_way_to_aws_is_said_and_costs_the_time_of_one_call(rig):
    """As in a private subnet without a way out: nothing answers the first packet."""
    with silence() as endpoint, rig.case(rig.aws.awsvpc_task(), DEREGISTER | {"AWS_ENDPOINT_URL": endpoint}) as case:
        case.sidecar.sees(looked_up, 10)
        case.sidecar.sigterm()
        case.ends(0, 25)
        case.first_step_within(CALL_S + SLACK_S)
        said = case.complaints()
        assert any("time" in line or "reach" in line for line in said), said
        assert len(said) <= 3, said


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


@pytest.mark.at_once
def test_without_a_feature_nothing_is_called_but_why(rig):
    with rig.case(rig.aws.awsvpc_task(), {}) as case:
        case.sidecar.sigterm()
        case.ends(0, 10)
        assert set(case.proxy.counted()) <= {WHY}
        assert case.complaints() == []


# -- the policies ------------------------------------------------------------------------------------


def granted(file):
    statements = json.loads(file.read_text())["Statement"]
    for statement in [statements] if isinstance(statements, dict) else statements:
        action = statement["Action"]
        yield from [action] if isinstance(action, str) else action


@pytest.mark.judges_plays
@pytest.mark.parametrize("feature", ["deregister", "drain-instance", "stop-task", "stop-timeout", "why"])
def test_the_policy_grants_what_was_called_and_no_more(feature, rig):
    if feature not in rig.called:
        pytest.skip("the tests that call it are not selected")
    assert set(granted(EXAMPLES / "iam" / f"sidecar-{feature}.json")) == rig.called[feature]
