"""Another program reads in SARIF what `ecs-prestop check` says in JSON."""

import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest

from support.definitions import EXAMPLES

SARIF_S = 60

# What is taken out of an example, and what stands there instead: something for each level and each form.
BROKEN = {
    "fargate-web.json": (
        ('"essential": false,', '"essential": true,'),
        ('"dependsOn": [{"containerName": "app", "condition": "START"}],', ""),
        ('"readonlyRootFilesystem": true,', ""),
    ),
    "fargate-spot-web.json": (('"stopTimeout": 25,', '"stopTimeout": 60,'),),
    "cloudformation/fargate-spot.yaml": (
        ('HealthCheckPort: "9911"', 'HealthCheckPort: "8080"'),
        ("ReadonlyRootFilesystem: true", "ReadonlyRootFilesystem: false"),
    ),
}


@pytest.fixture(scope="module")
def findings(binary, tmp_path_factory):
    """What `check` says in JSON, and the rows that sarif-tools makes of its SARIF."""
    folder = tmp_path_factory.mktemp("sarif")
    broken = folder / "with a blank"
    for name, changes in BROKEN.items():
        text = (EXAMPLES / name).read_text()
        for old, new in changes:
            assert old in text, f"{name} has changed"
            text = text.replace(old, new)
        file = broken / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    found = json.loads(binary.run("check", "--pedantic", "--format", "json", broken)[1])["findings"]
    sarif, table = folder / "report.sarif", folder / "report.csv"
    sarif.write_text(binary.run("check", "--pedantic", "--format", "sarif", broken)[1])
    command = [Path(sys.executable).with_name("sarif"), "csv", "--output", table, sarif]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SARIF_S, check=False)
    assert done.returncode == 0, done.stderr
    with table.open(newline="", encoding="utf-8-sig") as rows:
        return found, list(csv.DictReader(rows))


@pytest.mark.parametrize("level", ["error", "warning", "note"])
def test_sarif_tools_counts_what_json_has(findings, level):
    found, read = findings
    count = sum(finding["severity"] == level for finding in found)
    assert count > 0
    assert sum(row["Severity"] == level for row in read) == count


def test_sarif_tools_has_each_finding_at_its_place(findings):
    found, read = findings
    here = Counter((f["rule"], f["severity"], f["message"], f["file"], f["line"]) for f in found)
    # A place in SARIF is a URI, which sarif-tools leaves as it is.
    there = Counter(
        (r["Code"], r["Severity"], r["Description"], unquote(r["Location"]), int(r["Line"])) for r in read
    )
    assert here == there
