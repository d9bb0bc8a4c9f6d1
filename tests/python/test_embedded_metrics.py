"""The `exit` line of `PRESTOP_METRICS=emf` against the embedded metric format of CloudWatch.

The schema is written from the facts of the specification (CloudWatch user guide, *Specification: Embedded metric
format*) and of the API reference (*MetricDatum*, units): which members there must be, what they may be called, how long
and how many they may be. That what is named stands at the root is no matter of a schema, and is looked at after it."""

import json
import subprocess

import pytest
from jsonschema import Draft202012Validator

from support.ports import FreePort

ENDS_WITHIN_S = 30
# A limit of one event of CloudWatch Logs, by the specification.
MAX_EVENT = 256 * 1024
UNITS = (
    ["Seconds", "Microseconds", "Milliseconds", "Percent", "Count", "None"]
    + [f"{size}{what}" for what in ("Bytes", "Bits") for size in ("", "Kilo", "Mega", "Giga", "Tera")]
    + [f"{size}{what}/Second" for what in ("Bytes", "Bits") for size in ("", "Kilo", "Mega", "Giga", "Tera")]
    + ["Count/Second"]
)
UNITS = [unit[0] + unit[1:].replace("Bytes", "bytes").replace("Bits", "bits") for unit in UNITS]


def text(most):
    return {"type": "string", "minLength": 1, "maxLength": most}


METRIC = {
    "type": "object",
    "required": ["Name"],
    "additionalProperties": False,
    "properties": {
        "Name": text(1024),
        "Unit": {"enum": UNITS},
        "StorageResolution": {"enum": [1, 60]},
    },
}
DIRECTIVE = {
    "type": "object",
    "required": ["Namespace", "Dimensions", "Metrics"],
    "additionalProperties": False,
    "properties": {
        "Namespace": text(1024),
        "Dimensions": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "array", "maxItems": 30, "uniqueItems": True, "items": text(250)},
        },
        "Metrics": {"type": "array", "minItems": 1, "maxItems": 100, "items": METRIC},
    },
}
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["_aws"],
    "properties": {
        "_aws": {
            "type": "object",
            "required": ["Timestamp", "CloudWatchMetrics"],
            "properties": {
                "Timestamp": {"type": "integer", "minimum": 0},
                "CloudWatchMetrics": {"type": "array", "minItems": 1, "items": DIRECTIVE},
            },
        }
    },
}


def complaints(line):
    """Everything in which a line is not as the format has it."""
    event = json.loads(line)
    found = [
        f"{'.'.join(map(str, error.path))}: {error.message}" for error in Draft202012Validator(SCHEMA).iter_errors(event)
    ]
    if len(line.encode()) > MAX_EVENT:
        found.append("longer than an event may be")
    if found:
        return found
    for directive in event["_aws"]["CloudWatchMetrics"]:
        for name in {name for names in directive["Dimensions"] for name in names}:
            value = event.get(name)
            if not isinstance(value, str) or not 1 <= len(value) <= 1024:
                found.append(f"dimension {name} is {value!r}")
        for metric in directive["Metrics"]:
            values = event.get(metric["Name"])
            values = values if isinstance(values, list) else [values]
            numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
            if not 1 <= len(values) <= 100 or numbers != values:
                found.append(f"metric {metric['Name']} is {values!r}")
    return found


def last_line(binary, ecs, **variables):
    """That of a sidecar that is stopped as soon as it has started."""
    listen = FreePort()
    environment = {"PRESTOP_METRICS": "emf", "PRESTOP_LISTEN": f"127.0.0.1:{listen.number}", "PRESTOP_WATCH": "none"}
    command = [binary.path, "run"]
    process = subprocess.Popen(command, env=environment | ecs | variables, stdout=subprocess.PIPE, text=True)
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if json.loads(line)["event"] == "start":
                process.terminate()
        process.wait(ENDS_WITHIN_S)
    finally:
        process.kill()
        process.wait()
        listen.close()
    assert lines, process.returncode
    return process.returncode, lines[-1]


@pytest.fixture(scope="module")
def ecs(binary):
    port = FreePort()
    url = f"127.0.0.1:{port.number}"
    process = subprocess.Popen([binary.path, "simulate", "--listen", url], stdout=subprocess.PIPE, text=True)
    try:
        # It says so once it listens.
        assert url in process.stdout.readline()
        yield {"ECS_CONTAINER_METADATA_URI_V4": f"http://{url}/v4/prestop"}
    finally:
        process.kill()
        process.wait()
        port.close()


@pytest.mark.parametrize(
    ("code", "variables"),
    [
        (0, {"PRESTOP_DRAIN": "sleep 10ms", "PRESTOP_SETTLE": "0s"}),
        (3, {"PRESTOP_DRAIN": "ack", "PRESTOP_STOP_TIMEOUT": "2s"}),
        (4, {"PRESTOP_DRAIN": "POST http://127.0.0.1:1/drain", "PRESTOP_STOP_TIMEOUT": "20s"}),
    ],
)
@pytest.mark.parametrize("task", [True, False], ids=["task", "local"])
def test_each_end_of_a_shutdown_is_as_the_specification_has_it(binary, ecs, code, variables, task):
    found, line = last_line(binary, ecs if task else {}, **variables)
    assert found == code, line
    assert complaints(line) == []
    event = json.loads(line)
    assert event["event"] == "exit"
    assert event["NotDrained"] == (0 if code == 0 else 1)
    sets = event["_aws"]["CloudWatchMetrics"][0]["Dimensions"]
    assert (["Cluster", "Family"] in sets) == task


def test_an_end_outside_of_a_shutdown_carries_no_metrics(binary):
    command = [binary.path, "run"]
    environment = {"PRESTOP_METRICS": "emf", "PRESTOP_LISTEN": "127.0.0.1:0", "PRESTOP_RESERVE": "2h"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=ENDS_WITHIN_S, check=False)
    assert ended.returncode == 78
    assert "_aws" not in ended.stdout


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ({"_aws": {"Timestamp": "2026-01-01T00:00:00Z"}}, "is not of type 'integer'"),
        ({"Unit": "Minutes"}, "is not one of"),
        ({"Dimensions": [["Cluster"]]}, "dimension Cluster is None"),
        ({"Name": "Missing"}, "metric Missing is [None]"),
        ({"Name": ""}, "non-empty"),
        ({"Metrics": [{"Name": "A"}] * 101}, "is too long"),
    ],
)
def test_a_line_that_is_not_so_is_found(wrong, part):
    metric = {"Name": "A", "Unit": "Count"} | {name: wrong[name] for name in ("Name", "Unit") if name in wrong}
    directive = {"Namespace": "n", "Dimensions": [["B"]], "Metrics": [metric]}
    directive |= {name: wrong[name] for name in ("Dimensions", "Metrics") if name in wrong}
    aws = {"Timestamp": 1, "CloudWatchMetrics": [directive]} | wrong.get("_aws", {})
    found = complaints(json.dumps({"A": 1, "B": "b", "_aws": aws}))
    assert any(part in complaint for complaint in found), found
