"""The rounds as lines and as a table."""

import json
from collections import defaultdict
from pathlib import Path
from statistics import median

from .matrix import METHODS as ALL_METHODS
from .matrix import TOLD

# In the order in which people read them.
METHODS = tuple(sorted(ALL_METHODS, key=("nothing", "sleep", "curl", "ours", "recipe", "closing").index))


def read(results: Path) -> list[dict]:
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text().splitlines() if line]


def line(row: dict) -> str:
    what = f"{row['server']:18} {row['stop']:13} {row['method']:8} round {row['round']:2}{' retries' if row['retries'] else ''}"
    if row.get("broken"):
        return f"{what}: could not be played: {row['broken'].splitlines()[-1] if row['broken'] else ''}"
    void = f", VOID: {row['void']} before the stop" if row["void"] else ""
    after = row.get("after_last_answer")
    after = f", SIGTERM {after:.1f} s after the last answer" if after is not None else ""
    reasons = ", ".join(f"{count} {why}" for why, count in row.get("lost_by", {}).items())
    return f"{what}: {row['lost']} of {row['requests']} lost{f' ({reasons})' if reasons else ''}{after}{void}"


def markdown(rows: list[dict]) -> str:
    """One row a server and stop, one column a method: lost of how many, in how many rounds."""
    grouped: dict[tuple, list[dict]] = defaultdict(list)
    for row in rows:
        grouped[row["stop"], row["server"], row["method"]].append(row)
    methods = [name for name in METHODS if any(key[2] == name for key in grouped)]
    text = ["| stop | server | " + " | ".join(methods) + " | SIGTERM after |", "|---" * (len(methods) + 3) + "|"]
    for stop, server in sorted({key[:2] for key in grouped}):
        fields = [cell(grouped.get((stop, server, method), [])) for method in methods]
        text.append(f"| {stop} | {server} | " + " | ".join(fields) + f" | {after(grouped.get((stop, server, 'ours'), []))} |")
    text.append("")
    text.append("| stop | " + " | ".join(methods) + " | SIGTERM after |")
    text.append("|---" * (len(methods) + 2) + "|")
    for stop in sorted({key[0] for key in grouped}):
        every = {method: [row for key, group in grouped.items() if key[0] == stop and key[2] == method for row in group]
                 for method in methods}
        text.append(f"| {stop} | " + " | ".join(cell(every[method]) for method in methods) + f" | {after(every.get('ours', []))} |")
    text += ["", *by_retries(rows), ""]
    void = sum(1 for row in rows if row["void"])
    requests = sum(row["requests"] for row in rows if not row["void"])
    lost = sum(row["lost"] for row in rows if not row["void"])
    text.append(f"{len(rows) - void} rounds, {requests:,} requests, {lost:,} lost; {void} rounds void.")
    text += goal(grouped)
    return "\n".join(text)


def by_retries(rows: list[dict]) -> list[str]:
    """Whether a balancer that tries elsewhere makes up for a sidecar."""
    methods = [name for name in METHODS if any(row["method"] == name for row in rows)]
    text = ["| balancer | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]
    for retries, name in ((False, "no retries"), (True, "retries, redispatch")):
        fields = [cell([row for row in rows if row["retries"] == retries and row["method"] == method and row["stop"] in TOLD])
                  for method in methods]
        text.append(f"| {name}, where it is told | " + " | ".join(fields) + " |")
    return text


def goal(grouped: dict[tuple, list[dict]]) -> list[str]:
    """Nothing lost where the balancer is told, and nowhere more than without the sidecar."""
    text = []
    told = 0
    for (stop, server, method), rows in sorted(grouped.items()):
        valid = [row for row in rows if not row["void"]]
        if method != "ours" or not valid:
            continue
        lost = sum(row["lost"] for row in valid)
        told += stop in TOLD
        if stop in TOLD and lost:
            text.append(f"LOST with the default though the balancer is told: {stop}, {server}: {cell(rows)}")
        # Round by round, since every second one has a balancer that tries elsewhere.
        without = {row["round"]: row["lost"] for row in grouped.get((stop, server, "nothing"), []) if not row["void"]}
        pairs = [(row["lost"], without[row["round"]]) for row in valid if row["round"] in without]
        here, there = sum(here for here, _ in pairs), sum(there for _, there in pairs)
        if here > there:
            text.append(f"more lost than with nothing: {stop}, {server}: {here}, with nothing {there}, in the same {len(pairs)} rounds")
    return [f"{told} cells with the default where the balancer is told.", *text]


def cell(rows: list[dict]) -> str:
    valid = [row for row in rows if not row["void"]]
    if not rows:
        return "–"
    if not valid:
        return "void"
    lost, requests = sum(row["lost"] for row in valid), sum(row["requests"] for row in valid)
    return f"{f'**{lost}**' if lost else 0} of {requests} in {len(valid)}"


def after(rows: list[dict]) -> str:
    """From the last answer, or the settle's end if later, to the app's SIGTERM, in the median."""
    times = [row["after_last_answer"] for row in rows if not row["void"] and row.get("after_last_answer") is not None]
    return f"{median(times):.1f} s" if times else "–"
