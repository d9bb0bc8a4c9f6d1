"""What the modules here share: the tally, the binary, cfn-lint, and stacks and models of AWS."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "task-definitions"
TEMPLATES = sorted((EXAMPLES / "cloudformation").glob("*.yaml"))
TASK_DEFINITIONS = sorted(EXAMPLES.glob("*.json"))

REGION = "eu-central-1"
SIDECAR = "prestop"
# The binary takes milliseconds.
BINARY_S = 20
LINT_S = 120
POLL_S = 30


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


class Binary:
    """The program that is checked."""

    def __init__(self, path):
        self.path = Path(path).resolve()

    def run(self, *arguments, text=None):
        """Exit code, standard output and standard error; `text` is its standard input. Bytes stay as they
        are, whatever ends the lines."""
        command = [self.path, *arguments]
        sent = None if text is None else text.encode()
        done = subprocess.run(command, input=sent, capture_output=True, timeout=BINARY_S, check=False)
        return done.returncode, done.stdout.decode(), done.stderr.decode().strip()

    def check(self, *paths, text=None):
        """How many task definitions `check` has read, and what it says of them in words; `text` stands for
        the path `-`."""
        code, out, error = self.run("check", "--format", "json", *paths, text=text)
        if code not in (0, 1):
            return 0, [f"check ended with {code}: {error}"]
        report = json.loads(out)
        return report["task_definitions"], [
            f"{f['rule']} {f['file']}:{f['line']}: {f['message']}" for f in report["findings"]
        ]


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
    """Creates the stack; its resources by their logical names."""
    cloudformation = clients("cloudformation")
    stack = re.sub(r"\W+", "-", label.replace(".yaml", ""))
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
