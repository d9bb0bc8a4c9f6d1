"""The files of task-definitions/, and what AWS's own models and cfn-lint say of them."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "task-definitions"
TASK_DEFINITIONS = sorted(EXAMPLES.glob("*.json"))
TEMPLATES = sorted((EXAMPLES / "cloudformation").glob("*.yaml"))
POLICIES = sorted((EXAMPLES / "iam").glob("*.json"))
FARGATE_SPOT = EXAMPLES / "cloudformation" / "fargate-spot.yaml"
EC2_SPOT = EXAMPLES / "cloudformation" / "ec2-spot.yaml"

REGION = "eu-central-1"
SIDECAR = "prestop"
# What a host gives from its notice to its end (EC2 user guide, Spot Instance interruption notices).
SPOT_S = 120
LINT_S = 120
STACK_S = 30


def name_of(file):
    return file.name


def logical_id(file):
    """The name of a file as a resource of CloudFormation."""
    return re.sub(r"\W", "", file.stem.title())


def register_request(ecs):
    """AWS's own model of what RegisterTaskDefinition takes."""
    return ecs.meta.service_model.operation_model("RegisterTaskDefinition").input_shape


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


def from_cloudformation(shape, value):
    """The opposite of `as_cloudformation`."""
    if shape.type_name == "structure":
        small = {key[0].lower() + key[1:]: inner for key, inner in value.items()}
        return {key: from_cloudformation(shape.members[key], inner) for key, inner in small.items()}
    if shape.type_name == "list":
        return [from_cloudformation(shape.member, inner) for inner in value]
    return value


def lint(file, *arguments):
    """cfn-lint's findings, as its JSON has them."""
    program = Path(sys.executable).with_name("cfn-lint")
    command = [program, "--format", "json", "--regions", REGION, *arguments, "--", file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LINT_S, check=False)
    if done.returncode not in (0, 2, 4, 6, 8, 10, 12, 14):
        raise RuntimeError(f"cfn-lint ended with {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout or "[]")


def in_words(findings):
    return [
        f"{f['Rule']['Id']} line {f['Location']['Start']['LineNumber']}: {f['Message']}" for f in findings
    ]


def decode(file):
    """The template with its short forms (`!Ref`) spelt out."""
    import cfnlint.decode

    template, problems = cfnlint.decode.decode(str(file))
    assert not problems, problems
    return template


def create_stack(clients, name, file, parameters):
    """Creates the stack; its resources by their logical names."""
    cloudformation = clients("cloudformation")
    given = [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]
    cloudformation.create_stack(
        StackName=name, TemplateBody=file.read_text(), Parameters=given, Capabilities=["CAPABILITY_IAM"]
    )
    deadline = time.monotonic() + STACK_S
    while True:
        status = cloudformation.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]
        if status == "CREATE_COMPLETE":
            break
        assert status.endswith("_IN_PROGRESS"), status
        assert time.monotonic() < deadline, f"still {status} after {STACK_S} s"
        time.sleep(0.1)
    resources = cloudformation.describe_stack_resources(StackName=name)["StackResources"]
    # moto lists what it does not know without a name.
    return {r["LogicalResourceId"]: r for r in resources if "LogicalResourceId" in r}


def physical_id(created, name):
    return created[name]["PhysicalResourceId"]
