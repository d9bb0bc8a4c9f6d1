"""The CloudFormation templates: linted, created in moto as far as moto goes, and looked at there. The state
machine that drains an instance is played."""

import json
import re
import time
from base64 import b64decode

import pytest

from support.definitions import (
    EC2_SPOT,
    EXAMPLES,
    FARGATE_SPOT,
    REGION,
    SIDECAR,
    SPOT_S,
    TEMPLATES,
    create_stack,
    decode,
    in_words,
    lint,
    name_of,
    physical_id,
)

# The longest deregistration delay that leaves a Spot task time for anything else.
MOST_DELAY_S = 90
PLAY_S = 30

# Where moto is known to do less than CloudFormation; anything else that is missing fails.
UNKNOWN_TO_MOTO = {
    "AWS::ECS::CapacityProvider",
    "AWS::ECS::ClusterCapacityProviderAssociations",
}


@pytest.mark.parametrize("file", TEMPLATES, ids=name_of)
def test_cfn_lint_finds_nothing_hints_included(file):
    assert in_words(lint(file, "--include-checks", "I")) == []


def has_what_moto_knows(file, created, report):
    wanted = decode(file)["Resources"]
    missing = {name: resource["Type"] for name, resource in wanted.items() if name not in created}
    assert set(missing.values()) <= UNKNOWN_TO_MOTO, missing
    report += [f"{file.name}: moto does not know {kind} ({name})" for name, kind in sorted(missing.items())]


# -- fargate-spot.yaml -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fargate_spot(clients, network):
    vpc, subnets = network
    parameters = {"VpcId": vpc, "LoadBalancerSubnets": subnets, "TaskSubnets": subnets}
    return create_stack(clients, "fargate-spot", FARGATE_SPOT, parameters)


@pytest.fixture(scope="module")
def fargate_spot_task(fargate_spot, ecs):
    arn = physical_id(fargate_spot, "TaskDefinition")
    return ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"]


def test_fargate_spot_has_each_resource(fargate_spot, report):
    has_what_moto_knows(FARGATE_SPOT, fargate_spot, report)


def test_fargate_spot_check_finds_nothing_in_what_was_created(fargate_spot_task, binary):
    # With the parameters in place, which `check` leaves open. moto's CloudFormation makes it bridge, whatever the
    # template says.
    task = {**fargate_spot_task, "networkMode": "awsvpc"}
    text = json.dumps({"taskDefinition": task}, default=str)
    assert binary.check("-", text=text) == (1, [])


def test_fargate_spot_has_a_deregistration_delay_well_below_a_spot_notice():
    # moto's CloudFormation drops the attributes of a target group, so these are read from the template.
    template = decode(FARGATE_SPOT)
    attributes = template["Resources"]["TargetGroup"]["Properties"]["TargetGroupAttributes"]
    attributes = {a["Key"]: a["Value"] for a in attributes}
    delay = attributes["deregistration_delay.timeout_seconds"]
    assert template["Parameters"][delay["Ref"]]["Default"] <= MOST_DELAY_S < SPOT_S


def test_fargate_spot_settles_for_longer_than_the_health_check_takes(fargate_spot, fargate_spot_task, clients):
    group = physical_id(fargate_spot, "TargetGroup")
    health = clients("elbv2").describe_target_groups(TargetGroupArns=[group])["TargetGroups"][0]
    looks_away_s = health["HealthCheckIntervalSeconds"] * health["UnhealthyThresholdCount"]
    sidecar = next(c for c in fargate_spot_task["containerDefinitions"] if c["name"] == SIDECAR)
    environment = {pair["name"]: pair["value"] for pair in sidecar["environment"]}
    settle_s = int(environment["PRESTOP_SETTLE"].removesuffix("s"))
    assert settle_s > looks_away_s, "the first step would come while new requests do"


def test_fargate_spot_runs_that_task_definition(fargate_spot, ecs):
    cluster, service = (physical_id(fargate_spot, name) for name in ("Cluster", "Service"))
    service = ecs.describe_services(cluster=cluster, services=[service])["services"][0]
    assert service["taskDefinition"] == physical_id(fargate_spot, "TaskDefinition")


# -- ec2-spot.yaml -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ec2_spot(clients, network):
    """With a cluster of its own."""
    vpc, subnets = network
    return create_stack(clients, "ec2-spot-new-cluster", EC2_SPOT, {"VpcId": vpc, "Subnets": subnets})


def test_ec2_spot_has_each_resource_that_moto_knows(ec2_spot, report):
    has_what_moto_knows(EC2_SPOT, ec2_spot, report)


def test_ec2_spot_reads_the_instance_metadata_by_token_two_hops_away(ec2_spot, clients):
    options = launch_template(ec2_spot, clients)["MetadataOptions"]
    assert (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 2)


def test_ec2_spot_has_an_agent_that_joins_the_cluster_and_drains_on_a_notice(ec2_spot, clients):
    user_data = b64decode(launch_template(ec2_spot, clients)["UserData"]).decode().splitlines()
    assert f"ECS_CLUSTER={physical_id(ec2_spot, 'Cluster')}" in user_data
    assert "ECS_ENABLE_SPOT_INSTANCE_DRAINING=true" in user_data


def launch_template(created, clients):
    template = physical_id(created, "LaunchTemplate")
    found = clients("ec2").describe_launch_template_versions(LaunchTemplateId=template, Versions=["$Latest"])
    return found["LaunchTemplateVersions"][0]["LaunchTemplateData"]


def test_ec2_spot_has_a_rule_for_interruptions_and_rebalance_recommendations(ec2_spot, clients):
    rule = physical_id(ec2_spot, "Notices").split("/")[-1]
    pattern = json.loads(clients("events").describe_rule(Name=rule)["EventPattern"])
    assert pattern["source"] == ["aws.ec2"]
    assert set(pattern["detail-type"]) == {
        "EC2 Spot Instance Interruption Warning",
        "EC2 Instance Rebalance Recommendation",
    }


@pytest.mark.parametrize(("key", "resource"), [("Arn", "DrainInstance"), ("RoleArn", "StartDrainRole")])
def test_ec2_spot_has_a_rule_that_starts_the_state_machine_as_the_role_that_may(ec2_spot, clients, key, resource):
    rule = physical_id(ec2_spot, "Notices").split("/")[-1]
    target = clients("events").list_targets_by_rule(Rule=rule)["Targets"][0]
    assert physical_id(ec2_spot, resource).split("/")[-1] in target.get(key, "")


def test_ec2_spot_adds_only_the_drain_to_a_cluster_that_is_there(clients, network):
    vpc, subnets = network
    parameters = {"VpcId": vpc, "Subnets": subnets, "ExistingCluster": "theirs"}
    created = create_stack(clients, "ec2-spot-existing-cluster", EC2_SPOT, parameters)
    fleet = {"Cluster", "InstanceRole", "LaunchTemplate", "AutoScalingGroup", "CapacityProvider"}
    assert fleet & set(created) == set()


# -- the state machine of ec2-spot.yaml --------------------------------------------------------------


@pytest.fixture(scope="module")
def definition():
    """Of the state machine, for a cluster that is there."""
    definition = decode(EC2_SPOT)["Resources"]["DrainInstance"]["Properties"]["Definition"]
    return resolve(definition, {"ExistingCluster": "theirs", "AWS::Partition": "aws"}, {"NewCluster": False})


def test_the_state_machine_calls_operations_of_the_models(definition, clients):
    for name, state in definition["States"].items():
        if state["Type"] != "Task":
            continue
        service, operation = re.fullmatch(r"arn:aws:states:::aws-sdk:(\w+):(\w+)", state["Resource"]).groups()
        model = clients(service).meta.service_model
        operation = operation[0].upper() + operation[1:]
        assert operation in model.operation_names, f"{name}: {service} has no {operation}"
        members = {m[0].upper() + m[1:] for m in model.operation_model(operation).input_shape.members}
        unknown = {key.removesuffix(".$") for key in state["Parameters"]} - members
        assert unknown == set(), f"{name}: {operation} does not take them"


@pytest.fixture(scope="module")
def play(definition, clients):
    """Plays the state machine for an instance, to its end; says how it ended."""
    speak_as_step_functions()
    states = clients("stepfunctions")
    trust = (EXAMPLES / "iam" / "drain-instance-trust.json").read_text()
    role = clients("iam").create_role(RoleName="play", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    machine = states.create_state_machine(name="play", definition=json.dumps(definition), roleArn=role)
    clients("ecs").create_cluster(clusterName="theirs")

    def play(instance):
        started = states.start_execution(
            stateMachineArn=machine["stateMachineArn"],
            name=instance,
            input=json.dumps({"instance": instance, "notice": "test"}),
        )
        # Not describe_execution: moto fails on an output that holds a time, as that of the drain does.
        deadline = time.monotonic() + PLAY_S
        while True:
            listed = states.list_executions(stateMachineArn=machine["stateMachineArn"])["executions"]
            status = next(e["status"] for e in listed if e["executionArn"] == started["executionArn"])
            if status != "RUNNING" or time.monotonic() > deadline:
                return status
            time.sleep(0.1)

    return play


@pytest.fixture(scope="module")
def image(clients):
    return clients("ec2").describe_images(Owners=["amazon"])["Images"][0]["ImageId"]


@pytest.fixture
def instance(clients, image):
    made = clients("ec2").run_instances(ImageId=image, MinCount=1, MaxCount=1)
    return made["Instances"][0]["InstanceId"]


def test_the_state_machine_takes_an_instance_that_is_not_in_the_cluster_for_no_failure(play, instance):
    assert play(instance) == "SUCCEEDED"


def test_the_state_machine_sets_the_container_instance_to_draining(play, instance, ecs):
    document = json.dumps({"instanceId": instance, "region": REGION, "accountId": "123456789012"})
    registered = ecs.register_container_instance(cluster="theirs", instanceIdentityDocument=document)
    assert play(instance) == "SUCCEEDED"
    arn = registered["containerInstance"]["containerInstanceArn"]
    found = ecs.describe_container_instances(cluster="theirs", containerInstances=[arn])
    assert found["containerInstances"][0]["status"] == "DRAINING"


def speak_as_step_functions():
    """Step Functions has parameters and results of its SDK calls with a capital first (its developer
    guide, *Learning to use AWS service SDK integrations*); moto has what that takes but leaves it out."""
    import botocore.session
    from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_aws_sdk import (
        StateTaskServiceAwsSdk as Call,
    )

    def shapes(call):
        action = call.resource.api_action
        model = botocore.session.get_session().get_service_model(call.resource.api_name)
        operation = model.operation_model(action[0].upper() + action[1:])
        return operation.input_shape, operation.output_shape

    def parameters_to_boto(self, parameters, *_, **__):
        self._to_boto_request(parameters, shapes(self)[0])

    def response_from_boto(self, response, *_, **__):
        self._from_boto_response(response, shapes(self)[1])

    Call._normalise_parameters = parameters_to_boto
    Call._normalise_response = response_from_boto


def resolve(value, names, conditions):
    """Ref, Sub without a map, and If: all that the state machine's definition holds."""
    if isinstance(value, list):
        return [resolve(inner, names, conditions) for inner in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"Ref"}:
        return names[value["Ref"]]
    if set(value) == {"Fn::Sub"}:
        return re.sub(r"\$\{([\w:]+)\}", lambda found: names[found[1]], value["Fn::Sub"])
    if set(value) == {"Fn::If"}:
        condition, yes, no = value["Fn::If"]
        return resolve(yes if conditions[condition] else no, names, conditions)
    return {key: resolve(inner, names, conditions) for key, inner in value.items()}
