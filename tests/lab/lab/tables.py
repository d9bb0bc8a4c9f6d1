"""The rounds as lines and as a table."""

import json
from collections import defaultdict
from pathlib import Path
from statistics import median


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
    methods = [name for name in ("nothing", "sleep", "curl", "ours", "recipe", "closing") if any(key[2] == name for key in grouped)]
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
    void = sum(1 for row in rows if row["void"])
    requests = sum(row["requests"] for row in rows if not row["void"])
    text.append(f"\n{len(rows) - void} rounds, {requests:,} requests; {void} rounds void.")
    return "\n".join(text)


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
