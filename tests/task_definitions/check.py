#!/usr/bin/env python3
"""Checks everything in task-definitions/ without an AWS account.

Each JSON file is registered with moto's ECS through boto3, so by AWS's own request models, linted as
CloudFormation would lint it, and held against what this program needs of a task definition. Templates
are linted and created in moto as far as moto goes. Each IAM action must be an operation of botocore's
models. One line a check; the last line counts; exit code 1 if any failed.
"""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from base64 import b64decode
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "task-definitions"
TEMPLATES = sorted((EXAMPLES / "cloudformation").glob("*.yaml"))
POLICIES = sorted((EXAMPLES / "iam").glob("*.json"))
TASK_DEFINITIONS = sorted(EXAMPLES.glob("*.json"))

REGION = "eu-central-1"
SIDECAR = "prestop"
# What a host gives from its notice to its end (EC2 user guide, Spot Instance interruption notices).
SPOT_S = 120
# All of it takes half a minute; whatever hangs ends here.
WATCHDOG_S = 300
LINT_S = 120
POLL_S = 30

# The services behind IAM's prefixes. A new prefix is added here after a look at its model.
SERVICES = {"ecr": "ecr", "ecs": "ecs", "logs": "logs", "states": "stepfunctions", "sts": "sts"}

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


class Tally:
    """Prints a line for each check and counts."""

    def __init__(self):
        self.passed = self.failed = 0

    def check(self, what, problems=()):
        """`problems`: what is wrong, each in words; none is a pass."""
        problems = [problems] if isinstance(problems, str) else list(problems)
        if problems:
            self.failed += 1
            print(f"FAIL {what}: " + "; ".join(problems))
        else:
            self.passed += 1
            print(f"ok   {what}")

    def calling(self, what, call):
        """A check that passes if `call` raises nothing; its result, or None."""
        try:
            result = call()
        except Exception as why:
            self.check(what, f"{type(why).__name__}: {why}")
            return None
        self.check(what)
        return result


def seconds(text):
    """The durations of these files: `90s`."""
    return int(re.fullmatch(r"(\d+)s", text)[1])


# -- task definitions -------------------------------------------------------------------------------


def environment(container):
    return {pair["name"]: pair["value"] for pair in container.get("environment", [])}


def settings_of_this_version():
    """The names in src/config.rs, but for those that it says are not there yet."""
    source = (ROOT / "src" / "config.rs").read_text()
    found = re.findall(r'setting\(\s*"([A-Z_]+)",\s*"[^"]*",\s*"([^"]*)"', source)
    return {f"PRESTOP_{name}" for name, meaning in found if "not in this version" not in meaning}


def stop_chains(containers):
    """Each container's longest time from the first SIGTERM to its own end: it waits for everyone who
    names it in dependsOn, then takes its own stop timeout."""
    ends = {}

    def end(name):
        if name not in ends:
            before = [c["name"] for c in containers.values() if name in depends_on(c)]
            ends[name] = max(map(end, before), default=0) + containers[name]["stopTimeout"]
        return ends[name]

    for name in containers:
        end(name)
    return ends


def depends_on(container):
    return {dependency["containerName"]: dependency["condition"] for dependency in container.get("dependsOn", [])}


def steps_of(containers):
    """(step, the container whose label it is or None) for each step of the task."""
    drain = environment(containers[SIDECAR]).get("PRESTOP_DRAIN")
    if drain:
        return [(step.strip(), None) for step in drain.split(",")]
    labelled = [c for c in containers.values() if "prestop.drain" in c.get("dockerLabels", {})]
    return [(c["dockerLabels"]["prestop.drain"], c["name"]) for c in labelled]


def step_problems(task, containers):
    found = steps_of(containers)
    if not found:
        yield "no PRESTOP_DRAIN and no prestop.drain label: the sidecar would refuse to start"
    for step, owner in found:
        words = step.split()
        if words == ["ack"]:
            continue
        if words[0] == "signal":
            if len(words) != 3 or words[2] not in containers:
                yield f"`{step}` names no container of the task"
            if task.get("pidMode") != "task":
                yield f"`{step}` needs pidMode task"
            continue
        url = words[-1]
        host, port = re.fullmatch(r"(?:http://([\w-]+))?:(\d+)(?:/.*)?", url).groups()
        name = host or owner
        ports = [m["containerPort"] for m in containers.get(name, {}).get("portMappings", [])]
        if int(port) not in ports:
            yield f"`{step}`: container {name} has no port {port}"


def sidecar_problems(task, known_settings):
    """What ecs-prestop needs of a task definition that it stands in."""
    containers = {c["name"]: c for c in task["containerDefinitions"]}
    sidecar = containers.get(SIDECAR)
    if sidecar is None:
        return {"has the sidecar": ["no container is called prestop"]}
    apps = {name for name, c in containers.items() if name != SIDECAR and "firelensConfiguration" not in c}
    routers = {name for name, c in containers.items() if "firelensConfiguration" in c}
    settings = environment(sidecar)
    spot = settings.get("PRESTOP_CAPACITY") != "on-demand"
    no_timeout = [f"{name} has no stopTimeout" for name, c in containers.items() if "stopTimeout" not in c]
    results = {"every container has its stopTimeout": no_timeout}
    if no_timeout:
        return results
    ends = stop_chains(containers)
    after = max(ends.values()) - sidecar["stopTimeout"]
    reserve = seconds(settings.get("PRESTOP_RESERVE", "10s"))

    results["the sidecar stops first: it depends on each app, condition START"] = [
        f"not on {app}" for app in apps if depends_on(sidecar).get(app) != "START"
    ] + [f"{name} depends on the sidecar" for name, c in containers.items() if SIDECAR in depends_on(c)]
    results["PRESTOP_STOP_TIMEOUT is its stopTimeout"] = (
        []
        if settings.get("PRESTOP_STOP_TIMEOUT") == f"{sidecar['stopTimeout']}s"
        else [f"{settings.get('PRESTOP_STOP_TIMEOUT')} and {sidecar['stopTimeout']}"]
    )
    results["each stopTimeout is 2 to 120 s"] = [
        f"{name}: {c['stopTimeout']}" for name, c in containers.items() if not 2 <= c["stopTimeout"] <= 120
    ]
    if spot:
        total = max(ends.values())
        results[f"the stop timeouts, one after the other, fit {SPOT_S} s (here {total} s)"] = (
            [f"{total} s"] if total > SPOT_S else []
        )
        results["PRESTOP_RESERVE leaves the others their stop timeouts"] = (
            [f"{reserve} s for {after} s"] if reserve < after else []
        )
    results["the sidecar is not essential, each app is"] = [
        name for name, c in containers.items() if c.get("essential") != (name != SIDECAR)
    ]
    results["health check by the binary, with no shell"] = (
        []
        if sidecar.get("healthCheck", {}).get("command") == ["CMD", "/ecs-prestop", "health"]
        else [str(sidecar.get("healthCheck"))]
    )
    results["read-only root, no capabilities, 16 and 32 MiB"] = [
        f"{what} is {is_}"
        for what, is_, should in [
            ("readonlyRootFilesystem", sidecar.get("readonlyRootFilesystem"), True),
            ("capabilities", sidecar.get("linuxParameters", {}).get("capabilities"), {"drop": ["ALL"]}),
            ("memoryReservation", sidecar.get("memoryReservation"), 16),
            ("memory", sidecar.get("memory"), 32),
        ]
        if is_ != should
    ]
    policy = sidecar.get("restartPolicy", {})
    results["restarted after a fault, never after a drain"] = (
        [] if policy.get("enabled") and {0, 3, 4} <= set(policy.get("ignoredExitCodes", [])) else [str(policy)]
    )
    results["only settings of this version"] = [name for name in settings if name not in known_settings]
    results["its steps lead to containers of the task"] = list(step_problems(task, containers))
    if routers:
        users = {n for n, c in containers.items() if c["logConfiguration"]["logDriver"] == "awsfirelens"}
        results["the log router stops last: all who log through it depend on it"] = [
            f"{user} not on {router}"
            for user in users
            for router in routers
            if depends_on(containers[user]).get(router) not in ("START", "HEALTHY")
        ] + ([] if SIDECAR in users else ["the sidecar does not log through it"])
    return results


def value_problems(shape, value, path):
    """What botocore leaves to the service: enumerations, in the model all the same."""
    if shape.type_name == "structure":
        for key, inner in value.items():
            yield from value_problems(shape.members[key], inner, f"{path}.{key}")
    elif shape.type_name == "list":
        for at, inner in enumerate(value):
            yield from value_problems(shape.member, inner, f"{path}[{at}]")
    elif shape.type_name == "map":
        for key, inner in value.items():
            yield from value_problems(shape.key, key, path)
            yield from value_problems(shape.value, inner, f"{path}.{key}")
    elif getattr(shape, "enum", None) and value not in shape.enum:
        yield f"{path}: {value} is none of {', '.join(shape.enum)}"


def as_cloudformation(shape, value):
    """The same request with CloudFormation's names: a capital first; the keys of maps stay."""
    if shape.type_name == "structure":
        return {key[0].upper() + key[1:]: as_cloudformation(shape.members[key], v) for key, v in value.items()}
    if shape.type_name == "list":
        return [as_cloudformation(shape.member, v) for v in value]
    return value


def check_task_definitions(tally, ecs):
    request = ecs.meta.service_model.operation_model("RegisterTaskDefinition").input_shape
    known_settings = settings_of_this_version()
    tally.check("src/config.rs lists settings", [] if len(known_settings) > 8 else [str(known_settings)])
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
        for what, problems in sidecar_problems(task, known_settings).items():
            tally.check(f"{file.name}: {what}", problems)
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


def lint(file, arguments=()):
    """cfn-lint's findings, as its JSON has them."""
    program = Path(sys.executable).with_name("cfn-lint")
    command = [program, "--format", "json", "--regions", REGION, *arguments, "--", file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LINT_S, check=False)
    if done.returncode not in (0, 2, 4, 6, 8, 10, 12, 14):
        raise RuntimeError(f"cfn-lint ended with {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout or "[]")


def finding_in_words(finding):
    where = finding["Location"]["Start"]
    return f"{finding['Rule']['Id']} line {where['LineNumber']}: {finding['Message']}"


def create_stack(tally, clients, label, file, parameters):
    """Creates the stack and prints what moto left out; its resources by their logical names."""
    cloudformation = clients("cloudformation")
    stack = label.replace(".yaml", "").replace(" ", "-").replace(",", "")
    given = [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]

    def create():
        cloudformation.create_stack(
            StackName=stack, TemplateBody=file.read_text(), Parameters=given, Capabilities=["CAPABILITY_IAM"]
        )
        deadline = time.monotonic() + POLL_S
        while True:
            status = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"]
            if status == "CREATE_COMPLETE":
                break
            if not status.endswith("_IN_PROGRESS") or time.monotonic() > deadline:
                raise RuntimeError(status)
            time.sleep(0.1)
        resources = cloudformation.describe_stack_resources(StackName=stack)["StackResources"]
        # moto lists what it does not know without a name.
        return {r["LogicalResourceId"]: r for r in resources if "LogicalResourceId" in r}

    created = tally.calling(f"{label}: created in moto", create)
    return created or {}


def check_fargate_spot(tally, clients, network):
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
    for what, problems in sidecar_problems(task, settings_of_this_version()).items():
        tally.check(f"{file.name}: {what}", problems)
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
    settle = seconds(environment(sidecar)["PRESTOP_SETTLE"])
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
    check_task_definitions(tally, clients("ecs"))
    for file in TEMPLATES:
        tally.check(f"{file.name}: cfn-lint, with its hints", map(finding_in_words, lint(file, ["--include-checks", "I"])))
    vpc = clients("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
    subnets = clients("ec2").describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
    network = {"vpc": vpc, "subnets": [subnet["SubnetId"] for subnet in subnets[:2]]}
    check_fargate_spot(tally, clients, network)
    speak_as_step_functions()
    check_ec2_spot(tally, clients, network)
    check_policies(tally, clients)
    check_readme(tally)
    server.stop()
    print(f"{tally.passed} passed, {tally.failed} failed")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
