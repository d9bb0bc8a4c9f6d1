"""The policies: IAM takes them, and each action is an operation of AWS's models."""

import json
import re

import pytest

from support.definitions import POLICIES, TEMPLATES, decode, name_of

# The services behind IAM's prefixes. A new prefix is added here after a look at its model.
SERVICES = {
    "ecr": "ecr",
    "ecs": "ecs",
    "elasticloadbalancing": "elbv2",
    "logs": "logs",
    "route53": "route53",
    "servicediscovery": "servicediscovery",
    "states": "stepfunctions",
    "sts": "sts",
}


@pytest.mark.parametrize("file", POLICIES, ids=name_of)
def test_iam_takes_the_policy(file, clients):
    iam, text = clients("iam"), file.read_text()
    # moto checks a policy's grammar, and that a trust policy names whom it trusts.
    if file.stem.endswith("-trust"):
        iam.create_role(RoleName=file.stem, AssumeRolePolicyDocument=text)
    else:
        iam.create_policy(PolicyName=file.stem, PolicyDocument=text)


@pytest.mark.parametrize("file", [*POLICIES, *TEMPLATES], ids=name_of)
def test_each_action_is_an_operation(file, clients):
    document = json.loads(file.read_text()) if file in POLICIES else decode(file)
    actions = set(actions_in(document))
    # A template that makes no role, such as that of the alarms, has none.
    assert actions or (file in TEMPLATES and "AWS::IAM::" not in file.read_text())
    for action in sorted(actions):
        prefix, operation = action.split(":")
        assert prefix in SERVICES, f"{action}: the prefix is not in SERVICES of this test"
        model = clients(SERVICES[prefix]).meta.service_model
        assert model.signing_name == prefix, f"{action}: the prefix of this service is {model.signing_name}"
        assert operation in model.operation_names, f"{action}: there is no such operation"


@pytest.mark.parametrize("file", TEMPLATES, ids=name_of)
def test_each_managed_policy_exists(file, clients):
    for name in sorted(set(re.findall(r"iam::aws:policy/([\w/-]+)", file.read_text()))):
        clients("iam").get_policy(PolicyArn=f"arn:aws:iam::aws:policy/{name}")


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
