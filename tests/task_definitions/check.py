#!/usr/bin/env python3
"""Checks everything in task-definitions/ without an AWS account: check.py BINARY

`BINARY check` finds what loses work in them; this program holds that to be true and adds what only AWS's
own models can say. Each JSON file is registered with moto's ECS through boto3 and linted as
CloudFormation would lint it. Templates are linted and created in moto as far as moto goes. Each IAM
action must be an operation of botocore's models. What `BINARY add` makes is held against the same
(add.py), and the reports of `check` are read by another program (reports.py). One line a check; the
last line counts; exit code 1 if any failed.
"""

import json
import logging
import os
import re
import signal
import sys
import tempfile
import time
import urllib.request
import warnings
from base64 import b64decode
from pathlib import Path

from add import check_add
from reports import check_reports
from support import (
    EXAMPLES,
    POLL_S,
    REGION,
    SIDECAR,
    TASK_DEFINITIONS,
    TEMPLATES,
    Binary,
    Tally,
    as_cloudformation,
    create_stack,
    finding_in_words,
    lint,
    register_request,
    value_problems,
)

POLICIES = sorted((EXAMPLES / "iam").glob("*.json"))

# What a host gives from its notice to its end (EC2 user guide, Spot Instance interruption notices).
SPOT_S = 120
# All of it takes half a minute; whatever hangs ends here.
WATCHDOG_S = 300

# The services behind IAM's prefixes. A new prefix is added here after a look at its model.
SERVICES = {
    "ecr": "ecr",
    "ecs": "ecs",
    "elasticloadbalancing": "elbv2",
    "logs": "logs",
    "states": "stepfunctions",
    "sts": "sts",
}

# Where moto is known to do less than CloudFormation; anything else that is missing fails.
UNKNOWN_TO_MOTO = {
    "AWS::ECS::CapacityProvider",
    "AWS::ECS::ClusterCapacityProviderAssociations",
}


def offline():
    """Nothing here may reach an AWS account, whatever this machine is set up for."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(
        AWS_ACCESS_KEY_ID="none",
        AWS_SECRET_ACCESS_KEY="none",
        AWS_DEFAULT_REGION=REGION,
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        AWS_EC2_METADATA_DISABLED="true",
        MOTO_IAM_LOAD_MANAGED_POLICIES="true",
    )


# -- task definitions -------------------------------------------------------------------------------


def check_examples(tally, binary):
    # One of the two templates has a task definition.
    wanted = len(TASK_DEFINITIONS) + 1
    read, problems = binary.check(EXAMPLES)
    tally.check(
        f"task-definitions/: ecs-prestop check finds nothing in all {wanted}",
        problems + ([] if read == wanted else [f"it has read {read}"]),
    )


def check_task_definitions(tally, ecs):
    request = register_request(ecs)
    resources = {}
    for file in TASK_DEFINITIONS:
        task = tally.calling(f"{file.name}: is JSON", lambda: json.loads(file.read_text()))
        if task is None:
            continue
        # botocore checks names, types and what is required before anything is sent.
        answer = tally.calling(f"{file.name}: registers with ECS", lambda: ecs.register_task_definition(**task))
        if answer is None:
            continue
        registered = answer["taskDefinition"]
        tally.check(
            f"{file.name}: ECS has what was sent",
            [
                f"{container['name']}.{key}"
                for container, got in zip(task["containerDefinitions"], registered["containerDefinitions"], strict=True)
                for key in container
                if got.get(key) != container[key]
            ],
        )
        tally.check(f"{file.name}: enumerations", value_problems(request, task, "task"))
        tally.check(
            f"{file.name}: the family is the file's name", [] if task["family"] == file.stem else [task["family"]]
        )
        name = re.sub(r"\W", "", file.stem.title())
        resources[name] = (file, as_cloudformation(request, task))

    template = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Resources": {
            name: {"Type": "AWS::ECS::TaskDefinition", "Properties": task} for name, (_, task) in resources.items()
        },
    }
    # Literal ARNs are right in a file that people edit; a template would rather have pseudo parameters.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "task-definitions.json"
        file.write_text(json.dumps(template))
        findings = lint(file)
    for name, (file, _) in resources.items():
        mine = [f for f in findings if name in f["Location"].get("Path", [])]
        tally.check(f"{file.name}: cfn-lint, as AWS::ECS::TaskDefinition", map(finding_in_words, mine))
    rest = [f for f in findings if not set(resources) & set(f["Location"].get("Path") or [])]
    tally.check("all task definitions: cfn-lint, as one template", map(finding_in_words, rest))


# -- templates --------------------------------------------------------------------------------------


def check_fargate_spot(tally, clients, network, binary):
    file = EXAMPLES / "cloudformation" / "fargate-spot.yaml"
    created = create_stack(
        tally,
        clients,
        file.name,
        file,
        {
            "VpcId": network["vpc"],
            "LoadBalancerSubnets": ",".join(network["subnets"]),
            "TaskSubnets": ",".join(network["subnets"]),
        },
    )
    moto_left_out(tally, file.name, file, created)
    if not created:
        return
    ecs, elb = clients("ecs"), clients("elbv2")
    arn = created["TaskDefinition"]["PhysicalResourceId"]
    task = ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"]
    # With the parameters in place, which `check` leaves open.
    _, problems = binary.check("-", text=json.dumps({"taskDefinition": task}, default=str))
    tally.check(f"{file.name}: ecs-prestop check finds nothing in what was created", problems)
    group = created["TargetGroup"]["PhysicalResourceId"]
    # moto's CloudFormation drops the attributes of a target group, so these are read from the template.
    template = decode(file)
    attributes = template["Resources"]["TargetGroup"]["Properties"]["TargetGroupAttributes"]
    attributes = {a["Key"]: a["Value"] for a in attributes}
    delay = attributes["deregistration_delay.timeout_seconds"]
    delay = template["Parameters"][delay["Ref"]]["Default"]
    tally.check(
        f"{file.name}: the deregistration delay is well below {SPOT_S} s (here {delay} s)",
        [] if delay <= 90 else [str(delay)],
    )
    health = elb.describe_target_groups(TargetGroupArns=[group])["TargetGroups"][0]
    looks_away = health["HealthCheckIntervalSeconds"] * health["UnhealthyThresholdCount"]
    sidecar = next(c for c in task["containerDefinitions"] if c["name"] == SIDECAR)
    environment = {pair["name"]: pair["value"] for pair in sidecar["environment"]}
    settle = int(environment["PRESTOP_SETTLE"].removesuffix("s"))
    tally.check(
        f"{file.name}: PRESTOP_SETTLE ({settle} s) outlasts the health check ({looks_away} s)",
        [] if settle > looks_away else ["the first step would come while new requests do"],
    )
    service = created["Service"]["PhysicalResourceId"]
    cluster = created["Cluster"]["PhysicalResourceId"]
    service = ecs.describe_services(cluster=cluster, services=[service])["services"][0]
    tally.check(
        f"{file.name}: the service runs that task definition", [] if service["taskDefinition"] == arn else [str(service)]
    )


def check_ec2_spot(tally, clients, network):
    file = EXAMPLES / "cloudformation" / "ec2-spot.yaml"
    place = {"VpcId": network["vpc"], "Subnets": ",".join(network["subnets"])}
    created = create_stack(tally, clients, f"{file.name}, a new cluster", file, place)
    moto_left_out(tally, f"{file.name}, a new cluster", file, created)
    if created:
        check_fleet(tally, clients, file.name, created)
        check_rule(tally, clients, file.name, created)

    label = f"{file.name}, an existing cluster"
    created = create_stack(tally, clients, label, file, place | {"ExistingCluster": "theirs"})
    fleet = {"Cluster", "InstanceRole", "LaunchTemplate", "AutoScalingGroup", "CapacityProvider"} & set(created)
    tally.check(f"{label}: only the drain", fleet)
    check_state_machine(tally, clients, file)


def check_fleet(tally, clients, label, created):
    ec2 = clients("ec2")
    template = created["LaunchTemplate"]["PhysicalResourceId"]
    versions = ec2.describe_launch_template_versions(LaunchTemplateId=template, Versions=["$Latest"])
    data = versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    options = data["MetadataOptions"]
    tally.check(
        f"{label}: instance metadata by token, two hops away",
        [] if (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 2) else [str(options)],
    )
    user_data = b64decode(data["UserData"]).decode()
    cluster = created["Cluster"]["PhysicalResourceId"]
    tally.check(
        f"{label}: the agent joins the cluster and drains on a Spot notice",
        [
            f"no line {line}"
            for line in (f"ECS_CLUSTER={cluster}", "ECS_ENABLE_SPOT_INSTANCE_DRAINING=true")
            if line not in user_data.splitlines()
        ],
    )


def check_rule(tally, clients, label, created):
    events = clients("events")
    rule = created["Notices"]["PhysicalResourceId"].split("/")[-1]
    pattern = json.loads(events.describe_rule(Name=rule)["EventPattern"])
    wanted = {"EC2 Spot Instance Interruption Warning", "EC2 Instance Rebalance Recommendation"}
    tally.check(
        f"{label}: the rule listens to interruptions and rebalance recommendations of EC2",
        [] if pattern["source"] == ["aws.ec2"] and set(pattern["detail-type"]) == wanted else [str(pattern)],
    )
    target = events.list_targets_by_rule(Rule=rule)["Targets"][0]
    tally.check(
        f"{label}: the rule starts the state machine, as the role that may",
        [
            f"{key} is {target.get(key)}"
            for key, resource in (("Arn", "DrainInstance"), ("RoleArn", "StartDrainRole"))
            if created[resource]["PhysicalResourceId"].split("/")[-1] not in target.get(key, "")
        ],
    )


def check_state_machine(tally, clients, file):
    """Plays the state machine in moto: it must find the container instance and set it to DRAINING."""
    label = f"{file.name}, state machine"
    template = decode(file)
    definition = template["Resources"]["DrainInstance"]["Properties"]["Definition"]
    definition = resolve(definition, {"ExistingCluster": "theirs", "AWS::Partition": "aws"}, {"NewCluster": False})
    tally.check(f"{label}: its calls are operations of botocore's models", call_problems(definition, clients))

    ecs, ec2, states, iam = (clients(name) for name in ("ecs", "ec2", "stepfunctions", "iam"))
    trust = (EXAMPLES / "iam" / "drain-instance-trust.json").read_text()
    role = iam.create_role(RoleName="play", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    machine = tally.calling(
        f"{label}: Step Functions takes its definition",
        lambda: states.create_state_machine(name="play", definition=json.dumps(definition), roleArn=role),
    )
    if machine is None:
        return
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    instance = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    ecs.create_cluster(clusterName="theirs")

    def play(name):
        started = states.start_execution(
            stateMachineArn=machine["stateMachineArn"],
            name=name,
            input=json.dumps({"instance": instance, "notice": "test"}),
        )
        # Not describe_execution: moto fails on an output that holds a time, as that of the drain does.
        deadline = time.monotonic() + POLL_S
        while True:
            listed = states.list_executions(stateMachineArn=machine["stateMachineArn"])["executions"]
            status = next(e["status"] for e in listed if e["executionArn"] == started["executionArn"])
            if status != "RUNNING" or time.monotonic() > deadline:
                return status
            time.sleep(0.1)

    status = play("elsewhere")
    tally.check(
        f"{label}: an instance that is not in the cluster is no failure", [] if status == "SUCCEEDED" else [status]
    )
    document = json.dumps({"instanceId": instance, "region": REGION, "accountId": "123456789012"})
    registered = ecs.register_container_instance(cluster="theirs", instanceIdentityDocument=document)
    arn = registered["containerInstance"]["containerInstanceArn"]
    ended = play("here")
    found = ecs.describe_container_instances(cluster="theirs", containerInstances=[arn])
    status = found["containerInstances"][0]["status"]
    tally.check(
        f"{label}: the container instance is DRAINING afterwards",
        [] if (ended, status) == ("SUCCEEDED", "DRAINING") else [f"{ended}, {status}"],
    )


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


def call_problems(definition, clients):
    for name, state in definition["States"].items():
        if state["Type"] != "Task":
            continue
        service, operation = re.fullmatch(r"arn:aws:states:::aws-sdk:(\w+):(\w+)", state["Resource"]).groups()
        model = clients(service).meta.service_model
        operation = operation[0].upper() + operation[1:]
        if operation not in model.operation_names:
            yield f"{name}: {service} has no {operation}"
            continue
        members = {m[0].upper() + m[1:] for m in model.operation_model(operation).input_shape.members}
        for key in state["Parameters"]:
            if key.removesuffix(".$") not in members:
                yield f"{name}: {operation} takes no {key}"


def moto_left_out(tally, label, file, created):
    """Says what moto's CloudFormation does not know; more than was known before is a failure."""
    if not created:
        return
    wanted = decode(file)["Resources"]
    missing = {name: resource["Type"] for name, resource in wanted.items() if name not in created}
    for name, kind in sorted(missing.items()):
        print(f"note {label}: moto does not know {kind} ({name}): skipped")
    tally.check(
        f"{label}: moto has {len(created)} of {len(wanted)} resources, the others are known not to be in it",
        [f"{name} ({kind})" for name, kind in missing.items() if kind not in UNKNOWN_TO_MOTO],
    )


def decode(file):
    """The template with its short forms (`!Ref`) spelt out."""
    import cfnlint.decode

    template, problems = cfnlint.decode.decode(str(file))
    if problems:
        raise RuntimeError(str(problems))
    return template


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


# -- IAM --------------------------------------------------------------------------------------------


def actions_in(value):
    """Every IAM action of a policy, or of all policies in a template."""
    if isinstance(value, list):
        for inner in value:
            yield from actions_in(inner)
    elif isinstance(value, dict):
        if "Effect" in value and "Action" in value:
            action = value["Action"]
            yield from [action] if isinstance(action, str) else action
        for inner in value.values():
            yield from actions_in(inner)


def check_actions(tally, clients, label, document):
    for action in sorted(set(actions_in(document))):
        prefix, operation = action.split(":")
        if prefix not in SERVICES:
            tally.check(f"{label}: {action}", f"the prefix {prefix} is not in SERVICES of this program")
            continue
        model = clients(SERVICES[prefix]).meta.service_model
        problems = [] if model.signing_name == prefix else [f"the prefix of this service is {model.signing_name}"]
        if operation not in model.operation_names:
            problems.append(f"{SERVICES[prefix]} has no operation {operation}")
        tally.check(f"{label}: {action}", problems)


def check_policies(tally, clients):
    iam = clients("iam")
    for file in POLICIES:
        text = file.read_text()
        # moto checks a policy's grammar, and that a trust policy names whom it trusts.
        if file.stem.endswith("-trust"):
            create = lambda: iam.create_role(RoleName=file.stem, AssumeRolePolicyDocument=text)
        else:
            create = lambda: iam.create_policy(PolicyName=file.stem, PolicyDocument=text)
        tally.calling(f"iam/{file.name}: IAM takes it", create)
        check_actions(tally, clients, f"iam/{file.name}", json.loads(text))
    for file in TEMPLATES:
        template = decode(file)
        check_actions(tally, clients, file.name, template)
        for name in sorted(set(re.findall(r"iam::aws:policy/([\w/-]+)", file.read_text()))):
            arn = f"arn:aws:iam::aws:policy/{name}"
            tally.calling(f"{file.name}: the managed policy {name} exists", lambda: iam.get_policy(PolicyArn=arn))


# -- all of it --------------------------------------------------------------------------------------


def too_long(*_):
    raise TimeoutError(f"not done after {WATCHDOG_S} s")


def check_readme(tally):
    """Its tables name every file, so that nobody has to open all of them."""
    readme = (EXAMPLES / "README.md").read_text()
    files = [file.relative_to(EXAMPLES) for file in (*TASK_DEFINITIONS, *TEMPLATES, *POLICIES)]
    tally.check(f"README.md: names all {len(files)} files", [f"not {file}" for file in files if f"`{file}`" not in readme])


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: check.py BINARY, such as target/debug/ecs-prestop")
    binary = Binary(sys.argv[1])
    offline()
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(WATCHDOG_S)
    # The server's own remarks; what moto does not know is counted below.
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")

    import boto3
    from botocore.config import Config
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    # Step Functions are played, not only stored; their calls go to this server.
    os.environ["MOTO_PORT"] = str(port)
    body = json.dumps({"stepfunctions": {"execute_state_machine": True}}).encode()
    urllib.request.urlopen(f"{endpoint}/moto-api/config", data=body, timeout=10).close()

    session = boto3.Session(region_name=REGION)
    limits = Config(connect_timeout=5, read_timeout=30, retries={"total_max_attempts": 1})
    made = {}

    def clients(service):
        if service not in made:
            made[service] = session.client(service, endpoint_url=endpoint, config=limits)
        return made[service]

    tally = Tally()
    check_examples(tally, binary)
    check_task_definitions(tally, clients("ecs"))
    for file in TEMPLATES:
        tally.check(f"{file.name}: cfn-lint, with its hints", map(finding_in_words, lint(file, ["--include-checks", "I"])))
    vpc = clients("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
    subnets = clients("ec2").describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
    network = {"vpc": vpc, "subnets": [subnet["SubnetId"] for subnet in subnets[:2]]}
    check_fargate_spot(tally, clients, network, binary)
    speak_as_step_functions()
    check_ec2_spot(tally, clients, network)
    check_policies(tally, clients)
    check_readme(tally)
    check_add(tally, clients, network, binary)
    check_reports(tally, binary)
    server.stop()
    print(f"{tally.passed} passed, {tally.failed} failed")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
