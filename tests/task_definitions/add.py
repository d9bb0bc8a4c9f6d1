"""Checks that what `ecs-prestop add` makes is what AWS takes, for each form in which people keep task
definitions: the examples lose their sidecar, and `add` puts one in.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import yaml

from support import (
    EXAMPLES,
    SIDECAR,
    TASK_DEFINITIONS,
    as_cloudformation,
    create_stack,
    finding_in_words,
    lint,
    register_request,
    value_problems,
)

COMPOSE_S = 30

# Where the app's is public or a parameter, the sidecar's has to be said.
IMAGE = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/ecs-prestop:0.1.0"

COMPOSE = """\
# What runs on a laptop.
x-logging: &logging
  driver: json-file  # docker logs reads it

services:
  app:
    image: app:1
    ports: ["8080:8080"]
    logging: *logging
    networks: [inner]
    # As on ECS.
    stop_grace_period: 25s

networks:
  inner: {}
"""


class Plain:
    """A task definition that has lost its sidecar, and how it gets one again."""

    def __init__(self, file):
        self.file = file
        self.task = json.loads(file.read_text())
        containers = self.task["containerDefinitions"]
        sidecar = next(container for container in containers if container["name"] == SIDECAR)
        containers.remove(sidecar)
        drain = [pair["value"] for pair in sidecar["environment"] if pair["name"] == "PRESTOP_DRAIN"]
        self.wishes = ["--to", sidecar["dependsOn"][0]["containerName"], "--image", IMAGE]
        # Without it the steps are in labels of the containers.
        self.wishes += ["--drain", drain[0]] if drain else []
        self.resource = re.sub(r"\W", "", file.stem.title())


def add(binary, file, wishes):
    """Puts the sidecar into `file`; what is wrong with that, in words."""
    before = file.read_bytes().decode()
    _, found = binary.check(file)
    code, after, error = binary.run("add", file, *wishes)
    if code != 0:
        return [f"add ended with {code}: {error}"]
    file.write_bytes(after.encode())
    problems = []
    # One piece more and every byte of the rest: so comments and intrinsics are there, too.
    same = len(os.path.commonprefix([before, after]))
    if len(after) <= len(before) or not after.endswith(before[same:]):
        problems.append("more changed than one insertion")
    code, again, error = binary.run("add", file, *wishes)
    if (code, again) != (0, after):
        problems.append(f"a second add ended with {code}, not with the same bytes: {error}")
    if not found:
        problems += binary.check(file)[1]
    return problems


def registration_problems(ecs, task):
    # botocore checks names, types and what is required before anything is sent.
    try:
        ecs.register_task_definition(**task)
    except Exception as why:
        return [f"{type(why).__name__}: {why}"]
    return [
        *value_problems(register_request(ecs), task, "task"),
        *([] if any(c["name"] == SIDECAR for c in task["containerDefinitions"]) else ["there is no sidecar"]),
    ]


def described(ecs, task):
    """As `aws ecs describe-task-definition` prints it, defaults and read-only fields included."""
    arn = ecs.register_task_definition(**task)["taskDefinition"]["taskDefinitionArn"]
    answer = ecs.describe_task_definition(taskDefinition=arn)
    # moto leaves these out, AWS does not.
    read_only = {
        "requiresAttributes": [{"name": "com.amazonaws.ecs.capability.docker-remote-api.1.18"}],
        "registeredAt": "2026-01-01T12:00:00.123000+01:00",
        "registeredBy": "arn:aws:sts::111122223333:assumed-role/deploy/ci",
    }
    return {"taskDefinition": answer["taskDefinition"] | read_only, "tags": []}


def check_forms_of_the_api(tally, binary, ecs, plain, folder):
    request = register_request(ecs)
    forms = {
        "as it is registered": (plain.task, lambda made: made),
        "as it is described": (
            described(ecs, plain.task),
            lambda made: {key: value for key, value in made["taskDefinition"].items() if key in request.members},
        ),
        "a list of containers": (
            plain.task["containerDefinitions"],
            lambda made: plain.task | {"containerDefinitions": made},
        ),
    }
    for form, (document, as_request) in forms.items():
        file = folder / plain.file.name
        file.write_text(json.dumps(document, indent=4, default=str))
        problems = add(binary, file, plain.wishes)
        problems += registration_problems(ecs, as_request(json.loads(file.read_text())))
        tally.check(f"add, {plain.file.name}, {form}: ECS takes it, the same again, nothing found", problems)


def from_cloudformation(shape, value):
    """The opposite of `as_cloudformation`."""
    if shape.type_name == "structure":
        small = {key[0].lower() + key[1:]: inner for key, inner in value.items()}
        return {key: from_cloudformation(shape.members[key], inner) for key, inner in small.items()}
    if shape.type_name == "list":
        return [from_cloudformation(shape.member, inner) for inner in value]
    return value


def check_json_template(tally, binary, ecs, plains, folder):
    request = register_request(ecs)
    file = folder / "template.json"
    resources = {
        plain.resource: {"Type": "AWS::ECS::TaskDefinition", "Properties": as_cloudformation(request, plain.task)}
        for plain in plains
    }
    file.write_text(json.dumps({"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources}, indent=2))
    for plain in plains:
        problems = add(binary, file, [*plain.wishes, "--task", plain.resource])
        made = json.loads(file.read_text())["Resources"][plain.resource]["Properties"]
        problems += registration_problems(ecs, from_cloudformation(request, made))
        tally.check(f"add, {plain.file.name}, in a JSON template: ECS takes it, the same again, nothing found", problems)
    tally.check("add, JSON template: cfn-lint", map(finding_in_words, lint(file)))


def check_yaml_template(tally, binary, clients, network, folder):
    """The example for Fargate Spot with nothing of the sidecar in it, but with comments and short
    intrinsics in and around the list of containers."""
    text = (EXAMPLES / "cloudformation" / "fargate-spot.yaml").read_text()
    for pattern, instead in (
        (r"        - Name: prestop\n(?:          .*\n)+", "        # The last container.\n"),
        # cfn-lint objects to parameters that nobody uses.
        (r"  PrestopImage:\n(?:    .*\n)+", ""),
        (r"  DrainPath:\n(?:    .*\n)+", ""),
        (r"  HealthPath:\n(?:    .*\n)+", ""),
        ("StopTimeout: 25", "StopTimeout: 25  # what the app needs"),
        (r"(          Essential: true\n)", r"\1          # From the parameters.\n"),
    ):
        text, found = re.subn(pattern, instead, text)
        if found != 1:
            raise RuntimeError(f"fargate-spot.yaml has changed: {found} times {pattern}")
    file = folder / "add.yaml"
    file.write_text(text)
    problems = add(binary, file, ["--to", "app", "--image", IMAGE])
    tally.check("add, YAML template: the same again, comments and intrinsics stay", problems)
    tally.check("add, YAML template: cfn-lint, with its hints", map(finding_in_words, lint(file, ["--include-checks", "I"])))
    subnets = ",".join(network["subnets"])
    parameters = {"VpcId": network["vpc"], "LoadBalancerSubnets": subnets, "TaskSubnets": subnets}
    created = create_stack(tally, clients, f"{file.name}, with add", file, parameters)
    if not created:
        return
    arn = created["TaskDefinition"]["PhysicalResourceId"]
    task = clients("ecs").describe_task_definition(taskDefinition=arn)["taskDefinition"]
    # moto's CloudFormation makes it bridge, whatever the template says.
    task["networkMode"] = "awsvpc"
    _, problems = binary.check("-", text=json.dumps({"taskDefinition": task}, default=str))
    names = [container["name"] for container in task["containerDefinitions"]]
    tally.check(
        "add, YAML template: the stack has the sidecar, nothing found in it",
        problems + ([] if SIDECAR in names else [f"only {', '.join(names)}"]),
    )


def check_compose(tally, binary, folder):
    file = folder / "compose.yaml"
    file.write_text(COMPOSE)
    problems = add(binary, file, ["--to", "app"])
    services = yaml.safe_load(file.read_text())["services"]
    problems += [] if SIDECAR in services else [f"only {', '.join(services)}"]
    tally.check("add, compose file: the same again, comments and anchors stay, nothing found", problems)
    program = shutil.which("docker-compose")
    if program is None:
        return print("note add, compose file: docker-compose is not installed: only read as YAML")
    command = [program, "-f", file, "config", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMPOSE_S, check=False)
    tally.check("add, compose file: docker-compose takes it", [] if done.returncode == 0 else [done.stderr.strip()])


def check_add(tally, clients, network, binary):
    ecs = clients("ecs")
    plains = [Plain(file) for file in TASK_DEFINITIONS]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for plain in plains:
            check_forms_of_the_api(tally, binary, ecs, plain, folder)
        check_json_template(tally, binary, ecs, plains, folder)
        check_yaml_template(tally, binary, clients, network, folder)
        check_compose(tally, binary, folder)
