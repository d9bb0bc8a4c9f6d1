"""The task definitions in task-definitions/*.json, held against ECS's own model and CloudFormation's."""

import json

import pytest

from support.definitions import (
    EXAMPLES,
    POLICIES,
    TASK_DEFINITIONS,
    TEMPLATES,
    as_cloudformation,
    in_words,
    lint,
    logical_id,
    name_of,
    register_request,
    value_problems,
)

each_file = pytest.mark.parametrize("file", TASK_DEFINITIONS, ids=name_of)


def test_check_finds_nothing_in_any_of_them(binary):
    read, problems = binary.check(EXAMPLES)
    assert problems == []
    # One of the two templates has a task definition.
    assert read == len(TASK_DEFINITIONS) + len(list((EXAMPLES / "without-sidecar").glob("*.json"))) + 1


@each_file
def test_ecs_registers_what_was_sent(file, ecs):
    task = json.loads(file.read_text())
    # botocore checks names, types and what is required before anything is sent.
    registered = ecs.register_task_definition(**task)["taskDefinition"]
    pairs = zip(task["containerDefinitions"], registered["containerDefinitions"], strict=True)
    for container, got in pairs:
        assert {key: got.get(key) for key in container} == container


@each_file
def test_enumerations_are_those_of_the_model(file, ecs):
    task = json.loads(file.read_text())
    assert list(value_problems(register_request(ecs), task, "task")) == []


@each_file
def test_the_family_is_the_name_of_the_file(file):
    assert json.loads(file.read_text())["family"] == file.stem


@pytest.fixture(scope="module")
def findings(ecs, tmp_path_factory):
    """What cfn-lint says of all of them as one template: starting it costs more than reading them."""
    request = register_request(ecs)
    resources = {
        logical_id(file): {
            "Type": "AWS::ECS::TaskDefinition",
            "Properties": as_cloudformation(request, json.loads(file.read_text())),
        }
        for file in TASK_DEFINITIONS
    }
    file = tmp_path_factory.mktemp("lint") / "task-definitions.json"
    file.write_text(json.dumps({"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources}))
    return lint(file)


@each_file
def test_cfn_lint_finds_nothing_in_it_as_a_resource(file, findings):
    assert in_words(f for f in findings if logical_id(file) in (f["Location"].get("Path") or [])) == []


def test_cfn_lint_finds_nothing_in_the_template_around_them(findings):
    resources = {logical_id(file) for file in TASK_DEFINITIONS}
    assert in_words(f for f in findings if not resources & set(f["Location"].get("Path") or [])) == []


@pytest.mark.parametrize(
    "file", [*TASK_DEFINITIONS, *TEMPLATES, *POLICIES], ids=lambda file: str(file.relative_to(EXAMPLES))
)
def test_the_readme_names_it(file):
    assert f"`{file.relative_to(EXAMPLES)}`" in (EXAMPLES / "README.md").read_text()
