"""Checks that another program reads in SARIF what `ecs-prestop check` says in JSON."""

import csv
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

from support import EXAMPLES

SARIF_S = 60
LEVELS = ("error", "warning", "note")

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


def check_reports(tally, binary):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        broken = folder / "with a blank"
        for name, changes in BROKEN.items():
            text = (EXAMPLES / name).read_text()
            for old, new in changes:
                if old not in text:
                    raise RuntimeError(f"{name} has changed: no {old}")
                text = text.replace(old, new)
            file = broken / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        found = json.loads(binary.run("check", "--pedantic", "--format", "json", broken)[1])["findings"]
        sarif, table = folder / "report.sarif", folder / "report.csv"
        sarif.write_text(binary.run("check", "--pedantic", "--format", "sarif", broken)[1])
        command = [Path(sys.executable).with_name("sarif"), "csv", "--output", table, sarif]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SARIF_S, check=False)
        if done.returncode != 0:
            return tally.check("SARIF: sarif-tools reads it", done.stderr.strip())
        with table.open(newline="", encoding="utf-8-sig") as rows:
            read = list(csv.DictReader(rows))
    by_level = Counter(finding["severity"] for finding in found)
    read_by_level = Counter(row["Severity"] for row in read)
    counts = ", ".join(f"{by_level[level]} {level}s" for level in LEVELS)
    tally.check(
        f"SARIF: sarif-tools counts what JSON has: {counts}",
        [
            f"{level}: {by_level[level]} in JSON, {read_by_level[level]} read"
            for level in LEVELS
            if not by_level[level] or by_level[level] != read_by_level[level]
        ],
    )
    here = Counter((f["rule"], f["severity"], f["message"], f["file"], f["line"]) for f in found)
    # A place in SARIF is a URI, which sarif-tools leaves as it is.
    there = Counter((r["Code"], r["Severity"], r["Description"], unquote(r["Location"]), int(r["Line"])) for r in read)
    tally.check(
        "SARIF: sarif-tools has each finding at its place",
        [f"only in JSON: {one}" for one in here - there] + [f"only read: {one}" for one in there - here],
    )
