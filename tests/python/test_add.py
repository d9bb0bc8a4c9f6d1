"""What `ecs-prestop add` makes is what AWS takes, in each form in which people keep task definitions: the
examples lose their sidecar, and `add` puts one in."""

import json
import re
import shutil
import subprocess

import pytest
import yaml

from support.definitions import (
    FARGATE_SPOT,
    SIDECAR,
    TASK_DEFINITIONS,
    as_cloudformation,
    create_stack,
    from_cloudformation,
    in_words,
    lint,
    logical_id,
    name_of,
    physical_id,
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

each_file = pytest.mark.parametrize("file", TASK_DEFINITIONS, ids=name_of)


def without_sidecar(file):
    """A task definition that has lost its sidecar, and the options of `add` that give it one again."""
    task = json.loads(file.read_text())
    containers = task["containerDefinitions"]
    sidecar = next(container for container in containers if container["name"] == SIDECAR)
    containers.remove(sidecar)
    drain = [pair["value"] for pair in sidecar["environment"] if pair["name"] == "PRESTOP_DRAIN"]
    options = ["--to", sidecar["dependsOn"][0]["containerName"], "--image", IMAGE]
    # Without it the steps are in labels of the containers.
    return task, options + (["--drain", drain[0]] if drain else [])


def ecs_takes(ecs, task):
    # botocore checks names, types and what is required before anything is sent.
    ecs.register_task_definition(**task)
    assert list(value_problems(register_request(ecs), task, "task")) == []
    assert SIDECAR in [container["name"] for container in task["containerDefinitions"]]


def as_registered(ecs, task):
    return task, lambda made: made


def as_described(ecs, task):
    """As `aws ecs describe-task-definition` prints it, defaults and read-only fields included."""
    arn = ecs.register_task_definition(**task)["taskDefinition"]["taskDefinitionArn"]
    answer = ecs.describe_task_definition(taskDefinition=arn)
    # moto leaves these out, AWS does not.
    read_only = {
        "requiresAttributes": [{"name": "com.amazonaws.ecs.capability.docker-remote-api.1.18"}],
        "registeredAt": "2026-01-01T12:00:00.123000+01:00",
        "registeredBy": "arn:aws:sts::111122223333:assumed-role/deploy/ci",
    }
    members = register_request(ecs).members
    document = {"taskDefinition": answer["taskDefinition"] | read_only, "tags": []}
    return document, lambda made: {key: value for key, value in made["taskDefinition"].items() if key in members}


def as_list_of_containers(ecs, task):
    return task["containerDefinitions"], lambda made: task | {"containerDefinitions": made}


@each_file
@pytest.mark.parametrize("form", [as_registered, as_described, as_list_of_containers])
def test_ecs_takes_what_add_makes(form, file, binary, ecs, tmp_path):
    task, options = without_sidecar(file)
    document, as_request = form(ecs, task)
    copy = tmp_path / file.name
    copy.write_text(json.dumps(document, indent=4, default=str))
    binary.add(copy, options)
    ecs_takes(ecs, as_request(json.loads(copy.read_text())))


# -- a JSON template with all of them ----------------------------------------------------------------


def json_template(ecs, folder):
    request = register_request(ecs)
    resources = {
        logical_id(file): {
            "Type": "AWS::ECS::TaskDefinition",
            "Properties": as_cloudformation(request, without_sidecar(file)[0]),
        }
        for file in TASK_DEFINITIONS
    }
    template = folder / "template.json"
    template.write_text(json.dumps({"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources}, indent=2))
    return template


@each_file
def test_ecs_takes_what_add_makes_in_a_json_template(file, binary, ecs, tmp_path):
    template = json_template(ecs, tmp_path)
    binary.add(template, [*without_sidecar(file)[1], "--task", logical_id(file)])
    made = json.loads(template.read_text())["Resources"][logical_id(file)]["Properties"]
    ecs_takes(ecs, from_cloudformation(register_request(ecs), made))


def test_cfn_lint_finds_nothing_in_a_json_template_after_add(binary, ecs, tmp_path):
    template = json_template(ecs, tmp_path)
    for file in TASK_DEFINITIONS:
        binary.add(template, [*without_sidecar(file)[1], "--task", logical_id(file)])
    assert in_words(lint(template)) == []


# -- a YAML template ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def yaml_template(binary, tmp_path_factory):
    """The example for Fargate Spot with nothing of the sidecar in it, but with comments and short
    intrinsics in and around the list of containers; then with what `add` makes of it."""
    text = FARGATE_SPOT.read_text()
    for pattern, instead in (
        (r"        - Name: prestop\n(?:          .*\n)+", "        # The last container.\n"),
        # cfn-lint objects to parameters that nobody uses.
        (r"  PrestopImage:\n(?:    .*\n)+", ""),
        (r"  HealthPath:\n(?:    .*\n)+", ""),
        ("StopTimeout: 25", "StopTimeout: 25  # what the app needs"),
        (r"(          Essential: true\n)", r"\1          # From the parameters.\n"),
    ):
        text, found = re.subn(pattern, instead, text)
        assert found == 1, f"fargate-spot.yaml has changed: {found} times {pattern}"
    template = tmp_path_factory.mktemp("add") / "add.yaml"
    template.write_text(text)
    binary.add(template, ["--to", "app", "--image", IMAGE])
    return template


def test_cfn_lint_finds_nothing_in_a_yaml_template_after_add_hints_included(yaml_template):
    assert in_words(lint(yaml_template, "--include-checks", "I")) == []


def test_the_stack_of_a_yaml_template_has_the_sidecar_after_add(yaml_template, binary, clients, network):
    vpc, subnets = network
    parameters = {"VpcId": vpc, "LoadBalancerSubnets": subnets, "TaskSubnets": subnets}
    created = create_stack(clients, "after-add", yaml_template, parameters)
    arn = physical_id(created, "TaskDefinition")
    task = clients("ecs").describe_task_definition(taskDefinition=arn)["taskDefinition"]
    # moto's CloudFormation makes it bridge, whatever the template says.
    task["networkMode"] = "awsvpc"
    assert SIDECAR in [container["name"] for container in task["containerDefinitions"]]
    assert binary.check("-", text=json.dumps({"taskDefinition": task}, default=str)) == (1, [])


# -- compose -----------------------------------------------------------------------------------------


@pytest.fixture
def compose_file(binary, tmp_path):
    file = tmp_path / "compose.yaml"
    file.write_text(COMPOSE)
    binary.add(file, ["--to", "app"])
    return file


def test_a_compose_file_has_the_sidecar_after_add(compose_file):
    assert SIDECAR in yaml.safe_load(compose_file.read_text())["services"]


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
def test_docker_compose_takes_what_add_makes(compose_file):
    command = ["docker-compose", "-f", compose_file, "config", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMPOSE_S, check=False)
    assert done.returncode == 0, done.stderr
